//! Messages taken from a stream and settled one by one.

use crate::{
    cluster::{Cluster, random_name},
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{
    Message,
    message::names::{dlq_topic, retry_topic},
};
use rocketmq_consumer::{Delivery, Error, Filter, MessageStream, PushConfig, StartAt};
use std::{collections::BTreeSet, pin::pin, time::Duration};
use tokio::time::{sleep, timeout};

/// What the broker puts off for the first time comes again after 10 s from a real one.
const FIRST_DELAY: Duration = Duration::from_secs(40);
/// Longer than the shortest delay.
const A_WHILE: Duration = Duration::from_secs(3);

fn first() -> PushConfig {
    PushConfig { start_at: StartAt::First, ..Default::default() }
}

async fn next(stream: &mut MessageStream, limit: Duration) -> Result<Delivery> {
    timeout(limit, stream.next()).await.context("nothing comes")?.context("the stream has ended")
}

pub(crate) async fn a_stream_brings_every_message_once(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(8, &producer, 500, move |index| varied(&of_topic, index)).await?;
    let mut stream = cluster.consumer(&group).subscribe(&topic, Filter::all()).stream().await?;
    let mut came = BTreeSet::new();
    while came.len() < sent.len() {
        let message = next(&mut stream, SOON).await?;
        ensure!(came.insert(message.message_id().into_owned()), "{} came twice", message.message_id());
        message.ack();
    }
    ensure!(came.iter().eq(sent.keys()), "not what was sent came");
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    let consumer = stream.consumer().clone();
    consumer.shutdown().await?;
    ensure!(stream.next().await.is_none(), "the stream goes on after the end");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_is_not_acknowledged_comes_again(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let mut ids = Vec::new();
    for tag in ["acked", "nacked", "dropped", "hopeless"] {
        ids.push(producer.send(Message::new(&topic, tag).tag(tag)).await?.message_id);
    }
    let mut stream = cluster.consumer(&group).subscribe(&topic, Filter::all()).stream().await?;
    let mut first = Vec::new();
    for _ in 0..4 {
        let message = next(&mut stream, SOON).await?;
        first.push((message.message_id().into_owned(), message.reconsume_times()));
        match message.tag() {
            Some("acked") => message.ack(),
            Some("nacked") => message.nack_with_level(1),
            Some("hopeless") => message.dead_letter(),
            // On a thread that knows no runtime.
            _ => {
                std::thread::spawn(move || drop(message)).join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
            }
        }
    }
    ensure!(first.iter().map(|(id, _)| id).eq(&ids), "{first:?} came first");
    let mut again = BTreeSet::new();
    for _ in 0..2 {
        let message = next(&mut stream, FIRST_DELAY).await?;
        ensure!(message.topic() == topic, "it came again as of topic {}", message.topic());
        again.insert((message.message_id().into_owned(), message.reconsume_times()));
        message.ack();
    }
    ensure!(again == BTreeSet::from([(ids[1].clone(), 1), (ids[2].clone(), 1)]), "{again:?} came again");
    let dead: Vec<_> = cluster.stored(&dlq_topic(&group)).await?;
    ensure!(dead.len() == 1 && dead[0].message_id() == ids[3], "the dead letters are {dead:?}");
    stream.consumer().shutdown().await?;
    cluster.expect_recorded(&group, &topic, 4).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_suspended_stream_goes_on_when_it_is_resumed(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let mut stream = cluster.consumer(&group).config(first()).subscribe(&topic, Filter::all()).stream().await?;
    let nothing = async |stream: &mut MessageStream| {
        let next = timeout(Duration::from_millis(200), stream.next()).await;
        ensure!(next.is_err(), "{next:?} came");
        Ok(())
    };
    nothing(&mut stream).await?;
    let id = producer.send(Message::new(&topic, "waits")).await?.message_id;
    // It is here, and whoever waits for it has been told.
    let consumer = stream.consumer().clone();
    eventually(SOON, async || {
        let statistics = consumer.statistics();
        let of_topic = statistics.topics.get(&topic).context("no statistics")?;
        ensure!(of_topic.pulled == 1, "{} messages are fetched", of_topic.pulled);
        Ok(())
    })
    .await?;
    consumer.suspend();
    nothing(&mut stream).await?;
    consumer.resume();
    let message = next(&mut stream, SOON).await?;
    ensure!(message.message_id() == id, "{message:?} came");
    message.ack();
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn who_acknowledges_nothing_gets_no_more(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 100, move |index| varied(&of_topic, index)).await?;
    let config =
        PushConfig { max_messages_per_queue: 20, pull_batch: 10, shutdown_timeout: Duration::from_secs(1), ..first() };
    let mut stream = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all()).stream().await?;
    let mut kept = Vec::new();
    while let Ok(message) = next(&mut stream, Duration::from_secs(3)).await {
        kept.push(message);
    }
    ensure!(kept.len() == 20, "{} messages came without an acknowledgement", kept.len());
    kept.drain(..10).for_each(Delivery::ack);
    for _ in 0..10 {
        kept.push(next(&mut stream, SOON).await?);
    }
    ensure!(timeout(Duration::from_secs(2), stream.next()).await.is_err(), "more came than there is room for");
    let began = std::time::Instant::now();
    match stream.consumer().shutdown().await {
        Err(Error::Unfinished { messages: 20, queues: 0, .. }) => {}
        other => anyhow::bail!("shutting down came to {other:?}, expected 20 unfinished messages"),
    }
    ensure!(began.elapsed() < Duration::from_secs(10), "shutting down took {:?}", began.elapsed());
    drop(kept);
    drop(stream);
    // All but the first ten come again.
    let mut stream = cluster.consumer(&group).subscribe(&topic, Filter::all()).stream().await?;
    let mut came = BTreeSet::new();
    while came.len() < 90 {
        let message = next(&mut stream, SOON).await?;
        ensure!(message.queue_offset() >= 10, "{} came again", message.queue_offset());
        came.insert(message.message_id().into_owned());
        message.ack();
    }
    stream.consumer().shutdown().await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_the_next_owner_gets_is_not_given_back_as_well(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let config = PushConfig { revoke_timeout: Duration::from_millis(100), ..first() };
    let builder = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let mut stream = builder.stream().await?;
    producer.send(Message::new(&topic, "body")).await?;
    let late = next(&mut stream, SOON).await?;
    // The queue is given up, and taken once more.
    stream.consumer().subscribe(&topic, Filter::all()).await?;
    next(&mut stream, SOON).await?.ack();
    cluster.expect_recorded(&group, &topic, 1).await?;
    late.nack_with_level(1);
    // That nothing comes shows only in time.
    sleep(A_WHILE).await;
    let given_back = cluster.stored(&retry_topic(&group)).await?;
    ensure!(given_back.is_empty(), "what is done was given back: {given_back:?}");
    stream.consumer().shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_is_refused_while_its_queue_goes_is_given_back(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let config = PushConfig { revoke_timeout: SOON, ..first() };
    let mut stream = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all()).stream().await?;
    for body in ["refused", "done"] {
        producer.send(Message::new(&topic, body)).await?;
    }
    let (refused, done) = (next(&mut stream, SOON).await?, next(&mut stream, SOON).await?);
    let consumer = stream.consumer().clone();
    // The queue is given up, which waits for these two, and taken once more.
    let mut change = pin!(consumer.subscribe(&topic, Filter::all()));
    ensure!(timeout(Duration::from_millis(500), &mut change).await.is_err(), "it did not wait");
    let id = refused.message_id().into_owned();
    refused.nack_with_level(1);
    done.ack();
    change.await?;
    // Of the one that was done nothing comes, of the other one what was given back.
    let again = next(&mut stream, FIRST_DELAY).await?;
    ensure!(again.message_id() == id && again.reconsume_times() == 1, "{again:?} came");
    again.ack();
    cluster.expect_recorded(&group, &topic, 2).await?;
    stream.consumer().shutdown().await?;
    Ok(producer.shutdown().await?)
}
