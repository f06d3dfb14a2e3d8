//! Brokers and queues that come, go and move while a group consumes.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{ClientConfig, Message, MessageQueue};
use rocketmq_consumer::{Error, Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_producer::{Producer, ProducerConfig, Select};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

const ROUTES: Duration = Duration::from_millis(1500);
const REBALANCE: Duration = Duration::from_millis(1500);
/// What is left to a machine that is busy with other scenarios.
const SLACK: Duration = Duration::from_secs(2);

/// A group that consumes a topic, and what is sent to it.
struct Group<'a> {
    cluster: &'a Cluster,
    topic: String,
    name: String,
    inbox: Inbox,
    producer: Producer,
    consumer: PushConsumer,
    sent: BTreeSet<String>,
}

impl<'a> Group<'a> {
    async fn start(cluster: &'a Cluster, topic: String) -> Result<Self> {
        let (name, inbox) = (random_name("group"), Inbox::new());
        let client = ClientConfig { route_refresh_interval: ROUTES, ..Default::default() };
        let config =
            PushConfig { start_at: StartAt::First, rebalance_interval: REBALANCE, client, ..Default::default() };
        let consumer = cluster.consumer(&name).config(config).subscribe(&topic, Filter::all());
        let consumer = consumer.listener(inbox.listener()).start().await?;
        let client = ClientConfig { route_refresh_interval: ROUTES, ..Default::default() };
        // A broker that has just started may store a message only after the send has timed out.
        let config = ProducerConfig { client, send_timeout: Duration::from_secs(20), ..Default::default() };
        let producer = cluster.producer_with(config).await?;
        Ok(Self { cluster, topic, name, inbox, producer, consumer, sent: BTreeSet::new() })
    }

    fn queues(&self) -> BTreeSet<MessageQueue> {
        self.consumer.assigned_queues().into_iter().filter(|queue| *queue.topic == *self.topic).collect()
    }

    /// Waits until the name server tells of so many queues; from then on the group has a route interval and a rebalance
    /// interval to have them, and no others.
    async fn has_queues_in_time(&self, count: usize) -> Result<()> {
        let client = self.cluster.client().await?;
        let told = eventually(SOON, async || {
            let seen = client.known_route(&self.topic).map_or(0, |route| route.generation());
            let route = client.newer_route(&self.topic.as_str().into(), seen).await?;
            let queues: BTreeSet<_> = route.read_queues().iter().cloned().collect();
            ensure!(queues.len() == count, "the name server tells of {queues:?}");
            Ok(queues)
        })
        .await?;
        eventually(ROUTES + REBALANCE + SLACK, async || {
            ensure!(self.queues() == told, "the group has {:?}", self.queues());
            Ok(())
        })
        .await
    }

    /// Sends something to each queue the group has, and waits until it has come.
    async fn consumes_all(&mut self) -> Result<()> {
        for queue in self.queues() {
            for body in ["one", "two", "three"] {
                // The producer may hear of a queue later than the group does.
                let receipt = eventually(SOON, async || {
                    let sent = self.producer.send_to(Select::queue(&queue), Message::new(&self.topic, body)).await;
                    sent.with_context(|| format!("not sent to {queue}"))
                })
                .await?;
                self.sent.insert(receipt.message_id);
            }
        }
        self.inbox.has_each_once(&self.sent, SOON).await
    }

    async fn end(self) -> Result<()> {
        self.consumer.shutdown().await?;
        Ok(self.producer.shutdown().await?)
    }
}

pub(crate) async fn a_broker_that_comes_is_consumed_from_and_one_that_goes_is_left(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.stop_broker_at(1).await?;
    cluster.at("with one broker");
    let mut group = Group::start(cluster, topic).await?;
    group.has_queues_in_time(2).await?;
    group.consumes_all().await?;
    cluster.at("a broker comes");
    cluster.start_broker_at(1).await?;
    group.has_queues_in_time(4).await?;
    group.consumes_all().await?;
    cluster.expect_recorded(&group.name, &group.topic, group.sent.len()).await?;
    cluster.at("it goes");
    cluster.stop_broker_at(1).await?;
    group.has_queues_in_time(2).await?;
    group.consumes_all().await?;
    cluster.at("it comes again");
    cluster.start_broker_at(1).await?;
    group.has_queues_in_time(4).await?;
    group.consumes_all().await?;
    cluster.expect_recorded(&group.name, &group.topic, group.sent.len()).await?;
    group.end().await
}

pub(crate) async fn a_broker_at_another_address_is_found_again(cluster: &Cluster) -> Result<()> {
    let mut group = Group::start(cluster, cluster.topic(2).await?).await?;
    group.has_queues_in_time(4).await?;
    group.consumes_all().await?;
    cluster.expect_recorded(&group.name, &group.topic, group.sent.len()).await?;
    let (late, new_topic) = (cluster.producer_with(ProducerConfig::default()).await?, random_name("new"));
    let on_that_broker = Select::by(|queues: &[MessageQueue], _: &Message| {
        queues.iter().position(|queue| &*queue.broker_name == "broker-b").unwrap_or(usize::MAX)
    });
    let send_new = async || late.send_to(on_that_broker.clone(), Message::new(&new_topic, "body")).await;
    cluster.at("the broker moves");
    cluster.stop_broker_at(1).await?;
    // By the route of the template as the producer knows it, which still names the old address.
    ensure!(send_new().await.is_err(), "sent to a broker that is gone");
    cluster.move_broker(1).await?;
    cluster.start_broker_at(1).await?;
    group.has_queues_in_time(4).await?;
    cluster.at("the broker is elsewhere");
    let receipt = eventually(SOON, async || send_new().await.context("not sent to the new topic")).await?;
    ensure!(&*receipt.queue.broker_name == "broker-b", "stored in {}", receipt.queue);
    late.shutdown().await?;
    group.consumes_all().await?;
    cluster.expect_recorded(&group.name, &group.topic, group.sent.len()).await?;
    group.end().await
}

pub(crate) async fn queues_that_come_are_consumed_and_those_that_go_are_left(cluster: &Cluster) -> Result<()> {
    let mut group = Group::start(cluster, cluster.topic(2).await?).await?;
    for queues in [2, 5, 1] {
        cluster.at(format!("with {queues} queues"));
        cluster.create_topic(&group.topic, usize::MAX, queues).await?;
        group.has_queues_in_time(usize::try_from(queues)?).await?;
        group.consumes_all().await?;
    }
    group.end().await
}

pub(crate) async fn what_fails_while_its_broker_is_away_comes_again_from_another(cluster: &Cluster) -> Result<()> {
    let (topic, inbox, gate) = (cluster.topic(1).await?, Inbox::new(), Arc::new(Semaphore::new(0)));
    let (kept, at_gate) = (inbox.clone(), gate.clone());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(move |message: StoredMessage| {
        let (kept, gate, is_first) = (kept.clone(), at_gate.clone(), message.reconsume_times() == 0);
        async move {
            kept.keep(message);
            if is_first {
                gate.acquire().await.map_err(|error| error.to_string())?.forget();
                return Err("not yet".to_owned());
            }
            Ok(())
        }
    });
    let consumer = consumer.start().await?;
    let producer = cluster.producer().await?;
    let queue = MessageQueue::new(topic.as_str(), "broker-b", 0);
    let receipt = producer.send_to(Select::queue(&queue), Message::new(&topic, "body")).await?;
    inbox.has(1, SOON).await?;
    cluster.at("the broker of the message is away");
    // At once: a broker that takes its time is noticed before, and the queue left with the message in it.
    cluster.kill_broker_at(1).await?;
    gate.add_permits(1);
    // A real broker has it wait for 10 s.
    inbox.has(2, SOON + SOON).await?;
    let again = inbox.messages().pop().context("nothing came")?;
    let came = (again.message_id().into_owned(), again.reconsume_times(), again.broker_name().to_string());
    ensure!(came == (receipt.message_id, 1, "broker-a".to_owned()), "what came again is {came:?}");
    ensure!(again.topic() == topic && again.body().as_ref() == b"body", "it came again as {again:?}");
    consumer.shutdown().await.or_else(|error| match error {
        // Of the queue whose broker is away.
        Error::Unfinished { messages: 0, .. } => Ok(()),
        error => Err(error),
    })?;
    producer.shutdown().await?;
    cluster.start_broker_at(1).await
}
