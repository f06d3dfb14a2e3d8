//! Names under a namespace, of the first kind and of the second; units.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::expect_same,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    ClientConfig, Error as ClientError, Message, MessageError, MessageQueue, StoredMessage,
    message::{
        names::{dlq_topic, retry_topic},
        property,
    },
    protocol::{GetRoute, LenientJson},
    remote::{Connection, ConnectionOptions, Deadline, Processors},
};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, PushConsumerBuilder, StartAt};
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::{Error, Producer, ProducerBuilder, ProducerConfig, Select, TransactionState};
use std::{
    collections::BTreeSet,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A namespace nobody else uses, and how a client lives in it.
fn tenant() -> (String, ClientConfig) {
    let namespace = random_name("MQ_INST_1");
    (namespace.clone(), ClientConfig { namespace: Some(namespace), ..Default::default() })
}

fn producer(cluster: &Cluster, group: &str, client: &ClientConfig) -> ProducerBuilder {
    let send_timeout = Duration::from_secs(20);
    let config = ProducerConfig { retries: 20, send_timeout, client: client.clone(), ..Default::default() };
    Producer::builder(group).name_servers([cluster.name_server()]).config(config)
}

fn consumer(cluster: &Cluster, group: &str, topic: &str, client: &ClientConfig) -> PushConsumerBuilder {
    let config = PushConfig { start_at: StartAt::First, client: client.clone(), ..Default::default() };
    let consumer = PushConsumer::builder(group).name_servers([cluster.name_server()]);
    consumer.subscribe(topic, Filter::all()).config(config)
}

/// What a tenant sends, in every way there is.
const SENT: usize = 10;

pub(crate) async fn tenants_with_the_same_names_do_not_meet(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (random_name("topic"), random_name("group"));
    let mut tenants = Vec::new();
    for body in ["of one", "of the other"] {
        let (namespace, client) = tenant();
        cluster.create_topic(&format!("{namespace}%{topic}"), 1, 2).await?;
        let producer = producer(cluster, &group, &client).start().await?;
        let inbox = Inbox::new();
        let consumer = consumer(cluster, &group, &topic, &client).listener(inbox.listener()).start().await?;
        ensure!(producer.group() == group && consumer.group() == group, "the groups are not called as they were given");
        let config = ProducerConfig { linger: Duration::from_millis(50), client, ..Default::default() };
        let gathering = Producer::builder(&group).name_servers([cluster.name_server()]).config(config).start().await?;
        tenants.push((namespace, [producer, gathering], consumer, inbox, body));
    }
    for (namespace, [producer, gathering], _, _, body) in &tenants {
        let message = Message::new(&topic, *body).tag("eu").property("colour", "blue");
        let one = producer.send(message.clone()).await?;
        let queued = producer.send_async(message.clone()).await?.await?;
        let keyed = producer.send(message.clone().sharding_key("user-7")).await?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sees = seen.clone();
        let selected = Select::by(move |queues, _| {
            sees.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend_from_slice(queues);
            queues.len() - 1
        });
        let selected = producer.send_to(selected, message.clone()).await?;
        let there = producer.send_to(Select::queue(&one.queue), message.clone()).await?;
        ensure!(there.queue == one.queue, "sent to {}, stored in {}", one.queue, there.queue);
        let batch = producer.send_batch(vec![message.clone(), message.clone()]).await?;
        producer.send_oneway(message.clone()).await?;
        let (first, second) =
            (gathering.send_async(message.clone()).await?, gathering.send_async(message.clone()).await?);
        let gathered = [first.await?, second.await?];
        let queues: Vec<MessageQueue> = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        ensure!(queues.len() == 2 && queues.contains(&selected.queue), "the selector saw {queues:?}");
        let receipts =
            [&one, &queued, &keyed, &selected, &there, &gathered[0], &gathered[1]].map(|receipt| &receipt.queue);
        for queue in receipts.into_iter().chain([&batch.queue]).chain(&queues) {
            ensure!(*queue.topic == *topic, "a queue of {topic} is called {queue}");
        }
        // What lies there is what a Java client of that namespace stores and reads.
        let wire = format!("{namespace}%{topic}");
        let stored = eventually(SOON, async || match cluster.stored(&wire).await? {
            stored if stored.len() < SENT => bail!("{} of {SENT} messages are stored under {wire}", stored.len()),
            stored => Ok(stored),
        })
        .await?;
        ensure!(stored.len() == SENT, "{} messages are stored under {wire}", stored.len());
        for stored in stored {
            let instance = stored.property(property::INSTANCE_ID);
            ensure!(instance == Some(&**namespace), "{} is of instance {instance:?}", stored.message_id());
            expect_same(&message, &stored.with_topic(topic.as_str().into()))?;
        }
    }
    ensure!(cluster.stored(&topic).await?.is_empty(), "something is stored under the plain name");
    for (namespace, producers, consumer, inbox, body) in tenants {
        inbox.has(SENT, SOON).await?;
        for message in inbox.messages() {
            ensure!(message.topic() == topic, "came as of topic {}", message.topic());
            ensure!(**message.body() == *body.as_bytes(), "the tenant of {body:?} was given {:?}", message.body());
        }
        let expected: BTreeSet<String> = [topic.clone(), format!("%RETRY%{group}")].into();
        // The retry topic comes with the group's first heartbeat, and its route a little later.
        eventually(SOON, async || {
            let assigned: BTreeSet<String> =
                consumer.assigned_queues().iter().map(|queue| queue.topic.to_string()).collect();
            ensure!(assigned == expected, "the queues are of {assigned:?}");
            Ok(())
        })
        .await?;
        consumer.shutdown().await?;
        let (wire_group, wire_topic) = (format!("{namespace}%{group}"), format!("{namespace}%{topic}"));
        cluster.expect_recorded(&wire_group, &wire_topic, SENT).await?;
        inbox.expect_no_repetition()?;
        ensure!(inbox.len() == SENT, "{} messages came", inbox.len());
        for producer in producers {
            producer.shutdown().await?;
        }
    }
    Ok(())
}

pub(crate) async fn what_fails_comes_again_and_dies_under_plain_names(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (random_name("topic"), random_name("group"));
    let (namespace, client) = tenant();
    cluster.create_topic(&format!("{namespace}%{topic}"), 1, 1).await?;
    let producer = producer(cluster, "p", &client).start().await?;
    let inbox = Inbox::new();
    let kept = inbox.clone();
    let listener = move |message: StoredMessage| {
        let fails = message.body().starts_with(b"never") || message.reconsume_times() == 0;
        kept.keep(message);
        ready(if fails { Err("on purpose") } else { Ok(()) })
    };
    let config = PushConfig { start_at: StartAt::First, max_reconsume_times: Some(1), client, ..Default::default() };
    let consumer = consumer(cluster, &group, &topic, &ClientConfig::default()).config(config);
    let consumer = consumer.listener(listener).start().await?;
    producer.send(Message::new(&topic, "the second time")).await?;
    let never = producer.send(Message::new(&topic, "never")).await?;
    inbox.has(4, RETRIES).await?;
    let topics: BTreeSet<String> = inbox.messages().iter().map(|message| message.topic().to_owned()).collect();
    ensure!(topics == [topic.clone()].into(), "messages came as of {topics:?}");
    let dead = eventually(RETRIES, async || {
        let dead = cluster.stored(&dlq_topic(&format!("{namespace}%{group}"))).await?;
        if dead.is_empty() { bail!("nothing is among the dead letters of the namespace") } else { Ok(dead) }
    })
    .await?;
    let ids: Vec<_> = dead.iter().map(|message| message.message_id().into_owned()).collect();
    ensure!(ids == [never.message_id], "{ids:?} are among the dead letters");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn transactions_are_checked_under_plain_names(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (random_name("topic"), random_name("group"));
    let (namespace, client) = tenant();
    cluster.create_topic(&format!("{namespace}%{topic}"), 1, 1).await?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let asks = asked.clone();
    let checker = move |message: StoredMessage| {
        asks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(message.topic().to_owned());
        ready(TransactionState::Commit)
    };
    let producer = producer(cluster, &random_name("p"), &client).transaction_checker(checker).start().await?;
    let inbox = Inbox::new();
    let consumer = consumer(cluster, &group, &topic, &client).listener(inbox.listener()).start().await?;
    let send = async |body: &str, state| {
        let sent = producer.send_in_transaction(Message::new(&topic, body.to_owned()), move |_| ready(state)).await?;
        ensure!(*sent.receipt.queue.topic == *topic, "the receipt is of {}", sent.receipt.queue.topic);
        Ok(sent.receipt.message_id)
    };
    let committed = send("committed", TransactionState::Commit).await?;
    send("rolled back", TransactionState::Rollback).await?;
    inbox.has_all([&committed], SOON).await?;
    let open = send("open", TransactionState::Unknown).await?;
    inbox.has_each_once([&committed, &open], RETRIES).await?;
    let asked = asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    ensure!(!asked.is_empty() && asked.iter().all(|asked| *asked == topic), "the checker was asked about {asked:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_message_is_recalled_under_its_plain_name(cluster: &Cluster) -> Result<()> {
    let (topic, inbox) = (random_name("topic"), Inbox::new());
    let (namespace, client) = tenant();
    cluster.create_topic(&format!("{namespace}%{topic}"), 1, 1).await?;
    let producer = producer(cluster, "p", &client).start().await?;
    let consumer = consumer(cluster, &random_name("group"), &topic, &client).listener(inbox.listener()).start().await?;
    let timer = |body: &'static str, seconds| Message::new(&topic, body).deliver_after(Duration::from_secs(seconds));
    let recalled = producer.send(timer("recalled", 3)).await?;
    let last = producer.send(timer("last", 5)).await?;
    producer.recall(&recalled).await?;
    // The last one is due when the recalled one would long have come.
    inbox.has_each_once([&last.message_id], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn errors_name_topics_as_the_user_does(cluster: &Cluster) -> Result<()> {
    cluster.dev().remove_topic("TBW102", "broker-a");
    let (namespace, client) = tenant();
    let producer = producer(cluster, "p", &client).start().await?;
    let (missing, read_only) = (random_name("missing"), random_name("read-only"));
    match producer.send(Message::new(&missing, "body")).await {
        Err(Error::Client(ClientError::TopicNotFound { topic })) if *topic == *missing => {}
        other => bail!("sending to {missing} came to {other:?}"),
    }
    let wire = format!("{namespace}%{read_only}");
    cluster.dev().create_topic(&wire, 1);
    let receipt = producer.send(Message::new(&read_only, "body")).await?;
    let elsewhere = MessageQueue { queue_id: 9, ..receipt.queue };
    match producer.send_to(Select::queue(&elsewhere), Message::new(&read_only, "body")).await {
        Err(Error::NoSuchQueue { queue }) if queue == elsewhere => {}
        other => bail!("sending to {elsewhere} came to {other:?}"),
    }
    cluster.dev().on(RequestCode::SEND_MESSAGE_V2).answer(rocketmq_dev_broker::ResponseCode::MESSAGE_ILLEGAL);
    match producer.send(Message::new(&read_only, "body")).await {
        Err(Error::NotSent(not_sent)) if *not_sent.topic == *read_only => {}
        other => bail!("a refused send to {read_only} came to {other:?}"),
    }
    // The whole name, as brokers see it, has to be one they take.
    let long = "t".repeat(120);
    match producer.send(Message::new(&long, "body")).await {
        Err(Error::Message(MessageError::Topic { .. })) => {}
        other => bail!("sending to a topic that is too long with its namespace came to {other:?}"),
    }
    let taken = producer.send_batch(vec![Message::new(&long, "body")]).await;
    ensure!(matches!(taken, Err(Error::Message(MessageError::Topic { .. }))), "a batch for it came to {taken:?}");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_namespace_may_come_with_the_address(cluster: &Cluster) -> Result<()> {
    // The name does not resolve; the other address does, and the look-up goes on to it.
    let addrs = ["http://MQ_INST_7_b.invalid:9876", cluster.name_server()];
    let topic = random_name("topic");
    let producer = Producer::builder("p").name_servers(addrs).start().await?;
    producer.send(Message::new(&topic, "body")).await?;
    let stored = cluster.dev().messages(&format!("MQ_INST_7_b%{topic}"));
    ensure!(stored.len() == 1, "{} messages are stored in the namespace", stored.len());
    Ok(producer.shutdown().await?)
}

pub(crate) async fn the_second_kind_goes_along_with_every_request(cluster: &Cluster) -> Result<()> {
    let namespace = "a tenant";
    for binary_head in [false, true] {
        let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
        let connection = ConnectionOptions { binary_head, ..Default::default() };
        let client = ClientConfig { namespace_v2: Some(namespace.to_owned()), connection, ..Default::default() };
        let producer = producer(cluster, "p", &client).start().await?;
        let consumer = consumer(cluster, &group, &topic, &client).listener(inbox.listener()).start().await?;
        let receipt = producer.send(Message::new(&topic, "body")).await?;
        ensure!(*receipt.queue.topic == *topic, "the topic is called {}", receipt.queue.topic);
        inbox.has_all([&receipt.message_id], SOON).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
        cluster.expect_recorded(&group, &topic, 1).await?;
        if cluster.is_real() {
            continue;
        }
        // The cluster's own clients are in no namespace, so only what those do not ask is looked at.
        for code in [
            RequestCode::SEND_MESSAGE_V2,
            RequestCode::HEART_BEAT,
            RequestCode::GET_CONSUMER_LIST_BY_GROUP,
            RequestCode::PULL_MESSAGE,
            RequestCode::UPDATE_CONSUMER_OFFSET,
            RequestCode::UNREGISTER_CLIENT,
        ] {
            let field = |name| cluster.dev().last_field(code, name);
            let came = (field("nsd"), field("ns"));
            let expected = (Some("true".to_owned()), Some(namespace.to_owned()));
            ensure!(came == expected, "{code} came with {came:?}");
        }
    }
    Ok(())
}

pub(crate) async fn a_name_server_is_told_the_second_kind(cluster: &Cluster) -> Result<()> {
    let client = ClientConfig { namespace_v2: Some("a tenant".to_owned()), ..Default::default() };
    let client = rocketmq_common::Client::start([cluster.name_server()], client).await?;
    let namespace = cluster.dev().last_field(RequestCode::GET_ROUTEINFO_BY_TOPIC, "ns");
    ensure!(namespace.as_deref() == Some("a tenant"), "the name server was told {namespace:?}");
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}

pub(crate) async fn a_unit_is_a_part_of_the_client_id(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let client = ClientConfig {
        instance_name: Some(random_name("billing")),
        unit_name: Some("east".to_owned()),
        ..Default::default()
    };
    let consumer = consumer(cluster, &group, &topic, &client).listener(inbox.listener()).start().await?;
    let end = format!("@{}@east", client.instance_name.as_deref().context("a name")?);
    let ids = cluster.client().await?.consumer_list(&group.as_str().into(), &topic.as_str().into()).await?;
    ensure!(ids.len() == 1 && ids[0].ends_with(&end), "the broker lists {ids:?}");
    ensure!(ids[0] == **consumer.client().id(), "the client calls itself {}", consumer.client().id());
    Ok(consumer.shutdown().await?)
}

/// The flags that a name server has of a topic, once it knows it: 1 where units write, 2 where they subscribe.
async fn unit_flags(cluster: &Cluster, topic: &str) -> Result<i32> {
    let name_server = Connection::dial(cluster.name_server(), ConnectionOptions::default(), Processors::new()).await?;
    let request = GetRoute { topic: topic.into(), accept_standard_json_only: Some(true) };
    eventually(SOON, async || {
        let LenientJson(route) = name_server.call(&request, (), Deadline::after(SOON)).await?;
        route.queue_datas.first().map(|queue| queue.topic_sys_flag).context("no queue")
    })
    .await
}

pub(crate) async fn topics_of_a_unit_are_marked(cluster: &Cluster) -> Result<()> {
    for (unit_mode, expected) in [(true, (1, 2)), (false, (0, 0))] {
        let (topic, group, inbox) = (random_name("topic"), random_name("group"), Inbox::new());
        let client = ClientConfig { unit_mode, ..Default::default() };
        let producer = producer(cluster, "p", &client).start().await?;
        let receipt = producer.send(Message::new(&topic, "body")).await?;
        let consumer = consumer(cluster, &group, &topic, &client).listener(inbox.listener()).start().await?;
        inbox.has_all([&receipt.message_id], SOON).await?;
        let flags = (unit_flags(cluster, &topic).await?, unit_flags(cluster, &retry_topic(&group)).await?);
        ensure!(flags == expected, "the topic and the retry topic have the flags {flags:?}, expected {expected:?}");
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn names_that_cannot_work_do_not_start(cluster: &Cluster) -> Result<()> {
    let name = |name: &str| Some(name.to_owned());
    for (option, client) in [
        ("namespace", ClientConfig { namespace: name("a%b"), ..Default::default() }),
        ("namespace_v2", ClientConfig { namespace_v2: name(""), ..Default::default() }),
        ("unit_name", ClientConfig { unit_name: name("\n"), ..Default::default() }),
    ] {
        match producer(cluster, "p", &client).start().await {
            Err(Error::Client(ClientError::Config { option: found, .. })) if found == option => {}
            other => bail!("a bad {option} came to {other:?}"),
        }
    }
    let (_, client) = tenant();
    let group = "g".repeat(250);
    let started = producer(cluster, &group, &client).start().await;
    ensure!(matches!(started, Err(Error::Client(ClientError::Name(_)))), "a group too long came to {started:?}");
    let started = consumer(cluster, "g", &"t".repeat(120), &client).listener(Inbox::new().listener()).start().await;
    let refused = matches!(started, Err(rocketmq_consumer::Error::Client(ClientError::Name(_))));
    ensure!(refused, "a topic too long came to {started:?}");
    Ok(())
}

/// A real broker brings what failed once after 10 s, and asks about transactions now and then.
const RETRIES: Duration = Duration::from_secs(100);
