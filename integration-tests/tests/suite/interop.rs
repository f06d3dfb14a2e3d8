//! What we send, a Java client reads unchanged; what it sends, we do.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    java::{Java, expect_as_java_sent, expect_same_in_java},
    parcel::varied,
    wait::SOON,
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Message, StoredMessage, message::names::java_hash};
use rocketmq_consumer::Filter;
use rocketmq_integration_tests::real;
use rocketmq_producer::{Compression, Error, Producer, ProducerConfig, TransactionState};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    time::{Duration, SystemTime},
};

fn config(compression: Option<Compression>) -> ProducerConfig {
    ProducerConfig { retries: 20, send_timeout: Duration::from_secs(20), compression, ..Default::default() }
}

pub(crate) async fn java_reads_all_that_we_send(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(4).await?;
    let java = Java::start(cluster, "consume", &topic, &random_name("java")).await?;
    // By id: the message, and the queue it went to, if that is told.
    let mut sent = BTreeMap::new();
    let producer = cluster.producer_with(config(None)).await?;
    for index in 0..40 {
        let message = varied(&topic, index);
        let receipt = producer.send(message.clone()).await?;
        sent.insert(receipt.message_id, (message, Some(receipt.queue.queue_id)));
    }
    let oneway = Message::new(&topic, "one-way").unique_id("0123456789ABCDEF0123456789ABCDEF");
    producer.send_oneway(oneway.clone()).await?;
    sent.insert("0123456789ABCDEF0123456789ABCDEF".to_owned(), (oneway, None));
    let batch: Vec<_> = (40..60).map(|index| varied(&topic, index)).collect();
    let receipt = producer.send_batch(batch.clone()).await?;
    for (id, message) in receipt.message_ids.into_iter().zip(batch) {
        sent.insert(id, (message, Some(receipt.queue.queue_id)));
    }
    for key in ["a", "order-created", "user-7", "ключ", "🚀"] {
        let message = Message::new(&topic, key).sharding_key(key);
        let receipt = producer.send(message.clone()).await?;
        let queue = i32::try_from((i64::from(java_hash(key)) % 4).abs())?;
        ensure!(receipt.queue.queue_id == queue, "{key} went to {}, Java sends it to {queue}", receipt.queue);
        sent.insert(receipt.message_id, (message, Some(queue)));
    }
    let mut later = vec![Message::new(&topic, "delayed").delay_level(1).tag("delay")];
    if !(cluster.is_real() && real::version().starts_with("4.")) {
        later.push(Message::new(&topic, "after").deliver_after(Duration::from_secs(2)));
        later.push(Message::new(&topic, "at").deliver_at(SystemTime::now() + Duration::from_secs(2)));
    }
    for message in later {
        let receipt = producer.send(message.clone()).await?;
        sent.insert(receipt.message_id, (message, None));
    }
    producer.shutdown().await?;
    for compression in [Compression::Zlib, Compression::Lz4, Compression::Zstd] {
        let producer = cluster.producer_with(config(Some(compression))).await?;
        for size in [4096, 300_000] {
            let body = crate::parcel::body(size, size);
            let message = Message::new(&topic, body).property("codec", format!("{compression:?}"));
            let receipt = producer.send(message.clone()).await?;
            sent.insert(receipt.message_id, (message, Some(receipt.queue.queue_id)));
        }
        producer.shutdown().await?;
    }
    let builder = Producer::builder(random_name("producers")).name_servers([cluster.name_server()]);
    let builder = builder.config(config(None)).transaction_checker(|_| ready(TransactionState::Commit));
    let producer = builder.start().await?;
    for (body, state) in [("yes", TransactionState::Commit), ("no", TransactionState::Rollback)] {
        let message = Message::new(&topic, body).key(body);
        let id = producer.send_in_transaction(message.clone(), |_| ready(state)).await?.receipt.message_id;
        if state == TransactionState::Commit {
            sent.insert(id, (message, None));
        }
    }
    producer.shutdown().await?;
    cluster.at("waiting for the Java client to read it");
    let read = java.has("message", sent.len()).await?;
    let mut ids = BTreeSet::new();
    for message in &read {
        let id = message["id"].as_str().context("no id")?;
        let (original, queue) = sent.get(id).with_context(|| format!("{id} was never sent: {message}"))?;
        expect_same_in_java(original, message)?;
        ensure!(queue.is_none_or(|queue| message["queue_id"] == queue), "{id} is in queue {}", message["queue_id"]);
        ensure!(ids.insert(id), "{id} came twice");
    }
    Ok(())
}

pub(crate) async fn we_read_all_that_java_sends(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(4).await?;
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let java = Java::start(cluster, "produce", &topic, &random_name("java")).await?;
    cluster.at("waiting for the Java client to send");
    java.has("ready", 1).await?;
    let sent = java.events("sent")?;
    let kinds: BTreeSet<_> = sent.iter().filter_map(|line| line["kind"].as_str()).collect();
    for kind in ["codec ZLIB", "codec LZ4", "codec ZSTD", "plain", "batch", "delay", "hash a", "commit", "check"] {
        ensure!(kinds.contains(kind), "Java sent {kinds:?}");
    }
    cluster.at("consuming");
    let ids: Vec<String> = sent.iter().filter_map(|line| line["id"].as_str().map(str::to_owned)).collect();
    inbox.has_each_once(&ids, SOON).await?;
    let came: BTreeMap<_, _> = inbox.messages().into_iter().map(|it| (it.message_id().into_owned(), it)).collect();
    for line in &sent {
        let message = line["id"].as_str().and_then(|id| came.get(id)).context("not consumed")?;
        expect_as_java_sent(line, message)?;
        if let Some(key) = line["kind"].as_str().and_then(|kind| kind.strip_prefix("hash ")) {
            let queue = i32::try_from((i64::from(java_hash(key)) % 4).abs())?;
            ensure!(message.queue_id() == queue, "Java sent {key} to {}, we to {queue}", message.queue_id());
        }
        if let Some(codec) = line["kind"].as_str().and_then(|kind| kind.strip_prefix("codec ")) {
            let bits = match codec {
                "LZ4" => 0x100,
                "ZSTD" => 0x200,
                _ => 0x300,
            };
            ensure!(message.sys_flag() & 0x700 == bits, "{codec}: the system flag is {:#x}", message.sys_flag());
        }
        if line["kind"] == "plain" {
            ensure!(message.keys().eq(["ключ", "鍵", "🚀"]) && message.flag() == -77, "{message:?}");
        }
    }
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn java_answers_our_requests(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let java = Java::start(cluster, "answer", &topic, &random_name("java")).await?;
    cluster.at("waiting for the Java client");
    java.has("ready", 1).await?;
    let producer = cluster.producer_with(config(Some(Compression::Lz4))).await?;
    for size in [1, 5000, 200_000] {
        let body = crate::parcel::body(size, size);
        let question = Message::new(&topic, body.clone()).tag("tag").keys(["k1", "k2"]).flag(9);
        let reply = producer.request(question, SOON).await?;
        ensure!(reply.body()[..] == body[..], "another body: {reply:?}");
        ensure!(reply.tag() == Some("tag") && reply.keys().eq(["k1", "k2"]) && reply.flag() == 9, "{reply:?}");
        ensure!(reply.property("größe") == Some("½ 🚀"), "{reply:?}");
    }
    ensure!(java.events("message")?.len() == 3, "another number of questions");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn we_answer_javas_requests(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let producer = cluster.producer_with(config(Some(Compression::Zstd))).await?;
    let replies = producer.clone();
    let listener = move |question: StoredMessage| {
        let replies = replies.clone();
        async move {
            let reply = question.reply(question.body().clone())?.tag("réply").key("key").property("größe", "½ 🚀");
            replies.send(reply).await?;
            Ok::<_, Error>(())
        }
    };
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(listener).start().await?;
    let java = Java::start(cluster, "ask", &topic, &random_name("java")).await?;
    cluster.at("waiting for the Java client");
    java.has("ready", 1).await?;
    let replies = java.events("reply")?;
    ensure!(replies.len() == 2, "{} replies", replies.len());
    for (reply, body) in replies.iter().zip(["short".to_owned(), "abcdefgh".repeat(10_000)]) {
        let expected = Message::new(reply["topic"].as_str().context("no topic")?, body);
        expect_same_in_java(&expected.tag("réply").key("key").property("größe", "½ 🚀"), reply)?;
    }
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}
