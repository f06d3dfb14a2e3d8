//! `idle`: what a consumer of many queues costs while nothing comes.

use crate::{
    IdleArgs,
    cluster::Cluster,
    consume::fresh_group,
    process::{self, Moment, Span},
    produce,
    progress::{Limits, Progress},
    report::{grouped, rounded, table},
};
use anyhow::{Context, ensure};
use rocketmq_common::{
    Client, MessageQueue,
    protocol::{MASTER_ID, Permission},
};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_producer::{Message, Select};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

rocketmq_common::remote::request! {
    UPDATE_AND_CREATE_TOPIC(()) -> ();
    /// Creates a topic on one broker. Java: `CreateTopicRequestHeader`.
    struct CreateTopic {
        topic: String = "topic",
        default_topic: String = "defaultTopic",
        read_queues: i32 = "readQueueNums",
        write_queues: i32 = "writeQueueNums",
        perm: i32 = "perm",
        topic_filter_type: String = "topicFilterType",
        topic_sys_flag: i32 = "topicSysFlag",
        order: bool = "order",
    }
}

pub(crate) async fn run(args: &IdleArgs) -> anyhow::Result<(IdleReport, Option<String>)> {
    let cluster = Cluster::open(&args.name_server).await?;
    let result = run_on(&cluster, args).await;
    cluster.close().await;
    result
}

async fn run_on(cluster: &Cluster, args: &IdleArgs) -> anyhow::Result<(IdleReport, Option<String>)> {
    let deadline = Instant::now() + args.timeout;
    let preparing = timeout_at(deadline, prepare(cluster, args)).await;
    let queues = preparing.context("the time was up before the topics were there")??;
    let seen = Arc::new(Seen::new(queues));
    let listening = seen.clone();
    let mut builder = PushConsumer::builder(fresh_group())
        .name_servers([cluster.name_server()])
        .config(PushConfig { start_at: StartAt::First, ..Default::default() });
    for topic in args.topics() {
        builder = builder.subscribe(topic, Filter::all());
    }
    let consumer = builder.listener(move |message: StoredMessage| listening.consumed(&message)).start();
    let consumer = consumer.await.context("cannot start the consumer")?;

    let limits = Limits { timeout: deadline.saturating_duration_since(Instant::now()), idle: None };
    let progress = Progress::new(seen.wanted());
    let end = progress.watch(limits, || seen.count(), || {}, seen.all.notified()).await;
    let mut trouble = end.trouble(Limits { timeout: args.timeout, ..limits });
    let mut span = Span { wall: Duration::ZERO, cpu: None };
    if trouble.is_none() {
        sleep(SETTLE).await;
        let start = Moment::now();
        tokio::select! {
            () = sleep(args.seconds) => {}
            _ = tokio::signal::ctrl_c() => trouble = Some("interrupted".to_owned()),
        }
        span = start.until(&Moment::now());
    }
    let queues = consumer.assigned_queues().iter().filter(|queue| args.is_topic(&queue.topic)).count();
    let report = IdleReport::new(args, queues, span, cluster.is_embedded());
    let missing = seen.wanted() - seen.count();
    if missing > 0 {
        trouble = trouble.map(|trouble| format!("{trouble}: nothing was pulled from {missing} queues yet"));
    }
    let shutdown = consumer.shutdown().await;
    Ok((report, trouble.or_else(|| shutdown.err().map(|error| error.to_string()))))
}

/// Creates the topics and stores a message in each of their queues, so that each shows when it is pulled.
async fn prepare(cluster: &Cluster, args: &IdleArgs) -> anyhow::Result<BTreeSet<MessageQueue>> {
    let producer = produce::start(cluster).await?;
    let client = producer.client();
    let brokers = match cluster.is_embedded() {
        true => Vec::new(),
        false => brokers(client).await?,
    };
    let (mut queues, mut receipts) = (BTreeSet::new(), Vec::new());
    for topic in args.topics() {
        cluster.create_topic(&topic, args.queues);
        for addr in &brokers {
            let created = client.call(addr, &args.creation(&topic), (), client.request_deadline()).await;
            created.with_context(|| format!("topic {topic} is not created"))?;
        }
        for queue in route_of(client, topic.into(), args.queues * brokers.len().max(1)).await? {
            let message = Message::new(&*queue.topic, "seen");
            receipts.push(producer.send_async_to(Select::queue(&queue), message).await?);
            queues.insert(queue);
        }
    }
    for receipt in receipts {
        receipt.await?;
    }
    producer.shutdown().await?;
    Ok(queues)
}

/// The masters of all brokers: each makes this topic for itself.
async fn brokers(client: &Client) -> anyhow::Result<Vec<Arc<str>>> {
    let route = client.route(&"SELF_TEST_TOPIC".into()).await.context("no broker is found")?;
    let masters = route.brokers().filter_map(|(_, addrs)| addrs.get(&MASTER_ID).cloned()).collect::<Vec<_>>();
    ensure!(!masters.is_empty(), "no broker is found");
    Ok(masters)
}

/// The queues of a topic, once the name server knows all of them.
async fn route_of(client: &Client, topic: Arc<str>, count: usize) -> anyhow::Result<Vec<MessageQueue>> {
    loop {
        let seen = client.known_route(&topic).map_or(0, |route| route.generation());
        match client.newer_route(&topic, seen).await {
            Ok(route) if route.write_queues().len() >= count => return Ok(route.write_queues().to_vec()),
            Ok(_) | Err(rocketmq_common::Error::TopicNotFound { .. }) => sleep(LOOK_AGAIN).await,
            Err(error) => return Err(error.into()),
        }
    }
}

impl IdleArgs {
    /// Named for their size: a topic that is there from a run before is used again.
    fn topics(&self) -> impl Iterator<Item = String> {
        let queues = self.queues;
        (0..self.topics).map(move |at| format!("{TOPICS}-{queues}-{at}"))
    }

    fn is_topic(&self, topic: &str) -> bool {
        topic.starts_with(TOPICS)
    }

    fn creation(&self, topic: &str) -> CreateTopic {
        let queues = i32::try_from(self.queues).unwrap_or(i32::MAX);
        CreateTopic {
            topic: topic.to_owned(),
            default_topic: "TBW102".to_owned(),
            read_queues: queues,
            write_queues: queues,
            perm: Permission::READ | Permission::WRITE,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_sys_flag: 0,
            order: false,
        }
    }
}

/// The queues of which nothing has come yet.
#[derive(Debug)]
struct Seen {
    wanted: u64,
    missing: Mutex<BTreeSet<MessageQueue>>,
    count: AtomicU64,
    all: Notify,
}

impl Seen {
    fn new(queues: BTreeSet<MessageQueue>) -> Self {
        let wanted = queues.len() as u64;
        Self { wanted, missing: Mutex::new(queues), count: AtomicU64::new(0), all: Notify::new() }
    }

    /// The listener.
    fn consumed(&self, message: &StoredMessage) -> Ready<Result<(), Infallible>> {
        self.pulled(&message.queue());
        ready(Ok(()))
    }

    fn pulled(&self, queue: &MessageQueue) {
        let mut missing = self.missing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if missing.remove(queue) {
            self.count.fetch_add(1, Ordering::Relaxed);
            if missing.is_empty() {
                self.all.notify_one();
            }
        }
    }

    fn wanted(&self) -> u64 {
        self.wanted
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// The figures of a run. The fields are the keys of the JSON line.
#[derive(Debug, Serialize)]
pub(crate) struct IdleReport {
    client: &'static str,
    mode: &'static str,
    topics: usize,
    /// That the consumer has.
    queues: usize,
    secs: f64,
    /// Of one core; `None` where the system does not tell, or nothing was measured.
    cpu_percent: Option<f64>,
    peak_rss_mb: Option<f64>,
    /// Whether name server and broker are in the figures.
    with_broker: bool,
}

impl IdleReport {
    fn new(args: &IdleArgs, queues: usize, span: Span, with_broker: bool) -> Self {
        let secs = span.wall.as_secs_f64();
        let percent = |cpu: Duration| rounded(100.0 * cpu.as_secs_f64() / secs, 3);
        Self {
            client: "rocketmq-rust",
            mode: "idle",
            topics: args.topics,
            queues,
            secs: rounded(secs, 3),
            cpu_percent: span.cpu.filter(|_| secs > 0.0).map(percent),
            peak_rss_mb: process::peak_rss_mib().map(|mib| rounded(mib, 1)),
            with_broker,
        }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can be written as JSON")
    }

    pub(crate) fn to_table(&self) -> String {
        let unknown = || "unknown".to_owned();
        let whose = if self.with_broker { "client and broker together" } else { "the client" };
        table([
            ("client", self.client.to_owned()),
            ("mode", self.mode.to_owned()),
            ("topics", grouped(self.topics as u64)),
            ("queues", grouped(self.queues as u64)),
            ("seconds", format!("{:.3}", self.secs)),
            ("CPU (% of a core)", self.cpu_percent.map_or_else(unknown, |percent| format!("{percent:.3}"))),
            ("peak memory (MiB)", self.peak_rss_mb.map_or_else(unknown, |mib| format!("{mib:.1}"))),
            ("figures of", whose.to_owned()),
        ])
    }
}

const TOPICS: &str = "BenchmarkIdle";
/// What the start leaves to do is over by then: the first offsets are recorded after 5 s.
const SETTLE: Duration = Duration::from_secs(6);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> IdleArgs {
        IdleArgs {
            name_server: "embedded".to_owned(),
            topics: 2,
            queues: 3,
            seconds: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            json: true,
            threads: crate::Threads { threads: 1 },
        }
    }

    #[test]
    fn the_json_line_has_the_share_of_a_core() {
        let span = Span { wall: Duration::from_secs(10), cpu: Some(Duration::from_millis(50)) };
        let report = IdleReport { peak_rss_mb: Some(7.2), ..IdleReport::new(&args(), 6, span, true) };
        assert_eq!(
            report.to_json(),
            r#"{"client":"rocketmq-rust","mode":"idle","topics":2,"queues":6,"secs":10.0,"cpu_percent":0.5,"peak_rss_mb":7.2,"with_broker":true}"#
        );
        for text in ["0.500", "7.2", "client and broker together"] {
            assert!(report.to_table().contains(text), "{text} in\n{}", report.to_table());
        }
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let nothing = Span { wall: Duration::ZERO, cpu: Some(Duration::ZERO) };
        let report = IdleReport::new(&args(), 6, nothing, false);
        assert!(report.to_json().contains(r#""cpu_percent":null"#), "{}", report.to_json());
        assert!(report.to_table().contains("unknown"));
    }

    #[tokio::test]
    async fn all_queues_are_seen_when_each_has_shown_once() {
        let queue = |id| MessageQueue::new("t", "broker-a", id);
        let seen = Seen::new((0..3).map(queue).collect());
        for id in [0, 1, 1, 7] {
            seen.pulled(&queue(id));
        }
        assert_eq!((seen.count(), seen.wanted()), (2, 3));
        seen.pulled(&queue(2));
        seen.all.notified().await;
        assert_eq!(seen.count(), 3);
    }

    #[test]
    fn topics_are_named_for_their_size() {
        let args = args();
        let topics: Vec<_> = args.topics().collect();
        assert_eq!(topics, ["BenchmarkIdle-3-0", "BenchmarkIdle-3-1"]);
        assert!(topics.iter().all(|topic| args.is_topic(topic)) && !args.is_topic("%RETRY%BenchmarkIdle"));
    }
}
