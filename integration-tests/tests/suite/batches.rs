//! Lists of messages: divided, sent to a queue, compressed.

use crate::{
    cluster::{Cluster, random_name},
    compressed::{Raw, split},
    inbox::Inbox,
    parcel::{Sent, body, expect_all_same},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Message, MessageError, MessageQueue, random::random_u64};
use rocketmq_consumer::Filter;
use rocketmq_producer::{Compression, Error, ProducerConfig, Select};
use std::time::Duration;

pub(crate) async fn a_long_list_is_divided_and_arrives_in_order(cluster: &Cluster) -> Result<()> {
    const MESSAGES: usize = 9000;
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let messages: Vec<_> =
        (0..MESSAGES).map(|n| Message::new(&topic, body(n, 1000)).property("n", n.to_string())).collect();
    let whole = producer.send_batch(messages.clone()).await;
    let refused = matches!(whole, Err(Error::Message(MessageError::BodyTooLarge { .. })));
    ensure!(refused, "a list of 9 MB came to {whole:?}");
    let parts = producer.split_batch(messages);
    ensure!(parts.len() == 3, "{} parts", parts.len());
    for part in parts {
        producer.send_batch(part).await?;
    }
    let stored = eventually(SOON, async || {
        let stored = cluster.stored(&topic).await?;
        ensure!(stored.len() == MESSAGES, "{} of {MESSAGES} messages stored", stored.len());
        Ok(stored)
    })
    .await?;
    for (n, message) in stored.iter().enumerate() {
        let is_in_place = message.property("n") == Some(&n.to_string()) && message.body() == &body(n, 1000);
        ensure!(is_in_place, "at {n} lies {:?}", message.property("n"));
    }
    ensure!(producer.split_batch(Vec::new()).is_empty(), "parts of nothing");
    let too_large = vec![Message::new(&topic, "a"), Message::new(&topic, vec![0; 5 << 20]), Message::new(&topic, "b")];
    let lens: Vec<_> = producer.split_batch(too_large).iter().map(Vec::len).collect();
    ensure!(lens == [1, 1, 1], "parts of {lens:?}");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_batch_goes_to_the_queue_of_ones_choice(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(5).await?;
    let producer = cluster.producer().await?;
    let queues = cluster.queues(&topic).await?;
    let two = || vec![Message::new(&topic, "one"), Message::new(&topic, "other")];
    for queue in &queues {
        let receipt = producer.send_batch_to(Select::queue(queue), two()).await?;
        ensure!(receipt.queue == *queue, "meant for {queue}, went to {}", receipt.queue);
        let receipt = producer.send_batch_async(two()).await?.await?;
        ensure!(receipt.message_ids.len() == 2, "{receipt:?}");
    }
    let nowhere = MessageQueue::new(topic.as_str(), "broker-a", 5);
    let refused = producer.send_batch_to(Select::queue(&nowhere), two()).await;
    ensure!(matches!(refused, Err(Error::NoSuchQueue { .. })), "no queue came to {refused:?}");
    let stored = eventually(SOON, async || {
        let stored = cluster.stored(&topic).await?;
        ensure!(stored.len() == 20, "{} of 20 messages stored", stored.len());
        Ok(stored)
    })
    .await?;
    ensure!(
        queues.iter().all(|queue| stored.iter().filter(|m| m.queue_id() == queue.queue_id).count() >= 2),
        "{stored:?}"
    );
    Ok(producer.shutdown().await?)
}

pub(crate) async fn bodies_of_a_batch_lie_compressed_and_arrive_whole(cluster: &Cluster) -> Result<()> {
    let codecs = [(Compression::Zlib, 0x301), (Compression::Lz4, 0x101), (Compression::Zstd, 0x201)];
    for (compression, bits) in codecs {
        cluster.at(format!("{compression}"));
        let topic = cluster.topic(2).await?;
        let send_timeout = Duration::from_secs(20);
        let compression = Some(compression);
        let config = ProducerConfig { compression, retries: 20, send_timeout, ..Default::default() };
        let producer = cluster.producer_with(config).await?;
        let noise = |bytes: usize| -> Vec<u8> { (0..=bytes / 8).flat_map(|_| random_u64().to_be_bytes()).collect() };
        let batches: [(&str, i32, Vec<Vec<u8>>); 3] = [
            ("large", bits, vec![b"small".to_vec(), body(1, 64).repeat(100), body(2, 64).repeat(200)]),
            ("small", 0, vec![body(3, 64), body(4, 1000)]),
            ("noise", 0, vec![noise(5000), noise(6000)]),
        ];
        let mut sent = Sent::new();
        for (kind, _, bodies) in &batches {
            let message = |body: &Vec<u8>| Message::new(&topic, body.clone()).tag("tag").property("kind", kind);
            let messages: Vec<_> = bodies.iter().map(message).collect();
            let receipt = producer.send_batch(messages.clone()).await?;
            sent.extend(receipt.message_ids.into_iter().zip(messages));
        }
        let records = eventually(SOON, async || {
            let pulled = cluster.stored_records(&topic).await?;
            let records: Vec<Raw> = pulled.iter().map(|(_, body)| split(body)).collect::<Result<Vec<_>>>()?.concat();
            ensure!(records.len() == sent.len(), "{} of {} messages stored", records.len(), sent.len());
            Ok(records)
        })
        .await?;
        for record in records {
            let expected =
                batches.iter().find(|(kind, ..)| record.properties.contains(&format!("kind\u{1}{kind}\u{2}")));
            let (kind, expected, _) = expected.context("a message nobody sent")?;
            ensure!(record.sys_flag & 0x701 == *expected, "{kind}: the system flag is {:#x}", record.sys_flag);
        }
        expect_all_same(&sent, &cluster.stored(&topic).await?)?;
        let inbox = Inbox::new();
        let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
        let consumer = consumer.listener(inbox.listener()).start().await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        expect_all_same(&sent, &inbox.messages())?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_batch_of_one_sharding_key_goes_to_the_queue_of_the_key(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(8).await?;
    let producer = cluster.producer().await?;
    let keyed = |key: &str| Message::new(&topic, "body").sharding_key(key);
    for key in ["user-1", "user-2", "user-3"] {
        let queue = producer.send(keyed(key)).await?.queue;
        for _ in 0..3 {
            let receipt = producer.send_batch(vec![keyed(key), keyed(key)]).await?;
            ensure!(receipt.queue == queue, "a batch of {key} went to {}, a message to {queue}", receipt.queue);
        }
        let receipt = producer.send_batch_async(vec![keyed(key), keyed(key)]).await?.await?;
        ensure!(receipt.queue == queue, "a queued batch of {key} went to {}, a message to {queue}", receipt.queue);
    }
    for mixed in [vec![keyed("user-1"), keyed("user-2")], vec![keyed("user-1"), Message::new(&topic, "body")]] {
        let refused = producer.send_batch(mixed).await;
        let is_refused = matches!(refused, Err(Error::Message(MessageError::ShardingKeysInBatch)));
        ensure!(is_refused, "different keys came to {refused:?}");
    }
    Ok(producer.shutdown().await?)
}
