//! `produce`: sends messages, in one of four ways.

use crate::{
    Mode, ProduceArgs, WARM_UP,
    cluster::Cluster,
    latency::Latency,
    process::Moment,
    progress::{Limits, Progress},
    report::{Counts, Report},
    window::{Supply, Window},
};
use anyhow::Context;
use bytes::Bytes;
use rocketmq_producer::{Error, Message, PendingReceipt, Producer};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

pub(crate) async fn run(args: &ProduceArgs) -> anyhow::Result<(Report, Option<String>)> {
    let cluster = Cluster::open(&args.common.name_server).await?;
    let result = run_on(&cluster, args).await;
    cluster.close().await;
    result
}

async fn run_on(cluster: &Cluster, args: &ProduceArgs) -> anyhow::Result<(Report, Option<String>)> {
    let common = &args.common;
    let producer = start(cluster).await?;
    let load = Arc::new(Load {
        producer,
        topic: common.topic.clone(),
        body: body(common.size),
        supply: Supply::new(common.messages),
        ok: AtomicU64::new(0),
        err: AtomicU64::new(0),
        first_error: OnceLock::new(),
        latency: Latency::new()?,
    });
    for _ in 0..WARM_UP {
        load.producer.send(load.message()).await.context("the first messages could not be sent")?;
    }
    let limits = Limits { timeout: common.timeout, idle: None };
    let progress = Progress::new(common.messages);
    let start = Moment::now();
    let end = progress.watch(limits, || load.done(), || {}, load.clone().send_all(args)).await;
    let span = start.until(&Moment::now());
    let counts = load.counts();
    let report = Report::new("rocketmq-rust", args.mode.name(), counts, span);
    let report = report.with_latency(load.latency.quantile_us(0.5), load.latency.quantile_us(0.99));
    if let Some(error) = load.first_error.get() {
        eprintln!("first error: {error}");
    }
    // What is still queued when the time is up is of no interest, and neither is how shutting down goes.
    let _ = load.producer.shutdown().await;
    let failures = (counts.err > 0).then(|| format!("{} messages failed", counts.err));
    Ok((report, end.trouble(limits).or(failures)))
}

/// A producer on `cluster`.
pub(crate) async fn start(cluster: &Cluster) -> anyhow::Result<Producer> {
    let producer = Producer::builder("rocketmq-benchmark").name_servers([cluster.name_server()]);
    producer.start().await.context("cannot start the producer")
}

/// A body that does not compress, so that it travels as it is.
pub(crate) fn body(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// What the callers share.
#[derive(Debug)]
struct Load {
    producer: Producer,
    topic: String,
    body: Bytes,
    supply: Supply,
    ok: AtomicU64,
    err: AtomicU64,
    first_error: OnceLock<String>,
    latency: Latency,
}

impl Load {
    async fn send_all(self: Arc<Self>, args: &ProduceArgs) {
        let mut callers = JoinSet::new();
        match args.mode {
            Mode::Sync => (0..args.concurrency).for_each(|_| _ = callers.spawn(self.clone().send())),
            Mode::Async => _ = callers.spawn(self.clone().send_async(args.concurrency)),
            Mode::Oneway => (0..args.concurrency).for_each(|_| _ = callers.spawn(self.clone().send_oneway())),
            Mode::Batch => (0..args.concurrency).for_each(|_| _ = callers.spawn(self.clone().send_batches(args.batch))),
        }
        while let Some(caller) = callers.join_next().await {
            if let Err(error) = caller {
                self.note(1, Duration::ZERO, Err(format!("a caller ended early: {error}")));
            }
        }
        if args.mode == Mode::Oneway {
            // What is queued gets written: only then has it been sent.
            if let Err(error) = self.producer.shutdown().await {
                self.note(1, Duration::ZERO, Err(chain(&error)));
            }
        }
    }

    async fn send(self: Arc<Self>) {
        while self.supply.take(1).is_some() {
            let (message, began) = (self.message(), Instant::now());
            let sent = self.producer.send(message).await;
            self.note_sent(1, began, sent);
        }
    }

    async fn send_oneway(self: Arc<Self>) {
        while self.supply.take(1).is_some() {
            let (message, began) = (self.message(), Instant::now());
            let sent = self.producer.send_oneway(message).await;
            self.note_sent(1, began, sent);
        }
    }

    async fn send_batches(self: Arc<Self>, batch: usize) {
        while let Some(count) = self.supply.take(u64::try_from(batch).unwrap_or(u64::MAX)) {
            let (messages, began) = ((0..count).map(|_| self.message()).collect(), Instant::now());
            let sent = self.producer.send_batch(messages).await;
            self.note_sent(count, began, sent);
        }
    }

    /// Awaits the oldest receipt first: the others, ready or not, cost nothing while it is not.
    async fn send_async(self: Arc<Self>, in_flight: usize) {
        let mut window = Window::new(in_flight);
        while self.supply.take(1).is_some() {
            let (message, began) = (self.message(), Instant::now());
            match self.producer.send_async(message).await {
                Ok(receipt) => {
                    if let Some(oldest) = window.push((began, receipt)) {
                        self.receive(oldest).await;
                    }
                }
                Err(error) => self.note_sent::<()>(1, began, Err(error)),
            }
        }
        while let Some(oldest) = window.pop() {
            self.receive(oldest).await;
        }
    }

    async fn receive(&self, (began, receipt): (Instant, PendingReceipt)) {
        let sent = receipt.await;
        self.note_sent(1, began, sent);
    }

    fn message(&self) -> Message {
        Message::new(self.topic.as_str(), self.body.clone())
    }

    fn note_sent<T>(&self, messages: u64, began: Instant, sent: Result<T, Error>) {
        let took = began.elapsed();
        self.note(messages, took, sent.map(|_| ()).map_err(|error| chain(&error)));
    }

    fn note(&self, messages: u64, took: Duration, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.ok.fetch_add(messages, Ordering::Relaxed);
                self.latency.record(took);
            }
            Err(error) => {
                self.err.fetch_add(messages, Ordering::Relaxed);
                self.first_error.get_or_init(|| error);
            }
        }
    }

    fn done(&self) -> u64 {
        self.counts().measured
    }

    fn counts(&self) -> Counts {
        let (ok, err) = (self.ok.load(Ordering::Relaxed), self.err.load(Ordering::Relaxed));
        Counts { ok, err, measured: ok + err }
    }
}

/// An error and all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_asked_for_and_varied() {
        let body = body(4096);
        assert_eq!(body.len(), 4096);
        let kinds: std::collections::HashSet<_> = body.iter().collect();
        assert!(kinds.len() > 200, "{} different bytes", kinds.len());
    }
}
