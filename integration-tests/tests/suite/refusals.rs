//! What cannot work is refused by a typed error, before anything is sent.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{
    ClientConfig, Message, MessageError, MessageQueue, NameError, message::names::NameKind, remote::Deadline,
};
use rocketmq_consumer::{
    Allocate, AssignmentChange, Filter, PopConfig, PopConsumer, PullConfig, PullConsumer, PushConfig, PushConsumer,
};
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::{ClientError, Error, Producer, ProducerConfig};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) async fn bad_messages_are_refused_before_they_are_sent(cluster: &Cluster) -> Result<()> {
    type Check = fn(&MessageError) -> bool;
    let topic = cluster.topic(1).await?;
    let max = ProducerConfig::default().max_message_bytes;
    let cases: [(&str, Message, Check); 12] = [
        ("no topic", Message::new("", "b"), |e| matches!(e, MessageError::Topic { source: NameError::Blank { .. } })),
        ("a topic with a space", Message::new("a b", "b"), |e| {
            matches!(e, MessageError::Topic { source: NameError::Character { character: ' ', .. } })
        }),
        ("a topic too long", Message::new("t".repeat(128), "b"), |e| {
            matches!(e, MessageError::Topic { source: NameError::TooLong { chars: 128, max: 127, .. } })
        }),
        ("a topic of the brokers' own", Message::new("SCHEDULE_TOPIC_XXXX", "b"), |e| {
            matches!(e, MessageError::ForbiddenTopic { .. })
        }),
        ("no body", Message::new(&topic, ""), |e| matches!(e, MessageError::EmptyBody)),
        ("a body too large", Message::new(&topic, vec![0; max + 1]), |e| {
            matches!(e, MessageError::BodyTooLarge { size: 4_194_305, max: 4_194_304 })
        }),
        ("a reserved property", Message::new(&topic, "b").property("KEYS", "k"), |e| {
            matches!(e, MessageError::ReservedProperty { .. })
        }),
        ("a property with a separator", Message::new(&topic, "b").property("p", "\u{1}"), |e| {
            matches!(e, MessageError::SeparatorInProperty { .. })
        }),
        (
            "a tag with a bar",
            Message::new(&topic, "b").tag("a|b"),
            |e| matches!(e, MessageError::Tag { tag } if tag == "a|b"),
        ),
        (
            "a tag with a blank behind",
            Message::new(&topic, "b").tag("a "),
            |e| matches!(e, MessageError::Tag { tag } if tag == "a "),
        ),
        ("properties too large", Message::new(&topic, "b").property("p", "v".repeat(40_000)), |e| {
            matches!(e, MessageError::PropertiesTooLarge { .. })
        }),
        ("a negative delay", Message::new(&topic, "b").delay_level(-1), |e| {
            matches!(e, MessageError::NegativeDelayLevel { level: -1 })
        }),
    ];
    let producer = cluster.producer().await?;
    for (what, message, check) in cases {
        let results = [
            producer.send(message.clone()).await.err(),
            producer.send_async(message.clone()).await.err(),
            producer.send_oneway(message.clone()).await.err(),
            producer.send_batch(vec![message]).await.err(),
        ];
        for (way, result) in ["send", "send_async", "send_oneway", "send_batch"].iter().zip(results) {
            let refused = matches!(&result, Some(Error::Message(error)) if check(error));
            ensure!(refused, "{what} by {way} came to {result:?}");
        }
    }
    let empty = producer.send_batch(Vec::new()).await;
    ensure!(matches!(empty, Err(Error::Message(MessageError::EmptyBatch))), "an empty batch came to {empty:?}");
    let mixed = producer.send_batch(vec![Message::new("one", "b"), Message::new("other", "b")]).await;
    let refused = matches!(mixed, Err(Error::Message(MessageError::TopicsInBatch { .. })));
    ensure!(refused, "a batch for two topics came to {mixed:?}");
    let delayed = producer.send_batch(vec![Message::new(&topic, "b"), Message::new(&topic, "b").delay_level(1)]).await;
    let refused = matches!(delayed, Err(Error::Message(MessageError::DelayInBatch)));
    ensure!(refused, "a batch with a delayed message came to {delayed:?}");
    let late = Message::new(&topic, "b").deliver_after(Duration::from_secs(3 * 86_400 + 1));
    let refused = producer.send(late.clone()).await;
    ensure!(matches!(refused, Err(Error::TimerTooFar { .. })), "a message for in three days came to {refused:?}");
    let refused = producer.send_async(late).await.err();
    ensure!(matches!(refused, Some(Error::TimerTooFar { .. })), "a message for in three days came to {refused:?}");
    for code in [RequestCode::SEND_MESSAGE_V2, RequestCode::SEND_BATCH_MESSAGE, RequestCode::SEND_MESSAGE] {
        ensure!(cluster.dev().received(code) == 0, "{code} reached the broker");
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn clients_that_cannot_work_do_not_start(cluster: &Cluster) -> Result<()> {
    let name_server = cluster.name_server();
    let asked = cluster.dev().received(RequestCode::GET_ROUTEINFO_BY_TOPIC);
    let producer = async |group: &str, name_servers: Vec<&str>, config: ProducerConfig| {
        Producer::builder(group).name_servers(name_servers).config(config).start().await.err()
    };
    let is_bad_name = |error: &Option<Error>| matches!(error, Some(Error::Client(ClientError::Name(_))));
    let is_bad_option = |error: &Option<Error>| matches!(error, Some(Error::Client(ClientError::Config { .. })));
    for group in ["", "a b", "g/h", "DEFAULT_PRODUCER", &"g".repeat(121)] {
        let error = producer(group, vec![name_server], ProducerConfig::default()).await;
        ensure!(is_bad_name(&error), "a producer of group {group:?} came to {error:?}");
    }
    let error = producer("g", vec![], ProducerConfig::default()).await;
    ensure!(is_bad_option(&error), "a producer without a name server came to {error:?}");
    let config = ProducerConfig { send_timeout: Duration::ZERO, ..Default::default() };
    let error = producer("g", vec![name_server], config).await;
    ensure!(is_bad_option(&error), "a producer without time came to {error:?}");

    use rocketmq_consumer::Error as E;
    let is_too_long = |started: &Result<PushConsumer, E>, length: usize| {
        let Err(E::Client(ClientError::Name(error))) = started else { return false };
        matches!(error, NameError::TooLong { kind: NameKind::Group, chars, max: 120 } if *chars == length)
    };
    let (topic, inbox) = (random_name("topic"), Inbox::new());
    let builder = || PushConsumer::builder("g").name_servers([name_server]);
    let subscribed = || builder().subscribe(&topic, Filter::all());
    let listening = || subscribed().listener(inbox.listener());
    let started = subscribed().start().await;
    ensure!(matches!(started, Err(E::NoListener)), "without a listener: {started:?}");
    let started = builder().listener(inbox.listener()).start().await;
    ensure!(matches!(started, Err(E::NoSubscription)), "without a subscription: {started:?}");
    let started = listening().subscribe(&topic, Filter::tags("a")).start().await;
    ensure!(matches!(started, Err(E::Clash { .. })), "with two filters for a topic: {started:?}");
    let started = builder().subscribe(&topic, Filter::tags("||")).listener(inbox.listener()).start().await;
    ensure!(matches!(started, Err(E::Filter { .. })), "with a filter of bars: {started:?}");
    let started = builder().subscribe(&topic, Filter::tags("a | b")).listener(inbox.listener()).start().await;
    ensure!(matches!(started, Err(E::Filter { .. })), "with a filter of one bar: {started:?}");
    let started = builder().subscribe("a b", Filter::all()).listener(inbox.listener()).start().await;
    ensure!(matches!(started, Err(E::Client(ClientError::Name(_)))), "with a bad topic: {started:?}");
    let started = listening().config(PushConfig { concurrency: 0, ..Default::default() }).start().await;
    ensure!(matches!(started, Err(E::Client(ClientError::Config { .. }))), "without concurrency: {started:?}");
    let started = listening().name_servers(Vec::<String>::new()).start().await;
    ensure!(matches!(started, Err(E::Client(ClientError::Config { .. }))), "without a name server: {started:?}");
    let group = PushConsumer::builder("").name_servers([name_server]).subscribe(&topic, Filter::all());
    let started = group.listener(inbox.listener()).start().await;
    ensure!(matches!(started, Err(E::Client(ClientError::Name(_)))), "without a group: {started:?}");
    let group = PushConsumer::builder("g".repeat(121)).name_servers([name_server]).subscribe(&topic, Filter::all());
    let started = group.listener(inbox.listener()).start().await;
    ensure!(is_too_long(&started, 121), "with a long group: {started:?}");
    let now_asked = cluster.dev().received(RequestCode::GET_ROUTEINFO_BY_TOPIC);
    ensure!(now_asked == asked, "a name server was asked {} times", now_asked - asked);
    // Together with a namespace it is known once there is a client.
    let config = ClientConfig { namespace: Some("tenant".to_owned()), ..Default::default() };
    let config = PushConfig { client: config, ..Default::default() };
    let group = PushConsumer::builder("g".repeat(114)).name_servers([name_server]).config(config);
    let started = group.subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await;
    ensure!(is_too_long(&started, 121), "with a group that is long with its namespace: {started:?}");
    Ok(())
}

pub(crate) async fn options_that_would_be_ignored_are_typed_errors(cluster: &Cluster) -> Result<()> {
    use rocketmq_consumer::Error as E;
    let (topic, name_server, client) = (cluster.topic(1).await?, cluster.name_server(), cluster.client().await?);
    let option = |what: &str, error: Option<E>| match error {
        Some(E::Client(ClientError::Config { option, .. })) => Ok(option),
        other => bail!("{what} came to {other:?}"),
    };
    let own = ClientConfig { unit_name: Some("unit".to_owned()), ..Default::default() };
    let queue = MessageQueue::new(topic.as_str(), "broker-a", 0);
    let group = || random_name("group");
    let push = || PushConsumer::builder(group()).name_servers([name_server]).subscribe(&topic, Filter::all());
    let pull = || PullConsumer::builder(group()).name_servers([name_server]);
    let listen = || push().listener(Inbox::new().listener());

    let started = pull().subscribe(&topic, Filter::all()).assign_filter(&topic, Filter::tags("a")).start().await;
    ensure!(option("a filter of no assigned queue", started.err())? == "assign_filter");
    for (what, started) in [
        ("assigned", pull().assign([queue.clone()]).allocate(Allocate::by_circle()).start().await.err()),
        (
            "broadcast",
            pull().subscribe(&topic, Filter::all()).broadcast().allocate(Allocate::by_circle()).start().await.err(),
        ),
        ("a pushed broadcast", listen().broadcast().allocate(Allocate::average()).start().await.err()),
    ] {
        ensure!(option(what, started)? == "allocate", "{what}");
    }
    let started = listen().broadcast().allocate_by_broker().start().await;
    ensure!(option("brokers sharing out a broadcast", started.err())? == "allocate_by_broker");
    let default = PushConfig::default;
    for (name, config) in [
        ("concurrency", PushConfig { concurrency: 3, ..default() }),
        ("consume_batch", PushConfig { consume_batch: 3, ..default() }),
        ("consume_timeout", PushConfig { consume_timeout: Duration::from_secs(3), ..default() }),
        ("suspend_time", PushConfig { suspend_time: Duration::from_secs(3), ..default() }),
    ] {
        ensure!(option("a stream", push().config(config).stream().await.err())? == name, "{name}");
    }
    let started = listen().config(PushConfig { consume_batch: 3, ..default() }).start().await;
    ensure!(option("a batch for a listener of single messages", started.err())? == "consume_batch");

    let config = PushConfig { client: own.clone(), ..default() };
    let started = listen().config(config).client(client.clone()).start().await;
    ensure!(option("a push consumer on a shared client", started.err())? == "client");
    let config = PullConfig { client: own.clone(), ..Default::default() };
    let started = pull().subscribe(&topic, Filter::all()).config(config).client(client.clone()).start().await;
    ensure!(option("a pull consumer on a shared client", started.err())? == "client");
    let config = PopConfig { client: own.clone(), ..Default::default() };
    let started = PopConsumer::builder(group()).subscribe(&topic, Filter::all()).config(config);
    ensure!(
        option("a pop consumer on a shared client", started.client(client.clone()).start().await.err())? == "client"
    );
    let config = ProducerConfig { client: own, ..Default::default() };
    let started = Producer::builder(group()).config(config).client(client.clone()).start().await;
    let is_refused = matches!(started, Err(Error::Client(ClientError::Config { option: "client", .. })));
    ensure!(is_refused, "a producer on a shared client came to {started:?}");
    client.shutdown(Deadline::after(Duration::from_secs(1))).await;

    // These are not ignored.
    let changes = Arc::new(AtomicUsize::new(0));
    let count = || {
        let changes = changes.clone();
        move |_: &AssignmentChange| _ = changes.fetch_add(1, Ordering::SeqCst)
    };
    let folder = tempfile::tempdir()?;
    let config = PullConfig { offset_dir: Some(folder.path().to_owned()), ..Default::default() };
    let assigned = pull().assign([queue]).on_assignment(count()).start().await?;
    let broadcast = pull().subscribe(&topic, Filter::all()).broadcast().config(config).on_assignment(count());
    let broadcast = broadcast.start().await?;
    eventually(SOON, async || {
        let changes = changes.load(Ordering::SeqCst);
        ensure!(changes == 2, "{changes} changes were told");
        Ok(())
    })
    .await?;
    assigned.shutdown().await?;
    Ok(broadcast.shutdown().await?)
}

pub(crate) async fn a_topic_that_must_not_be_created_is_a_typed_error(cluster: &Cluster) -> Result<()> {
    cluster.dev().remove_topic("TBW102", "broker-a");
    let producer = cluster.producer_with(ProducerConfig::default()).await?;
    let result = producer.send(Message::new(random_name("topic"), "body")).await;
    let refused = matches!(result, Err(Error::Client(ClientError::TopicNotFound { .. })));
    ensure!(refused, "sending to a topic that does not exist came to {result:?}");
    Ok(producer.shutdown().await?)
}
