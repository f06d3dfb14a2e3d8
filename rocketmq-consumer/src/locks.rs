//! The locks of queues that are consumed in order: taken, renewed, given up.

use crate::{
    assigned::{AssignedQueue, Order},
    hold::Hold,
    member::Member,
};
use futures_util::future::join_all;
use rocketmq_common::MessageQueue;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
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

    /// Asks all brokers at once for the locks of all our queues; false where one is not ours.
    async fn renew_locks(&self) -> bool {
        let mut by_broker: BTreeMap<Arc<str>, Vec<Arc<AssignedQueue>>> = BTreeMap::new();
        let wanted = |assigned: &AssignedQueue| !assigned.is_revoked() || assigned.in_hand() > 0;
        for assigned in self.queues().values().filter(|assigned| assigned.is_locked_queue() && wanted(assigned)) {
            by_broker.entry(self.client.broker_of(&assigned.queue)).or_default().push(assigned.clone());
        }
        let renewing = by_broker.into_iter().map(|(name, of_broker)| self.renew_locks_of(name, of_broker));
        join_all(renewing).await.into_iter().all(|all| all)
    }

    async fn renew_locks_of(&self, broker_name: Arc<str>, mut of_broker: Vec<Arc<AssignedQueue>>) -> bool {
        // A renewal must not overtake the giving up of a lock.
        let calls = self.lock_calls(&broker_name);
        let _calling = calls.lock().await;
        // One may have been given up meanwhile.
        of_broker.retain(|assigned| self.queues().contains_key(&assigned.queue));
        if of_broker.is_empty() {
            return true;
        }
        let asked_at = Instant::now();
        let queues: Vec<_> = of_broker.iter().map(|assigned| assigned.queue.clone()).collect();
        match self.client.lock_queues(&self.group, &broker_name, &queues).await {
            Ok((locked, lender)) => {
                self.report.lock_works(&broker_name);
                let mut all = true;
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
                all
            }
            Err(error) => {
                self.report.lock_failed(&broker_name, &error);
                of_broker.iter().for_each(|assigned| self.doubt_lock(assigned));
                false
            }
        }
    }

    fn lock_calls(&self, broker_name: &Arc<str>) -> Arc<tokio::sync::Mutex<()>> {
        let mut calls = self.lock_calls.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        calls.entry(broker_name.clone()).or_default().clone()
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

    /// Takes the locks of queues that are to be ours, of all brokers at once; the grants come as brokers answer.
    pub(crate) fn take_locks(
        self: &Arc<Self>,
        queues: BTreeSet<MessageQueue>,
    ) -> JoinSet<BTreeMap<MessageQueue, Order>> {
        let mut taking = JoinSet::new();
        for (broker_name, queues) in self.by_broker(queues) {
            let member = self.clone();
            taking.spawn(async move { member.take_locks_of(&broker_name, &queues).await });
        }
        taking
    }

    async fn take_locks_of(&self, broker_name: &Arc<str>, queues: &[MessageQueue]) -> BTreeMap<MessageQueue, Order> {
        let asked_at = Instant::now();
        match self.client.lock_queues(&self.group, broker_name, queues).await {
            Ok((locked, lender)) => {
                self.report.lock_works(broker_name);
                let granted = locked.into_iter().filter(|queue| queues.contains(queue)).map(|queue| {
                    let order = Order::new(Hold::needed());
                    order.grant(asked_at, lender.clone());
                    (queue, order)
                });
                granted.collect()
            }
            Err(error) => {
                self.report.lock_failed(broker_name, &error);
                BTreeMap::new()
            }
        }
    }

    /// Gives locks up, at all brokers at once. One that cannot be given up ends by itself, a minute after it was last
    /// renewed.
    pub(crate) async fn give_up_locks(&self, queues: impl IntoIterator<Item = MessageQueue>) {
        let unlocking = self.by_broker(queues).into_iter().map(|(broker_name, queues)| async move {
            let calls = self.lock_calls(&broker_name);
            let _calling = calls.lock().await;
            if let Err(error) = self.client.unlock_queues(&self.group, &broker_name, &queues).await {
                tracing::warn!(
                    group = %self.group, %broker_name, error = &error as &dyn std::error::Error, "queues not unlocked"
                );
            }
        });
        join_all(unlocking).await;
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
