//! Name servers that are not there, or say nothing.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{Client, ClientConfig, Message, remote::Deadline};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_dev_broker::{DevCluster, RequestCode};
use rocketmq_producer::{ClientError, Error, Producer, ProducerConfig};
use std::time::Duration;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

/// What an entry that does not answer may cost at most.
const DELAY: Duration = Duration::from_secs(1);
/// The client begins with any of them: enough goes for it to begin with each.
const GOES: usize = 6;

/// Accepts connections and says nothing, until it is dropped.
struct BlackHole {
    address: String,
    _accepting: JoinSet<()>,
}

impl BlackHole {
    async fn open() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                kept.push(stream);
            }
        });
        Ok(Self { address, _accepting: accepting })
    }
}

/// An address nobody listens at.
async fn closed_port() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

pub(crate) fn expect_no_name_server(error: Option<Error>) -> Result<()> {
    match error {
        Some(Error::Client(ClientError::NoNameServer { asked, .. })) if !asked.is_empty() => Ok(()),
        Some(other) => bail!("started with {other:?}, expected NoNameServer"),
        None => bail!("started, expected NoNameServer"),
    }
}

/// Starts a producer and a consumer several times, beside entries that do not answer, and sends and consumes.
async fn starts_quickly(cluster: &Cluster, others: &[String]) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let mut starts = Vec::new();
    for _ in 0..GOES {
        let name_servers = others.iter().cloned().chain([cluster.name_server().to_owned()]);
        let (began, inbox) = (Instant::now(), Inbox::new());
        let config = ProducerConfig { retries: 20, send_timeout: SOON, ..Default::default() };
        let producer = Producer::builder("p").name_servers(name_servers.clone()).config(config).start().await?;
        starts.push(began.elapsed());
        let consumer = PushConsumer::builder(random_name("group"))
            .name_servers(name_servers)
            .config(PushConfig { start_at: StartAt::First, ..Default::default() })
            .subscribe(&topic, Filter::all())
            .listener(inbox.listener())
            .start()
            .await?;
        let receipt = producer.send(Message::new(&topic, "body")).await?;
        inbox.has_all([&receipt.message_id], SOON).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    // The machine may be busy with something else now and then, but not most of the time.
    starts.sort();
    ensure!(starts[GOES * 2 / 3] < DELAY, "starting took {starts:?}");
    Ok(())
}

pub(crate) async fn a_dead_entry_delays_no_start(cluster: &Cluster) -> Result<()> {
    starts_quickly(cluster, &[closed_port().await?]).await
}

pub(crate) async fn a_black_hole_among_the_entries_delays_start_by_a_second_at_most(cluster: &Cluster) -> Result<()> {
    let black_hole = BlackHole::open().await?;
    starts_quickly(cluster, std::slice::from_ref(&black_hole.address)).await
}

pub(crate) async fn no_name_server_at_start_is_a_typed_error(_: &Cluster) -> Result<()> {
    let addresses = [closed_port().await?, closed_port().await?];
    let began = Instant::now();
    expect_no_name_server(Producer::builder("p").name_servers(&addresses).start().await.err())?;
    let consumer = PushConsumer::builder("c").name_servers(&addresses).subscribe("t", Filter::all());
    match consumer.listener(Inbox::new().listener()).start().await {
        Err(rocketmq_consumer::Error::Client(ClientError::NoNameServer { .. })) => {}
        other => bail!("the consumer started with {other:?}, expected NoNameServer"),
    }
    ensure!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    Ok(())
}

pub(crate) async fn nothing_but_a_black_hole_is_a_typed_error_in_time(_: &Cluster) -> Result<()> {
    let black_hole = BlackHole::open().await?;
    let request_timeout = Duration::from_secs(1);
    let client = ClientConfig { request_timeout, ..Default::default() };
    let began = Instant::now();
    let config = ProducerConfig { client: client.clone(), ..Default::default() };
    let producer = Producer::builder("p").name_servers([&black_hole.address]).config(config);
    expect_no_name_server(producer.start().await.err())?;
    let took = began.elapsed();
    ensure!(took > request_timeout / 2 && took < 3 * request_timeout, "the producer gave up after {took:?}");
    let began = Instant::now();
    let config = PushConfig { client, ..Default::default() };
    let consumer = PushConsumer::builder("c").name_servers([&black_hole.address]).subscribe("t", Filter::all());
    match consumer.config(config).listener(Inbox::new().listener()).start().await {
        Err(rocketmq_consumer::Error::Client(ClientError::NoNameServer { .. })) => {}
        other => bail!("the consumer started with {other:?}, expected NoNameServer"),
    }
    let took = began.elapsed();
    ensure!(took > request_timeout / 2 && took < 3 * request_timeout, "the consumer gave up after {took:?}");
    Ok(())
}

/// The first look-ups of many producers, with a name server that knows nothing among those they may ask first.
pub(crate) async fn one_that_knows_nothing_yet_is_not_believed(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    // As one that was restarted, and with which no broker has registered yet.
    let restarted = DevCluster::start().await?;
    restarted.stop_broker("broker-a").await;
    let asked = || restarted.received(RequestCode::GET_ROUTEINFO_BY_TOPIC);
    let mut producers = 0;
    while asked() < 20 {
        let name_servers = [restarted.name_server(), cluster.name_server().to_owned()];
        let config = ProducerConfig { retries: 20, send_timeout: SOON, ..Default::default() };
        let producer = Producer::builder("p").name_servers(name_servers).config(config).start().await?;
        producer.send(Message::new(&topic, "body")).await.with_context(|| format!("producer {producers}"))?;
        producer.shutdown().await?;
        producers += 1;
        ensure!(producers < 200, "the restarted one was asked {} times", asked());
    }
    // What no name server knows does not exist, all the same.
    let client = Client::start([restarted.name_server(), cluster.name_server().to_owned()], ClientConfig::default());
    let (client, missing) = (client.await?, random_name("missing"));
    match client.route(&missing.as_str().into()).await {
        Err(ClientError::TopicNotFound { topic }) if *topic == *missing => {}
        other => bail!("the route of a missing topic came to {other:?}"),
    }
    client.shutdown(Deadline::after(SOON)).await;
    restarted.shutdown().await;
    Ok(())
}

pub(crate) async fn sends_to_a_missing_topic_do_not_storm_it(cluster: &Cluster) -> Result<()> {
    const SENDERS: usize = 8;
    const SENDS: usize = 50;
    cluster.dev().remove_topic("TBW102", "broker-a");
    let (topic, producer) = (random_name("topic"), cluster.producer().await?);
    let asked = || cluster.dev().received(RequestCode::GET_ROUTEINFO_BY_TOPIC);
    let (before, began) = (asked(), Instant::now());
    let mut sending = JoinSet::new();
    for _ in 0..SENDERS {
        let (producer, topic) = (producer.clone(), topic.clone());
        sending.spawn(async move {
            for _ in 0..SENDS {
                match producer.send(Message::new(&topic, "body")).await {
                    Err(Error::Client(ClientError::TopicNotFound { .. })) => {}
                    other => bail!("a send to a missing topic came to {other:?}"),
                }
            }
            Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    // The topic and the template after which it could be created, about once a second.
    let (asked, seconds) = (asked() - before, began.elapsed().as_secs());
    ensure!(asked <= 2 * (seconds + 2), "{asked} look-ups in {seconds} s");
    cluster.dev().create_topic(&topic, 2);
    eventually(SOON, async || producer.send(Message::new(&topic, "body")).await.context("still not sent")).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_broker_in_its_place_is_told_as_such(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let client = cluster.client().await?;
    client.route(&topic.as_str().into()).await?;
    let broker = client.master("broker-a")?;
    let error = Producer::builder("p").name_servers([broker.to_string()]).start().await.err();
    let text = error.as_ref().map(ToString::to_string).unwrap_or_default();
    ensure!(text.contains(&*broker) && text.contains("broker;"), "the error says {text:?}");
    expect_no_name_server(error)?;
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}
