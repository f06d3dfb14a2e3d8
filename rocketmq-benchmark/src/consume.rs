//! `consume`: takes what is in a topic, by a consumer group of its own.

use crate::{
    ConsumeArgs, WARM_UP,
    cluster::Cluster,
    process::{Moment, Span},
    produce,
    progress::{End, Limits, Progress},
    report::{Counts, Report},
};
use anyhow::Context;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_producer::Message;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::Notify, task::JoinSet, time::timeout};

pub(crate) async fn run(args: &ConsumeArgs) -> anyhow::Result<(Report, Option<String>)> {
    let cluster = Cluster::open(&args.common.name_server).await?;
    if cluster.is_embedded() {
        let filled = timeout(args.common.timeout, fill(&cluster, args)).await;
        filled.context("the time was up before there was anything to consume")?.context(NOT_FILLED)?;
    }
    let result = consume(&cluster, args).await;
    cluster.close().await;
    result
}

async fn consume(cluster: &Cluster, args: &ConsumeArgs) -> anyhow::Result<(Report, Option<String>)> {
    let common = &args.common;
    let tally = Arc::new(Tally::new(common.messages));
    let listening = tally.clone();
    let consumer = PushConsumer::builder(fresh_group())
        .name_servers([cluster.name_server()])
        .subscribe(&common.topic, Filter::all())
        .config(PushConfig { concurrency: args.concurrency, start_at: StartAt::First, ..Default::default() })
        .listener(move |_: StoredMessage| listening.consumed())
        .start();
    let consumer = consumer.await.context("cannot start the consumer")?;
    let limits = Limits { timeout: common.timeout, idle: Some(IDLE) };
    let progress = Progress::new(common.messages);
    let all = tally.all.notified();
    let end = progress.watch(limits, || tally.count(), || tally.note_progress(), all).await;
    let (counts, span) = tally.result(end);
    let report = Report::new("rocketmq-rust", "consume", counts, span);
    let shutdown = consumer.shutdown().await;
    let trouble = end.trouble(limits).or_else(|| shutdown.err().map(|error| error.to_string()));
    Ok((report, trouble))
}

/// Sends what is to be consumed.
async fn fill(cluster: &Cluster, args: &ConsumeArgs) -> anyhow::Result<()> {
    let producer = produce::start(cluster).await?;
    let body = produce::body(args.common.size);
    let message = |_| Message::new(args.common.topic.as_str(), body.clone());
    let batch = (FILL_BYTES / args.common.size).clamp(1, FILL_MESSAGES);
    let mut sending = JoinSet::new();
    let mut left = args.common.messages;
    while left > 0 {
        let count = left.min(u64::try_from(batch).unwrap_or(u64::MAX));
        let (producer, messages) = (producer.clone(), (0..count).map(message).collect());
        sending.spawn(async move { producer.send_batch(messages).await });
        if sending.len() >= FILL_AT_ONCE {
            sending.join_next().await.transpose()?.transpose()?;
        }
        left -= count;
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    producer.shutdown().await?;
    Ok(())
}

/// A name no group has had before.
pub(crate) fn fresh_group() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("rocketmq-benchmark-{}-{}", now.as_millis(), std::process::id())
}

/// Counts messages; the span begins after the warm-up and ends with the last one, on the listener's side.
#[derive(Debug)]
struct Tally {
    wanted: u64,
    warm_up: u64,
    count: AtomicU64,
    moments: Mutex<Moments>,
    all: Notify,
}

#[derive(Debug)]
struct Moments {
    start: Moment,
    /// The last one, or the last look at which there was progress.
    end: (Moment, u64),
}

impl Tally {
    fn new(wanted: u64) -> Self {
        let now = Moment::now();
        Self {
            wanted,
            warm_up: WARM_UP.min(wanted / 2),
            count: AtomicU64::new(0),
            moments: Mutex::new(Moments { start: now, end: (now, 0) }),
            all: Notify::new(),
        }
    }

    /// The listener: as little as can be.
    fn consumed(&self) -> Ready<Result<(), Infallible>> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count == self.warm_up {
            self.moments().start = Moment::now();
        }
        if count == self.wanted {
            self.moments().end = (Moment::now(), count);
            self.all.notify_one();
        }
        ready(Ok(()))
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed).min(self.wanted)
    }

    fn note_progress(&self) {
        let count = self.count();
        if count < self.wanted {
            self.moments().end = (Moment::now(), count);
        }
    }

    fn result(&self, end: End) -> (Counts, Span) {
        // Without its last message a run ends where it last made progress, not where it was given up.
        if matches!(end, End::TimedOut | End::Interrupted) {
            self.note_progress();
        }
        let moments = self.moments();
        let (end, ok) = moments.end;
        (Counts { ok, err: 0, measured: ok.saturating_sub(self.warm_up) }, moments.start.until(&end))
    }

    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How long to wait for the first message, or the next one.
const IDLE: Duration = Duration::from_secs(30);
const NOT_FILLED: &str = "the messages to consume could not be sent";
const FILL_BYTES: usize = 256 * 1024;
const FILL_MESSAGES: usize = 500;
const FILL_AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_is_consumed_and_not_measured() {
        let tally = Tally::new(100);
        (0..103).for_each(|_| _ = tally.consumed());
        let (counts, _) = tally.result(End::Done);
        assert_eq!((counts.ok, counts.measured, tally.count()), (100, 80, 100));
    }

    #[test]
    fn of_few_messages_half_are_measured() {
        let tally = Tally::new(2);
        (0..2).for_each(|_| _ = tally.consumed());
        assert_eq!(tally.result(End::Done).0.measured, 1);
        let tally = Tally::new(1);
        _ = tally.consumed();
        assert_eq!(tally.result(End::Done).0.measured, 1);
    }

    #[test]
    fn a_run_that_came_to_a_halt_ends_with_its_last_progress() {
        let tally = Tally::new(100);
        (0..40).for_each(|_| _ = tally.consumed());
        tally.note_progress();
        let (counts, span) = tally.result(End::Idle);
        assert_eq!((counts.ok, counts.measured), (40, 20));
        assert!(span.wall < Duration::from_secs(5));
    }

    #[test]
    fn groups_are_named_as_brokers_like_it() {
        let group = fresh_group();
        assert!(group.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{group}");
    }
}
