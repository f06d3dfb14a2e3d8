//! Consumers that are used from where they were not started: other runtimes, which end, and no runtime at all.

use crate::{
    cluster::{Cluster, random_name},
    control::dropped_half_way,
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, anyhow, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Error, Filter, PullConfig, PullConsumer, PushConfig, StartAt, StoredMessage};
use rocketmq_producer::{Producer, Select};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};

fn first() -> PushConfig {
    PushConfig { start_at: StartAt::First, ..Default::default() }
}

/// Awaits something in a runtime that ends with it.
async fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let end = move || anyhow::Ok(one_thread()?.block_on(work));
    thread_of(end).await?
}

fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Does something on a thread that knows no runtime.
async fn thread_of<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let ended = spawn_blocking(move || thread::spawn(work).join()).await?;
    ended.map_err(|_| anyhow!("the thread panicked"))
}

pub(crate) async fn more_calls_may_be_wanted_from_anywhere(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let (running, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, at_the_gate) = (running.clone(), gate.clone());
    let listener = move |_: StoredMessage| {
        let (running, gate) = (counted.clone(), at_the_gate.clone());
        async move {
            running.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string())
        }
    };
    let builder = cluster.consumer(&group).config(PushConfig { concurrency: 1, ..first() });
    let consumer = builder.subscribe(&topic, Filter::all()).listener(listener).start().await?;
    let producer = cluster.producer().await?;
    for number in 0..3 {
        producer.send(Message::new(&topic, format!("{number}"))).await?;
    }
    let run = async |count: usize| {
        eventually(SOON, async || {
            let now = running.load(Ordering::SeqCst);
            ensure!(now == count, "{now} calls run at once, expected {count}");
            Ok(())
        })
        .await
    };
    run(1).await?;
    cluster.at("from another runtime");
    let other = consumer.clone();
    elsewhere(async move { other.set_concurrency(2) }).await??;
    run(2).await?;
    cluster.at("from no runtime");
    let other = consumer.clone();
    thread_of(move || other.set_concurrency(3)).await??;
    run(3).await?;
    cluster.at("a shutdown begun in a runtime that ends");
    let other = consumer.clone();
    elsewhere(async move { dropped_half_way(other.shutdown()).await }).await??;
    gate.add_permits(3);
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 3).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn queues_assigned_in_a_runtime_that_ends_are_fetched_from(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    let config = PullConfig { start_at: StartAt::First, ..Default::default() };
    let builder = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let puller = builder.assign([queues[0].clone()]).start().await?;
    let (other, queue) = (puller.clone(), queues[1].clone());
    elsewhere(async move { other.assign([queue]).await }).await??;
    let id = producer.send_to(Select::queue(&queues[1]), Message::new(&topic, "body")).await?.message_id;
    let polled = puller.poll(SOON).await?;
    ensure!(polled.len() == 1 && polled[0].message_id() == id, "{polled:?} polled");
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_topic_left_in_a_runtime_that_ends_may_come_back(cluster: &Cluster) -> Result<()> {
    let (one, other, group, inbox) =
        (cluster.topic(1).await?, cluster.topic(1).await?, random_name("group"), Inbox::new());
    let (gate, kept) = (Arc::new(Semaphore::new(0)), inbox.clone());
    let at_the_gate = gate.clone();
    let listener = move |message: StoredMessage| {
        kept.keep(message);
        let gate = at_the_gate.clone();
        async move { gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string()) }
    };
    let config = PushConfig { revoke_timeout: Duration::from_millis(100), ..first() };
    let builder = cluster.consumer(&group).config(config).subscribe(&one, Filter::all());
    let consumer = builder.subscribe(&other, Filter::all()).ordered_listener(listener).start().await?;
    let producer = cluster.producer().await?;
    let first = producer.send(Message::new(&one, "first")).await?.message_id;
    inbox.has(1, SOON).await?;
    // The call goes on, and its queue stays until it has ended.
    let (leaving, topic) = (consumer.clone(), one.clone());
    elsewhere(async move { leaving.unsubscribe(&topic).await }).await??;
    gate.add_permits(2);
    consumer.subscribe(&one, Filter::all()).await?;
    let second = producer.send(Message::new(&one, "second")).await?.message_id;
    inbox.has_each_once([&first, &second], SOON).await?;
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &one, 2).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn connections_of_a_runtime_that_ends_are_replaced(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let client = cluster.client().await?;
    let producer = Producer::builder(random_name("group")).client(client.clone()).start().await?;
    // Opened there: as with a function that blocks and has a runtime of its own each time.
    let mut sent = BTreeSet::new();
    let mut send = async |producer: &Producer| {
        let (producer, message) = (producer.clone(), Message::new(&topic, format!("{}", sent.len())));
        sent.insert(elsewhere(async move { producer.send(message).await }).await??.message_id);
        anyhow::Ok(())
    };
    send(&producer).await?;
    let consumer = cluster.consumer(&group).client(client.clone()).config(first()).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    for _ in 0..5 {
        send(&producer).await?;
    }
    sent.insert(producer.send(Message::new(&topic, "last")).await?.message_id);
    inbox.has_each_once(&sent, SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_consumer_whose_runtime_has_ended_says_so(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let pulled = PullConsumer::builder(random_name("group")).name_servers([cluster.name_server()]);
    let (pulled, pushed) = (pulled.subscribe(&topic, Filter::all()), cluster.consumer(&random_name("group")));
    let streamed = pushed.subscribe(&topic, Filter::all());
    let start = async move { Ok::<_, Error>((pulled.start().await?, streamed.stream().await?)) };
    let (puller, mut stream) = elsewhere(start).await??;
    let polled = timeout(SOON, puller.poll(SOON)).await.context("the poll does not end")?;
    ensure!(matches!(polled, Err(Error::ShutDown)), "the poll came to {polled:?}");
    let next = timeout(SOON, stream.next()).await.context("the stream waits")?;
    ensure!(next.is_none(), "{next:?} comes");
    let consumer = stream.consumer();
    consumer.set_concurrency(3)?;
    let subscribed = consumer.subscribe("another", Filter::all()).await;
    ensure!(matches!(subscribed, Err(Error::ShutDown)), "subscribed: {subscribed:?}");
    for shut_down in [puller.shutdown().await, consumer.shutdown().await] {
        ensure!(matches!(shut_down, Err(Error::ShutDown)), "shutting down came to {shut_down:?}");
    }
    Ok(())
}
