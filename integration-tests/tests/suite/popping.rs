//! Messages that are taken for a while.
//!
//! Nobody can wait for a message not to come. Where one must not come again, another one that was popped with it and is
//! not acknowledged serves as a clock: when that one is back, the first would be, too.

use crate::{
    cluster::{Cluster, random_name},
    inbox::{expect_none, missing},
    parcel::{expect_same, varied},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    Message, MessageQueue,
    message::names::dlq_topic,
    protocol::{Notification, PopMessage, Popped},
    remote::{Deadline, RequestCode, ResponseCode},
};
use rocketmq_consumer::{ClientConfig, ClientError, Error, Filter, PopConfig, PopConsumer, PoppedMessage, StartAt};
use rocketmq_producer::Producer;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Short, and above what a real broker takes for nothing.
const BRIEF: Duration = Duration::from_secs(3);
/// Longer than any scenario.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A real broker looks for what is due in steps of seconds.
const EARLY: Duration = Duration::from_millis(1500);
/// Several brief times, and the broker's slowness each time.
const LATE: Duration = Duration::from_secs(90);

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

fn id(message: &PoppedMessage) -> String {
    message.message_id().into_owned()
}

/// What comes until a message with this id does; everything is acknowledged.
async fn until(popper: &PopConsumer, clock: &str) -> Result<Vec<PoppedMessage>> {
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
    let dead = eventually(LATE, async || {
        ensure!(popper.receive(1, LONG).await?.is_empty(), "it came once more");
        match cluster.stored(&dlq_topic(&group)).await? {
            dead if dead.is_empty() => bail!("no dead letter"),
            dead => Ok(dead),
        }
    })
    .await?;
    ensure!(dead.len() == 1, "{} dead letters", dead.len());
    ensure!(dead[0].message_id() == receipt.message_id, "the dead letter is {}", dead[0].message_id());
    ensure!(dead[0].body() == message.body() && dead[0].property("colour") == Some("blue"), "it has changed");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

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

pub(crate) async fn a_handle_kept_as_text_outlives_its_consumer(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let sent = send(&producer, &topic, 3).await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let taken = take(&popper, 3, 2 * BRIEF).await?;
    let handles: Vec<String> = taken.iter().map(PoppedMessage::receipt_handle).collect();
    popper.shutdown().await?;
    let after_the_end = taken[0].ack().await;
    ensure!(matches!(after_the_end, Err(Error::Client(_))), "an ack after the end came to {after_the_end:?}");

    let popper = start(cluster, &group, &topic, config()).await?;
    popper.ack_handle(&handles[0]).await?;
    let extended = popper.extend_handle(&handles[1], 2 * BRIEF).await?;
    popper.ack_handle(&extended).await?;
    let again = until(&popper, &sent[2]).await?;
    ensure!(again.len() == 1, "{:?} came as well", ids(&again));
    cluster.at("a handle that is too old");
    let late = popper.ack_handle(&handles[2]).await;
    ensure!(matches!(late, Err(Error::Expired | Error::HandleRefused { .. })), "came to {late:?}");
    let late = popper.extend_handle(&handles[2], LONG).await;
    ensure!(matches!(late, Err(Error::Expired)), "came to {late:?}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn handles_that_are_worth_nothing_are_typed_errors(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    send(&producer, &topic, 2).await?;
    let mut taken = take(&popper, 2, BRIEF).await?;
    let handle = taken[0].receipt_handle();
    for odd in ["", "hello", "1 2 3 4 5 6 7 8 9", &format!("{handle} more"), &handle.replace(&topic, "")] {
        let refused = popper.ack_handle(odd).await;
        ensure!(matches!(refused, Err(Error::Handle(_))), "{odd:?} came to {refused:?}");
        let refused = popper.extend_handle(odd, BRIEF).await;
        ensure!(matches!(refused, Err(Error::Handle(_))), "{odd:?} came to {refused:?}");
    }
    let elsewhere = handle.replace(" broker-a ", " broker-z ");
    let refused = popper.ack_handle(&elsewhere).await;
    let unknown = matches!(refused, Err(Error::Client(ClientError::BrokerNotFound { .. })));
    ensure!(unknown, "a handle of another cluster came to {refused:?}");
    let no_such_queue = handle.replace(" broker-a 0 ", " broker-a 77 ");
    let refused = popper.ack_handle(&no_such_queue).await;
    ensure!(matches!(refused, Err(Error::HandleRefused { .. })), "a handle of no queue came to {refused:?}");
    let far = format!(" 4711 {topic}");
    let no_such_message = handle.replace(&format!(" {} {topic}", taken[0].queue_offset()), &far);
    for refused in
        [popper.ack_handle(&no_such_message).await, popper.extend_handle(&no_such_message, BRIEF).await.map(drop)]
    {
        ensure!(matches!(refused, Err(Error::HandleRefused { .. })), "a handle of no message came to {refused:?}");
    }
    cluster.at("the time is over");
    let again = take(&popper, 2, LONG).await?;
    for message in &mut taken {
        let late = message.ack().await;
        ensure!(matches!(late, Err(Error::Expired)), "a late ack came to {late:?}");
        let late = message.extend(LONG).await;
        ensure!(matches!(late, Err(Error::Expired)), "a late extension came to {late:?}");
        ensure!(message.invisible_for().is_zero(), "still hidden for {:?}", message.invisible_for());
    }
    let late = popper.ack_all(&taken).await;
    ensure!(matches!(late, Err(Error::Expired)), "a late batch came to {late:?}");
    popper.ack_all(&again).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
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

pub(crate) async fn one_request_waits_for_many_receivers(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, PopConfig { long_poll: LONG, ..config() }).await?;
    let mut receiving = JoinSet::new();
    for _ in 0..8 {
        let popper = popper.clone();
        receiving.spawn(async move { popper.receive(1, LONG).await });
    }
    let waits = || cluster.dev().received(RequestCode::NOTIFICATION);
    eventually(SOON, async || {
        ensure!(cluster.dev().received(RequestCode::POP_MESSAGE) >= 8 && waits() == 1, "{} wait", waits());
        Ok(())
    })
    .await?;
    let sent: BTreeSet<_> = send(&producer, &topic, 8).await?.into_iter().collect();
    let mut came = BTreeSet::new();
    while let Some(received) = timeout(SOON, receiving.join_next()).await? {
        came.extend(ids(&received??));
    }
    ensure!(came == sent, "other messages came");
    cluster.at("a receiver that gives up leaves nothing that takes messages");
    ensure!(timeout(Duration::from_millis(300), popper.receive(1, LONG)).await.is_err(), "a message came");
    let last = send(&producer, &topic, 1).await?;
    let taken = take(&popper, 1, LONG).await?;
    ensure!(ids(&taken) == last.into_iter().collect() && taken[0].reconsume_times() == 0, "another one came");
    let waiting = popper.receive(1, LONG);
    let (received, ()) = tokio::join!(waiting, async {
        let _ = popper.shutdown().await;
    });
    ensure!(matches!(received, Err(Error::ShutDown)), "came to {received:?}");
    Ok(producer.shutdown().await?)
}

/// How long a wait takes that brings nothing.
const HELD: Duration = Duration::from_secs(2);

fn raw_pop(queue: &MessageQueue, group: &str, poll: Duration) -> PopMessage {
    PopMessage {
        consumer_group: group.into(),
        topic: queue.topic.clone(),
        queue_id: -1,
        max_messages: 2,
        invisible_time_ms: 60_000,
        poll_time_ms: i64::try_from(poll.as_millis()).unwrap_or(i64::MAX),
        born_time_ms: 0,
        init_mode: 0,
        expression_type: None,
        expression: None,
        order: None,
        attempt_id: None,
        broker_name: Some(queue.broker_name.clone()),
    }
}

fn raw_wait(queue: &MessageQueue, group: &str, poll: Duration) -> Notification {
    let PopMessage { consumer_group, topic, queue_id, poll_time_ms, broker_name, .. } = raw_pop(queue, group, poll);
    Notification {
        consumer_group,
        topic,
        queue_id,
        poll_time_ms,
        born_time_ms: 0,
        order: None,
        attempt_id: None,
        expression_type: None,
        expression: None,
        broker_name,
    }
}

pub(crate) async fn a_broker_holds_pops_and_waits(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    // Its heartbeat makes the group known.
    let popper = start(cluster, &group, &topic, config()).await?;
    let client = popper.client();
    let queue = cluster.queues(&topic).await?.remove(0);
    let pop = async |poll| {
        let (asked_at, request) = (Instant::now(), raw_pop(&queue, &group, poll));
        let popped = client.pop_message(&queue.broker_name, &request, Deadline::after(SOON)).await?;
        Ok::<_, Error>((popped, asked_at.elapsed()))
    };
    let wait = async |poll| {
        let (asked_at, request) = (Instant::now(), raw_wait(&queue, &group, poll));
        let notice = client.pop_notification(&queue.broker_name, &request, Deadline::after(SOON)).await?;
        Ok::<_, Error>((notice.has_messages, asked_at.elapsed()))
    };
    let (popped, took) = pop(Duration::ZERO).await?;
    ensure!(popped == Popped::Nothing(ResponseCode::POLLING_TIMEOUT) && took < HELD, "{popped:?} after {took:?}");
    let (popped, took) = pop(HELD).await?;
    ensure!(popped == Popped::Nothing(ResponseCode::POLLING_TIMEOUT), "{popped:?} after {took:?}");
    ensure!(took > HELD / 2, "held for {took:?}");
    let (notice, took) = wait(Duration::ZERO).await?;
    ensure!(notice == Some(false) && took < HELD, "{notice:?} after {took:?}");
    let (notice, took) = wait(HELD).await?;
    ensure!(notice == Some(false) && took > HELD / 2, "{notice:?} after {took:?}");

    cluster.at("a message comes");
    let later = async {
        sleep(Duration::from_millis(300)).await;
        send(&producer, &topic, 1).await
    };
    let (waited, sent) = tokio::join!(wait(SOON), later);
    let (notice, took) = waited?;
    ensure!(notice == Some(true) && took < SOON / 2, "{notice:?} after {took:?}");
    sent?;
    let (popped, _) = pop(Duration::ZERO).await?;
    let Popped::Found(head, body) = popped else { bail!("{popped:?}") };
    ensure!(head.start_offsets.as_deref() == Some("0 0 0"), "the check points are {:?}", head.start_offsets);
    ensure!(head.message_offsets.as_deref() == Some("0 0 0"), "the offsets are {:?}", head.message_offsets);
    ensure!((head.rest, head.invisible_time_ms) == (Some(0), 60_000), "{head:?}");
    ensure!(head.order_counts.is_none() && !body.is_empty(), "{head:?}");
    let later = async {
        sleep(Duration::from_millis(300)).await;
        send(&producer, &topic, 3).await
    };
    let (popped, sent) = tokio::join!(pop(SOON), later);
    sent?;
    let (popped, took) = popped?;
    let Popped::Found(head, _) = popped else { bail!("{popped:?}") };
    ensure!(head.start_offsets.as_deref() == Some("0 0 1") && took < SOON / 2, "{head:?} after {took:?}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
