//! Messages that come later, or not at all.

use crate::{
    cluster::{Cluster, DEV_DELAY, random_name},
    inbox::Inbox,
    wait::SOON,
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{ClientConfig, Message, StoredMessage, remote::ResponseCode};
use rocketmq_consumer::Filter;
use rocketmq_producer::{Error, ProducerConfig, SendReceipt};
use std::time::{Duration, SystemTime};

/// Checks how long after it was sent a message was there for consumers.
fn expect_waited(message: &StoredMessage, least: Duration, most: Duration) -> Result<()> {
    // No time at all, where the two clocks are a millisecond apart.
    let waited = message.store_timestamp().duration_since(message.born_timestamp()).unwrap_or_default();
    ensure!((least..most).contains(&waited), "{} came after {waited:?}, not {least:?}", message.message_id());
    Ok(())
}

fn find(inbox: &Inbox, receipt: &SendReceipt) -> Result<StoredMessage> {
    let mut messages = inbox.messages().into_iter();
    messages.find(|message| *message.message_id() == *receipt.message_id).context("not consumed")
}

/// A clock that is read in two processes may be some milliseconds apart; a machine that is busy is late.
const EARLY: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(15);

pub(crate) async fn a_delay_level_holds_a_message_back(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let delayed = producer.send(Message::new(&topic, "later").delay_level(1).tag("tag").key("key")).await?;
    let undelayed = producer.send(Message::new(&topic, "at once")).await?;
    inbox.has_each_once([&delayed.message_id, &undelayed.message_id], SOON).await?;
    let (late, prompt) = (find(&inbox, &delayed)?, find(&inbox, &undelayed)?);
    let delay = if cluster.is_real() { Duration::from_secs(1) } else { DEV_DELAY };
    expect_waited(&late, delay.saturating_sub(EARLY), delay + LATE)?;
    ensure!(late.queue_offset() == 1 && prompt.queue_offset() == 0, "the delayed message lies before the other one");
    ensure!(late.topic() == topic && late.queue_id() == 0, "the delayed message came from {}", late.queue());
    ensure!(late.body() == "later" && late.tag() == Some("tag"), "the delayed message came as {late:?}");
    ensure!(late.keys().eq(["key"]), "the delayed message came as {late:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_timer_message_comes_at_its_time(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let delay = Duration::from_secs(3);
    let after = producer.send(Message::new(&topic, "after").deliver_after(delay).tag("tag")).await?;
    let at = producer.send(Message::new(&topic, "at").deliver_at(SystemTime::now() + delay)).await?;
    let past = producer.send(Message::new(&topic, "past").deliver_at(SystemTime::now() - delay)).await?;
    ensure!(after.recall_handle.is_some() && at.recall_handle.is_some(), "timer messages without a recall handle");
    ensure!(past.recall_handle.is_none(), "a message for the past can be recalled");
    let too_long = Message::new(&topic, "too long").deliver_after(Duration::from_secs(3 * 86_400 + 60));
    let refused = producer.send(too_long.clone()).await;
    ensure!(matches!(refused, Err(Error::TimerTooFar { .. })), "more than three days came to {refused:?}");
    // Brokers may be set otherwise; these are not.
    let config = ProducerConfig { max_timer_delay: Duration::from_secs(4 * 86_400), ..Default::default() };
    let patient = cluster.producer_with(config).await?;
    match patient.send(too_long).await {
        Err(Error::NotSent(failure)) => {
            let codes: Vec<_> = failure.attempts.iter().map(|attempt| attempt.error.response_code()).collect();
            ensure!(codes == [Some(ResponseCode::MESSAGE_ILLEGAL)], "more than three days were answered {codes:?}");
        }
        other => bail!("more than three days came to {other:?}"),
    }
    patient.shutdown().await?;
    inbox.has_each_once([&after.message_id, &at.message_id, &past.message_id], SOON).await?;
    // Brokers round down to the second.
    let least = delay - Duration::from_secs(1) - EARLY;
    expect_waited(&find(&inbox, &after)?, least, delay + LATE)?;
    expect_waited(&find(&inbox, &at)?, least, delay + LATE)?;
    expect_waited(&find(&inbox, &past)?, Duration::ZERO, least)?;
    let came = find(&inbox, &after)?;
    ensure!(came.topic() == topic && came.body() == "after" && came.tag() == Some("tag"), "came as {came:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_recalled_message_does_not_come(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (producer, inbox) = (cluster.producer().await?, Inbox::new());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let timer = |body: &'static str, seconds| Message::new(&topic, body).deliver_after(Duration::from_secs(seconds));
    let recalled = producer.send(timer("recalled", 4)).await?;
    let kept = producer.send(timer("kept", 4)).await?;
    let last = producer.send(timer("last", 6)).await?;
    producer.recall(&recalled).await?;
    let undelayed = producer.send(Message::new(&topic, "at once")).await?;
    let result = producer.recall(&undelayed).await;
    let refused = matches!(&result, Err(Error::NotRecallable { message_id }) if *message_id == undelayed.message_id);
    ensure!(refused, "recalling a message without a delay came to {result:?}");
    // The last one is due when the recalled one would long have come.
    inbox.has_each_once([&undelayed.message_id, &kept.message_id, &last.message_id], SOON).await?;
    match producer.recall(&kept).await {
        Err(Error::Client(error)) => {
            let code = error.response_code();
            ensure!(code == Some(ResponseCode::ILLEGAL_OPERATION), "recalling too late was answered {error}");
        }
        other => bail!("recalling too late came to {other:?}"),
    }
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_old_broker_takes_no_timer_message(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let vip = ClientConfig { vip_channel: true, ..Default::default() };
    for client in [ClientConfig::default(), vip] {
        let producer = cluster.producer_with(ProducerConfig { client, ..Default::default() }).await?;
        let timer = || Message::new(&topic, "later").deliver_after(Duration::from_secs(3));
        let refused = producer.send(timer()).await;
        ensure!(matches!(refused, Err(Error::BrokerTooOld { .. })), "a timer message came to {refused:?}");
        let refused = producer.send_async(timer()).await?.await;
        ensure!(matches!(refused, Err(Error::BrokerTooOld { .. })), "a queued timer message came to {refused:?}");
        let refused = producer.send_oneway(timer()).await;
        ensure!(matches!(refused, Err(Error::BrokerTooOld { .. })), "a one-way timer message came to {refused:?}");
        let undelayed = producer.send(Message::new(&topic, "at once")).await?;
        let recalled = producer.recall(&undelayed).await;
        ensure!(matches!(recalled, Err(Error::NotRecallable { .. })), "a recall came to {recalled:?}");
        producer.shutdown().await?;
    }
    let stored: Vec<_> = cluster.stored(&topic).await?.iter().map(|message| message.body().clone()).collect();
    ensure!(stored == ["at once", "at once"], "{stored:?} are stored");
    Ok(())
}

pub(crate) async fn a_broker_without_a_timer_wheel_refuses_at_the_first_attempt(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    let refused = producer.send(Message::new(&topic, "later").deliver_after(Duration::from_secs(3))).await;
    ensure!(matches!(refused, Err(Error::TimerDisabled { .. })), "a timer message came to {refused:?}");
    Ok(producer.shutdown().await?)
}
