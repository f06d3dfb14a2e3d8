//! The members of a group share the queues.

use crate::{
    cluster::{Cluster, random_name},
    inbox::{Inbox, expect_none, missing},
    parcel::{Sent, varied},
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{MessageQueue, message::names::retry_topic};
use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
use rocketmq_producer::Producer;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

/// How long a listener takes: some are always under way when queues change hands.
const WORK: Duration = Duration::from_millis(30);

/// One member, and what it was given.
struct Member {
    consumer: PushConsumer,
    inbox: Inbox,
}

async fn join(cluster: &Cluster, group: &str, topic: &str) -> Result<Member> {
    let inbox = Inbox::new();
    let kept = inbox.clone();
    let listener = move |message: StoredMessage| {
        let kept = kept.clone();
        async move {
            sleep(WORK).await;
            kept.keep(message);
            Ok::<_, String>(())
        }
    };
    let consumer = cluster.consumer(group).subscribe(topic, Filter::all()).listener(listener).start().await?;
    Ok(Member { consumer, inbox })
}

/// Waits until every queue of the topic, and the one of the retry topic, belongs to exactly one member, and no member's
/// share is larger than another's by more than one.
async fn every_queue_has_one_owner(members: &[&Member], queues: &[MessageQueue]) -> Result<()> {
    let group = members[0].consumer.group().to_owned();
    eventually(SOON, async || {
        let shares: Vec<Vec<MessageQueue>> = members.iter().map(|member| member.consumer.assigned_queues()).collect();
        let mut owners: BTreeMap<&MessageQueue, usize> = BTreeMap::new();
        for queue in shares.iter().flatten() {
            *owners.entry(queue).or_default() += 1;
        }
        let of_retry_topic = owners.iter().filter(|(queue, _)| *queue.topic == *retry_topic(&group)).count();
        ensure!(owners.values().all(|owners| *owners == 1), "a queue has two owners: {shares:?}");
        ensure!(queues.iter().all(|queue| owners.contains_key(queue)), "a queue has no owner: {shares:?}");
        ensure!(of_retry_topic == 1, "{of_retry_topic} queues of the retry topic have an owner");
        let of_topic = |share: &Vec<MessageQueue>| share.iter().filter(|queue| queues.contains(queue)).count();
        let sizes: Vec<_> = shares.iter().map(of_topic).collect();
        let (least, most) = (sizes.iter().min(), sizes.iter().max());
        ensure!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "the shares are {sizes:?}");
        Ok(())
    })
    .await
}

/// Sends until told to stop.
fn keep_sending(producer: Producer, topic: String, stop: CancellationToken) -> JoinHandle<Result<Sent>> {
    #[expect(clippy::disallowed_methods, reason = "the scenario awaits the task")]
    tokio::spawn(async move {
        let mut sent = Sent::new();
        while !stop.is_cancelled() {
            for _ in 0..5 {
                let message = varied(&topic, sent.len());
                sent.insert(producer.send(message.clone()).await?.message_id, message);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(sent)
    })
}

pub(crate) async fn two_then_three_then_one_member_lose_nothing(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(8).await?, random_name("group"));
    let queues = cluster.queues(&topic).await?;
    let (producer, stop) = (cluster.producer().await?, CancellationToken::new());
    let sending = keep_sending(producer.clone(), topic.clone(), stop.clone());
    cluster.at("two members");
    let (one, two) = (join(cluster, &group, &topic).await?, join(cluster, &group, &topic).await?);
    every_queue_has_one_owner(&[&one, &two], &queues).await?;
    cluster.at("three members");
    let three = join(cluster, &group, &topic).await?;
    every_queue_has_one_owner(&[&one, &two, &three], &queues).await?;
    three.inbox.has(20, SOON).await?;
    cluster.at("the second leaves");
    two.consumer.shutdown().await?;
    every_queue_has_one_owner(&[&one, &three], &queues).await?;
    cluster.at("the third is dropped");
    let Member { consumer, inbox: of_three } = three;
    drop(consumer);
    every_queue_has_one_owner(&[&one], &queues).await?;
    cluster.at("the last one consumes the rest");
    stop.cancel();
    let sent = sending.await??;
    let (of_one, of_two) = (one.inbox.clone(), two.inbox.clone());
    let consumed =
        || -> BTreeSet<String> { [&of_one, &of_two, &of_three].iter().flat_map(|inbox| inbox.ids()).collect() };
    eventually(SOON, async || expect_none(&missing(sent.keys(), &consumed()), "not consumed")).await?;
    // Only the member that went without a word leaves messages done and not recorded.
    for inbox in [&of_one, &of_two, &of_three] {
        inbox.expect_no_repetition()?;
    }
    let twice: Vec<_> = of_one.ids().intersection(&of_two.ids()).cloned().collect();
    expect_none(&twice, "consumed by two members that are well")?;
    one.consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    Ok(producer.shutdown().await?)
}
