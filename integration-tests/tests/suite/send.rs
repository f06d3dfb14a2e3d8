//! What is sent arrives: whole, once, and in order where order is promised.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::{Sent, body, expect_all_same, expect_same, varied},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{Message, remote::ResponseCode};
use rocketmq_consumer::{Filter, PopConfig, PopConsumer, StartAt};
use rocketmq_producer::{Error, Producer, ProducerConfig, SendStatus};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// Sends `messages(0)` to `messages(count - 1)` from so many callers at once.
pub(crate) async fn send_from(
    callers: usize,
    producer: &Producer,
    count: usize,
    message: impl Fn(usize) -> Message + Send + Sync + 'static,
) -> Result<Sent> {
    let (next, message) = (Arc::new(AtomicUsize::new(0)), Arc::new(message));
    let mut senders = JoinSet::new();
    for _ in 0..callers {
        let (producer, next, message) = (producer.clone(), next.clone(), message.clone());
        senders.spawn(async move {
            let mut sent = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok::<_, rocketmq_producer::Error>(sent);
                }
                let receipt = producer.send(message(index)).await?;
                sent.push((receipt.message_id, message(index)));
            }
        });
    }
    let mut all = Sent::new();
    while let Some(sent) = senders.join_next().await {
        all.extend(sent??);
    }
    ensure!(all.len() == count, "{} different message ids for {count} messages", all.len());
    Ok(all)
}

pub(crate) async fn ten_thousand_messages_from_64_callers_arrive_once(cluster: &Cluster) -> Result<()> {
    const COUNT: usize = 10_000;
    let topic = cluster.topic(8).await?;
    let (producer, inbox, group) = (cluster.producer().await?, Inbox::new(), random_name("group"));
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    cluster.at("sending");
    let of_topic = topic.clone();
    let sent = send_from(64, &producer, COUNT, move |index| varied(&of_topic, index)).await?;
    cluster.at("consuming");
    inbox.has_each_once(sent.keys(), SOON).await?;
    expect_all_same(&sent, &inbox.messages())?;
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, COUNT).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn messages_of_four_mib_less_their_properties_arrive(cluster: &Cluster) -> Result<()> {
    const MAX: usize = 4 * 1024 * 1024;
    let topic = cluster.topic(4).await?;
    let (producer, inbox, group) = (cluster.producer().await?, Inbox::new(), random_name("group"));
    let of_topic = topic.clone();
    cluster.at("sending");
    let sent = send_from(4, &producer, 20, move |index| {
        let message = varied(&of_topic, index);
        let properties: usize = message.properties().iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        // The unique id and what brokers add take some, too.
        let size = if index < 4 { MAX - properties - 512 - index } else { MAX / (index - 2) };
        let mut large = Message::new(&of_topic, body(index, size)).flag(message.flag_bits());
        *large.properties_mut() = message.properties().clone();
        large
    })
    .await?;
    cluster.at("consuming");
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    expect_all_same(&sent, &inbox.messages())?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// The limit is one of bodies, whatever properties come along: brokers and clients draw it at the same byte.
pub(crate) async fn a_body_of_four_mib_arrives_and_one_byte_more_does_not(cluster: &Cluster) -> Result<()> {
    const MAX: usize = 4 * 1024 * 1024;
    let topic = cluster.topic(1).await?;
    // A producer that lets a larger one through, for the broker to say what it thinks of it.
    let config = ProducerConfig { max_message_bytes: 2 * MAX, send_timeout: SOON, ..Default::default() };
    let producer = cluster.producer_with(config).await?;
    let message = |size| Message::new(&topic, body(size, size)).tag("tag").property("filler", "f".repeat(20_000));
    let receipt = producer.send(message(MAX)).await?;
    let sent = Sent::from([(receipt.message_id, message(MAX))]);
    match producer.send(message(MAX + 1)).await {
        Err(Error::NotSent(failure)) => {
            let codes: Vec<_> = failure.attempts.iter().map(|attempt| attempt.error.response_code()).collect();
            ensure!(codes == [Some(ResponseCode::MESSAGE_ILLEGAL)], "one byte more was answered {codes:?}");
        }
        other => bail!("one byte more came to {other:?}"),
    }
    let stored = cluster.stored(&topic).await?;
    ensure!(stored.len() == 1, "{} messages stored", stored.len());
    expect_all_same(&sent, &stored)?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn oneway_messages_arrive_once(cluster: &Cluster) -> Result<()> {
    const COUNT: usize = 1000;
    let topic = cluster.topic(4).await?;
    let (producer, inbox, group) = (cluster.producer().await?, Inbox::new(), random_name("group"));
    let mut sent = Sent::new();
    for index in 0..COUNT {
        // Nobody answers, so the id has to be ours.
        let message = varied(&topic, index).unique_id(random_name("id"));
        sent.insert(message.properties().unique_id().unwrap_or_default().to_owned(), message.clone());
        producer.send_oneway(message).await?;
        // A real broker drops what comes too fast, and a one-way sender never learns of it.
        if cluster.is_real() && index % 100 == 99 {
            producer.send(Message::new(&topic, "a pause").unique_id(format!("pause-{index}"))).await?;
        }
    }
    // What is queued is written before the connections end.
    producer.shutdown().await?;
    let filtered = cluster.consumer(&group).subscribe(&topic, Filter::all());
    let kept = inbox.clone();
    let consumer = filtered
        .listener(move |message| {
            if !message.message_id().starts_with("pause-") {
                kept.keep(message);
            }
            std::future::ready(Ok::<_, String>(()))
        })
        .start()
        .await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    expect_all_same(&sent, &inbox.messages())?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn async_messages_for_one_queue_keep_their_order(cluster: &Cluster) -> Result<()> {
    const COUNT: usize = 2000;
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let (mut sent, mut ids) = (Sent::new(), Vec::new());
    // So many at a time that no broker is ever busy: an attempt that is repeated comes out of order, as promised.
    for round in 0..COUNT / 50 {
        let mut pending = Vec::new();
        for index in round * 50..(round + 1) * 50 {
            let message = varied(&topic, index);
            pending.push((producer.send_async(message.clone()).await?, message));
        }
        for (receipt, message) in pending {
            let receipt = receipt.await?;
            ensure!(receipt.status == SendStatus::Ok, "status {:?}", receipt.status);
            ids.push((receipt.queue_offset, receipt.message_id.clone()));
            sent.insert(receipt.message_id, message);
        }
    }
    ensure!(ids.is_sorted_by_key(|(offset, _)| *offset), "offsets do not follow the order of sending");
    let stored = cluster.stored(&topic).await?;
    let found: Vec<_> = stored.iter().map(|message| message.message_id().into_owned()).collect();
    let expected: Vec<_> = ids.into_iter().map(|(_, id)| id).collect();
    let differs = found.iter().zip(&expected).position(|(one, other)| one != other);
    ensure!(differs.is_none() && found.len() == COUNT, "{} stored; out of order from {differs:?} on", found.len());
    expect_all_same(&sent, &stored)?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn every_property_a_user_may_set_arrives(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let message = Message::new(&topic, "body")
        .flag(-7)
        .tag("eu")
        .keys(["k-1", "ключ"])
        .sharding_key("user-7")
        .check_immunity(Duration::from_secs(90))
        .light_queues(["%LMQ%one", "%LMQ%other"])
        .unique_id("an-id-of-my-own")
        .property("colour", "blue");
    // Brokers of 4.9.7 heed the wish not to wait, and do not store it.
    let receipt = producer.send(message.clone().wait_store(false)).await?;
    ensure!(receipt.message_id == "an-id-of-my-own", "the id is {}", receipt.message_id);
    let stored = eventually(SOON, async || cluster.stored(&topic).await?.pop().context("not stored yet")).await?;
    expect_same(&message, &stored)?;
    let expected = [
        ("CHECK_IMMUNITY_TIME_IN_SECONDS", "90"),
        ("INNER_MULTI_DISPATCH", "%LMQ%one,%LMQ%other"),
        ("__SHARDINGKEY", "user-7"),
        ("KEYS", "k-1 ключ"),
    ];
    for (name, value) in expected {
        ensure!(stored.property(name) == Some(value), "{name} is {:?}", stored.property(name));
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_batch_lies_in_one_queue_in_order(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(4).await?;
    let (producer, inbox, group) = (cluster.producer().await?, Inbox::new(), random_name("group"));
    let mut sent = Sent::new();
    let mut batches = Vec::new();
    for batch in 0..10 {
        let messages: Vec<_> = (0..32).map(|index| varied(&topic, batch * 32 + index)).collect();
        let receipt = producer.send_batch(messages.clone()).await?;
        ensure!(receipt.message_ids.len() == 32, "{} ids for 32 messages", receipt.message_ids.len());
        sent.extend(receipt.message_ids.iter().cloned().zip(messages));
        batches.push(receipt);
    }
    ensure!(sent.len() == 320, "{} different ids for 320 messages", sent.len());
    let stored = cluster.stored(&topic).await?;
    expect_all_same(&sent, &stored)?;
    for receipt in &batches {
        for (id, offset) in receipt.message_ids.iter().zip(receipt.queue_offset..) {
            let found = stored.iter().find(|message| *message.message_id() == **id);
            let place = found.map(|message| (message.queue_id(), message.queue_offset()));
            ensure!(place == Some((receipt.queue.queue_id, offset)), "{id} is at {place:?}, expected offset {offset}");
        }
    }
    let queues: BTreeSet<_> = batches.iter().map(|receipt| receipt.queue.queue_id).collect();
    ensure!(queues.len() == 4, "ten batches went to the queues {queues:?} only");
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_priority_chooses_the_queue(cluster: &Cluster) -> Result<()> {
    const QUEUES: i32 = 4;
    let topic = cluster.priority_topic(QUEUES).await?;
    let ordinary = cluster.topic(QUEUES).await?;
    let producer = cluster.producer().await?;
    for topic in [&ordinary, &topic] {
        for priority in [0, 1, 2, 3, 7] {
            let receipt = producer.send(Message::new(topic, format!("{priority}")).priority(priority)).await?;
            let expected = i32::from(priority).min(QUEUES - 1);
            ensure!(receipt.queue.queue_id == expected, "priority {priority} went to {}", receipt.queue);
        }
    }
    let popper = PopConsumer::builder(random_name("group")).name_servers([cluster.name_server()]);
    let config = PopConfig { start_at: StartAt::First, ..Default::default() };
    let popper = popper.config(config).subscribe(&topic, Filter::all()).start().await?;
    let mut bodies = Vec::new();
    while bodies.len() < 5 {
        for message in popper.receive(1, SOON).await? {
            bodies.push(String::from_utf8_lossy(message.body()).into_owned());
            message.ack().await?;
        }
    }
    ensure!(bodies == ["3", "7", "2", "1", "0"], "popped as {bodies:?}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
