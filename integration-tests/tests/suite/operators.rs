//! What operators see of a consumer, and what they can have it do.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    send::send_from,
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rocketmq_common::{
    ClientConfig, Error as ClientError, Message, StoredMessage,
    protocol::{
        ConsumeDirectly, ConsumedDirectly, DirectResult, GetGroupStatus, GetRunningInfo, QueueTable, ResetOffset,
        RunningInfo, prop,
    },
    remote::{Deadline, Json, Request, ResponseCode},
};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_integration_tests::real::{JavaProgram, version};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::sleep};

/// Long enough for what must not happen to show: offsets are recorded every second.
const A_WHILE: Duration = Duration::from_secs(3);

/// A consumer whose pulls are not held for long: some brokers tell of a reset with the next one.
fn first() -> PushConfig {
    PushConfig { start_at: StartAt::First, long_poll: Duration::from_secs(1), ..Default::default() }
}

/// Asks the broker as an operator does.
async fn ask<R: Request<Body: Clone>>(
    cluster: &Cluster,
    topic: &str,
    request: &R,
    body: R::Body,
) -> Result<R::Reply, ClientError> {
    let config = ClientConfig::default();
    let client = rocketmq_common::Client::start([cluster.name_server()], config).await?;
    let route = client.route(&topic.into()).await?;
    let addr = route.brokers().find_map(|(_, addrs)| addrs.values().next().cloned());
    let addr = addr.ok_or(ClientError::BrokerNotFound { broker_name: "".into() })?;
    Ok(client.call(&addr, request, body, Deadline::after(SOON)).await?)
}

pub(crate) async fn running_info(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    consumer: &PushConsumer,
) -> Result<RunningInfo> {
    let client_id = consumer.client().id().clone();
    let request = GetRunningInfo { consumer_group: group.into(), client_id, with_stacks: Some(false) };
    Ok(ask(cluster, topic, &request, ()).await?)
}

/// Moves a group: to the first messages stored at or after a moment, or to the end where that is below 0.
pub(crate) async fn reset(cluster: &Cluster, topic: &str, group: &str, timestamp_ms: i64) -> Result<()> {
    let request = ResetOffset {
        topic: topic.into(),
        group: group.into(),
        timestamp_ms,
        is_force: true,
        queue_id: Some(-1),
        offset: Some(-1),
    };
    let moved = ask(cluster, topic, &request, ()).await?;
    ensure!(!moved.offset_table.0.is_empty(), "no queue was moved");
    Ok(())
}

async fn consume_directly(
    cluster: &Cluster,
    group: &str,
    consumer: &PushConsumer,
    message: &StoredMessage,
) -> Result<ConsumedDirectly, ClientError> {
    let request = ConsumeDirectly {
        consumer_group: group.into(),
        client_id: Some(consumer.client().id().clone()),
        message_id: Some(message.offset_id()),
        broker_name: Some(message.broker_name().clone()),
        topic: Some(message.shared_topic().clone()),
        topic_sys_flag: None,
        group_sys_flag: None,
    };
    let Json(consumed) = ask(cluster, message.topic(), &request, Bytes::new()).await?;
    Ok(consumed)
}

/// The one message of a topic with this body.
async fn stored(cluster: &Cluster, topic: &str, body: &str) -> Result<StoredMessage> {
    let stored = cluster.stored(topic).await?;
    stored.into_iter().find(|message| message.body() == body).with_context(|| format!("{body:?} is not stored"))
}

pub(crate) async fn running_info_tells_what_is_held_and_how_it_goes(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group) = (cluster.topic(1).await?, random_name("group"));
        let producer = cluster.producer().await?;
        let of_topic = topic.clone();
        let sent =
            send_from(1, &producer, 20, move |index| Message::new(&of_topic, format!("{index}")).tag("eu")).await?;
        let (inbox, gate) = (Inbox::new(), Arc::new(Semaphore::new(0)));
        let (kept, at_the_gate) = (inbox.clone(), gate.clone());
        let listener = move |message: StoredMessage| {
            // Which five may pass is told by what they are: workers come to the gate in any order.
            let passes = message.queue_offset() < 5;
            kept.keep(message);
            let gate = at_the_gate.clone();
            async move {
                if passes {
                    return Ok(());
                }
                gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string())
            }
        };
        let config = PushConfig { concurrency: 3, ..first() };
        let builder = cluster.consumer(&group).config(config).subscribe(&topic, Filter::tags("eu || us"));
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.start().await?;
        // Five are done, and one of an ordered listener or three of another are in its hands.
        let in_hand = if ordered { 1 } else { 3 };
        inbox.has(5 + in_hand, SOON).await?;
        let info = eventually(SOON, async || {
            let info = running_info(cluster, &topic, &group, &consumer).await?;
            let queue = info.mq_table.0.iter().find(|(queue, _)| *queue.topic == *topic).map(|(_, info)| info.clone());
            let queue = queue.with_context(|| format!("no queue of {topic}: {info:?}"))?;
            let (waiting, begun) = if ordered { (14, 1) } else { (15, 0) };
            ensure!(queue.cached_msg_count == waiting, "{} wait, expected {waiting}", queue.cached_msg_count);
            ensure!(queue.transaction_msg_count == begun, "{} begun, expected {begun}", queue.transaction_msg_count);
            ensure!(queue.commit_offset == 5, "the offset is {}", queue.commit_offset);
            let first = if ordered { 6 } else { 5 };
            let span = (queue.cached_msg_min_offset, queue.cached_msg_max_offset);
            ensure!(span == (first, 19), "from {} to {} wait", span.0, span.1);
            if ordered {
                ensure!((queue.transaction_msg_min_offset, queue.transaction_msg_max_offset) == (5, 5), "{queue:?}");
                ensure!(queue.locked && queue.last_lock_timestamp > 0, "not locked: {queue:?}");
            }
            ensure!(
                !queue.is_dropped && queue.last_pull_timestamp > 0 && queue.last_consume_timestamp > 0,
                "{queue:?}"
            );
            Ok(info)
        })
        .await?;
        let property = |name: &str| info.properties.get(name).map(String::as_str);
        ensure!(property(prop::CONSUME_TYPE) == Some("CONSUME_PASSIVELY"), "{:?}", info.properties);
        ensure!(property(prop::IS_ORDERED) == Some(if ordered { "true" } else { "false" }), "{:?}", info.properties);
        ensure!(property(prop::CONCURRENCY) == Some("3"), "{:?}", info.properties);
        ensure!(property(prop::START_TIMESTAMP).is_some_and(|ms| ms.parse::<i64>().is_ok_and(|ms| ms > 0)));
        let subscription = info.subscription_set.iter().find(|data| data.topic == topic).context("no subscription")?;
        ensure!(subscription.sub_string == "eu || us", "subscribed to {:?}", subscription.sub_string);
        let status = info.status_table.get(&topic).context("no status")?;
        ensure!(status.done_per_second > 0.0 && status.pulled_per_second > 0.0 && status.pull_ms > 0.0, "{status:?}");
        ensure!(status.failed_messages == 0, "{status:?}");

        let wrong = GetRunningInfo {
            consumer_group: group.as_str().into(),
            client_id: "nobody".into(),
            with_stacks: Some(false),
        };
        let refused = ask(cluster, &topic, &wrong, ()).await.err().and_then(|error| error.response_code());
        ensure!(refused == Some(ResponseCode::SYSTEM_ERROR), "a member that is not there was refused by {refused:?}");
        gate.add_permits(sent.len());
        cluster.expect_recorded(&group, &topic, sent.len()).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_message_is_consumed_directly_once_and_the_operator_hears_how(cluster: &Cluster) -> Result<()> {
    for kind in ["concurrent", "batch", "ordered"] {
        cluster.at(kind);
        let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
        let kept = inbox.clone();
        let consume = move |message: StoredMessage| {
            kept.keep(message.clone());
            async move {
                match &message.body()[..] {
                    b"fails" => Err("not today"),
                    b"panics" => panic!("{ON_PURPOSE}"),
                    _ => Ok(()),
                }
            }
        };
        let builder = cluster.consumer(&group).config(first()).subscribe(&topic, Filter::all());
        let builder = match kind {
            "concurrent" => builder.listener(consume),
            "batch" => builder.batch_listener(move |mut messages: Vec<StoredMessage>| {
                consume(messages.pop().expect("a call is for a message at least"))
            }),
            _ => builder.ordered_listener(consume),
        };
        let consumer = builder.start().await?;
        // Nothing is consumed but what an operator wants to be.
        consumer.suspend();
        let producer = cluster.producer().await?;
        for (index, (body, expected, remark)) in [
            ("well", DirectResult::Done, None),
            ("fails", DirectResult::Later, Some("not today".to_owned())),
            ("panics", DirectResult::Panicked, Some(format!("panic: {ON_PURPOSE}"))),
        ]
        .into_iter()
        .enumerate()
        {
            producer.send(Message::new(&topic, body)).await?;
            let message = stored(cluster, &topic, body).await?;
            let consumed = consume_directly(cluster, &group, &consumer, &message).await?;
            ensure!(consumed.consume_result == expected, "{body} came to {consumed:?}");
            ensure!(consumed.remark == remark, "of {body} it is said: {:?}", consumed.remark);
            ensure!(consumed.order == (kind == "ordered"), "{consumed:?}");
            let came = inbox.messages();
            ensure!(came.len() == index + 1, "the listener was called {} times", came.len());
            ensure!(came[index].body() == body && came[index].topic() == topic, "it was called with {:?}", came[index]);
        }
        consumer.shutdown().await?;
        ensure!(cluster.recorded(&group, &topic).await? == 0, "what was consumed directly is recorded");
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_direct_call_that_hangs_is_given_up_and_a_stream_has_none(cluster: &Cluster) -> Result<()> {
    let (topic, group, producer) = (cluster.topic(1).await?, random_name("group"), cluster.producer().await?);
    let gate = Arc::new(Semaphore::new(0));
    let at_the_gate = gate.clone();
    let hanging = cluster.consumer(&group).config(first()).subscribe(&topic, Filter::all());
    let hanging = hanging
        .listener(move |_| {
            let gate = at_the_gate.clone();
            async move { gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string()) }
        })
        .start()
        .await?;
    hanging.suspend();
    let streaming = cluster.consumer(&format!("{group}-2")).config(first()).subscribe(&topic, Filter::all());
    let streaming = streaming.stream().await?;
    producer.send(Message::new(&topic, "m")).await?;
    let message = stored(cluster, &topic, "m").await?;
    let refused =
        async |group: &str, consumer: &PushConsumer| match consume_directly(cluster, group, consumer, &message).await {
            Ok(consumed) => bail!("it came to {consumed:?}"),
            Err(error) => Ok((error.response_code(), format!("{:#}", anyhow::Error::from(error)))),
        };
    let (code, text) = refused(&format!("{group}-2"), streaming.consumer()).await?;
    ensure!(
        code == Some(ResponseCode::SYSTEM_ERROR) && text.contains("stream"),
        "a stream refused with {code:?}: {text}"
    );
    let (code, text) = refused(&group, &hanging).await?;
    ensure!(code == Some(ResponseCode::CONSUME_MSG_TIMEOUT), "a call that hangs was refused with {code:?}: {text}");
    ensure!(text.contains("takes longer"), "not the consumer said so: {text}");
    gate.add_permits(9);
    hanging.shutdown().await?;
    streaming.consumer().shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// A listener whose calls wait at one of two gates: those that began before [`Gates::next`] at the first.
#[derive(Clone)]
struct Gates {
    inbox: Inbox,
    now: Arc<AtomicUsize>,
    gates: [Arc<Semaphore>; 2],
}

impl Gates {
    fn new() -> Self {
        let shut = || Arc::new(Semaphore::new(0));
        Self { inbox: Inbox::new(), now: Arc::default(), gates: [shut(), shut()] }
    }

    /// Calls that begin from now on wait at the second gate.
    fn next(&self) {
        self.now.store(1, Ordering::SeqCst);
    }

    fn open(&self, gate: usize) {
        self.gates[gate].add_permits(1000);
    }

    fn pass(&self, gate: usize, calls: usize) {
        self.gates[gate].add_permits(calls);
    }

    fn start(
        &self,
        cluster: &Cluster,
        group: &str,
        topic: &str,
        ordered: bool,
    ) -> impl Future<Output = Result<PushConsumer>> + use<> {
        let gates = self.clone();
        let listener = move |message: StoredMessage| {
            gates.inbox.keep(message);
            let gate = gates.gates[gates.now.load(Ordering::SeqCst)].clone();
            async move { gate.acquire().await.map(|pass| pass.forget()).map_err(|error| error.to_string()) }
        };
        let config = PushConfig { concurrency: 2, ..first() };
        let builder = cluster.consumer(group).config(config).subscribe(topic, Filter::all());
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        async move { Ok(builder.start().await?) }
    }
}

pub(crate) async fn a_group_goes_back_while_messages_are_in_hand(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, gates) = (cluster.topic(1).await?, random_name("group"), Gates::new());
        let producer = cluster.producer().await?;
        let of_topic = topic.clone();
        let sent = send_from(1, &producer, 20, move |index| Message::new(&of_topic, format!("{index}"))).await?;
        let consumer = gates.start(cluster, &group, &topic, ordered).await?;
        cluster.at("ten are done");
        gates.pass(0, 10);
        cluster.expect_recorded(&group, &topic, 10).await?;
        let in_hand = if ordered { 1 } else { 2 };
        gates.inbox.has(10 + in_hand, SOON).await?;

        cluster.at("the group is moved to the beginning");
        gates.next();
        reset(cluster, &topic, &group, 0).await?;
        // The client has moved, too: it is what records.
        at_in_client(cluster, &topic, &group, &consumer, 0).await?;
        cluster.expect_recorded(&group, &topic, 0).await?;
        // The next call of an ordered listener waits for the one that is in hand; those keep the workers of another busy.
        if !ordered {
            consumer.set_concurrency(4)?;
            gates.inbox.has(10 + in_hand + 2, SOON).await?;
        }
        cluster.at("what was in hand is done");
        gates.open(0);
        gates.inbox.has(10 + in_hand + if ordered { 1 } else { 2 }, SOON).await?;
        sleep(A_WHILE).await;
        let recorded = cluster.recorded(&group, &topic).await?;
        ensure!(recorded == 0, "what was in hand moved the group to {recorded}");
        let again = gates.inbox.len() - 10 - in_hand;
        ensure!(again <= 4, "{again} messages were begun");

        cluster.at("all come again");
        gates.open(1);
        gates.inbox.has(10 + in_hand + 20, SOON).await?;
        cluster.expect_recorded(&group, &topic, 20).await?;
        ensure!(gates.inbox.ids() == sent.keys().cloned().collect(), "others came");
        ensure!(gates.inbox.len() == 30 + in_hand, "{} messages came, expected {}", gates.inbox.len(), 30 + in_hand);
        if ordered {
            let offsets: Vec<_> = gates.inbox.messages().iter().map(StoredMessage::queue_offset).collect();
            ensure!(offsets == (0..11).chain(0..20).collect::<Vec<_>>(), "came in the order {offsets:?}");
        }
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_group_goes_forward_while_messages_are_in_hand(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, gates) = (cluster.topic(1).await?, random_name("group"), Gates::new());
        let producer = cluster.producer().await?;
        let of_topic = topic.clone();
        send_from(1, &producer, 20, move |index| Message::new(&of_topic, format!("{index}"))).await?;
        let consumer = gates.start(cluster, &group, &topic, ordered).await?;
        gates.pass(0, 5);
        cluster.expect_recorded(&group, &topic, 5).await?;
        let in_hand = if ordered { 1 } else { 2 };
        gates.inbox.has(5 + in_hand, SOON).await?;

        cluster.at("the group is moved to the end");
        gates.next();
        gates.open(1);
        reset(cluster, &topic, &group, -1).await?;
        at_in_client(cluster, &topic, &group, &consumer, 20).await?;
        cluster.expect_recorded(&group, &topic, 20).await?;
        cluster.at("what was in hand is done");
        gates.open(0);
        sleep(A_WHILE).await;
        let recorded = cluster.recorded(&group, &topic).await?;
        ensure!(recorded == 20, "what was in hand moved the group to {recorded}");
        let offsets: Vec<_> = gates.inbox.messages().iter().map(StoredMessage::queue_offset).collect();
        ensure!(offsets.len() == 5 + in_hand, "what was passed over came all the same: {offsets:?}");

        cluster.at("what comes then");
        let of_topic = topic.clone();
        let later = send_from(1, &producer, 5, move |index| Message::new(&of_topic, format!("later {index}"))).await?;
        gates.inbox.has_all(later.keys(), SOON).await?;
        cluster.expect_recorded(&group, &topic, 25).await?;
        ensure!(gates.inbox.len() == 10 + in_hand, "{} messages came", gates.inbox.len());
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

/// Waits until the consumer itself is at an offset, as it says when the broker asks it.
async fn at_in_client(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    consumer: &PushConsumer,
    expected: i64,
) -> Result<()> {
    eventually(SOON, async || {
        let tables = status(cluster, topic, group, "").await?;
        let of_client = tables.get(&**consumer.client().id()).context("the client does not say")?;
        let offsets: Vec<_> = of_client.iter().filter(|(queue, _)| queue.starts_with(topic)).collect();
        ensure!(offsets.len() == 1, "its queues are {of_client:?}");
        ensure!(*offsets[0].1 == expected, "it is at {} in {}, expected {expected}", offsets[0].1, offsets[0].0);
        Ok(())
    })
    .await
}

/// What the clients of a group say how far they are, by client id and queue.
async fn status(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    client_id: &str,
) -> Result<BTreeMap<String, BTreeMap<String, i64>>> {
    let client_id = (!client_id.is_empty()).then(|| client_id.into());
    let request = GetGroupStatus { topic: topic.into(), group: group.into(), client_id };
    let answer = ask(cluster, topic, &request, ()).await?;
    let by_queue = |table: QueueTable<i64>| table.0.into_iter().map(|(queue, offset)| (queue.to_string(), offset));
    Ok(answer.consumer_table.into_iter().map(|(client, table)| (client, by_queue(table).collect())).collect())
}

pub(crate) async fn the_clients_of_a_group_say_how_far_they_are(cluster: &Cluster) -> Result<()> {
    let (topic, other, group, inbox) =
        (cluster.topic(2).await?, cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 10, move |index| Message::new(&of_topic, format!("{index}"))).await?;
    let builder = cluster.consumer(&group).subscribe(&topic, Filter::all()).subscribe(&other, Filter::all());
    let consumer = builder.listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    let id = consumer.client().id().to_string();
    eventually(SOON, async || {
        let tables = status(cluster, &topic, &group, "").await?;
        ensure!(tables.keys().eq([&id]), "clients are {:?}", tables.keys());
        let offsets = &tables[&id];
        ensure!(offsets.len() == 2 && offsets.keys().all(|queue| queue.starts_with(&topic)), "queues are {offsets:?}");
        ensure!(offsets.values().sum::<i64>() == 10, "offsets are {offsets:?}");
        Ok(())
    })
    .await?;
    let one = status(cluster, &topic, &group, &id).await?;
    ensure!(one.len() == 1 && one.contains_key(&id), "asked for one, got {:?}", one.keys());
    let nobody = status(cluster, &topic, &group, "nobody").await?;
    ensure!(nobody.is_empty(), "asked for nobody, got {nobody:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn operators_tell_groups_of_one_client_apart(cluster: &Cluster) -> Result<()> {
    let (topic, client, producer) = (cluster.topic(1).await?, cluster.client().await?, cluster.producer().await?);
    let (groups, inboxes) = ([random_name("group"), random_name("group")], [Inbox::new(), Inbox::new()]);
    let start = |index: usize| {
        let builder = cluster.consumer(&groups[index]).client(client.clone()).config(first());
        builder.subscribe(&topic, Filter::all()).listener(inboxes[index].listener()).start()
    };
    let [one, two] = [start(0).await?, start(1).await?];
    two.suspend();
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 5, move |index| Message::new(&of_topic, format!("{index}"))).await?;
    inboxes[0].has_each_once(sent.keys(), SOON).await?;
    cluster.expect_recorded(&groups[0], &topic, 5).await?;
    for (group, consumer, done) in [(&groups[0], &one, 5), (&groups[1], &two, 0)] {
        cluster.at(format!("how the group is that has done {done}"));
        at_in_client(cluster, &topic, group, consumer, done).await?;
        let info = running_info(cluster, &topic, group, consumer).await?;
        let named = info.properties.get("consumerGroup");
        ensure!(named == Some(group), "asked for {group}, told of {named:?}");
        let at = info.mq_table.0.iter().find(|(queue, _)| *queue.topic == *topic).map(|(_, info)| info.commit_offset);
        ensure!(at == Some(done), "{group} is at {at:?}, expected {done}");
    }
    cluster.at("consumed directly by the second");
    let message = stored(cluster, &topic, "3").await?;
    let consumed = consume_directly(cluster, &groups[1], &two, &message).await?;
    ensure!(consumed.consume_result == DirectResult::Done, "it came to {consumed:?}");
    let came = inboxes.each_ref().map(Inbox::len);
    ensure!(came == [5, 1], "{came:?} messages came");
    cluster.at("the first is moved");
    reset(cluster, &topic, &groups[0], 0).await?;
    inboxes[0].has(10, SOON).await?;
    cluster.expect_recorded(&groups[0], &topic, 5).await?;
    at_in_client(cluster, &topic, &groups[1], &two, 0).await?;
    two.resume();
    inboxes[1].has(6, SOON).await?;
    cluster.expect_recorded(&groups[1], &topic, 5).await?;
    let came = inboxes.each_ref().map(Inbox::len);
    ensure!(came == [10, 6], "{came:?} messages came");
    one.shutdown().await?;
    two.shutdown().await?;
    client.shutdown(client.request_deadline()).await;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn operators_know_a_group_of_a_namespace_by_its_whole_name(cluster: &Cluster) -> Result<()> {
    let namespace = rocketmq_common::Namespace::new("MQ_INST_ops")?;
    let (topic, group) = (random_name("topic"), random_name("group"));
    let (wire_topic, wire_group) = (namespace.wrap(&topic).into_owned(), namespace.wrap(&group).into_owned());
    cluster.create_topic(&wire_topic, usize::MAX, 1).await?;
    let (inbox, producer) = (Inbox::new(), cluster.producer().await?);
    let of_topic = wire_topic.clone();
    send_from(1, &producer, 4, move |index| Message::new(&of_topic, format!("{index}"))).await?;
    let client = ClientConfig { namespace: namespace.name().map(str::to_owned), ..Default::default() };
    let builder = cluster.consumer(&group).config(PushConfig { client, ..first() }).subscribe(&topic, Filter::all());
    let consumer = builder.listener(inbox.listener()).start().await?;
    inbox.has(4, SOON).await?;
    cluster.expect_recorded(&wire_group, &wire_topic, 4).await?;
    let info = running_info(cluster, &wire_topic, &wire_group, &consumer).await?;
    ensure!(info.subscription_set.iter().any(|data| data.topic == wire_topic), "{:?}", info.subscription_set);
    ensure!(info.mq_table.0.keys().any(|queue| *queue.topic == *wire_topic), "{:?}", info.mq_table);
    ensure!(info.status_table.contains_key(&wire_topic), "{:?}", info.status_table);
    let message = stored(cluster, &wire_topic, "2").await?;
    let consumed = consume_directly(cluster, &wire_group, &consumer, &message).await?;
    ensure!(consumed.consume_result == DirectResult::Done, "{consumed:?}");
    inbox.has(5, SOON).await?;
    reset(cluster, &wire_topic, &wire_group, 0).await?;
    inbox.has(9, SOON).await?;
    ensure!(inbox.messages().iter().all(|message| message.topic() == topic), "messages came as of another topic");
    let statistics = consumer.statistics();
    ensure!(statistics.group == group && statistics.topics.contains_key(&topic), "{statistics:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn the_jvm_tool_reads_moves_and_uses_a_consumer(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    send_from(1, &producer, 5, move |index| Message::new(&of_topic, format!("{index}")).tag("eu")).await?;
    let builder = cluster.consumer(&group).config(first()).subscribe(&topic, Filter::tags("eu"));
    let consumer = builder.listener(inbox.listener()).start().await?;
    inbox.has(5, SOON).await?;
    cluster.expect_recorded(&group, &topic, 5).await?;
    let id = consumer.client().id().to_string();
    let mqadmin = JavaProgram::prepare().await?;
    let name_server = cluster.name_server();

    cluster.at("consumerStatus of one client");
    let text = mqadmin.admin(&["consumerStatus", "-n", name_server, "-g", &group, "-i", &id]).await?;
    for expected in ["PROP_CONSUME_TYPE", "#Consumer Subscription#", "#Consumer Offset#", "#Consumer RT&TPS#", &topic] {
        ensure!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
    let offset = text.lines().find(|line| line.starts_with(&topic) && line.trim_end().ends_with(" 5"));
    ensure!(offset.is_some(), "no offset 5 of {topic} in:\n{text}");
    cluster.at("consumerStatus of all");
    let text = mqadmin.admin(&["consumerStatus", "-n", name_server, "-g", &group]).await?;
    ensure!(text.contains(&id), "no {id} in:\n{text}");
    ensure!(!text.contains("WARN"), "it warns:\n{text}");

    cluster.at("queryMsgById");
    let message = stored(cluster, &topic, "3").await?;
    let offset_id = message.offset_id();
    let mut of_message = vec!["queryMsgById", "-n", name_server, "-i", &offset_id, "-g", &group, "-d", &id];
    if !version().starts_with("4.") {
        of_message.extend(["-t", &topic]);
    }
    let text = mqadmin.admin(&of_message).await?;
    ensure!(text.contains("CR_SUCCESS"), "no CR_SUCCESS in:\n{text}");
    ensure!(inbox.len() == 6, "{} messages came", inbox.len());
    ensure!(inbox.messages()[5].queue_offset() == 3, "another one came: {:?}", inbox.messages()[5]);

    cluster.at("resetOffsetByTime");
    mqadmin.admin(&["resetOffsetByTime", "-n", name_server, "-g", &group, "-t", &topic, "-s", "0"]).await?;
    inbox.has(11, SOON).await?;
    cluster.expect_recorded(&group, &topic, 5).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}
