//! One broker of two does not answer, or does not know the group: the queues of the other one are consumed all the same.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{
    Message, MessageQueue,
    message::names::is_retry_topic,
    protocol::{ConsumeFrom, ConsumeType, ConsumerData, MessageModel},
    remote::ResponseCode,
};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_dev_broker::{DevCluster, RequestCode};
use rocketmq_producer::Select;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

const MEMBERS: RequestCode = RequestCode::GET_CONSUMER_LIST_BY_GROUP;

/// Two brokers of one's own.
async fn pair() -> Result<Cluster> {
    Ok(Cluster::of(DevCluster::builder().brokers(2).start().await?))
}

/// Topics that have queues on both brokers.
async fn topics(cluster: &Cluster, count: usize) -> Result<Vec<String>> {
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(cluster.topic(1).await?);
    }
    Ok(topics)
}

fn owned(consumer: &PushConsumer, broker_name: &str) -> usize {
    let owned = consumer.assigned_queues();
    owned.iter().filter(|queue| *queue.broker_name == *broker_name && !is_retry_topic(&queue.topic)).count()
}

pub(crate) async fn a_broker_that_does_not_answer_holds_no_topic_up(_: &Cluster) -> Result<()> {
    let cluster = &pair().await?;
    let topics = topics(cluster, 20).await?;
    for code in [MEMBERS, RequestCode::HEART_BEAT, RequestCode::PULL_MESSAGE, RequestCode::QUERY_CONSUMER_OFFSET] {
        cluster.dev().on(code).at_broker("broker-a").forget();
    }
    let mut builder = cluster.consumer(&random_name("group"));
    for topic in &topics {
        builder = builder.subscribe(topic, Filter::all());
    }
    let inbox = Inbox::new();
    let began = Instant::now();
    let consumer = builder.listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        let owned = owned(&consumer, "broker-b");
        ensure!(owned == topics.len(), "queues of broker-b in {owned} of {} topics", topics.len());
        Ok(())
    })
    .await?;
    // One after the other, each with its full time-out, they would take a minute.
    ensure!(began.elapsed() < Duration::from_secs(20), "assigned after {:?}", began.elapsed());
    let producer = cluster.producer().await?;
    for topic in &topics {
        producer
            .send_to(Select::queue(&MessageQueue::new(topic.as_str(), "broker-b", 0)), Message::new(topic, "b"))
            .await?;
    }
    inbox.has(topics.len(), SOON).await?;
    cluster.dev().clear_faults();
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn locks_of_one_broker_do_not_wait_for_another(_: &Cluster) -> Result<()> {
    let cluster = &pair().await?;
    let topics = topics(cluster, 10).await?;
    for code in [RequestCode::LOCK_BATCH_MQ, RequestCode::UNLOCK_BATCH_MQ] {
        cluster.dev().on(code).at_broker("broker-a").forget();
    }
    let mut builder = cluster.consumer(&random_name("group"));
    for topic in &topics {
        builder = builder.subscribe(topic, Filter::all());
    }
    let inbox = Inbox::new();
    let began = Instant::now();
    let consumer = builder.ordered_listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        let owned = owned(&consumer, "broker-b");
        ensure!(owned == topics.len(), "queues of broker-b in {owned} of {} topics", topics.len());
        Ok(())
    })
    .await?;
    ensure!(began.elapsed() < Duration::from_secs(12), "assigned after {:?}", began.elapsed());
    cluster.dev().clear_faults();
    eventually(SOON, async || {
        let owned = owned(&consumer, "broker-a");
        ensure!(owned == topics.len(), "queues of broker-a in {owned} of {} topics", topics.len());
        Ok(())
    })
    .await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_group_unknown_to_one_broker_is_consumed_at_the_other(_: &Cluster) -> Result<()> {
    let cluster = &pair().await?;
    let topic = cluster.topic(2).await?;
    // As brokers do that know no such group and may not create it.
    cluster.dev().on(MEMBERS).at_broker("broker-a").answer(ResponseCode::SYSTEM_ERROR);
    let pull = cluster.dev().on(RequestCode::PULL_MESSAGE).at_broker("broker-a");
    pull.answer(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let producer = cluster.producer().await?;
    let mut ids = BTreeSet::new();
    for index in 0..20 {
        let queue = MessageQueue::new(topic.as_str(), "broker-b", index % 2);
        ids.insert(producer.send_to(Select::queue(&queue), Message::new(&topic, "body")).await?.message_id);
    }
    inbox.has_each_once(&ids, SOON).await?;
    cluster.dev().clear_faults();
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_assignment_is_asked_of_another_broker(_: &Cluster) -> Result<()> {
    let cluster = &pair().await?;
    let topic = cluster.topic(2).await?;
    cluster.dev().on(RequestCode::QUERY_ASSIGNMENT).at_broker("broker-a").forget();
    let config =
        PushConfig { start_at: StartAt::First, rebalance_interval: Duration::from_secs(1), ..Default::default() };
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&random_name("group")).config(config).allocate_by_broker();
    let consumer = consumer.subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        ensure!(
            owned(&consumer, "broker-a") == 2 && owned(&consumer, "broker-b") == 2,
            "{:?}",
            consumer.assigned_queues()
        );
        Ok(())
    })
    .await?;
    // The broker that has answered is asked first from then on.
    let asked = cluster.dev().received(RequestCode::QUERY_ASSIGNMENT);
    eventually(SOON, async || {
        let more = cluster.dev().received(RequestCode::QUERY_ASSIGNMENT) - asked;
        ensure!(more >= 4, "asked {more} times");
        Ok(())
    })
    .await?;
    ensure!(cluster.dev().received(MEMBERS) == 0, "the members shared the queues out by themselves");
    cluster.dev().clear_faults();
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn heartbeats_to_one_broker_do_not_wait_for_another(_: &Cluster) -> Result<()> {
    let cluster = &pair().await?;
    let topic: Arc<str> = cluster.topic(1).await?.into();
    let client = cluster.client().await?;
    client.route(&topic).await?;
    let data = |group: &str| ConsumerData {
        group_name: group.to_owned(),
        consume_type: ConsumeType::Passively,
        message_model: MessageModel::Clustering,
        consume_from_where: ConsumeFrom::LastOffset,
        subscription_data_set: Vec::new(),
        unit_mode: false,
    };
    let (first, second): (Arc<str>, Arc<str>) = (random_name("group").into(), random_name("group").into());
    client.register_consumer(data(&first), Arc::default())?;
    client.register_consumer(data(&second), Arc::default())?;
    client.heartbeat().await;
    let (dev, codes) = (cluster.dev(), [RequestCode::HEART_BEAT, RequestCode::UNREGISTER_CLIENT]);
    codes.iter().for_each(|code| _ = dev.on(*code).at_broker("broker-a").forget());
    let began = Instant::now();
    client.heartbeat().await;
    let took = began.elapsed();
    ensure!(took < client.config().request_timeout, "the heartbeats took {took:?}");
    // A group that is left and entered again, while one broker does not say that it knows.
    let began = Instant::now();
    client.forget_consumer(&first);
    eventually(SOON, async || {
        ensure!(dev.received(RequestCode::UNREGISTER_CLIENT) >= 2, "the brokers have not been told");
        Ok(())
    })
    .await?;
    let before = dev.received(RequestCode::HEART_BEAT);
    client.register_consumer(data(&first), Arc::default())?;
    client.heartbeat().await;
    let took = began.elapsed();
    ensure!(took < client.config().request_timeout, "entered again after {took:?}");
    ensure!(dev.received(RequestCode::HEART_BEAT) > before, "no heartbeat");
    ensure!(dev.consumer_ids(&first) == [client.id().to_string()], "members {:?}", dev.consumer_ids(&first));
    dev.clear_faults();
    client.shutdown(client.request_deadline()).await;
    Ok(())
}
