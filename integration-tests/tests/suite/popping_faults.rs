//! Each way in which the requests of a pop consumer fail: nothing is lost.

use crate::{
    cluster::{Cluster, random_name},
    popping::{LONG, config, ids, send, start, take},
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{Message, message::names::dlq_topic};
use rocketmq_consumer::{ClientError, Error, Filter, PopConfig};
use rocketmq_dev_broker::{RequestCode, ResponseCode};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, sleep};

const POP: RequestCode = RequestCode::POP_MESSAGE;

pub(crate) async fn pops_that_fail_are_made_again(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let codes = [
        ResponseCode::SYSTEM_ERROR,
        ResponseCode::SYSTEM_BUSY,
        ResponseCode::FLOW_CONTROL,
        ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
        ResponseCode::POLLING_FULL,
        ResponseCode::POLLING_TIMEOUT,
    ];
    for code in codes {
        cluster.dev().on(POP).answer(code).times(1);
    }
    cluster.dev().on(POP).close().times(2);
    cluster.dev().on(RequestCode::NOTIFICATION).close().times(2);
    cluster.dev().on(RequestCode::NOTIFICATION).answer(ResponseCode::SYSTEM_ERROR).times(2);
    let sent: BTreeSet<_> = send(&producer, &topic, 20).await?.into_iter().collect();
    let deadline = Instant::now() + SOON;
    let mut came = BTreeSet::new();
    while came.len() < sent.len() && Instant::now() < deadline {
        // An error is one that trying again may mend.
        match popper.receive(32, LONG).await {
            Ok(messages) => {
                popper.ack_all(&messages).await?;
                came.extend(ids(&messages));
            }
            Err(Error::Client(_)) => {}
            Err(other) => return Err(other.into()),
        }
    }
    ensure!(came == sent, "{} of {} messages came", came.len(), sent.len());
    ensure!(cluster.dev().received(POP) > 8, "the faults were not all met");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_cannot_be_popped_is_an_error_in_time(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let popper = start(cluster, &random_name("group"), &topic, config()).await?;
    cluster.dev().on(POP).answer(ResponseCode::SYSTEM_BUSY);
    let asked_at = Instant::now();
    let busy = popper.receive(1, LONG).await;
    let is_busy = |error: &Error| matches!(error, Error::Client(error) if error.response_code() == Some(ResponseCode::SYSTEM_BUSY));
    ensure!(busy.as_ref().is_err_and(is_busy), "a busy broker came to {busy:?}");
    ensure!(asked_at.elapsed() >= config().long_poll, "given up after {:?}", asked_at.elapsed());
    cluster.dev().clear_faults();
    cluster.dev().on(POP).answer(ResponseCode::NO_PERMISSION);
    let asked_at = Instant::now();
    let refused = popper.receive(1, LONG).await;
    ensure!(matches!(refused, Err(Error::Client(ClientError::Remote(_)))), "a refusal came to {refused:?}");
    ensure!(asked_at.elapsed() < config().long_poll, "told after {:?}", asked_at.elapsed());
    Ok(popper.shutdown().await?)
}

pub(crate) async fn brokers_that_do_not_answer_hold_nobody_up_for_long(cluster: &Cluster) -> Result<()> {
    let [one, other] = [cluster.topic(1).await?, cluster.topic(1).await?];
    let popper =
        start(cluster, &random_name("group"), &one, PopConfig { long_poll: Duration::ZERO, ..config() }).await?;
    popper.subscribe(&other, Filter::all()).await?;
    cluster.dev().on(POP).forget();
    let asked_at = Instant::now();
    let nothing = popper.receive(1, LONG).await;
    ensure!(nothing.is_err(), "a broker that says nothing came to {nothing:?}");
    // What one request may take, and not what two may.
    ensure!(asked_at.elapsed() < Duration::from_secs(18), "given up after {:?}", asked_at.elapsed());
    Ok(popper.shutdown().await?)
}

pub(crate) async fn an_ordered_pop_whose_answer_is_lost_is_made_again(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let sent = send(&producer, &topic, 3).await?;
    let popper = start(cluster, &group, &topic, PopConfig { is_ordered: true, ..config() }).await?;
    cluster.dev().on(POP).process_first().close().times(1);
    let came = take(&popper, 3, LONG).await?;
    ensure!(ids(&came) == sent.into_iter().collect(), "other messages came");
    ensure!(came.iter().all(|message| message.reconsume_times() == 0), "the lost delivery counts");
    popper.ack_all(&came).await?;
    cluster.expect_recorded(&group, &topic, 3).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_dead_letter_that_is_not_stored_is_not_lost(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    cluster.dev().on(RequestCode::CONSUMER_SEND_MSG_BACK).answer(ResponseCode::SYSTEM_ERROR).times(2);
    let popper = start(cluster, &group, &topic, PopConfig { max_reconsume_times: 0, ..config() }).await?;
    let sent = producer.send(Message::new(&topic, "never")).await?.message_id;
    let second = Duration::from_secs(1);
    drop(take(&popper, 1, second).await?);
    let dead = eventually(SOON, async || {
        ensure!(popper.receive(1, second).await?.is_empty(), "it came once more");
        let dead = cluster.stored(&dlq_topic(&group)).await?;
        ensure!(!dead.is_empty(), "no dead letter");
        Ok(dead)
    })
    .await?;
    ensure!(dead.len() == 1 && dead[0].message_id() == sent, "{} dead letters", dead.len());
    let tries = cluster.dev().received(RequestCode::CONSUMER_SEND_MSG_BACK);
    ensure!(tries == 3, "it was sent back {tries} times");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_broker_without_batches_is_told_one_by_one(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    send(&producer, &topic, 5).await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    cluster.dev().on(RequestCode::BATCH_ACK_MESSAGE).answer(ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    let taken = take(&popper, 5, LONG).await?;
    popper.ack_all(&taken).await?;
    let told = cluster.dev().received(RequestCode::ACK_MESSAGE);
    ensure!(told == 5, "told of {told} messages");
    cluster.dev().on(RequestCode::ACK_MESSAGE).answer(ResponseCode::SYSTEM_ERROR);
    let failed = popper.ack_all(&taken).await;
    ensure!(matches!(failed, Err(Error::Client(_))), "acks that fail came to {failed:?}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_broker_that_dies_and_comes_back_loses_nothing_popped(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let brief = Duration::from_secs(2);
    let mut sent: BTreeSet<_> = send(&producer, &topic, 60).await?.into_iter().collect();
    let mut done = BTreeSet::new();
    let taken = take(&popper, 40, brief).await?;
    popper.ack_all(&taken[..20]).await?;
    done.extend(ids(&taken[..20]));
    cluster.at("the broker is dead");
    cluster.kill_broker().await?;
    let dead = popper.receive(1, brief).await;
    ensure!(dead.as_ref().is_err_and(Error::is_retryable), "a dead broker came to {dead:?}");
    cluster.at("the broker comes back");
    cluster.start_broker().await?;
    sent.extend(send(&producer, &topic, 10).await?);
    cluster.at("the rest comes");
    while done != sent {
        match popper.receive(32, Duration::from_secs(10)).await {
            Ok(messages) => {
                popper.ack_all(&messages).await?;
                done.extend(ids(&messages));
            }
            Err(error) if error.is_retryable() => sleep(Duration::from_millis(100)).await,
            Err(error) => return Err(error.into()),
        }
    }
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
