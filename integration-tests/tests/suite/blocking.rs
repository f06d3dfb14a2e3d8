//! Listeners that block their thread: plain functions on threads of their own, and async ones that should not.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{
    Error, Filter, Outcome, PushConfig, PushConsumer, PushConsumerBuilder, StartAt, StoredMessage,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::spawn_blocking,
    time::{Instant, timeout},
};

/// Blocks threads until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.0.1.notify_all();
    }

    /// Whether it was open in time.
    fn wait(&self, limit: Duration) -> bool {
        let is_open = self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = self.0.1.wait_timeout_while(is_open, limit, |is_open| !*is_open);
        *waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    /// As a blocking call with an outcome.
    fn pass(&self) -> Result<(), &'static str> {
        if self.wait(4 * SOON) { Ok(()) } else { Err("the gate stayed closed") }
    }
}

fn config() -> PushConfig {
    PushConfig { start_at: StartAt::First, ..Default::default() }
}

async fn send(cluster: &Cluster, topic: &str, count: usize) -> Result<()> {
    let producer = cluster.producer().await?;
    for number in 0..count {
        producer.send(Message::new(topic, number.to_string())).await?;
    }
    Ok(producer.shutdown().await?)
}

/// A runtime that may be dropped wherever a scenario ends.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts a consumer in a runtime of its own, with so many threads.
async fn start_in(threads: usize, builder: PushConsumerBuilder) -> Result<(OwnRuntime, PushConsumer)> {
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let starting = runtime.spawn(builder.start());
    let runtime = OwnRuntime(Some(runtime));
    Ok((runtime, starting.await??))
}

async fn until(count: &AtomicUsize, least: usize) -> Result<()> {
    eventually(SOON, async || {
        let now = count.load(Ordering::SeqCst);
        ensure!(now >= least, "{now} calls, expected {least}");
        Ok(())
    })
    .await
}

pub(crate) async fn offsets_are_committed_while_an_async_listener_blocks(cluster: &Cluster) -> Result<()> {
    let (topic, group, gate) = (cluster.topic(1).await?, random_name("group"), Gate::default());
    send(cluster, &topic, 40).await?;
    let (calls, at_the_gate) = (AtomicUsize::new(0), gate.clone());
    let listener = move |_: StoredMessage| {
        // Calls that are slow at first, and then block every thread until an offset has been committed.
        let is_slow = calls.fetch_add(1, Ordering::SeqCst) < 20;
        let passed = if is_slow { Ok(_ = at_the_gate.wait(Duration::from_millis(110))) } else { at_the_gate.pass() };
        async move { passed }
    };
    let builder = cluster.consumer(&group).config(config()).subscribe(&topic, Filter::all()).listener(listener);
    let (_runtime, consumer) = start_in(1, builder).await?;
    let committed = eventually(SOON, async || {
        ensure!(cluster.recorded(&group, &topic).await? > 0, "no offset is committed while calls block");
        Ok(())
    });
    let committed = committed.await;
    gate.open();
    committed?;
    cluster.expect_recorded(&group, &topic, 40).await?;
    consumer.shutdown().await?;
    Ok(())
}

pub(crate) async fn a_blocking_listener_leaves_the_runtime_to_others(cluster: &Cluster) -> Result<()> {
    let (topic, group, gate) = (cluster.topic(1).await?, random_name("group"), Gate::default());
    send(cluster, &topic, 30).await?;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak, at_the_gate) = (running.clone(), most.clone(), gate.clone());
    let listener = move |message: StoredMessage| {
        if message.queue_offset() == 0 {
            return Ok(());
        }
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let passed = at_the_gate.pass();
        now.fetch_sub(1, Ordering::SeqCst);
        passed
    };
    let builder = cluster.consumer(&group).config(PushConfig { concurrency: 5, ..config() });
    let builder = builder.subscribe(&topic, Filter::all()).blocking_listener(listener);
    let (_runtime, consumer) = start_in(1, builder).await?;
    until(&running, 5).await?;
    // The only thread of the runtime commits that.
    cluster.expect_recorded(&group, &topic, 1).await?;
    gate.open();
    cluster.expect_recorded(&group, &topic, 30).await?;
    let most = most.load(Ordering::SeqCst);
    ensure!(most == 5, "{most} calls ran at once");
    consumer.shutdown().await?;
    Ok(())
}

pub(crate) async fn ordered_blocking_listeners_keep_order_and_retry(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    send(cluster, &topic, 60).await?;
    let kept = inbox.clone();
    let config = PushConfig { consume_batch: 8, suspend_time: Duration::from_millis(20), ..config() };
    let largest = Arc::new(AtomicUsize::new(0));
    let (size, has_failed) = (largest.clone(), AtomicUsize::new(0));
    let listener = move |messages: Vec<StoredMessage>| {
        size.fetch_max(messages.len(), Ordering::SeqCst);
        if has_failed.fetch_add(1, Ordering::SeqCst) == 0 {
            return Outcome::failed("not yet");
        }
        messages.into_iter().for_each(|message| kept.keep(message));
        Outcome::done()
    };
    let builder = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = builder.ordered_blocking_batch_listener(listener).start().await?;
    inbox.has(60, SOON).await?;
    inbox.expect_no_repetition()?;
    ensure!(largest.load(Ordering::SeqCst) > 1, "each call got one message");
    let mut by_queue: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for message in inbox.messages() {
        by_queue.entry(message.queue_id()).or_default().push(message.queue_offset());
    }
    for (queue_id, offsets) in by_queue {
        ensure!(offsets.is_sorted(), "queue {queue_id} came as {offsets:?}");
    }
    cluster.expect_recorded(&group, &topic, 60).await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_shutdown_ends_before_a_blocking_call_does(cluster: &Cluster) -> Result<()> {
    let (topic, group, gate) = (cluster.topic(1).await?, random_name("group"), Gate::default());
    send(cluster, &topic, 1).await?;
    let (begun, at_the_gate) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let counted = begun.clone();
    let config = PushConfig { shutdown_timeout: Duration::from_millis(500), ..config() };
    let builder = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let builder = builder.ordered_blocking_listener(move |_: StoredMessage| {
        counted.fetch_add(1, Ordering::SeqCst);
        at_the_gate.pass()
    });
    let (mut runtime, consumer) = start_in(2, builder).await?;
    until(&begun, 1).await?;
    let began = Instant::now();
    match consumer.shutdown().await {
        Err(Error::Unfinished { messages: 1, queues: 0, .. }) => {}
        other => bail!("shutting down came to {other:?}, expected one unfinished message"),
    }
    ensure!(began.elapsed() < Duration::from_secs(10), "shutting down took {:?}", began.elapsed());
    // No thread of the runtime runs the call.
    timeout(SOON, spawn_blocking(move || drop(runtime.0.take()))).await.context("the runtime does not end")??;
    cluster.at("the lock of its queue");
    let client = cluster.client().await?;
    let queues = cluster.queues(&topic).await?;
    client.route(&topic.as_str().into()).await?;
    let (locked, _) = client.lock_queues(&group, &queues[0].broker_name, &queues).await?;
    ensure!(locked.is_empty(), "the queue is locked for another member while its call is under way");
    gate.open();
    client.shutdown(rocketmq_common::remote::Deadline::after(SOON)).await;
    Ok(())
}

pub(crate) async fn nothing_is_begun_after_a_shutdown_though_calls_block(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    send(cluster, &topic, 200).await?;
    let (begun, never) = (Arc::new(AtomicUsize::new(0)), Gate::default());
    let counted = begun.clone();
    let listener = move |_: StoredMessage| {
        counted.fetch_add(1, Ordering::SeqCst);
        never.wait(Duration::from_millis(20));
        async { Ok::<_, String>(()) }
    };
    let builder = cluster.consumer(&group).config(config()).subscribe(&topic, Filter::all()).listener(listener);
    let (_runtime, consumer) = start_in(2, builder).await?;
    until(&begun, 10).await?;
    let before = begun.load(Ordering::SeqCst);
    consumer.shutdown().await?;
    let after = begun.load(Ordering::SeqCst);
    // One for each worker that had taken its message.
    ensure!(after - before <= 25, "{} calls began during the shutdown", after - before);
    cluster.expect_recorded(&group, &topic, after).await?;
    Ok(())
}
