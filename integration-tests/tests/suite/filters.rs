//! Which messages come: filters of the broker that need its help, and filters of one's own.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::SOON,
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Error, Filter, StoredMessage};

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
