use crate::{
    Error, Filter, PopConfig, PoppedMessage,
    handle::{Handle, Stop},
    option_conflicts::check_client,
    pop_config::{check_invisible, check_max},
    pop_group::{ALL_QUEUES, PopGroup, is_passing},
    pop_watch::Watches,
    report::Report,
    subscriptions::{Subscriptions, look_routes_up, one_more, remove, renew, supersede_known},
    wiring::{Wired, Wiring},
};
use rocketmq_common::{
    Backoff, ConditionKind, Ending, Error as ClientError, Health, MessageQueue,
    protocol::{ConsumeType, ConsumerData, MASTER_ID, MessageModel, SubscriptionData},
    random::random_u64,
    remote::Deadline,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle as Runtime,
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One member of a group that pops.
#[derive(Debug)]
pub(crate) struct Popper {
    pub(crate) pops: Arc<PopGroup>,
    pub(crate) report: Report,
    pub(crate) config: PopConfig,
    subscriptions: Mutex<Arc<Subscriptions>>,
    /// Where the next round of the brokers begins.
    turn: AtomicUsize,
    /// Until when brokers come last that have not answered.
    resting: Mutex<BTreeMap<Arc<str>, Instant>>,
    pub(crate) watches: Watches,
    owns_client: bool,
    /// The client's heartbeats name the group because of this member.
    registered: AtomicBool,
    runtime: Runtime,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopped: CancellationToken,
    ending: Ending<Result<(), Error>>,
}

/// What one round of all brokers came to.
#[derive(Debug, Default)]
struct Round {
    /// A broker answered, if only that it has nothing.
    answered: bool,
    /// Messages came, and nobody wants them.
    unwanted: bool,
    failure: Option<Error>,
}

impl Popper {
    pub(crate) async fn start(wiring: Wiring, config: PopConfig) -> Result<Handle<Self>, Error> {
        config.check()?;
        check_client(wiring.client.is_some(), &config.client)?;
        // What comes again does so by retry topics of the topics themselves, which are popped along with them.
        let Wired { client, owns_client, group, subscriptions } = wiring.wire(&config.client, false).await?;
        let pops = PopGroup {
            client,
            group,
            start_at: config.start_at,
            is_ordered: config.is_ordered,
            without_batches: Arc::default(),
            max_reconsume_times: config.max_reconsume_times,
        };
        let report = Report::new(pops.client.clone(), pops.group.clone());
        let popper = Arc::new(Self {
            pops: Arc::new(pops),
            report,
            config,
            subscriptions: Mutex::new(Arc::new(subscriptions)),
            turn: AtomicUsize::default(),
            resting: Mutex::default(),
            watches: Watches::default(),
            owns_client,
            registered: AtomicBool::new(false),
            runtime: Runtime::current(),
            tasks: TaskTracker::new(),
            stopped: CancellationToken::new(),
            ending: Ending::new(Runtime::current()),
        });
        // Nothing is shared out among the members, so nobody listens to who comes and goes.
        let data = popper.consumer_data(&popper.subscriptions());
        popper.pops.client.register_consumer(data, Arc::new(Notify::new()))?;
        popper.registered.store(true, Ordering::Release);
        // From here on, a dropped future drops the handle, and that stops everything.
        let handle = Handle::new(popper);
        handle.look_routes_up().await;
        handle.pops.client.heartbeat().await;
        tracing::info!(group = %handle.pops.group, client = %handle.pops.client.id(), "pop consumer started");
        Ok(handle)
    }

    pub(crate) fn health(&self) -> Health {
        let mut health = self.pops.client.health();
        health.conditions.extend(self.report.conditions.current());
        health
    }

    /// The group, as the user names it.
    pub(crate) fn group(&self) -> &str {
        self.pops.client.namespace().strip_group(&self.pops.group)
    }

    pub(crate) async fn receive(
        self: &Arc<Self>,
        max: usize,
        invisible: Duration,
    ) -> Result<Vec<PoppedMessage>, Error> {
        let max = check_max(max)?;
        let invisible_ms = check_invisible(invisible)?;
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(Error::ShutDown),
            received = self.receive_until_stopped(max, invisible_ms) => received,
        }
    }

    /// Asks the brokers in turn until one gives messages, or time is over.
    async fn receive_until_stopped(self: &Arc<Self>, max: i32, invisible_ms: i64) -> Result<Vec<PoppedMessage>, Error> {
        let until = Deadline::after(self.config.long_poll);
        let mut bell = self.watches.bell();
        let (mut failures, mut in_vain) = (0, 0);
        loop {
            let rung = bell.borrow_and_update().clone();
            let mut round = Round::default();
            for (target, subscription) in self.targets(rung, &mut round).await {
                match self.pop(target.clone(), subscription.clone(), max, invisible_ms).await {
                    Ok(popped) if !popped.is_empty() => {
                        self.report.queue_works(ConditionKind::Pop, &target);
                        return Ok(popped.claim());
                    }
                    Ok(popped) => {
                        self.report.queue_works(ConditionKind::Pop, &target);
                        round.answered = true;
                        round.unwanted |= popped.unwanted;
                        if !popped.unwanted && !until.has_passed() {
                            Watches::watch(self, &target, &subscription);
                        }
                    }
                    Err(error) => {
                        self.rest(&target, &error);
                        let in_a_row = if is_passing(&error) { failures + 1 } else { u32::MAX };
                        self.report.queue_failed(ConditionKind::Pop, &target, in_a_row, &error);
                        round.failure = Some(error);
                    }
                }
                if until.has_passed() {
                    break;
                }
            }
            let Round { answered, unwanted, failure } = round;
            match failure {
                Some(error) if !answered && (until.has_passed() || !is_passing(&error)) => return Err(error),
                _ if until.has_passed() => return Ok(Vec::new()),
                _ if unwanted => continue,
                Some(_) if !answered => failures += 1,
                _ => failures = 0,
            }
            let pause = if failures > 0 { BACKOFF.wait(failures, random_u64()) } else { LONGEST_PAUSE };
            // A broker may speak of messages that it does not give.
            let deaf = IN_VAIN.wait(in_vain, random_u64()).min(until.remaining());
            sleep(deaf).await;
            tokio::select! {
                _ = bell.changed() => in_vain += 1,
                () = sleep(pause.min(until.remaining())) => in_vain = 0,
            }
        }
    }

    /// What to pop from now: the one whose bell has rung first, then all others in turn.
    async fn targets(
        &self,
        rung: Option<MessageQueue>,
        round: &mut Round,
    ) -> Vec<(MessageQueue, Arc<SubscriptionData>)> {
        let mut targets = Vec::new();
        for (topic, subscription) in self.subscriptions().iter() {
            let route = match self.pops.client.route(topic).await {
                Ok(route) => {
                    match route.read_queues().is_empty() {
                        true => self.report.topic_is_missing(topic, "has no queue that may be read"),
                        false => self.report.topic_is_there(topic),
                    }
                    route
                }
                // It is consumed once it is there.
                Err(ClientError::TopicNotFound { .. }) => {
                    self.report.topic_is_missing(topic, "does not exist");
                    continue;
                }
                Err(error) => {
                    round.failure = Some(error.into());
                    continue;
                }
            };
            let owners: BTreeSet<&Arc<str>> = route.read_queues().iter().map(|queue| route.broker_of(queue)).collect();
            let masters = route.brokers().filter(|(_, addrs)| addrs.contains_key(&MASTER_ID));
            targets.extend(masters.filter(|(name, _)| owners.contains(name)).map(|(broker_name, _)| {
                (MessageQueue::new(topic.clone(), broker_name.clone(), ALL_QUEUES), subscription.clone())
            }));
        }
        if !targets.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len();
            targets.rotate_left(turn);
        }
        // Who has not answered is asked when nobody else has anything.
        targets.sort_by_cached_key(|(target, _)| self.rests(target));
        if let Some(at) = rung.and_then(|rung| targets.iter().position(|(target, _)| *target == rung)) {
            targets[..=at].rotate_right(1);
        }
        targets
    }

    /// A broker that does not answer is asked after the others for a while: each time may cost what a pop may take.
    fn rest(&self, target: &MessageQueue, error: &Error) {
        if matches!(error, Error::Client(error) if error.response_code().is_none()) {
            let mut resting = self.resting();
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            resting.insert(target.broker_name.clone(), now + REST);
        }
    }

    fn rests(&self, target: &MessageQueue) -> bool {
        self.resting().get(&target.broker_name).is_some_and(|until| *until > Instant::now())
    }

    fn resting(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Instant>> {
        self.resting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs a task in the runtime that the consumer was started in.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    pub(crate) async fn subscribe(self: &Arc<Self>, topic: String, filter: &Filter) -> Result<(), Error> {
        let mut new = one_more(&self.pops.client, &self.pops.group, topic, filter).await?;
        supersede_known(&self.pops.client, &self.pops.group, &mut new).await;
        self.change_subscriptions(|subscriptions| {
            renew(subscriptions, new);
            Ok(())
        })
        .await
    }

    pub(crate) async fn unsubscribe(self: &Arc<Self>, topic: &str) -> Result<(), Error> {
        let topic = self.pops.client.namespace().wrap(topic);
        self.change_subscriptions(|subscriptions| {
            remove(subscriptions, &topic)?;
            self.report.topic_gone(&topic);
            Ok(())
        })
        .await
    }

    /// Ends what waits, lets dead letters come through, leaves the group.
    pub(crate) async fn shutdown(self: &Arc<Self>) -> Result<(), Error> {
        let popper = self.clone();
        self.ending.once(|| async move { popper.shut_down_once().await }).await.unwrap_or(Err(Error::ShutDown))
    }

    async fn shut_down_once(&self) -> Result<(), Error> {
        let deadline = Deadline::after(self.config.shutdown_timeout);
        self.stopped.cancel();
        self.tasks.close();
        let finished = timeout_at(deadline.instant(), self.tasks.wait()).await.is_ok();
        let messages = if finished { 0 } else { self.tasks.len() };
        let leaving = deadline.at_least(CLOSING);
        if self.registered.swap(false, Ordering::AcqRel) {
            // Goes on in the background where a broker does not answer in time.
            let _ = timeout_at(leaving.instant(), self.pops.client.unregister_consumer(&self.pops.group)).await;
        }
        if self.owns_client {
            self.pops.client.shutdown(leaving).await;
        }
        tracing::info!(group = %self.pops.group, "pop consumer shut down");
        if finished { Ok(()) } else { Err(Error::Unfinished { messages, queues: 0, cause: None }) }
    }

    pub(crate) fn subscriptions(&self) -> Arc<Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn consumer_data(&self, subscriptions: &Subscriptions) -> ConsumerData {
        ConsumerData {
            group_name: self.pops.group.to_string(),
            // As Java's consumers that pop: the third kind is for proxies.
            consume_type: ConsumeType::Passively,
            message_model: MessageModel::Clustering,
            consume_from_where: self.config.start_at.on_the_wire(),
            subscription_data_set: subscriptions.values().map(|data| data.as_ref().clone()).collect(),
            unit_mode: self.pops.client.config().unit_mode,
        }
    }

    async fn change_subscriptions(
        &self,
        change: impl FnOnce(&mut Subscriptions) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        {
            let mut subscriptions = self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            change(Arc::make_mut(&mut subscriptions))?;
            // Before somebody else changes them.
            self.pops.client.update_consumer(self.consumer_data(&subscriptions));
        }
        self.look_routes_up().await;
        self.pops.client.heartbeat().await;
        Ok(())
    }

    async fn look_routes_up(&self) {
        let _ = look_routes_up(&self.pops.client, &self.subscriptions()).await;
    }
}

impl Stop for Popper {
    fn stop(&self) {
        self.stopped.cancel();
        if self.registered.swap(false, Ordering::AcqRel) {
            self.pops.client.forget_consumer(&self.pops.group);
        }
    }
}

/// While it waits a receiver asks this often all the same: brokers do not tell of everything that is there to be popped
/// again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// How long nobody listens to the bell after it rang in vain.
const IN_VAIN: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
/// How long leaving the group and closing connections get even if waiting has used up the time.
const CLOSING: Duration = Duration::from_secs(1);
