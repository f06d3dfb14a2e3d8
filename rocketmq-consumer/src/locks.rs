//! The locks of queues that are consumed in order: taken, renewed, given up.

use crate::{
    assigned::{AssignedQueue, Order},
    hold::Hold,
    member::Member,
};
use rocketmq_common::MessageQueue;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

impl Member {
    /// Renews the locks of the queues that are ours, and asks again for those that were lost.
    ///
    /// # Protocol
    /// Java: `RebalanceImpl.lockAll`.
    pub(crate) async fn keep_locks(&self, until: &CancellationToken) {
        let mut pause = RENEWAL;
        loop {
            tokio::select! {
                () = until.cancelled() => return,
                () = sleep(pause) => {}
                () = self.locks_wanted.notified() => {}
            }
            pause = if self.renew_locks().await { RENEWAL } else { RETRY };
        }
    }

    /// Asks for the locks of all our queues; false where one is not ours.
    async fn renew_locks(&self) -> bool {
        // A renewal must not overtake the giving up of a lock.
        let _calling = self.lock_calls.lock().await;
        let mut by_broker: BTreeMap<Arc<str>, Vec<Arc<AssignedQueue>>> = BTreeMap::new();
        let wanted = |assigned: &AssignedQueue| !assigned.is_revoked() || assigned.in_hand() > 0;
        for assigned in self.queues().values().filter(|assigned| assigned.is_locked_queue() && wanted(assigned)) {
            by_broker.entry(self.client.broker_of(&assigned.queue)).or_default().push(assigned.clone());
        }
        let mut all = true;
        for (broker_name, of_broker) in by_broker {
            let asked_at = Instant::now();
            let queues: Vec<_> = of_broker.iter().map(|assigned| assigned.queue.clone()).collect();
            match self.client.lock_queues(&self.group, &broker_name, &queues).await {
                Ok((locked, lender)) => {
                    for assigned in &of_broker {
                        let Some(order) = &assigned.order else { continue };
                        if locked.contains(&assigned.queue) {
                            order.grant(asked_at, lender.clone());
                            continue;
                        }
                        all = false;
                        if order.change(Hold::lose) {
                            self.tell_lost(assigned);
                        }
                    }
                }
                Err(error) => {
                    all = false;
                    tracing::warn!(
                        group = %self.group, %broker_name, error = &error as &dyn std::error::Error, "locks not renewed"
                    );
                    of_broker.iter().for_each(|assigned| self.doubt_lock(assigned));
                }
            }
        }
        all
    }

    /// Loses a lock that can no longer be relied on, and asks for it again.
    pub(crate) fn doubt_lock(&self, assigned: &AssignedQueue) {
        if assigned.order.as_ref().is_some_and(Order::doubt) {
            self.tell_lost(assigned);
            self.locks_wanted.notify_one();
        }
    }

    fn tell_lost(&self, assigned: &AssignedQueue) {
        tracing::warn!(group = %self.group, queue = %assigned.queue, "lock lost: nothing is consumed for now");
    }

    /// Takes the locks of queues that are to be ours; answers those that were granted.
    pub(crate) async fn take_locks(&self, queues: BTreeSet<MessageQueue>) -> BTreeMap<MessageQueue, Order> {
        let mut granted = BTreeMap::new();
        for (broker_name, queues) in self.by_broker(queues) {
            let asked_at = Instant::now();
            match self.client.lock_queues(&self.group, &broker_name, &queues).await {
                Ok((locked, lender)) => {
                    granted.extend(locked.into_iter().filter(|queue| queues.contains(queue)).map(|queue| {
                        let order = Order::new(Hold::needed());
                        order.grant(asked_at, lender.clone());
                        (queue, order)
                    }));
                }
                Err(error) => tracing::warn!(
                    group = %self.group, %broker_name, error = &error as &dyn std::error::Error, "queues not locked"
                ),
            }
        }
        granted
    }

    /// Gives locks up. One that cannot be given up ends by itself, a minute after it was last renewed.
    pub(crate) async fn give_up_locks(&self, queues: impl IntoIterator<Item = MessageQueue>) {
        let _calling = self.lock_calls.lock().await;
        for (broker_name, queues) in self.by_broker(queues) {
            if let Err(error) = self.client.unlock_queues(&self.group, &broker_name, &queues).await {
                tracing::warn!(
                    group = %self.group, %broker_name, error = &error as &dyn std::error::Error, "queues not unlocked"
                );
            }
        }
    }
}

impl AssignedQueue {
    /// Whether the queue has a lock at the broker.
    pub(crate) fn is_locked_queue(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.hold().is_needed())
    }
}

impl Member {
    fn by_broker(&self, queues: impl IntoIterator<Item = MessageQueue>) -> BTreeMap<Arc<str>, Vec<MessageQueue>> {
        let mut sorted: BTreeMap<Arc<str>, Vec<MessageQueue>> = BTreeMap::new();
        for queue in queues {
            sorted.entry(self.client.broker_of(&queue)).or_default().push(queue);
        }
        sorted
    }
}

/// Java: `REBALANCE_LOCK_INTERVAL`.
const RENEWAL: Duration = Duration::from_secs(20);
/// Java asks again for a lock that was lost after as long.
const RETRY: Duration = Duration::from_secs(3);
