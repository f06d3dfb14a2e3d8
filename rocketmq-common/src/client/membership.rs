//! The groups a client is in, as brokers are told of them.

use super::{
    Client, Shared, TransactionCheck,
    hedge::HEDGE_DELAY,
    members::{Group, Leaving},
};
use crate::{
    ConditionKind, Error,
    internal::Conditions,
    protocol::{ConsumerData, Heartbeat, HeartbeatData, UnregisterClient},
};
use rocketmq_remote::{Connection, Deadline, Error as RemoteError, Json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};

impl Client {
    /// Enters a producer group into the heartbeats. Brokers' questions about its half messages go to `checks`; those it
    /// has no room for are dropped, and asked again later.
    ///
    /// # Errors
    /// [`Error::Config`] where this client is in the group already.
    pub fn register_producer(
        &self,
        group: &Arc<str>,
        checks: Option<mpsc::Sender<TransactionCheck>>,
    ) -> Result<(), Error> {
        self.shared().members.add_producer(group, checks)
    }

    /// Enters a consumer group into the heartbeats. `members_changed` is notified when a broker says so.
    ///
    /// # Errors
    /// [`Error::Config`] where this client is in the group already.
    pub fn register_consumer(&self, data: ConsumerData, members_changed: Arc<Notify>) -> Result<(), Error> {
        self.shared().members.add_consumer(data, members_changed)
    }

    /// Replaces what the heartbeats say of a consumer group.
    pub fn update_consumer(&self, data: ConsumerData) {
        self.shared().members.update_consumer(data);
    }

    /// Sends a heartbeat to every broker of the routes in use and waits for their answers: for all of them, or for 500 ms
    /// after the first one, so that a broker that does not answer delays nothing. A broker that is being told that a group
    /// was left gets its heartbeat after that.
    ///
    /// # Cancel safety
    /// A heartbeat that has begun goes on by itself.
    pub async fn heartbeat(&self) {
        self.shared().heartbeat().await;
    }

    /// Asks for a heartbeat soon, without waiting for it.
    pub fn heartbeat_soon(&self) {
        self.shared().heartbeat_wanted.notify_one();
    }

    /// Leaves a producer group, at every broker this client is connected to, and waits for their answers, or for the
    /// request timeout. The group may be registered again at once.
    ///
    /// # Cancel safety
    /// Once polled, it goes on by itself.
    pub async fn unregister_producer(&self, group: &Arc<str>) {
        let _ = self.leave(Group::Producers(group.clone())).await;
    }

    /// As [`unregister_producer`](Self::unregister_producer), without waiting: a task of the client's own tells the
    /// brokers. May be called outside of the runtime.
    pub fn forget_producer(&self, group: &Arc<str>) {
        drop(self.leave(Group::Producers(group.clone())));
    }

    /// Leaves a consumer group, at every broker this client is connected to, and waits for their answers, or for the
    /// request timeout; the other members are told at once. The group may be registered again at once.
    ///
    /// # Cancel safety
    /// Once polled, it goes on by itself.
    pub async fn unregister_consumer(&self, group: &Arc<str>) {
        let _ = self.leave(Group::Consumers(group.clone())).await;
    }

    /// As [`unregister_consumer`](Self::unregister_consumer), without waiting: a task of the client's own tells the
    /// brokers. May be called outside of the runtime.
    pub fn forget_consumer(&self, group: &Arc<str>) {
        drop(self.leave(Group::Consumers(group.clone())));
    }

    fn leave(&self, group: Group) -> JoinHandle<()> {
        self.shared().members.leave(group);
        self.shared().tell_left()
    }
}

impl Shared {
    /// Has the brokers told which groups were left, on a task that ends with the client.
    fn tell_left(self: &Arc<Self>) -> JoinHandle<()> {
        let shared = self.clone();
        self.tasks.spawn(async move { shared.unregister_left().await })
    }

    /// Each broker is told independently of the others, so that one that does not answer delays none of them.
    async fn unregister_left(self: &Arc<Self>) {
        let connections = self.pool.open();
        let brokers = connections.into_iter().filter(|open| !self.name_servers.contains(open.addr()));
        // A broker may handle requests that are in flight together in another order. So heartbeats wait from before the
        // groups are taken: one that names a group which was entered again since then comes after this.
        let brokers: Vec<_> =
            brokers.map(|connection| (Unregistering::begin(self, connection.addr()), connection)).collect();
        let Leaving { groups, other_producers } = self.members.take_left();
        if groups.is_empty() {
            // Another task is telling the brokers of the group that this one was to tell of.
            drop(brokers);
            let _ = self.unregistering.subscribe().wait_for(HashMap::is_empty).await;
            return;
        }
        let mut leaving = JoinSet::new();
        for (unregistering, connection) in brokers {
            let (shared, groups, other) = (self.clone(), groups.clone(), other_producers.clone());
            leaving.spawn(async move {
                shared.unregister(&connection, groups).await;
                // With one producer group, a broker forgets by which connection the client's replies go, and learns it
                // again only from a group that is new to it.
                if let Some(other) = other {
                    shared.unregister(&connection, [Group::Producers(other)]).await;
                    if let Err(error) = shared.introduce(&connection).await {
                        let addr = connection.addr();
                        tracing::warn!(%addr, error = &error as &dyn std::error::Error, "heartbeat failed");
                    }
                }
                drop(unregistering);
            });
        }
        while leaving.join_next().await.is_some() {}
    }

    async fn unregister(self: &Arc<Self>, connection: &Connection, groups: impl IntoIterator<Item = Group>) {
        let mut leaving = JoinSet::new();
        for group in groups {
            let (shared, connection) = (self.clone(), connection.clone());
            leaving.spawn(async move { shared.unregister_at(&connection, group).await });
        }
        while leaving.join_next().await.is_some() {}
    }

    async fn unregister_at(&self, connection: &Connection, group: Group) {
        let (producer_group, consumer_group) = match group {
            Group::Producers(name) => (Some(name), None),
            Group::Consumers(name) => (None, Some(name)),
        };
        let request = UnregisterClient { client_id: self.id.clone(), producer_group, consumer_group };
        let mut deadline = Deadline::after(self.config.request_timeout);
        if connection.is_unresponsive() {
            // A shutdown does not wait for a broker that is frozen.
            deadline = deadline.at_most(UNRESPONSIVE_TIMEOUT);
        }
        if let Err(error) = connection.call(&request, (), deadline).await {
            // The broker forgets us when the connection closes.
            tracing::debug!(addr = %connection.addr(), error = &error as &dyn std::error::Error, "not unregistered");
        }
    }

    pub(super) async fn heartbeat(self: &Arc<Self>) {
        if self.members.is_empty() {
            return;
        }
        let mut beating = JoinSet::new();
        for addr in self.routes.addresses(self.members.has_consumers()) {
            let shared = self.clone();
            // Not cancelled with the caller, or it would be unknown what the broker made of it.
            let beat = self.tasks.spawn(async move { shared.beat_at(&addr).await });
            beating.spawn(async move { drop(beat.await) });
        }
        if beating.join_next().await.is_some() {
            let _ = timeout(HEDGE_DELAY, async { while beating.join_next().await.is_some() {} }).await;
        }
    }

    async fn beat_at(self: &Arc<Self>, addr: &Arc<str>) {
        // Fails only where the sender, which is ours, is gone.
        let _ = self.unregistering.subscribe().wait_for(|addrs| !addrs.contains_key(addr)).await;
        match self.broker(addr, Deadline::after(self.config.request_timeout)).await {
            Ok(connection) => {
                let (gone, answer) = self.send_heartbeat(&connection).await;
                if let Err(error) = answer {
                    tracing::warn!(%addr, error = &error as &dyn std::error::Error, "heartbeat failed");
                }
                if self.members.leave_again(gone) {
                    drop(self.tell_left());
                }
            }
            Err(error) => {
                tracing::debug!(%addr, error = &error as &dyn std::error::Error, "no heartbeat to this broker");
            }
        }
    }

    /// Tells a broker on a fresh connection, which nobody else has yet, who we are.
    ///
    /// # Errors
    /// Where the broker does not answer: it is frozen, say, and its kernel accepts connections all the same. A refusal is
    /// an answer.
    pub(super) async fn introduce(&self, connection: &Connection) -> Result<(), RemoteError> {
        let (gone, answer) = self.send_heartbeat(connection).await;
        match answer {
            Err(RemoteError::TimedOut { addr, .. }) => return Err(RemoteError::NotReady { addr }),
            Err(error @ RemoteError::Closed { .. }) => return Err(error),
            // A refusal has been logged.
            Ok(()) | Err(_) => {}
        }
        for gone in gone {
            self.unregister_at(connection, gone).await;
        }
        Ok(())
    }

    /// Logs a heartbeat that failed, once until one succeeds again.
    fn heartbeat_ended(&self, addr: &Arc<str>, error: Option<&RemoteError>) {
        let Some(error) = error else {
            *self.last_heartbeat.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Instant::now());
            if self.conditions.ends(ConditionKind::Heartbeat, addr) {
                tracing::info!(%addr, "the broker accepts heartbeats again");
            }
            return;
        };
        let hint = Conditions::hint(error.response_code());
        let is_news = self.conditions.begins(ConditionKind::Heartbeat, addr, error);
        let error = error as &dyn std::error::Error;
        if is_news {
            tracing::warn!(
                %addr, error, hint, "heartbeat failed: this broker forgets the client's groups if no heartbeat succeeds"
            );
        } else {
            tracing::debug!(%addr, error, "heartbeat still fails");
        }
    }

    /// Answers the groups it named that have been left meanwhile: the broker may have heard that first.
    async fn send_heartbeat(&self, connection: &Connection) -> (Vec<Group>, Result<(), RemoteError>) {
        if self.members.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let (producer_data_set, consumer_data_set) = self.members.heartbeat_data();
        let producers = producer_data_set.iter().map(|data| Group::Producers(data.group_name.as_str().into()));
        let consumers = consumer_data_set.iter().map(|data| Group::Consumers(data.group_name.as_str().into()));
        let named = producers.chain(consumers).collect();
        let data = HeartbeatData {
            client_id: self.id.to_string(),
            producer_data_set,
            consumer_data_set,
            ..HeartbeatData::default()
        };
        let deadline = Deadline::after(self.config.request_timeout);
        let answer = connection.call(&Heartbeat {}, Json(data), deadline).await;
        self.heartbeat_ended(connection.addr(), answer.as_ref().err());
        (self.members.left_since(named), answer)
    }
}

/// Heartbeats to an address wait while this lives.
struct Unregistering {
    shared: Arc<Shared>,
    addr: Arc<str>,
}

impl Unregistering {
    fn begin(shared: &Arc<Shared>, addr: &Arc<str>) -> Self {
        shared.unregistering.send_modify(|addrs| *addrs.entry(addr.clone()).or_default() += 1);
        Self { shared: shared.clone(), addr: addr.clone() }
    }
}

impl Drop for Unregistering {
    fn drop(&mut self) {
        self.shared.unregistering.send_modify(|addrs| {
            if let Some(count) = addrs.get_mut(&self.addr) {
                *count -= 1;
                if *count == 0 {
                    addrs.remove(&self.addr);
                }
            }
        });
    }
}

/// How long a broker gets that has left earlier calls unanswered.
const UNRESPONSIVE_TIMEOUT: Duration = Duration::from_millis(300);
