//! One broker: its state, and the work that is done by the clock.

use crate::{
    clock::{Clock, millis},
    faults::{Faults, Place},
    groups::{Groups, Notice},
    halves::Halves,
    handlers::{
        self, Asked,
        pop::{ANY_QUEUE, Waiting, original_topic},
        pull::Pull,
        send_back::ensure_topic,
    },
    holds::Holds,
    locks::QueueLocks,
    log::{Log, NewRecord, TopicConfig},
    offsets::Offsets,
    pops::{Delivery, Pops, QueueOfGroup},
    record::Stored,
    server::{Peers, Server, Service},
    timers::{TIMER_TOPIC, Timers},
};
use bytes::{Bytes, BytesMut};
use rocketmq_common::{
    message::{
        Record,
        names::{AUTO_CREATE_TOPIC, HALF_TOPIC, SCHEDULE_TOPIC, SELF_TEST_TOPIC},
        properties::{Properties, lookup, property},
    },
    pop::PopSource,
    protocol::{Permission, RequestModeOfGroup},
};
use rocketmq_remote::Processors;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a broker is set up with.
#[derive(Clone, Debug)]
pub(crate) struct BrokerConfig {
    pub(crate) default_queues: i32,
    pub(crate) delay_levels: Vec<Duration>,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_store_bytes: usize,
    pub(crate) transaction_check: Duration,
    pub(crate) retry_topics_v2: bool,
}

/// A broker. Its locks are held briefly, never two at a time, and never over an await.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    pub(crate) addr: SocketAddr,
    pub(crate) config: BrokerConfig,
    pub(crate) clock: Clock,
    pub(crate) faults: Arc<Faults>,
    /// The tasks of the whole cluster: answers that faults delay are among them.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop_all: CancellationToken,
    store: Mutex<Store>,
    groups: Mutex<Groups>,
    offsets: Mutex<Offsets>,
    locks: Mutex<QueueLocks>,
    /// Static topics.
    statics: Mutex<BTreeMap<String, StaticTopic>>,
    /// How groups get messages, by topic and group, where an operator has said so.
    request_modes: Mutex<BTreeMap<(String, String), RequestModeOfGroup>>,
    /// All brokers of the cluster.
    cluster: OnceLock<Weak<Brokers>>,
    peers: Peers,
    /// A message was delayed, or a pull held, that is due before all others.
    earlier: Notify,
    turn: AtomicU32,
}

/// The brokers of a cluster, and what listens for each.
pub(crate) type Brokers = [(Arc<Broker>, Arc<Server>)];

/// The part of a static topic that a broker has. Its own queues have the numbers of those they stand for.
#[derive(Clone, Debug)]
pub(crate) struct StaticTopic {
    pub(crate) total: i32,
    pub(crate) queues: BTreeSet<i32>,
    pub(crate) epoch: i64,
}

/// Messages, and the pulls that wait for them: one lock, so that no message slips past a pull about to be held.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) log: Log,
    pub(crate) holds: Holds<(Asked, Pull)>,
    /// Messages whose transactions have not ended.
    pub(crate) halves: Halves,
    /// Messages to be delivered at a time of their own.
    pub(crate) timers: Timers,
    /// Messages that are hidden from a group.
    pub(crate) pops: Pops,
    pub(crate) pop_holds: Holds<(Asked, Waiting)>,
}

impl Broker {
    pub(crate) fn new(
        name: Arc<str>,
        addr: SocketAddr,
        config: BrokerConfig,
        faults: Arc<Faults>,
        tasks: TaskTracker,
        stop_all: CancellationToken,
    ) -> Self {
        let mut log = Log::new(config.max_store_bytes);
        for (topic, queues) in [(AUTO_CREATE_TOPIC, config.default_queues), (CLUSTER, 16), (&*name, 1)] {
            let perm = Permission::READ | Permission::WRITE | Permission::INHERIT;
            log.set_topic(topic, TopicConfig { perm, ..TopicConfig::new(queues) });
        }
        log.set_topic(SCHEDULE_TOPIC, TopicConfig::new(i32::try_from(config.delay_levels.len()).unwrap_or(i32::MAX)));
        log.set_topic(HALF_TOPIC, TopicConfig::new(1));
        log.set_topic(SELF_TEST_TOPIC, TopicConfig::new(1));
        log.set_topic(TIMER_TOPIC, TopicConfig::new(1));
        log.set_topic(&format!("{CLUSTER}_REPLY_TOPIC"), TopicConfig::new(1));
        Self {
            place: Place::Broker(name.clone()),
            name,
            addr,
            config,
            clock: Clock::start(),
            faults,
            tasks,
            stop_all,
            store: Mutex::new(Store {
                log,
                holds: Holds::default(),
                halves: Halves::default(),
                timers: Timers::default(),
                pops: Pops::default(),
                pop_holds: Holds::default(),
            }),
            groups: Mutex::default(),
            offsets: Mutex::default(),
            locks: Mutex::default(),
            statics: Mutex::default(),
            request_modes: Mutex::default(),
            cluster: OnceLock::new(),
            peers: Peers::default(),
            earlier: Notify::new(),
            turn: AtomicU32::new(0),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(crate) fn groups(&self) -> MutexGuard<'_, Groups> {
        lock(&self.groups)
    }

    pub(crate) fn offsets(&self) -> MutexGuard<'_, Offsets> {
        lock(&self.offsets)
    }

    pub(crate) fn locks(&self) -> MutexGuard<'_, QueueLocks> {
        lock(&self.locks)
    }

    pub(crate) fn statics(&self) -> MutexGuard<'_, BTreeMap<String, StaticTopic>> {
        lock(&self.statics)
    }

    pub(crate) fn request_modes(&self) -> MutexGuard<'_, BTreeMap<(String, String), RequestModeOfGroup>> {
        lock(&self.request_modes)
    }

    /// Makes the brokers of a cluster known to each of them.
    pub(crate) fn join(brokers: &Arc<Brokers>) {
        for (broker, _) in brokers.iter() {
            let _ = broker.cluster.set(Arc::downgrade(brokers));
        }
    }

    /// The brokers of the cluster that run.
    pub(crate) fn running_brokers(&self) -> Vec<Arc<Self>> {
        let Some(brokers) = self.cluster.get().and_then(Weak::upgrade) else { return Vec::new() };
        brokers.iter().filter(|(_, server)| server.is_running()).map(|(broker, _)| broker.clone()).collect()
    }

    /// Whether a queue of a static topic is on another broker. Those of other topics never are.
    pub(crate) fn has_moved(&self, topic: &str, queue_id: i32) -> bool {
        self.statics().get(topic).is_some_and(|topic| !topic.queues.contains(&queue_id))
    }

    /// Tells the members of a group that it has changed.
    pub(crate) fn notify(&self, notice: Option<Notice>) {
        if let Some(Notice { group, connections }) = notice {
            self.peers.notify(&group, &connections);
        }
    }

    /// Something is due before all that was.
    pub(crate) fn wake_timer(&self) {
        self.earlier.notify_one();
    }

    /// Sees to the pulls that a message has woken.
    pub(crate) fn settle(&self, woken: Woken) {
        self.answer_held(woken.held);
        for (asked, waiting) in woken.pops {
            handlers::pop::answer_or_hold(self, asked, waiting);
        }
        if woken.earlier {
            self.wake_timer();
        }
    }

    /// A queue for a sender that does not care. Java takes a random one.
    pub(crate) fn any_queue(&self, queues: i32) -> i32 {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        i32::try_from(turn % queues.max(1).unsigned_abs()).unwrap_or(0)
    }

    fn answer_held(&self, woken: Vec<(Asked, Pull)>) {
        for (asked, pull) in woken {
            handlers::pull::answer_now(self, asked, &pull);
        }
    }

    /// How long a message of this level waits; a level beyond the last is the last.
    pub(crate) fn delay(&self, level: i32) -> Duration {
        let at = usize::try_from(level.saturating_sub(1)).unwrap_or(0);
        self.config.delay_levels.get(at).or(self.config.delay_levels.last()).copied().unwrap_or_default()
    }

    pub(crate) fn max_delay_level(&self) -> i32 {
        i32::try_from(self.config.delay_levels.len()).unwrap_or(i32::MAX)
    }

    /// The work that is due now. Answers when there is more.
    fn work(&self) -> Option<Instant> {
        let now_ms = self.clock.now_ms();
        while let Some(record) = self.take_due(now_ms) {
            self.deliver(&record, now_ms, false);
        }
        while let Some(record) = self.take_timer(now_ms) {
            self.deliver(&record, now_ms, true);
        }
        while let Some((queue, delivery)) = self.take_hidden(now_ms) {
            self.revive(&queue, delivery, now_ms);
        }
        let expired = self.store().holds.take_expired(Instant::now());
        self.answer_held(expired);
        let expired = self.store().pop_holds.take_expired(Instant::now());
        for (asked, waiting) in expired {
            handlers::pop::answer_nothing(self, asked, &waiting);
        }

        let store = self.store();
        let levels = (1..=self.max_delay_level()).filter_map(|level| {
            let stored_ms = store.log.earliest_ms(SCHEDULE_TOPIC, level - 1)?;
            Some(self.clock.instant(stored_ms.saturating_add(millis(self.delay(level)))))
        });
        let by_clock = [store.timers.next_ms(), store.pops.next_ms()];
        let by_clock = by_clock.into_iter().flatten().map(|ms| self.clock.instant(ms));
        let held = [store.holds.next_deadline(), store.pop_holds.next_deadline()];
        levels.chain(by_clock).chain(held.into_iter().flatten()).min()
    }

    /// A delayed message whose time has come, taken from its level's queue.
    fn take_due(&self, now_ms: i64) -> Option<Bytes> {
        let mut store = self.store();
        (1..=self.max_delay_level()).find_map(|level| {
            let stored_until = now_ms.saturating_sub(millis(self.delay(level)));
            store.log.take_oldest(SCHEDULE_TOPIC, level - 1, stored_until)
        })
    }

    fn take_timer(&self, now_ms: i64) -> Option<Bytes> {
        self.store().take_timer(now_ms)
    }

    fn take_hidden(&self, now_ms: i64) -> Option<(QueueOfGroup, Delivery)> {
        self.store().pops.take_due(now_ms)
    }

    /// Puts a message that nobody acknowledged in time into the group's retry topic for its topic. Java:
    /// `PopReviveService.reviveRetry`.
    fn revive(&self, queue: &QueueOfGroup, delivery: Delivery, now_ms: i64) {
        let QueueOfGroup { group, topic, queue_id } = queue;
        let retry_topic = match PopSource::of_topic(topic) {
            PopSource::Topic if self.config.retry_topics_v2 => PopSource::RetryV2.real_topic(topic, group),
            PopSource::Topic => PopSource::RetryV1.real_topic(topic, group),
            PopSource::RetryV1 | PopSource::RetryV2 => topic.clone(),
        };
        ensure_topic(self, &retry_topic);
        // One that the log has forgotten meanwhile is gone for every consumer.
        let Some(record) = self.store().log.record(topic, *queue_id, delivery.offset) else { return };
        let Some(stored) = Stored::read(&record) else { return };
        let mut properties = Properties::from(stored.properties.to_owned());
        if stored.reconsume_times == 0 || properties.get(property::FIRST_POP_TIME).is_none() {
            properties.set(property::FIRST_POP_TIME, &delivery.pop_time_ms.to_string());
        }
        properties.set(property::ORIGIN_GROUP, group);
        let copy = Record {
            topic: &retry_topic,
            queue_id: 0,
            queue_offset: 0,
            commit_log_offset: 0,
            flag: stored.flag,
            sys_flag: stored.sys_flag,
            born_timestamp_ms: stored.born_ms,
            born_host: self.addr,
            store_timestamp_ms: now_ms,
            store_host: self.addr,
            reconsume_times: stored.reconsume_times.saturating_add(1),
            prepared_transaction_offset: 0,
            body: stored.body,
            properties: properties.as_str(),
        };
        let mut bytes = BytesMut::new();
        let tag_hash = crate::filter::tag_hash(lookup(stored.properties, property::TAGS));
        if copy.encode(&mut bytes).is_err() {
            tracing::warn!(broker = %self.name, %topic, "a message has no room for one more property");
            return;
        }
        let mut store = self.store();
        let appended = store.log.append_anyway(&retry_topic, 0, NewRecord { bytes, tag_hash }, now_ms);
        let mut woken = store.wake_pops(original_topic(&retry_topic, group));
        woken.held = store.wake(&retry_topic, 0, tag_hash).held;
        drop(store);
        if appended.is_err() {
            tracing::warn!(broker = %self.name, %topic, "a message has no queue to come back to");
        }
        self.settle(woken);
    }

    /// Puts a delayed message where it was meant to go. It keeps all its properties, but for the target of a timer
    /// message. Java: `ScheduleMessageService`, `TimerMessageStore`.
    fn deliver(&self, record: &Bytes, now_ms: i64, is_timer: bool) {
        let delivered = Stored::read(record).and_then(|stored| {
            let mut properties = Cow::Borrowed(stored.properties);
            if is_timer {
                properties = Cow::Owned(without_target(stored.properties).into_string());
            }
            let topic = lookup(stored.properties, property::REAL_TOPIC)?;
            let queue_id = lookup(stored.properties, property::REAL_QID)?.parse().ok()?;
            let tag_hash = crate::filter::tag_hash(lookup(stored.properties, property::TAGS));
            let mut bytes = BytesMut::new();
            let copy = Record {
                topic,
                queue_id,
                store_timestamp_ms: now_ms,
                store_host: self.addr,
                properties: &properties,
                ..stored.anew()
            };
            copy.encode(&mut bytes).ok()?;
            let mut store = self.store();
            store.log.append_anyway(topic, queue_id, NewRecord { bytes, tag_hash }, now_ms).ok()?;
            let woken = store.wake(topic, queue_id, tag_hash);
            drop(store);
            self.settle(woken);
            Some(())
        });
        if delivered.is_none() {
            tracing::warn!(broker = %self.name, "a delayed message has no queue to go to any more");
        }
    }
}

/// The pulls and pops that an append has woken.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    pub(crate) held: Vec<(Asked, Pull)>,
    pub(crate) pops: Vec<(Asked, Waiting)>,
    /// Others will be answered earlier than they thought.
    pub(crate) earlier: bool,
}

/// The properties of a message without the note where it was meant to go.
pub(crate) fn without_target(properties: &str) -> Properties {
    let mut properties = Properties::from(properties.to_owned());
    properties.remove(property::REAL_TOPIC);
    properties.remove(property::REAL_QID);
    properties
}

impl Store {
    /// A timer message whose time has come.
    fn take_timer(&mut self, now_ms: i64) -> Option<Bytes> {
        let record = loop {
            let place = self.timers.take_due(now_ms)?;
            if let Some(record) = self.log.record_at(place) {
                break record;
            }
        };
        // The log forgets only from the front; this is when the front is known.
        if self.timers.next_ms().is_none() {
            if let Some((_, max)) = self.log.bounds(TIMER_TOPIC, 0) {
                self.log.trim(TIMER_TOPIC, 0, max);
            }
        }
        Some(record)
    }

    /// A message with this tag has been appended.
    pub(crate) fn wake(&mut self, topic: &str, queue_id: i32, tag_hash: i32) -> Woken {
        let (held, earlier) = self.holds.wake(topic, queue_id, tag_hash, || Instant::now() + UNMATCHED_TIME);
        let (pops, pops_earlier) = self.pop_holds.wake(topic, ANY_QUEUE, tag_hash, || Instant::now() + UNMATCHED_TIME);
        Woken { held, pops, earlier: earlier || pops_earlier }
    }

    /// Something else has happened for which pops of this topic may wait.
    pub(crate) fn wake_pops(&mut self, topic: &str) -> Woken {
        Woken { pops: self.pop_holds.take_topic(topic, ANY_QUEUE), ..Woken::default() }
    }
}

impl Service for Broker {
    fn processors(self: &Arc<Self>) -> Processors {
        handlers::of_broker(self, false)
    }

    fn peers(&self) -> &Peers {
        &self.peers
    }

    fn ended(&self, connection: u64) {
        self.store().holds.drop_connection(connection);
        self.store().pop_holds.drop_connection(connection);
        let notices = self.groups().drop_connection(connection);
        notices.into_iter().for_each(|notice| self.notify(Some(notice)));
    }

    fn start_tasks(self: &Arc<Self>, stop: &CancellationToken, tasks: &TaskTracker) {
        // Queue locks live in a broker's memory and not on its disk: those of an earlier run are gone.
        *self.locks() = QueueLocks::default();
        tasks.spawn(timer(self.clone(), stop.clone()));
        tasks.spawn(expiry(self.clone(), stop.clone()));
        tasks.spawn(transactions(self.clone(), stop.clone()));
    }
}

/// The second port of a broker, two below its own: for sends, and for all that is not a pull. Java: the fast remoting
/// server.
#[derive(Debug)]
pub(crate) struct VipChannel(pub(crate) Arc<Broker>);

impl Service for VipChannel {
    fn processors(self: &Arc<Self>) -> Processors {
        handlers::of_broker(&self.0, true)
    }

    fn peers(&self) -> &Peers {
        &self.0.peers
    }

    fn ended(&self, connection: u64) {
        self.0.ended(connection);
    }

    fn start_tasks(self: &Arc<Self>, _: &CancellationToken, _: &TaskTracker) {}
}

/// Delivers delayed messages and answers held pulls when they are due: one task for all of them.
async fn timer(broker: Arc<Broker>, stop: CancellationToken) {
    loop {
        let due = broker.work();
        tokio::select! {
            () = stop.cancelled() => return,
            () = broker.earlier.notified() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// Asks what became of half messages.
async fn transactions(broker: Arc<Broker>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(broker.config.transaction_check) => handlers::transactions::check(&broker),
        }
    }
}

/// Drops group members that have fallen silent.
async fn expiry(broker: Arc<Broker>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EXPIRY_SCAN) => {}
        }
        let notices = broker.groups().expire(Instant::now());
        notices.into_iter().for_each(|notice| broker.notify(Some(notice)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The name of the cluster.
pub(crate) const CLUSTER: &str = "DefaultCluster";
/// A held pull whose filter lets none of the new messages pass is answered after this time, with a new offset. Java:
/// `PullRequestHoldService` looks every five seconds.
const UNMATCHED_TIME: Duration = Duration::from_secs(5);
const EXPIRY_SCAN: Duration = Duration::from_secs(10);
