use crate::{
    Error, Filter, PushConfig, PushConsumerBuilder, Statistics,
    handle::Handle,
    member::{Manner, Member},
    shutdown::until_signal,
    wiring::Wiring,
};
use rocketmq_common::{Client, MessageQueue};
use std::sync::Arc;

/// Consumes messages by calling a listener, many at once. A cheap handle.
///
/// The members of a group share the queues of a topic; each queue belongs to one of them. [`shutdown`](Self::shutdown)
/// finishes what is in hand and records the offsets; dropping the last handle stops everything at once, and what was
/// not recorded comes again. The locks of ordered queues, which `shutdown` gives up, end by themselves then, within a
/// minute: nobody could say that no call goes on.
///
/// It may be used from any thread and any runtime. What it does goes on in the runtime that it was started in; when that
/// ends the consumer does, as if its last handle had been dropped, and answers [`Error::ShutDown`].
#[derive(Clone, Debug)]
pub struct PushConsumer(Arc<Handle<Member>>);

impl PushConsumer {
    /// A consumer of `group`, to be wired up and started.
    pub fn builder(group: impl Into<String>) -> PushConsumerBuilder {
        PushConsumerBuilder::new(group.into())
    }

    pub(crate) async fn start(wiring: Wiring, manner: Manner) -> Result<Self, Error> {
        Member::start(wiring, manner).await.map(|handle| Self(Arc::new(handle)))
    }

    /// The state of this consumer, for a health check: connections, heartbeats, assigned queues, and what fails at the
    /// moment. Nobody is asked, so it returns at once. Names are those on the wire, with the namespace.
    ///
    /// ```no_run
    /// # fn check(consumer: &rocketmq_consumer::PushConsumer) {
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

    /// The queues that belong to this member now, those of the retry topic included. Where an operator has the group
    /// [pop](PushConsumerBuilder::allocate_by_broker), a queue may be another member's as well, and the number -1 stands for
    /// all queues of its broker.
    pub fn assigned_queues(&self) -> Vec<MessageQueue> {
        self.0.assigned_queues()
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        self.0.group()
    }

    /// The client this consumer consumes by.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Changes how many listener calls run at once, from [`concurrency`](PushConfig::concurrency). Calls under way end
    /// as they would have.
    ///
    /// # Errors
    /// [`Error::Client`] where it is not from 1 to 100000.
    pub fn set_concurrency(&self, concurrency: usize) -> Result<(), Error> {
        PushConfig { concurrency, ..PushConfig::default() }.check()?;
        self.0.set_concurrency(concurrency);
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
        self.0.subscribe(topic.into(), &filter).await
    }

    /// Unsubscribes from a topic: waits for the messages in hand, up to [`revoke_timeout`](PushConfig::revoke_timeout),
    /// records how far the group is, and tells the brokers. Unknown topics are none of its business. Where a listener
    /// awaits this its own message is one of those in hand: unless it is consumed in order nothing is recorded for it, and
    /// it comes to whoever consumes the topic next.
    ///
    /// # Errors
    /// [`Error::NoSubscription`] for the last topic: that is what [`shutdown`](Self::shutdown) is for;
    /// [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// Once this has been polled the subscription is gone, even if the future is dropped.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), Error> {
        self.0.unsubscribe(topic).await
    }

    /// Fetches nothing and begins no listener call until [`resume`](Self::resume). Calls under way go on, and the queues
    /// stay with this member: nobody else consumes them. Where the group pops, others go on; what waits here stays hidden from
    /// them.
    pub fn suspend(&self) {
        self.0.suspend(true);
    }

    /// Ends a suspension.
    pub fn resume(&self) {
        self.0.suspend(false);
    }

    /// Whether the consumer is suspended.
    pub fn is_suspended(&self) -> bool {
        self.0.is_suspended()
    }

    /// How this consumer does: what it has done and what failed, how fast, and how far behind it is. A snapshot, which asks
    /// no broker.
    ///
    /// ```no_run
    /// # fn tell(consumer: &rocketmq_consumer::PushConsumer) -> serde_json::Result<()> {
    /// let statistics = consumer.statistics();
    /// for (topic, of_topic) in &statistics.topics {
    ///     println!("{topic}: {} done, {} failed, {} to go", of_topic.done, of_topic.failed, of_topic.lag);
    /// }
    /// println!("{}", serde_json::to_string(&statistics)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn statistics(&self) -> Statistics {
        self.0.statistics()
    }

    /// Fetches no more, waits for the listener calls under way, records the offsets, leaves the group and ends all
    /// connections. Messages that were fetched and not begun come again. Where a listener awaits this, it waits for itself:
    /// its call is broken off after [`shutdown_timeout`](PushConfig::shutdown_timeout), and its message comes again. So
    /// have a task of its own do it.
    ///
    /// It returns within [`shutdown_timeout`](PushConfig::shutdown_timeout), whatever the listener does, and at most 2.2 s
    /// later where brokers do not answer. Only a listener that blocks every thread of the runtime delays it further: see
    /// [`listener`](PushConsumerBuilder::listener).
    ///
    /// # Errors
    /// [`Error::Unfinished`] where calls were still under way after
    /// [`shutdown_timeout`](PushConfig::shutdown_timeout), or offsets could not be recorded; those messages come again.
    /// Calls on threads ([`blocking_listener`](PushConsumerBuilder::blocking_listener)) run to their end, everything else
    /// has ended. [`Error::ShutDown`] where the consumer's runtime has ended before.
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
    /// ```no_run
    /// # async fn run(consumer: rocketmq_consumer::PushConsumer) -> Result<(), rocketmq_consumer::Error> {
    /// // SIGTERM, as Kubernetes sends it: `tokio::signal::unix::signal(SignalKind::terminate())`.
    /// consumer.shutdown_on(tokio::signal::ctrl_c()).await?;
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
        until_signal(signal, &self.0.stopped).await;
        self.shutdown().await
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.0
    }
}
