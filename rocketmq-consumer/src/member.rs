use crate::{
    Error, Filter, OffsetStore, PushConfig,
    ack_queue::AckQueue,
    assigned::AssignedQueue,
    commit_gate::CommitGates,
    dispatch::{Dispatcher, Workers},
    handle::{Handle, Stop},
    interceptor::Interceptors,
    limit::Limit,
    listener::{FilterHook, Listener},
    missing_topics::find_missing_topics,
    offset::commit,
    offset_file::OffsetFile,
    offset_store::Offsets,
    operator::Operators,
    option_conflicts::{check_client, check_sharing},
    polling::{Polling, keep_routes},
    pop_group::PopGroup,
    rebalance::{being_given_up, rebalance},
    report::Report,
    share::Sharing,
    stall::StallWatch,
    start_offset::FirstRoutes,
    statistics::{Meters, sample},
    subscriptions::{Subscriptions, clash, look_routes_up, one_more, remove, renew, supersede_known},
    suspension::Suspension,
    unequal::Rounds,
    wiring::{Wired, Wiring},
};
use rocketmq_common::{
    Client, Ending, Health, MessageQueue, StoredMessage,
    message::names::retry_topic,
    protocol::{ConsumeType, ConsumerData, MessageModel},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{runtime::Handle as Runtime, sync::Notify, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How a member of a group consumes.
#[derive(Debug)]
pub(crate) struct Manner {
    pub(crate) listener: Option<Listener>,
    pub(crate) filter: Option<FilterHook>,
    pub(crate) interceptors: Interceptors,
    pub(crate) is_broadcast: bool,
    pub(crate) sharing: Sharing,
    pub(crate) offset_store: Option<Arc<dyn OffsetStore>>,
    pub(crate) polling: Option<Polling>,
    pub(crate) config: PushConfig,
}

impl Manner {
    pub(crate) fn new(config: PushConfig) -> Self {
        Self {
            listener: None,
            filter: None,
            interceptors: Interceptors::default(),
            is_broadcast: false,
            sharing: Sharing::default(),
            offset_store: None,
            polling: None,
            config,
        }
    }
}

/// One member of a group: takes its queues, fetches from them, and records how far the group is.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) client: Client,
    pub(crate) group: Arc<str>,
    pub(crate) config: PushConfig,
    pub(crate) listener: Option<Listener>,
    filter: Option<FilterHook>,
    pub(crate) interceptors: Interceptors,
    pub(crate) meters: Meters,
    pub(crate) operators: Operators,
    pub(crate) report: Report,
    /// What comparing the subscriptions of the group's members has come to, by topic.
    pub(crate) compared: Mutex<BTreeMap<Arc<str>, Rounds>>,
    pub(crate) is_broadcast: bool,
    pub(crate) sharing: Sharing,
    pub(crate) offsets: Offsets,
    pub(crate) commit_gates: CommitGates,
    pub(crate) first_routes: FirstRoutes,
    /// Of a consumer whose user fetches the messages, instead of being called.
    pub(crate) polling: Option<Polling>,
    /// By which the group pops where brokers have it do so.
    pub(crate) pops: PopGroup,
    pub(crate) acks: AckQueue,
    pub(crate) subscriptions: Mutex<Arc<Subscriptions>>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) workers: Workers,
    pub(crate) stall_watch: StallWatch,
    pub(crate) ordered_calls: Limit,
    suspension: Suspension,
    pub(crate) members_changed: Arc<Notify>,
    /// Held for reading by those who take or give up the queues of one topic, for writing by those who change several.
    pub(crate) changing_queues: tokio::sync::RwLock<()>,
    /// A lock was lost.
    pub(crate) locks_wanted: Notify,
    /// By broker: held by the one who renews locks there or gives them up.
    pub(crate) lock_calls: Mutex<BTreeMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
    queues: Mutex<BTreeMap<MessageQueue, Arc<AssignedQueue>>>,
    /// Popped queues that are ours no more, of which messages are.
    pub(crate) left: Mutex<Vec<Arc<AssignedQueue>>>,
    pub(crate) owns_client: bool,
    /// The client's heartbeats name the group because of this member.
    pub(crate) registered: AtomicBool,
    runtime: Runtime,
    pub(crate) tasks: TaskTracker,
    /// Nothing new is begun.
    pub(crate) stopped: CancellationToken,
    /// What is in hand is given up, too.
    pub(crate) given_up: CancellationToken,
    pub(crate) ending: Ending<Result<(), Error>>,
}

impl Member {
    pub(crate) async fn start(wiring: Wiring, manner: Manner) -> Result<Handle<Self>, Error> {
        let Manner { listener, filter, interceptors, is_broadcast, sharing, offset_store, polling, mut config } =
            manner;
        config.check()?;
        check_client(wiring.client.is_some(), &config.client)?;
        check_sharing(&sharing, is_broadcast, polling.as_ref().is_some_and(Polling::is_assigned))?;
        if is_broadcast {
            // The file of its offsets is found by this name.
            let shared = wiring.client.as_ref().filter(|_| offset_store.is_none());
            if shared.is_some_and(|client| client.config().instance_name.is_none()) {
                let message = "is needed by a broadcast consumer on a shared client: its offset file is found by it";
                return Err(rocketmq_common::Error::Config { option: "instance_name", message }.into());
            }
            config.client.instance_name.get_or_insert_with(|| "DEFAULT".to_owned());
        }
        // In a broadcast nothing comes again, and what is polled is its user's from then on.
        let has_retries = !is_broadcast && polling.is_none();
        let Wired { client, owns_client, group, subscriptions } = wiring.wire(&config.client, has_retries).await?;
        let offsets = match offset_store {
            Some(store) => Offsets::Own(store),
            None if is_broadcast => {
                Offsets::File(Arc::new(OffsetFile::open(config.offset_dir.as_deref(), client.id(), &group)?))
            }
            None => Offsets::Brokers,
        };
        let is_ordered = listener.as_ref().is_some_and(|listener| listener.is_ordered);
        let pops = PopGroup {
            client: client.clone(),
            group: group.clone(),
            start_at: config.start_at,
            is_ordered: false,
            without_batches: Arc::default(),
            max_reconsume_times: config.reconsume_limit(is_ordered),
        };
        let report = Report::new(client.clone(), group.clone());
        let member = Arc::new(Self {
            stall_watch: StallWatch::new(group.clone(), &Runtime::current()),
            client,
            group,
            pops,
            acks: AckQueue::default(),
            ordered_calls: Limit::new(config.concurrency),
            listener,
            filter,
            interceptors,
            meters: Meters::default(),
            operators: Operators::default(),
            report,
            compared: Mutex::default(),
            is_broadcast,
            sharing,
            offsets,
            commit_gates: CommitGates::default(),
            first_routes: FirstRoutes::default(),
            polling,
            subscriptions: Mutex::new(Arc::new(subscriptions)),
            dispatcher: Dispatcher::default(),
            workers: Workers::default(),
            suspension: Suspension::default(),
            members_changed: Arc::new(Notify::new()),
            changing_queues: tokio::sync::RwLock::default(),
            locks_wanted: Notify::new(),
            lock_calls: Mutex::default(),
            config,
            queues: Mutex::default(),
            left: Mutex::default(),
            owns_client,
            registered: AtomicBool::new(false),
            runtime: Runtime::current(),
            tasks: TaskTracker::new(),
            stopped: CancellationToken::new(),
            given_up: CancellationToken::new(),
            ending: Ending::new(Runtime::current()),
        });
        if member.is_in_group() {
            let data = member.consumer_data(&member.subscriptions());
            member.client.register_consumer(data, member.members_changed.clone())?;
            member.registered.store(true, Ordering::Release);
            member.answer_operators();
        }
        // From here on, a dropped future drops the handle, and that stops everything.
        let handle = Handle::new(member.clone());
        member.look_routes_up().await;
        if member.is_in_group() {
            member.client.heartbeat().await;
        }
        if member.is_ordered() {
            let locking = member.clone();
            member.spawn(async move { locking.keep_locks(&locking.stopped).await });
        } else if member.listener.is_some() {
            member.want_workers(member.config.concurrency);
        }
        member.spawn(commit(member.clone()));
        match member.is_in_group() {
            true => {
                member.spawn(find_missing_topics(member.clone()));
                member.spawn(rebalance(member.clone()))
            }
            false => member.spawn(keep_routes(member.clone())),
        };
        member.spawn(sample(member.clone()));
        member.stop_with_runtime();
        tracing::info!(group = %member.group, client = %member.client.id(), "consumer started");
        Ok(handle)
    }

    /// The queues that belong to this member now, as the user names them.
    pub(crate) fn assigned_queues(&self) -> Vec<MessageQueue> {
        let namespace = self.client.namespace();
        self.queues().keys().map(|queue| namespace.strip_queue(queue.clone())).collect()
    }

    pub(crate) fn health(&self) -> Health {
        let mut health = self.client.health();
        health.assigned_queues = Some(self.queues().len());
        health.conditions.extend(self.report.conditions.current());
        health
    }

    /// The group, as the user names it.
    pub(crate) fn group(&self) -> &str {
        self.client.namespace().strip_group(&self.group)
    }

    pub(crate) fn suspend(&self, is_on: bool) {
        self.suspension.set(is_on);
    }

    pub(crate) fn set_concurrency(self: &Arc<Self>, concurrency: usize) {
        if self.stopped.is_cancelled() {
            return;
        }
        if self.is_ordered() {
            self.ordered_calls.set(concurrency);
        } else if self.listener.is_some() {
            self.want_workers(concurrency);
        }
    }

    pub(crate) async fn subscribe(self: &Arc<Self>, topic: String, filter: &Filter) -> Result<(), Error> {
        let new = one_more(&self.client, &self.group, topic.clone(), filter).await?;
        self.change_subscriptions(new.keys().cloned().collect(), |subscriptions| {
            if self.has_retries() && clash(&retry_topic(&self.group), subscriptions, &new) {
                return Err(Error::Clash { topic });
            }
            renew(subscriptions, new);
            Ok(())
        })
        .await
    }

    pub(crate) async fn unsubscribe(self: &Arc<Self>, topic: &str) -> Result<(), Error> {
        let topic: Arc<str> = self.client.namespace().wrap(topic).into();
        self.change_subscriptions(BTreeSet::new(), |subscriptions| {
            // Nobody subscribed to that: it is how what has failed comes again.
            if self.has_retries() && *topic == *retry_topic(&self.group) {
                return Ok(());
            }
            remove(subscriptions, &topic)?;
            self.report.topic_gone(&topic);
            subscriptions.remove(&self.pop_retry_topic(&topic));
            Ok(())
        })
        .await
    }

    pub(crate) fn queues(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Arc<AssignedQueue>>> {
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// All queues of which something may be in hand.
    pub(crate) fn queues_begun(&self) -> Vec<Arc<AssignedQueue>> {
        let left = self.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.queues().values().chain(&*left).cloned().collect()
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

    /// Whether what has failed comes again by the retry topic of the group.
    fn has_retries(&self) -> bool {
        !self.is_broadcast && self.polling.is_none()
    }

    /// Whether the queues are shared out in a group; else the user says which are ours.
    pub(crate) fn is_in_group(&self) -> bool {
        self.polling.as_ref().is_none_or(|polling| !polling.is_assigned())
    }

    pub(crate) fn expect_in_group(&self) -> Result<(), Error> {
        if self.is_in_group() { Ok(()) } else { Err(Error::SubscribedAndAssigned) }
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
        self.pops.max_reconsume_times
    }

    /// Has a task of this member run in the runtime it was started in, wherever that is called: in another one, which may
    /// end before, or in none.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn_on(task, &self.runtime)
    }

    /// Nothing goes on once the runtime has ended: then nobody is to wait for it.
    fn stop_with_runtime(&self) {
        let (stopped, stops) = (self.stopped.clone(), self.stopped.clone().drop_guard());
        self.spawn(async move {
            stopped.cancelled().await;
            drop(stops);
        });
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

    /// Whether there is a filter of the user's own.
    pub(crate) fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether the user's own filter lets a message pass.
    pub(crate) fn passes_filter(&self, message: &StoredMessage) -> bool {
        let Some(FilterHook(filter)) = &self.filter else { return true };
        let message = self.as_the_user_sees_it(message);
        catch_unwind(AssertUnwindSafe(|| filter(&message))).unwrap_or_else(|_| {
            tracing::error!(
                group = %self.group, topic = message.topic(), message_id = %message.printable_id(),
                "the filter panicked: the message passes"
            );
            true
        })
    }

    fn consumer_data(&self, subscriptions: &Subscriptions) -> ConsumerData {
        ConsumerData {
            group_name: self.group.to_string(),
            consume_type: if self.polling.is_some() { ConsumeType::Actively } else { ConsumeType::Passively },
            message_model: if self.is_broadcast { MessageModel::Broadcasting } else { MessageModel::Clustering },
            consume_from_where: self.config.start_at.on_the_wire(),
            subscription_data_set: subscriptions.values().map(|data| data.as_ref().clone()).collect(),
            unit_mode: self.client.config().unit_mode,
        }
    }

    /// Changes what is subscribed to. Of the topics named, brokers take the new filter whatever they know of the group.
    pub(crate) async fn change_subscriptions(
        self: &Arc<Self>,
        topics: BTreeSet<Arc<str>>,
        change: impl FnOnce(&mut Subscriptions) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        {
            let mut subscriptions = self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            change(Arc::make_mut(&mut subscriptions))?;
            // Before somebody else changes them.
            self.client.update_consumer(self.consumer_data(&subscriptions));
        }
        let member = self.clone();
        self.to_its_end(async move { member.follow_subscriptions(topics).await }).await
    }

    /// Gives up the queues of topics that have gone or have another filter, and tells the brokers.
    async fn follow_subscriptions(self: &Arc<Self>, topics: BTreeSet<Arc<str>>) {
        let changing = self.changing_queues.write().await;
        self.supersede(topics).await;
        let current = self.subscriptions();
        let is_current = |assigned: &AssignedQueue| {
            let known = current.get(&assigned.queue.topic);
            known.is_some_and(|data| data.sub_version == assigned.subscription.sub_version)
        };
        let gone: Vec<_> = self.queues().values().filter(|assigned| !is_current(assigned)).cloned().collect();
        let given_up = being_given_up(&gone);
        self.withdraw(&gone);
        let locked = self.revoke_all(gone).await;
        self.tell_given_up(given_up);
        self.commit_gates.retain(|topic| current.contains_key(topic));
        self.first_routes.retain(|topic| current.contains_key(topic));
        drop(changing);
        // A call may go on for long; its queue is given up when it ends.
        let given_up = async {
            for giving_up in locked {
                let _ = giving_up.await;
            }
        };
        let _ = timeout(self.config.revoke_timeout, given_up).await;
        self.look_routes_up().await;
        self.client.heartbeat().await;
        self.members_changed.notify_one();
    }

    /// Gives the subscriptions to some topics a version that brokers take.
    async fn supersede(&self, topics: BTreeSet<Arc<str>>) {
        let before = self.subscriptions();
        let mut renewed = before.as_ref().clone();
        renewed.retain(|topic, _| topics.contains(topic));
        supersede_known(&self.client, &self.group, &mut renewed).await;
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Somebody may have changed them meanwhile.
        let is_same =
            |topic: &str| subscriptions.get(topic).zip(before.get(topic)).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
        renewed
            .retain(|topic, data| is_same(topic) && !before.get(topic).is_some_and(|known| Arc::ptr_eq(known, data)));
        if !renewed.is_empty() {
            Arc::make_mut(&mut subscriptions).extend(renewed);
            self.client.update_consumer(self.consumer_data(&subscriptions));
        }
    }

    /// Does what is not to stop half-way, whether or not somebody goes on waiting for it: a queue that is half given up
    /// would be nobody's, and others wait for who records offsets.
    pub(crate) async fn to_its_end<F>(&self, work: F) -> Result<F::Output, Error>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let given_up = self.given_up.clone();
        let working = self.spawn(async move {
            tokio::select! {
                () = given_up.cancelled() => Err(Error::ShutDown),
                done = work => Ok(done),
            }
        });
        // It does not panic: what is left is a runtime that ends.
        working.await.unwrap_or(Err(Error::ShutDown))
    }

    pub(crate) async fn look_routes_up(self: &Arc<Self>) {
        for (topic, answer) in look_routes_up(&self.client, &self.subscriptions()).await {
            self.first_routes.note(&topic, &answer);
        }
    }
}

impl Stop for Member {
    fn stop(&self) {
        self.stopped.cancel();
        self.given_up.cancel();
        if self.registered.swap(false, Ordering::AcqRel) {
            self.client.forget_consumer(&self.group);
        }
    }
}
