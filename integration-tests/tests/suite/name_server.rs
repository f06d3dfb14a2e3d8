//! Name servers that are not there, or say nothing.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::SOON,
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{ClientConfig, Message};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
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
