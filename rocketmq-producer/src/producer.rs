use crate::{
    Error, PendingReceipt, ProducerBuilder, ProducerConfig, Select, SendReceipt,
    batch::encoded_size,
    detached::run_detached,
    detect::detect,
    fault::FaultTable,
    in_flight::{InFlightSend, InFlightSends},
    interceptor::{Interceptors, show},
    linger::{Lanes, Withdrawal, may_share},
    queued::Waiting,
    refresh::RecentRefreshes,
    registration::keep_registered,
    room::Room,
    select::RoundRobin,
    transaction::{CHECKS_WAITING, answer_checks},
};
use rocketmq_common::{
    Client, ClientConfig, Ending, Message, NameServerSource,
    message::names,
    protocol::{SendMessage, Stored},
    random::random_below,
    remote::{Answer, Deadline, ResponseCode},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{runtime::Handle as Runtime, sync::mpsc, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Sends messages of one producer group. A cheap handle: clone it, and send from as many tasks as you like.
///
/// [`shutdown`](Self::shutdown) lets sends under way finish; dropping the last handle stops everything at once.
#[derive(Clone, Debug)]
pub struct Producer(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stopped.cancel();
        if self.0.registered.swap(false, Ordering::AcqRel) {
            self.0.client.forget_producer(&self.0.group);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) config: ProducerConfig,
    pub(crate) next: RoundRobin,
    pub(crate) group: Arc<str>,
    template: Arc<str>,
    /// Whether the client is ours to shut down.
    owns_client: bool,
    /// The client's heartbeats name the group because of this producer.
    registered: AtomicBool,
    pub(crate) has_checker: bool,
    pub(crate) interceptors: Interceptors,
    /// Which brokers to avoid, where that is looked at.
    pub(crate) faults: Option<Arc<FaultTable>>,
    pub(crate) refreshes: RecentRefreshes,
    pub(crate) room: Room,
    pub(crate) lanes: Lanes,
    sends: InFlightSends,
    /// Everything that goes on beside the callers: further attempts, lanes, checks, probes.
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Runtime,
    pub(crate) stopped: CancellationToken,
    ending: Ending<Result<(), Error>>,
}

impl Producer {
    /// A producer of `group`, to be wired up and started.
    pub fn builder(group: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder {
            group: group.into(),
            name_servers: NameServerSource::default(),
            client: None,
            checker: None,
            interceptors: Interceptors::default(),
            config: ProducerConfig::default(),
        }
    }

    pub(crate) async fn start(builder: ProducerBuilder) -> Result<Self, Error> {
        let ProducerBuilder { group, name_servers, client, checker, interceptors, config } = builder;
        names::check_group(&group).map_err(rocketmq_common::Error::from)?;
        config.check()?;
        if client.is_some() && config.client != ClientConfig::default() {
            let message = "is set in the configuration, and the shared client has a configuration of its own";
            return Err(rocketmq_common::Error::Config { option: "client", message }.into());
        }
        let owns_client = client.is_none();
        let client = match client {
            Some(client) => client,
            None => Client::start(name_servers, config.client.clone()).await?,
        };
        let group = client.namespace().wrap_shared(group.into());
        names::check_group(&group).map_err(rocketmq_common::Error::from)?;
        let (check, checks) = mpsc::channel(CHECKS_WAITING);
        client.register_producer(&group, checker.is_some().then_some(check))?;
        let shared = Arc::new(Shared {
            client,
            faults: config.fault_tolerance.clone().map(|tolerance| Arc::new(FaultTable::new(tolerance))),
            refreshes: RecentRefreshes::default(),
            room: Room::new(config.max_pending, config.max_pending_bytes),
            lanes: Lanes::new(),
            interceptors,
            config,
            next: RoundRobin::beginning_at(random_below(1 << 20)),
            group,
            template: names::AUTO_CREATE_TOPIC.into(),
            owns_client,
            registered: AtomicBool::new(true),
            has_checker: checker.is_some(),
            sends: InFlightSends::default(),
            tasks: TaskTracker::new(),
            runtime: Runtime::current(),
            stopped: CancellationToken::new(),
            ending: Ending::new(Runtime::current()),
        });
        // From here on, a dropped future drops the handle, and that stops everything.
        let producer = Self(Arc::new(Handle(shared.clone())));
        if let Some(checker) = checker {
            shared.spawn(answer_checks(shared.clone(), checker, checks, shared.stopped.clone()));
            shared.spawn(keep_registered(shared.clone()));
        }
        if let Some(faults) = shared.faults.clone().filter(|faults| faults.tolerance().detector) {
            shared.spawn(detect(shared.clone(), faults));
        }
        if !owns_client {
            // Brokers it is connected to already do not know the group yet.
            shared.client.heartbeat().await;
        }
        tracing::info!(group = %shared.group, client = %shared.client.id(), "producer started");
        Ok(producer)
    }

    /// Sends a message and awaits the broker's word that it is stored.
    ///
    /// A failed attempt is repeated, on another broker where there is one, up to
    /// [`retries`](ProducerConfig::retries) times and within [`send_timeout`](ProducerConfig::send_timeout). The unique
    /// id stays the same, so a consumer can tell a message that was stored twice.
    ///
    /// ```no_run
    /// # async fn run(producer: rocketmq_producer::Producer) -> Result<(), rocketmq_producer::Error> {
    /// use rocketmq_producer::Message;
    ///
    /// let receipt = producer.send(Message::new("order-created", "o-17").tag("eu").sharding_key("user-7")).await?;
    /// println!("{} is in {} at {}", receipt.message_id, receipt.queue, receipt.queue_offset);
    /// producer.send_oneway(Message::new("seen", "o-17")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Message`] for a message that breaks a rule, before anything is sent; [`Error::Client`] where the topic
    /// does not exist or no name server answers; [`Error::NotSent`] names every attempt. After a time-out the message may have
    /// been stored all the same: [`Error::may_have_happened`] says so, and sending it again could store it twice.
    ///
    /// # Cancel safety
    /// Dropping the future makes no further attempt; one that has begun may still store the message. With
    /// [`linger`](ProducerConfig::linger), a message that waits for others is withdrawn; once its batch has left, the
    /// attempts of the batch go on.
    ///
    /// # Protocol
    /// `SEND_MESSAGE_V2` (310). Witness: golden `send_v2_request`, tests `send::*`.
    pub async fn send(&self, message: Message) -> Result<SendReceipt, Error> {
        self.send_selected(None, message).await
    }

    /// Sends a message to a queue of your choice: [`send`](Self::send) in all else.
    ///
    /// # Errors
    /// Also [`Error::NoSuchQueue`] and [`Error::BadSelection`] for a choice that is none.
    pub async fn send_to(&self, select: Select, message: Message) -> Result<SendReceipt, Error> {
        self.send_selected(Some(select), message).await
    }

    async fn send_selected(&self, select: Option<Select>, mut message: Message) -> Result<SendReceipt, Error> {
        let shared = self.shared();
        let deadline = Deadline::after(shared.config.send_timeout);
        let in_flight = shared.begin(deadline)?;
        let watch = shared.check(&mut message)?;
        if shared.gathers(&message, select.as_ref()) {
            let withdrawal = Withdrawal::default();
            let waiting = Waiting { watch, in_flight, room: None };
            let boarding = shared.clone().board(select, message, waiting, Some(withdrawal.clone()));
            let _on_drop = withdrawal.on_drop();
            return run_detached(shared, boarding).await?.await;
        }
        let sending = async {
            let is_reply = message.is_reply();
            let delivery = shared.prepare(message, select, deadline).await?;
            if is_reply { delivery.into_reply().receipt(shared).await } else { delivery.receipt(shared).await }
        };
        let result = sending.await;
        show(watch.as_ref(), &result);
        result
    }

    /// Queues a message, waiting only for room, and returns a future of the receipt.
    ///
    /// There is room for [`max_pending`](ProducerConfig::max_pending) messages and
    /// [`max_pending_bytes`](ProducerConfig::max_pending_bytes) that wait for the broker's word; who comes first gets it
    /// first. The send timeout begins when there is room.
    ///
    /// Messages queued one after the other for the same queue reach the broker in that order, as long as none of them
    /// fails. A broker that handles sends on several threads (`sendMessageThreadPoolNums`, as many as it has cores, up
    /// to 4) may still store two that are under way at once the other way round: await each receipt where that matters.
    ///
    /// # Errors
    /// As [`send`](Self::send), as far as they come up before the message is queued; the others come with the receipt.
    ///
    /// # Cancel safety
    /// The message takes its turn whether or not this future is polled, so that one that is kept holds up no others.
    /// Dropping the future withdraws the message while it waits; one that has been queued in the meantime is sent.
    pub async fn send_async(&self, message: Message) -> Result<PendingReceipt, Error> {
        self.send_async_selected(None, message).await
    }

    /// Queues a message for a queue of your choice: [`send_async`](Self::send_async) in all else.
    ///
    /// # Errors
    /// Also [`Error::NoSuchQueue`] and [`Error::BadSelection`] for a choice that is none.
    pub async fn send_async_to(&self, select: Select, message: Message) -> Result<PendingReceipt, Error> {
        self.send_async_selected(Some(select), message).await
    }

    async fn send_async_selected(&self, select: Option<Select>, mut message: Message) -> Result<PendingReceipt, Error> {
        let shared = self.shared();
        let watch = shared.check(&mut message)?;
        run_detached(shared, shared.clone().queue(select, message, watch)).await
    }

    /// Hands a message over without asking for an answer: the fastest way, and the only one that can lose a message
    /// without anybody learning of it.
    ///
    /// # Errors
    /// As [`send`](Self::send), as far as they come up before the message is queued. There is one attempt only.
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready sends nothing.
    pub async fn send_oneway(&self, message: Message) -> Result<(), Error> {
        self.send_oneway_selected(None, message).await
    }

    /// Hands a message for a queue of your choice over: [`send_oneway`](Self::send_oneway) in all else.
    ///
    /// # Errors
    /// Also [`Error::NoSuchQueue`] and [`Error::BadSelection`] for a choice that is none.
    pub async fn send_oneway_to(&self, select: Select, message: Message) -> Result<(), Error> {
        self.send_oneway_selected(Some(select), message).await
    }

    async fn send_oneway_selected(&self, select: Option<Select>, mut message: Message) -> Result<(), Error> {
        let shared = self.shared();
        let deadline = Deadline::after(shared.config.send_timeout);
        let _in_flight = shared.begin(deadline)?;
        let watch = shared.check(&mut message)?;
        let sending = async {
            let is_reply = message.is_reply();
            let mut delivery = shared.prepare(message, select, deadline).await?;
            if is_reply { delivery.into_reply().run_oneway(shared).await } else { delivery.run_oneway(shared).await }
        };
        let result = sending.await;
        if let Some(watch) = watch {
            watch.after(result.as_ref().map(|()| [].as_slice()));
        }
        result
    }

    /// Waits until every send that has begun before this call has its outcome, further attempts included; what lingers
    /// for others to travel with goes at once. Later sends go on meanwhile and are not waited for. It ends within the
    /// send timeout, or within that of a request that waits for its reply, also where a future of a send is kept without
    /// being polled, or the local step of a transaction takes longer; failures are told by the receipts.
    ///
    /// ```no_run
    /// # async fn run(producer: rocketmq_producer::Producer) -> Result<(), rocketmq_producer::Error> {
    /// use rocketmq_producer::Message;
    ///
    /// let mut pending = Vec::new();
    /// for number in 0..1000 {
    ///     pending.push(producer.send_async(Message::new("t", format!("{number}"))).await?);
    /// }
    /// producer.flush().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn flush(&self) {
        self.shared().flush().await;
    }

    /// Refuses further sends, lets those under way finish, leaves the group and ends all connections. One-way messages
    /// that are queued are written first.
    ///
    /// It ends by the [`shutdown_timeout`](ProducerConfig::shutdown_timeout), or half a second later where that was used up.
    /// A send whose future is kept without being polled is waited for until its own deadline.
    ///
    /// # Errors
    /// [`Error::Unfinished`] where sends had no outcome by then; everything has ended all the same.
    ///
    /// # Cancel safety
    /// Once this has been polled it goes on by itself, even if the future is dropped. A second call, at once or later, waits
    /// for the first and answers the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let shared = self.shared();
        let shut_down = || {
            shared.sends.close();
            let shared = shared.clone();
            async move { shared.shut_down().await }
        };
        shared.ending.once(shut_down).await.unwrap_or(Err(Error::ShutDown))
    }

    /// The state of this producer's client, for a health check: connections, heartbeats, and what fails at the moment.
    /// Nobody is asked, so it returns at once. A broker is connected when something is first sent to it.
    ///
    /// ```no_run
    /// # fn check(producer: &rocketmq_producer::Producer) {
    /// let health = producer.health();
    /// println!("{} brokers connected", health.connected_brokers.len());
    /// health.conditions.iter().for_each(|condition| println!("{condition}"));
    /// # }
    /// ```
    pub fn health(&self) -> rocketmq_common::Health {
        self.client().health()
    }

    /// Waits for `signal` and then [shuts down](Self::shutdown), whatever the signal's output is. Ends as well when the
    /// producer is shut down elsewhere.
    ///
    /// ```no_run
    /// # async fn run(producer: rocketmq_producer::Producer) -> Result<(), rocketmq_producer::Error> {
    /// // SIGTERM, as Kubernetes sends it: `tokio::signal::unix::signal(SignalKind::terminate())`.
    /// producer.shutdown_on(tokio::signal::ctrl_c()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// Before the signal, dropping the future changes nothing; afterwards as [`shutdown`](Self::shutdown).
    pub async fn shutdown_on(&self, signal: impl Future) -> Result<(), Error> {
        tokio::select! {
            _ = signal => {}
            () = self.shared().stopped.cancelled() => {}
        }
        self.shutdown().await
    }

    /// The producer group.
    pub fn group(&self) -> &str {
        self.client().namespace().strip_group(&self.shared().group)
    }

    /// The client this producer sends by.
    pub fn client(&self) -> &Client {
        &self.shared().client
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

impl Shared {
    /// Counts a send as in flight until `deadline`, unless there are to be no more.
    pub(crate) fn begin(&self, deadline: Deadline) -> Result<InFlightSend, Error> {
        self.sends.begin(deadline).ok_or(Error::ShutDown)
    }

    /// As [`begin`](Self::begin), for a send that may take as long as the user's code does.
    pub(crate) fn begin_unlimited(&self, deadline: Deadline) -> Result<InFlightSend, Error> {
        self.sends.begin_unlimited(deadline).ok_or(Error::ShutDown)
    }

    async fn flush(&self) {
        self.lanes.flush();
        self.sends.flush().await;
    }

    /// Ends by the shutdown timeout, and [`CLOSING`] later at the latest.
    async fn shut_down(&self) -> Result<(), Error> {
        let deadline = Deadline::after(self.config.shutdown_timeout);
        self.room.close();
        self.lanes.flush();
        // What has not ended by then is counted.
        let _ = timeout_at(deadline.instant(), self.sends.drain()).await;
        let sends = self.sends.len();
        self.stopped.cancel();
        self.tasks.close();
        let closing = deadline.at_least(CLOSING);
        if timeout_at(closing.instant(), self.tasks.wait()).await.is_err() {
            tracing::warn!(group = %self.group, "a transaction checker blocks its thread, not waited for any longer");
        }
        if self.registered.swap(false, Ordering::AcqRel) {
            let unregistering = self.client.unregister_producer(&self.group);
            if timeout_at(closing.instant(), unregistering).await.is_err() {
                tracing::debug!(group = %self.group, "a broker did not confirm in time that the group was left");
            }
        }
        if self.owns_client {
            self.client.shutdown(closing).await;
        }
        tracing::info!(group = %self.group, "producer shut down");
        if sends > 0 { Err(Error::Unfinished { sends }) } else { Ok(()) }
    }

    /// Runs something beside the callers, until it ends or the producer does.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stopped.clone();
        let until_stopped = async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = work => {}
            }
        };
        self.tasks.spawn_on(until_stopped, &self.runtime);
    }

    /// Whether a message waits for others to travel with, or for its turn among those that do.
    pub(crate) fn gathers(&self, message: &Message, select: Option<&Select>) -> bool {
        let in_order = || select.is_some() || message.properties().sharding_key().is_some();
        let lingers = !self.config.linger.is_zero() && !message.is_reply();
        lingers && (!self.goes_alone(message) || in_order())
    }

    /// Whether a message cannot be part of a batch, or fills one by itself.
    pub(crate) fn goes_alone(&self, message: &Message) -> bool {
        let is_large = encoded_size(message) >= self.config.linger_bytes;
        is_large || !may_share(message) || self.compression_of(message).is_some()
    }

    /// The header of a send; queue, broker and time are set by each attempt.
    pub(crate) fn header(&self, topic: Arc<str>) -> SendMessage {
        SendMessage {
            producer_group: self.group.clone(),
            topic: self.client.namespace().wrap_shared(topic),
            default_topic: self.template.clone(),
            default_topic_queue_nums: self.config.new_topic_queues,
            queue_id: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            flag: 0,
            properties: None,
            reconsume_times: Some(0),
            unit_mode: Some(self.client.config().unit_mode),
            max_reconsume_times: None,
            batch: Some(false),
            broker_name: None,
        }
    }

    pub(crate) fn is_safe_enough(&self, answer: &Answer<Stored>) -> bool {
        answer.code == ResponseCode::SUCCESS || !self.config.retry_when_not_stored_safely
    }
}

/// What closing connections gets even where draining has used up the time.
const CLOSING: std::time::Duration = std::time::Duration::from_millis(500);
