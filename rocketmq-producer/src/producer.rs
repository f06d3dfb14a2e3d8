use crate::{
    Error, PendingReceipt, ProducerBuilder, ProducerConfig, Select, SendReceipt,
    select::RoundRobin,
    transaction::{CHECKS_WAITING, answer_checks},
};
use rocketmq_common::{
    Client, Message,
    message::names,
    protocol::{SendMessage, Stored},
    random::random_below,
    remote::{Answer, Deadline, ResponseCode},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

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
    pub(crate) has_checker: bool,
    sends: TaskTracker,
    /// The tasks that answer checks.
    pub(crate) tasks: TaskTracker,
    stopped: CancellationToken,
    shut_down: AtomicBool,
}

impl Producer {
    /// A producer of `group`, to be wired up and started.
    pub fn builder(group: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder {
            group: group.into(),
            name_servers: Vec::new(),
            client: None,
            checker: None,
            config: ProducerConfig::default(),
        }
    }

    pub(crate) async fn start(builder: ProducerBuilder) -> Result<Self, Error> {
        let ProducerBuilder { group, name_servers, client, checker, config } = builder;
        names::check_group(&group).map_err(rocketmq_common::Error::from)?;
        config.check()?;
        let owns_client = client.is_none();
        let client = match client {
            Some(client) => client,
            None => Client::start(name_servers, config.client.clone()).await?,
        };
        let group: Arc<str> = group.into();
        let (check, checks) = mpsc::channel(CHECKS_WAITING);
        client.register_producer(&group, checker.is_some().then_some(check))?;
        tracing::info!(%group, client = %client.id(), "producer started");
        let shared = Arc::new(Shared {
            client,
            config,
            next: RoundRobin::beginning_at(random_below(1 << 20)),
            group,
            template: names::AUTO_CREATE_TOPIC.into(),
            owns_client,
            has_checker: checker.is_some(),
            sends: TaskTracker::new(),
            tasks: TaskTracker::new(),
            stopped: CancellationToken::new(),
            shut_down: AtomicBool::new(false),
        });
        if let Some(checker) = checker {
            let stopped = shared.stopped.clone();
            let answering = answer_checks(shared.clone(), checker, checks, stopped.clone());
            shared.tasks.spawn(async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = answering => {}
                }
            });
        }
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Sends a message and awaits the broker's word that it is stored.
    ///
    /// A failed attempt is repeated, on another broker where there is one, up to
    /// [`retries`](ProducerConfig::retries) times and within [`send_timeout`](ProducerConfig::send_timeout). The unique
    /// id stays the same, so a consumer can tell a message that was stored twice.
    ///
    /// # Errors
    /// [`Error::Message`] for a message that breaks a rule, before anything is sent; [`Error::Client`] where the topic
    /// does not exist or no name server answers; [`Error::NotSent`] names every attempt.
    ///
    /// # Cancel safety
    /// Dropping the future makes no further attempt; one that has begun may still store the message.
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

    async fn send_selected(&self, select: Option<Select>, message: Message) -> Result<SendReceipt, Error> {
        let _under_way = self.under_way()?;
        let mut delivery = self.shared().prepare(message, select).await?;
        let (queue, answer) = delivery.run(self.shared()).await?;
        Ok(SendReceipt::new(delivery.message_id, queue, answer))
    }

    /// Queues a message, waiting only for room on the connection, and returns a future of the receipt.
    ///
    /// Messages queued one after the other for the same queue reach the broker in that order, as long as none of them
    /// fails. A broker that handles sends on several threads (`sendMessageThreadPoolNums`, as many as it has cores, up
    /// to 4) may still store two that are under way at once the other way round: await each receipt where that matters.
    ///
    /// # Errors
    /// As [`send`](Self::send), as far as they come up before the message is queued; the others come with the receipt.
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready sends nothing.
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

    async fn send_async_selected(&self, select: Option<Select>, message: Message) -> Result<PendingReceipt, Error> {
        let under_way = self.under_way()?;
        let mut delivery = self.shared().prepare(message, select).await?;
        let queued = delivery.queue(self.shared()).await?;
        Ok(PendingReceipt::new(self.shared().clone(), delivery, queued, under_way))
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

    async fn send_oneway_selected(&self, select: Option<Select>, message: Message) -> Result<(), Error> {
        let _under_way = self.under_way()?;
        self.shared().prepare(message, select).await?.run_oneway(self.shared()).await
    }

    /// Refuses further sends, lets those under way finish, leaves the group and ends all connections. One-way messages
    /// that are queued are written first. Receipts of [`send_async`](Self::send_async) that are neither awaited nor
    /// dropped count as under way.
    ///
    /// # Errors
    /// [`Error::Unfinished`] where sends were still under way after
    /// [`shutdown_timeout`](ProducerConfig::shutdown_timeout); everything has ended all the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let shared = self.shared();
        if shared.shut_down.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let deadline = Deadline::after(shared.config.shutdown_timeout);
        shared.sends.close();
        let drained = timeout(deadline.remaining(), shared.sends.wait()).await;
        let sends = shared.sends.len();
        shared.stopped.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        shared.client.unregister_producer(&shared.group).await;
        if shared.owns_client {
            shared.client.shutdown(deadline.at_least(CLOSING)).await;
        }
        tracing::info!(group = %shared.group, "producer shut down");
        drained.map_err(|_| Error::Unfinished { sends })
    }

    /// The producer group.
    pub fn group(&self) -> &str {
        &self.shared().group
    }

    /// The client this producer sends by.
    pub fn client(&self) -> &Client {
        &self.shared().client
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Counts a send as under way, unless there are to be no more.
    pub(crate) fn under_way(&self) -> Result<TaskTrackerToken, Error> {
        let token = self.shared().sends.token();
        if self.shared().shut_down.load(Ordering::Acquire) { Err(Error::ShutDown) } else { Ok(token) }
    }
}

impl Shared {
    /// The header of a send; queue, broker and time are set by each attempt.
    pub(crate) fn header(&self, topic: Arc<str>) -> SendMessage {
        SendMessage {
            producer_group: self.group.clone(),
            topic,
            default_topic: self.template.clone(),
            default_topic_queue_nums: self.config.new_topic_queues,
            queue_id: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            flag: 0,
            properties: None,
            reconsume_times: Some(0),
            unit_mode: Some(false),
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
