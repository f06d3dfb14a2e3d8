//! How much a consumer fetches ahead of a listener that does not keep up.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::body,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Filter, PullConfig, PullConsumer, PushConfig, StartAt, StoredMessage};
use rocketmq_producer::{Compression, ProducerConfig};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::sleep};

const PULL_BATCH: u64 = 10;

/// What may be fetched.
struct Bound {
    queues: i32,
    /// A queue is asked for more as long as it has less.
    messages_per_queue: u64,
}

/// Lets the listener begin only what `blocks` does not name, sees that no more is fetched than there is room for, then
/// opens the gate: the rest is consumed, each message once.
async fn fetching_stops_at(
    cluster: &Cluster,
    bound: Bound,
    config: PushConfig,
    size: usize,
    blocks: impl Fn(&StoredMessage) -> bool + Send + Sync + 'static,
) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(bound.queues).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 500, move |index| Message::new(&of_topic, body(index, size))).await?;
    let (kept, gate) = (inbox.clone(), Arc::new(Semaphore::new(0)));
    let (at_the_gate, blocks) = (gate.clone(), Arc::new(blocks));
    let consumer = cluster
        .consumer(&group)
        .config(PushConfig { start_at: StartAt::First, pull_batch: 10, ..config })
        .subscribe(&topic, Filter::all())
        .listener(move |message: StoredMessage| {
            let (kept, gate, blocks) = (kept.clone(), at_the_gate.clone(), blocks.clone());
            async move {
                if blocks(&message) {
                    gate.acquire().await.map_err(|error| error.to_string())?.forget();
                }
                kept.keep(message);
                Ok::<_, String>(())
            }
        })
        .start()
        .await?;
    let pulled = || consumer.statistics().topics.get(&topic).map(|topic| topic.pulled).context("no statistics");
    let queues = u64::try_from(bound.queues)?;
    let least = queues * bound.messages_per_queue;
    // What a pull that began within the bound may bring beyond it.
    let most = least + queues * (PULL_BATCH - 1);
    cluster.at("there is room");
    eventually(SOON, async || {
        let pulled = pulled()?;
        ensure!(pulled >= least, "{pulled} messages are fetched, expected {least}");
        Ok(())
    })
    .await?;
    cluster.at("there is none");
    // That no more is fetched shows only in time.
    sleep(Duration::from_secs(1)).await;
    let pulled = pulled()?;
    ensure!(pulled <= most, "{pulled} messages are fetched, expected at most {most}");
    cluster.at("there is again");
    gate.add_permits(sent.len());
    inbox.has_each_once(sent.keys(), SOON).await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn fetching_stops_at_the_limit_of_messages(cluster: &Cluster) -> Result<()> {
    let config = PushConfig { max_messages_per_queue: 50, ..Default::default() };
    fetching_stops_at(cluster, Bound { queues: 1, messages_per_queue: 50 }, config, 1, |_| true).await
}

pub(crate) async fn fetching_stops_at_the_limit_of_bytes(cluster: &Cluster) -> Result<()> {
    let config = PushConfig { max_bytes_per_queue: 100_000, ..Default::default() };
    fetching_stops_at(cluster, Bound { queues: 1, messages_per_queue: 25 }, config, 4000, |_| true).await
}

pub(crate) async fn fetching_stops_at_the_limit_of_span(cluster: &Cluster) -> Result<()> {
    // One slow message; all the others are done.
    let config = PushConfig { max_span_per_queue: 100, ..Default::default() };
    let first = |message: &StoredMessage| message.queue_offset() == 0;
    fetching_stops_at(cluster, Bound { queues: 1, messages_per_queue: 101 }, config, 1, first).await
}

pub(crate) async fn the_queues_of_a_topic_share_its_limit(cluster: &Cluster) -> Result<()> {
    let config = PushConfig { max_messages_per_topic: Some(80), ..Default::default() };
    fetching_stops_at(cluster, Bound { queues: 4, messages_per_queue: 20 }, config, 1, |_| true).await
}

pub(crate) async fn compressed_bodies_are_decompressed_as_far_as_there_is_room(cluster: &Cluster) -> Result<()> {
    const COUNT: usize = 24;
    const BODY: usize = 1 << 20;
    const ROOM: usize = 4 * BODY;
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let config = ProducerConfig { compression: Some(Compression::Zlib), ..ProducerConfig::default() };
    let producer = cluster.producer_with(config).await?;
    for index in 0..COUNT {
        producer.send(Message::new(&topic, vec![u8::try_from(index)?; BODY])).await?;
    }
    cluster.at("polling");
    let config = PullConfig { start_at: StartAt::First, max_bytes_per_queue: ROOM, ..PullConfig::default() };
    let puller = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let puller = puller.subscribe(&topic, Filter::all()).start().await?;
    let mut came = Vec::new();
    eventually(SOON, async || {
        let polled = puller.poll(Duration::from_millis(300)).await?;
        let bytes: usize = polled.iter().map(|message| message.body().len()).sum();
        came.extend(polled.iter().map(|message| usize::from(message.body()[0])));
        assert!(bytes <= ROOM, "{bytes} bytes in one poll");
        ensure!(came.len() == COUNT, "{} of {COUNT} came", came.len());
        Ok(())
    })
    .await?;
    ensure!(came == (0..COUNT).collect::<Vec<_>>(), "{came:?} came");
    puller.commit().await?;
    puller.shutdown().await?;
    cluster.expect_recorded(&group, &topic, COUNT).await?;
    cluster.at("pushing");
    let (group, inbox) = (random_name("group"), Inbox::new());
    let config = PushConfig { start_at: StartAt::First, max_bytes_per_queue: ROOM, ..PushConfig::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has(COUNT, SOON).await?;
    inbox.expect_no_repetition()?;
    cluster.expect_recorded(&group, &topic, COUNT).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}
