use crate::{
    ConsumeInterceptor, Error, IntoOutcome, MessageStream, PushConfig, PushConsumer,
    listener::Listener,
    member::Manner,
    option_conflicts::{check_listener, check_stream},
    share::sharing_setters,
    wiring::{Wiring, manner_setters, wiring_setters},
};
use rocketmq_common::StoredMessage;
use std::{future::Future, sync::Arc};

/// Wires a push consumer up; made by [`PushConsumer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until start"]
pub struct PushConsumerBuilder {
    wiring: Wiring,
    manner: Manner,
}

impl PushConsumerBuilder {
    pub(crate) fn new(group: String) -> Self {
        Self { wiring: Wiring::new(group), manner: Manner::new(PushConfig::default()) }
    }

    wiring_setters!();
    manner_setters!();
    sharing_setters!();

    /// What to do with each message. `Ok` means done; after `Err`, and after a panic, the message comes again later; an
    /// [`Outcome`](crate::Outcome) can say more. Up to [`concurrency`](PushConfig::concurrency) calls run at once, in no
    /// order.
    ///
    /// The listener runs on threads of the async runtime, so it must not block them: no blocking I/O, no
    /// `std::thread::sleep`, no long computations between two `.await`s. While it blocks a thread, nothing else runs there:
    /// heartbeats, commits, timers and tasks of yours are late, and with as many calls at once as the runtime has threads
    /// they stand still. Code that blocks goes into a [`blocking_listener`](Self::blocking_listener), or into
    /// `tokio::task::spawn_blocking`. A listener that blocks for a second in all within a minute is logged once, at WARN;
    /// from then on a multi-threaded runtime has other threads take over while a call blocks.
    pub fn listener<F, C>(mut self, listener: F) -> Self
    where
        F: Fn(StoredMessage) -> C + Send + Sync + 'static,
        C: Future<Output: IntoOutcome> + Send + 'static,
    {
        self.manner.listener = Some(Listener::one(false, listener));
        self
    }

    /// As [`listener`](Self::listener), up to [`consume_batch`](PushConfig::consume_batch) messages a call. `Ok` means
    /// that all are done, `Err` that none is.
    pub fn batch_listener<F, C>(mut self, listener: F) -> Self
    where
        F: Fn(Vec<StoredMessage>) -> C + Send + Sync + 'static,
        C: Future<Output: IntoOutcome> + Send + 'static,
    {
        self.manner.listener = Some(Listener::many(false, listener));
        self
    }

    /// As [`listener`](Self::listener), for a plain function, which may block: each call runs on a thread of its own,
    /// outside of the async runtime. There are as many threads as calls at once, up to
    /// [`concurrency`](PushConfig::concurrency); idle ones end after 10 s. `Handle::current()` is the runtime the consumer
    /// was started in.
    ///
    /// A thread cannot be interrupted: a call that is under way when [`shutdown`](crate::PushConsumer::shutdown) runs out
    /// of time is reported as unfinished and runs to its end, or to that of the process, but its outcome no longer counts.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
    /// use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
    ///
    /// let consumer = PushConsumer::builder("archive").name_servers(["127.0.0.1:9876"])
    ///     .subscribe("order-created", Filter::all())
    ///     .blocking_listener(|message: StoredMessage| {
    ///         std::fs::write(format!("/archive/{}", message.message_id()), message.body())
    ///     })
    ///     .start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn blocking_listener<F, O>(mut self, listener: F) -> Self
    where
        F: Fn(StoredMessage) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        self.manner.listener = Some(Listener::blocking_one(false, listener));
        self
    }

    /// As [`blocking_listener`](Self::blocking_listener), up to [`consume_batch`](PushConfig::consume_batch) messages a
    /// call, with outcomes as of a [`batch_listener`](Self::batch_listener).
    pub fn blocking_batch_listener<F, O>(mut self, listener: F) -> Self
    where
        F: Fn(Vec<StoredMessage>) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        self.manner.listener = Some(Listener::blocking_many(false, listener));
        self
    }

    /// As [`ordered_listener`](Self::ordered_listener), for a plain function, which may block; it runs as a
    /// [`blocking_listener`](Self::blocking_listener) does. The lock of a queue whose call outlasts a shutdown is not given
    /// up: it expires at the broker a minute after it was last renewed.
    pub fn ordered_blocking_listener<F, O>(mut self, listener: F) -> Self
    where
        F: Fn(StoredMessage) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        self.manner.listener = Some(Listener::blocking_one(true, listener));
        self
    }

    /// As [`ordered_blocking_listener`](Self::ordered_blocking_listener), up to
    /// [`consume_batch`](PushConfig::consume_batch) messages a call, in order. Only those that failed come again.
    pub fn ordered_blocking_batch_listener<F, O>(mut self, listener: F) -> Self
    where
        F: Fn(Vec<StoredMessage>) -> O + Send + Sync + 'static,
        O: IntoOutcome,
    {
        self.manner.listener = Some(Listener::blocking_many(true, listener));
        self
    }

    /// What to do with each message, where those of a queue have to be consumed in their order: there is one call at a
    /// time for each queue, in the whole group. After `Err`, and after a panic, the queue waits for
    /// [`suspend_time`](PushConfig::suspend_time), then the same message comes again.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
    /// use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
    ///
    /// let consumer = PushConsumer::builder("ledger").name_servers(["127.0.0.1:9876"])
    ///     .subscribe("account-changed", Filter::all())
    ///     .ordered_listener(|message: StoredMessage| async move { book(&message).await })
    ///     .start().await?;
    /// # async fn book(_: &StoredMessage) -> Result<(), std::io::Error> { Ok(()) }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Protocol
    /// The broker locks each queue for the member that consumes it: `LOCK_BATCH_MQ` (41) when the queue is taken and
    /// every 20 s, `UNLOCK_BATCH_MQ` (42) when the last call has ended. Java: `ConsumeMessageOrderlyService`. Unlike
    /// there, a queue that goes to another member is never unlocked while a call is under way.
    pub fn ordered_listener<F, C>(mut self, listener: F) -> Self
    where
        F: Fn(StoredMessage) -> C + Send + Sync + 'static,
        C: Future<Output: IntoOutcome> + Send + 'static,
    {
        self.manner.listener = Some(Listener::one(true, listener));
        self
    }

    /// As [`ordered_listener`](Self::ordered_listener), up to [`consume_batch`](PushConfig::consume_batch) messages a
    /// call, in order. Only those that failed come again.
    pub fn ordered_batch_listener<F, C>(mut self, listener: F) -> Self
    where
        F: Fn(Vec<StoredMessage>) -> C + Send + Sync + 'static,
        C: Future<Output: IntoOutcome> + Send + 'static,
    {
        self.manner.listener = Some(Listener::many(true, listener));
        self
    }

    /// Every member of the group gets all messages, and keeps its own offsets in a local file. A message that fails is
    /// logged and does not come again.
    ///
    /// The file belongs to a client id. So the default of [`instance_name`](rocketmq_common::ClientConfig::instance_name)
    /// is here `DEFAULT`, which stays the same over restarts, and a second member of the group on the same machine needs
    /// a name of its own, or both overwrite each other's file. On a [shared client](Self::client), whose id is another
    /// one after each restart unless it has an `instance_name`, it needs that name, or an
    /// [`offset_store`](Self::offset_store): [`start`](Self::start) refuses it otherwise.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
    /// use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
    ///
    /// let consumer = PushConsumer::builder("caches").name_servers(["127.0.0.1:9876"])
    ///     .subscribe("prices-changed", Filter::all()).broadcast()
    ///     .listener(|message: StoredMessage| async move { Ok::<_, String>(println!("{message:?}")) })
    ///     .start().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Protocol
    /// Java: `MessageModel.BROADCASTING`, with the file and its place as there, so that one can take over from the other.
    pub fn broadcast(mut self) -> Self {
        self.manner.is_broadcast = true;
        self
    }

    /// Adds one who sees the messages before and after each call of the listener, behind those that were added before; see
    /// [`ConsumeInterceptor`].
    pub fn interceptor(mut self, interceptor: impl ConsumeInterceptor) -> Self {
        self.manner.interceptors.push(Arc::new(interceptor));
        self
    }

    /// How to consume. Default: [`PushConfig::default`].
    pub fn config(mut self, config: PushConfig) -> Self {
        self.manner.config = config;
        self
    }

    /// Starts to consume.
    ///
    /// # Errors
    /// [`Error::NoListener`], [`Error::NoSubscription`], [`Error::Clash`], [`Error::Filter`] for what is missing or
    /// wrong; [`Error::Client`] for a bad name or option, for an option that another one would make the consumer ignore,
    /// and where no name server answers within the request timeout. A topic that does not exist
    /// yet is no error: it is consumed once it does.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<PushConsumer, Error> {
        let listener = self.manner.listener.as_ref().ok_or(Error::NoListener)?;
        check_listener(&self.manner.config, listener)?;
        PushConsumer::start(self.wiring, self.manner).await
    }

    /// Starts to consume, message by message, without a listener.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use rocketmq_consumer::{Filter, PushConsumer};
    ///
    /// let consumer = PushConsumer::builder("billing").name_servers(["127.0.0.1:9876"]);
    /// let mut messages = consumer.subscribe("order-created", Filter::all()).stream().await?;
    /// while let Some(message) = messages.next().await {
    ///     bill(&message).await?;
    ///     message.ack();
    /// }
    /// # Ok(())
    /// # }
    /// # async fn bill(_: &rocketmq_consumer::StoredMessage) -> Result<(), std::io::Error> { Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`start`](Self::start); [`Error::Client`] where there is a listener, or an option for one: `concurrency`,
    /// `consume_batch`, `consume_timeout`, `suspend_time`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn stream(self) -> Result<MessageStream, Error> {
        if self.manner.listener.is_some() {
            let message = "is set, and a stream calls none";
            return Err(rocketmq_common::Error::Config { option: "listener", message }.into());
        }
        check_stream(&self.manner.config)?;
        PushConsumer::start(self.wiring, self.manner).await.map(MessageStream::new)
    }
}
