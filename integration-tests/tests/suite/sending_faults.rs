//! Each way in which an attempt to send fails, and what the producer makes of it.

use crate::{cluster::Cluster, wait::SOON};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::Message;
use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
use rocketmq_producer::{Error, FailedAttempt, FaultTolerance, ProducerConfig, SendReceipt, SendStatus};
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

pub(crate) async fn a_user_over_quota_waits_before_the_next_attempt(_: &Cluster) -> Result<()> {
    // Each of the three waits is at least half of its 100, 200 and 400 ms.
    const LEAST: Duration = Duration::from_millis(350);
    let cluster = Cluster::of(DevCluster::builder().brokers(2).start().await?);
    let topic = cluster.topic(2).await?;
    let config = ProducerConfig { retries: 3, send_timeout: SOON, ..Default::default() };
    for (code, waits) in [(ResponseCode::FLOW_CONTROL, true), (ResponseCode::SYSTEM_ERROR, false)] {
        cluster.dev().on(SEND).answer(code).times(3);
        let began = Instant::now();
        let receipt = send(&cluster, &topic, config.clone()).await??;
        let took = began.elapsed();
        ensure!(!waits || took >= LEAST, "{code}: stored after {took:?} as {receipt:?}");
    }
    ensure!(cluster.dev().received(SEND) == 8, "{} attempts", cluster.dev().received(SEND));
    // No wait goes beyond the time there is.
    cluster.dev().on(SEND).answer(ResponseCode::FLOW_CONTROL);
    let config = ProducerConfig { retries: 1000, send_timeout: LEAST, ..Default::default() };
    let began = Instant::now();
    let (attempts, retryable, maybe) = not_sent(send(&cluster, &topic, config).await?)?;
    ensure!((2..=4).contains(&attempts.len()) && retryable && !maybe, "{attempts:?}");
    ensure!(began.elapsed() < SOON, "gave up after {:?}", began.elapsed());
    Ok(())
}

pub(crate) async fn an_attempt_takes_no_longer_than_it_may(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    cluster.dev().on(SEND).forget().times(1);
    let attempt_timeout = Some(Duration::from_millis(200));
    let config = ProducerConfig { attempt_timeout, send_timeout: SOON, ..Default::default() };
    let began = Instant::now();
    let receipt = send(cluster, &topic, config).await??;
    ensure!(began.elapsed() < SOON / 2, "the second attempt came after {:?}", began.elapsed());
    expect_stored(cluster, &topic, &receipt, 1)?;
    // The last attempt may take all the time there is.
    cluster.dev().on(SEND).delay(Duration::from_millis(600)).times(1);
    let config = ProducerConfig { attempt_timeout, retries: 0, send_timeout: SOON, ..Default::default() };
    send(cluster, &topic, config).await??;
    Ok(())
}

pub(crate) async fn a_slow_broker_is_avoided_for_a_while(_: &Cluster) -> Result<()> {
    const SLOW: Duration = Duration::from_millis(300);
    let cluster = Cluster::of(DevCluster::builder().brokers(2).start().await?);
    let topic = cluster.topic(2).await?;
    let avoided = Duration::from_secs(1);
    let tolerance = FaultTolerance { latency_steps: vec![(SLOW, avoided)], ..Default::default() };
    let config = ProducerConfig { fault_tolerance: Some(tolerance), send_timeout: SOON, ..Default::default() };
    let producer = cluster.producer_with(config).await?;
    let broker = async || Ok::<_, anyhow::Error>(producer.send(Message::new(&topic, "b")).await?.queue.broker_name);
    cluster.dev().on(SEND).at_broker("broker-a").delay(SLOW).times(1);
    // Before the slow answer, both have their turn.
    while &*broker().await? != "broker-a" {}
    let noted = Instant::now();
    let mut elsewhere = 0;
    loop {
        let (asked, stored_at) = (noted.elapsed(), broker().await?);
        if &*stored_at == "broker-a" {
            ensure!(noted.elapsed() >= avoided, "the slow broker was used again after {:?}", noted.elapsed());
            break;
        }
        elsewhere += 1;
        ensure!(asked < SOON, "the slow broker is never used again");
    }
    ensure!(elsewhere >= 8, "only {elsewhere} messages went to the other broker");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_unreachable_broker_is_probed_until_it_answers(_: &Cluster) -> Result<()> {
    let cluster = Cluster::of(DevCluster::builder().brokers(2).start().await?);
    let topic = cluster.topic(2).await?;
    let tolerance = FaultTolerance {
        latency_steps: Vec::new(),
        detector: true,
        detect_interval: Duration::from_millis(50),
        ..Default::default()
    };
    let config = ProducerConfig { fault_tolerance: Some(tolerance), send_timeout: SOON, ..Default::default() };
    let producer = cluster.producer_with(config).await?;
    let probes = || cluster.dev().received(RequestCode::GET_MAX_OFFSET);
    for _ in 0..8 {
        producer.send(Message::new(&topic, "b")).await?;
    }
    ensure!(probes() == 0, "a broker that answers was probed");
    cluster.dev().on(SEND).at_broker("broker-a").close();
    cluster.dev().on(RequestCode::GET_MAX_OFFSET).at_broker("broker-a").forget();
    for _ in 0..8 {
        let receipt = producer.send(Message::new(&topic, "b")).await?;
        ensure!(&*receipt.queue.broker_name == "broker-b", "stored in {}", receipt.queue);
    }
    let attempts = cluster.dev().received(SEND);
    crate::wait::eventually(SOON, async || {
        ensure!(probes() >= 3, "{} probes", probes());
        Ok(())
    })
    .await?;
    for _ in 0..8 {
        producer.send(Message::new(&topic, "b")).await?;
    }
    let further = cluster.dev().received(SEND) - attempts;
    ensure!(further == 8, "{further} attempts for 8 messages: the unreachable broker was asked");
    cluster.dev().clear_faults();
    crate::wait::eventually(SOON, async || {
        let receipt = producer.send(Message::new(&topic, "b")).await?;
        ensure!(&*receipt.queue.broker_name == "broker-a", "stored in {}", receipt.queue);
        Ok(())
    })
    .await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_is_queued_is_retried_whether_or_not_its_receipt_is_awaited(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let producer = cluster.producer_with(ProducerConfig::default()).await?;
    cluster.dev().on(SEND).answer(ResponseCode::SYSTEM_BUSY).times(1);
    cluster.dev().on(SEND).close().times(1);
    let receipt = producer.send_async(Message::new(&topic, "body")).await?.await?;
    expect_stored(cluster, &topic, &receipt, 1)?;
    ensure!(cluster.dev().received(SEND) == 3, "{} attempts", cluster.dev().received(SEND));
    // A receipt nobody awaits stops no attempt.
    let again = cluster.topic(2).await?;
    cluster.dev().on(SEND).answer(ResponseCode::SYSTEM_BUSY).times(1);
    cluster.dev().on(SEND).close().times(1);
    drop(producer.send_async(Message::new(&again, "body")).await?);
    producer.flush().await;
    ensure!(cluster.dev().messages(&again).len() == 1, "{} messages stored", cluster.dev().messages(&again).len());
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
