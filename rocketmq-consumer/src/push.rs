use crate::{
    Error, Filter, PushConfig, PushConsumerBuilder,
    assigned::AssignedQueue,
    dispatch::{Dispatcher, Workers},
    limit::Limit,
    listener::Listener,
    offset::commit,
    rebalance::rebalance,
    suspension::Suspension,
};
use rocketmq_common::{
    Client, MessageQueue, NameServerSource, Namespace,
    message::names::{check_group, check_topic, retry_topic},
    protocol::{ConsumeType, ConsumerData, MessageModel, SubscriptionData},
    remote::Deadline,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Consumes messages by calling a listener, many at once. A cheap handle.
///
/// The members of a group share the queues of a topic; each queue belongs to one of them. [`shutdown`](Self::shutdown)
/// finishes what is in hand and records the offsets; dropping the last handle stops everything at once, and what was
/// not recorded comes again.
#[derive(Clone, Debug)]
pub struct PushConsumer(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stopped.cancel();
        self.0.given_up.cancel();
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) group: Arc<str>,
    pub(crate) config: PushConfig,
    pub(crate) listener: Option<Listener>,
    pub(crate) is_broadcast: bool,
    subscriptions: Mutex<Arc<Subscriptions>>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) workers: Workers,
    pub(crate) ordered_calls: Limit,
    suspension: Suspension,
    pub(crate) members_changed: Arc<Notify>,
    /// Held by the one who takes queues or gives them up.
    pub(crate) changing_queues: tokio::sync::Mutex<()>,
    /// A lock was lost.
    pub(crate) locks_wanted: Notify,
    /// Held by the one who renews locks or gives them up.
    pub(crate) lock_calls: tokio::sync::Mutex<()>,
    queues: Mutex<BTreeMap<MessageQueue, Arc<AssignedQueue>>>,
    owns_client: bool,
    pub(crate) tasks: TaskTracker,
    /// Nothing new is begun.
    pub(crate) stopped: CancellationToken,
    /// What is in hand is given up, too.
    pub(crate) given_up: CancellationToken,
    shut_down: AtomicBool,
}

/// What is subscribed to, by topic.
pub(crate) type Subscriptions = BTreeMap<Arc<str>, Arc<SubscriptionData>>;

impl PushConsumer {
    /// A consumer of `group`, to be wired up and started.
    pub fn builder(group: impl Into<String>) -> PushConsumerBuilder {
        PushConsumerBuilder {
            group: group.into(),
            name_servers: NameServerSource::default(),
            client: None,
            subscriptions: Vec::new(),
            listener: None,
            config: PushConfig::default(),
        }
    }

    pub(crate) async fn start(builder: PushConsumerBuilder) -> Result<Self, Error> {
        let PushConsumerBuilder { group, name_servers, client, subscriptions, listener, config } = builder;
        check_group(&group).map_err(rocketmq_common::Error::from)?;
        config.check()?;
        let listener = listener.ok_or(Error::NoListener)?;
        let subscriptions = parse(&group, subscriptions)?;
        let owns_client = client.is_none();
        let client = match client {
            Some(client) => client,
            None => Client::start(name_servers, config.client.clone()).await?,
        };
        let group = client.namespace().wrap(&group).into_owned();
        check_group(&group).map_err(rocketmq_common::Error::from)?;
        let subscriptions = wrapped(client.namespace(), subscriptions)?;
        let members_changed = Arc::new(Notify::new());
        let data = ConsumerData {
            group_name: group.clone(),
            consume_type: ConsumeType::Passively,
            message_model: MessageModel::Clustering,
            consume_from_where: config.start_at.on_the_wire(),
            subscription_data_set: subscriptions.values().map(|data| data.as_ref().clone()).collect(),
            unit_mode: client.config().unit_mode,
        };
        client.register_consumer(data, members_changed.clone())?;
        let shared = Arc::new(Shared {
            client,
            group: group.into(),
            ordered_calls: Limit::new(config.concurrency),
            listener: Some(listener),
            is_broadcast: false,
            subscriptions: Mutex::new(Arc::new(subscriptions)),
            dispatcher: Dispatcher::default(),
            workers: Workers::default(),
            suspension: Suspension::default(),
            members_changed,
            changing_queues: tokio::sync::Mutex::default(),
            locks_wanted: Notify::new(),
            lock_calls: tokio::sync::Mutex::default(),
            config,
            queues: Mutex::default(),
            owns_client,
            tasks: TaskTracker::new(),
            stopped: CancellationToken::new(),
            given_up: CancellationToken::new(),
            shut_down: AtomicBool::new(false),
        });
        // From here on, a dropped future drops the handle, and that stops everything.
        let consumer = Self(Arc::new(Handle(shared.clone())));
        shared.look_routes_up().await;
        shared.client.heartbeat().await;
        if shared.is_ordered() {
            let locking = shared.clone();
            shared.tasks.spawn(async move { locking.keep_locks(&locking.stopped).await });
        } else {
            shared.want_workers(shared.config.concurrency);
        }
        shared.tasks.spawn(commit(shared.clone()));
        shared.tasks.spawn(rebalance(shared.clone()));
        tracing::info!(group = %shared.group, client = %shared.client.id(), "consumer started");
        Ok(consumer)
    }

    /// The queues that belong to this member now, those of the retry topic included.
    pub fn assigned_queues(&self) -> Vec<MessageQueue> {
        let namespace = self.client().namespace();
        self.shared().queues().keys().map(|queue| namespace.strip_queue(queue.clone())).collect()
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        self.client().namespace().strip_group(&self.shared().group)
    }

    /// The client this consumer consumes by.
    pub fn client(&self) -> &Client {
        &self.shared().client
    }

    /// Changes how many listener calls run at once, from [`concurrency`](PushConfig::concurrency). Calls under way end
    /// as they would have.
    ///
    /// # Errors
    /// [`Error::Client`] where it is not from 1 to 100000.
    pub fn set_concurrency(&self, concurrency: usize) -> Result<(), Error> {
        PushConfig { concurrency, ..PushConfig::default() }.check()?;
        let shared = self.shared();
        if shared.stopped.is_cancelled() {
            return Ok(());
        }
        if shared.is_ordered() {
            shared.ordered_calls.set(concurrency);
        } else {
            shared.want_workers(concurrency);
        }
        Ok(())
    }

    /// Fetches nothing and begins no listener call until [`resume`](Self::resume). Calls under way go on, and the queues
    /// stay with this member: nobody else consumes them.
    pub fn suspend(&self) {
        self.shared().suspension.set(true);
    }

    /// Ends a suspension.
    pub fn resume(&self) {
        self.shared().suspension.set(false);
    }

    /// Whether the consumer is suspended.
    pub fn is_suspended(&self) -> bool {
        self.shared().is_suspended()
    }

    /// Fetches no more, waits for the listener calls under way, records the offsets, leaves the group and ends all
    /// connections. Messages that were fetched and not begun come again.
    ///
    /// # Errors
    /// [`Error::Unfinished`] where calls were still under way after
    /// [`shutdown_timeout`](PushConfig::shutdown_timeout), or offsets could not be recorded; everything has ended all
    /// the same, and those messages come again.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let shared = self.shared();
        if shared.shut_down.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let deadline = Deadline::after(shared.config.shutdown_timeout);
        shared.stopped.cancel();
        shared.tasks.close();
        let in_hand = || shared.queues().values().map(|assigned| assigned.in_hand()).sum();
        let messages = match shared.finish(deadline).await {
            true => 0,
            false => in_hand(),
        };
        shared.given_up.cancel();
        shared.tasks.wait().await;
        let queues: Vec<_> = shared.queues().values().cloned().collect();
        let locked: Vec<_> = queues
            .iter()
            .filter(|assigned| assigned.is_locked_queue())
            .map(|assigned| assigned.queue.clone())
            .collect();
        let count = queues.len();
        let recording = shared.record_all_anew(queues);
        let unrecorded = timeout(deadline.at_least(CLOSING).remaining(), recording).await.unwrap_or(count);
        let _ = timeout(deadline.at_least(CLOSING).remaining(), shared.give_up_locks(locked)).await;
        shared.client.unregister_consumer(&shared.group).await;
        if shared.owns_client {
            shared.client.shutdown(deadline.at_least(CLOSING)).await;
        }
        tracing::info!(group = %shared.group, messages, unrecorded, "consumer shut down");
        match messages == 0 && unrecorded == 0 {
            true => Ok(()),
            false => Err(Error::Unfinished { messages, queues: unrecorded }),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

impl Shared {
    pub(crate) fn queues(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Arc<AssignedQueue>>> {
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is subscribed to now.
    pub(crate) fn subscriptions(&self) -> Arc<Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The one text of a topic that is subscribed to.
    pub(crate) fn shared_topic(&self, topic: &str) -> Arc<str> {
        self.subscriptions().get_key_value(topic).map_or_else(|| topic.into(), |(topic, _)| topic.clone())
    }

    pub(crate) fn is_ordered(&self) -> bool {
        self.listener.as_ref().is_some_and(|listener| listener.is_ordered)
    }

    /// Whether the broker has to lock a queue before it is consumed.
    pub(crate) fn locks_queues(&self) -> bool {
        self.is_ordered() && !self.is_broadcast
    }

    /// How many messages a listener call gets at most.
    pub(crate) fn calls_worth(&self) -> usize {
        match &self.listener {
            Some(listener) if !listener.takes_one() => self.config.consume_batch,
            _ => 1,
        }
    }

    /// How often a message that failed comes again.
    pub(crate) fn max_reconsume_times(&self) -> i32 {
        let default = if self.is_ordered() { i32::MAX } else { DEFAULT_RECONSUME_TIMES };
        self.config.max_reconsume_times.unwrap_or(default)
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspension.is_on()
    }

    pub(crate) async fn resumed(&self) {
        self.suspension.wait(false).await;
    }

    pub(crate) async fn suspended(&self) {
        self.suspension.wait(true).await;
    }

    pub(crate) fn passes_filter(&self, _: &rocketmq_common::StoredMessage) -> bool {
        true
    }

    /// Waits until all tasks have ended, renewing locks meanwhile; false where the deadline comes first.
    async fn finish(&self, deadline: Deadline) -> bool {
        let done = CancellationToken::new();
        let wait = async {
            let finished = timeout_at(deadline.instant(), self.tasks.wait()).await.is_ok();
            done.cancel();
            finished
        };
        tokio::join!(wait, self.keep_locks(&done)).0
    }

    async fn look_routes_up(self: &Arc<Self>) {
        let mut looking_up = JoinSet::new();
        for topic in self.subscriptions().keys() {
            let (client, topic) = (self.client.clone(), topic.clone());
            looking_up.spawn(async move {
                if let Err(error) = client.route(&topic).await {
                    tracing::debug!(%topic, error = &error as &dyn std::error::Error, "no route yet");
                }
            });
        }
        while looking_up.join_next().await.is_some() {}
    }
}

/// The subscriptions by topic, that to the group's retry topic included.
fn parse(group: &str, given: Vec<(String, Filter)>) -> Result<Subscriptions, Error> {
    if given.is_empty() {
        return Err(Error::NoSubscription);
    }
    let version_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let version_ms = i64::try_from(version_ms).unwrap_or(i64::MAX);
    let mut parsed = Subscriptions::new();
    for (topic, filter) in given {
        check_topic(&topic).map_err(rocketmq_common::Error::from)?;
        let data = filter.subscription(&topic, version_ms);
        let data = data.map_err(|source| Error::Filter { topic: topic.clone(), source })?;
        match parsed.get(topic.as_str()) {
            Some(known) if **known != data => return Err(Error::Clash { topic }),
            _ => parsed.insert(topic.into(), Arc::new(data)),
        };
    }
    let retry_topic = retry_topic(group);
    if let Ok(data) = Filter::all().subscription(&retry_topic, version_ms) {
        parsed.insert(retry_topic.into(), Arc::new(data));
    }
    Ok(parsed)
}

/// The subscriptions as the wire knows them.
fn wrapped(
    namespace: &Namespace,
    plain: BTreeMap<Arc<str>, Arc<SubscriptionData>>,
) -> Result<BTreeMap<Arc<str>, Arc<SubscriptionData>>, Error> {
    if namespace.name().is_none() {
        return Ok(plain);
    }
    let wrap = |(topic, data): (Arc<str>, Arc<SubscriptionData>)| {
        let topic = namespace.wrap_shared(topic);
        check_topic(&topic).map_err(rocketmq_common::Error::from)?;
        let data = SubscriptionData { topic: topic.to_string(), ..data.as_ref().clone() };
        Ok((topic, Arc::new(data)))
    };
    plain.into_iter().map(wrap).collect()
}

/// What recording offsets and closing connections get even where waiting has used up the time.
const CLOSING: Duration = Duration::from_secs(1);
/// Java: `DefaultMQPushConsumerImpl.getMaxReconsumeTimes`.
const DEFAULT_RECONSUME_TIMES: i32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_topic_is_subscribed_to_as_well() {
        let parsed = parse("g", vec![("t".into(), Filter::tags("a"))]).unwrap();
        let topics: Vec<_> = parsed.keys().map(|topic| topic.to_string()).collect();
        assert_eq!(topics, ["%RETRY%g", "t"]);
    }

    #[test]
    fn a_namespace_stands_before_every_topic() {
        let namespace = Namespace::new("NS").unwrap();
        let parsed = wrapped(&namespace, parse("g", vec![("t".into(), Filter::tags("a"))]).unwrap()).unwrap();
        let topics: Vec<_> = parsed.iter().map(|(topic, data)| (&**topic, &*data.topic)).collect();
        assert_eq!(topics, [("%RETRY%NS%g", "%RETRY%NS%g"), ("NS%t", "NS%t")]);
    }

    #[test]
    fn two_filters_for_one_topic_clash_unless_they_are_the_same() {
        let twice = |one, other| parse("g", vec![("t".into(), Filter::tags(one)), ("t".into(), Filter::tags(other))]);
        assert!(matches!(twice("a", "b"), Err(Error::Clash { .. })));
        assert!(twice("a", "a").is_ok());
        assert!(matches!(parse("g", vec![]), Err(Error::NoSubscription)));
    }
}
