//! Messages that are delivered only if something else has happened.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{ClientConfig, Message, StoredMessage};
use rocketmq_consumer::{Filter, PushConsumer};
use rocketmq_producer::{Compression, Error, Producer, ProducerBuilder, ProducerConfig, TransactionState};
use std::{
    collections::BTreeMap,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinSet};

/// What a checker was asked. A handle.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<BTreeMap<String, Vec<StoredMessage>>>>);

impl Asked {
    /// A checker that answers by the body of the message, and by how often it has been asked about it before.
    fn checker<A: Fn(&[u8], usize) -> TransactionState + Send + Sync + 'static>(
        &self,
        answer: A,
    ) -> impl Fn(StoredMessage) -> Ready<TransactionState> + Send + Sync + 'static + use<A> {
        let asked = self.clone();
        move |message| {
            let body = message.body().clone();
            let before = {
                let mut asked = asked.lock();
                let checks = asked.entry(message.message_id().into_owned()).or_default();
                checks.push(message);
                checks.len() - 1
            };
            ready(answer(&body, before))
        }
    }

    fn about(&self, id: &str) -> Vec<StoredMessage> {
        self.lock().get(id).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<StoredMessage>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn producer(cluster: &Cluster, group: &str) -> ProducerBuilder {
    let config = ProducerConfig {
        retries: 20,
        send_timeout: Duration::from_secs(20),
        compression: Some(Compression::Zlib),
        ..Default::default()
    };
    Producer::builder(group).name_servers([cluster.name_server()]).config(config)
}

/// Sends in a transaction whose step comes to `state`; answers the message id.
async fn send(producer: &Producer, message: Message, state: TransactionState) -> Result<String> {
    let sent = producer.send_in_transaction(message, move |_| ready(state)).await?;
    ensure!(sent.state == state, "the step said {state:?}, the receipt {:?}", sent.state);
    Ok(sent.receipt.message_id)
}

async fn consumer(cluster: &Cluster, topic: &str, inbox: &Inbox) -> Result<PushConsumer> {
    let consumer = cluster.consumer(&random_name("group")).subscribe(topic, Filter::all());
    Ok(consumer.listener(inbox.listener()).start().await?)
}

pub(crate) async fn a_commit_is_delivered_once_and_a_rollback_never(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (asked, inbox) = (Asked::default(), Inbox::new());
    // Whatever is left open is delivered, and so noticed.
    let checker = asked.checker(|_, _| TransactionState::Commit);
    let producer = producer(cluster, &random_name("producers")).transaction_checker(checker).start().await?;
    let consumer = consumer(cluster, &topic, &inbox).await?;
    let mut committed = Vec::new();
    for round in 0..5 {
        let message = Message::new(&topic, format!("rolled back {round}"));
        send(&producer, message, TransactionState::Rollback).await?;
        let message = Message::new(&topic, format!("committed {round}")).tag("tag").key("key").property("a", "b");
        let (told, sees) = oneshot::channel();
        let step = |message: Message| {
            let nothing_yet = inbox.messages().iter().all(|known| known.body() != message.body());
            let _ = told.send((message.properties().unique_id().map(str::to_owned), nothing_yet));
            ready(TransactionState::Commit)
        };
        let sent = producer.send_in_transaction(message, step).await?;
        let (id, nothing_yet) = sees.await?;
        ensure!(id.as_deref() == Some(&sent.receipt.message_id), "the step saw the id {id:?}");
        ensure!(nothing_yet, "the message was delivered before the step was taken");
        committed.push(sent.receipt.message_id);
    }
    inbox.has_each_once(&committed, SOON).await?;
    for message in inbox.messages() {
        ensure!(message.body().starts_with(b"committed"), "came as {message:?}");
        ensure!(message.topic() == topic && message.tag() == Some("tag"), "came as {message:?}");
        ensure!(message.keys().eq(["key"]) && message.property("a") == Some("b"), "came as {message:?}");
    }
    // What was decided is not asked about, as the next one that is left open shows.
    let open = send(&producer, Message::new(&topic, "open"), TransactionState::Unknown).await?;
    committed.push(open.clone());
    inbox.has_each_once(&committed, SOON).await?;
    let others: Vec<_> = asked.lock().keys().filter(|id| **id != open).cloned().collect();
    ensure!(others.is_empty(), "asked about {others:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn the_checker_decides_what_the_step_left_open(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let (asked, inbox, group) = (Asked::default(), Inbox::new(), random_name("producers"));
    let checker = asked.checker(|body, _| match body {
        b"no" => TransactionState::Rollback,
        _ => TransactionState::Commit,
    });
    let producer = producer(cluster, &group).transaction_checker(checker).start().await?;
    let consumer = consumer(cluster, &topic, &inbox).await?;
    let no = send(&producer, Message::new(&topic, "no"), TransactionState::Unknown).await?;
    // Large enough to travel compressed.
    let large = "yes".repeat(3000);
    let yes = send(&producer, Message::new(&topic, large.clone()).key("key"), TransactionState::Unknown).await?;
    let step = async |_: Message| -> TransactionState { panic!("{ON_PURPOSE}") };
    let panicked = producer.send_in_transaction(Message::new(&topic, "panicked"), step).await?;
    ensure!(panicked.state == TransactionState::Unknown, "a step that panicked came to {:?}", panicked.state);
    let panicked = panicked.receipt.message_id;
    inbox.has_each_once([&yes, &panicked], SOON).await?;
    // The one that is rolled back is asked about once, and is gone when a later one has come.
    eventually(SOON, async || {
        ensure!(!asked.about(&no).is_empty(), "not asked about {no}");
        Ok(())
    })
    .await?;
    let later = send(&producer, Message::new(&topic, "later"), TransactionState::Unknown).await?;
    inbox.has_each_once([&yes, &panicked, &later], SOON).await?;
    for id in [&no, &yes, &panicked, &later] {
        let checks = asked.about(id);
        ensure!(checks.len() == 1, "asked {} times about {id}", checks.len());
    }
    for message in asked.about(&yes) {
        ensure!(message.topic() == topic && message.body() == &large, "asked about {message:?}");
        ensure!(message.keys().eq(["key"]), "asked about {message:?}");
    }
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_checker_that_panics_is_asked_again(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (asked, inbox) = (Asked::default(), Inbox::new());
    let checker =
        asked.checker(|_, before| if before == 0 { panic!("{ON_PURPOSE}") } else { TransactionState::Commit });
    let producer = producer(cluster, &random_name("producers")).transaction_checker(checker).start().await?;
    let consumer = consumer(cluster, &topic, &inbox).await?;
    let id = send(&producer, Message::new(&topic, "body"), TransactionState::Unknown).await?;
    inbox.has_each_once([&id], SOON).await?;
    let checks = asked.about(&id).len();
    ensure!(checks == 2, "asked {checks} times");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn another_producer_of_the_group_is_asked(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (asked_first, asked_second, inbox) = (Asked::default(), Asked::default(), Inbox::new());
    let group = random_name("producers");
    let first = producer(cluster, &group).transaction_checker(asked_first.checker(|_, _| TransactionState::Unknown));
    let second = producer(cluster, &group).transaction_checker(asked_second.checker(|_, _| TransactionState::Commit));
    let (first, second) = (first.start().await?, second.start().await?);
    let consumer = consumer(cluster, &topic, &inbox).await?;
    let known = second.send(Message::new(&topic, "known")).await?.message_id;
    let (taken, is_taken) = oneshot::channel();
    let message = Message::new(&topic, "left").unique_id(random_name("left"));
    let left = message.properties().unique_id().unwrap_or_default().to_owned();
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        let step = async move |_: Message| {
            let _ = taken.send(());
            std::future::pending().await
        };
        first.send_in_transaction(message, step).await
    });
    is_taken.await?;
    // With the task the only handle of the first producer goes.
    sending.abort_all();
    let ended = sending.join_next().await;
    ensure!(matches!(&ended, Some(Err(error)) if error.is_cancelled()), "a step without an end came to {ended:?}");
    inbox.has_each_once([&known, &left], SOON).await?;
    ensure!(asked_second.about(&left).len() == 1, "the second one was not asked");
    consumer.shutdown().await?;
    Ok(second.shutdown().await?)
}

pub(crate) async fn a_restarted_producer_is_checked_before_it_sends(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("producers"));
    // One open transaction on each broker, left by a producer that ends.
    let first = producer(cluster, &group).transaction_checker(|_| ready(TransactionState::Unknown)).start().await?;
    let mut open = BTreeMap::new();
    while open.len() < 2 {
        let sent =
            first.send_in_transaction(Message::new(&topic, "open"), |_| ready(TransactionState::Unknown)).await?;
        open.insert(sent.receipt.queue.broker_name.to_string(), sent.receipt.message_id);
    }
    first.shutdown().await?;
    cluster.at("without broker-b");
    cluster.stop_broker_at(1).await?;
    let (asked, client) = (Asked::default(), client_config());
    let config = ProducerConfig { client, ..Default::default() };
    let checker = asked.checker(|_, _| TransactionState::Commit);
    let second = producer(cluster, &group).config(config).transaction_checker(checker).start().await?;
    let is_checked = async |broker_name: &str| {
        eventually(SOON, async || {
            ensure!(!asked.about(&open[broker_name]).is_empty(), "not asked about the message on {broker_name}");
            Ok(())
        })
        .await
    };
    is_checked("broker-a").await?;
    cluster.at("broker-b comes back");
    cluster.start_broker_at(1).await?;
    is_checked("broker-b").await?;
    Ok(second.shutdown().await?)
}

/// Notices brokers that come within two seconds.
fn client_config() -> ClientConfig {
    ClientConfig { route_refresh_interval: Duration::from_secs(2), ..Default::default() }
}

pub(crate) async fn groups_of_one_client_do_not_mix(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (asked, client, inbox) = ([Asked::default(), Asked::default()], cluster.client().await?, Inbox::new());
    let consumer = consumer(cluster, &topic, &inbox).await?;
    let mut producers = Vec::new();
    for asked in &asked {
        let checker = asked.checker(|_, _| TransactionState::Commit);
        let producer = producer(cluster, &random_name("producers")).client(client.clone());
        producers.push(producer.transaction_checker(checker).start().await?);
    }
    let mut ids = [Vec::new(), Vec::new()];
    for round in 0..3 {
        for (producer, ids) in producers.iter().zip(&mut ids) {
            let message = Message::new(&topic, format!("{round}"));
            ids.push(send(producer, message, TransactionState::Unknown).await?);
        }
    }
    inbox.has_each_once(ids.iter().flatten(), SOON).await?;
    for (asked, ids) in asked.iter().zip(&mut ids) {
        ids.sort();
        let about: Vec<_> = asked.lock().keys().cloned().collect();
        ensure!(about == *ids, "one group was asked about {about:?}, had sent {ids:?}");
    }
    consumer.shutdown().await?;
    for producer in producers {
        producer.shutdown().await?;
    }
    client.shutdown(rocketmq_common::remote::Deadline::after(SOON)).await;
    Ok(())
}

pub(crate) async fn what_cannot_be_decided_is_refused(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let never = async |_: Message| -> TransactionState { panic!("a step nobody may take") };
    let without = producer(cluster, &random_name("producers")).start().await?;
    let result = without.send_in_transaction(Message::new(&topic, "body"), never).await;
    ensure!(matches!(result, Err(Error::NoChecker)), "without a checker: {result:?}");
    let checker = Asked::default().checker(|_, _| TransactionState::Commit);
    let with = producer(cluster, &random_name("producers")).transaction_checker(checker).start().await?;
    let delayed = [
        Message::new(&topic, "body").delay_level(1),
        Message::new(&topic, "body").deliver_after(Duration::from_secs(1)),
        Message::new(&topic, "body").deliver_at(std::time::SystemTime::now()),
    ];
    for message in delayed {
        let result = with.send_in_transaction(message, never).await;
        ensure!(matches!(result, Err(Error::DelayedTransaction)), "delayed: {result:?}");
    }
    let result = with.send_in_transaction(Message::new(&topic, ""), never).await;
    ensure!(matches!(result, Err(Error::Message(_))), "without a body: {result:?}");
    without.shutdown().await?;
    let result = with.send(Message::new(&topic, "body")).await?;
    ensure!(result.queue_offset == 0, "{} messages were stored", result.queue_offset);
    Ok(with.shutdown().await?)
}
