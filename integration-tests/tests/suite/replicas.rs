//! A broker with a replica, which is read from when the broker says so and while the broker is away.

use crate::{
    cluster::{Cluster, pull_everything, random_name},
    inbox::{Inbox, expect_none, missing},
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{
    Client, MessageQueue,
    message::names::retry_topic,
    remote::{Deadline, Json, ResponseCode},
};
use rocketmq_consumer::{Filter, PullConsumer, PullStatus, StoredMessage};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Made when the cluster starts: a replica of 5.5.0 hears of topics once a minute, one of 4.9.7 every 10 s.
pub(crate) const TOPICS: [&str; 2] = [LAGGING, OUTAGE];
const LAGGING: &str = "lagging";
const OUTAGE: &str = "outage";
const TOPIC_COPIED: Duration = Duration::from_secs(75);

rocketmq_remote::request! {
    GET_BROKER_RUNTIME_INFO(()) -> Json<serde_json::Value>;
    /// Asks a broker how it is doing. The answer is Java's `KVTable`.
    struct GetRuntimeInfo {}
}

/// How many messages a broker has handed out since it started.
async fn handed_out(client: &Client, addr: &Arc<str>) -> Result<usize> {
    let Json(info) = client.call(addr, &GetRuntimeInfo {}, (), Deadline::after(SOON)).await?;
    let count = info["table"]["msgGetTotalTodayNow"].as_str().with_context(|| format!("no count in {info}"))?;
    Ok(count.parse()?)
}

/// Waits until the replica has all of a topic's messages.
async fn replicated(client: &Client, queues: &[MessageQueue], replica: &Arc<str>) -> Result<()> {
    for queue in queues {
        let end = client.max_offset(queue).await?;
        eventually(TOPIC_COPIED, async || {
            let request = pull_everything(queue, end.saturating_sub(1));
            let answer = client.pull_message(replica, &request, Deadline::after(SOON)).await?;
            ensure!(
                answer.header.max_offset >= end,
                "the replica has {} of {end} in {queue}",
                answer.header.max_offset
            );
            ensure!(end == 0 || answer.code == ResponseCode::SUCCESS, "the replica answers {}", answer.code);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// For single pulls: what it fetches by itself begins at the end of a queue.
async fn single_puller(cluster: &Cluster, topic: &str) -> Result<PullConsumer> {
    let builder = PullConsumer::builder(random_name("group")).name_servers([cluster.name_server()]);
    Ok(builder.assign(cluster.queues(topic).await?.into_iter().take(1)).start().await?)
}

pub(crate) async fn who_is_behind_reads_from_the_replica(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (LAGGING.to_owned(), random_name("group"), Inbox::new());
    let (producer, client, replica) =
        (cluster.producer().await?, cluster.client().await?, cluster.replica_address().await?);
    let of_topic = topic.clone();
    let mut sent = send_from(8, &producer, 4000, move |index| varied(&of_topic, index)).await?;
    cluster.at("replicating");
    replicated(&client, &cluster.queues(&topic).await?, &replica).await?;
    let before = handed_out(&client, &replica).await?;
    cluster.at("consuming");
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    let from_replica = handed_out(&client, &replica).await? - before;
    ensure!(from_replica > sent.len() / 2, "{from_replica} of {} messages came from the replica", sent.len());
    cluster.at("what comes now is not behind");
    let of_topic = topic.clone();
    sent.extend(send_from(1, &producer, 100, move |index| varied(&of_topic, 10_000 + index)).await?);
    inbox.has_each_once(sent.keys(), SOON).await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    consumer.shutdown().await?;

    cluster.at("single pulls");
    let puller = single_puller(cluster, &topic).await?;
    let before = handed_out(&client, &replica).await?;
    let mut pulled = BTreeSet::new();
    for queue in puller.topic_queues(&topic).await? {
        let (mut offset, end) = (0, puller.max_offset(&queue).await?);
        while offset < end {
            let found = puller.pull(&queue, offset, 32, Duration::ZERO).await?;
            pulled.extend(found.messages.iter().map(|message| message.message_id().into_owned()));
            offset = found.next_offset;
        }
    }
    expect_none(&missing(sent.keys(), &pulled), "not pulled")?;
    let from_replica = handed_out(&client, &replica).await? - before;
    ensure!(from_replica > sent.len() / 2, "{from_replica} of {} messages came from the replica", sent.len());
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn while_the_broker_is_away_its_replica_serves(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (OUTAGE.to_owned(), random_name("group"), Inbox::new());
    let (producer, client, replica) =
        (cluster.producer().await?, cluster.client().await?, cluster.replica_address().await?);
    let queues = cluster.queues(&topic).await?;
    let (kept, gate) = (inbox.clone(), Arc::new(Semaphore::new(0)));
    let at_gate = gate.clone();
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(move |message: StoredMessage| {
        let (kept, gate) = (kept.clone(), at_gate.clone());
        async move {
            gate.acquire().await?.forget();
            kept.keep(message);
            Ok::<_, tokio::sync::AcquireError>(())
        }
    });
    let consumer = consumer.start().await?;
    cluster.at("before the outage");
    let of_topic = topic.clone();
    // More than a consumer fetches ahead: 1000 a queue.
    let mut sent = send_from(8, &producer, 8000, move |index| varied(&of_topic, index)).await?;
    gate.add_permits(100);
    inbox.has(100, SOON).await?;
    replicated(&client, &queues, &replica).await?;
    let before = handed_out(&client, &replica).await?;
    let puller = single_puller(cluster, &topic).await?;
    let found = puller.pull(&queues[0], 0, 1, Duration::ZERO).await?;
    ensure!(found.messages.len() == 1, "{} messages", found.messages.len());

    cluster.at("the broker is away");
    cluster.kill_broker().await?;
    let end = eventually(SOON, async || {
        let found = puller.pull(&queues[0], 0, 1, Duration::ZERO).await?;
        ensure!(found.messages.len() == 1, "{found:?}");
        Ok(found.max_offset)
    })
    .await?;
    // What a replica does not have is not gone.
    let beyond = puller.pull(&queues[0], end + 10, 1, Duration::ZERO).await?;
    let expected = (PullStatus::NoMatchedMessage, end + 10);
    ensure!((beyond.status, beyond.next_offset) == expected, "{beyond:?}");
    gate.add_permits(100_000);
    inbox.has_all(sent.keys(), SOON).await?;
    let from_replica = handed_out(&client, &replica).await? - before;
    ensure!(from_replica > 1000, "{from_replica} messages came from the replica");
    inbox.expect_no_repetition()?;
    cluster.at("the group's offsets are with the replica");
    cluster.expect_recorded(&group, &topic, sent.len()).await?;

    cluster.at("the broker is back");
    cluster.start_broker().await?;
    eventually(SOON, async || {
        let seen = client.known_route(&topic).map_or(0, |route| route.generation());
        client.newer_route(&topic.as_str().into(), seen).await?;
        Ok(client.master("broker-a")?)
    })
    .await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    let of_topic = topic.clone();
    sent.extend(send_from(4, &producer, 200, move |index| varied(&of_topic, 20_000 + index)).await?);
    inbox.has_each_once(sent.keys(), SOON).await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    puller.shutdown().await?;
    consumer.shutdown().await?;
    ensure!(cluster.stored(&retry_topic(&group)).await?.is_empty(), "messages were given back");
    Ok(producer.shutdown().await?)
}
