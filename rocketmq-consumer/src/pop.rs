use crate::{
    Error, Filter, PopConfig, PopConsumerBuilder, PoppedMessage, handle::Handle, pop_handle::Kept, popper::Popper,
    shutdown::until_signal, wiring::Wiring,
};
use rocketmq_common::Client;
use std::{sync::Arc, time::Duration};

/// Takes messages for a while, and settles them one by one. A cheap handle. Brokers from 5.0 on.
///
/// A message that is popped is hidden from the group for its invisible time. Whoever acknowledges it within that time is
/// done with it; otherwise it comes again, to any member. There is nothing to share out: every member pops from all
/// brokers, and a slow one holds nobody up. All members of a group pop, or none does.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use rocketmq_consumer::{Filter, PopConsumer};
/// use std::time::Duration;
///
/// let popper = PopConsumer::builder("jobs").name_servers(["127.0.0.1:9876"])
///     .subscribe("order-created", Filter::all())
///     .start().await?;
/// for message in popper.receive(32, Duration::from_secs(30)).await? {
///     bill(&message).await?;
///     message.ack().await?;
/// }
/// # Ok(())
/// # }
/// # async fn bill(_: &rocketmq_consumer::StoredMessage) -> Result<(), std::io::Error> { Ok(()) }
/// ```
///
/// # Protocol
/// `POP_MESSAGE` (200050) of all queues of a broker at once, `NOTIFICATION` (200054) while there is none. Java has no such
/// consumer on this protocol; its push consumer pops where an operator says so. Unlike that one this one keeps what
/// fails too often: as a dead letter.
#[derive(Clone, Debug)]
pub struct PopConsumer(Arc<Handle<Popper>>);

impl PopConsumer {
    /// A consumer of `group`, to be wired up and started.
    pub fn builder(group: impl Into<String>) -> PopConsumerBuilder {
        PopConsumerBuilder::new(group.into())
    }

    pub(crate) async fn start(wiring: Wiring, config: PopConfig) -> Result<Self, Error> {
        Popper::start(wiring, config).await.map(|handle| Self(Arc::new(handle)))
    }

    pub(crate) fn popper(&self) -> &Popper {
        &self.0
    }

    /// Takes up to `max` messages (1 to 32) and hides them for `invisible` (1 s to 12 h, which brokers keep to within a
    /// few seconds). They are of one topic and one broker, which take turns. Waits up to
    /// [`long_poll`](PopConfig::long_poll) for the first of them; none is no error. A broker that does not answer may add 10 s to
    /// that (20 s where messages come in order); it is asked after the others for a while then.
    ///
    /// # Errors
    /// [`Error::PopNotSupported`] by a broker before 5.0. [`Error::Client`] for a bad argument, and where no broker could be
    /// asked in time; trying again may succeed. [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped. While it waits for messages it has taken none; those that are on
    /// their way just then are made visible again at once, and come again about a second later, with
    /// [`reconsume_times`](rocketmq_common::StoredMessage::reconsume_times) raised by one.
    pub async fn receive(&self, max: usize, invisible: Duration) -> Result<Vec<PoppedMessage>, Error> {
        self.0.receive(max, invisible).await
    }

    /// Says that messages are done, in one request for each broker.
    ///
    /// # Errors
    /// As [`PoppedMessage::ack`]; the first error counts, and the messages of the other brokers are done all the same.
    /// Those of the same broker may come again. A broker passes over what makes no sense without a word.
    ///
    /// # Cancel safety
    /// If the future is dropped, some messages may be done and others come again.
    ///
    /// # Protocol
    /// `BATCH_ACK_MESSAGE` (200151). Java: `BatchAckMessageRequestBody`.
    pub async fn ack_all(&self, messages: impl IntoIterator<Item = &PoppedMessage>) -> Result<(), Error> {
        let kept: Vec<&Kept> = messages.into_iter().map(PoppedMessage::kept).collect();
        self.0.pops.ack_all(&kept).await
    }

    /// Says that a message is done whose [`receipt_handle`](PoppedMessage::receipt_handle) was kept as text, by another
    /// process perhaps. This consumer must be of the same group.
    ///
    /// # Errors
    /// [`Error::Handle`] for a text that is no handle, else as [`PoppedMessage::ack`]. Whether the invisible time is over
    /// is told by this machine's clock.
    pub async fn ack_handle(&self, receipt_handle: &str) -> Result<(), Error> {
        self.0.pops.ack(&Kept::parse(receipt_handle)?).await
    }

    /// Hides a message for `invisible` from now on whose [`receipt_handle`](PoppedMessage::receipt_handle) was kept as
    /// text; answers its new handle. The old one is worth nothing afterwards.
    ///
    /// # Errors
    /// [`Error::Handle`] for a text that is no handle, else as [`PoppedMessage::extend`].
    pub async fn extend_handle(&self, receipt_handle: &str, invisible: Duration) -> Result<String, Error> {
        let kept = self.0.pops.hide(&Kept::parse(receipt_handle)?, invisible).await?;
        Ok(kept.to_string())
    }

    /// Subscribes to a topic more, or to one with another filter. All members of a group must do so. The brokers know
    /// when this returns.
    ///
    /// # Errors
    /// As [`start`](PopConsumerBuilder::start) where it is about the topic or its filter; [`Error::ShutDown`].
    pub async fn subscribe(&self, topic: impl Into<String>, filter: Filter) -> Result<(), Error> {
        self.0.subscribe(topic.into(), &filter).await
    }

    /// Unsubscribes from a topic. What was popped from it can be settled all the same.
    ///
    /// # Errors
    /// [`Error::NoSubscription`] for the last topic: that is what [`shutdown`](Self::shutdown) is for;
    /// [`Error::ShutDown`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), Error> {
        self.0.unsubscribe(topic).await
    }

    /// The state of this consumer, for a health check: connections, heartbeats, assigned queues, and what fails at the
    /// moment. Nobody is asked, so it returns at once. Names are those on the wire, with the namespace.
    ///
    /// ```no_run
    /// # fn check(consumer: &rocketmq_consumer::PopConsumer) {
    /// let health = consumer.health();
    /// if !health.is_ok() {
    ///     println!("{} brokers, queues: {:?}", health.connected_brokers.len(), health.assigned_queues);
    ///     health.conditions.iter().for_each(|condition| println!("{condition}"));
    /// }
    /// # }
    /// ```
    pub fn health(&self) -> rocketmq_common::Health {
        self.0.health()
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        self.0.group()
    }

    /// The client this consumer consumes by.
    pub fn client(&self) -> &Client {
        &self.0.pops.client
    }

    /// Ends what waits for messages, leaves the group and ends all connections. Messages that were received and not
    /// settled come again.
    ///
    /// # Errors
    /// [`Error::Unfinished`] where messages were still on their way to the dead letter queue, or being made visible again
    /// for a dropped [`receive`](Self::receive), after [`shutdown_timeout`](PopConfig::shutdown_timeout); they come again. [`Error::ShutDown`] where the runtime that the
    /// consumer was started in has ended before.
    ///
    /// # Cancel safety
    /// Once this has been polled it goes on by itself, even if the future is dropped. A second call, at once or later, waits
    /// for the first and answers the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.0.shutdown().await
    }

    /// Waits for `signal` and then [shuts down](Self::shutdown), whatever the signal's output is. Ends as well when the
    /// consumer is shut down elsewhere.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// Before the signal, dropping the future changes nothing; afterwards as [`shutdown`](Self::shutdown).
    pub async fn shutdown_on(&self, signal: impl Future) -> Result<(), Error> {
        until_signal(signal, &self.0.stopped).await;
        self.shutdown().await
    }
}
