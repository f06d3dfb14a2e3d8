//! Where a group begins, and which messages it gets.

use crate::{
    allocation::owned,
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::{expect_all_same, varied},
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_producer::Producer;
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

async fn start_at(cluster: &Cluster, topic: &str, start_at: StartAt) -> Result<(PushConsumer, Inbox)> {
    let inbox = Inbox::new();
    let consumer = cluster
        .consumer(&random_name("group"))
        .config(PushConfig { start_at, ..Default::default() })
        .subscribe(topic, Filter::all())
        .listener(inbox.listener())
        .start()
        .await?;
    Ok((consumer, inbox))
}

pub(crate) async fn a_new_group_begins_where_it_is_told(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let old = send_from(4, &producer, 40, move |index| varied(&of_topic, index)).await?;
    if !cluster.is_real() {
        // A broker that still holds the first message of a queue in memory has a new group begin there, whatever it
        // says; this one is made to have lost it.
        (0..2).for_each(|queue| cluster.dev().trim(&topic, queue, 1));
    }
    let last_stored = cluster.stored(&topic).await?.iter().map(|message| message.store_timestamp()).max();
    let boundary = last_stored.unwrap_or(SystemTime::UNIX_EPOCH) + Duration::from_millis(2);
    eventually(SOON, async || {
        ensure!(SystemTime::now() > boundary, "the clock stands still");
        Ok(())
    })
    .await?;
    let (last, of_last) = start_at(cluster, &topic, StartAt::Last).await?;
    // It has to have looked where the end is before more comes.
    eventually(SOON, async || {
        let owned = last.assigned_queues().iter().filter(|queue| *queue.topic == *topic).count();
        ensure!(owned == 2, "owns {owned} of 2 queues");
        cluster.expect_recorded(last.group(), &topic, old.len()).await
    })
    .await?;
    let of_topic = topic.clone();
    let new = send_from(4, &producer, 40, move |index| varied(&of_topic, 1000 + index)).await?;
    let (first, of_first) = start_at(cluster, &topic, StartAt::First).await?;
    let (since, of_since) = start_at(cluster, &topic, StartAt::Timestamp(boundary)).await?;
    let there: BTreeSet<_> =
        cluster.stored(&topic).await?.iter().map(|message| message.message_id().into_owned()).collect();
    of_first.has_each_once(&there, SOON).await?;
    if cluster.is_real() {
        of_last.has_each_once(&there, SOON).await?;
        of_since.has_each_once(&there, SOON).await?;
    } else {
        of_last.has_each_once(new.keys(), SOON).await?;
        of_since.has_each_once(new.keys(), SOON).await?;
    }
    for consumer in [first, last, since] {
        consumer.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_filter_lets_exactly_its_tags_through(cluster: &Cluster) -> Result<()> {
    // Java gives the first two the same hash, and brokers look at nothing else.
    const TAGS: [Option<&str>; 6] = [Some("Aa"), Some("BB"), Some("标签"), Some("other"), Some("Aa2"), None];
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let mut wanted = Vec::new();
    for round in 0..20 {
        for tag in TAGS {
            let message = Message::new(&topic, format!("{tag:?} {round}"));
            let message = tag.map_or(message.clone(), |tag| message.tag(tag));
            let id = producer.send(message).await?.message_id;
            if matches!(tag, Some("Aa" | "标签")) {
                wanted.push(id);
            }
        }
    }
    let filter = Filter::tags("Aa || 标签 || nobody-has-this");
    let consumer = cluster.consumer(&group).subscribe(&topic, filter).listener(inbox.listener()).start().await?;
    inbox.has_each_once(&wanted, SOON).await?;
    // What is not wanted is passed, too.
    cluster.expect_recorded(&group, &topic, 20 * TAGS.len()).await?;
    inbox.has_each_once(&wanted, SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn several_subscriptions_and_groups_do_not_mix(cluster: &Cluster) -> Result<()> {
    let (one, other, third) = (cluster.topic(2).await?, cluster.topic(2).await?, cluster.topic(2).await?);
    let producer = cluster.producer().await?;
    let (both, of_both) = (random_name("group"), Inbox::new());
    let (single, of_single) = (random_name("group"), Inbox::new());
    let consumer = cluster.consumer(&both).subscribe(&one, Filter::tags("eu")).subscribe(&other, Filter::all());
    let consumer = consumer.listener(of_both.listener()).start().await?;
    let consumer_of_one = cluster.consumer(&single).subscribe(&one, Filter::all());
    let consumer_of_one = consumer_of_one.listener(of_single.listener()).start().await?;
    let mut sent = Vec::new();
    for topic in [&one, &other, &third] {
        let of_topic = topic.clone();
        sent.push(send_from(4, &producer, 90, move |index| varied(&of_topic, index)).await?);
    }
    let eu = sent[0].iter().filter(|(_, message)| message.properties().tag() == Some("eu"));
    let expected: Vec<_> = eu.map(|(id, _)| id).chain(sent[1].keys()).cloned().collect();
    of_both.has_each_once(&expected, SOON).await?;
    of_single.has_each_once(sent[0].keys(), SOON).await?;
    let all = sent.iter().flatten().map(|(id, message)| (id.clone(), message.clone())).collect();
    expect_all_same(&all, &of_both.messages())?;
    consumer.shutdown().await?;
    consumer_of_one.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_producer_and_a_consumer_can_share_a_client(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let client = cluster.client().await?;
    let producer = Producer::builder("sharing").client(client.clone()).start().await?;
    let consumer = cluster.consumer(&group).client(client.clone()).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let receipt = producer.send(Message::new(&topic, "body")).await?;
    inbox.has_each_once([&receipt.message_id], SOON).await?;
    consumer.shutdown().await?;
    cluster.at("the client stays, and is in the group no more");
    let next = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        let owned = owned(&next, &topic);
        ensure!(owned.len() == 2, "the next member has queues {owned:?} of two");
        Ok(())
    })
    .await?;
    next.shutdown().await?;
    producer.shutdown().await?;
    ensure!(!client.is_shut_down(), "the client belongs to somebody else");
    client.shutdown(client.request_deadline()).await;
    Ok(())
}

pub(crate) async fn two_clusters_in_one_process_do_not_mix(here: &Cluster) -> Result<()> {
    let there = Cluster::embedded(None).await?;
    let (topic, group) = (random_name("topic"), random_name("group"));
    let mut sides = Vec::new();
    for cluster in [here, &there] {
        cluster.dev().create_topic(&topic, 2);
        let (producer, inbox) = (cluster.producer().await?, Inbox::new());
        let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all());
        sides.push((producer, consumer.listener(inbox.listener()).start().await?, inbox));
    }
    for (index, (producer, consumer, inbox)) in sides.iter().enumerate() {
        let of_topic = topic.clone();
        let sent = send_from(4, producer, 100, move |number| varied(&of_topic, index * 1000 + number)).await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        let owned = consumer.assigned_queues().iter().filter(|queue| *queue.topic == *topic).count();
        ensure!(owned == 2, "owns {owned} queues of its own cluster");
    }
    for (producer, consumer, inbox) in sides {
        inbox.expect_no_repetition()?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}
