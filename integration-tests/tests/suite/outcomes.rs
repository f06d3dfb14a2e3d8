//! What a listener can say of its messages, and what becomes of one that says nothing for too long.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{Message, message::names::dlq_topic};
use rocketmq_consumer::{Filter, Outcome, PushConfig, StartAt, StoredMessage};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

/// What was sent back at level 3 comes again after 10 s from a real broker.
const LEVEL_THREE: Duration = Duration::from_secs(40);

fn first() -> PushConfig {
    PushConfig { start_at: StartAt::First, ..Default::default() }
}

pub(crate) async fn a_batch_listener_says_which_messages_failed(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 200, move |index| varied(&of_topic, index)).await?;
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (kept, sizes_kept) = (inbox.clone(), sizes.clone());
    let listener = move |messages: Vec<StoredMessage>| {
        sizes_kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(messages.len());
        let fails = |message: &StoredMessage| message.reconsume_times() == 0 && message.queue_offset() % 5 == 1;
        let failed: Vec<_> = (0..messages.len()).filter(|index| fails(&messages[*index])).collect();
        let queues: BTreeMap<_, _> = messages.iter().map(|message| (message.queue(), ())).collect();
        messages.into_iter().for_each(|message| kept.keep(message));
        async move {
            match queues.len() {
                1 => Ok(Outcome::failed_at(failed, "not this time").delay_level(1)),
                count => Err(format!("a call got messages of {count} queues")),
            }
        }
    };
    let config = PushConfig { consume_batch: 16, ..first() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.batch_listener(listener).start().await?;
    inbox.has_all(sent.keys(), SOON).await?;
    let fails = inbox.messages().iter().filter(|message| message.queue_offset() % 5 == 1).count();
    let fails =
        inbox.messages().iter().filter(|m| m.reconsume_times() == 0 && m.queue_offset() % 5 == 1).count().min(fails);
    let began = Instant::now();
    inbox.has(200 + fails, SOON).await?;
    // Level 1 is a second, and the level that brokers choose by themselves 10 s.
    ensure!(began.elapsed() < Duration::from_secs(9), "they came again after {:?}", began.elapsed());
    let mut goes: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for message in inbox.messages() {
        goes.entry(message.message_id().into_owned()).or_default().push(message.reconsume_times());
    }
    ensure!(goes.values().filter(|times| **times == [0, 1]).count() == fails, "not what failed came again: {goes:?}");
    ensure!(goes.values().filter(|times| **times == [0]).count() == 200 - fails, "more came again: {goes:?}");
    let sizes = sizes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    ensure!(sizes.iter().all(|size| (1..=16).contains(size)), "calls had {sizes:?} messages");
    ensure!(sizes.contains(&16), "no call had as many messages as it may: {sizes:?}");
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 200).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_listener_can_give_a_message_up_at_once(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let kept = inbox.clone();
    let listener = move |message: StoredMessage| {
        let hopeless = message.tag() == Some("hopeless");
        kept.keep(message);
        async move { if hopeless { Outcome::failed("hopeless").dead_letter() } else { Outcome::done() } }
    };
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(listener).start().await?;
    let hopeless = producer.send(Message::new(&topic, "one").tag("hopeless")).await?.message_id;
    let other = producer.send(Message::new(&topic, "two")).await?.message_id;
    let dead = eventually(SOON, async || match cluster.stored(&dlq_topic(&group)).await? {
        dead if dead.is_empty() => bail!("no dead letter"),
        dead => Ok(dead),
    })
    .await?;
    ensure!(dead.len() == 1 && dead[0].message_id() == hopeless, "the dead letters are {dead:?}");
    inbox.has_each_once([&hopeless, &other], SOON).await?;
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 2).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_call_that_takes_too_long_lets_the_queue_go_on(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let (gate, ended) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (kept, at_the_gate, counted) = (inbox.clone(), gate.clone(), ended.clone());
    let listener = move |message: StoredMessage| {
        let (gate, ended) = (at_the_gate.clone(), counted.clone());
        let is_slow = message.tag() == Some("slow") && message.reconsume_times() == 0;
        kept.keep(message);
        async move {
            if is_slow {
                gate.acquire().await.map_err(|error| error.to_string())?.forget();
                ended.fetch_add(1, Ordering::SeqCst);
                return Err("far too late".to_owned());
            }
            Ok(())
        }
    };
    let consume_timeout = Duration::from_secs(2);
    let config = PushConfig { consume_timeout, ..first() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(listener).start().await?;
    let began = Instant::now();
    let slow = producer.send(Message::new(&topic, "slow").tag("slow")).await?.message_id;
    let other = producer.send(Message::new(&topic, "other")).await?.message_id;
    inbox.has_all([&slow, &other], SOON).await?;
    eventually(SOON, async || {
        let statistics = consumer.statistics();
        let in_flight: usize = statistics.topics[&topic].queues.iter().map(|queue| queue.in_flight).sum();
        ensure!(in_flight == 0, "{in_flight} messages are in flight");
        Ok(())
    })
    .await?;
    ensure!(began.elapsed() >= consume_timeout, "given back after {:?}", began.elapsed());
    // The offset passes the message although its call goes on.
    cluster.expect_recorded(&group, &topic, 2).await?;
    ensure!(ended.load(Ordering::SeqCst) == 0, "the call was broken off");
    inbox.has(3, LEVEL_THREE).await?;
    let again = inbox.messages().pop().map(|message| (message.message_id().into_owned(), message.reconsume_times()));
    ensure!(again == Some((slow, 1)), "{again:?} came again");
    gate.add_permits(1);
    eventually(SOON, async || {
        ensure!(ended.load(Ordering::SeqCst) == 1, "the call does not end");
        Ok(())
    })
    .await?;
    consumer.shutdown().await?;
    // What it said in the end counts no more.
    ensure!(inbox.len() == 3, "consumed {} times", inbox.len());
    cluster.expect_recorded(&group, &topic, 2).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_call_too_long_for_its_queue_gives_nothing_back(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let (gate, kept) = (Arc::new(Semaphore::new(0)), inbox.clone());
    let at_the_gate = gate.clone();
    // The first call is slow.
    let listener = move |message: StoredMessage| {
        kept.keep(message);
        let (gate, is_slow) = (at_the_gate.clone(), kept.len() == 1);
        async move {
            if is_slow {
                gate.acquire().await.map_err(|error| error.to_string())?.forget();
            }
            Ok::<_, String>(())
        }
    };
    let (consume_timeout, revoke_timeout) = (Duration::from_secs(2), Duration::from_millis(100));
    let config = PushConfig { consume_timeout, revoke_timeout, ..first() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(listener).start().await?;
    producer.send(Message::new(&topic, "body")).await?;
    inbox.has(1, SOON).await?;
    // The queue is given up, and taken once more.
    consumer.subscribe(&topic, Filter::all()).await?;
    inbox.has(2, SOON).await?;
    cluster.expect_recorded(&group, &topic, 1).await?;
    // That nothing is given back shows only in time.
    sleep(consume_timeout + Duration::from_secs(1)).await;
    gate.add_permits(1);
    let failed = eventually(SOON, async || {
        let statistics = consumer.statistics();
        let of_topic = statistics.topics.get(&topic).context("nothing is known of the topic")?;
        ensure!(of_topic.done + of_topic.failed == 2, "{} calls ended", of_topic.done + of_topic.failed);
        Ok(of_topic.failed)
    })
    .await?;
    ensure!(failed == 0, "what is done was given back");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_long_call_within_its_time_runs_once(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let kept = inbox.clone();
    let listener = move |message: StoredMessage| {
        let kept = kept.clone();
        async move {
            kept.keep(message);
            sleep(Duration::from_secs(15)).await;
            Ok::<_, String>(())
        }
    };
    // Longer than any of the consumer's own times: commits, rebalances, pulls.
    let config = PushConfig { rebalance_interval: Duration::from_secs(2), ..first() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(listener).start().await?;
    let id = producer.send(Message::new(&topic, "slow")).await?.message_id;
    // One that was given back has failed, though it comes again only later.
    let (done, failed) = eventually(SOON, async || {
        let statistics = consumer.statistics();
        let of_topic = statistics.topics.get(&topic).context("nothing is known of the topic")?;
        ensure!(of_topic.done + of_topic.failed > 0, "the call does not end");
        Ok((of_topic.done, of_topic.failed))
    })
    .await?;
    ensure!((done, failed) == (1, 0), "{done} done, {failed} failed");
    cluster.expect_recorded(&group, &topic, 1).await?;
    inbox.has_each_once([&id], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}
