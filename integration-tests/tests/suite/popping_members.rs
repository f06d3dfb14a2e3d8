//! Who pops, of which topics and brokers, and by which names.

use crate::{
    cluster::{Cluster, random_name},
    inbox::{expect_none, missing},
    popping::{BRIEF, LONG, config, expect_retried, id, ids, retry_topic, send, start, take, until},
};
use anyhow::{Result, ensure};
use rocketmq_consumer::{ClientConfig, Error, Filter, PopConfig};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};

pub(crate) async fn two_poppers_share_the_messages(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let sent = send(&producer, &topic, 200).await?;
    let mut members = JoinSet::new();
    for _ in 0..2 {
        let popper = start(cluster, &group, &topic, config()).await?;
        members.spawn(async move {
            let mut got = Vec::new();
            loop {
                let messages = popper.receive(8, LONG).await?;
                if messages.is_empty() {
                    popper.shutdown().await?;
                    return Ok::<_, Error>(got);
                }
                popper.ack_all(&messages).await?;
                got.extend(messages.iter().map(id));
                // As if it were work: nobody gets everything before the other has begun.
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let shares = members.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(shares.iter().all(|share| !share.is_empty()), "one member got everything");
    let count: usize = shares.iter().map(Vec::len).sum();
    let all: BTreeSet<String> = shares.into_iter().flatten().collect();
    expect_none(&missing(&sent, &all), "not consumed")?;
    ensure!(count == all.len(), "{} messages came twice", count - all.len());
    Ok(producer.shutdown().await?)
}

pub(crate) async fn topics_come_and_go_while_a_popper_runs(cluster: &Cluster) -> Result<()> {
    let (one, group) = (cluster.topic(2).await?, random_name("group"));
    let (later, unborn) = (cluster.topic(2).await?, random_name("topic"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &one, config()).await?;
    popper.subscribe(&later, Filter::all()).await?;
    popper.subscribe(&unborn, Filter::all()).await?;
    let mut sent = send(&producer, &one, 5).await?;
    sent.extend(send(&producer, &later, 5).await?);
    let taken = take(&popper, 10, LONG).await?;
    ensure!(ids(&taken) == sent.into_iter().collect(), "other messages came");
    popper.ack_all(&taken).await?;
    cluster.create_topic(&unborn, usize::MAX, 1).await?;
    let born = send(&producer, &unborn, 1).await?;
    let taken = take(&popper, 1, LONG).await?;
    ensure!(ids(&taken) == born.into_iter().collect(), "another message came");
    popper.unsubscribe(&one).await?;
    popper.unsubscribe(&unborn).await?;
    popper.ack_all(&taken).await?;
    ensure!(matches!(popper.unsubscribe(&later).await, Err(Error::NoSubscription)), "the last topic may go");
    send(&producer, &one, 1).await?;
    let clock = send(&producer, &later, 1).await?.remove(0);
    let taken = until(&popper, &clock).await?;
    ensure!(taken.len() == 1, "{:?} came as well", ids(&taken));
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn messages_of_all_brokers_come(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let sent: BTreeSet<_> = send(&producer, &topic, 40).await?.into_iter().collect();
    let popper = start(cluster, &group, &topic, config()).await?;
    let taken = take(&popper, 40, BRIEF).await?;
    ensure!(ids(&taken) == sent, "other messages came");
    let brokers: BTreeSet<_> = taken.iter().map(|message| message.broker_name().clone()).collect();
    ensure!(brokers.len() == 2, "the messages are of {brokers:?}");
    let mut left = BTreeMap::new();
    for message in &taken {
        left.entry(message.broker_name().clone()).or_insert_with(|| id(message));
    }
    popper.ack_all(taken.iter().filter(|message| !left.values().any(|left| *left == id(message)))).await?;
    let again = take(&popper, 2, LONG).await?;
    ensure!(ids(&again) == left.values().cloned().collect(), "{:?} came again", ids(&again));
    popper.ack_all(&again).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn names_in_a_namespace_are_plain(cluster: &Cluster) -> Result<()> {
    let (namespace, topic, group) = (random_name("NS"), random_name("topic"), random_name("group"));
    let wire_topic = format!("{namespace}%{topic}");
    cluster.create_topic(&wire_topic, usize::MAX, 1).await?;
    let producer = cluster.producer().await?;
    send(&producer, &wire_topic, 2).await?;
    let client = ClientConfig { namespace: Some(namespace.clone()), ..Default::default() };
    let popper = start(cluster, &group, &topic, PopConfig { client, ..config() }).await?;
    ensure!(popper.group() == group, "the group is called {}", popper.group());
    let mut taken = take(&popper, 2, BRIEF).await?;
    ensure!(taken.iter().all(|message| message.topic() == topic), "came as of {}", taken[0].topic());
    taken[0].ack().await?;
    taken[1].give_back(Duration::ZERO).await?;
    let again = take(&popper, 1, LONG).await?;
    ensure!(again[0].topic() == topic && id(&again[0]) == id(&taken[1]), "{:?} came again", again[0]);
    again[0].ack().await?;
    expect_retried(cluster, &retry_topic(&format!("{namespace}%{group}"), &wire_topic), 1).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
