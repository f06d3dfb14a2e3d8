//! Topics whose queues are not simply those of their brokers.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{ClientConfig, Message, MessageQueue, message::names::java_hash};
use rocketmq_consumer::Filter;
use rocketmq_producer::{Error, Producer, ProducerConfig, Select};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};

pub(crate) async fn a_static_topic_is_one_and_its_queues_may_move(cluster: &Cluster) -> Result<()> {
    const QUEUES: i32 = 4;
    let topic = cluster.static_topic(QUEUES).await?;
    let producer = cluster.producer().await?;
    let client = cluster.client().await?;
    let route = eventually(SOON, async || {
        let seen = client.known_route(&topic).map_or(0, |route| route.generation());
        let route = client.newer_route(&topic.as_str().into(), seen).await?;
        let brokers: BTreeSet<_> = route.write_queues().iter().map(|queue| route.broker_of(queue).clone()).collect();
        ensure!(brokers.len() == 2, "queues on {brokers:?}");
        Ok(route)
    })
    .await?;
    let logical: Vec<_> = (0..QUEUES).map(|id| MessageQueue::new(topic.as_str(), "__syslo__global__", id)).collect();
    ensure!(route.write_queues() == logical && route.read_queues() == logical, "{route:?}");
    let (mut sent, mut offsets) = (BTreeSet::new(), BTreeMap::<_, Vec<i64>>::new());
    for index in 0..40 {
        let receipt = producer.send(Message::new(&topic, format!("{index}")).tag("tag")).await?;
        offsets.entry(receipt.queue).or_default().push(receipt.queue_offset);
        sent.insert(receipt.message_id);
    }
    for queue in &logical {
        ensure!(offsets.get(queue) == Some(&(0..10).collect()), "{queue} has {:?}", offsets.get(queue));
    }
    for key in ["a", "b", "c", "order-created", "user-7"] {
        let receipt = producer.send(Message::new(&topic, key).sharding_key(key)).await?;
        let queue = &logical[usize::try_from((java_hash(key) % QUEUES).unsigned_abs())?];
        ensure!(receipt.queue == *queue, "{key} went to {}, Java sends it to {queue}", receipt.queue);
        sent.insert(receipt.message_id);
    }
    for queue in &logical {
        let (min, max) = (client.min_offset(queue).await?, client.max_offset(queue).await?);
        ensure!(min == 0 && max >= 10, "{queue} reaches from {min} to {max}");
    }
    cluster.at("consuming");
    let (inbox, group) = (Inbox::new(), random_name("group"));
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has_each_once(&sent, SOON).await?;
    let came: BTreeSet<_> = inbox.messages().iter().map(|message| message.queue()).collect();
    ensure!(came.iter().eq(&logical), "the messages say they came from {came:?}");
    let places: BTreeSet<_> =
        inbox.messages().iter().map(|message| (message.queue_id(), message.queue_offset())).collect();
    ensure!(places.len() == sent.len(), "{} places for {} messages", places.len(), sent.len());
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    cluster.at("moving all queues to one broker");
    cluster.move_static_topic(&topic, "broker-b").await?;
    for index in 0..20 {
        let receipt = producer.send(Message::new(&topic, format!("after {index}")).tag("tag")).await?;
        ensure!(logical.contains(&receipt.queue), "{receipt:?}");
        sent.insert(receipt.message_id);
    }
    let route = producer.client().known_route(&topic).context("no route")?;
    ensure!(logical.iter().all(|queue| &**route.broker_of(queue) == "broker-b"), "{route:?}");
    inbox.has_each_once(&sent, SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_order_topic_has_the_queues_its_operator_gave(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic_on(2, 4).await?;
    let client = ClientConfig { route_refresh_interval: Duration::from_millis(100), ..ClientConfig::default() };
    let config =
        ProducerConfig { retries: 20, send_timeout: Duration::from_secs(20), client, ..ProducerConfig::default() };
    let builder = Producer::builder(random_name("producers")).name_servers([cluster.name_server()]);
    let producer = builder.config(config).start().await?;
    let mut sent = BTreeSet::from([producer.send(Message::new(&topic, "before")).await?.message_id]);
    let queues = |topic: &str| {
        let route = producer.client().known_route(topic);
        let queues = route.iter().flat_map(|route| route.write_queues());
        queues.map(|queue| format!("{}:{}", queue.broker_name, queue.queue_id)).collect::<Vec<_>>()
    };
    ensure!(queues(&topic).len() == 8, "{:?}", queues(&topic));
    cluster.put_kv("ORDER_TOPIC_CONFIG", &topic, "broker-b:2;broker-a:1").await?;
    cluster.at("waiting until the producer knows");
    let expected = ["broker-b:0", "broker-b:1", "broker-a:0"];
    eventually(SOON, async || {
        ensure!(queues(&topic) == expected, "{:?}", queues(&topic));
        Ok(())
    })
    .await?;
    let mut used = BTreeMap::<_, usize>::new();
    for index in 0..30 {
        let receipt = producer.send(Message::new(&topic, format!("{index}"))).await?;
        *used.entry(format!("{}:{}", receipt.queue.broker_name, receipt.queue.queue_id)).or_default() += 1;
        sent.insert(receipt.message_id);
    }
    ensure!(expected.iter().all(|queue| used.get(*queue) == Some(&10)) && used.len() == 3, "{used:?}");
    for key in ["a", "b", "c", "order-created", "user-7"] {
        let receipt = producer.send(Message::new(&topic, key).sharding_key(key)).await?;
        let index = usize::try_from((java_hash(key) % 3).unsigned_abs())?;
        let queue = format!("{}:{}", receipt.queue.broker_name, receipt.queue.queue_id);
        ensure!(queue == expected[index], "{key} went to {queue}, Java sends it to {}", expected[index]);
        sent.insert(receipt.message_id);
    }
    cluster.at("consuming");
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has_each_once(&sent, SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn sends_go_on_when_queues_become_fewer(cluster: &Cluster) -> Result<()> {
    const CALLERS: usize = 8;
    let topic = cluster.topic(8).await?;
    let config = ProducerConfig { send_timeout: SOON, retries: 5, ..Default::default() };
    let lingering = ProducerConfig { linger: Duration::from_millis(5), ..config.clone() };
    let (plain, lingering) = (cluster.producer_with(config).await?, cluster.producer_with(lingering).await?);
    let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let producer = if caller < CALLERS / 2 { plain.clone() } else { lingering.clone() };
        let (topic, is_over, sent) = (topic.clone(), is_over.clone(), sent.clone());
        callers.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let message = Message::new(&topic, "body");
                let message = if caller % 2 == 0 { message } else { message.sharding_key(format!("key {caller}")) };
                producer.send(message).await?;
                sent.fetch_add(1, Ordering::Relaxed);
                // A turn for the others, on a machine that is busy.
                sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, Error>(())
        });
    }
    let reaches = async |count| {
        eventually(SOON, async || {
            let sent = sent.load(Ordering::Relaxed);
            ensure!(sent >= count, "{sent} of {count} sent");
            Ok(())
        })
        .await
    };
    reaches(200).await?;
    cluster.at("with one queue");
    cluster.create_topic(&topic, usize::MAX, 1).await?;
    let before = sent.load(Ordering::Relaxed);
    // One that has failed may wait for others.
    let went_on = reaches(before + 200).await;
    is_over.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller?.context("a send failed")?;
    }
    went_on?;
    let queue = MessageQueue::new(topic.as_str(), "broker-a", 7);
    let gone = plain.send_to(Select::queue(&queue), Message::new(&topic, "body")).await;
    ensure!(matches!(gone, Err(Error::NoSuchQueue { .. })), "a queue that is no more: {gone:?}");
    lingering.shutdown().await?;
    Ok(plain.shutdown().await?)
}
