//! Messages that are sent without waiting: their bounds, and how they are drained.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::Filter;
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::{Error, PendingReceipt, ProducerConfig};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;

pub(crate) async fn messages_beyond_the_bounds_wait_for_room(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let by_count = ProducerConfig { max_pending: 4, send_timeout: SOON, ..Default::default() };
    let by_bytes = ProducerConfig { max_pending_bytes: 4 * 1100, send_timeout: SOON, ..Default::default() };
    for (what, config) in [("count", by_count), ("bytes", by_bytes)] {
        cluster.dev().clear_faults();
        let before = cluster.dev().received(SEND);
        cluster.dev().on(SEND).delay(Duration::from_millis(500));
        let producer = cluster.producer_with(config).await?;
        let message = || Message::new(&topic, vec![b'x'; 1000]);
        let began = Instant::now();
        let mut pending = Vec::new();
        for _ in 0..4 {
            pending.push(producer.send_async(message()).await?);
        }
        ensure!(began.elapsed() < Duration::from_millis(500), "{what}: the first four waited");
        // Far more than the bounds allow: each gets its turn, none fails, and nobody awaits a receipt meanwhile.
        let mut most = 0;
        for index in 4..12 {
            pending.push(producer.send_async(message()).await.with_context(|| format!("{what}: {index}"))?);
            let rounds = u64::try_from(began.elapsed().as_millis() / 500)?;
            most = most.max(cluster.dev().received(SEND) - before);
            ensure!(most <= 4 * (rounds + 1), "{what}: {most} messages under way in round {rounds}");
        }
        ensure!(began.elapsed() >= Duration::from_secs(1), "{what}: twelve took {:?}", began.elapsed());
        for receipt in pending {
            receipt.await?;
        }
        // Who waits for room when the producer ends is told so.
        for _ in 0..4 {
            drop(producer.send_async(message()).await?);
        }
        let (waiting, shutdown) = tokio::join!(producer.send_async(message()), producer.shutdown());
        ensure!(matches!(waiting, Err(Error::ShutDown)), "{what}: who waited was told {waiting:?}");
        shutdown?;
    }
    ensure!(cluster.dev().messages(&topic).len() == 32, "{} messages stored", cluster.dev().messages(&topic).len());
    Ok(())
}

pub(crate) async fn a_flush_ends_when_everything_before_it_is_stored(cluster: &Cluster) -> Result<()> {
    const MESSAGES: usize = 2000;
    let topic = cluster.topic(4).await?;
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    producer.flush().await;
    let mut pending: Vec<PendingReceipt> = Vec::new();
    for index in 0..MESSAGES {
        pending.push(producer.send_async(Message::new(&topic, format!("{index}"))).await?);
    }
    producer.flush().await;
    let mut ids = Vec::new();
    for receipt in pending {
        let receipt = timeout(Duration::ZERO, receipt).await.context("a receipt is not ready after the flush")??;
        ids.push(receipt.message_id);
    }
    // Receipts that nobody keeps are flushed as well, and a shutdown is a flush.
    for index in 0..MESSAGES {
        drop(producer.send_async(Message::new(&topic, format!("dropped {index}"))).await?);
    }
    producer.shutdown().await?;
    eventually(SOON, async || {
        let stored = cluster.stored(&topic).await?.len();
        ensure!(stored == 2 * MESSAGES, "{stored} messages stored");
        Ok(())
    })
    .await?;
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has(2 * MESSAGES, SOON).await?;
    inbox.has_all(&ids, SOON).await?;
    inbox.expect_no_repetition()?;
    Ok(consumer.shutdown().await?)
}
