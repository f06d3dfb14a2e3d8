//! A group goes on where it stopped.

use crate::{
    child::ConsumerProcess,
    cluster::{Cluster, random_name},
    inbox::{Inbox, expect_none, missing},
    parcel::{Sent, varied},
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_consumer::Filter;
use std::time::Duration;

/// How long the process takes for a message: long enough for some to be in hand, and many to be left, when the signal
/// comes.
const WORK: Duration = Duration::from_millis(50);

pub(crate) async fn a_restarted_consumer_continues_where_it_stopped(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let inbox = Inbox::new();
    let mut sent = Sent::new();
    for round in 0..3 {
        let start = || cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start();
        let consumer = start().await?;
        let of_topic = topic.clone();
        sent.extend(send_from(8, &producer, 300, move |index| varied(&of_topic, round * 1000 + index)).await?);
        // Stopped in the middle of it, in two rounds of three.
        let enough = if round == 2 { sent.len() } else { sent.len() - 200 };
        inbox.has(enough, SOON).await?;
        consumer.shutdown().await?;
        inbox.expect_no_repetition()?;
        cluster.expect_recorded(&group, &topic, inbox.len()).await?;
    }
    inbox.has_each_once(sent.keys(), SOON).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn sigterm_under_load_leaves_nothing_done_unrecorded(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let mut process = ConsumerProcess::start(cluster.name_server(), &topic, &group, WORK)?;
    cluster.at("sending");
    let of_topic = topic.clone();
    let sent = send_from(16, &producer, 6000, move |index| varied(&of_topic, index)).await?;
    cluster.at("the process consumes");
    eventually(SOON, async || {
        let done = process.done()?.len();
        ensure!(done > 300, "{done} messages done by the process");
        Ok(())
    })
    .await?;
    cluster.at("the process is to end");
    process.terminate(Duration::from_secs(20)).await?;
    let done = process.done_once()?;
    ensure!(process.done()?.len() == done.len(), "the process had messages twice");
    ensure!(done.len() < sent.len(), "the process was done with everything before the signal came");
    cluster.expect_recorded(&group, &topic, done.len()).await?;
    cluster.at("the next one consumes the rest");
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let rest = missing(sent.keys(), &done);
    inbox.has_each_once(&rest, SOON).await?;
    let again: Vec<_> = inbox.ids().intersection(&done).cloned().collect();
    expect_none(&again, "done by the process and consumed again")?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}
