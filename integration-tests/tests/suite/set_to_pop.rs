//! Push consumers whose group an operator sets to pop, and back; what becomes of their messages is in `pushed_pops.rs`.

use crate::{
    allocation::owned,
    cluster::{Cluster, random_name},
    inbox::Inbox,
    operators::{self, running_info},
    popping::{self, expect_retried, send},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{
    Message, StoredMessage,
    message::names::retry_topic,
    protocol::{Assignment, RequestMode, RequestModeOfGroup, SetRequestMode},
    remote::{Json, ResponseCode},
};
use rocketmq_consumer::{Filter, IntoOutcome, PushConfig, PushConsumer, PushConsumerBuilder, StartAt};
use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// A real broker brings back what was given back for a second or so within several.
pub(crate) const LATE: Duration = Duration::from_secs(90);
/// The shortest there is.
pub(crate) const BRIEF: Duration = Duration::from_secs(5);
/// Longer than any scenario.
pub(crate) const LONG: Duration = Duration::from_secs(300);

pub(crate) fn config() -> PushConfig {
    PushConfig {
        start_at: StartAt::First,
        rebalance_interval: Duration::from_millis(200),
        long_poll: Duration::from_secs(2),
        pop_invisible_time: LONG,
        ..Default::default()
    }
}

/// An operator has the group consume a topic so, at every broker.
pub(crate) async fn set_mode(cluster: &Cluster, topic: &str, group: &str, mode: RequestMode, share: i32) -> Result<()> {
    let client = cluster.client().await?;
    let route = client.route(&topic.into()).await?;
    for addr in route.brokers().filter_map(|(_, addrs)| addrs.values().next()) {
        let (consumer_group, topic) = (group.to_owned(), topic.to_owned());
        let set = RequestModeOfGroup { consumer_group, mode, pop_share_queue_num: share, topic };
        client.call(addr, &SetRequestMode {}, Json(set), client.request_deadline()).await?;
    }
    Ok(())
}

/// Waits until a member pops a topic, all queues of its brokers at once.
pub(crate) async fn until_popped(consumer: &PushConsumer, topic: &str) -> Result<()> {
    until_owned(consumer, topic, &[-1]).await
}

pub(crate) async fn until_owned(consumer: &PushConsumer, topic: &str, expected: &[i32]) -> Result<()> {
    eventually(SOON, async || {
        let queues = owned(consumer, topic);
        ensure!(queues == expected.iter().copied().collect(), "it has queues {queues:?}, expected {expected:?}");
        Ok(())
    })
    .await
}

pub(crate) fn builder(cluster: &Cluster, group: &str, topic: &str, config: PushConfig) -> PushConsumerBuilder {
    cluster.consumer(group).config(config).subscribe(topic, Filter::all()).allocate_by_broker()
}

/// A member that pops with a listener.
pub(crate) async fn popping<F, C>(
    cluster: &Cluster,
    (topic, group): (&str, &str),
    config: PushConfig,
    listener: F,
) -> Result<PushConsumer>
where
    F: Fn(StoredMessage) -> C + Send + Sync + 'static,
    C: Future<Output: IntoOutcome> + Send + 'static,
{
    let consumer = builder(cluster, group, topic, config).listener(listener).start().await?;
    // Brokers know a group once it has a member.
    set_mode(cluster, topic, group, RequestMode::Pop, 0).await?;
    until_popped(&consumer, topic).await?;
    Ok(consumer)
}

/// A listener that keeps a message and then waits for a leave to be done.
pub(crate) fn gated(
    inbox: &Inbox,
    gate: &Arc<Semaphore>,
) -> impl Fn(StoredMessage) -> Consuming + Send + Sync + 'static + use<> {
    let (inbox, gate) = (inbox.clone(), gate.clone());
    move |message| {
        inbox.keep(message);
        let gate = gate.clone();
        Box::pin(async move { gate.acquire().await.map(|leave| leave.forget()).map_err(|error| error.to_string()) })
    }
}

pub(crate) type Consuming = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Fails unless so many messages lie in the retry topic of a group for a topic it pops, once the name server knows it:
/// what was not settled in time, or was given back.
pub(crate) async fn expect_back(cluster: &Cluster, topic: &str, group: &str, expected: usize) -> Result<()> {
    expect_retried(cluster, &popping::retry_topic(group, topic), expected).await
}

/// Waits until nothing is unsettled at a member.
pub(crate) async fn all_settled(cluster: &Cluster, topic: &str, group: &str, consumer: &PushConsumer) -> Result<()> {
    until_unsettled(cluster, topic, group, consumer, 0).await
}

/// Waits until so many messages are popped by a member and not settled.
pub(crate) async fn until_unsettled(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    consumer: &PushConsumer,
    expected: i32,
) -> Result<()> {
    eventually(SOON, async || {
        let info = running_info(cluster, topic, group, consumer).await?;
        let unsettled: i32 = info.mq_pop_table.0.values().map(|queue| queue.wait_ack_count).sum();
        ensure!(unsettled == expected, "{unsettled} messages are unsettled, expected {expected}");
        Ok(())
    })
    .await
}

/// Has messages be sent, each of which comes to one of the inboxes once.
async fn come_once(cluster: &Cluster, topic: &str, inboxes: &[&Inbox]) -> Result<()> {
    let producer = cluster.producer().await?;
    let sent: BTreeSet<String> = send(&producer, topic, 60).await?.into_iter().collect();
    producer.shutdown().await?;
    let came = || -> Vec<String> {
        let messages = inboxes.iter().flat_map(|inbox| inbox.messages());
        let ids = messages.map(|message| message.message_id().into_owned());
        ids.filter(|id| sent.contains(id)).collect()
    };
    eventually(SOON, async || {
        ensure!(came().len() >= sent.len(), "{} of {} messages came", came().len(), sent.len());
        Ok(())
    })
    .await?;
    ensure!(came().len() == sent.len(), "{} messages came {} times", sent.len(), came().len());
    Ok(())
}

pub(crate) async fn a_group_follows_its_operator_between_pull_and_pop(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let inboxes = [Inbox::new(), Inbox::new()];
    let start = |inbox: &Inbox| builder(cluster, &group, &topic, config()).listener(inbox.listener()).start();
    let (one, two) = (start(&inboxes[0]).await?, start(&inboxes[1]).await?);
    let has_two = async |consumer: &PushConsumer| {
        eventually(SOON, async || {
            let queues = owned(consumer, &topic);
            ensure!(queues.len() == 2 && !queues.contains(&-1), "it has queues {queues:?}, expected two");
            Ok(())
        })
        .await
    };
    has_two(&one).await?;
    has_two(&two).await?;
    come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]]).await?;
    cluster.at("set to pop");
    set_mode(cluster, &topic, &group, RequestMode::Pop, 0).await?;
    until_popped(&one, &topic).await?;
    until_popped(&two, &topic).await?;
    let client = cluster.client().await?;
    let told = client.query_assignment(&group, &topic.as_str().into(), "AVG").await?.queues.context("no queues")?;
    let is_pop = |it: &Assignment| it.mode == RequestMode::Pop && it.message_queue.queue_id == -1;
    ensure!(told.len() == 1 && told.iter().all(is_pop), "the broker says {told:?}");
    come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]]).await?;
    all_settled(cluster, &topic, &group, &one).await?;
    cluster.at("one leaves");
    one.shutdown().await?;
    come_once(cluster, &topic, &[&inboxes[1]]).await?;
    cluster.at("set to pull");
    set_mode(cluster, &topic, &group, RequestMode::Pull, 0).await?;
    until_owned(&two, &topic, &[0, 1, 2, 3]).await?;
    come_once(cluster, &topic, &[&inboxes[1]]).await?;
    cluster.expect_recorded(&group, &topic, 240).await?;
    expect_back(cluster, &topic, &group, 0).await?;
    Ok(two.shutdown().await?)
}

pub(crate) async fn queues_to_pop_may_be_shared_out(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(6).await?, random_name("group"));
    let inboxes = [Inbox::new(), Inbox::new(), Inbox::new(), Inbox::new()];
    let mut members = Vec::new();
    for inbox in &inboxes {
        let member = builder(cluster, &group, &topic, config()).listener(inbox.listener()).start().await?;
        members.push((member, inbox));
    }
    // Its own queues, and those of one more member.
    set_mode(cluster, &topic, &group, RequestMode::Pop, 1).await?;
    members.sort_by(|(one, _), (other, _)| one.client().id().cmp(other.client().id()));
    let shares = [&[0, 1, 2, 3][..], &[2, 3, 4], &[4, 5], &[5, 0, 1]];
    for ((member, _), queues) in members.iter().zip(shares) {
        until_owned(member, &topic, queues).await?;
    }
    come_once(cluster, &topic, &inboxes.iter().collect::<Vec<_>>()).await?;
    for ((member, inbox), queues) in members.into_iter().zip(shares) {
        let came: BTreeSet<i32> = inbox.messages().iter().map(StoredMessage::queue_id).collect();
        ensure!(came.iter().all(|queue| queues.contains(queue)), "it was given {came:?}, its queues are {queues:?}");
        all_settled(cluster, &topic, &group, &member).await?;
        member.shutdown().await?;
    }
    expect_back(cluster, &topic, &group, 0).await?;
    Ok(())
}

pub(crate) async fn what_was_popped_is_consumed_though_its_queue_is_given_up(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let gate = Arc::new(Semaphore::new(0));
    let consumer =
        popping(cluster, (&topic, &group), PushConfig { concurrency: 1, ..config() }, gated(&inbox, &gate)).await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 5).await?;
    until_unsettled(cluster, &topic, &group, &consumer, 5).await?;
    set_mode(cluster, &topic, &group, RequestMode::Pull, 0).await?;
    until_owned(&consumer, &topic, &[0]).await?;
    gate.add_permits(6);
    let last = producer.send(Message::new(&topic, "pulled")).await?.message_id;
    inbox.has_each_once(ids.iter().chain([&last]), SOON).await?;
    let again = inbox.messages().iter().filter(|message| message.reconsume_times() > 0).count();
    ensure!(again == 0, "{again} messages came again");
    cluster.expect_recorded(&group, &topic, 6).await?;
    expect_back(cluster, &topic, &group, 0).await?;
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn what_was_popped_and_left_is_pulled_after_a_switch(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let (first, second) = (Inbox::new(), Inbox::new());
    let kept = first.clone();
    let config = PushConfig { pop_invisible_time: BRIEF, ..config() };
    let lost = popping(cluster, (&topic, &group), config.clone(), move |message| {
        kept.keep(message);
        std::future::pending::<Result<(), String>>()
    })
    .await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 5).await?;
    first.has(5, SOON).await?;
    // As one that dies.
    drop(lost);
    set_mode(cluster, &topic, &group, RequestMode::Pull, 0).await?;
    let consumer = builder(cluster, &group, &topic, config).listener(second.listener()).start().await?;
    second.has_each_once(&ids, LATE).await?;
    for message in second.messages() {
        ensure!(message.topic() == topic, "it comes by {}", message.topic());
        ensure!(message.reconsume_times() == 1, "it comes with {} times", message.reconsume_times());
    }
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}

pub(crate) async fn an_operator_moves_a_group_that_pops(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let consumer = popping(cluster, (&topic, &group), config(), inbox.listener()).await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 10).await?;
    inbox.has_each_once(&ids, SOON).await?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    cluster.at("back");
    operators::reset(cluster, &topic, &group, 0).await?;
    inbox.has(20, LATE).await?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    ensure!(inbox.ids() == ids.iter().cloned().collect() && inbox.len() == 20, "{} came", inbox.len());
    cluster.at("forward");
    consumer.suspend();
    send(&producer, &topic, 5).await?;
    operators::reset(cluster, &topic, &group, -1).await?;
    let last = producer.send(Message::new(&topic, "last")).await?.message_id;
    consumer.resume();
    inbox.has_all([&last], LATE).await?;
    ensure!(inbox.len() == 21, "{} messages came, expected one more", inbox.len() - 20);
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_retry_topic_cannot_be_set_to_pop(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let consumer = builder(cluster, &group, &topic, config()).listener(Inbox::new().listener()).start().await?;
    let client = cluster.client().await?;
    let addr = client.master(&cluster.queues(&topic).await?[0].broker_name)?;
    for (of_topic, expected) in
        [(retry_topic(&group), ResponseCode::NO_PERMISSION), (random_name("none"), ResponseCode::TOPIC_NOT_EXIST)]
    {
        let (consumer_group, mode) = (group.clone(), RequestMode::Pop);
        let set = RequestModeOfGroup { consumer_group, mode, pop_share_queue_num: 0, topic: of_topic.clone() };
        let refused = client.call(&addr, &SetRequestMode {}, Json(set), client.request_deadline()).await;
        let code = refused.err().and_then(|error| error.response_code());
        ensure!(code == Some(expected), "setting {of_topic} is answered {code:?}, expected {expected:?}");
    }
    Ok(consumer.shutdown().await?)
}
