use crate::{
    Error, Filter, PushConfig, PushConsumerBuilder,
    dispatch::{Dispatcher, work},
    fetch::AssignedQueue,
    listener::Listener,
    offset::commit,
    rebalance::rebalance,
};
use rocketmq_common::{
    Client, MessageQueue, NameServerSource, Namespace,
    message::names::{check_group, check_topic, retry_topic},
    protocol::{ConsumeType, ConsumerData, ExpressionType, MessageModel, SubscriptionData},
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
    pub(crate) listener: Listener,
    pub(crate) subscriptions: BTreeMap<Arc<str>, Arc<SubscriptionData>>,
    pub(crate) expression_type: Arc<str>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) members_changed: Arc<Notify>,
    queues: Mutex<BTreeMap<MessageQueue, Arc<AssignedQueue>>>,
    owns_client: bool,
    pub(crate) tasks: TaskTracker,
    /// Nothing new is begun.
    pub(crate) stopped: CancellationToken,
    /// What is in hand is given up, too.
    pub(crate) given_up: CancellationToken,
    shut_down: AtomicBool,
}

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
            config,
            listener,
            subscriptions,
            expression_type: ExpressionType::Tag.name().into(),
            dispatcher: Dispatcher::default(),
            members_changed,
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
        for _ in 0..shared.config.concurrency {
            shared.tasks.spawn(work(shared.clone()));
        }
        shared.tasks.spawn(commit(shared.clone()));
        shared.spawn_until_stopped(rebalance(shared.clone()));
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
        let queues: Vec<_> = shared.queues().values().cloned().collect();
        shared.tasks.close();
        let finished = timeout_at(deadline.instant(), shared.tasks.wait()).await.is_ok();
        let messages = queues.iter().map(|assigned| assigned.in_hand()).sum();
        if !finished {
            shared.given_up.cancel();
            shared.tasks.wait().await;
        }
        let count = queues.len();
        let recording = shared.record_all_anew(queues);
        let unrecorded = timeout(deadline.at_least(CLOSING).remaining(), recording).await.unwrap_or(count);
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

    /// The one text of a topic that is subscribed to.
    pub(crate) fn shared_topic(&self, topic: &str) -> Arc<str> {
        self.subscriptions.get_key_value(topic).map_or_else(|| topic.into(), |(topic, _)| topic.clone())
    }

    async fn look_routes_up(self: &Arc<Self>) {
        let mut looking_up = JoinSet::new();
        for topic in self.subscriptions.keys() {
            let (client, topic) = (self.client.clone(), topic.clone());
            looking_up.spawn(async move {
                if let Err(error) = client.route(&topic).await {
                    tracing::debug!(%topic, error = &error as &dyn std::error::Error, "no route yet");
                }
            });
        }
        while looking_up.join_next().await.is_some() {}
    }

    fn spawn_until_stopped(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stopped.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// The subscriptions by topic, that to the group's retry topic included.
fn parse(group: &str, given: Vec<(String, Filter)>) -> Result<BTreeMap<Arc<str>, Arc<SubscriptionData>>, Error> {
    if given.is_empty() {
        return Err(Error::NoSubscription);
    }
    let version_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let version_ms = i64::try_from(version_ms).unwrap_or(i64::MAX);
    let mut parsed: BTreeMap<Arc<str>, Arc<SubscriptionData>> = BTreeMap::new();
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
