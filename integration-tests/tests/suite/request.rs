//! Requests, and the replies that consumers send to them.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::{body, expect_same, varied},
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    Client, ClientConfig, Message, MessageError, StoredMessage, message::property, remote::ResponseCode,
};
use rocketmq_consumer::{Filter, PushConsumer};
use rocketmq_producer::{Compression, Error, Producer, ProducerConfig, Select};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Starts a consumer that replies to each message by what `reply` makes of it.
async fn replier<F: Future<Output = Result<()>> + Send>(
    cluster: &Cluster,
    topic: &str,
    reply: impl Fn(StoredMessage) -> F + Send + Sync + 'static,
) -> Result<PushConsumer> {
    let consumer = cluster.consumer(&random_name("repliers")).subscribe(topic, Filter::all());
    let reply = Arc::new(reply);
    let listener = move |message| {
        let reply = reply.clone();
        async move { reply(message).await }
    };
    Ok(consumer.listener(listener).start().await?)
}

/// Starts a consumer that sends each message back as it came: body, flag, and what the user may set.
async fn echo(cluster: &Cluster, topic: &str, producer: &Producer) -> Result<PushConsumer> {
    let producer = producer.clone();
    replier(cluster, topic, move |question| {
        let producer = producer.clone();
        async move {
            producer.send(echoed(&question)?).await?;
            Ok(())
        }
    })
    .await
}

fn echoed(question: &StoredMessage) -> Result<Message> {
    let mut reply = question.reply(question.body().clone())?.flag(question.flag()).keys(question.keys());
    if let Some(tag) = question.tag() {
        reply = reply.tag(tag);
    }
    for (name, value) in question.properties().filter(|(name, _)| name.chars().any(char::is_lowercase)) {
        reply = reply.property(name, value);
    }
    Ok(reply)
}

/// Fails unless the reply is an echo of the question.
fn expect_echo(question: &Message, reply: &StoredMessage) -> Result<()> {
    let mut expected = Message::new(reply.topic(), question.body().clone()).flag(question.flag_bits());
    for (name, value) in question.properties().iter() {
        expected.properties_mut().set(name, value);
    }
    ensure!(reply.property(property::ARRIVE_TIME).is_some(), "{reply:?} has no time of arrival");
    expect_same(&expected, reply)
}

pub(crate) async fn replies_come_to_who_asked(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(4).await?;
    let (one, other) = (cluster.producer().await?, cluster.producer().await?);
    let consumer = echo(cluster, &topic, &cluster.producer().await?).await?;
    cluster.at("one after the other");
    let question = varied(&topic, 4).tag("tag").key("key");
    expect_echo(&question, &one.request(question.clone(), SOON).await?)?;
    let queue = cluster.queues(&topic).await?.into_iter().next_back().context("no queue")?;
    expect_echo(&question, &one.request_to(Select::queue(&queue), question.clone(), SOON).await?)?;
    let pending = one.request_async(question.clone(), SOON).await?;
    expect_echo(&question, &pending.await?)?;
    cluster.at("many at once, of two producers");
    let mut asking = JoinSet::new();
    for index in 0..100 {
        let producer = if index % 2 == 0 { &one } else { &other }.clone();
        let question = varied(&topic, index);
        asking.spawn(async move {
            let reply = match index % 3 {
                0 => producer.request_async(question.clone(), SOON).await?.await?,
                _ => producer.request(question.clone(), SOON).await?,
            };
            expect_echo(&question, &reply)
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    // What somebody asked does not keep anybody from ending.
    consumer.shutdown().await?;
    one.shutdown().await?;
    Ok(other.shutdown().await?)
}

pub(crate) async fn large_replies_travel_compressed_and_come_whole(cluster: &Cluster) -> Result<()> {
    for compression in [Compression::Zlib, Compression::Lz4, Compression::Zstd] {
        let topic = cluster.topic(1).await?;
        let config = ProducerConfig {
            retries: 20,
            send_timeout: Duration::from_secs(20),
            compression: Some(compression),
            ..Default::default()
        };
        let producer = cluster.producer_with(config).await?;
        let consumer = echo(cluster, &topic, &producer).await?;
        for size in [1, 4095, 4096, 500_000] {
            let question = Message::new(&topic, body(size, size)).property("size", size.to_string());
            expect_echo(&question, &producer.request(question.clone(), SOON).await?)?;
        }
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_request_without_a_reply_ends_in_time_and_a_late_reply_is_dropped(
    cluster: &Cluster,
) -> Result<()> {
    const PATIENCE: Duration = Duration::from_millis(1500);
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let began = Instant::now();
    let error = match producer.request(Message::new(&topic, "anybody?"), PATIENCE).await {
        Err(error @ Error::NoReply { .. }) => error,
        other => bail!("nobody replies, and the request came to {other:?}"),
    };
    let took = began.elapsed();
    ensure!(took >= PATIENCE && took < PATIENCE + Duration::from_secs(2), "given up after {took:?}");
    ensure!(error.may_have_happened() && error.to_string().contains("is stored"), "{error}");
    let Error::NoReply { message_id, .. } = error else { bail!("cannot be") };
    let pending = producer.request_async(Message::new(&topic, "anybody?"), PATIENCE).await?;
    ensure!(matches!(pending.await, Err(Error::NoReply { .. })), "nobody replies, and yet");
    drop(producer.request_async(Message::new(&topic, "dropped"), PATIENCE).await?);
    cluster.at("replying late");
    let (inbox, kept) = (Inbox::new(), Inbox::new());
    let consumer = {
        let (kept, replies) = (kept.clone(), cluster.producer().await?);
        replier(cluster, &topic, move |question| {
            let (kept, replies) = (kept.clone(), replies.clone());
            async move {
                replies.send(question.reply("late")?).await?;
                kept.keep(question);
                Ok(())
            }
        })
        .await?
    };
    // The replies were taken, or the listener would have failed; and the questions were stored as the error says.
    kept.has(3, SOON).await?;
    kept.expect_no_repetition()?;
    ensure!(kept.ids().contains(&message_id), "{message_id} is not stored");
    let ttls: Vec<_> =
        kept.messages().iter().filter_map(|message| message.property("TTL").map(str::to_owned)).collect();
    ensure!(ttls == ["1500", "1500", "1500"], "the questions say {ttls:?}");
    // A late reply is not taken for one to a later request.
    let reply = producer.request(Message::new(&topic, "now"), SOON).await?;
    ensure!(&reply.body()[..] == b"late" && inbox.len() == 0, "{reply:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_cannot_be_asked_or_replied_to_is_refused(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    producer.send(Message::new(&topic, "no question")).await?;
    inbox.has(1, SOON).await?;
    let statement = inbox.messages().remove(0);
    ensure!(!statement.wants_reply(), "{statement:?} wants a reply");
    match statement.reply("answer") {
        Err(MessageError::NotARequest { message_id, missing: "CORRELATION_ID" })
            if message_id == statement.message_id() => {}
        other => bail!("a reply to no question: {other:?}"),
    }
    let pending = producer.request_async(Message::new(&topic, "question"), SOON).await?;
    inbox.has(2, SOON).await?;
    let question = inbox.messages().remove(1);
    let reply = question.reply("answer")?;
    match producer.request(reply.clone(), SOON).await {
        Err(Error::Message(MessageError::ReplyAsRequest)) => {}
        other => bail!("a reply was sent as a request: {other:?}"),
    }
    match producer.send_batch(vec![reply.clone(), reply.clone()]).await {
        Err(Error::Message(MessageError::ReplyInBatch)) => {}
        other => bail!("replies were sent as a batch: {other:?}"),
    }
    match producer.request(Message::new(&topic, ""), SOON).await {
        Err(Error::Message(MessageError::EmptyBody)) => {}
        other => bail!("an empty request came to {other:?}"),
    }
    // Every way of sending knows a reply.
    producer.send_async(reply).await?.await?;
    ensure!(&pending.await?.body()[..] == b"answer", "another reply");
    let pending = producer.request_async(Message::new(&topic, "question"), SOON).await?;
    inbox.has(3, SOON).await?;
    producer.send_oneway(inbox.messages().remove(2).reply("one-way")?).await?;
    ensure!(&pending.await?.body()[..] == b"one-way", "another reply");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_replier_that_panics_replies_when_the_message_comes_again(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let (calls, replies) = (Arc::new(AtomicUsize::new(0)), cluster.producer().await?);
    let counted = calls.clone();
    let consumer = replier(cluster, &topic, move |question| {
        let (call, replies) = (counted.fetch_add(1, Ordering::SeqCst), replies.clone());
        async move {
            if call == 0 {
                panic!("{ON_PURPOSE}");
            }
            replies.send(question.reply(format!("{}", question.reconsume_times()))?).await?;
            Ok(())
        }
    })
    .await?;
    // A real broker waits 10 s before it delivers again.
    let reply = producer.request(Message::new(&topic, "question"), Duration::from_secs(60)).await?;
    ensure!(&reply.body()[..] == b"1", "{reply:?}");
    ensure!(calls.load(Ordering::SeqCst) == 2, "{calls:?} calls");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_reply_to_who_has_gone_is_an_error(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let config = ProducerConfig { shutdown_timeout: Duration::from_millis(200), ..Default::default() };
    let asking = cluster.producer_with(config).await?;
    let pending = asking.request_async(Message::new(&topic, "question"), SOON).await?;
    let mut waiting = JoinSet::new();
    waiting.spawn(pending);
    ensure!(asking.shutdown().await.is_err(), "a request that waits counts as under way");
    match waiting.join_next().await.context("the request is gone")?? {
        Err(Error::OutcomeUnknown) => {}
        other => bail!("the producer ended and its request came to {other:?}"),
    }
    ensure!(matches!(asking.request(Message::new(&topic, "more"), SOON).await, Err(Error::ShutDown)), "it goes on");
    let stored = eventually(SOON, async || cluster.stored(&topic).await?.pop().context("not stored")).await?;
    let producer = cluster.producer_with(ProducerConfig { retries: 1, ..Default::default() }).await?;
    match producer.send(stored.reply("too late")?).await {
        Err(Error::NotSent(failure)) => {
            let codes: Vec<_> = failure.attempts.iter().map(|attempt| attempt.error.response_code()).collect();
            ensure!(codes == [Some(ResponseCode::SYSTEM_ERROR); 2], "{failure}");
            ensure!(failure.attempts[1].error.to_string().contains("not found"), "{failure:?}");
        }
        other => bail!("the reply came to {other:?}"),
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_producer_that_ends_does_not_cut_others_of_its_client_off(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let consumer = echo(cluster, &topic, &cluster.producer().await?).await?;
    let client = Client::start([cluster.name_server()], ClientConfig::default()).await?;
    let start =
        async || Ok::<_, Error>(Producer::builder(random_name("producers")).client(client.clone()).start().await?);
    let first = start().await?;
    let question = Message::new(&topic, "question").key("key");
    expect_echo(&question, &first.request(question.clone(), SOON).await?)?;
    // The connections are there already when the second one joins.
    let second = start().await?;
    first.shutdown().await?;
    expect_echo(&question, &second.request(question.clone(), SOON).await?)?;
    let third = start().await?;
    third.shutdown().await?;
    expect_echo(&question, &second.request(question.clone(), SOON).await?)?;
    second.shutdown().await?;
    let fourth = start().await?;
    expect_echo(&question, &fourth.request(question.clone(), SOON).await?)?;
    fourth.shutdown().await?;
    consumer.shutdown().await?;
    client.shutdown(client.request_deadline()).await;
    Ok(())
}

pub(crate) async fn a_reply_comes_by_a_broker_never_spoken_to_before(cluster: &Cluster) -> Result<()> {
    // The question lies on broker-a, and no topic the asking client has dealt with is on broker-b.
    let topic = cluster.topic_on(1, 1).await?;
    let (asking, replying) = (cluster.producer().await?, cluster.producer().await?);
    let (client, inbox) = (cluster.client().await?, Inbox::new());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let ask = async |count: usize| {
        let pending = asking.request_async(Message::new(&topic, "question"), SOON).await?;
        inbox.has(count, SOON).await?;
        Ok::<_, anyhow::Error>((pending, inbox.messages().remove(count - 1)))
    };
    let (pending, question) = ask(1).await?;
    ensure!(&**question.broker_name() == "broker-a", "the question lies on {}", question.broker_name());
    let reply = question.reply("by the other broker")?;
    let route = client.route(&reply.topic().into()).await?;
    let other = route.write_queues().iter().find(|queue| &*queue.broker_name == "broker-b");
    let receipt = replying.send_to(Select::queue(other.context("no queue on broker-b")?), reply).await?;
    ensure!(&*receipt.queue.broker_name == "broker-b", "{receipt:?}");
    ensure!(&pending.await?.body()[..] == b"by the other broker", "another reply");
    // Left to itself, a reply goes to the broker that has the question.
    for count in 2..6 {
        let (pending, question) = ask(count).await?;
        let receipt = replying.send(question.reply("by the same one")?).await?;
        ensure!(&*receipt.queue.broker_name == "broker-a", "{receipt:?}");
        ensure!(&pending.await?.body()[..] == b"by the same one", "another reply");
    }
    consumer.shutdown().await?;
    asking.shutdown().await?;
    Ok(replying.shutdown().await?)
}
