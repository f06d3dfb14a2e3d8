//! A broker that is frozen: the kernel accepts connections to it, and nobody answers.

use crate::{
    cluster::Cluster,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{ClientConfig, Message, MessageQueue};
use rocketmq_producer::{ClientError, Error, Producer, ProducerConfig, Select};
use std::time::Duration;
use tokio::time::Instant;

/// Longer than any of these sends may take, by far: how long a broker may take for the first request on a connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn sends_do_not_wait_for_a_frozen_broker(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let client = ClientConfig { request_timeout: REQUEST_TIMEOUT, ..Default::default() };
    let config = ProducerConfig { send_timeout: Duration::from_secs(1), retries: 0, client, ..Default::default() };
    let connected = cluster.producer_with(config).await?;
    let message = || Message::new(&topic, "body");
    let to_it = Select::queue(&MessageQueue::new(topic.as_str(), "broker-b", 0));
    eventually(SOON, async || connected.send_to(to_it.clone(), message()).await.context("not sent to it")).await?;
    cluster.freeze_broker_at(1).await?;
    let result = sends_go_elsewhere(cluster, &topic, connected).await;
    cluster.thaw_broker_at(1).await?;
    result?;
    cluster.at("the broker runs again");
    let producer = cluster.producer().await?;
    eventually(SOON, async || producer.send_to(to_it.clone(), message()).await.context("not sent to it")).await?;
    Ok(producer.shutdown().await?)
}

async fn sends_go_elsewhere(cluster: &Cluster, topic: &str, connected: Producer) -> Result<()> {
    let client = ClientConfig { request_timeout: REQUEST_TIMEOUT, ..Default::default() };
    cluster.at("sends that may go to the other broker");
    let config = ProducerConfig { send_timeout: Duration::from_secs(4), client, ..Default::default() };
    let producer = cluster.producer_with(config.clone()).await?;
    for _ in 0..4 {
        let receipt = producer.send(Message::new(topic, "body")).await?;
        ensure!(&*receipt.queue.broker_name == "broker-a", "stored in {}", receipt.queue);
    }
    cluster.at("a send that may not");
    let config = ProducerConfig { send_timeout: Duration::from_millis(500), retries: 0, ..config };
    let hasty = cluster.producer_with(config).await?;
    let queue = Select::queue(&MessageQueue::new(topic, "broker-b", 0));
    let began = Instant::now();
    let result = hasty.send_to(queue.clone(), Message::new(topic, "body")).await;
    let took = began.elapsed();
    let Err(Error::NotSent(failure)) = &result else { bail!("sending came to {result:?}") };
    let [attempt] = &failure.attempts[..] else { bail!("{failure:?}") };
    let is_unready = matches!(&attempt.error, ClientError::Remote(error) if error.to_string().contains("heartbeat"));
    ensure!(is_unready && !attempt.error.may_have_happened(), "the attempt came to {attempt:?}");
    ensure!(took < REQUEST_TIMEOUT / 4, "took {took:?}");
    cluster.at("a send by a connection that was there before");
    let result = connected.send_to(queue, Message::new(topic, "body")).await;
    ensure!(result.as_ref().is_err_and(Error::is_retryable), "sending came to {result:?}");
    cluster.at("shutting down");
    let began = Instant::now();
    connected.shutdown().await?;
    hasty.shutdown().await?;
    producer.shutdown().await?;
    let took = began.elapsed();
    ensure!(took < REQUEST_TIMEOUT / 4, "shutting down took {took:?}");
    Ok(())
}
