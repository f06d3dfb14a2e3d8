//! How poppers wait for messages, and how a broker holds what they ask.

use crate::{
    cluster::{Cluster, random_name},
    popping::{LONG, config, ids, send, start, take},
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{
    MessageQueue,
    protocol::{Notification, PopMessage, Popped},
    remote::{Deadline, RequestCode, ResponseCode},
};
use rocketmq_consumer::{Error, PopConfig};
use std::{collections::BTreeSet, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// How long a wait takes that brings nothing.
const HELD: Duration = Duration::from_secs(2);

pub(crate) async fn one_request_waits_for_many_receivers(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, PopConfig { long_poll: LONG, ..config() }).await?;
    let mut receiving = JoinSet::new();
    for _ in 0..8 {
        let popper = popper.clone();
        receiving.spawn(async move { popper.receive(1, LONG).await });
    }
    let waits = || cluster.dev().received(RequestCode::NOTIFICATION);
    eventually(SOON, async || {
        ensure!(cluster.dev().received(RequestCode::POP_MESSAGE) >= 8 && waits() == 1, "{} wait", waits());
        Ok(())
    })
    .await?;
    let sent: BTreeSet<_> = send(&producer, &topic, 8).await?.into_iter().collect();
    let mut came = BTreeSet::new();
    while let Some(received) = timeout(SOON, receiving.join_next()).await? {
        came.extend(ids(&received??));
    }
    ensure!(came == sent, "other messages came");
    cluster.at("a receiver that gives up leaves nothing that takes messages");
    ensure!(timeout(Duration::from_millis(300), popper.receive(1, LONG)).await.is_err(), "a message came");
    let last = send(&producer, &topic, 1).await?;
    let taken = take(&popper, 1, LONG).await?;
    ensure!(ids(&taken) == last.into_iter().collect() && taken[0].reconsume_times() == 0, "another one came");
    let waiting = popper.receive(1, LONG);
    let (received, ()) = tokio::join!(waiting, async {
        let _ = popper.shutdown().await;
    });
    ensure!(matches!(received, Err(Error::ShutDown)), "came to {received:?}");
    Ok(producer.shutdown().await?)
}

fn raw_pop(queue: &MessageQueue, group: &str, poll: Duration) -> PopMessage {
    PopMessage {
        consumer_group: group.into(),
        topic: queue.topic.clone(),
        queue_id: -1,
        max_messages: 2,
        invisible_time_ms: 60_000,
        poll_time_ms: i64::try_from(poll.as_millis()).unwrap_or(i64::MAX),
        born_time_ms: 0,
        init_mode: 0,
        expression_type: None,
        expression: None,
        order: None,
        attempt_id: None,
        broker_name: Some(queue.broker_name.clone()),
    }
}

fn raw_wait(queue: &MessageQueue, group: &str, poll: Duration) -> Notification {
    let PopMessage { consumer_group, topic, queue_id, poll_time_ms, broker_name, .. } = raw_pop(queue, group, poll);
    Notification {
        consumer_group,
        topic,
        queue_id,
        poll_time_ms,
        born_time_ms: 0,
        order: None,
        attempt_id: None,
        expression_type: None,
        expression: None,
        broker_name,
    }
}

pub(crate) async fn a_broker_holds_pops_and_waits(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    // Its heartbeat makes the group known.
    let popper = start(cluster, &group, &topic, config()).await?;
    let client = popper.client();
    let queue = cluster.queues(&topic).await?.remove(0);
    let pop = async |poll| {
        let (asked_at, request) = (Instant::now(), raw_pop(&queue, &group, poll));
        let popped = client.pop_message(&queue.broker_name, &request, Deadline::after(SOON)).await?;
        Ok::<_, Error>((popped, asked_at.elapsed()))
    };
    let wait = async |poll| {
        let (asked_at, request) = (Instant::now(), raw_wait(&queue, &group, poll));
        let notice = client.pop_notification(&queue.broker_name, &request, Deadline::after(SOON)).await?;
        Ok::<_, Error>((notice.has_messages, asked_at.elapsed()))
    };
    let (popped, took) = pop(Duration::ZERO).await?;
    ensure!(popped == Popped::Nothing(ResponseCode::POLLING_TIMEOUT) && took < HELD, "{popped:?} after {took:?}");
    let (popped, took) = pop(HELD).await?;
    ensure!(popped == Popped::Nothing(ResponseCode::POLLING_TIMEOUT), "{popped:?} after {took:?}");
    ensure!(took > HELD / 2, "held for {took:?}");
    let (notice, took) = wait(Duration::ZERO).await?;
    ensure!(notice == Some(false) && took < HELD, "{notice:?} after {took:?}");
    let (notice, took) = wait(HELD).await?;
    ensure!(notice == Some(false) && took > HELD / 2, "{notice:?} after {took:?}");

    cluster.at("a message comes");
    let later = async {
        sleep(Duration::from_millis(300)).await;
        send(&producer, &topic, 1).await
    };
    let (waited, sent) = tokio::join!(wait(SOON), later);
    let (notice, took) = waited?;
    ensure!(notice == Some(true) && took < SOON / 2, "{notice:?} after {took:?}");
    sent?;
    let (popped, _) = pop(Duration::ZERO).await?;
    let Popped::Found(head, body) = popped else { bail!("{popped:?}") };
    ensure!(head.start_offsets.as_deref() == Some("0 0 0"), "the check points are {:?}", head.start_offsets);
    ensure!(head.message_offsets.as_deref() == Some("0 0 0"), "the offsets are {:?}", head.message_offsets);
    ensure!((head.rest, head.invisible_time_ms) == (Some(0), 60_000), "{head:?}");
    ensure!(head.order_counts.is_none() && !body.is_empty(), "{head:?}");
    let later = async {
        sleep(Duration::from_millis(300)).await;
        send(&producer, &topic, 3).await
    };
    let (popped, sent) = tokio::join!(pop(SOON), later);
    sent?;
    let (popped, took) = popped?;
    let Popped::Found(head, _) = popped else { bail!("{popped:?}") };
    ensure!(head.start_offsets.as_deref() == Some("0 0 1") && took < SOON / 2, "{head:?} after {took:?}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
