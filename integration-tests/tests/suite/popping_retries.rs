//! What is popped and not acknowledged.

use crate::{
    cluster::{Cluster, random_name},
    parcel::expect_same,
    popping::{BRIEF, EARLY, LATE, LONG, config, expect_retried, id, ids, send, start, take, until},
    wait::eventually,
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{Message, message::names::dlq_topic};
use rocketmq_consumer::PopConfig;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(crate) async fn what_is_not_acknowledged_comes_again(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let message = Message::new(&topic, "again").tag("tag").key("key").property("colour", "blue").flag(7);
    let receipt = producer.send(message.clone()).await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    for times in 0..3 {
        cluster.at(format!("popped {times} times"));
        let popped = take(&popper, 1, BRIEF).await?.remove(0);
        let popped_at = Instant::now();
        ensure!(popped.message_id() == receipt.message_id, "came as {}", popped.message_id());
        ensure!(popped.reconsume_times() == times, "came with {} at {times}", popped.reconsume_times());
        ensure!(popped.topic() == topic, "came as of {}", popped.topic());
        expect_same(&message, &popped)?;
        if times == 2 {
            popped.ack().await?;
            break;
        }
        drop(popped);
        let received = PopConfig { long_poll: Duration::ZERO, ..config() };
        let impatient = start(cluster, &group, &topic, received).await?;
        while popped_at.elapsed() < BRIEF.saturating_sub(EARLY) {
            let early = impatient.receive(1, BRIEF).await?;
            ensure!(early.is_empty(), "came again after {:?}", popped_at.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        impatient.shutdown().await?;
    }
    let clock = send(&producer, &topic, 1).await?.remove(0);
    drop(take(&popper, 1, BRIEF).await?);
    let again = until(&popper, &clock).await?;
    ensure!(again.len() == 1, "{:?} came as well", ids(&again));
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_comes_too_often_is_a_dead_letter(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, PopConfig { max_reconsume_times: 1, ..config() }).await?;
    let message = Message::new(&topic, "never").tag("tag").key("key").property("colour", "blue");
    let receipt = producer.send(message.clone()).await?;
    for times in 0..2 {
        let popped = take(&popper, 1, BRIEF).await?.remove(0);
        ensure!(popped.reconsume_times() == times, "came with {} at {times}", popped.reconsume_times());
    }
    eventually(LATE, async || {
        ensure!(popper.receive(1, BRIEF).await?.is_empty(), "it came once more");
        ensure!(!cluster.stored(&dlq_topic(&group)).await?.is_empty(), "no dead letter");
        Ok(())
    })
    .await?;
    cluster.at("it is done, and does not die once more");
    let clock = send(&producer, &topic, 1).await?.remove(0);
    drop(take(&popper, 1, BRIEF).await?);
    let rest = until(&popper, &clock).await?;
    ensure!(rest.len() == 1, "{:?} came as well", ids(&rest));
    let dead = cluster.stored(&dlq_topic(&group)).await?;
    ensure!(dead.len() == 1, "{} dead letters", dead.len());
    ensure!(dead[0].message_id() == receipt.message_id, "the dead letter is {}", dead[0].message_id());
    ensure!(dead[0].body() == message.body() && dead[0].property("colour") == Some("blue"), "it has changed");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn retry_topics_may_be_of_the_second_generation(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, PopConfig { max_reconsume_times: 1, ..config() }).await?;
    let sent = send(&producer, &topic, 6).await?;
    drop(take(&popper, 6, BRIEF).await?);
    let mut again = take(&popper, 6, LONG).await?;
    ensure!(ids(&again) == sent.iter().cloned().collect(), "{:?} came again", ids(&again));
    ensure!(again.iter().all(|message| message.topic() == topic), "came as of {}", again[0].topic());
    expect_retried(cluster, &format!("%RETRY%{group}+{topic}"), 6).await?;
    again[0].ack().await?;
    popper.ack_all(&again[1..4]).await?;
    again[4].extend(LONG).await?;
    again[4].ack().await?;
    again[5].give_back(Duration::ZERO).await?;
    let left = id(&again[5]);
    cluster.at("the one that is left becomes a dead letter");
    let dead = eventually(LATE, async || {
        let more = popper.receive(1, LONG).await?;
        ensure!(more.is_empty(), "{:?} came once more", ids(&more));
        match cluster.stored(&dlq_topic(&group)).await? {
            dead if dead.is_empty() => bail!("no dead letter"),
            dead => Ok(dead),
        }
    })
    .await?;
    ensure!(dead.len() == 1 && dead[0].message_id() == left, "{} dead letters", dead.len());
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
