//! Pull consumers that are assigned topics with all of their queues.

use crate::{
    cluster::{Cluster, random_name},
    pulling::{by_hand, expect_nothing, first, numbers, puller, row, send_numbers, take},
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{ClientConfig, Message, MessageQueue};
use rocketmq_consumer::{Error, Filter, PullConfig, PullConsumer};
use std::time::Duration;

/// As `config`, of a client that soon learns of changes.
fn quick(config: PullConfig) -> PullConfig {
    let client = ClientConfig { route_refresh_interval: Duration::from_millis(200), ..Default::default() };
    PullConfig { client, ..config }
}

async fn take_sorted(puller: &PullConsumer, count: usize) -> Result<Vec<usize>> {
    let mut taken = numbers(&take(puller, count).await?)?;
    taken.sort_unstable();
    Ok(taken)
}

pub(crate) async fn are_fetched_from_with_the_queues_they_get(cluster: &Cluster) -> Result<()> {
    let (topic, other, group) = (cluster.topic(2).await?, cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queues = cluster.queues(&topic).await?;
    send_numbers(&producer, &queues[0], 0..5).await?;
    send_numbers(&producer, &queues[1], 5..10).await?;
    let assigned = || puller(cluster, &group, quick(by_hand())).assign_all([&topic]);
    let (a, b) = (assigned().start().await?, assigned().start().await?);
    for puller in [&a, &b] {
        ensure!(take_sorted(puller, 10).await? == row(0..10), "not all messages");
        expect_nothing(puller).await?;
    }
    let members = cluster.client().await?.consumer_list(&group.as_str().into(), &topic.as_str().into()).await?;
    ensure!(members.is_empty(), "{members:?} are in the group");

    cluster.at("queues come");
    cluster.create_topic(&topic, usize::MAX, 4).await?;
    let queues = cluster.queues(&topic).await?;
    ensure!(queues.len() == 4, "{} queues", queues.len());
    for puller in [&a, &b] {
        eventually(SOON, async || {
            let assigned = puller.assigned_queues();
            ensure!(assigned == queues, "assigned are {assigned:?}");
            Ok(())
        })
        .await?;
    }
    producer.shutdown().await?;
    // Another producer, which does not know an older route.
    let producer = cluster.producer().await?;
    send_numbers(&producer, &queues[2], 10..15).await?;
    send_numbers(&producer, &queues[3], 15..20).await?;
    for puller in [&a, &b] {
        ensure!(take_sorted(puller, 10).await? == row(10..20), "not the messages of the new queues");
        expect_nothing(puller).await?;
    }
    a.commit().await?;
    cluster.expect_recorded(&group, &topic, 20).await?;

    cluster.at("queues go");
    cluster.create_topic(&topic, usize::MAX, 1).await?;
    eventually(SOON, async || {
        let assigned = a.assigned_queues();
        ensure!(assigned.len() == 1, "assigned are {assigned:?}");
        Ok(())
    })
    .await?;

    cluster.at("another topic, then a single queue");
    producer.send(Message::new(&other, "100")).await?;
    a.assign_all([&other]).await?;
    ensure!(a.assigned_queues() == cluster.queues(&other).await?, "assigned are {:?}", a.assigned_queues());
    ensure!(numbers(&take(&a, 1).await?)? == [100], "not the message of the other topic");
    a.assign([queues[0].clone()]).await?;
    cluster.create_topic(&topic, usize::MAX, 4).await?;
    send_numbers(&producer, &queues[0], 20..21).await?;
    ensure!(numbers(&take(&a, 1).await?)? == [20], "not the message of the queue");
    ensure!(a.assigned_queues() == [queues[0].clone()], "assigned are {:?}", a.assigned_queues());

    cluster.at("refused");
    let both = puller(cluster, &group, first()).subscribe(&topic, Filter::all()).assign_all([&other]).start().await;
    ensure!(matches!(both, Err(Error::SubscribedAndAssigned)), "{both:?}");
    ensure!(matches!(a.assign_all(["no topic"]).await, Err(Error::Client(_))), "a bad name is assigned");
    ensure!(a.assigned_queues() == [queues[0].clone()], "a refusal changes the queues");
    for puller in [a, b] {
        puller.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn may_come_after_the_start(cluster: &Cluster) -> Result<()> {
    let topic = random_name("topic");
    cluster.at("without queues");
    let none = puller(cluster, &random_name("group"), first()).assign([]).start().await?;
    ensure!(none.assigned_queues().is_empty(), "assigned are {:?}", none.assigned_queues());
    expect_nothing(&none).await?;

    cluster.at("a topic that is not there yet, from its first message on, with a filter");
    let early = puller(cluster, &random_name("group"), quick(PullConfig::default())).assign_all([&topic]);
    let early = early.assign_filter(&topic, Filter::tags("eu")).start().await?;
    cluster.create_topic(&topic, usize::MAX, 2).await?;
    let producer = cluster.producer().await?;
    for number in 0..10 {
        let tag = if number % 2 == 0 { "eu" } else { "us" };
        producer.send(Message::new(&topic, format!("{number}")).tag(tag)).await?;
    }
    ensure!(take_sorted(&early, 5).await? == [0, 2, 4, 6, 8], "not the messages with the tag");
    none.assign_all([&topic]).await?;
    let rest = take_sorted(&none, 10).await?;
    ensure!(rest == row(0..10), "polled {rest:?}");
    early.shutdown().await?;
    none.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn committed_offsets_are_read_without_queues(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let queue = cluster.queues(&topic).await?.remove(0);
    let producer = cluster.producer().await?;
    send_numbers(&producer, &queue, 0..3).await?;
    let first = puller(cluster, &group, by_hand()).assign([queue.clone()]).start().await?;
    take(&first, 3).await?;
    first.commit().await?;
    first.shutdown().await?;

    // Its client has asked for no route yet.
    let second = puller(cluster, &group, by_hand()).assign([]).start().await?;
    let committed = second.committed(&queue).await?;
    ensure!(committed == Some(3), "{committed:?} is committed");
    let missing = second.committed(&MessageQueue::new(random_name("topic"), queue.broker_name, 0)).await;
    let is_told = matches!(&missing, Err(Error::Client(rocketmq_common::Error::TopicNotFound { .. })));
    ensure!(is_told, "of a topic that does not exist: {missing:?}");
    second.shutdown().await?;
    Ok(producer.shutdown().await?)
}
