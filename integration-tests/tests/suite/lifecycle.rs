//! Clients that come and go leave nothing behind.

use crate::{
    child::this_program,
    cluster::{Cluster, random_name},
    control,
    inbox::Inbox,
    set_to_pop::gated,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    Client, ClientConfig, Message,
    remote::{ConnectionOptions, RequestCode},
};
use rocketmq_consumer::{
    Filter, PopConfig, PopConsumer, PullConfig, PullConsumer, PushConfig, PushConsumer, PushConsumerBuilder, StartAt,
    StoredMessage,
};
use rocketmq_producer::{FaultTolerance, Producer, ProducerConfig};
use std::{process::Stdio, sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::{JoinSet, yield_now},
};

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

fn idle(builder: PushConsumerBuilder, topic: &str) -> PushConsumerBuilder {
    let listener = |_: StoredMessage| std::future::ready(Ok::<_, String>(()));
    builder.subscribe(topic, Filter::all()).listener(listener)
}

/// Fails unless a client is a member of a group, or is not, as the brokers of a topic know it.
async fn expect_member(is_one: bool, client: &Client, group: &str, asking: &Client, topic: &str) -> Result<()> {
    let members = asking.consumer_list(&group.into(), &topic.into()).await?;
    ensure!(members.contains(&client.id().to_string()) == is_one, "the members of {group} are {members:?}");
    Ok(())
}

pub(crate) async fn a_member_that_is_dropped_on_a_shared_client_is_gone(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(8).await?, random_name("group"));
    let (client, asking) = (cluster.client().await?, cluster.client().await?);
    let staying = idle(cluster.consumer(&group), &topic).start().await?;
    let on_shared = async || idle(cluster.consumer(&group).client(client.clone()), &topic).start().await;
    let owns = |count: usize| {
        let owned = staying.assigned_queues().iter().filter(|queue| *queue.topic == *topic).count();
        ensure!(owned == count, "the member that stays has {owned} queues");
        Ok(())
    };
    let leaving = on_shared().await?;
    eventually(SOON, async || owns(4)).await?;
    cluster.at("dropped");
    // Also outside of the runtime.
    std::thread::spawn(move || drop(leaving)).join().map_err(|_| anyhow::anyhow!("the drop panics"))?;
    eventually(SOON, async || owns(8)).await?;
    expect_member(false, &client, &group, &asking, &topic).await?;
    cluster.at("started again");
    for _ in 0..20 {
        let again = on_shared().await?;
        // What the brokers are told of the one before does not throw this one out.
        expect_member(true, &client, &group, &asking, &topic).await?;
        drop(again);
    }
    let again = on_shared().await?;
    eventually(SOON, async || owns(4)).await?;
    cluster.at("shut down, and dropped after that");
    again.shutdown().await?;
    let last = on_shared().await?;
    drop(again);
    eventually(SOON, async || owns(4)).await?;
    expect_member(true, &client, &group, &asking, &topic).await?;
    last.shutdown().await?;
    Ok(staying.shutdown().await?)
}

/// Begins to start something on a client and drops that, each time a bit later, before it starts it.
async fn dropped_half_way<T, E: std::error::Error + Send + Sync + 'static>(
    start: impl AsyncFn() -> Result<T, E>,
) -> Result<T> {
    for doublings in 0..14 {
        let a_while = async {
            for _ in 0..1 << doublings {
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            started = start() => drop(started.with_context(|| format!("after {doublings} that were dropped"))?),
            () = a_while => {}
        }
    }
    Ok(start().await?)
}

pub(crate) async fn a_start_that_is_dropped_leaves_nothing_on_a_shared_client(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (client, asking) = (cluster.client().await?, cluster.client().await?);
    let [push, pull, pop, produce] = [(); 4].map(|()| random_name("group"));
    let pushing = || idle(PushConsumer::builder(&push).client(client.clone()), &topic).start();
    let pushing = dropped_half_way(async || pushing().await).await?;
    let pulling = || PullConsumer::builder(&pull).client(client.clone()).subscribe(&topic, Filter::all()).start();
    let pulling = dropped_half_way(async || pulling().await).await?;
    let popping = || PopConsumer::builder(&pop).client(client.clone()).subscribe(&topic, Filter::all()).start();
    let popping = dropped_half_way(async || popping().await).await?;
    let producing = || Producer::builder(&produce).client(client.clone()).start();
    let producing = dropped_half_way(async || producing().await).await?;
    producing.send(Message::new(&topic, "body")).await?;
    for group in [&push, &pull, &pop] {
        expect_member(true, &client, group, &asking, &topic).await?;
    }
    drop((pushing, pulling, popping, producing));
    for group in [&push, &pull, &pop] {
        eventually(SOON, async || expect_member(false, &client, group, &asking, &topic).await).await?;
    }
    Ok(())
}

pub(crate) async fn a_shutdown_that_is_dropped_goes_on(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(2).await?;
    let (client, asking) = (cluster.client().await?, cluster.client().await?);
    let [push, pull, pop, produce] = [(); 4].map(|()| random_name("group"));
    let producing = Producer::builder(&produce).client(client.clone()).start().await?;
    let (inbox, gate) = (Inbox::new(), Arc::new(Semaphore::new(0)));
    let pushing = cluster.consumer(&push).client(client.clone()).subscribe(&topic, Filter::all());
    let pushing = pushing.listener(gated(&inbox, &gate)).start().await?;
    let pulling = PullConsumer::builder(&pull).client(client.clone()).subscribe(&topic, Filter::all()).start().await?;
    let popping = PopConsumer::builder(&pop).client(client.clone()).subscribe(&topic, Filter::all()).start().await?;
    producing.send(Message::new(&topic, "in hand")).await?;
    inbox.has(1, SOON).await?;

    cluster.at("dropped");
    let queued = producing.send_async(Message::new(&topic, "queued")).await?;
    tokio::select! {
        biased;
        shut_down = producing.shutdown() => shut_down?,
        () = std::future::ready(()) => {}
    }
    queued.await?;
    inbox.has(2, SOON).await?;
    control::dropped_half_way(pushing.shutdown()).await?;
    control::dropped_half_way(pulling.shutdown()).await?;
    control::dropped_half_way(popping.shutdown()).await?;
    gate.add_permits(2);
    for group in [&push, &pull, &pop] {
        eventually(SOON, async || expect_member(false, &client, group, &asking, &topic).await).await?;
    }
    // A client is in a group once.
    eventually(SOON, async || Ok(Producer::builder(&produce).client(client.clone()).start().await?)).await?;
    cluster.expect_recorded(&push, &topic, 2).await?;

    cluster.at("waited for");
    pushing.shutdown().await?;
    pulling.shutdown().await?;
    popping.shutdown().await?;
    Ok(producing.shutdown().await?)
}

pub(crate) async fn a_late_word_of_leaving_throws_nobody_out(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let (client, asking) = (cluster.client().await?, cluster.client().await?);
    let start = || PopConsumer::builder(&group).client(client.clone()).subscribe(&topic, Filter::all()).start();
    let (first, other) = (start().await?, Producer::builder(&group).client(client.clone()).start().await?);
    cluster.dev().on(RequestCode::UNREGISTER_CLIENT).delay(WHILE);
    drop(first);
    eventually(SOON, async || {
        ensure!(cluster.dev().received(RequestCode::UNREGISTER_CLIENT) > 0, "nobody leaves");
        Ok(())
    })
    .await?;
    let second = start().await?;
    // The broker handles this one later than the other.
    other.shutdown().await?;
    expect_member(true, &client, &group, &asking, &topic).await?;
    Ok(second.shutdown().await?)
}

pub(crate) async fn a_late_heartbeat_brings_nobody_back(cluster: &Cluster) -> Result<()> {
    let (topic, asking) = (cluster.topic(1).await?, cluster.client().await?);
    let (dev, client) = (cluster.dev(), cluster.client().await?);
    // The first one goes with a fresh connection.
    for told in [1, 2] {
        let group = random_name("group");
        let [beats, goodbyes] =
            [RequestCode::HEART_BEAT, RequestCode::UNREGISTER_CLIENT].map(|code| (code, dev.received(code)));
        dev.on(RequestCode::HEART_BEAT).delay(WHILE).times(1);
        let more = |(code, before): (RequestCode, u64), count| {
            let received = dev.received(code) - before;
            ensure!(received >= count, "{received} of {code} received");
            Ok(())
        };
        tokio::select! {
            _ = idle(cluster.consumer(&group).client(client.clone()), &topic).start() => bail!("the start is not held up"),
            under_way = eventually(SOON, async || more(beats, 1)) => under_way?,
        }
        eventually(SOON, async || more(goodbyes, told)).await?;
        eventually(SOON, async || expect_member(false, &client, &group, &asking, &topic).await).await?;
    }
    Ok(())
}

pub(crate) async fn every_time_of_an_option_may_be_longer_than_time(cluster: &Cluster) -> Result<()> {
    const EVER: Duration = Duration::MAX;
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let client = ClientConfig {
        request_timeout: EVER,
        route_refresh_interval: EVER,
        heartbeat_interval: EVER,
        name_server_patience: EVER,
        name_server_refresh_interval: EVER,
        connection: ConnectionOptions { connect_timeout: EVER, silence: EVER, ..Default::default() },
        ..Default::default()
    };
    let fault_tolerance = FaultTolerance {
        latency_steps: vec![(Duration::ZERO, EVER)],
        failure_counts_as: EVER,
        detector: true,
        detect_interval: EVER,
        detect_timeout: EVER,
    };
    let config = ProducerConfig {
        send_timeout: EVER,
        attempt_timeout: Some(EVER),
        max_timer_delay: EVER,
        fault_tolerance: Some(fault_tolerance),
        shutdown_timeout: EVER,
        client: client.clone(),
        ..Default::default()
    };
    let lingering = ProducerConfig { linger: Duration::from_millis(1), ..config.clone() };
    let push = PushConfig {
        consume_timeout: EVER,
        suspend_time: EVER,
        start_at: StartAt::First,
        commit_interval: EVER,
        rebalance_interval: EVER,
        revoke_timeout: EVER,
        shutdown_timeout: EVER,
        client: client.clone(),
        ..Default::default()
    };
    let pull = PullConfig {
        start_at: StartAt::First,
        commit_interval: EVER,
        rebalance_interval: EVER,
        revoke_timeout: EVER,
        shutdown_timeout: EVER,
        client: client.clone(),
        ..Default::default()
    };
    let pop = PopConfig { start_at: StartAt::First, shutdown_timeout: EVER, client, ..Default::default() };
    let mut ids = Vec::new();
    for config in [config, lingering] {
        let producer = Producer::builder(&group).name_servers([cluster.name_server()]).config(config).start().await?;
        for _ in 0..2 {
            ids.push(producer.send(Message::new(&topic, "body")).await?.message_id);
        }
        producer.shutdown().await?;
    }
    for in_order in [false, true] {
        let (inbox, builder) = (Inbox::new(), cluster.consumer(&random_name("group")).config(push.clone()));
        let builder = builder.subscribe(&topic, Filter::all());
        let consumer = match in_order {
            true => builder.ordered_listener(inbox.listener()).start().await?,
            false => builder.listener(inbox.listener()).start().await?,
        };
        inbox.has_each_once(&ids, SOON).await?;
        consumer.shutdown().await?;
    }
    let puller = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(pull);
    let puller = puller.subscribe(&topic, Filter::all()).start().await?;
    ensure!(!puller.poll(EVER).await?.is_empty(), "a poll that may take for ever brings nothing");
    puller.shutdown().await?;
    let popper = PopConsumer::builder(random_name("group")).name_servers([cluster.name_server()]).config(pop);
    let popper = popper.subscribe(&topic, Filter::all()).start().await?;
    for message in popper.receive(32, Duration::from_secs(60)).await? {
        message.ack().await?;
    }
    Ok(popper.shutdown().await?)
}

/// How long a broker takes to handle what comes too late.
const WHILE: Duration = Duration::from_millis(500);
