use crate::{
    Error, Filter, Position, PullConsumerBuilder,
    handle::Handle,
    member::Member,
    offset_store::Offsets,
    polling::Choice,
    pull_once::{Pulled, pull_once},
    shutdown::until_signal,
    source::Sources,
};
use rocketmq_common::{Client, MessageQueue, StoredMessage};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Fetches messages when its user asks for them, from queues that are shared out in a group, or that the user chooses. A
/// cheap handle.
///
/// Messages are fetched ahead in the background, up to the limits of [`PullConfig`](crate::PullConfig). Nothing comes
/// again by itself: there are no retries and no dead letters. [`shutdown`](Self::shutdown) records the offsets; dropping
/// the last handle stops everything at once. So does the end of the runtime that it was started in; it may be used from any
/// other.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use rocketmq_consumer::{Filter, PullConsumer};
/// use std::time::Duration;
///
/// let puller = PullConsumer::builder("audit").name_servers(["127.0.0.1:9876"])
///     .subscribe("order-created", Filter::all()).start().await?;
/// for message in puller.poll(Duration::from_secs(1)).await? {
///     println!("{message:?}");
/// }
/// puller.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Protocol
/// Java: `DefaultLitePullConsumer`.
#[derive(Clone, Debug)]
pub struct PullConsumer {
    handle: Arc<Handle<Member>>,
    /// Of single pulls.
    sources: Arc<Sources>,
}

impl PullConsumer {
    /// A consumer of `group`, to be wired up and started.
    pub fn builder(group: impl Into<String>) -> PullConsumerBuilder {
        PullConsumerBuilder::new(group.into())
    }

    pub(crate) fn new(handle: Handle<Member>) -> Self {
        Self { handle: Arc::new(handle), sources: Arc::default() }
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.handle
    }

    /// The next messages, all of one queue and in its order: what one pull has brought. None where the time is up.
    ///
    /// With [`auto_commit`](crate::PullConfig::auto_commit) a poll says that whatever the polls before it answered is
    /// done. So who polls from several tasks has to commit by hand.
    ///
    /// # Errors
    /// [`Error::Undecodable`] where the next message of a queue cannot be decoded: the queue waits until it is
    /// [skipped](Self::skip). [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn poll(&self, timeout: Duration) -> Result<Vec<StoredMessage>, Error> {
        self.handle.poll(timeout).await
    }

    /// Records, for all queues, that what the polls so far have answered is done, and waits until the brokers have it.
    ///
    /// # Errors
    /// [`Error::NotRecorded`] where some could not be recorded: they will be in the background, or by the next call;
    /// [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// Once this has been polled the offsets are recorded sooner or later, even if the future is dropped.
    pub async fn commit(&self) -> Result<(), Error> {
        self.member().commit_polled().await
    }

    /// Records offsets of one's choice: of the next message the group has to consume in each queue. Positions stay.
    ///
    /// # Errors
    /// [`Error::NotAssigned`], [`Error::OffsetOutOfRange`] for one below 0: nothing is recorded then; [`Error::Client`]
    /// with [`auto_commit`](crate::PullConfig::auto_commit); else as [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// As [`commit`](Self::commit).
    pub async fn commit_offsets(&self, offsets: impl IntoIterator<Item = (MessageQueue, i64)>) -> Result<(), Error> {
        self.member().commit_offsets(offsets).await
    }

    /// The offset the group has recorded in a queue, whoever consumes it; `None` where there is none yet.
    ///
    /// # Errors
    /// [`Error::Client`] where there is no such topic, or the broker does not tell; [`Error::OffsetStore`] where a store of
    /// one's own does not.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        let queue = match self.handle.offsets {
            Offsets::Brokers => self.known_queue(queue).await?,
            Offsets::File(_) | Offsets::Own(_) => self.wire_queue(queue),
        };
        self.handle.recorded_offset(&queue).await
    }

    /// The offset of the message of a queue that comes next; `None` before it is known where to begin.
    ///
    /// # Errors
    /// [`Error::NotAssigned`].
    pub fn position(&self, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        self.handle.position(queue)
    }

    /// Goes on elsewhere in a queue: the next polls answer messages from there on. What was fetched before is dropped.
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::OffsetOutOfRange`] for an offset the queue does not have; [`Error::Client`]
    /// where the broker does not tell the offsets of the queue; [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// A future that is dropped changes nothing.
    pub async fn seek(&self, queue: &MessageQueue, position: Position) -> Result<(), Error> {
        self.handle.seek(queue, position).await
    }

    /// Polls answer nothing from these queues until [`resume`](Self::resume), and no more is fetched from them. A queue that
    /// goes to another member, or whose topic gets another filter, is not paused when it comes back.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] for the first that is not: then all go on.
    pub fn pause(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        self.handle.pause(queues)
    }

    /// Ends a pause. Other queues go on as they are.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] for the first that is not: then all pauses stay.
    pub fn resume(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        self.handle.resume(queues)
    }

    /// Fetches from these queues from now on, and no others. Those that stay go on where they are; of one that goes, what
    /// the last poll answered counts as with [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Errors
    /// [`Error::SubscribedAndAssigned`] where queues are shared out; [`Error::Client`] for a bad name;
    /// [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// Once this has been polled the queues are taken and given up, even if the future is dropped.
    pub async fn assign(&self, queues: impl IntoIterator<Item = MessageQueue>) -> Result<(), Error> {
        self.member().assign(Choice { queues: queues.into_iter().collect(), topics: BTreeSet::new() }).await
    }

    /// Fetches from all queues of these topics from now on, and no others, as
    /// [`assign`](Self::assign) of their queues; those that appear later are fetched from as well, see
    /// [`PullConsumerBuilder::assign_all`].
    ///
    /// # Errors
    /// As [`assign`](Self::assign).
    ///
    /// # Cancel safety
    /// As [`assign`](Self::assign).
    pub async fn assign_all(&self, topics: impl IntoIterator<Item = impl Into<String>>) -> Result<(), Error> {
        let topics = topics.into_iter().map(Into::into).collect();
        self.member().assign(Choice { queues: BTreeSet::new(), topics }).await
    }

    /// Subscribes to a topic more, or to one with another filter, as
    /// [`PushConsumer::subscribe`](crate::PushConsumer::subscribe). Another filter gives the queues of the topic up, and takes
    /// them again: see [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Errors
    /// As there; [`Error::SubscribedAndAssigned`] where the user chooses the queues.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn subscribe(&self, topic: impl Into<String>, filter: Filter) -> Result<(), Error> {
        self.handle.expect_in_group()?;
        self.member().subscribe(topic.into(), &filter).await
    }

    /// Unsubscribes from a topic, as [`PushConsumer::unsubscribe`](crate::PushConsumer::unsubscribe). With
    /// [`auto_commit`](crate::PullConfig::auto_commit), what the last poll answered from it is waited for, up to
    /// [`revoke_timeout`](crate::PullConfig::revoke_timeout), and comes again unless another poll or a
    /// [`commit`](Self::commit) says that it is done: call that before, where the task that polls awaits this.
    ///
    /// # Errors
    /// As there; [`Error::SubscribedAndAssigned`] where the user chooses the queues.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), Error> {
        self.handle.expect_in_group()?;
        self.member().unsubscribe(topic).await
    }

    /// Goes on behind a message that cannot be decoded: the one at `offset`, with which a poll has failed
    /// ([`Error::Undecodable`]). The message counts as done then.
    ///
    /// A message may be malformed, or its body not decompress. A poll does not pass it silently: it fails with that error, and
    /// the queue waits, while polls go on to answer messages of other queues; one that has none fails again.
    ///
    /// ```no_run
    /// # use rocketmq_consumer::{Error, PullConsumer};
    /// # async fn run(puller: PullConsumer) -> Result<(), Error> {
    /// match puller.poll(std::time::Duration::from_secs(1)).await {
    ///     Ok(messages) => println!("{} messages", messages.len()),
    ///     Err(Error::Undecodable { queue, offset, message, .. }) => {
    ///         puller.send_back(&message, -1).await?;
    ///         puller.skip(&queue, offset)?;
    ///     }
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotAssigned`]; [`Error::NothingToSkip`] where no such message waits at that offset.
    pub fn skip(&self, queue: &MessageQueue, offset: i64) -> Result<(), Error> {
        self.handle.skip(queue, offset)
    }

    /// Sends a message back to its broker for the group: with a `delay_level` of 0 (the broker chooses) or above to the
    /// group's retry topic, which a pull consumer reads only if it subscribes to it, and with -1 to its dead letter queue.
    /// The position of the queue does not change.
    ///
    /// # Errors
    /// [`Error::Client`] where no broker takes it; [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may have been sent back or not.
    ///
    /// # Protocol
    /// `CONSUMER_SEND_MSG_BACK` (36); Java: `DefaultMQPullConsumer.sendMessageBack`.
    pub async fn send_back(&self, message: &StoredMessage, delay_level: i32) -> Result<(), Error> {
        self.member().send_back_polled(message, delay_level).await
    }

    /// The state of this consumer, for a health check: connections, heartbeats, assigned queues, and what fails at the
    /// moment. Nobody is asked, so it returns at once. Names are those on the wire, with the namespace.
    ///
    /// ```no_run
    /// # fn check(consumer: &rocketmq_consumer::PullConsumer) {
    /// let health = consumer.health();
    /// if !health.is_ok() {
    ///     println!("{} brokers, queues: {:?}", health.connected_brokers.len(), health.assigned_queues);
    ///     health.conditions.iter().for_each(|condition| println!("{condition}"));
    /// }
    /// # }
    /// ```
    pub fn health(&self) -> rocketmq_common::Health {
        self.handle.health()
    }

    /// The queues that belong to this consumer now.
    pub fn assigned_queues(&self) -> Vec<MessageQueue> {
        self.handle.assigned_queues()
    }

    /// All queues of a topic that can be read, to choose from.
    ///
    /// # Errors
    /// [`Error::Client`] where there is no such topic, or no name server tells.
    pub async fn topic_queues(&self, topic: &str) -> Result<Vec<MessageQueue>, Error> {
        let namespace = self.handle.client.namespace();
        let route = self.handle.client.route(&namespace.wrap(topic).as_ref().into()).await;
        let route = route.map_err(|error| namespace.strip_error(error))?;
        Ok(route.read_queues().iter().map(|queue| namespace.strip_queue(queue.clone())).collect())
    }

    /// Pulls once, beside the polls: up to `max` messages (1 to 1024) of any queue from an offset on, which the broker holds
    /// up to `wait` where there is none. It changes no position and records nothing. A subscription to the topic filters.
    ///
    /// The master is asked, or the replica that it suggested the last time. Where the one that was asked cannot be
    /// reached, that is an error, and the next pull asks another one.
    ///
    /// ```no_run
    /// # async fn run(puller: rocketmq_consumer::PullConsumer) -> Result<(), rocketmq_consumer::Error> {
    /// # use std::time::Duration;
    /// let queue = rocketmq_consumer::MessageQueue::new("order-created", "broker-a", 0);
    /// let mut offset = puller.min_offset(&queue).await?;
    /// while offset < puller.max_offset(&queue).await? {
    ///     let pulled = puller.pull(&queue, offset, 32, Duration::ZERO).await?;
    ///     println!("{} messages", pulled.messages.len());
    ///     offset = pulled.next_offset;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Client`] for an offset below 0 or another `max`, with the broker's code where it refuses, and where it does
    /// not answer within `wait`, [`request_timeout`](crate::ClientConfig::request_timeout) and 5 s; [`Error::ShutDown`].
    /// [`Error::Undecodable`] where the first message cannot be decoded; messages before such a one are returned, up to its
    /// offset. To skip it, pull from its offset and 1 on.
    ///
    /// # Cancel safety
    /// A future that is dropped leaves nothing behind.
    ///
    /// # Protocol
    /// Java: `DefaultMQPullConsumer.pull` and `pullBlockIfNotFound`, `PullAPIWrapper.recalculatePullFromWhichNode`.
    pub async fn pull(&self, queue: &MessageQueue, offset: i64, max: i32, wait: Duration) -> Result<Pulled, Error> {
        pull_once(self.member(), &self.sources, self.wire_queue(queue), offset, max, wait).await
    }

    /// The first offset a queue still holds.
    ///
    /// # Errors
    /// [`Error::Client`] where the broker does not tell.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, Error> {
        let queue = self.known_queue(queue).await?;
        Ok(self.handle.client.min_offset(&queue).await?)
    }

    /// The next offset to be written in a queue.
    ///
    /// # Errors
    /// [`Error::Client`] where the broker does not tell.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, Error> {
        let queue = self.known_queue(queue).await?;
        Ok(self.handle.client.max_offset(&queue).await?)
    }

    /// The offset of the first message of a queue stored at or after `time`; its end where all are older. Brokers of 4.9
    /// answer the message that is closest instead.
    ///
    /// # Errors
    /// [`Error::Client`] where the broker does not tell.
    pub async fn offset_at(&self, queue: &MessageQueue, time: SystemTime) -> Result<i64, Error> {
        let queue = self.known_queue(queue).await?;
        Ok(self.handle.client.offset_at(&queue, time).await?)
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        self.handle.group()
    }

    /// The client this consumer fetches by.
    pub fn client(&self) -> &Client {
        &self.handle.client
    }

    /// Fetches no more, records the offsets, leaves the group and ends all connections. What the last poll answered
    /// counts as done only if [`commit`](Self::commit) said so.
    ///
    /// # Errors
    /// [`Error::Unfinished`] where offsets could not be recorded; everything has ended all the same. [`Error::ShutDown`]
    /// where the consumer's runtime has ended before.
    ///
    /// # Cancel safety
    /// Once this has been polled it goes on by itself, even if the future is dropped. A second call, at once or later, waits
    /// for the first and answers the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.member().shutdown().await
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
        until_signal(signal, &self.handle.stopped).await;
        self.shutdown().await
    }

    fn wire_queue(&self, queue: &MessageQueue) -> MessageQueue {
        self.handle.client.namespace().wrap_queue(queue.clone())
    }

    /// A queue as the wire knows it, once its topic's route is known.
    async fn known_queue(&self, queue: &MessageQueue) -> Result<MessageQueue, Error> {
        let queue = self.wire_queue(queue);
        let namespace = self.handle.client.namespace();
        self.handle.client.route(&queue.topic).await.map_err(|error| namespace.strip_error(error))?;
        Ok(queue)
    }
}
