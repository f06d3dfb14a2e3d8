//! How far a group is, when the queues of a static topic move to another broker.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Client, Message, MessageQueue};
use rocketmq_consumer::{Filter, PushConsumer};
use rocketmq_producer::Producer;
use std::{collections::BTreeSet, sync::Arc};

const QUEUES: i32 = 4;

pub(crate) async fn a_group_goes_on_where_it_was_when_queues_move(cluster: &Cluster) -> Result<()> {
    let topic = cluster.static_topic(QUEUES).await?;
    let (producer, client, group) = (cluster.producer().await?, cluster.client().await?, random_name("group"));
    let queues: Vec<_> = (0..QUEUES).map(|id| MessageQueue::new(topic.as_str(), "__syslo__global__", id)).collect();
    eventually(SOON, async || {
        let owners = owners(&client, &queues).await?;
        ensure!(owners.len() == 2, "queues on {owners:?}");
        Ok(())
    })
    .await?;
    cluster.at("consuming before the move");
    let sent = send(&producer, &topic, 40).await?;
    let (consumer, inbox) = consume(cluster, &topic, &group).await?;
    inbox.has_each_once(&sent, SOON).await?;
    consumer.shutdown().await?;
    let before = recorded(&client, &group, &queues).await?;
    ensure!(before == [Some(10); 4], "recorded is {before:?}");

    cluster.at("moving all queues to one broker, while nobody consumes");
    cluster.move_static_topic(&topic, "broker-b").await?;
    // This client goes by its old route, is told that the queues are not there, and asks again where they are.
    ensure!(known_owners(&client, &queues)?.len() == 2, "the client has looked the route up");
    let after = recorded(&client, &group, &queues).await?;
    ensure!(after == before, "recorded is {after:?}");
    ensure!(known_owners(&client, &queues)?.len() == 1, "the client has not looked the route up");
    let mut sent = send(&producer, &topic, 20).await?;
    let (consumer, inbox) = consume(cluster, &topic, &group).await?;
    inbox.has_each_once(&sent, SOON).await?;
    expect_all_recorded(&client, &group, &queues).await?;

    cluster.at("moving them back, while the group consumes");
    cluster.move_static_topic(&topic, "broker-a").await?;
    sent.extend(send(&producer, &topic, 20).await?);
    inbox.has_each_once(&sent, SOON).await?;
    expect_all_recorded(&client, &group, &queues).await?;
    consumer.shutdown().await?;
    let (consumer, inbox) = consume(cluster, &topic, &group).await?;
    let last = send(&producer, &topic, 1).await?;
    inbox.has_each_once(&last, SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

async fn consume(cluster: &Cluster, topic: &str, group: &str) -> Result<(PushConsumer, Inbox)> {
    let inbox = Inbox::new();
    let consumer = cluster.consumer(group).subscribe(topic, Filter::all()).listener(inbox.listener());
    Ok((consumer.start().await?, inbox))
}

async fn send(producer: &Producer, topic: &str, count: usize) -> Result<BTreeSet<String>> {
    let mut sent = BTreeSet::new();
    for index in 0..count {
        sent.insert(producer.send(Message::new(topic, format!("{index}"))).await?.message_id);
    }
    Ok(sent)
}

async fn recorded(client: &Client, group: &str, queues: &[MessageQueue]) -> Result<Vec<Option<i64>>> {
    let mut offsets = Vec::new();
    for queue in queues {
        offsets.push(client.consumer_offset(&group.into(), queue).await?);
    }
    Ok(offsets)
}

/// Waits until the group is at the end of every queue. How many messages that is cannot be told from offsets: a queue
/// that moves goes on at the next multiple of 10 000.
async fn expect_all_recorded(client: &Client, group: &str, queues: &[MessageQueue]) -> Result<()> {
    eventually(SOON, async || {
        let mut ends = Vec::new();
        for queue in queues {
            ends.push(Some(client.max_offset(queue).await?));
        }
        let recorded = recorded(client, group, queues).await?;
        ensure!(recorded == ends, "recorded is {recorded:?}, the queues end at {ends:?}");
        Ok(())
    })
    .await
}

/// The brokers that have the queues, as the name server tells now.
async fn owners(client: &Client, queues: &[MessageQueue]) -> Result<BTreeSet<Arc<str>>> {
    let topic = &queues.first().context("no queue")?.topic;
    let seen = client.known_route(topic).map_or(0, |route| route.generation());
    client.newer_route(topic, seen).await?;
    known_owners(client, queues)
}

/// The brokers that have the queues, as the client knows.
fn known_owners(client: &Client, queues: &[MessageQueue]) -> Result<BTreeSet<Arc<str>>> {
    let route = client.known_route(&queues.first().context("no queue")?.topic).context("no route")?;
    Ok(queues.iter().map(|queue| route.broker_of(queue).clone()).collect())
}
