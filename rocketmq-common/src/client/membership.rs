//! The groups a client is in, as brokers are told of them.

use super::{
    Client, Shared, TransactionCheck,
    members::{Group, Leaving},
};
use crate::{
    Error,
    protocol::{ConsumerData, Heartbeat, HeartbeatData, UnregisterClient},
};
use rocketmq_remote::{Connection, Deadline, Error as RemoteError, Json};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, JoinSet},
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

    /// Sends a heartbeat to every broker of the routes in use and waits for their answers, or for the request timeout.
    /// Where brokers are being told that a group was left, that comes first.
    ///
    /// # Cancel safety
    /// A heartbeat that has begun goes on by itself.
    pub async fn heartbeat(&self) {
        let shared = self.shared().clone();
        // A caller that waits for its turn and is not polled would hold up every later heartbeat.
        let _ = self.shared().tasks.spawn(async move { shared.heartbeat().await }).await;
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

    async fn unregister_left(self: &Arc<Self>) {
        // A broker may handle what it is told at once in another order: a group that is entered again meanwhile goes
        // with a heartbeat that waits for this.
        let _leaving = self.leaving.lock().await;
        let Leaving { groups, other_producers } = self.members.take_left();
        self.unregister(groups).await;
        // With one producer group, a broker forgets by which connection the client's replies go, and learns it again
        // only from a group that is new to it.
        if let Some(other) = other_producers {
            self.unregister([Group::Producers(other)]).await;
            self.beat().await;
        }
    }

    async fn unregister(self: &Arc<Self>, groups: impl IntoIterator<Item = Group>) {
        let connections = self.pool.open();
        let mut leaving = JoinSet::new();
        for group in groups {
            for connection in connections.iter().filter(|open| !self.name_servers.contains(open.addr())) {
                let (shared, connection, group) = (self.clone(), connection.clone(), group.clone());
                leaving.spawn(async move { shared.unregister_at(&connection, group).await });
            }
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
        drop(self.leaving.lock().await);
        self.beat().await;
    }

    async fn beat(self: &Arc<Self>) {
        if self.members.is_empty() {
            return;
        }
        let mut beating = Vec::new();
        for addr in self.routes.addresses(self.members.has_consumers()) {
            let shared = self.clone();
            // Not broken off with the caller: nobody would know what the broker made of it.
            beating.push(self.tasks.spawn(async move { shared.beat_at(&addr).await }));
        }
        for beat in beating {
            let _ = beat.await;
        }
    }

    async fn beat_at(self: &Arc<Self>, addr: &Arc<str>) {
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
            Ok(()) => {}
            Err(RemoteError::TimedOut { addr, .. }) => return Err(RemoteError::NotReady { addr }),
            Err(error @ RemoteError::Closed { .. }) => return Err(error),
            Err(error) => {
                let addr = connection.addr();
                tracing::warn!(%addr, error = &error as &dyn std::error::Error, "first heartbeat failed");
            }
        }
        for gone in gone {
            self.unregister_at(connection, gone).await;
        }
        Ok(())
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
        (self.members.left_since(named), answer)
    }
}

/// How long a broker gets that has left earlier calls unanswered.
const UNRESPONSIVE_TIMEOUT: Duration = Duration::from_millis(300);
