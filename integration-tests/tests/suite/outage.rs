//! Servers that go away, and come back.

use crate::{
    child::ConsumerProcess,
    cluster::{Cluster, random_name},
    inbox::{Inbox, expect_none, missing},
    parcel::{Sent, varied},
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_consumer::Filter;
use rocketmq_producer::{Producer, ProducerConfig};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How soon consumption is to resume once the broker is back.
const RESUMED: Duration = Duration::from_secs(35);
/// How long a broker that could be back at once stays away.
const OUTAGE: Duration = Duration::from_secs(5);

/// Sends one message after the other, whatever becomes of them, and keeps what was acknowledged.
#[derive(Clone, Default)]
struct Sending {
    acknowledged: Arc<Mutex<Sent>>,
    failed: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Sending {
    fn start(&self, producer: Producer, topic: String) -> JoinHandle<()> {
        let sending = self.clone();
        #[expect(clippy::disallowed_methods, reason = "the scenario awaits the task")]
        tokio::spawn(async move {
            for index in 0.. {
                if sending.stop.is_cancelled() {
                    return;
                }
                let message = varied(&topic, index);
                match producer.send(message.clone()).await {
                    Ok(receipt) => _ = sending.lock().insert(receipt.message_id, message),
                    Err(_) => _ = sending.failed.fetch_add(1, Ordering::Relaxed),
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn acknowledged(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sent> {
        self.acknowledged.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(crate) async fn a_broker_that_dies_and_comes_back_loses_nothing_acknowledged(cluster: &Cluster) -> Result<()> {
    let (topic, inbox) = (cluster.topic(4).await?, Inbox::new());
    let config = ProducerConfig { send_timeout: Duration::from_secs(1), ..Default::default() };
    let (producer, sending) = (cluster.producer_with(config).await?, Sending::default());
    let (group, other_group) = (random_name("group"), random_name("group"));
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let process = ConsumerProcess::start(cluster.name_server(), &topic, &other_group, Duration::ZERO)?;
    let sender = sending.start(producer.clone(), topic.clone());
    cluster.at("before the outage");
    inbox.has(100, SOON).await?;
    eventually(SOON, async || {
        ensure!(process.done()?.len() > 100, "the other process does not consume");
        Ok(())
    })
    .await?;

    cluster.at("the outage");
    cluster.kill_broker().await?;
    let (began, cpu) = (Instant::now(), process.cpu());
    let failed = sending.failed.load(Ordering::Relaxed);
    sleep(OUTAGE).await;
    ensure!(sending.failed.load(Ordering::Relaxed) > failed, "sends do not fail while there is no broker");
    if let Some((before, after)) = cpu.zip(process.cpu()) {
        let (used, of) = (after.saturating_sub(before), began.elapsed());
        ensure!(used < of / 5, "a consumer without a broker used {used:?} of processor time in {of:?}");
    }

    cluster.at("the broker comes back");
    cluster.start_broker().await?;
    let (back, known) = (Instant::now(), sending.acknowledged());
    eventually(RESUMED, async || {
        let consumed = inbox.ids();
        let newer =
            sending.acknowledged().into_iter().filter(|id| !known.contains(id)).any(|id| consumed.contains(&id));
        if newer { Ok(()) } else { bail!("nothing that was sent since is consumed") }
    })
    .await?;
    ensure!(back.elapsed() < RESUMED, "consumption resumed after {:?}", back.elapsed());

    cluster.at("the rest");
    let enough = sending.acknowledged().len() + 100;
    eventually(SOON, async || {
        let acknowledged = sending.acknowledged().len();
        ensure!(acknowledged >= enough, "{acknowledged} of {enough} sends acknowledged");
        Ok(())
    })
    .await?;
    sending.stop.cancel();
    sender.await?;
    let sent = sending.acknowledged();
    inbox.has_all(&sent, RESUMED).await?;
    let of_process = async || expect_none(&missing(&sent, &process.done_once()?), "not consumed by the other process");
    eventually(RESUMED, of_process).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn without_a_name_server_everything_goes_on(cluster: &Cluster) -> Result<()> {
    let (topic, inbox, group) = (cluster.topic(4).await?, Inbox::new(), random_name("group"));
    let producer = cluster.producer().await?;
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    producer.send(varied(&topic, 0)).await?;
    inbox.has(1, SOON).await?;
    cluster.kill_name_server().await?;
    let result = goes_on(cluster, &producer, &topic, &inbox).await;
    cluster.at("the name server comes back");
    cluster.start_name_server().await?;
    result?;
    let late = cluster.producer().await?;
    late.send(varied(&topic, 1)).await?;
    late.shutdown().await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

async fn goes_on(cluster: &Cluster, producer: &Producer, topic: &str, inbox: &Inbox) -> Result<()> {
    cluster.at("sending without a name server");
    let of_topic = topic.to_owned();
    let sent = send_from(8, producer, 500, move |index| varied(&of_topic, index)).await?;
    inbox.has_all(sent.keys(), SOON).await?;
    inbox.expect_no_repetition()?;
    let began = Instant::now();
    let builder = Producer::builder("late").name_servers([cluster.name_server()]);
    crate::name_server::expect_no_name_server(builder.start().await.err())?;
    ensure!(began.elapsed() < Duration::from_secs(5), "a start without a name server took {:?}", began.elapsed());
    Ok(())
}
