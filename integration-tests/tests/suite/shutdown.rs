//! The end: what is in hand is finished, and nothing is begun.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Filter, PopConsumer, PullConsumer, PushConfig, StartAt, StoredMessage};
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::{Error, ProducerConfig};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) async fn a_slow_listener_finishes_and_its_message_is_recorded(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let begun = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (inbox.clone(), begun.clone());
    let config = PushConfig { start_at: StartAt::First, concurrency: 3, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer
        .listener(move |message: StoredMessage| {
            counted.fetch_add(1, Ordering::SeqCst);
            let kept = kept.clone();
            async move {
                sleep(Duration::from_secs(1)).await;
                kept.keep(message);
                Ok::<_, String>(())
            }
        })
        .start()
        .await?;
    for index in 0..20 {
        producer.send(Message::new(&topic, format!("{index}"))).await?;
    }
    eventually(SOON, async || {
        ensure!(begun.load(Ordering::SeqCst) >= 3, "the listener has not begun");
        Ok(())
    })
    .await?;
    consumer.shutdown().await?;
    let done = inbox.len();
    ensure!(done == begun.load(Ordering::SeqCst), "{begun:?} begun, {done} finished");
    ensure!(done < 20, "shutting down waited for messages that had not begun");
    cluster.expect_recorded(&group, &topic, done).await?;
    // What had not begun comes to the next one, and nothing else does.
    let next = Inbox::new();
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(next.listener()).start().await?;
    next.has(20 - done, SOON).await?;
    next.expect_no_repetition()?;
    ensure!(next.ids().is_disjoint(&inbox.ids()), "consumed again although it was recorded");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_listener_that_takes_too_long_is_reported_and_its_message_comes_again(
    cluster: &Cluster,
) -> Result<()> {
    let (topic, group, begun) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let shutdown_timeout = Duration::from_millis(500);
    let config = PushConfig { start_at: StartAt::First, shutdown_timeout, ..Default::default() };
    let kept = begun.clone();
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer
        .listener(move |message: StoredMessage| {
            kept.keep(message);
            std::future::pending::<Result<(), String>>()
        })
        .start()
        .await?;
    let id = producer.send(Message::new(&topic, "body")).await?.message_id;
    begun.has(1, SOON).await?;
    let start = Instant::now();
    match consumer.shutdown().await {
        Err(rocketmq_consumer::Error::Unfinished { messages: 1, queues: 0, .. }) => {}
        other => bail!("shutting down came to {other:?}, expected one unfinished message"),
    }
    let took = start.elapsed();
    ensure!(took >= shutdown_timeout && took < Duration::from_secs(5), "shutting down took {took:?}");
    let again = consumer.shutdown().await;
    let is_same = matches!(again, Err(rocketmq_consumer::Error::Unfinished { messages: 1, queues: 0, .. }));
    ensure!(is_same, "a second shutdown came to {again:?}, which is not what the first came to");
    let next = Inbox::new();
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(next.listener()).start().await?;
    next.has_each_once([&id], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_signal_shuts_everything_down(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let config = PushConfig { start_at: StartAt::First, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let puller = PullConsumer::builder(random_name("group")).name_servers([cluster.name_server()]);
    let puller = puller.subscribe(&topic, Filter::all()).start().await?;
    let popper = PopConsumer::builder(random_name("group")).name_servers([cluster.name_server()]);
    let popper = popper.subscribe(&topic, Filter::all()).start().await?;
    let signal = CancellationToken::new();
    let waiting = async {
        tokio::try_join!(
            consumer.shutdown_on(signal.cancelled()),
            puller.shutdown_on(signal.cancelled()),
            popper.shutdown_on(signal.cancelled()),
        )?;
        anyhow::Ok(())
    };
    let sending = producer.shutdown_on(signal.cancelled());
    let working = async {
        // All goes on until the signal comes.
        let id = producer.send(Message::new(&topic, "body")).await?.message_id;
        inbox.has_each_once([&id], SOON).await?;
        signal.cancel();
        anyhow::Ok(())
    };
    let (waited, sent, worked) = tokio::join!(waiting, sending, working);
    waited?;
    sent?;
    worked?;
    cluster.expect_recorded(&group, &topic, 1).await?;
    let late = producer.send(Message::new(&topic, "late")).await;
    ensure!(matches!(late, Err(Error::ShutDown)), "sent after the signal: {late:?}");
    ensure!(matches!(puller.poll(SOON).await, Err(rocketmq_consumer::Error::ShutDown)), "polled after the signal");
    // One that has been shut down waits for no signal.
    Ok(consumer.shutdown_on(std::future::pending::<()>()).await?)
}

pub(crate) async fn a_producer_that_is_shut_down_sends_nothing_more(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let producer = cluster.producer().await?;
    // What is queued goes out first.
    let mut queued = Vec::new();
    for index in 0..50 {
        queued.push(producer.send_async(Message::new(&topic, format!("{index}"))).await?);
    }
    let receipts = async {
        for receipt in queued {
            receipt.await?;
        }
        Ok::<_, Error>(())
    };
    let (shut_down, received) = tokio::join!(producer.shutdown(), receipts);
    shut_down?;
    received?;
    ensure!(cluster.stored(&topic).await?.len() == 50, "not everything queued is stored");
    let message = || Message::new(&topic, "late");
    ensure!(matches!(producer.send(message()).await, Err(Error::ShutDown)), "sent after the shutdown");
    ensure!(matches!(producer.send_async(message()).await, Err(Error::ShutDown)), "queued after the shutdown");
    ensure!(matches!(producer.send_oneway(message()).await, Err(Error::ShutDown)), "sent one-way after the shutdown");
    ensure!(matches!(producer.send_batch(vec![message()]).await, Err(Error::ShutDown)), "sent after the shutdown");
    ensure!(producer.clone().shutdown().await.is_ok(), "a second shutdown is an error");
    ensure!(cluster.stored(&topic).await?.len() == 50, "something was stored after the shutdown");
    Ok(())
}

pub(crate) async fn sends_that_do_not_end_are_reported(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let shutdown_timeout = Duration::from_millis(300);
    let config = ProducerConfig { shutdown_timeout, send_timeout: SOON, ..Default::default() };
    let producer = cluster.producer_with(config).await?;
    cluster.dev().on(RequestCode::SEND_MESSAGE_V2).forget();
    let (message, sending) = (Message::new(&topic, "body"), producer.clone());
    let send = async { sending.send(message).await };
    let shut_down = async {
        eventually(SOON, async || {
            ensure!(cluster.dev().received(RequestCode::SEND_MESSAGE_V2) == 1, "not sent yet");
            Ok(())
        })
        .await?;
        match producer.shutdown().await {
            Err(Error::Unfinished { sends: 1 }) => Ok(()),
            other => bail!("shutting down came to {other:?}, expected one unfinished send"),
        }
    };
    let began = Instant::now();
    let (sent, shut_down) = tokio::join!(send, shut_down);
    shut_down?;
    let again = producer.shutdown().await;
    ensure!(matches!(again, Err(Error::Unfinished { sends: 1 })), "shutting down again came to {again:?}");
    // It neither waits for its own timeout nor connects once more.
    ensure!(began.elapsed() < SOON / 3, "the send went on for {:?}", began.elapsed());
    ensure!(cluster.dev().received(RequestCode::SEND_MESSAGE_V2) == 1, "sent again after the shutdown");
    ensure!(sent.as_ref().is_err_and(Error::may_have_happened), "the send came to {sent:?}");
    Ok(())
}
