//! Each way in which an attempt to send fails, and what the producer makes of it.

use crate::{cluster::Cluster, wait::SOON};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::Message;
use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
use rocketmq_producer::{Error, FailedAttempt, ProducerConfig, SendReceipt, SendStatus};
use std::time::Duration;
use tokio::time::Instant;

const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;

/// Sends one message, whatever becomes of it.
async fn send(cluster: &Cluster, topic: &str, config: ProducerConfig) -> Result<Result<SendReceipt, Error>> {
    let producer = cluster.producer_with(config).await?;
    let result = producer.send(Message::new(topic, "body").tag("tag")).await;
    producer.shutdown().await?;
    Ok(result)
}

/// Fails unless the message is stored so often, always with the id of the receipt.
fn expect_stored(cluster: &Cluster, topic: &str, receipt: &SendReceipt, times: usize) -> Result<()> {
    let ids: Vec<_> = cluster.dev().messages(topic).iter().map(|message| message.message_id().into_owned()).collect();
    ensure!(ids == vec![receipt.message_id.clone(); times], "stored are {ids:?}, the receipt is {receipt:?}");
    Ok(())
}

/// The attempts of a send that failed, whether it may be retried, and whether it may have happened.
fn not_sent(result: Result<SendReceipt, Error>) -> Result<(Vec<FailedAttempt>, bool, bool)> {
    match result {
        Err(Error::NotSent(failure)) => {
            let error = Error::NotSent(failure.clone());
            Ok((failure.attempts.clone(), error.is_retryable(), error.may_have_happened()))
        }
        other => bail!("sending came to {other:?}, expected NotSent"),
    }
}

pub(crate) async fn a_busy_broker_is_asked_again(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    for code in [ResponseCode::SYSTEM_BUSY, ResponseCode::SYSTEM_ERROR, ResponseCode::SERVICE_NOT_AVAILABLE] {
        let topic = format!("{topic}-{}", code.0);
        cluster.dev().create_topic(&topic, 2);
        let before = cluster.dev().received(SEND);
        cluster.dev().on(SEND).answer(code).times(2);
        let receipt = send(cluster, &topic, ProducerConfig::default()).await??;
        ensure!(cluster.dev().received(SEND) == before + 3, "{code}: not three attempts");
        expect_stored(cluster, &topic, &receipt, 1)?;
    }
    Ok(())
}

pub(crate) async fn attempts_end_when_they_are_used_up(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.dev().on(SEND).answer(ResponseCode::SYSTEM_BUSY);
    for retries in [0, 1, 4] {
        let config = ProducerConfig { retries, send_timeout: SOON, ..Default::default() };
        let (attempts, retryable, maybe) = not_sent(send(cluster, &topic, config).await?)?;
        ensure!(attempts.len() == usize::try_from(retries)? + 1, "{} attempts, {retries} retries", attempts.len());
        ensure!(retryable && !maybe, "retryable: {retryable}, may have happened: {maybe}");
        for attempt in &attempts {
            ensure!(attempt.error.response_code() == Some(ResponseCode::SYSTEM_BUSY), "{attempt:?}");
            ensure!(&*attempt.broker_name == "broker-a", "{attempt:?}");
        }
    }
    Ok(())
}

pub(crate) async fn a_message_the_broker_refuses_is_not_sent_again(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.dev().on(SEND).answer(ResponseCode::MESSAGE_ILLEGAL);
    let result = send(cluster, &topic, ProducerConfig::default()).await?;
    let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let (attempts, retryable, maybe) = not_sent(result)?;
    ensure!(attempts.len() == 1 && cluster.dev().received(SEND) == 1, "{attempts:?}");
    ensure!(attempts[0].error.response_code() == Some(ResponseCode::MESSAGE_ILLEGAL), "{attempts:?}");
    ensure!(!retryable && !maybe, "retryable: {retryable}, may have happened: {maybe}");
    ensure!(text.contains("broker-a") && text.contains(&topic), "the error says: {text}");
    Ok(())
}

pub(crate) async fn a_connection_that_closes_under_a_send_is_replaced(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.dev().on(SEND).close().times(1);
    let receipt = send(cluster, &topic, ProducerConfig::default()).await??;
    expect_stored(cluster, &topic, &receipt, 1)?;
    // Stored and not confirmed: it is stored twice, under one id.
    let again = cluster.topic(2).await?;
    cluster.dev().on(SEND).process_first().close().times(1);
    let receipt = send(cluster, &again, ProducerConfig::default()).await??;
    expect_stored(cluster, &again, &receipt, 2)
}

pub(crate) async fn a_broker_that_is_going_away_gets_a_fresh_connection(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.dev().on(SEND).answer(ResponseCode::GO_AWAY).times(1);
    let receipt = send(cluster, &topic, ProducerConfig::default()).await??;
    ensure!(cluster.dev().received(SEND) == 2, "{} attempts", cluster.dev().received(SEND));
    expect_stored(cluster, &topic, &receipt, 1)
}

pub(crate) async fn a_silent_broker_leaves_time_for_the_other_one(_: &Cluster) -> Result<()> {
    let cluster = Cluster::of(DevCluster::builder().brokers(2).start().await?);
    let topic = cluster.topic(2).await?;
    let send_timeout = Duration::from_secs(2);
    cluster.dev().on(SEND).at_broker("broker-a").forget();
    let producer = cluster.producer_with(ProducerConfig { send_timeout, ..Default::default() }).await?;
    // The first queue is a random one of four: four sends come upon either broker.
    for _ in 0..4 {
        let began = Instant::now();
        let receipt = producer.send(Message::new(&topic, "body")).await?;
        ensure!(&*receipt.queue.broker_name == "broker-b", "stored in {}", receipt.queue);
        ensure!(began.elapsed() < send_timeout, "took {:?} of {send_timeout:?}", began.elapsed());
    }
    ensure!(cluster.dev().received(SEND) > 4, "the silent broker was never asked");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_stopped_broker_is_avoided_within_the_send(_: &Cluster) -> Result<()> {
    let cluster = Cluster::of(DevCluster::builder().brokers(2).start().await?);
    let topic = cluster.topic(2).await?;
    let producer = cluster.producer_with(ProducerConfig::default()).await?;
    for _ in 0..8 {
        producer.send(Message::new(&topic, "body")).await?;
    }
    cluster.dev().stop_broker("broker-b").await;
    for _ in 0..8 {
        let receipt = producer.send(Message::new(&topic, "body")).await?;
        ensure!(&*receipt.queue.broker_name == "broker-a", "stored in {}", receipt.queue);
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn no_answer_at_all_ends_with_the_send_timeout(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.dev().on(SEND).forget();
    let send_timeout = Duration::from_millis(500);
    let producer = cluster.producer_with(ProducerConfig { send_timeout, ..Default::default() }).await?;
    let began = Instant::now();
    let (attempts, retryable, maybe) = not_sent(producer.send(Message::new(&topic, "body")).await)?;
    let took = began.elapsed();
    ensure!(took >= send_timeout && took < 4 * send_timeout, "gave up after {took:?} of {send_timeout:?}");
    ensure!(attempts.len() == 1 && retryable && maybe, "{attempts:?}, retryable: {retryable}, maybe: {maybe}");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn stored_but_not_safely_is_a_status_or_another_attempt(cluster: &Cluster) -> Result<()> {
    let statuses = [
        (ResponseCode::FLUSH_DISK_TIMEOUT, SendStatus::FlushDiskTimeout),
        (ResponseCode::FLUSH_SLAVE_TIMEOUT, SendStatus::FlushSlaveTimeout),
        (ResponseCode::SLAVE_NOT_AVAILABLE, SendStatus::SlaveNotAvailable),
    ];
    for (code, status) in statuses {
        let topic = cluster.topic(2).await?;
        cluster.dev().on(SEND).process_first().answer(code).times(1);
        let receipt = send(cluster, &topic, ProducerConfig::default()).await?.with_context(|| format!("{code}"))?;
        ensure!(receipt.status == status, "{code} gave {:?}", receipt.status);
        expect_stored(cluster, &topic, &receipt, 1)?;

        let topic = cluster.topic(2).await?;
        cluster.dev().on(SEND).process_first().answer(code).times(1);
        let config = ProducerConfig { retry_when_not_stored_safely: true, ..Default::default() };
        let receipt = send(cluster, &topic, config).await??;
        ensure!(receipt.status == SendStatus::Ok, "{code} gave {:?} in the end", receipt.status);
        expect_stored(cluster, &topic, &receipt, 2)?;

        // Where no attempt is left, stored is stored.
        let topic = cluster.topic(2).await?;
        cluster.dev().on(SEND).process_first().answer(code).times(3);
        let config = ProducerConfig { retry_when_not_stored_safely: true, ..Default::default() };
        let receipt = send(cluster, &topic, config).await??;
        ensure!(receipt.status == status, "{code} gave {:?} in the end", receipt.status);
        expect_stored(cluster, &topic, &receipt, 3)?;
    }
    Ok(())
}

pub(crate) async fn what_is_queued_is_retried_while_its_receipt_is_awaited(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let producer = cluster.producer_with(ProducerConfig::default()).await?;
    cluster.dev().on(SEND).answer(ResponseCode::SYSTEM_BUSY).times(1);
    cluster.dev().on(SEND).close().times(1);
    let receipt = producer.send_async(Message::new(&topic, "body")).await?.await?;
    expect_stored(cluster, &topic, &receipt, 1)?;
    ensure!(cluster.dev().received(SEND) == 3, "{} attempts", cluster.dev().received(SEND));
    cluster.dev().on(RequestCode::SEND_BATCH_MESSAGE).answer(ResponseCode::SYSTEM_BUSY).times(2);
    let batch = producer.send_batch(vec![Message::new(&topic, "one"), Message::new(&topic, "other")]).await?;
    ensure!(cluster.dev().received(RequestCode::SEND_BATCH_MESSAGE) == 3, "not three attempts for a batch");
    let stored = cluster.dev().messages(&topic);
    let times = |id: &String| stored.iter().filter(|message| *message.message_id() == **id).count();
    ensure!(batch.message_ids.iter().all(|id| times(id) == 1), "the batch is not stored once: {batch:?}");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_topic_that_may_not_be_written_is_an_error_and_recovers(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    cluster.dev().set_permission(&topic, true, false);
    let producer = cluster.producer_with(ProducerConfig::default()).await?;
    match producer.send(Message::new(&topic, "body")).await {
        Err(error @ (Error::NoQueue { .. } | Error::NotSent(_))) => {
            ensure!(error.to_string().contains(&topic), "the error says: {error}");
        }
        other => bail!("sending came to {other:?}"),
    }
    cluster.dev().set_permission(&topic, true, true);
    crate::wait::eventually(SOON, async || Ok(producer.send(Message::new(&topic, "body")).await?)).await?;
    Ok(producer.shutdown().await?)
}
