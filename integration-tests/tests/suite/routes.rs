//! Topics whose queues are not simply those of their brokers.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{ClientConfig, Message, message::names::java_hash};
use rocketmq_consumer::Filter;
use rocketmq_producer::{Producer, ProducerConfig};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
