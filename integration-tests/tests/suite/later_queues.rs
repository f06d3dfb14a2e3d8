//! Topics and queues that appear while a consumer runs.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    offset_stores::Memory,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::ClientConfig;
use rocketmq_consumer::{Filter, PullConfig, PullConsumer, PushConfig, PushConsumer, StartAt};
use std::time::Duration;
use tempfile::TempDir;

/// Where the offsets of a consumer are kept that no broker helps to begin.
#[derive(Clone, Copy, Debug)]
enum Kept {
    InAFile,
    InAStore,
}

/// A consumer that begins at the end of what is there when it starts.
async fn start(cluster: &Cluster, topic: &str, kept: Kept, folder: &TempDir, inbox: &Inbox) -> Result<PushConsumer> {
    let client = ClientConfig {
        instance_name: Some("one".to_owned()),
        route_refresh_interval: Duration::from_secs(1),
        ..Default::default()
    };
    let config = PushConfig {
        start_at: StartAt::Last,
        offset_dir: Some(folder.path().to_owned()),
        rebalance_interval: Duration::from_secs(1),
        client,
        ..Default::default()
    };
    let builder = cluster.consumer(&random_name("group")).config(config).subscribe(topic, Filter::all());
    let builder = match kept {
        Kept::InAFile => builder.broadcast(),
        Kept::InAStore => builder.offset_store(Memory::default()),
    };
    Ok(builder.listener(inbox.listener()).start().await?)
}

pub(crate) async fn a_topic_that_appears_is_consumed_from_its_first_message(cluster: &Cluster) -> Result<()> {
    let producer = cluster.producer().await?;
    for kept in [Kept::InAFile, Kept::InAStore] {
        cluster.at(format!("{kept:?}"));
        let (topic, inbox, folder) = (random_name("topic"), Inbox::new(), TempDir::new()?);
        let consumer = start(cluster, &topic, kept, &folder, &inbox).await?;
        cluster.create_topic(&topic, usize::MAX, 4).await?;
        let of_topic = topic.clone();
        let sent = send_from(4, &producer, 20, move |index| varied(&of_topic, index)).await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        consumer.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn queues_that_appear_are_consumed_from_their_first_message(cluster: &Cluster) -> Result<()> {
    for kept in [Kept::InAFile, Kept::InAStore] {
        cluster.at(format!("{kept:?}"));
        let (topic, inbox, folder) = (cluster.topic(4).await?, Inbox::new(), TempDir::new()?);
        let consumer = start(cluster, &topic, kept, &folder, &inbox).await?;
        eventually(SOON, async || {
            let queues = consumer.assigned_queues().into_iter().filter(|queue| *queue.topic == *topic).count();
            ensure!(queues == 4, "the consumer has {queues} queues");
            Ok(())
        })
        .await?;
        let producer = cluster.producer().await?;
        let of_topic = topic.clone();
        // What is there when a queue is begun is not consumed: so wait until all have been.
        eventually(SOON, async || {
            let lags = consumer
                .statistics()
                .topics
                .get(&topic)
                .map(|of_topic| of_topic.queues.iter().filter(|queue| queue.offset.is_some()).count());
            ensure!(lags == Some(4), "{lags:?} queues have been begun");
            Ok(())
        })
        .await?;
        producer.shutdown().await?;
        cluster.create_topic(&topic, usize::MAX, 8).await?;
        // A producer that knows all eight.
        let producer = eventually(SOON, async || {
            ensure!(cluster.queues(&topic).await?.len() == 8, "the name server does not know of 8 queues");
            cluster.producer().await
        })
        .await?;
        let sent = send_from(4, &producer, 80, move |index| varied(&of_topic, index)).await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

/// A member that dies before its first offsets are committed skips nothing.
pub(crate) async fn where_a_group_begins_is_committed_at_once(cluster: &Cluster) -> Result<()> {
    let never = Duration::from_secs(3600);
    for commits_by_hand in [false, true] {
        cluster.at(if commits_by_hand { "committed by hand" } else { "pushed" });
        let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
        let producer = cluster.producer().await?;
        let of_topic = topic.clone();
        send_from(1, &producer, 10, move |index| varied(&of_topic, index)).await?;
        // A queue that has lost its first message is no young one any more: it is begun at its end.
        cluster.dev().trim(&topic, 0, 5);
        let push = PushConfig { start_at: StartAt::Last, commit_interval: never, ..Default::default() };
        let pull =
            PullConfig { start_at: StartAt::Last, commit_interval: never, auto_commit: false, ..Default::default() };
        let pushed = cluster.consumer(&group).config(push).subscribe(&topic, Filter::all());
        let pulled = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(pull);
        let pulled = pulled.subscribe(&topic, Filter::all());
        let consumers = match commits_by_hand {
            false => (Some(pushed.listener(inbox.listener()).start().await?), None),
            true => (None, Some(pulled.start().await?)),
        };
        let queue = &cluster.queues(&topic).await?[0];
        eventually(SOON, async || {
            let committed = cluster.dev().committed_offset(&group, queue);
            ensure!(committed == Some(10), "committed is {committed:?}");
            Ok(())
        })
        .await?;
        // As if it were killed.
        drop(consumers);
        let of_topic = topic.clone();
        let sent = send_from(1, &producer, 5, move |index| varied(&of_topic, 100 + index)).await?;
        let next = Inbox::new();
        let config = PushConfig { start_at: StartAt::Last, ..Default::default() };
        let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
        let consumer = consumer.listener(next.listener()).start().await?;
        next.has_all(sent.keys(), SOON).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}
