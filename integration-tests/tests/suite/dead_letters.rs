//! Dead letters, and the message each of them was made from.

use crate::{
    cluster::{Cluster, random_name},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{Message, StoredMessage};
use rocketmq_consumer::{
    Filter, Outcome, PopConfig, PopConsumer, PullConfig, PullConsumer, PushConfig, StartAt, dead_letter_topic,
};
use std::{collections::BTreeMap, time::Duration};

/// The dead letters of a group, pulled and committed by another one, by body.
async fn drain(cluster: &Cluster, group: &str, expected: usize) -> Result<BTreeMap<String, StoredMessage>> {
    let topic = dead_letter_topic(group);
    // Not before there are some: then the topic is there.
    eventually(SOON, async || match cluster.stored(&topic).await?.len() {
        stored if stored == expected => Ok(()),
        stored => bail!("{stored} of {expected} dead letters"),
    })
    .await?;
    let puller = PullConsumer::builder(random_name("drain")).name_servers([cluster.name_server()]);
    let config = PullConfig { auto_commit: false, start_at: StartAt::First, ..Default::default() };
    let puller = puller.config(config).subscribe(&topic, Filter::all()).start().await?;
    let mut letters = BTreeMap::new();
    eventually(SOON, async || {
        for letter in puller.poll(Duration::from_secs(1)).await? {
            letters.insert(String::from_utf8_lossy(letter.body()).into_owned(), letter);
        }
        ensure!(letters.len() == expected, "{} of {expected} dead letters polled", letters.len());
        Ok(())
    })
    .await?;
    puller.commit().await?;
    cluster.expect_recorded(puller.group(), &topic, expected).await?;
    puller.shutdown().await?;
    Ok(letters)
}

/// Fails unless the letter says what it was before it died.
fn expect_origin(letter: &StoredMessage, first: &StoredMessage, reconsume_times: i32) -> Result<()> {
    ensure!(letter.topic() != first.topic(), "it was pulled from {}", letter.topic());
    let origin = (letter.origin_topic(), letter.origin_message_id());
    let offset_id = first.offset_id();
    ensure!(origin == (Some(first.topic()), Some(offset_id.as_str())), "it comes from {origin:?}");
    ensure!(letter.message_id() == first.message_id(), "it is {}, was {}", letter.message_id(), first.message_id());
    ensure!(letter.reconsume_times() == reconsume_times, "consumed in vain {} times", letter.reconsume_times());
    ensure!(letter.tag() == first.tag() && letter.property("colour") == first.property("colour"), "it has changed");
    Ok(())
}

/// Sends one message of each body.
async fn send(cluster: &Cluster, topic: &str, bodies: &[&'static str]) -> Result<BTreeMap<String, StoredMessage>> {
    let producer = cluster.producer().await?;
    for body in bodies {
        producer.send(Message::new(topic, *body).tag("tag").key("key").property("colour", "blue")).await?;
    }
    producer.shutdown().await?;
    let stored = eventually(SOON, async || match cluster.stored(topic).await? {
        stored if stored.len() == bodies.len() => Ok(stored),
        stored => bail!("{} of {} messages stored", stored.len(), bodies.len()),
    })
    .await?;
    Ok(stored.into_iter().map(|message| (String::from_utf8_lossy(message.body()).into_owned(), message)).collect())
}

pub(crate) async fn tell_where_they_come_from(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let first = send(cluster, &topic, &["at once", "after a retry"]).await?;
    ensure!(first.values().all(|message| message.origin_topic().is_none()), "a message of its topic has an origin");
    let config = PushConfig { start_at: StartAt::First, max_reconsume_times: Some(1), ..Default::default() };

    let group = random_name("group");
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).config(config.clone());
    let consumer = consumer.listener(|message: StoredMessage| async move {
        match message.body().as_ref() {
            b"at once" => Outcome::failed("never").dead_letter(),
            // The shortest delay level.
            _ => Outcome::failed("not yet").delay_level(1),
        }
    });
    let consumer = consumer.start().await?;
    let letters = drain(cluster, &group, 2).await?;
    consumer.shutdown().await?;
    for (body, times) in [("at once", 1), ("after a retry", 2)] {
        expect_origin(&letters[body], &first[body], times).context(body)?;
    }

    cluster.at("in order");
    let group = random_name("group");
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all());
    let consumer = consumer.config(PushConfig { suspend_time: Duration::from_millis(10), ..config });
    let consumer = consumer.ordered_listener(|_: StoredMessage| async { Err::<(), _>("never") }).start().await?;
    let letters = drain(cluster, &group, 2).await?;
    consumer.shutdown().await?;
    for (body, letter) in &letters {
        // Brokers are told of the last failure only.
        expect_origin(letter, &first[body], 1).with_context(|| format!("{body}, in order"))?;
    }
    Ok(())
}

pub(crate) async fn of_pops_tell_where_they_come_from(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let first = send(cluster, &topic, &["popped"]).await?;
    let config = PopConfig { start_at: StartAt::First, max_reconsume_times: 1, ..Default::default() };
    let popper = PopConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let popper = popper.subscribe(&topic, Filter::all()).start().await?;
    let dead = dead_letter_topic(&group);
    eventually(SOON + SOON, async || {
        for mut message in popper.receive(1, Duration::from_secs(1)).await? {
            message.give_back(Duration::ZERO).await?;
        }
        ensure!(!cluster.stored(&dead).await?.is_empty(), "no dead letter");
        Ok(())
    })
    .await?;
    let letters = drain(cluster, &group, 1).await?;
    popper.shutdown().await?;
    let (letter, first) = (&letters["popped"], &first["popped"]);
    ensure!(letter.origin_topic() == Some(&topic), "it comes from {:?}", letter.origin_topic());
    ensure!(letter.message_id() == first.message_id(), "it is {}, was {}", letter.message_id(), first.message_id());
    ensure!(letter.reconsume_times() > 1, "consumed in vain {} times", letter.reconsume_times());
    Ok(())
}
