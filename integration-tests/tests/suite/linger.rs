//! Single sends that travel together.

use crate::{
    cluster::Cluster,
    parcel::{Sent, expect_all_same, varied},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Message, StoredMessage};
use rocketmq_dev_broker::{RequestCode, ResponseCode};
use rocketmq_producer::{ClientError, Error, Producer, ProducerConfig, Select, SendReceipt};
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::JoinSet, time::Instant};

async fn lingering(cluster: &Cluster, linger: Duration) -> Result<Producer> {
    let send_timeout = Duration::from_secs(20);
    cluster.producer_with(ProducerConfig { linger, retries: 20, send_timeout, ..Default::default() }).await
}

async fn stored(cluster: &Cluster, topic: &str, count: usize) -> Result<Vec<StoredMessage>> {
    eventually(SOON, async || {
        let stored = cluster.stored(topic).await?;
        ensure!(stored.len() == count, "{} of {count} messages stored", stored.len());
        Ok(stored)
    })
    .await
}

fn expect_where_told(receipts: &[SendReceipt], stored: &[StoredMessage]) -> Result<()> {
    let places: BTreeMap<_, _> = stored
        .iter()
        .map(|message| (message.message_id().into_owned(), (message.queue_id(), message.queue_offset())))
        .collect();
    for receipt in receipts {
        let told = (receipt.queue.queue_id, receipt.queue_offset);
        let place = places.get(&receipt.message_id);
        ensure!(place == Some(&told), "{} lies at {place:?}, the receipt says {told:?}", receipt.message_id);
        ensure!(receipt.offset_id.len() == 32, "the offset id is {:?}", receipt.offset_id);
    }
    Ok(())
}

pub(crate) async fn single_sends_travel_in_batches_and_get_their_own_receipts(cluster: &Cluster) -> Result<()> {
    const CALLERS: usize = 32;
    const EACH: usize = 40;
    let topic = cluster.topic(4).await?;
    let producer = lingering(cluster, Duration::from_millis(20)).await?;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (producer, topic) = (producer.clone(), topic.clone());
        callers.spawn(async move {
            let mut sent = Vec::new();
            for index in 0..EACH {
                let message = varied(&topic, caller * EACH + index);
                sent.push((producer.send(message.clone()).await?, message));
            }
            Ok::<_, Error>(sent)
        });
    }
    let (mut sent, mut receipts) = (Sent::new(), Vec::new());
    while let Some(done) = callers.join_next().await {
        for (receipt, message) in done?? {
            sent.insert(receipt.message_id.clone(), message);
            receipts.push(receipt);
        }
    }
    ensure!(sent.len() == CALLERS * EACH, "{} ids", sent.len());
    if !cluster.is_real() {
        let batches = cluster.dev().received(RequestCode::SEND_BATCH_MESSAGE);
        let singles = cluster.dev().received(RequestCode::SEND_MESSAGE_V2);
        let requests = usize::try_from(batches + singles)?;
        ensure!(batches > 0 && requests < CALLERS * EACH / 3, "{batches} batches and {singles} single sends");
    }
    // What cannot share a batch goes by itself: it is delayed, or large.
    let delayed = producer.send(Message::new(&topic, "later").delay_level(1)).await?;
    let large = producer.send(Message::new(&topic, vec![7; 100_000])).await?;
    let all = stored(cluster, &topic, CALLERS * EACH + 2).await?;
    let is_extra = |id: &str| id == delayed.message_id || id == large.message_id;
    let (extra, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|message| is_extra(&message.message_id()));
    ensure!(extra.len() == 2, "{} of the two others are stored", extra.len());
    expect_all_same(&sent, &all)?;
    expect_where_told(&receipts, &all)?;
    // A flush lets nobody linger.
    let patient = lingering(cluster, Duration::from_secs(10)).await?;
    let began = Instant::now();
    let mut pending = Vec::new();
    for index in 0..10 {
        pending.push(patient.send_async(Message::new(&topic, format!("{index}"))).await?);
    }
    patient.flush().await;
    let mut receipts = Vec::new();
    for receipt in pending {
        receipts.push(receipt.await?);
    }
    ensure!(began.elapsed() < Duration::from_secs(10), "the flush took {:?}", began.elapsed());
    expect_where_told(&receipts, &stored(cluster, &topic, CALLERS * EACH + 12).await?)?;
    // So does a shutdown.
    drop(patient.send_async(Message::new(&topic, "last")).await?);
    patient.shutdown().await?;
    stored(cluster, &topic, CALLERS * EACH + 13).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn messages_of_a_queue_stay_in_order_whatever_they_travel_in(cluster: &Cluster) -> Result<()> {
    const EACH: usize = 150;
    let topic = cluster.topic(3).await?;
    let producer = lingering(cluster, Duration::from_millis(2)).await?;
    let keys = ["a", "b", "c", "d"];
    let mut pending = Vec::new();
    for index in 0..EACH {
        for key in keys {
            let padding = if index % 20 == 7 { 40_000 } else { index * 7 };
            let body = format!("{key} {index} {}", "x".repeat(padding));
            let message = match index % 2 {
                0 => producer.send_async_to(Select::hash(key), Message::new(&topic, body)).await?,
                _ => producer.send_async(Message::new(&topic, body).sharding_key(key)).await?,
            };
            pending.push(message);
        }
    }
    for receipt in pending {
        receipt.await?;
    }
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for message in stored(cluster, &topic, EACH * keys.len()).await? {
        let text = String::from_utf8(message.body().to_vec())?;
        let mut words = text.split(' ');
        let key = words.next().context("no key")?.to_owned();
        by_key.entry(key).or_default().push(words.next().context("no index")?.parse()?);
    }
    for key in keys {
        let found = by_key.get(key).map(Vec::as_slice);
        let expected: Vec<usize> = (0..EACH).collect();
        ensure!(found == Some(&expected), "{key} lies as {found:?}");
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_batch_that_fails_fails_for_its_own_messages(cluster: &Cluster) -> Result<()> {
    let topics = [cluster.topic(1).await?, cluster.topic(1).await?];
    let producer = lingering(cluster, Duration::from_secs(5)).await?;
    cluster.dev().on(RequestCode::SEND_BATCH_MESSAGE).answer(ResponseCode::MESSAGE_ILLEGAL).times(1);
    let mut pending = Vec::new();
    for index in 0..4 {
        for topic in &topics {
            let message = Message::new(topic, "b").unique_id(format!("{topic}-{index}"));
            pending.push((topic, format!("{topic}-{index}"), producer.send_async(message).await?));
        }
    }
    producer.flush().await;
    let mut failed: BTreeMap<&String, usize> = BTreeMap::new();
    for (topic, id, receipt) in pending {
        match receipt.await {
            Ok(receipt) => ensure!(receipt.message_id == id, "{id} got the receipt of {}", receipt.message_id),
            Err(Error::NotSent(not_sent)) => {
                ensure!(not_sent.message_id == id, "{id} got the failure of {}", not_sent.message_id);
                ensure!(*not_sent.topic == **topic, "{id} failed in topic {}", not_sent.topic);
                *failed.entry(topic).or_default() += 1;
            }
            Err(other) => anyhow::bail!("{id} came to {other:?}"),
        }
    }
    ensure!(failed.values().eq([&4]), "failed are {failed:?}");
    let stored: Vec<_> = topics.iter().map(|topic| cluster.dev().messages(topic).len()).collect();
    ensure!(stored.iter().sum::<usize>() == 4 && stored.contains(&0), "stored are {stored:?}");
    // A route that never comes fails everybody, too.
    cluster.dev().remove_topic("TBW102", "broker-a");
    producer.shutdown().await?;
    let producer = lingering(cluster, Duration::from_millis(5)).await?;
    let (one, other) = tokio::join!(
        producer.send(Message::new("nobody-has-it", "one")),
        producer.send(Message::new("nobody-has-it", "other")),
    );
    for result in [one, other] {
        let told = matches!(result, Err(Error::Client(ClientError::TopicNotFound { .. })));
        ensure!(told, "a topic nobody has came to {result:?}");
    }
    Ok(producer.shutdown().await?)
}
