//! What interceptors of a consumer see, and what it counts.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    send::send_from,
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{
    Message,
    message::names::{dlq_topic, retry_topic},
};
use rocketmq_consumer::{
    ConsumeCall, ConsumeEnd, ConsumeInterceptor, Consumed, Filter, Outcome, PushConfig, PushConsumer, StartAt,
    StoredMessage, TopicStatistics,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

/// What fails does not come again.
fn once() -> PushConfig {
    let config = PushConfig { start_at: StartAt::First, max_reconsume_times: Some(0), ..Default::default() };
    PushConfig { long_poll: Duration::from_secs(1), ..config }
}

/// Keeps what it sees of each message, by body.
#[derive(Clone, Default)]
struct Spy(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Spy {
    fn note(&self, call: &ConsumeCall<'_>, what: &str) {
        let mut seen = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for message in call.messages {
            let body = String::from_utf8_lossy(message.body()).into_owned();
            seen.entry(body).or_default().push(format!("{what} in {} by {}", message.topic(), call.group));
        }
    }

    /// Waits until it has seen the end of so many messages; answers what it has seen of each.
    async fn has(&self, count: usize) -> Result<BTreeMap<String, Vec<String>>> {
        eventually(SOON, async || {
            let seen = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            let ended = seen.values().filter(|notes| notes.len() >= 2).count();
            ensure!(ended >= count, "the ends of {ended} of {count} messages seen: {seen:?}");
            Ok(seen)
        })
        .await
    }
}

impl ConsumeInterceptor for Spy {
    fn before_consume(&self, call: &ConsumeCall<'_>) {
        self.note(call, "begun");
    }

    fn after_consume(&self, call: &ConsumeCall<'_>, end: &ConsumeEnd<'_>) {
        let what = match end.consumed {
            Consumed::Done => "done".to_owned(),
            Consumed::Failed { messages, reason } => format!("{messages} failed ({reason})"),
            Consumed::TimedOut => format!("timed out, late: {}", end.took >= CONSUME_TIMEOUT),
            Consumed::Panicked { text } => format!("panicked ({text})"),
            other => format!("{other:?}"),
        };
        self.note(call, &what);
    }
}

struct Panicking;

impl ConsumeInterceptor for Panicking {
    fn before_consume(&self, _: &ConsumeCall<'_>) {
        panic!("{ON_PURPOSE}");
    }

    fn after_consume(&self, _: &ConsumeCall<'_>, _: &ConsumeEnd<'_>) {
        panic!("{ON_PURPOSE}");
    }
}

/// What a spy is to have seen of each message.
fn expected(topic: &str, group: &str, ends: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let note = |what: &str| format!("{what} in {topic} by {group}");
    ends.iter().map(|(body, end)| ((*body).to_owned(), vec![note("begun"), note(end)])).collect()
}

pub(crate) async fn interceptors_see_every_outcome(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, spy) = (cluster.topic(2).await?, random_name("group"), Spy::default());
        let (producer, gate) = (cluster.producer().await?, Arc::new(Semaphore::new(0)));
        let at_the_gate = gate.clone();
        let listener = move |message: StoredMessage| {
            let gate = at_the_gate.clone();
            async move {
                match &message.body()[..] {
                    b"fails" => Err("not today".to_owned()),
                    b"panics" => panic!("{ON_PURPOSE}"),
                    b"slow" => gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string()),
                    _ => Ok(()),
                }
            }
        };
        let builder = cluster.consumer(&group).config(PushConfig { consume_timeout: CONSUME_TIMEOUT, ..once() });
        let builder = builder.subscribe(&topic, Filter::all()).interceptor(Panicking).interceptor(spy.clone());
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.interceptor(Panicking).start().await?;
        for body in ["well", "fails", "panics", "slow"] {
            producer.send(Message::new(&topic, body)).await?;
        }
        // An ordered call has no time-out.
        let mut dead = BTreeSet::from(["fails", "panics"]);
        if !ordered {
            dead.insert("slow");
        }
        spy.has(3).await?;
        dead_letters(cluster, &group, &dead).await?;
        gate.add_permits(1);
        let seen = spy.has(4).await?;
        let panicked = format!("panicked ({ON_PURPOSE})");
        let slow = if ordered { "done" } else { "timed out, late: true" };
        let ends = [("well", "done"), ("fails", "1 failed (not today)"), ("panics", &panicked), ("slow", slow)];
        ensure!(seen == expected(&topic, &group, &ends), "ordered: {ordered}, interceptors saw {seen:?}");
        cluster.expect_recorded(&group, &topic, 4).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    batches_and_streams(cluster).await
}

/// Waits until messages with these bodies, and no others, are dead letters of a group.
async fn dead_letters(cluster: &Cluster, group: &str, bodies: &BTreeSet<&str>) -> Result<()> {
    eventually(SOON, async || {
        let dead = cluster.stored(&dlq_topic(group)).await?;
        let dead: Vec<_> = dead.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned()).collect();
        let is_so = dead.len() == bodies.len() && dead.iter().all(|body| bodies.contains(body.as_str()));
        ensure!(is_so, "{dead:?} are dead letters, expected {bodies:?}");
        Ok(())
    })
    .await
}

async fn batches_and_streams(cluster: &Cluster) -> Result<()> {
    let (topic, group, spy) = (cluster.topic(1).await?, random_name("group"), Spy::default());
    let producer = cluster.producer().await?;
    let messages: Vec<_> = ["a", "b", "c"].into_iter().map(|body| Message::new(&topic, body)).collect();
    producer.send_batch(messages).await?;
    let builder = cluster.consumer(&group).config(PushConfig { consume_batch: 8, ..once() });
    let builder = builder.subscribe(&topic, Filter::all()).interceptor(spy.clone());
    let listener = |_: Vec<StoredMessage>| async { Outcome::failed_from(2, "no more") };
    let consumer = builder.batch_listener(listener).start().await?;
    let seen = spy.has(3).await?;
    let ends = ["a", "b", "c"].map(|body| (body, "1 failed (no more)"));
    ensure!(seen == expected(&topic, &group, &ends), "interceptors saw of a batch {seen:?}");
    dead_letters(cluster, &group, &["c"].into()).await?;
    consumer.shutdown().await?;

    let (group, spy) = (random_name("group"), Spy::default());
    let builder = cluster.consumer(&group).config(once()).subscribe(&topic, Filter::all()).interceptor(spy.clone());
    let mut stream = builder.stream().await?;
    for _ in 0..3 {
        let message = timeout(SOON, stream.next()).await?.context("the stream has ended")?;
        match &message.body()[..] {
            b"a" => message.ack(),
            b"b" => message.nack(),
            _ => drop(message),
        }
    }
    let seen = spy.has(3).await?;
    let given_back = "1 failed (not acknowledged)";
    let ends = [("a", "done"), ("b", given_back), ("c", given_back)];
    ensure!(seen == expected(&topic, &group, &ends), "interceptors saw of a stream {seen:?}");
    stream.consumer().shutdown().await?;
    Ok(producer.shutdown().await?)
}

fn of_topic(consumer: &PushConsumer, topic: &str) -> Result<TopicStatistics> {
    let mut statistics = consumer.statistics();
    statistics.topics.remove(topic).with_context(|| format!("nothing of {topic} in {statistics:?}"))
}

pub(crate) async fn statistics_tell_what_is_done_what_failed_and_what_is_behind(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
        let (producer, gate) = (cluster.producer().await?, Arc::new(Semaphore::new(0)));
        let name = topic.clone();
        let sent = send_from(1, &producer, 60, move |index| {
            let tag = if index % 4 == 0 { "fails" } else { "well" };
            Message::new(&name, format!("{index}")).tag(tag)
        })
        .await?;
        let (kept, at_the_gate) = (inbox.clone(), gate.clone());
        let listener = move |message: StoredMessage| {
            let fails = message.tag() == Some("fails");
            kept.keep(message);
            let gate = at_the_gate.clone();
            async move {
                gate.acquire().await.map_err(|error| error.to_string())?.forget();
                if fails { Err("not today".to_owned()) } else { Ok(()) }
            }
        };
        let builder = cluster.consumer(&group).config(once()).subscribe(&topic, Filter::all());
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.start().await?;

        cluster.at("nothing is done");
        let begun = eventually(SOON, async || {
            let topic = of_topic(&consumer, &topic)?;
            ensure!(topic.lag == 60 && topic.queues.len() == 2, "{topic:?}");
            Ok(topic)
        })
        .await?;
        ensure!((begun.done, begun.failed, begun.consume_max) == (0, 0, Duration::ZERO), "{begun:?}");

        cluster.at("all is done");
        gate.add_permits(60);
        let done = eventually(SOON, async || {
            let topic = of_topic(&consumer, &topic)?;
            ensure!(topic.lag == 0 && topic.done + topic.failed == 60, "{topic:?}");
            Ok(topic)
        })
        .await?;
        ensure!((done.done, done.failed, done.pulled) == (45, 15, 60), "{done:?}");
        ensure!(done.done_per_second > done.failed_per_second && done.failed_per_second > 0.0, "{done:?}");
        ensure!(done.pulled_per_second > 0.0 && done.pull_average > Duration::ZERO, "{done:?}");
        ensure!(done.consume_average > Duration::ZERO && done.consume_max >= done.consume_average, "{done:?}");
        ensure!(done.pull_max >= done.pull_average && done.pull_max < SOON, "{done:?}");
        ensure!(done.queues.iter().all(|queue| queue.in_flight == 0 && queue.offset == queue.max_offset), "{done:?}");
        ensure!(done.queues.iter().filter_map(|queue| queue.offset).sum::<i64>() == 60, "{done:?}");
        ensure!(inbox.len() == sent.len(), "{} messages came", inbox.len());

        cluster.at("more is behind");
        let name = topic.clone();
        send_from(1, &producer, 7, move |index| Message::new(&name, format!("later {index}"))).await?;
        eventually(SOON, async || {
            let topic = of_topic(&consumer, &topic)?;
            let in_flight: usize = topic.queues.iter().map(|queue| queue.in_flight).sum();
            ensure!(topic.lag == 7 && in_flight == 7 && topic.done == 45, "{topic:?}");
            Ok(())
        })
        .await?;
        let json = serde_json::to_value(consumer.statistics())?;
        ensure!(json["group"] == *group && json["client_id"] == **consumer.client().id(), "{json}");
        let json = &json["topics"][&topic];
        ensure!(json["done"] == 45 && json["lag"] == 7 && json["consume_max_ms"].as_f64() > Some(0.0), "{json}");
        // A broker makes the retry topic at the first heartbeat, and tells the name server later.
        eventually(SOON, async || {
            ensure!(consumer.statistics().topics.contains_key(&retry_topic(&group)), "nothing of the retry topic");
            Ok(())
        })
        .await?;
        gate.add_permits(7);
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

const CONSUME_TIMEOUT: Duration = Duration::from_millis(500);
