//! Which messages come: filters of the broker that need its help, and filters of one's own.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::SOON,
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{
    Message,
    message::names::java_hash,
    protocol::{ConsumeFrom, ConsumeType, ConsumerData, ExpressionType, MessageModel, SubscriptionData},
};
use rocketmq_consumer::{Error, Filter, StoredMessage};
use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(crate) async fn sql_picks_by_properties(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let (mut wanted, mut count) = (Vec::new(), 0);
    for amount in 0..40 {
        for region in ["eu", "us", "ünïçødé"] {
            let message = Message::new(&topic, format!("{amount}")).property("amount", amount.to_string());
            let message = if amount == 13 { message } else { message.property("region", region) };
            let id = producer.send(message.tag("t")).await?.message_id;
            count += 1;
            if amount > 10 && amount != 13 && region != "us" {
                wanted.push(id);
            }
        }
    }
    let filter = Filter::sql("amount > 10 AND region IN ('eu', 'ünïçødé') AND TAGS = 't'");
    let consumer = cluster.consumer(&group).subscribe(&topic, filter).listener(inbox.listener()).start().await?;
    inbox.has_each_once(&wanted, SOON).await?;
    cluster.expect_recorded(&group, &topic, count).await?;

    cluster.at("the filter changes");
    consumer.subscribe(&topic, Filter::sql("amount = 5")).await?;
    let id = producer.send(Message::new(&topic, "late").property("amount", "5")).await?.message_id;
    producer.send(Message::new(&topic, "late").property("amount", "6")).await?;
    wanted.push(id);
    inbox.has_each_once(&wanted, SOON).await?;
    cluster.expect_recorded(&group, &topic, count + 2).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn sql_that_the_broker_cannot_serve_is_a_typed_error(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    // On the dev broker, which is not set up for it, no expression is right.
    let expressions = if cluster.is_real() { vec!["amount >", "a AND"] } else { vec!["amount > 10"] };
    for expression in expressions {
        let inbox = Inbox::new();
        let builder = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::sql(expression));
        match builder.listener(inbox.listener()).start().await {
            Err(Error::FilterRefused { topic: of, source }) => {
                ensure!(of == topic, "the topic is said to be {of}");
                ensure!(
                    !source.to_string().is_empty() && source.response_code().is_some(),
                    "no reason is given: {source}"
                );
            }
            other => bail!("{expression:?} came to {other:?}"),
        }
    }
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let refused = consumer.subscribe(cluster.topic(1).await?, Filter::sql("amount >")).await;
    ensure!(matches!(refused, Err(Error::FilterRefused { .. })), "subscribing came to {refused:?}");
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_filter_of_ones_own_keeps_messages_from_the_listener(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let (mut wanted, mut count) = (Vec::new(), 0);
    for index in 0..100 {
        let id = producer.send(Message::new(&topic, format!("{index}"))).await?.message_id;
        count += 1;
        if index % 3 == 0 {
            wanted.push(id);
        }
    }
    let wants = |message: &StoredMessage| {
        let number = std::str::from_utf8(message.body()).ok().and_then(|body| body.parse::<usize>().ok());
        // A filter that fails keeps nothing from anybody.
        assert!(number != Some(99), "{}", crate::trials::ON_PURPOSE);
        number.is_some_and(|number| number % 3 == 0)
    };
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).filter(wants);
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has_each_once(&wanted, SOON).await?;
    cluster.expect_recorded(&group, &topic, count).await?;
    inbox.has_each_once(&wanted, SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// The filter of a group's other member is newer by its clock, which is an hour ahead.
pub(crate) async fn a_filter_changes_though_the_clock_of_its_host_is_behind(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let (producer, other) = (cluster.producer().await?, cluster.client().await?);
    other.route(&topic.as_str().into()).await?;
    let an_hour_ahead = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(3600);
    let subscription = SubscriptionData {
        topic: topic.clone(),
        sub_string: "old".to_owned(),
        tags_set: vec!["old".to_owned()],
        code_set: vec![java_hash("old")],
        sub_version: i64::try_from(an_hour_ahead.as_millis())?,
        expression_type: ExpressionType::Tag,
        class_filter_mode: false,
    };
    let data = ConsumerData {
        group_name: group.clone(),
        consume_type: ConsumeType::Passively,
        message_model: MessageModel::Clustering,
        consume_from_where: ConsumeFrom::FirstOffset,
        subscription_data_set: vec![subscription],
        unit_mode: false,
    };
    other.register_consumer(data, Arc::default())?;
    other.heartbeat().await;
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::tags("new")).listener(inbox.listener());
    let consumer = consumer.start().await?;
    let mut sent = BTreeSet::new();
    for number in 0..30 {
        let message = Message::new(&topic, format!("{number}")).tag("new");
        sent.insert(producer.send(message).await?.message_id);
    }
    // Half of the queues are the other member's as long as it is there.
    other.unregister_consumer(&group.as_str().into()).await;
    inbox.has_each_once(&sent, SOON).await?;

    cluster.at("it changes while the consumer runs");
    consumer.subscribe(&topic, Filter::tags("newest")).await?;
    let newest = producer.send(Message::new(&topic, "newest").tag("newest")).await?.message_id;
    inbox.has_all([&newest], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn sql_that_one_broker_of_two_cannot_serve_is_a_typed_error(_: &Cluster) -> Result<()> {
    let cluster = Cluster::of(DevCluster::builder().brokers(2).start().await?);
    let (topic, inbox) = (cluster.topic(1).await?, Inbox::new());
    let start = async || {
        let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::sql("amount > 10"));
        consumer.listener(inbox.listener()).start().await
    };
    let check = RequestCode::CHECK_CLIENT_CONFIG;
    cluster.dev().on(check).at_broker("broker-a").answer(ResponseCode::SUCCESS);
    let started = start().await;
    ensure!(matches!(started, Err(Error::FilterRefused { .. })), "broker-b refuses it: {started:?}");
    // One that does not answer keeps nobody from starting.
    cluster.dev().clear_faults();
    cluster.dev().on(check).at_broker("broker-a").answer(ResponseCode::SUCCESS);
    cluster.dev().on(check).at_broker("broker-b").close();
    Ok(start().await?.shutdown().await?)
}
