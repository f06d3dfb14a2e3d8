//! How much a consumer fetches ahead of a listener that does not keep up.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::body,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Filter, PushConfig, StartAt, StoredMessage};
use rocketmq_dev_broker::RequestCode;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::sleep};

const PULL: RequestCode = RequestCode::PULL_MESSAGE;
/// The held pull of the retry topic.
const OTHER_PULLS: u64 = 1;

/// Lets the listener begin only what `blocks` does not name, sees that no more than `pulls` pulls of one queue are made,
/// then opens the gate: the rest is consumed, each message once.
async fn fetching_stops_after(
    cluster: &Cluster,
    config: PushConfig,
    size: usize,
    pulls: u64,
    blocks: impl Fn(&StoredMessage) -> bool + Send + Sync + 'static,
) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 500, move |index| Message::new(&of_topic, body(index, size))).await?;
    let before = cluster.dev().received(PULL);
    let (kept, gate) = (inbox.clone(), Arc::new(Semaphore::new(0)));
    let (at_the_gate, blocks) = (gate.clone(), Arc::new(blocks));
    let long_poll = Duration::from_secs(60);
    let consumer = cluster
        .consumer(&group)
        .config(PushConfig { start_at: StartAt::First, long_poll, ..config })
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
    let made = || cluster.dev().received(PULL) - before;
    eventually(SOON, async || {
        ensure!(made() >= pulls + OTHER_PULLS, "{} pulls made, expected {pulls}", made() - OTHER_PULLS.min(made()));
        Ok(())
    })
    .await?;
    // That no more is fetched shows only in time.
    sleep(Duration::from_secs(1)).await;
    ensure!(made() == pulls + OTHER_PULLS, "{} pulls were made, expected {pulls}", made() - OTHER_PULLS);
    gate.add_permits(sent.len());
    inbox.has_each_once(sent.keys(), SOON).await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn fetching_stops_at_the_limit_of_messages(cluster: &Cluster) -> Result<()> {
    let config = PushConfig { max_messages_per_queue: 50, pull_batch: 10, ..Default::default() };
    fetching_stops_after(cluster, config, 1, 5, |_| true).await
}

pub(crate) async fn fetching_stops_at_the_limit_of_bytes(cluster: &Cluster) -> Result<()> {
    let config = PushConfig { max_bytes_per_queue: 100_000, pull_batch: 10, ..Default::default() };
    fetching_stops_after(cluster, config, 4000, 3, |_| true).await
}

pub(crate) async fn fetching_stops_at_the_limit_of_span(cluster: &Cluster) -> Result<()> {
    // One slow message; all the others are done.
    let config = PushConfig { max_span_per_queue: 100, pull_batch: 10, ..Default::default() };
    fetching_stops_after(cluster, config, 1, 11, |message| message.queue_offset() == 0).await
}
