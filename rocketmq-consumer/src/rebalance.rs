use crate::{
    Filter,
    assigned::{AssignedQueue, Beside, Order},
    fetch::fetch,
    hold::Hold,
    member::Member,
    ordered::consume_in_order,
    polled_queue::PolledQueue,
    popped_queue::PoppedQueue,
    popping::pop,
    process_queue::{Limits, ProcessQueue},
    share::Share,
    statistics::QueueMeter,
    subscriptions::now_ms,
};
use futures_util::future::join_all;
use rocketmq_common::{
    Error, MessageQueue,
    message::names::{is_retry_topic, retry_topic},
    pop::PopSource,
    protocol::{RequestMode, SubscriptionData},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// Shares the queues out whenever the members may have changed, and now and then.
pub(crate) async fn rebalance(member: Arc<Member>) {
    loop {
        let balance = member.rebalance_once().await;
        let pause = match balance {
            Balance::Done => member.config.rebalance_interval,
            Balance::AwaitsLock => LOCK_PAUSE,
            Balance::Failed => RETRY_PAUSE,
        };
        let wait = async {
            // Notices come in bursts, one from each broker.
            sleep(SHORTEST_PAUSE).await;
            tokio::select! {
                () = member.members_changed.notified() => {}
                () = sleep(pause) => {}
            }
        };
        let compare = async {
            if balance == Balance::Done {
                member.compare_subscriptions().await;
            }
        };
        tokio::select! {
            () = member.stopped.cancelled() => return,
            ((), ()) = async { tokio::join!(wait, compare) } => {}
        }
    }
}

/// What came of sharing queues out; the worst of several counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Balance {
    Done,
    /// Another member still has the lock of a queue that is to be ours.
    AwaitsLock,
    Failed,
}

impl Member {
    /// One round over all topics, all of them at once: what one waits for, a broker or a call under way, delays no other.
    async fn rebalance_once(self: &Arc<Self>) -> Balance {
        let subscriptions = self.subscriptions();
        let of_topics = subscriptions.iter().map(|(topic, subscription)| self.rebalance_topic(topic, subscription));
        join_all(of_topics).await.into_iter().max().unwrap_or(Balance::Done)
    }

    async fn rebalance_topic(self: &Arc<Self>, topic: &Arc<str>, subscription: &Arc<SubscriptionData>) -> Balance {
        let share = tokio::select! {
            () = self.stopped.cancelled() => return Balance::Done,
            share = self.share_of(topic) => share,
        };
        match share {
            Ok(Some(share)) => {
                self.report.is_assigned(topic);
                let is_empty = self.client.known_route(topic).is_some_and(|route| route.read_queues().is_empty());
                match is_empty && !is_retry_topic(topic) {
                    true => self.report.topic_is_missing(topic, "has no queue that may be read"),
                    false => self.report.topic_is_there(topic),
                }
                let mode = share.mode();
                let balance = self.take_over(topic, subscription, share).await;
                self.follow_mode(topic, mode).await;
                balance
            }
            Ok(None) => Balance::Failed,
            Err(Error::TopicNotFound { .. }) => {
                // The group's retry topic comes with its first heartbeat, a topic with its first message.
                if !is_retry_topic(topic) {
                    self.report.topic_is_missing(topic, "does not exist");
                }
                if **topic == *retry_topic(&self.group) { Balance::Failed } else { Balance::Done }
            }
            Err(error) => {
                self.report.not_assigned(topic, &error);
                Balance::Failed
            }
        }
    }

    /// Gives up the queues of a topic that are ours no more, then begins those that are now.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        topic: &Arc<str>,
        subscription: &Arc<SubscriptionData>,
        share: Share,
    ) -> Balance {
        let _changing = self.changing_queues.read().await;
        if !self.subscriptions().get(topic).is_some_and(|current| Arc::ptr_eq(current, subscription)) {
            return Balance::Failed;
        }
        let lost: Vec<_> = {
            let queues = self.queues();
            let of_topic = queues.iter().filter(|(queue, _)| queue.topic == *topic);
            of_topic.filter(|(_, assigned)| !share.contains(assigned)).map(|(_, assigned)| assigned.clone()).collect()
        };
        let given_up = being_given_up(&lost);
        drop(self.revoke_all(lost).await);
        let Share { queues: pulled, popped, members } = share;
        let are_new = |share: BTreeSet<MessageQueue>| -> BTreeSet<MessageQueue> {
            let queues = self.queues();
            share.into_iter().filter(|queue| !queues.contains_key(queue)).collect()
        };
        let (new, popped) = (are_new(pulled), are_new(popped));
        if (new.is_empty() && popped.is_empty()) || self.stopped.is_cancelled() {
            self.share_limits(topic, 0);
            self.tell_change(topic, Vec::new(), given_up);
            return Balance::Done;
        }
        // Whoever has the lock knows that the last owner is done.
        let is_settled = members == Some(1) || self.locks_queues();
        let settle = if is_settled { Duration::ZERO } else { settle_time(self.config.revoke_timeout) };
        let settle_pops = if is_settled { Duration::ZERO } else { SETTLE };
        let wanted = new.len();
        let limits = self.share_limits(topic, wanted + popped.len());
        let mut news: Vec<MessageQueue> = Vec::with_capacity(wanted + popped.len());
        for queue in popped {
            tracing::info!(group = %self.group, %queue, "queue taken, to be popped");
            news.push(queue.clone());
            let beside = Beside::Popped(PoppedQueue::new(limits.of_pops()));
            let assigned = self.assign_queue(queue, subscription.clone(), beside, limits);
            self.spawn(pop(self.clone(), assigned, settle_pops));
        }
        let popped = news.len();
        let mut begin = |queue: MessageQueue, order| {
            tracing::info!(group = %self.group, %queue, members, "queue taken");
            news.push(queue.clone());
            self.begin_queue(queue, subscription.clone(), order, limits, settle);
        };
        if self.locks_queues() {
            let mut locking = self.take_locks(new);
            while let Some(granted) = locking.join_next().await {
                let granted = granted.unwrap_or_default();
                if self.stopped.is_cancelled() {
                    self.give_up_locks(granted.into_keys()).await;
                    continue;
                }
                granted.into_iter().for_each(|(queue, order)| begin(queue, Some(order)));
            }
        } else {
            new.into_iter().for_each(|queue| begin(queue, self.order_without_lock()));
        }
        if self.stopped.is_cancelled() {
            return Balance::Done;
        }
        let balance = if news.len() == wanted + popped { Balance::Done } else { Balance::AwaitsLock };
        if balance != Balance::Done {
            self.share_limits(topic, 0);
        }
        self.tell_change(topic, news, given_up);
        balance
    }

    fn order_without_lock(&self) -> Option<Order> {
        self.is_ordered().then(|| Order::new(Hold::not_needed()))
    }

    fn begin_queue(
        self: &Arc<Self>,
        queue: MessageQueue,
        subscription: Arc<SubscriptionData>,
        order: Option<Order>,
        limits: Limits,
        settle: Duration,
    ) {
        let is_ordered = order.is_some();
        let beside = match (order, &self.polling) {
            (Some(order), _) => Beside::Order(order),
            (None, Some(polling)) => Beside::Polled(PolledQueue::new(polling.auto_commit())),
            (None, None) => Beside::Nothing,
        };
        let assigned = self.assign_queue(queue, subscription, beside, limits);
        if is_ordered {
            self.spawn(consume_in_order(self.clone(), assigned.clone()));
        }
        self.spawn(fetch(self.clone(), assigned, settle));
    }

    fn assign_queue(
        &self,
        queue: MessageQueue,
        subscription: Arc<SubscriptionData>,
        beside: Beside,
        limits: Limits,
    ) -> Arc<AssignedQueue> {
        let window = ProcessQueue::new(limits);
        let ended = self.stopped.child_token();
        let meter = QueueMeter::new(self.meters.of(&queue.topic));
        let assigned = Arc::new(AssignedQueue::new(queue.clone(), subscription, window, ended, beside, meter));
        self.queues().insert(queue, assigned.clone());
        assigned
    }

    /// While the group pulls a topic, what it left unsettled when it popped it is pulled as well; while it pops, that
    /// comes by itself.
    ///
    /// # Protocol
    /// Java: `RebalanceImpl.updateMessageQueueAssignment`.
    async fn follow_mode(self: &Arc<Self>, topic: &Arc<str>, mode: Option<RequestMode>) {
        let Some(mode) = mode.filter(|_| !is_retry_topic(topic)) else { return };
        let (retry_topic, is_pulled) = (self.pop_retry_topic(topic), mode == RequestMode::Pull);
        if self.subscriptions().contains_key(&retry_topic) == is_pulled {
            return;
        }
        tracing::info!(group = %self.group, %topic, ?mode, "a broker has the topic consumed so");
        let Ok(data) = Filter::all().subscription(&retry_topic, now_ms()) else { return };
        // Fails where the consumer has been shut down.
        let _ = self
            .change_subscriptions(BTreeSet::new(), |subscriptions| {
                match is_pulled && subscriptions.contains_key(topic) {
                    true => _ = subscriptions.insert(retry_topic, Arc::new(data)),
                    false => _ = subscriptions.remove(&retry_topic),
                }
                Ok(())
            })
            .await;
    }

    /// Where a message of a topic lies that was popped and not settled in time.
    pub(crate) fn pop_retry_topic(&self, topic: &Arc<str>) -> Arc<str> {
        PopSource::RetryV1.real_topic(topic, &self.group)
    }

    /// Shares the limits of a topic among our queues and `new` ones; answers those of each.
    fn share_limits(&self, topic: &Arc<str>, new: usize) -> Limits {
        let config = &self.config;
        let own = Limits {
            messages: config.max_messages_per_queue,
            bytes: config.max_bytes_per_queue,
            span: config.max_span_per_queue,
        };
        let of_topic: Vec<_> =
            self.queues().values().filter(|assigned| assigned.queue.topic == *topic).cloned().collect();
        let limits = own.share(config.max_messages_per_topic, config.max_bytes_per_topic, of_topic.len() + new);
        of_topic.iter().for_each(|assigned| assigned.set_limits(limits));
        limits
    }

    /// Gives queues up: waits for the messages in hand, records the offset, forgets the queue. A queue with a lock is
    /// kept until they are done, which nobody waits for here: that comes back as a task; one without for a moment.
    pub(crate) async fn revoke_all(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Vec<JoinHandle<()>> {
        let (mut revoking, mut later) = (JoinSet::new(), Vec::new());
        for assigned in queues {
            if assigned.is_revoked() {
                continue;
            }
            assigned.revoke();
            if assigned.popped.is_some() {
                // No offset is recorded, and what is here of it is still ours.
                tracing::info!(group = %self.group, queue = %assigned.queue, "queue given up, no longer popped");
                self.queues().remove(&assigned.queue);
                self.leave(assigned);
                continue;
            }
            // No longer within the window of a queue, and nobody may come for it soon.
            drop(self.dispatcher.take_out(&assigned));
            let member = self.clone();
            if assigned.is_locked_queue() {
                later.push(self.spawn(async move {
                    tokio::select! {
                        () = member.given_up.cancelled() => {}
                        () = member.give_up_locked(&assigned) => {}
                    }
                }));
                continue;
            }
            revoking.spawn(async move {
                let in_hand = timeout(member.config.revoke_timeout, assigned.wait_none_in_hand()).await;
                assigned.hand_over();
                tracing::info!(
                    group = %member.group, queue = %assigned.queue, finished = in_hand.is_ok(), "queue given up"
                );
                assigned
            });
        }
        let mut given_up = Vec::new();
        while let Some(assigned) = revoking.join_next().await {
            given_up.extend(assigned);
        }
        // Together: a group that is young may lose an offset where several are recorded at once.
        if self.record_all_anew(given_up.clone()).await.queues > 0 {
            tracing::warn!(group = %self.group, "last offsets not recorded: the next owners begin further back");
        }
        given_up.iter().for_each(|assigned| _ = self.queues().remove(&assigned.queue));
        later
    }

    /// Remembers a popped queue as long as messages of it are here.
    fn leave(&self, assigned: Arc<AssignedQueue>) {
        let mut left = self.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        left.retain(|assigned| assigned.popped.as_ref().is_some_and(|popped| popped.count() > 0));
        left.push(assigned);
    }

    async fn give_up_locked(&self, assigned: &AssignedQueue) {
        assigned.wait_none_in_hand().await;
        assigned.hand_over();
        tracing::info!(group = %self.group, queue = %assigned.queue, "queue given up");
        if let Err(error) = self.record_anew(assigned).await {
            tracing::warn!(
                group = %self.group, queue = %assigned.queue, error = &error as &dyn std::error::Error,
                "last offset not recorded: its next owner begins further back"
            );
        }
        self.give_up_locks([assigned.queue.clone()]).await;
        self.queues().remove(&assigned.queue);
        // It may have come back to us meanwhile.
        self.members_changed.notify_one();
    }
}

/// Those of some queues that nobody has begun to give up yet.
pub(crate) fn being_given_up(queues: &[Arc<AssignedQueue>]) -> Vec<MessageQueue> {
    let held = queues.iter().filter(|assigned| !assigned.is_revoked());
    held.map(|assigned| assigned.queue.clone()).collect()
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How soon a lock that another member has is asked for again. Java: `RebalanceImpl.rebalanceByTopic`.
const LOCK_PAUSE: Duration = Duration::from_millis(500);
/// How long a new owner leaves the old one to hear of it and to record its offset, as the Java client does.
const SETTLE: Duration = Duration::from_millis(500);

/// How long a new owner waits before it asks where to begin: the old one, whose configuration is the same, may wait for
/// the messages in hand for `revoke_timeout` before it records its offset. Began the new one earlier, it would consume
/// them as well.
fn settle_time(revoke_timeout: Duration) -> Duration {
    revoke_timeout.saturating_add(SETTLE)
}
