//! The calls of a client: queues and groups in, offsets and members out.

use crate::{
    cluster::{Cluster, pull_everything, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rocketmq_common::{
    Client, Message, MessageQueue, StoredMessage,
    message::{DecodeLimits, OffsetId, decode_records, names::AUTO_CREATE_TOPIC},
    protocol::{PullMessage, SendMessage},
    remote::{Deadline, ResponseCode},
};
use rocketmq_consumer::Filter;
use rocketmq_integration_tests::real;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The only queue of a new topic, and a client that knows its broker.
async fn one_queue(cluster: &Cluster) -> Result<(Client, MessageQueue)> {
    let topic: Arc<str> = cluster.topic(1).await?.into();
    let client = cluster.client().await?;
    let queue = client.route(&topic).await?.write_queues().first().context("no queue")?.clone();
    Ok((client, queue))
}

/// A real broker lists a message a moment after it has stored it.
async fn expect_max_offset(client: &Client, queue: &MessageQueue, expected: i64) -> Result<()> {
    eventually(SOON, async || {
        let max = client.max_offset(queue).await?;
        ensure!(max == expected, "the next offset of {queue} is {max}, expected {expected}");
        Ok(())
    })
    .await
}

fn since_epoch_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) async fn messages_are_sent_and_pulled(cluster: &Cluster) -> Result<()> {
    let (client, queue) = one_queue(cluster).await?;
    let (min, max) = (client.min_offset(&queue).await?, client.max_offset(&queue).await?);
    ensure!((min, max) == (0, 0), "an empty queue begins at {min} and ends at {max}");
    let addr = client.master(&queue.broker_name)?;
    for index in 0..3_i64 {
        let request = SendMessage {
            producer_group: random_name("senders").into(),
            topic: queue.topic.clone(),
            default_topic: AUTO_CREATE_TOPIC.into(),
            default_topic_queue_nums: 4,
            queue_id: queue.queue_id,
            sys_flag: 0,
            born_timestamp_ms: since_epoch_ms(),
            flag: 7,
            properties: Some("colour\u{1}blue".to_owned()),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(false),
            broker_name: Some(queue.broker_name.clone()),
        };
        let body = Bytes::from(format!("body {index}"));
        let answer = client.send_message(&queue.broker_name, &request, body, Deadline::after(SOON)).await?;
        ensure!(answer.code == ResponseCode::SUCCESS, "sending was answered {}", answer.code);
        ensure!(answer.header.queue_id == queue.queue_id, "stored in queue {}", answer.header.queue_id);
        ensure!(answer.header.queue_offset == index, "message {index} is at {}", answer.header.queue_offset);
        let id: OffsetId = answer.header.offset_id.context("no offset id")?.parse()?;
        ensure!(id.host.to_string() == *addr, "stored at {}, sent to {addr}", id.host);
    }
    expect_max_offset(&client, &queue, 3).await?;
    ensure!(client.min_offset(&queue).await? == 0, "the queue no longer begins at 0");

    let request = pull_everything(&queue, 1);
    let awaited = client.pull_message(&addr, &request, Deadline::after(SOON)).await?;
    let pending = client.pull_message_async(&addr, &request, Deadline::after(SOON)).await?.await?;
    for answer in [&awaited, &pending] {
        let place = (answer.code, answer.header.next_begin_offset, answer.header.min_offset, answer.header.max_offset);
        ensure!(place == (ResponseCode::SUCCESS, 3, 0, 3), "a pull was answered {place:?}");
    }
    ensure!(!awaited.body.is_empty() && awaited.body == pending.body, "two pulls of the same messages differ");
    let records = decode_records(awaited.body, &queue.topic, &queue.broker_name, DecodeLimits::default());
    let messages: Vec<StoredMessage> = records.collect::<Result<_, _>>()?;
    let bodies: Vec<_> = messages.iter().map(|message| &**message.body()).collect();
    ensure!(bodies == [b"body 1", b"body 2"], "pulled the bodies {bodies:?}");
    for message in &messages {
        ensure!(message.flag() == 7 && message.property("colour") == Some("blue"), "came as {message:?}");
    }
    let beyond = client.pull_message(&addr, &pull_everything(&queue, 3), Deadline::after(SOON)).await?;
    ensure!(beyond.code == ResponseCode::PULL_NOT_FOUND, "a pull behind the last message came to {}", beyond.code);
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}

pub(crate) async fn offsets_are_found_by_time(cluster: &Cluster) -> Result<()> {
    let (client, queue) = one_queue(cluster).await?;
    let producer = cluster.producer().await?;
    for number in 1..=3 {
        producer.send(Message::new(&*queue.topic, "body")).await?;
        let sent = since_epoch_ms();
        expect_max_offset(&client, &queue, number).await?;
        // The next one is to be stored some milliseconds later.
        eventually(SOON, async || {
            ensure!(since_epoch_ms() > sent + 20, "the clock stands still");
            Ok(())
        })
        .await?;
    }
    let stored: Vec<_> = cluster.stored(&queue.topic).await?.iter().map(StoredMessage::store_timestamp_ms).collect();
    let [first, second, third] = stored[..] else { anyhow::bail!("stored at {stored:?}") };
    ensure!(first + 1 < second && second + 1 < third, "the times {stored:?} are too close to each other");
    // From 5.0 on the end, before that the last message.
    let is_old = cluster.is_real() && real::version().starts_with("4.");
    let after_last = if is_old { 2 } else { 3 };
    let cases = [
        ("before 1970", None, 0),
        ("long before the first", Some(first - 60_000), 0),
        ("just before the first", Some(first - 1), 0),
        ("of the first", Some(first), 0),
        ("of the second", Some(second), 1),
        ("just before the third", Some(third - 1), 2),
        ("of the third", Some(third), 2),
        ("after the last", Some(third + 1), after_last),
        ("long after the last", Some(third + 60_000), after_last),
    ];
    for (what, ms, expected) in cases {
        let time = match ms {
            Some(ms) => UNIX_EPOCH + Duration::from_millis(u64::try_from(ms)?),
            None => UNIX_EPOCH - Duration::from_secs(1),
        };
        let offset = client.offset_at(&queue, time).await?;
        ensure!(offset == expected, "the offset at the time {what} is {offset}, expected {expected}");
    }
    // Between two messages, 4.x takes the one that is nearer.
    if !is_old {
        let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(first + 1)?);
        let offset = client.offset_at(&queue, time).await?;
        ensure!(offset == 1, "the offset between the first and the second is {offset}");
    }
    client.shutdown(Deadline::after(SOON)).await;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn offsets_of_a_group_are_recorded(cluster: &Cluster) -> Result<()> {
    let (client, queue) = one_queue(cluster).await?;
    let (group, other): (Arc<str>, Arc<str>) = (random_name("group").into(), random_name("group").into());
    // A real broker knows a group once somebody has pulled for it.
    for group in [&group, &other] {
        let request = PullMessage { consumer_group: group.clone(), ..pull_everything(&queue, 0) };
        client.pull_message(&client.master(&queue.broker_name)?, &request, Deadline::after(SOON)).await?;
    }
    let none = client.consumer_offset(&group, &queue).await?;
    // A new group has none; 4.x says 0 of a queue that holds all it ever got.
    let is_old = cluster.is_real() && real::version().starts_with("4.");
    ensure!(none == if is_old { Some(0) } else { None }, "before anything is recorded, the offset is {none:?}");
    client.update_consumer_offset(&group, &queue, 5).await?;
    let recorded = client.consumer_offset(&group, &queue).await?;
    ensure!(recorded == Some(5), "recorded was 5, read {recorded:?}");
    client.update_consumer_offset_oneway(&group, &queue, 6).await?;
    eventually(SOON, async || {
        let recorded = client.consumer_offset(&group, &queue).await?;
        ensure!(recorded == Some(6), "recorded was 6, read {recorded:?}");
        Ok(())
    })
    .await?;
    let of_other = client.consumer_offset(&other, &queue).await?;
    ensure!(of_other == none, "another group has the offset {of_other:?}");
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}

pub(crate) async fn members_of_a_group_are_listed(cluster: &Cluster) -> Result<()> {
    let (client, queue) = one_queue(cluster).await?;
    let (group, inbox): (Arc<str>, _) = (random_name("group").into(), Inbox::new());
    let members = client.consumer_list(&group, &queue.topic).await?;
    ensure!(members.is_empty(), "a group without members has {members:?}");
    let consumer = || cluster.consumer(&group).subscribe(&*queue.topic, Filter::all()).listener(inbox.listener());
    let (one, other) = (consumer().start().await?, consumer().start().await?);
    let is_listed = async |expected: &[&str]| {
        let expected: BTreeSet<_> = expected.iter().copied().map(str::to_owned).collect();
        eventually(SOON, async || {
            let members: BTreeSet<_> = client.consumer_list(&group, &queue.topic).await?.into_iter().collect();
            ensure!(members == expected, "the group has the members {members:?}, expected {expected:?}");
            Ok(())
        })
        .await
    };
    let (id, other_id) = (one.client().id().clone(), other.client().id().clone());
    is_listed(&[&id, &other_id]).await?;
    one.shutdown().await?;
    is_listed(&[&other_id]).await?;
    other.shutdown().await?;
    is_listed(&[]).await?;
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}
