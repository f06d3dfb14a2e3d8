//! A queue of the sender's choice.

use crate::{
    cluster::{Cluster, random_name},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Message, MessageQueue, StoredMessage, message::names::java_hash};
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::{Error, Producer, ProducerConfig, Select};
use std::collections::BTreeMap;

/// A topic of five queues, and these in the order in which Java has them.
async fn five_queues(cluster: &Cluster) -> Result<(String, Vec<MessageQueue>)> {
    let topic = cluster.topic(5).await?;
    let queues = cluster.client().await?.route(&topic.as_str().into()).await?.write_queues().to_vec();
    let ids: Vec<_> = queues.iter().map(|queue| queue.queue_id).collect();
    ensure!(ids == [0, 1, 2, 3, 4], "the queues come as {ids:?}");
    Ok((topic, queues))
}

/// Java: `Math.abs(key.hashCode() % queues.size())`.
fn of_java<'q>(key: &str, queues: &'q [MessageQueue]) -> Result<&'q MessageQueue> {
    let remainder = i64::from(java_hash(key)) % i64::try_from(queues.len())?;
    queues.get(usize::try_from(remainder.abs())?).context("no such queue")
}

/// All that is stored, once it is so many messages.
async fn stored(cluster: &Cluster, topic: &str, count: usize) -> Result<Vec<StoredMessage>> {
    eventually(SOON, async || {
        let stored = cluster.stored(topic).await?;
        ensure!(stored.len() == count, "{} of {count} messages stored", stored.len());
        Ok(stored)
    })
    .await
}

pub(crate) async fn messages_of_one_key_lie_in_the_queue_java_picks_in_order(cluster: &Cluster) -> Result<()> {
    const ROUNDS: usize = 20;
    let (topic, queues) = five_queues(cluster).await?;
    let producer = cluster.producer().await?;
    // The hash of the second is negative, that of the last 0.
    let keys = ["user-7", "order-created", "TagA", "ключ", "🚀", "\u{0}"];
    for round in 0..ROUNDS {
        for key in keys {
            let message = Message::new(&topic, format!("{key}/{round}")).sharding_key("elsewhere");
            // The key of the call goes before that of the message, which alone is enough.
            let receipt = match round % 2 {
                0 => producer.send_to(Select::hash(key), message).await?,
                _ => producer.send(Message::new(&topic, format!("{key}/{round}")).sharding_key(key)).await?,
            };
            let expected = of_java(key, &queues)?;
            ensure!(receipt.queue == *expected, "key {key:?} went to {}, Java says {expected}", receipt.queue);
        }
    }
    let stored = stored(cluster, &topic, ROUNDS * keys.len()).await?;
    let mut by_key: BTreeMap<String, Vec<(i32, String)>> = BTreeMap::new();
    for message in &stored {
        let body = String::from_utf8(message.body().to_vec())?;
        let (key, round) = body.split_once('/').context("a body nobody sent")?;
        by_key.entry(key.to_owned()).or_default().push((message.queue_id(), round.to_owned()));
    }
    for key in keys {
        let queue_id = of_java(key, &queues)?.queue_id;
        let expected: Vec<_> = (0..ROUNDS).map(|round| (queue_id, round.to_string())).collect();
        let found = by_key.get(key);
        ensure!(found == Some(&expected), "messages of key {key:?} lie as {found:?}");
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_queue_of_ones_choice_is_the_one(cluster: &Cluster) -> Result<()> {
    let (topic, queues) = five_queues(cluster).await?;
    let producer = cluster.producer().await?;
    let mut expected: BTreeMap<String, i32> = BTreeMap::new();
    let expect_in = |receipt: rocketmq_producer::SendReceipt, queue: &MessageQueue| {
        ensure!(receipt.queue == *queue, "meant for {queue}, went to {}", receipt.queue);
        Ok(())
    };
    for queue in &queues {
        let mut message = |way: &str| {
            let id = random_name(way);
            expected.insert(id.clone(), queue.queue_id);
            Message::new(&topic, "body").unique_id(id)
        };
        expect_in(producer.send_to(Select::queue(queue), message("send")).await?, queue)?;
        // A selector sees the queues and the message.
        let at = usize::try_from(queue.queue_id)?;
        let by = Select::by(move |queues, message| queues.len() - 5 + message.body().len() - 4 + at);
        expect_in(producer.send_to(by.clone(), message("by")).await?, queue)?;
        expect_in(producer.send_async_to(Select::queue(queue), message("async")).await?.await?, queue)?;
        expect_in(producer.send_async_to(by, message("async-by")).await?.await?, queue)?;
        producer.send_oneway_to(Select::queue(queue), message("oneway")).await?;
    }
    let mut used = [0; 5];
    for _ in 0..100 {
        let receipt = producer.send_to(Select::random(), Message::new(&topic, "anywhere")).await?;
        let used = usize::try_from(receipt.queue.queue_id).ok().and_then(|at| used.get_mut(at));
        *used.with_context(|| format!("{} is none of five", receipt.queue))? += 1;
    }
    // All fall into one of the others in one of 10^9 runs.
    ensure!(used.iter().all(|count| *count > 0), "at random, the queues got {used:?} messages");
    for message in stored(cluster, &topic, expected.len() + 100).await? {
        if let Some(queue_id) = expected.remove(&*message.message_id()) {
            ensure!(message.queue_id() == queue_id, "{} lies in {}", message.message_id(), message.queue());
        }
    }
    ensure!(expected.is_empty(), "not stored: {expected:?}");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_choice_that_is_none_sends_nothing(cluster: &Cluster) -> Result<()> {
    let (topic, queues) = five_queues(cluster).await?;
    let producer = cluster.producer_with(ProducerConfig::default()).await?;
    let broker_name = queues.first().context("no queue")?.broker_name.clone();
    let no_queues = [
        MessageQueue::new(&*topic, broker_name.clone(), 5),
        MessageQueue::new(&*topic, broker_name.clone(), -1),
        MessageQueue::new(&*topic, "no-such-broker", 0),
        MessageQueue::new("another-topic", broker_name, 0),
    ];
    for queue in no_queues {
        for result in all_ways(&producer, &Select::queue(&queue), &topic).await {
            let refused = matches!(&result, Some(Error::NoSuchQueue { queue: named }) if *named == queue);
            ensure!(refused, "sending to {queue} came to {result:?}");
        }
    }
    for index in [5, usize::MAX] {
        for result in all_ways(&producer, &Select::by(move |_, _| index), &topic).await {
            let refused = matches!(&result, Some(Error::BadSelection { index: i, count: 5, .. }) if *i == index);
            ensure!(refused, "sending to queue {index} of 5 came to {result:?}");
        }
    }
    if !cluster.is_real() {
        let sent = cluster.dev().received(RequestCode::SEND_MESSAGE_V2);
        ensure!(sent == 0, "{sent} sends reached the broker");
    }
    // What comes after is all there is: nothing had been on its way.
    for queue in &queues {
        let receipt = producer.send_to(Select::queue(queue), Message::new(&topic, "body")).await?;
        ensure!(receipt.queue_offset == 0, "{queue} already had {} messages", receipt.queue_offset);
    }
    Ok(producer.shutdown().await?)
}

async fn all_ways(producer: &Producer, select: &Select, topic: &str) -> [Option<Error>; 3] {
    let message = || Message::new(topic, "body");
    [
        producer.send_to(select.clone(), message()).await.err(),
        producer.send_async_to(select.clone(), message()).await.err(),
        producer.send_oneway_to(select.clone(), message()).await.err(),
    ]
}
