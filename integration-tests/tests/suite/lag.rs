//! How far a group is behind.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_consumer::{Error, Filter, Lag, PopConfig, PopConsumer, PullConfig, PullConsumer, StartAt};
use std::{collections::BTreeMap, time::Duration};

/// Fails unless the lag is `total`, and adds up queue by queue.
fn expect(lag: &Lag, topic: &str, total: u64) -> Result<()> {
    ensure!(lag.total == total, "{} messages behind, expected {total}: {lag:?}", lag.total);
    let queues: BTreeMap<_, _> = lag
        .queues
        .iter()
        .filter(|queue| *queue.queue.topic == *topic)
        .map(|queue| (queue.queue.queue_id, queue))
        .collect();
    ensure!(queues.len() == 4, "told are {queues:?}");
    let sum: i64 = queues.values().map(|queue| queue.max_offset - queue.offset).sum();
    ensure!(u64::try_from(sum)? == total, "the queues are {sum} behind: {queues:?}");
    ensure!(lag.queues.iter().map(|queue| queue.lag).sum::<u64>() == total, "the lags do not add up: {lag:?}");
    Ok(())
}

pub(crate) async fn push_and_pull_consumers_tell_how_far_their_group_is_behind(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let send = async |count: usize| {
        let of_topic = topic.clone();
        send_from(1, &producer, count, move |index| varied(&of_topic, index)).await
    };
    send(40).await?;
    let one = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    inbox.has(40, SOON).await?;
    eventually(SOON, async || expect(&one.lag().await?, &topic, 0)).await?;
    cluster.at("suspended, with half of the queues");
    let two = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    eventually(SOON, async || {
        let count = two.assigned_queues().iter().filter(|queue| *queue.topic == *topic).count();
        ensure!(count == 2, "the second member has {count} queues");
        Ok(())
    })
    .await?;
    one.suspend();
    two.suspend();
    // A pull that was under way may still bring something.
    let before = inbox.len();
    send(10).await?;
    eventually(SOON, async || {
        let behind = 10 - u64::try_from(inbox.len() - before)?;
        expect(&one.lag().await?, &topic, behind)?;
        expect(&two.lag().await?, &topic, behind)
    })
    .await?;
    one.resume();
    two.resume();
    inbox.has(50, SOON).await?;
    eventually(SOON, async || expect(&one.lag().await?, &topic, 0)).await?;
    two.shutdown().await?;
    one.shutdown().await?;
    ensure!(matches!(one.lag().await, Err(Error::ShutDown)), "a consumer that is shut down tells its lag");

    cluster.at("polled");
    send(12).await?;
    let config = PullConfig { auto_commit: false, ..Default::default() };
    let puller = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let puller = puller.subscribe(&topic, Filter::all()).start().await?;
    eventually(SOON, async || expect(&puller.lag().await?, &topic, 12)).await?;
    let mut polled = 0;
    eventually(SOON, async || {
        polled += puller.poll(Duration::from_millis(200)).await?.len();
        ensure!(polled == 12, "{polled} messages polled");
        Ok(())
    })
    .await?;
    puller.commit().await?;
    expect(&puller.lag().await?, &topic, 0)?;
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn pop_consumers_tell_how_far_their_group_is_behind(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    send_from(1, &producer, 20, move |index| varied(&of_topic, index)).await?;
    let config = PopConfig { start_at: StartAt::First, ..Default::default() };
    let popper = PopConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let popper = popper.subscribe(&topic, Filter::all()).start().await?;
    eventually(SOON, async || expect(&popper.lag().await?, &topic, 20)).await?;
    let mut popped = 0;
    eventually(SOON, async || {
        let messages = popper.receive(32, Duration::from_secs(60)).await?;
        popper.ack_all(&messages).await?;
        popped += messages.len();
        ensure!(popped == 20, "{popped} messages popped");
        Ok(())
    })
    .await?;
    eventually(SOON, async || expect(&popper.lag().await?, &topic, 0)).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
