//! Groups whose offset lies outside of their queue.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{Client, Message, MessageQueue, StoredMessage};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_dev_broker::{RequestCode, ResponseCode};
use rocketmq_producer::Producer;
use std::time::Duration;

pub(crate) async fn an_offset_beyond_the_end_is_corrected(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        cluster.at(if ordered { "in order" } else { "concurrently" });
        let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
        let (producer, client) = (cluster.producer().await?, cluster.client().await?);
        let of_topic = topic.clone();
        let mut sent = send_from(1, &producer, 10, move |index| varied(&of_topic, index)).await?;
        let start = async |inbox: &Inbox| start(cluster, (&topic, &group), ordered, inbox).await;
        // Brokers of 5.x take no offsets of a group that nobody has been in.
        let consumer = start(&Inbox::new()).await?;
        cluster.expect_recorded(&group, &topic, 10).await?;
        consumer.shutdown().await?;
        for queue in cluster.queues(&topic).await? {
            client.update_consumer_offset(&group.as_str().into(), &queue, 1000).await?;
        }
        cluster.expect_recorded(&group, &topic, 1000).await?;
        let consumer = start(&inbox).await?;
        // This member has pulled nothing yet, so it begins at the first message, not at the offset the broker suggests.
        inbox.has_each_once(sent.keys(), SOON).await?;
        cluster.expect_recorded(&group, &topic, 10).await?;
        let of_topic = topic.clone();
        sent.extend(send_from(1, &producer, 20, move |index| varied(&of_topic, 100 + index)).await?);
        inbox.has_each_once(sent.keys(), SOON).await?;
        cluster.expect_recorded(&group, &topic, 30).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

/// What is sent to a queue of a topic that was deleted and created again, fewer or more than it had before.
pub(crate) async fn a_topic_that_is_created_again_is_consumed_from_its_first_message(cluster: &Cluster) -> Result<()> {
    for (ordered, count) in [(false, 4), (true, 4), (false, 40)] {
        cluster.at(format!("{count} messages, in order: {ordered}"));
        // Whether a real one is deleted for long enough that the consumer hears of it is a matter of luck.
        if cluster.is_real() && count > 20 {
            continue;
        }
        let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
        let producer = cluster.producer().await?;
        let config =
            PushConfig { start_at: StartAt::First, long_poll: Duration::from_millis(500), ..Default::default() };
        let builder = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
        let builder = match ordered {
            true => builder.ordered_listener(inbox.listener()),
            false => builder.listener(inbox.listener()),
        };
        let consumer = builder.start().await?;
        let of_topic = topic.clone();
        let mut sent = send_from(1, &producer, 20, move |index| varied(&of_topic, index)).await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        cluster.expect_recorded(&group, &topic, 20).await?;
        if !cluster.is_real() {
            // Every pull is refused while the topic is away.
            cluster.dev().on(RequestCode::PULL_MESSAGE).answer(ResponseCode::TOPIC_NOT_EXIST);
            let before = cluster.dev().received(RequestCode::PULL_MESSAGE);
            eventually(SOON, async || {
                // Several of each queue: those that the broker holds have been answered by then.
                let pulls = cluster.dev().received(RequestCode::PULL_MESSAGE) - before;
                ensure!(pulls >= 9, "{pulls} pulls were refused");
                Ok(())
            })
            .await?;
        }
        cluster.delete_topic(&topic).await?;
        cluster.create_topic(&topic, usize::MAX, 2).await?;
        let of_topic = topic.clone();
        sent.extend(send_from(1, &producer, count, move |index| varied(&of_topic, 100 + index)).await?);
        if !cluster.is_real() {
            cluster.dev().clear_faults();
        }
        inbox.has_each_once(sent.keys(), SOON).await?;
        cluster.expect_recorded(&group, &topic, count).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn messages_that_are_gone_are_passed_over(cluster: &Cluster) -> Result<()> {
    let (client, producer) = (cluster.client().await?, cluster.producer().await?);
    let mut groups = Vec::new();
    for ordered in [false, true] {
        let (topic, group) = (cluster.topic(1).await?, random_name("group"));
        let of_topic = topic.clone();
        send_from(1, &producer, 10, move |index| varied(&of_topic, index)).await?;
        let consumer = start(cluster, (&topic, &group), ordered, &Inbox::new()).await?;
        cluster.expect_recorded(&group, &topic, 10).await?;
        consumer.shutdown().await?;
        send_files(&producer, &topic).await?;
        groups.push((topic, group, ordered));
    }
    for (topic, group, ordered) in groups {
        cluster.at(if ordered { "in order" } else { "concurrently" });
        let queue = &cluster.queues(&topic).await?[0];
        until_gone(&client, queue, 10).await?;
        // These lie in the last file, which stays.
        let of_topic = topic.clone();
        send_from(1, &producer, 10, move |index| varied(&of_topic, 1000 + index)).await?;
        let inbox = Inbox::new();
        let consumer = start(cluster, (&topic, &group), ordered, &inbox).await?;
        cluster.expect_recorded(&group, &topic, 120).await?;
        inbox.expect_no_repetition()?;
        let mut offsets: Vec<_> = inbox.messages().iter().map(StoredMessage::queue_offset).collect();
        offsets.sort_unstable();
        let first = *offsets.first().unwrap_or(&-1);
        ensure!((11..=110).contains(&first) && offsets.iter().copied().eq(first..120), "{offsets:?} came");
        consumer.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

/// Sends 100 messages to a topic of one queue: several files of the log.
pub(crate) async fn send_files(producer: &Producer, topic: &str) -> Result<()> {
    let topic = topic.to_owned();
    send_from(1, producer, 100, move |_| Message::new(&topic, vec![0; 64 * 1024])).await?;
    Ok(())
}

/// Waits until a broker that is forgetful has removed this message and all before it.
pub(crate) async fn until_gone(client: &Client, queue: &MessageQueue, offset: i64) -> Result<()> {
    eventually(FORGOTTEN, async || {
        let min = client.min_offset(queue).await?;
        ensure!(min > offset, "the first message is still {min}");
        Ok(())
    })
    .await
}

async fn start(cluster: &Cluster, (topic, group): (&str, &str), ordered: bool, inbox: &Inbox) -> Result<PushConsumer> {
    let builder = cluster.consumer(group).subscribe(topic, Filter::all());
    let builder = match ordered {
        true => builder.ordered_listener(inbox.listener()),
        false => builder.listener(inbox.listener()),
    };
    Ok(builder.start().await?)
}

/// Brokers begin to remove files a minute after their start.
const FORGOTTEN: Duration = Duration::from_secs(100);
