//! What can be changed while a consumer runs.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{Message, message::names::retry_topic};
use rocketmq_consumer::{Error, Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::sleep};

/// Long enough for what must not happen to show.
const A_WHILE: Duration = Duration::from_secs(2);

fn first() -> PushConfig {
    PushConfig { start_at: StartAt::First, ..Default::default() }
}

pub(crate) async fn more_or_fewer_calls_run_at_once_when_told(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        calls_at_once(cluster, ordered).await?;
    }
    Ok(())
}

async fn calls_at_once(cluster: &Cluster, ordered: bool) -> Result<()> {
    let (topic, group) = (cluster.topic(8).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 160, move |index| varied(&of_topic, index)).await?;
    let (running, done, gate) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, finished, at_the_gate) = (running.clone(), done.clone(), gate.clone());
    let listener = move |_: StoredMessage| {
        let (running, done, gate) = (counted.clone(), finished.clone(), at_the_gate.clone());
        async move {
            running.fetch_add(1, Ordering::SeqCst);
            let pass = gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string());
            running.fetch_sub(1, Ordering::SeqCst);
            done.fetch_add(1, Ordering::SeqCst);
            pass
        }
    };
    let builder = cluster.consumer(&group).config(PushConfig { concurrency: 3, ..first() });
    let builder = builder.subscribe(&topic, Filter::all());
    let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
    let consumer = builder.start().await?;
    let run = async |count: usize| {
        eventually(SOON, async || {
            let now = running.load(Ordering::SeqCst);
            ensure!(now == count, "{now} calls run at once, expected {count}");
            Ok(())
        })
        .await?;
        sleep(Duration::from_millis(500)).await;
        let now = running.load(Ordering::SeqCst);
        ensure!(now == count, "{now} calls run at once, no more than {count} may");
        Ok(())
    };
    cluster.at("three calls");
    run(3).await?;
    cluster.at("six calls");
    consumer.set_concurrency(6)?;
    run(6).await?;
    cluster.at("two calls");
    consumer.set_concurrency(2)?;
    gate.add_permits(6);
    run(2).await?;
    cluster.at("seven calls");
    consumer.set_concurrency(7)?;
    run(7).await?;
    ensure!(matches!(consumer.set_concurrency(0), Err(Error::Client(_))), "no calls at all are allowed");
    gate.add_permits(1000);
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    ensure!(done.load(Ordering::SeqCst) == sent.len(), "{done:?} calls for {} messages", sent.len());
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_suspended_consumer_stands_still(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
        let producer = cluster.producer().await?;
        let builder = cluster.consumer(&group).subscribe(&topic, Filter::all());
        let listener = inbox.listener();
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.start().await?;
        let of_topic = topic.clone();
        let before = send_from(4, &producer, 40, move |index| varied(&of_topic, index)).await?;
        inbox.has_each_once(before.keys(), SOON).await?;
        consumer.suspend();
        ensure!(consumer.is_suspended(), "not suspended");
        let of_topic = topic.clone();
        let after = send_from(4, &producer, 40, move |index| varied(&of_topic, index)).await?;
        sleep(A_WHILE).await;
        ensure!(inbox.len() == before.len(), "{} messages came although suspended", inbox.len() - before.len());
        consumer.resume();
        inbox.has_each_once(before.keys().chain(after.keys()), SOON).await?;
        // It can be shut down while it stands still.
        consumer.suspend();
        consumer.shutdown().await?;
        cluster.expect_recorded(&group, &topic, before.len() + after.len()).await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn topics_come_and_go_while_a_consumer_runs(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        come_and_go(cluster, ordered).await?;
    }
    Ok(())
}

async fn come_and_go(cluster: &Cluster, ordered: bool) -> Result<()> {
    let (one, other, group) = (cluster.topic(2).await?, cluster.topic(2).await?, random_name("group"));
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    let send = async |topic: &str, from: usize| {
        let of_topic = topic.to_owned();
        send_from(4, &producer, 60, move |index| varied(&of_topic, from + index)).await
    };
    let build = |inbox: &Inbox| {
        let (builder, listener) = (cluster.consumer(&group), inbox.listener());
        if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) }
    };
    let consumer = build(&inbox).subscribe(&one, Filter::all()).start().await?;
    let of_one = send(&one, 0).await?;
    let of_other = send(&other, 0).await?;
    inbox.has_each_once(of_one.keys(), SOON).await?;

    cluster.at("a topic comes");
    consumer.subscribe(&other, Filter::tags("eu")).await?;
    let eu = |sent: &crate::parcel::Sent| -> Vec<String> {
        sent.iter().filter(|(_, message)| message.properties().tag() == Some("eu")).map(|(id, _)| id.clone()).collect()
    };
    let mut expected: Vec<String> = of_one.keys().cloned().chain(eu(&of_other)).collect();
    inbox.has_each_once(&expected, SOON).await?;
    cluster.expect_recorded(&group, &other, of_other.len()).await?;

    cluster.at("its filter changes");
    consumer.subscribe(&other, Filter::all()).await?;
    let of_other = send(&other, 100).await?;
    expected.extend(of_other.into_keys());
    inbox.has_each_once(&expected, SOON).await?;

    cluster.at("a topic goes");
    consumer.unsubscribe(&one).await?;
    ensure!(consumer.assigned_queues().iter().all(|queue| *queue.topic != *one), "its queues are still ours");
    cluster.expect_recorded(&group, &one, of_one.len()).await?;
    let late = send(&one, 200).await?;
    sleep(A_WHILE).await;
    inbox.has_each_once(&expected, SOON).await?;
    ensure!(matches!(consumer.unsubscribe(&other).await, Err(Error::NoSubscription)), "the last topic may not go");
    // How what has failed comes again is not the user's to change.
    let retry_topic = retry_topic(&group);
    consumer.unsubscribe(&retry_topic).await?;
    eventually(SOON, async || {
        let queues = consumer.assigned_queues();
        ensure!(queues.iter().any(|queue| *queue.topic == *retry_topic), "ours are {queues:?}");
        Ok(())
    })
    .await?;
    let narrowed = consumer.subscribe(&retry_topic, Filter::tags("eu")).await;
    ensure!(matches!(narrowed, Err(Error::Clash { .. })), "the retry topic has a filter: {narrowed:?}");
    consumer.shutdown().await?;
    ensure!(matches!(consumer.subscribe(&one, Filter::all()).await, Err(Error::ShutDown)), "subscribed after the end");

    cluster.at("it is back");
    let next = Inbox::new();
    let consumer = build(&next).subscribe(&one, Filter::all()).start().await?;
    next.has_each_once(late.keys(), SOON).await?;
    consumer.subscribe(&other, Filter::all()).await?;
    match tokio::join!(consumer.unsubscribe(&one), consumer.unsubscribe(&other)) {
        (Ok(()), Err(Error::NoSubscription)) => {}
        went => anyhow::bail!("both topics at once: {went:?}, expected one to stay"),
    }
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_change_of_topics_that_is_dropped_half_way_holds(cluster: &Cluster) -> Result<()> {
    let (one, other, group) = (cluster.topic(2).await?, cluster.topic(2).await?, random_name("group"));
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    let config = PushConfig { rebalance_interval: Duration::from_secs(1), ..first() };
    let builder = cluster.consumer(&group).config(config).subscribe(&one, Filter::all());
    let consumer = builder.listener(inbox.listener()).start().await?;
    let send = async |topic: &str| {
        let topic = topic.to_owned();
        send_from(1, &producer, 10, move |index| varied(&topic, index)).await
    };
    let mut sent = send(&one).await?;
    inbox.has_each_once(sent.keys(), SOON).await?;

    cluster.at("a topic comes");
    dropped_half_way(consumer.subscribe(&other, Filter::all())).await?;
    sent.extend(send(&other).await?);
    inbox.has_each_once(sent.keys(), SOON).await?;

    cluster.at("a topic goes");
    dropped_half_way(consumer.unsubscribe(&one)).await?;
    eventually(SOON, async || {
        let queues = consumer.assigned_queues();
        ensure!(queues.iter().all(|queue| *queue.topic != *one), "{queues:?} are still ours");
        Ok(())
    })
    .await?;
    sent.extend(send(&other).await?);
    inbox.has_each_once(sent.keys(), SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

type Slot = Arc<Mutex<Option<PushConsumer>>>;

fn lock(slot: &Slot) -> MutexGuard<'_, Option<PushConsumer>> {
    slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What a listener does with its own consumer, by the body of the message.
async fn use_consumer(slot: &Slot, message: &StoredMessage) -> Result<(), String> {
    let consumer = lock(slot).clone().ok_or("there is no consumer yet")?;
    let done = match &message.body()[..] {
        b"leave" => consumer.unsubscribe(message.topic()).await,
        b"end" => consumer.shutdown().await,
        _ => {
            drop((lock(slot).take(), consumer));
            std::future::pending().await
        }
    };
    done.map_err(|error| error.to_string())
}

pub(crate) async fn a_listener_may_use_its_own_consumer(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        use_from_within(cluster, ordered).await?;
    }
    Ok(())
}

async fn use_from_within(cluster: &Cluster, ordered: bool) -> Result<()> {
    let (one, other, group) = (cluster.topic(1).await?, cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let start = async |inbox: &Inbox| {
        let (slot, kept) = (Slot::default(), inbox.clone());
        let used = slot.clone();
        let listener = move |message: StoredMessage| {
            let used = used.clone();
            kept.keep(message.clone());
            async move { use_consumer(&used, &message).await }
        };
        let shutdown_timeout = Duration::from_millis(500);
        let config = PushConfig { shutdown_timeout, revoke_timeout: Duration::from_millis(100), ..first() };
        let builder = cluster.consumer(&group).config(config);
        let builder = builder.subscribe(&one, Filter::all()).subscribe(&other, Filter::all());
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.start().await?;
        *lock(&slot) = Some(consumer.clone());
        anyhow::Ok((consumer, slot))
    };
    let expect_again = async |ids: &[&String]| {
        let next = Inbox::new();
        let builder = cluster.consumer(&group).subscribe(&one, Filter::all()).subscribe(&other, Filter::all());
        let listener = next.listener();
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.start().await?;
        next.has_each_once(ids.iter().copied(), SOON).await?;
        consumer.shutdown().await?;
        anyhow::Ok(())
    };
    cluster.at("leaves its topic");
    let (inbox, begun) = (Inbox::new(), Inbox::new());
    let (consumer, slot) = start(&inbox).await?;
    let leave = producer.send(Message::new(&one, "leave")).await?.message_id;
    eventually(SOON, async || {
        let queues = consumer.assigned_queues();
        ensure!(inbox.len() == 1 && queues.iter().all(|queue| *queue.topic != *one), "{queues:?} are ours");
        Ok(())
    })
    .await?;
    cluster.at("ends itself");
    let end = producer.send(Message::new(&other, "end")).await?.message_id;
    inbox.has(2, SOON).await?;
    let ended = consumer.shutdown().await;
    ensure!(matches!(ended, Err(Error::Unfinished { messages: 1, .. })), "the shutdown came to {ended:?}");
    lock(&slot).take();
    // A queue that is consumed in order stays until the call has ended.
    let again = if ordered { vec![&end] } else { vec![&leave, &end] };
    expect_again(&again).await?;
    if !ordered {
        cluster.at("is dropped");
        drop(start(&begun).await?);
        let dropped = producer.send(Message::new(&one, "drop")).await?.message_id;
        begun.has(1, SOON).await?;
        expect_again(&[&dropped]).await?;
    }
    Ok(producer.shutdown().await?)
}

/// Begins a change, and as a rule is not there when it ends.
pub(crate) async fn dropped_half_way(change: impl Future<Output = Result<(), Error>>) -> Result<()> {
    tokio::select! {
        biased;
        changed = change => Ok(changed?),
        () = std::future::ready(()) => Ok(()),
    }
}
