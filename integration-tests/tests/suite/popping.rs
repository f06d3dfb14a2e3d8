//! Messages that are taken for a while.
//!
//! Nobody can wait for a message not to come. Where one must not come again, another one that was popped with it and is
//! not acknowledged serves as a clock: when that one is back, the first would be, too.

use crate::{
    cluster::{Cluster, random_name},
    corrections::{send_files, until_gone},
    inbox::{expect_none, missing},
    parcel::{expect_same, varied},
    wait::eventually,
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    Message,
    remote::{RequestCode, ResponseCode},
};
use rocketmq_consumer::{ClientError, Error, Filter, PopConfig, PopConsumer, PoppedMessage, StartAt};
use rocketmq_producer::Producer;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, timeout};

/// Short, and above what a real broker takes for nothing.
pub(crate) const BRIEF: Duration = Duration::from_secs(3);
/// Longer than any scenario.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A real broker looks for what is due in steps of seconds.
pub(crate) const EARLY: Duration = Duration::from_millis(1500);
/// Several brief times, and the broker's slowness each time.
pub(crate) const LATE: Duration = Duration::from_secs(90);

pub(crate) fn config() -> PopConfig {
    PopConfig { start_at: StartAt::First, long_poll: Duration::from_secs(2), ..Default::default() }
}

pub(crate) async fn start(cluster: &Cluster, group: &str, topic: &str, config: PopConfig) -> Result<PopConsumer> {
    let builder = PopConsumer::builder(group).name_servers([cluster.name_server()]).config(config);
    builder.subscribe(topic, Filter::all()).start().await.context("the pop consumer does not start")
}

/// Sends so many messages and answers their ids, in order.
pub(crate) async fn send(producer: &Producer, topic: &str, count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for index in 0..count {
        ids.push(producer.send(Message::new(topic, index.to_string())).await?.message_id);
    }
    Ok(ids)
}

/// Receives until so many have come.
pub(crate) async fn take(popper: &PopConsumer, count: usize, invisible: Duration) -> Result<Vec<PoppedMessage>> {
    let mut taken = Vec::new();
    let taking = async {
        while taken.len() < count {
            taken.extend(popper.receive((count - taken.len()).min(32), invisible).await?);
        }
        Ok::<_, Error>(())
    };
    let outcome = timeout(LATE, taking).await;
    outcome.with_context(|| format!("{} of {count} messages came", taken.len()))??;
    Ok(taken)
}

pub(crate) fn ids<'a>(messages: impl IntoIterator<Item = &'a PoppedMessage>) -> BTreeSet<String> {
    messages.into_iter().map(|message| message.message_id().into_owned()).collect()
}

pub(crate) fn id(message: &PoppedMessage) -> String {
    message.message_id().into_owned()
}

/// What comes until a message with this id does; everything is acknowledged.
pub(crate) async fn until(popper: &PopConsumer, clock: &str) -> Result<Vec<PoppedMessage>> {
    let mut came = Vec::new();
    loop {
        let [message] = <[_; 1]>::try_from(take(popper, 1, LONG).await?).map_err(|_| anyhow::anyhow!("not one"))?;
        message.ack().await?;
        let is_clock = id(&message) == clock;
        came.push(message);
        if is_clock {
            return Ok(came);
        }
    }
}

/// The retry topic of the first generation.
pub(crate) fn retry_topic(group: &str, topic: &str) -> String {
    format!("%RETRY%{group}_{topic}")
}

/// Fails unless so many messages lie in a retry topic, once the name server knows it.
pub(crate) async fn expect_retried(cluster: &Cluster, topic: &str, expected: usize) -> Result<()> {
    eventually(LATE, async || {
        let count = cluster.stored(topic).await?.len();
        ensure!(count == expected, "{count} messages lie in {topic}, expected {expected}");
        Ok(())
    })
    .await
}

pub(crate) async fn a_new_group_gets_the_whole_of_a_young_queue(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let sent: BTreeSet<_> = send(&producer, &topic, 5).await?.into_iter().collect();
    // The broker holds the first message in memory: to it, last is first.
    for start_at in [StartAt::First, StartAt::Last] {
        let popper = start(cluster, &random_name("group"), &topic, PopConfig { start_at, ..config() }).await?;
        let came = ids(&take(&popper, 5, LONG).await?);
        ensure!(came == sent, "{start_at:?} brought {came:?}, expected {sent:?}");
        popper.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_new_group_of_an_old_queue_begins_where_it_is_told(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (client, producer) = (cluster.client().await?, cluster.producer().await?);
    send_files(&producer, &topic).await?;
    until_gone(&client, &cluster.queues(&topic).await?[0], 0).await?;
    let last = send(&producer, &topic, 2).await?.remove(1);

    cluster.at("the first");
    let popper = start(cluster, &random_name("group"), &topic, config()).await?;
    let first = take(&popper, 1, LONG).await?.remove(0);
    // The file at the end stays, as a rule with some of the hundred.
    ensure!((1..=100).contains(&first.queue_offset()), "{first:?} came first");
    popper.shutdown().await?;

    cluster.at("the last");
    let popper =
        start(cluster, &random_name("group"), &topic, PopConfig { start_at: StartAt::Last, ..config() }).await?;
    let came = take(&popper, 1, LONG).await?.remove(0);
    ensure!(id(&came) == last, "{came:?} came first, expected {last}");
    let next = send(&producer, &topic, 1).await?.remove(0);
    let came = take(&popper, 1, LONG).await?.remove(0);
    ensure!(id(&came) == next, "{came:?} came next, expected {next}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_is_acknowledged_comes_once(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let sent: Vec<_> = (0..100).map(|index| varied(&topic, index)).collect();
    let mut by_id = BTreeMap::new();
    for message in sent {
        by_id.insert(producer.send(message.clone()).await?.message_id, message);
    }
    let popper = start(cluster, &group, &topic, config()).await?;
    let mut seen = BTreeSet::new();
    for message in take(&popper, 100, BRIEF).await? {
        let id = id(&message);
        expect_same(by_id.get(&id).with_context(|| format!("nobody sent {id}"))?, &message)?;
        ensure!(message.reconsume_times() == 0, "{id} came {} times before", message.reconsume_times());
        message.ack().await?;
        ensure!(seen.insert(id.clone()), "{id} came twice");
    }
    let clock = send(&producer, &topic, 1).await?.remove(0);
    drop(take(&popper, 1, BRIEF).await?);
    let again = until(&popper, &clock).await?;
    ensure!(again.len() == 1, "{:?} came as well", ids(&again));
    popper.shutdown().await?;
    ensure!(matches!(popper.receive(1, BRIEF).await, Err(Error::ShutDown)), "received after the end");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_extension_keeps_a_message_away(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let sent = send(&producer, &topic, 4).await?;
    let mut taken = take(&popper, 4, BRIEF).await?;
    ensure!(taken.iter().map(id).collect::<Vec<_>>() == sent, "came in another order");
    let old_handles: Vec<_> = taken.iter().map(PoppedMessage::receipt_handle).collect();
    let longer = 3 * BRIEF;
    for message in &mut taken[..3] {
        message.extend(longer).await?;
        ensure!(message.invisible_for() > 2 * BRIEF, "hidden for {:?}", message.invisible_for());
    }
    let extended_at = Instant::now();
    ensure!(taken[0].receipt_handle() != old_handles[0], "the handle is the old one");
    cluster.at("the old handle of one, the new one of another");
    match popper.ack_handle(&old_handles[0]).await {
        // Told, and worth nothing.
        Ok(()) | Err(Error::HandleRefused { .. } | Error::Expired) => {}
        other => bail!("an old handle came to {other:?}"),
    }
    taken[1].ack().await?;
    cluster.at("the one that was not extended is back");
    let first = until(&popper, &sent[3]).await?;
    ensure!(first.len() == 1, "{:?} came as well", ids(&first));
    ensure!(extended_at.elapsed() < longer, "it took {:?}", extended_at.elapsed());
    cluster.at("those that were extended are back");
    let rest = take(&popper, 2, LONG).await?;
    let expected: BTreeSet<_> = [sent[0].clone(), sent[2].clone()].into();
    ensure!(ids(&rest) == expected, "{:?} came again, expected {expected:?}", ids(&rest));
    ensure!(rest.iter().all(|message| message.reconsume_times() == 1), "the count is wrong");
    ensure!(extended_at.elapsed() > longer.saturating_sub(EARLY), "after {:?}", extended_at.elapsed());
    popper.ack_all(&rest).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_is_given_back_comes_sooner(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let sent = send(&producer, &topic, 2).await?;
    let mut taken = take(&popper, 2, LONG).await?;
    taken[0].give_back(Duration::from_secs(1)).await?;
    taken[1].give_back(Duration::ZERO).await?;
    let again = take(&popper, 2, LONG).await?;
    ensure!(ids(&again) == sent.into_iter().collect(), "{:?} came", ids(&again));
    ensure!(again.iter().all(|message| message.reconsume_times() == 1), "the count is wrong");
    popper.ack_all(&again).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_batch_of_acks_is_exact(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    send(&producer, &topic, 90).await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let taken = take(&popper, 90, 2 * BRIEF).await?;
    // The first and the last of every queue, and every seventh, are left out.
    let mut queues: BTreeMap<i32, Vec<&PoppedMessage>> = BTreeMap::new();
    for message in &taken {
        queues.entry(message.queue_id()).or_default().push(message);
    }
    ensure!(queues.len() == 4, "the messages are of {} queues", queues.len());
    let is_left = |at: usize, len: usize| at == 0 || at + 1 == len || at % 7 == 3;
    let (mut left, mut done) = (Vec::new(), Vec::new());
    for messages in queues.values() {
        for (at, message) in messages.iter().enumerate() {
            if is_left(at, messages.len()) { left.push(*message) } else { done.push(*message) }
        }
    }
    popper.ack_all(done).await?;
    popper.ack_all([]).await?;
    let expected = ids(left);
    let again = take(&popper, expected.len(), LONG).await?;
    expect_none(&missing(&expected, &ids(&again)), "acknowledged, though nobody did")?;
    expect_none(&missing(&ids(&again), &expected), "came again though they were acknowledged")?;
    cluster.at("acknowledged from the retry topic");
    popper.ack_all(&again).await?;
    let clock = send(&producer, &topic, 1).await?.remove(0);
    drop(take(&popper, 1, BRIEF).await?);
    let rest = until(&popper, &clock).await?;
    ensure!(rest.len() == 1, "{:?} came as well", ids(&rest));
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn filters_let_exactly_theirs_through(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let mut wanted = BTreeSet::new();
    for index in 0..40 {
        // Two of these tags have the same hash: the broker lets both through.
        for tag in ["Aa", "BB", "other"] {
            let message = Message::new(&topic, index.to_string()).tag(tag).property("amount", index.to_string());
            let id = producer.send(message).await?.message_id;
            if tag == "Aa" {
                wanted.insert(id);
            }
        }
    }
    let builder = PopConsumer::builder(&group).name_servers([cluster.name_server()]).config(config());
    let popper = builder.subscribe(&topic, Filter::tags("Aa || none")).start().await?;
    let taken = take(&popper, wanted.len(), BRIEF).await?;
    ensure!(ids(&taken) == wanted, "other messages came");
    popper.ack_all(&taken[1..]).await?;
    let again = until(&popper, &id(&taken[0])).await?;
    ensure!(again.len() == 1, "{:?} came as well", ids(&again));
    cluster.at("nothing unwanted waits to come again");
    expect_retried(cluster, &retry_topic(&group, &topic), 1).await?;

    if cluster.is_real() {
        cluster.at("SQL");
        popper.subscribe(&topic, Filter::sql("amount > 37 AND TAGS = 'other'")).await?;
        for amount in [5, 38, 39] {
            let message = Message::new(&topic, "late").tag("other").property("amount", amount.to_string());
            producer.send(message).await?;
        }
        let taken = take(&popper, 2, LONG).await?;
        let amounts: BTreeSet<_> = taken.iter().filter_map(|message| message.property("amount")).collect();
        ensure!(amounts == ["38", "39"].into(), "{amounts:?} came");
        popper.ack_all(&taken).await?;
    }
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

fn bodies(messages: &[PoppedMessage]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned()).collect()
}

pub(crate) async fn an_ordered_queue_waits_until_all_is_acknowledged(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    send(&producer, &topic, 9).await?;
    let ordered = PopConfig { is_ordered: true, ..config() };
    let popper = start(cluster, &group, &topic, ordered.clone()).await?;
    let other = start(cluster, &group, &topic, PopConfig { long_poll: Duration::ZERO, ..ordered }).await?;
    let first = popper.receive(3, LONG).await?;
    ensure!(bodies(&first) == ["0", "1", "2"], "{:?} came first", bodies(&first));
    for message in &first {
        let early = other.receive(3, LONG).await?;
        ensure!(early.is_empty(), "{:?} came though the queue is not done", bodies(&early));
        message.ack().await?;
    }
    cluster.at("half of the second three");
    let second = take(&popper, 3, BRIEF).await?;
    ensure!(bodies(&second) == ["3", "4", "5"], "{:?} came next", bodies(&second));
    second[0].ack().await?;
    let again = take(&popper, 2, BRIEF).await?;
    ensure!(bodies(&again) == ["4", "5"], "{:?} came again", bodies(&again));
    ensure!(again.iter().all(|message| message.reconsume_times() == 1), "the count is wrong");
    match second[1].ack().await {
        Ok(()) | Err(Error::Expired | Error::HandleRefused { .. }) => {}
        other => bail!("an old handle came to {other:?}"),
    }
    cluster.at("the rest after a batch");
    popper.ack_all(&again).await?;
    let mut last = take(&popper, 3, LONG).await?;
    ensure!(bodies(&last) == ["6", "7", "8"], "{:?} came last", bodies(&last));
    for message in &mut last {
        message.give_back(Duration::from_secs(1)).await?;
    }
    let again = take(&popper, 3, LONG).await?;
    ensure!(bodies(&again) == ["6", "7", "8"], "{:?} came again", bodies(&again));
    popper.ack_all(&again).await?;
    cluster.expect_recorded(&group, &topic, 9).await?;
    other.shutdown().await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// Drops a receive whose pop is under way.
async fn drop_receive(popper: &PopConsumer) -> Result<()> {
    tokio::select! {
        biased;
        received = popper.receive(3, LONG) => {
            // The broker was faster than this task.
            for message in &mut received? {
                message.give_back(Duration::from_secs(1)).await?;
            }
        }
        () = std::future::ready(()) => {}
    }
    Ok(())
}

pub(crate) async fn messages_of_a_dropped_receiver_are_visible_again(cluster: &Cluster) -> Result<()> {
    for is_ordered in [false, true] {
        let (topic, group) = (cluster.topic(1).await?, random_name("group"));
        let producer = cluster.producer().await?;
        send(&producer, &topic, 3).await?;
        let popper = start(cluster, &group, &topic, PopConfig { is_ordered, ..config() }).await?;
        drop_receive(&popper).await?;
        let mut came = take(&popper, 3, LONG).await.with_context(|| format!("is_ordered: {is_ordered}"))?;
        if !is_ordered {
            came.sort_by_key(|message| message.body().clone());
        }
        ensure!(bodies(&came) == ["0", "1", "2"], "{:?} came", bodies(&came));
        popper.ack_all(&came).await?;
        cluster.at("a shutdown while a pop is under way");
        producer.send(Message::new(&topic, "last")).await?;
        drop_receive(&popper).await?;
        popper.shutdown().await?;
        let other = start(cluster, &group, &topic, PopConfig { is_ordered, ..config() }).await?;
        let last = take(&other, 1, LONG).await?;
        ensure!(bodies(&last) == ["last"], "{:?} came", bodies(&last));
        last[0].ack().await?;
        other.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn options_that_cannot_work_are_typed_errors(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let is_bad_option = |error: &Error| matches!(error, Error::Client(ClientError::Config { .. }));
    let bad = [
        PopConfig { start_at: StartAt::Timestamp(SystemTime::now()), ..config() },
        PopConfig { max_reconsume_times: -1, ..config() },
        PopConfig { long_poll: Duration::from_secs(601), ..config() },
    ];
    for config in bad {
        let started = PopConsumer::builder("g").name_servers([cluster.name_server()]).config(config.clone());
        let started = started.subscribe(&topic, Filter::all()).start().await;
        ensure!(started.as_ref().is_err_and(is_bad_option), "{config:?} came to {started:?}");
    }
    let builder = || PopConsumer::builder("g").name_servers([cluster.name_server()]);
    let started = builder().start().await;
    ensure!(matches!(started, Err(Error::NoSubscription)), "without a topic: {started:?}");
    let started = builder().subscribe(&topic, Filter::tags("||")).start().await;
    ensure!(matches!(started, Err(Error::Filter { .. })), "with a filter of bars: {started:?}");
    let started = PopConsumer::builder("a b").name_servers([cluster.name_server()]).subscribe(&topic, Filter::all());
    let started = started.start().await;
    ensure!(matches!(started, Err(Error::Client(ClientError::Name(_)))), "with a bad group: {started:?}");

    let popper = start(cluster, &random_name("group"), &topic, config()).await?;
    for (max, invisible) in [(0, BRIEF), (33, BRIEF), (1, Duration::ZERO), (1, Duration::from_secs(12 * 3600 + 1))] {
        let refused = popper.receive(max, invisible).await;
        ensure!(refused.as_ref().is_err_and(is_bad_option), "{max} for {invisible:?} came to {refused:?}");
    }
    Ok(popper.shutdown().await?)
}

pub(crate) async fn an_old_broker_is_a_typed_error(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    if !cluster.is_real() {
        cluster.dev().on(RequestCode::POP_MESSAGE).answer(ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    }
    let popper = start(cluster, &random_name("group"), &topic, config()).await?;
    match popper.receive(1, BRIEF).await {
        Err(Error::PopNotSupported { broker_name }) => ensure!(broker_name == "broker-a", "of {broker_name}"),
        other => bail!("an old broker came to {other:?}"),
    }
    Ok(popper.shutdown().await?)
}
