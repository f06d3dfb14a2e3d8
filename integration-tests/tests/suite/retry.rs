//! Messages that are not consumed at the first go.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::expect_same,
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{
    Message,
    message::names::{dlq_topic, retry_topic},
};
use rocketmq_consumer::{Filter, PushConfig, StartAt, StoredMessage};
use std::time::Duration;

/// The delays of a real broker are 10 s, then 30 s.
const TWO_DELAYS: Duration = Duration::from_secs(70);

fn retries(max_reconsume_times: i32) -> PushConfig {
    PushConfig { start_at: StartAt::First, max_reconsume_times: Some(max_reconsume_times), ..Default::default() }
}

pub(crate) async fn a_listener_that_fails_twice_succeeds_the_third_time(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let message = Message::new(&topic, "fails twice").tag("tag").key("key").property("colour", "blue").flag(7);
    let kept = inbox.clone();
    let consumer = cluster
        .consumer(&group)
        .subscribe(&topic, Filter::tags("tag"))
        .listener(move |message: StoredMessage| {
            let times = message.reconsume_times();
            kept.keep(message);
            async move { if times < 2 { Err("not yet") } else { Ok(()) } }
        })
        .start()
        .await?;
    let receipt = producer.send(message.clone()).await?;
    inbox.has(3, TWO_DELAYS).await?;
    let came = inbox.messages();
    let times: Vec<_> = came.iter().map(StoredMessage::reconsume_times).collect();
    ensure!(times == [0, 1, 2], "reconsume times were {times:?}");
    for again in &came {
        ensure!(again.message_id() == receipt.message_id, "came as {}", again.message_id());
        expect_same(&message, again)?;
    }
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 1).await?;
    cluster.expect_recorded(&group, &retry_topic(&group), 2).await?;
    ensure!(inbox.len() == 3, "consumed {} times", inbox.len());
    ensure!(cluster.stored(&dlq_topic(&group)).await?.is_empty(), "among the dead letters as well");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_always_fails_ends_among_the_dead_letters(cluster: &Cluster) -> Result<()> {
    // One retry on a real broker, whose second delay is 30 s.
    let limit = if cluster.is_real() { 1 } else { 2 };
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let message = Message::new(&topic, "always fails").tag("tag").key("key").property("colour", "blue").flag(7);
    let kept = inbox.clone();
    let consumer = cluster
        .consumer(&group)
        .config(retries(limit))
        .subscribe(&topic, Filter::all())
        .listener(move |message: StoredMessage| {
            let fails = message.tag().is_some();
            kept.keep(message);
            async move { if fails { Err("never") } else { Ok(()) } }
        })
        .start()
        .await?;
    let receipt = producer.send(message.clone()).await?;
    let well = producer.send(Message::new(&topic, "does not fail")).await?;
    let dead = eventually(TWO_DELAYS, async || match cluster.stored(&dlq_topic(&group)).await? {
        dead if dead.is_empty() => bail!("no dead letter after {} goes", inbox.len()),
        dead => Ok(dead),
    })
    .await?;
    ensure!(dead.len() == 1, "{} dead letters", dead.len());
    ensure!(dead[0].message_id() == receipt.message_id, "the dead letter is {}", dead[0].message_id());
    ensure!(dead[0].body() == message.body(), "the dead letter has another body");
    let goes = |id: &str| inbox.messages().iter().filter(|message| message.message_id() == id).count();
    ensure!(goes(&receipt.message_id) == usize::try_from(limit)? + 1, "consumed {} times", goes(&receipt.message_id));
    inbox.has_all([&well.message_id], SOON).await?;
    ensure!(goes(&well.message_id) == 1, "its neighbour was consumed {} times", goes(&well.message_id));
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 2).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_listener_that_panics_gets_the_message_again(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let kept = inbox.clone();
    let consumer = cluster
        .consumer(&group)
        .subscribe(&topic, Filter::all())
        .listener(move |message: StoredMessage| {
            let (first, at_once) = (message.reconsume_times() == 0, message.tag() == Some("at-once"));
            kept.keep(message);
            // Before there is a future, and inside of it.
            assert!(!(first && at_once), "{ON_PURPOSE}");
            async move {
                assert!(!first, "{ON_PURPOSE}");
                Ok::<_, String>(())
            }
        })
        .start()
        .await?;
    let one = producer.send(Message::new(&topic, "panics").tag("at-once")).await?.message_id;
    let other = producer.send(Message::new(&topic, "panics").tag("later")).await?.message_id;
    inbox.has(4, TWO_DELAYS).await?;
    let mut came: Vec<_> =
        inbox.messages().iter().map(|message| (message.message_id().into_owned(), message.reconsume_times())).collect();
    came.sort();
    let mut expected = vec![(one.clone(), 0), (one, 1), (other.clone(), 0), (other, 1)];
    expected.sort();
    ensure!(came == expected, "consumed {came:?}, expected {expected:?}");
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 2).await?;
    Ok(producer.shutdown().await?)
}
