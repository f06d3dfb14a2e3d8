//! Clients that come and go leave nothing behind.

use crate::{
    child::this_program,
    cluster::{Cluster, random_name},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_producer::{Producer, ProducerConfig};
use std::{process::Stdio, time::Duration};
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};

const ROUNDS: usize = 20;
/// How many start and stop at the same time.
const AT_ONCE: usize = 10;
/// The round after which nothing may grow any more.
const SETTLED: usize = 2;

/// In a process of its own: the files of this one belong to other scenarios, too.
pub(crate) async fn two_hundred_producers_and_consumers_leave_nothing_behind(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(4).await?;
    let mut command = this_program(&["start-and-stop", cluster.name_server(), &topic])?;
    let child = command.stderr(Stdio::piped()).spawn()?;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// What a process holds.
#[derive(Debug)]
struct Held {
    tasks: usize,
    /// Where the system tells.
    files: Option<usize>,
    resident_kib: Option<usize>,
}

impl Held {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").ok();
        let resident = status.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("VmRSS:")));
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            files: std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            resident_kib: resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()),
        }
    }
}

/// The child's part.
pub(crate) async fn start_and_stop(name_server: &str, topic: &str) -> Result<()> {
    let groups: Vec<_> = (0..AT_ONCE).map(|_| random_name("group")).collect();
    let mut settled = None;
    for round in 0..ROUNDS {
        let mut running = JoinSet::new();
        for (index, group) in groups.iter().cloned().enumerate() {
            let (name_server, topic) = (name_server.to_owned(), topic.to_owned());
            running.spawn(async move { one_of_each(&name_server, &topic, &group, index % 2 == 0).await });
        }
        while let Some(result) = running.join_next().await {
            result?.with_context(|| format!("in round {round}"))?;
        }
        if round + 1 == SETTLED {
            settled = Some(Held::now());
        }
    }
    let settled = settled.context("there is a settled round")?;
    // Those that were dropped end soon after.
    eventually(Duration::from_secs(10), async || {
        let now = Held::now();
        let told = || format!("{settled:?} after {SETTLED} rounds, {now:?} after {ROUNDS}");
        ensure!(now.tasks <= 1, "tasks are left: {}", told());
        ensure!(now.files <= settled.files, "files are left: {}", told());
        let grown = now.resident_kib.zip(settled.resident_kib).map_or(0, |(now, settled)| now.saturating_sub(settled));
        ensure!(grown < 16 * 1024, "memory has grown: {}", told());
        Ok(())
    })
    .await
}

async fn one_of_each(name_server: &str, topic: &str, group: &str, in_order: bool) -> Result<()> {
    let config = ProducerConfig { retries: 20, send_timeout: SOON, ..Default::default() };
    let producer = Producer::builder(group).name_servers([name_server]).config(config).start().await?;
    let (sender, mut consumed) = mpsc::channel(64);
    let consumer = PushConsumer::builder(group)
        .name_servers([name_server])
        .subscribe(topic, Filter::all())
        .config(PushConfig { start_at: StartAt::First, ..Default::default() })
        .listener(move |_: StoredMessage| {
            // The first one is waited for; nobody needs the others.
            let _ = sender.try_send(());
            std::future::ready(Ok::<_, String>(()))
        })
        .start()
        .await?;
    producer.send(Message::new(topic, vec![0; 1024])).await?;
    tokio::time::timeout(SOON, consumed.recv()).await.context("nothing is consumed")?;
    if in_order {
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}
