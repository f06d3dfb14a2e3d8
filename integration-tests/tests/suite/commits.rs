//! Offsets that a broker says it keeps, and does not.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::{RequestCode, ResponseCode};
use rocketmq_producer::Select;
use std::{collections::BTreeSet, convert::Infallible, time::Duration};
use tokio::time::sleep;

const UPDATE: RequestCode = RequestCode::UPDATE_CONSUMER_OFFSET;

/// Commits offsets only when a queue is revoked, and at the end.
fn rarely() -> PushConfig {
    let never = Duration::from_secs(3600);
    PushConfig { start_at: StartAt::First, commit_interval: never, ..Default::default() }
}

fn count_queues(consumer: &PushConsumer, topic: &str) -> usize {
    consumer.assigned_queues().iter().filter(|queue| *queue.topic == *topic).count()
}

/// As real brokers do with offsets that are the first of their group in a topic and arrive together.
pub(crate) async fn an_offset_lost_at_a_revoke_is_committed_again(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        cluster.at(if ordered { "in order" } else { "concurrently" });
        let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
        let producer = cluster.producer().await?;
        let of_topic = topic.clone();
        let sent = send_from(4, &producer, 40, move |index| varied(&of_topic, index)).await?;
        let join = async || {
            let builder = cluster.consumer(&group).config(rarely()).subscribe(&topic, Filter::all());
            let builder = match ordered {
                true => builder.ordered_listener(inbox.listener()),
                false => builder.listener(inbox.listener()),
            };
            builder.start().await
        };
        let one = join().await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        cluster.dev().on(UPDATE).answer(ResponseCode::SUCCESS).times(1);
        let two = join().await?;
        eventually(SOON, async || {
            let shares = [count_queues(&one, &topic), count_queues(&two, &topic)];
            ensure!(shares == [1, 1], "the members have {shares:?} queues");
            Ok(())
        })
        .await?;
        // What the next owner does with the queue shows in what comes of a message that follows.
        let of_topic = topic.clone();
        let more = send_from(4, &producer, 20, move |index| varied(&of_topic, 100 + index)).await?;
        inbox.has_each_once(sent.keys().chain(more.keys()), SOON).await?;
        two.shutdown().await?;
        one.shutdown().await?;
        cluster.expect_recorded(&group, &topic, sent.len() + more.len()).await?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn an_offset_that_is_never_kept_is_reported(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    cluster.dev().on(UPDATE).answer(ResponseCode::SUCCESS);
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 10, move |index| varied(&of_topic, index)).await?;
    let consumer = cluster.consumer(&group).config(rarely()).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    let end = consumer.shutdown().await;
    cluster.dev().clear_faults();
    ensure!(
        matches!(end, Err(rocketmq_consumer::Error::Unfinished { messages: 0, queues: 1.., cause: Some(_) })),
        "offsets that are not kept are not reported: {end:?}"
    );
    Ok(producer.shutdown().await?)
}

/// The next owner of a queue begins when the last one can no longer be waiting for a call.
pub(crate) async fn a_call_that_ends_while_its_queue_moves_is_not_made_twice(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 4, move |index| varied(&of_topic, index)).await?;
    let join = async || {
        // Longer than a call takes, which is longer than it takes to hear of a new member.
        let config = PushConfig { revoke_timeout: Duration::from_secs(4), ..rarely() };
        let inbox = inbox.clone();
        let listener = move |message: StoredMessage| {
            inbox.keep(message);
            async {
                sleep(Duration::from_millis(1500)).await;
                Ok::<_, Infallible>(())
            }
        };
        let builder = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
        builder.listener(listener).start().await
    };
    let one = join().await?;
    inbox.has(sent.len(), SOON).await?;
    let two = join().await?;
    let queues = cluster.queues(&topic).await?;
    eventually(SOON, async || {
        let shares = [count_queues(&one, &topic), count_queues(&two, &topic)];
        ensure!(shares == [1, 1], "the members have {shares:?} queues");
        Ok(())
    })
    .await?;
    // One more in each queue shows that its next owner has begun.
    let mut all: BTreeSet<String> = sent.into_keys().collect();
    for queue in &queues {
        let receipt = producer.send_to(Select::queue(queue), Message::new(&topic, "one more")).await?;
        all.insert(receipt.message_id);
    }
    inbox.has_each_once(&all, SOON).await?;
    two.shutdown().await?;
    one.shutdown().await?;
    inbox.expect_no_repetition()?;
    Ok(producer.shutdown().await?)
}
