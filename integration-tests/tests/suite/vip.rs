//! The VIP channel: the second port of a broker.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::SOON,
};
use anyhow::{Result, ensure};
use rocketmq_common::{ClientConfig, Message, StoredMessage};
use rocketmq_consumer::{Filter, PushConfig, StartAt};
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::{Producer, ProducerBuilder, ProducerConfig, TransactionState};
use std::{future::ready, net::SocketAddr, time::Duration};

fn producer(cluster: &Cluster, vip_channel: bool) -> ProducerBuilder {
    // Heartbeats often, so that some go out while the scenario looks.
    let heartbeat_interval = Duration::from_millis(200);
    let client = ClientConfig { vip_channel, heartbeat_interval, ..Default::default() };
    let config = ProducerConfig { retries: 20, send_timeout: SOON, client, ..Default::default() };
    Producer::builder(random_name("producers")).name_servers([cluster.name_server()]).config(config)
}

pub(crate) async fn sends_go_to_the_second_port(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let client = ClientConfig { vip_channel: true, ..Default::default() };
    let config = PushConfig { start_at: StartAt::First, client, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let (fast, plain) = (producer(cluster, true).start().await?, producer(cluster, false).start().await?);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fast.send(Message::new(&topic, "fast")).await?.message_id);
        ids.push(fast.send_async(Message::new(&topic, "fast")).await?.await?.message_id);
        ids.push(plain.send(Message::new(&topic, "plain")).await?.message_id);
    }
    let batch = fast.send_batch(vec![Message::new(&topic, "fast"), Message::new(&topic, "fast")]).await?;
    ids.extend(batch.message_ids);
    inbox.has_each_once(&ids, SOON).await?;
    let queue = fast.send(Message::new(&topic, "fast")).await?.queue;
    let own: SocketAddr = fast.client().master(&queue.broker_name)?.parse()?;
    // The broker says which of our sockets a message came by, and the system where that leads.
    for message in cluster.stored(&topic).await? {
        let lead_to = peer_ports(message.born_host().port());
        let expected = if message.body().starts_with(b"fast") { own.port() - 2 } else { own.port() };
        let is_told = !lead_to.is_empty() || cfg!(target_os = "linux");
        ensure!(!is_told || lead_to.contains(&expected), "{message:?} went to port {lead_to:?}, not {expected}");
    }
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, ids.len() + 1).await?;
    if !cluster.is_real() {
        let by_vip = |code| cluster.dev().received_by_vip_channel(code);
        let sends = by_vip(RequestCode::SEND_MESSAGE_V2);
        ensure!(sends == 7, "{sends} sends went by the VIP channel");
        for code in [
            RequestCode::SEND_BATCH_MESSAGE,
            RequestCode::QUERY_CONSUMER_OFFSET,
            RequestCode::UPDATE_CONSUMER_OFFSET,
            RequestCode::GET_CONSUMER_LIST_BY_GROUP,
        ] {
            ensure!(by_vip(code) > 0, "no {code} went by the VIP channel");
        }
        for code in [RequestCode::HEART_BEAT, RequestCode::UNREGISTER_CLIENT, RequestCode::PULL_MESSAGE] {
            ensure!(cluster.dev().received(code) > 0, "no {code} at all");
            ensure!(by_vip(code) == 0, "{} {code} went by the VIP channel", by_vip(code));
        }
    }
    fast.shutdown().await?;
    Ok(plain.shutdown().await?)
}

pub(crate) async fn a_producer_at_the_second_port_is_asked_about_transactions(cluster: &Cluster) -> Result<()> {
    let (topic, inbox) = (cluster.topic(1).await?, Inbox::new());
    let checker = |_: StoredMessage| ready(TransactionState::Commit);
    let producer = producer(cluster, true).transaction_checker(checker).start().await?;
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let mut ids = Vec::new();
    for state in [TransactionState::Commit, TransactionState::Unknown] {
        let sent = producer.send_in_transaction(Message::new(&topic, "body"), move |_| ready(state)).await?;
        ids.push(sent.receipt.message_id);
    }
    inbox.has_each_once(&ids, CHECKED).await?;
    if !cluster.is_real() {
        let ends = cluster.dev().received_by_vip_channel(RequestCode::END_TRANSACTION);
        ensure!(ends == 0, "{ends} ends of transactions went by the VIP channel");
    }
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// The ports at the other ends of this machine's connections from a port, which may have several to different places; none
/// where the system does not tell.
fn peer_ports(local: u16) -> Vec<u16> {
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let peers_in = |table: String| -> Vec<u16> {
        let peer = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let (own, peer) = (port(fields.next()?)?, port(fields.next()?)?);
            (own == local).then_some(peer)
        };
        table.lines().skip(1).filter_map(peer).collect()
    };
    tables.flat_map(peers_in).collect()
}

/// How long a real broker may take to ask.
const CHECKED: Duration = Duration::from_secs(100);
