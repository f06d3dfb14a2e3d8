//! Each way in which a consumer's requests fail: it goes on, and nothing is lost.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{
    Message, MessageQueue,
    message::names::{dlq_topic, retry_topic},
};
use rocketmq_consumer::{Filter, Outcome, PushConfig, StartAt, StoredMessage};
use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

const PULL: RequestCode = RequestCode::PULL_MESSAGE;
const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;
const SEND_BACK: RequestCode = RequestCode::CONSUMER_SEND_MSG_BACK;

/// Sends before and while a consumer consumes, with the faults in place; everything is consumed once, and recorded.
async fn all_is_consumed_once(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let mut sent = send_from(4, &producer, 100, move |index| varied(&of_topic, index)).await?;
    let client = cluster.client().await?;
    let config = PushConfig { start_at: StartAt::First, long_poll: Duration::from_millis(500), ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).client(client.clone()).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    let of_topic = topic.clone();
    sent.extend(send_from(4, &producer, 100, move |index| varied(&of_topic, 1000 + index)).await?);
    inbox.has_each_once(sent.keys(), SOON).await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    consumer.shutdown().await?;
    client.shutdown(client.request_deadline()).await;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn pulls_that_fail_are_made_again(cluster: &Cluster) -> Result<()> {
    let codes = [ResponseCode::SYSTEM_ERROR, ResponseCode::SYSTEM_BUSY, ResponseCode::SUBSCRIPTION_NOT_LATEST];
    for code in codes {
        cluster.dev().on(PULL).answer(code).times(3);
    }
    cluster.dev().on(PULL).close().times(2);
    all_is_consumed_once(cluster).await?;
    ensure!(cluster.dev().received(PULL) > 11, "the faults were not all met");
    Ok(())
}

pub(crate) async fn a_pull_nobody_answers_is_given_up(cluster: &Cluster) -> Result<()> {
    cluster.dev().on(PULL).forget().times(1);
    all_is_consumed_once(cluster).await
}

pub(crate) async fn offsets_that_cannot_be_read_or_recorded_are_tried_again(cluster: &Cluster) -> Result<()> {
    cluster.dev().on(RequestCode::QUERY_CONSUMER_OFFSET).answer(ResponseCode::SYSTEM_ERROR).times(4);
    cluster.dev().on(RequestCode::UPDATE_CONSUMER_OFFSET).answer(ResponseCode::SYSTEM_ERROR).times(2);
    cluster.dev().on(RequestCode::UPDATE_CONSUMER_OFFSET).close().times(1);
    all_is_consumed_once(cluster).await
}

pub(crate) async fn offsets_a_broker_lost_are_recorded_in_the_end(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    // As real brokers do with offsets that are the first of their group and come at once.
    let update = RequestCode::UPDATE_CONSUMER_OFFSET;
    cluster.dev().on(update).answer(ResponseCode::SUCCESS);
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 100, move |index| varied(&of_topic, index)).await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    eventually(SOON, async || {
        ensure!(cluster.dev().received(update) >= 5, "{} offsets recorded", cluster.dev().received(update));
        Ok(())
    })
    .await?;
    cluster.dev().clear_faults();
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_broker_that_misses_heartbeats_gets_them_again(cluster: &Cluster) -> Result<()> {
    cluster.dev().on(RequestCode::HEART_BEAT).answer(ResponseCode::SYSTEM_ERROR).times(3);
    cluster.dev().on(PULL).answer(ResponseCode::SUBSCRIPTION_NOT_EXIST).times(2);
    all_is_consumed_once(cluster).await
}

pub(crate) async fn members_and_routes_that_are_not_told_are_asked_for_again(cluster: &Cluster) -> Result<()> {
    let list = RequestCode::GET_CONSUMER_LIST_BY_GROUP;
    cluster.dev().on(list).answer(ResponseCode::SYSTEM_ERROR).times(2);
    cluster.dev().on(list).close().times(1);
    all_is_consumed_once(cluster).await?;
    // A consumer that starts without any route finds it later.
    let (topic, inbox) = (cluster.topic(2).await?, Inbox::new());
    let client = cluster.client().await?;
    cluster.dev().on(RequestCode::GET_ROUTEINFO_BY_TOPIC).answer(ResponseCode::SYSTEM_ERROR).times(4);
    let consumer = cluster.consumer(&random_name("group")).client(client.clone()).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let producer = eventually(SOON, async || cluster.producer().await).await?;
    let receipt = producer.send(Message::new(&topic, "body")).await?;
    inbox.has_each_once([&receipt.message_id], SOON).await?;
    consumer.shutdown().await?;
    client.shutdown(client.request_deadline()).await;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_broker_that_closes_every_pull_is_not_stormed(cluster: &Cluster) -> Result<()> {
    let (topic, inbox) = (cluster.topic(4).await?, Inbox::new());
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        ensure!(consumer.assigned_queues().len() == 5, "owns {:?}", consumer.assigned_queues());
        Ok(())
    })
    .await?;
    cluster.dev().on(PULL).close();
    let producer = cluster.producer().await?;
    let (before, began) = (cluster.dev().received(PULL), Instant::now());
    let receipt = producer.send(Message::new(&topic, "body")).await?;
    // How often it tries is what is measured.
    sleep(Duration::from_secs(3)).await;
    let pulls = cluster.dev().received(PULL) - before;
    ensure!(pulls < 60, "{pulls} pulls of five queues in {:?}", began.elapsed());
    cluster.dev().clear_faults();
    inbox.has_each_once([&receipt.message_id], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_offset_outside_the_queue_is_corrected(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let start = || cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start();
    let of_topic = topic.clone();
    send_from(1, &producer, 10, move |index| varied(&of_topic, index)).await?;
    let consumer = start().await?;
    inbox.has(10, SOON).await?;
    consumer.shutdown().await?;
    let of_topic = topic.clone();
    send_from(1, &producer, 100, move |index| varied(&of_topic, 1000 + index)).await?;
    cluster.dev().trim(&topic, 0, 60);
    let consumer = start().await?;
    inbox.has(10 + 50, SOON).await?;
    inbox.expect_no_repetition()?;
    let mut offsets: Vec<_> = inbox.messages().iter().map(StoredMessage::queue_offset).collect();
    offsets.sort_unstable();
    let expected: Vec<_> = (0..10).chain(60..110).collect();
    ensure!(offsets == expected, "consumed {offsets:?}");
    cluster.expect_recorded(&group, &topic, 110).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_message_the_broker_does_not_take_back_is_retried_here(cluster: &Cluster) -> Result<()> {
    cluster.at("a broker that is busy");
    is_retried_here(cluster, |dev| {
        dev.on(SEND_BACK).answer(ResponseCode::SYSTEM_BUSY).times(1);
    })
    .await?;
    cluster.at("a broker that takes nothing");
    is_retried_here(cluster, |dev| {
        dev.on(SEND_BACK).answer(ResponseCode::SYSTEM_ERROR).times(1);
        dev.on(SEND).answer(ResponseCode::SERVICE_NOT_AVAILABLE).times(1);
    })
    .await
}

async fn is_retried_here(cluster: &Cluster, begin_faults: impl Fn(&DevCluster)) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let queue = MessageQueue::new(topic.as_str(), "broker-a", 0);
    producer.send(Message::new(&topic, "before")).await?;
    let failing = producer.send(Message::new(&topic, "body").tag("fails-once")).await?;
    producer.send(Message::new(&topic, "behind")).await?;
    begin_faults(cluster.dev());
    let goes = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (inbox.clone(), goes.clone());
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all());
    let consumer = consumer
        .listener(move |message: StoredMessage| {
            let fails = message.tag() == Some("fails-once") && counted.fetch_add(1, Ordering::SeqCst) == 0;
            kept.keep(message);
            async move { if fails { Err("not yet") } else { Ok(()) } }
        })
        .start()
        .await?;
    inbox.has(3, SOON).await?;
    // While it is not done, the offset does not pass it, whatever is done behind it.
    let recorded = || cluster.dev().committed_offset(&group, &queue);
    eventually(SOON, async || {
        ensure!(recorded() >= Some(1), "recorded is {:?}", recorded());
        Ok(())
    })
    .await?;
    let mut goes_on = true;
    while goes_on {
        let recorded = recorded();
        goes_on = inbox.len() < 4;
        ensure!(!goes_on || recorded <= Some(failing.queue_offset), "recorded {recorded:?} while it was not done");
        sleep(Duration::from_millis(50)).await;
    }
    let again = inbox.messages().pop();
    let again = again.map(|message| (message.message_id().into_owned(), message.reconsume_times()));
    ensure!(again == Some((failing.message_id.clone(), 0)), "consumed again was {again:?}");
    cluster.expect_recorded(&group, &topic, 3).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_message_the_broker_refuses_to_take_back_is_sent_to_the_retry_topic(
    cluster: &Cluster,
) -> Result<()> {
    cluster.dev().on(SEND_BACK).answer(ResponseCode::SYSTEM_ERROR);
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let kept = inbox.clone();
    let config = PushConfig { start_at: StartAt::First, max_reconsume_times: Some(2), ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer
        .listener(move |message: StoredMessage| {
            let (tag, times) = (message.tag().map(str::to_owned), message.reconsume_times());
            kept.keep(message);
            async move {
                match tag.as_deref() {
                    Some("always") => Outcome::failed("never"),
                    Some("once") if times == 0 => Outcome::failed("not yet"),
                    Some("at-once") => Outcome::failed("no use").dead_letter(),
                    _ => Outcome::done(),
                }
            }
        })
        .start()
        .await?;
    let send = async |tag: &'static str| {
        let message = Message::new(&topic, tag).tag(tag).key("key").property("colour", "blue").flag(7);
        producer.send(message).await
    };
    let (once, always, at_once) = (send("once").await?, send("always").await?, send("at-once").await?);
    // Once and again; three times; once.
    inbox.has(2 + 3 + 1, SOON).await?;
    let dead = eventually(SOON, async || {
        let dead = cluster.stored(&dlq_topic(&group)).await?;
        ensure!(dead.len() == 2, "{} dead letters", dead.len());
        Ok(dead)
    })
    .await?;
    let mut ids: Vec<_> = dead.iter().map(|message| message.message_id().into_owned()).collect();
    ids.sort();
    let mut expected = [always.message_id.clone(), at_once.message_id];
    expected.sort();
    ensure!(ids == expected, "dead are {ids:?}, not {expected:?}");
    let came: Vec<_> = inbox.messages().into_iter().filter(|message| message.message_id() == once.message_id).collect();
    let times: Vec<_> = came.iter().map(StoredMessage::reconsume_times).collect();
    ensure!(times == [0, 1], "reconsume times were {times:?}");
    let (first, again) = (&came[0], &came[1]);
    ensure!(again.topic() == topic && again.body() == first.body() && again.flag() == 7, "came again as {again:?}");
    ensure!(again.property("colour") == Some("blue") && again.keys().eq(["key"]), "came again as {again:?}");
    let origin = again.property("ORIGIN_MESSAGE_ID");
    ensure!(origin == Some(first.offset_id().as_str()), "it says it came from {origin:?}, not {}", first.offset_id());
    cluster.expect_recorded(&group, &topic, 3).await?;
    cluster.expect_recorded(&group, &retry_topic(&group), 3).await?;
    ensure!(inbox.len() == 6, "consumed {} times", inbox.len());
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_broker_that_keeps_correcting_offsets_is_not_stormed(cluster: &Cluster) -> Result<()> {
    let (topic, inbox) = (cluster.topic(1).await?, Inbox::new());
    let producer = cluster.producer().await?;
    cluster.dev().on(PULL).process_first().answer(ResponseCode::PULL_OFFSET_MOVED);
    // Nothing is held, so that corrections come at once.
    let config = PushConfig { start_at: StartAt::First, long_poll: Duration::from_millis(1), ..Default::default() };
    let consumer = cluster.consumer(&random_name("group")).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        ensure!(cluster.dev().received(PULL) > 0, "nothing is pulled");
        Ok(())
    })
    .await?;
    let (before, began) = (cluster.dev().received(PULL), Instant::now());
    // How often it tries is what is measured.
    sleep(Duration::from_secs(3)).await;
    let pulls = cluster.dev().received(PULL) - before;
    ensure!((1..40).contains(&pulls), "{pulls} pulls of two queues in {:?}", began.elapsed());
    cluster.dev().clear_faults();
    let receipt = producer.send(Message::new(&topic, "body")).await?;
    inbox.has_each_once([&receipt.message_id], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn the_failed_messages_of_a_call_are_sent_back_together(cluster: &Cluster) -> Result<()> {
    const COUNT: usize = 16;
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let messages = (0..COUNT).map(|index| Message::new(&topic, index.to_string())).collect();
    producer.send_batch(messages).await?;
    // Each waits 5 s for its answer: one after the other they would take longer than this waits for them.
    cluster.dev().on(SEND_BACK).forget().times(COUNT);
    let config = PushConfig { start_at: StartAt::First, consume_batch: COUNT, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let listener = |_: Vec<StoredMessage>| async { Outcome::failed("not today").dead_letter() };
    let before = cluster.dev().received(SEND_BACK);
    let consumer = consumer.batch_listener(listener).start().await?;
    eventually(SOON, async || {
        let asked = cluster.dev().received(SEND_BACK) - before;
        ensure!(asked == u64::try_from(COUNT)?, "{asked} of {COUNT} sent back");
        Ok(())
    })
    .await?;
    eventually(SOON, async || {
        let dead = cluster.dev().record_count(&dlq_topic(&group));
        ensure!(dead == COUNT, "{dead} of {COUNT} dead letters");
        Ok(())
    })
    .await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}
