use crate::{
    Error, Filter, PushConfig, PushConsumerBuilder,
    assigned::AssignedQueue,
    dispatch::{Dispatcher, Workers},
    limit::Limit,
    listener::{FilterHook, Listener},
    offset::commit,
    offset_file::OffsetFile,
    rebalance::rebalance,
    suspension::Suspension,
};
use rocketmq_common::{
    Client, MessageQueue, NameServerSource, Namespace, StoredMessage,
    message::names::{check_group, check_topic, is_retry_topic, retry_topic},
    protocol::{ConsumeType, ConsumerData, ExpressionType, MessageModel, SubscriptionData},
    remote::Deadline,
};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
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
    filter: Option<FilterHook>,
    pub(crate) is_broadcast: bool,
    /// Where the offsets of a broadcast consumer are; those of another one are with the brokers.
    pub(crate) offset_file: Option<Arc<OffsetFile>>,
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
            filter: None,
            is_broadcast: false,
            config: PushConfig::default(),
        }
    }

    pub(crate) async fn start(builder: PushConsumerBuilder) -> Result<Self, Error> {
        let PushConsumerBuilder {
            group,
            name_servers,
            client,
            subscriptions,
            listener,
            filter,
            is_broadcast,
            mut config,
        } = builder;
        check_group(&group).map_err(rocketmq_common::Error::from)?;
        config.check()?;
        let mut subscriptions = parse(&group, subscriptions)?;
        if is_broadcast {
            // Nothing comes again.
            subscriptions.remove(retry_topic(&group).as_str());
            // The file of its offsets is found by this name.
            config.client.instance_name.get_or_insert_with(|| "DEFAULT".to_owned());
        }
        let owns_client = client.is_none();
        let client = match client {
            Some(client) => client,
            None => Client::start(name_servers, config.client.clone()).await?,
        };
        let group = client.namespace().wrap(&group).into_owned();
        check_group(&group).map_err(rocketmq_common::Error::from)?;
        let subscriptions = wrapped(client.namespace(), subscriptions)?;
        for data in subscriptions.values() {
            check_filter(&client, &group, data).await?;
        }
        let offset_file = match is_broadcast {
            true => Some(Arc::new(OffsetFile::open(config.offset_dir.as_deref(), client.id(), &group)?)),
            false => None,
        };
        let members_changed = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            client,
            group: group.into(),
            ordered_calls: Limit::new(config.concurrency),
            listener,
            filter,
            is_broadcast,
            offset_file,
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
        shared.client.register_consumer(shared.consumer_data(), shared.members_changed.clone())?;
        // From here on, a dropped future drops the handle, and that stops everything.
        let consumer = Self(Arc::new(Handle(shared.clone())));
        shared.look_routes_up().await;
        shared.client.heartbeat().await;
        if shared.is_ordered() {
            let locking = shared.clone();
            shared.tasks.spawn(async move { locking.keep_locks(&locking.stopped).await });
        } else if shared.listener.is_some() {
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
        } else if shared.listener.is_some() {
            shared.want_workers(concurrency);
        }
        Ok(())
    }

    /// Subscribes to a topic more, or to one with another filter. All members of a group must do so. The brokers know
    /// when this returns.
    ///
    /// # Errors
    /// As [`start`](PushConsumerBuilder::start) where it is about the topic or its filter; [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// Once the filter has been checked the subscription holds, even if the future is dropped.
    pub async fn subscribe(&self, topic: impl Into<String>, filter: Filter) -> Result<(), Error> {
        let (shared, topic) = (self.shared(), topic.into());
        let plain = Arc::new(parse_one(&topic, &filter, now_ms())?);
        let new = wrapped(shared.client.namespace(), [(topic.into(), plain)].into())?;
        for data in new.values() {
            check_filter(&shared.client, &shared.group, data).await?;
        }
        shared
            .change_subscriptions(|subscriptions| {
                for (topic, mut data) in new {
                    if let Some(known) = subscriptions.get(&topic) {
                        // Brokers take a newer version only.
                        Arc::make_mut(&mut data).sub_version = data.sub_version.max(known.sub_version + 1);
                    }
                    subscriptions.insert(topic, data);
                }
            })
            .await
    }

    /// Unsubscribes from a topic: waits for the messages in hand, up to [`revoke_timeout`](PushConfig::revoke_timeout),
    /// records how far the group is, and tells the brokers. Unknown topics are none of its business.
    ///
    /// # Errors
    /// [`Error::NoSubscription`] for the last topic: that is what [`shutdown`](Self::shutdown) is for;
    /// [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// Once this has been polled the subscription is gone, even if the future is dropped.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), Error> {
        let shared = self.shared();
        let topic = shared.client.namespace().wrap(topic);
        if !shared.subscriptions().keys().any(|known| **known != *topic && !is_retry_topic(known)) {
            return Err(Error::NoSubscription);
        }
        shared.change_subscriptions(|subscriptions| _ = subscriptions.remove(&*topic)).await
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

    pub(crate) fn shared(&self) -> &Arc<Shared> {
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

    /// Whether the user's own filter lets a message pass.
    pub(crate) fn passes_filter(&self, message: &StoredMessage) -> bool {
        let Some(FilterHook(filter)) = &self.filter else { return true };
        let message = self.as_the_user_sees_it(message);
        catch_unwind(AssertUnwindSafe(|| filter(&message))).unwrap_or_else(|_| {
            tracing::error!(
                group = %self.group, topic = message.topic(), message_id = %message.message_id(),
                "the filter panicked: the message passes"
            );
            true
        })
    }

    /// Waits until all tasks have ended, renewing locks meanwhile; false where the deadline comes first.
    async fn finish(&self, deadline: Deadline) -> bool {
        let done = CancellationToken::new();
        let wait = async {
            let all_done = async {
                // Deliveries of a stream are in nobody's hands but the user's.
                let queues: Vec<_> = self.queues().values().cloned().collect();
                for assigned in queues {
                    assigned.wait_none_in_hand().await;
                }
                self.tasks.wait().await;
            };
            let finished = timeout_at(deadline.instant(), all_done).await.is_ok();
            done.cancel();
            finished
        };
        tokio::join!(wait, self.keep_locks(&done)).0
    }

    fn consumer_data(&self) -> ConsumerData {
        ConsumerData {
            group_name: self.group.to_string(),
            consume_type: ConsumeType::Passively,
            message_model: if self.is_broadcast { MessageModel::Broadcasting } else { MessageModel::Clustering },
            consume_from_where: self.config.start_at.on_the_wire(),
            subscription_data_set: self.subscriptions().values().map(|data| data.as_ref().clone()).collect(),
            unit_mode: self.client.config().unit_mode,
        }
    }

    /// Changes what is subscribed to, gives up the queues of topics that have gone or have another filter, and tells
    /// the brokers.
    async fn change_subscriptions(self: &Arc<Self>, change: impl FnOnce(&mut Subscriptions)) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let current = {
            let mut subscriptions = self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            change(Arc::make_mut(&mut subscriptions));
            subscriptions.clone()
        };
        let changing = self.changing_queues.lock().await;
        let is_current = |assigned: &AssignedQueue| {
            let known = current.get(&assigned.queue.topic);
            known.is_some_and(|data| data.sub_version == assigned.subscription.sub_version)
        };
        let gone: Vec<_> = self.queues().values().filter(|assigned| !is_current(assigned)).cloned().collect();
        let locked = self.revoke_all(gone).await;
        drop(changing);
        // A call may go on for long; its queue is given up when it ends.
        let given_up = async {
            for giving_up in locked {
                let _ = giving_up.await;
            }
        };
        let _ = timeout(self.config.revoke_timeout, given_up).await;
        self.client.update_consumer(self.consumer_data());
        self.look_routes_up().await;
        self.client.heartbeat().await;
        self.members_changed.notify_one();
        Ok(())
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
    let version_ms = now_ms();
    let mut parsed = Subscriptions::new();
    for (topic, filter) in given {
        let data = parse_one(&topic, &filter, version_ms)?;
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

fn parse_one(topic: &str, filter: &Filter, version_ms: i64) -> Result<SubscriptionData, Error> {
    check_topic(topic).map_err(rocketmq_common::Error::from)?;
    filter.subscription(topic, version_ms).map_err(|source| Error::Filter { topic: topic.to_owned(), source })
}

/// Has a broker look whether it can filter that way; what a client can do itself needs no look.
///
/// # Protocol
/// Java: `MQClientInstance.checkClientInBroker`.
async fn check_filter(client: &Client, group: &str, data: &SubscriptionData) -> Result<(), Error> {
    if data.expression_type == ExpressionType::Tag {
        return Ok(());
    }
    match client.check_subscription(group, data).await {
        Ok(()) => Ok(()),
        // It is checked with the first pull, then.
        Err(rocketmq_common::Error::TopicNotFound { .. }) => Ok(()),
        Err(source) if source.response_code().is_some() => {
            let topic = client.namespace().strip_shared(data.topic.as_str().into()).to_string();
            Err(Error::FilterRefused { topic, source })
        }
        Err(error) => Err(error.into()),
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
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
