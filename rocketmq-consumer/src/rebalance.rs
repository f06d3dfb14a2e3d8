use crate::{
    allocate::{average, sort_members},
    fetch::{AssignedQueue, fetch},
    process_queue::{Limits, ProcessQueue},
    push::Shared,
};
use rocketmq_common::{Error, MessageQueue, message::names::is_retry_topic, protocol::SubscriptionData};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// Shares the queues out whenever the members may have changed, and now and then.
pub(crate) async fn rebalance(shared: Arc<Shared>) {
    loop {
        let balanced = shared.rebalance_once().await;
        // Notices come in bursts, one from each broker.
        sleep(SHORTEST_PAUSE).await;
        let pause = if balanced { shared.config.rebalance_interval } else { RETRY_PAUSE };
        tokio::select! {
            () = shared.members_changed.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

impl Shared {
    /// One round over all topics; false where a topic could not be balanced.
    async fn rebalance_once(self: &Arc<Self>) -> bool {
        let mut balanced = true;
        for (topic, subscription) in &self.subscriptions {
            match self.share_of(topic).await {
                Ok(Some((share, members))) => self.take_over(topic, subscription, share, members).await,
                Ok(None) => balanced = false,
                Err(Error::TopicNotFound { .. }) => {
                    // A retry topic comes with the group's first heartbeat, a topic with its first message.
                    tracing::debug!(group = %self.group, %topic, "topic does not exist yet");
                    balanced &= !is_retry_topic(topic);
                }
                Err(error) => {
                    tracing::warn!(
                        group = %self.group, %topic, error = &error as &dyn std::error::Error, "cannot share queues out"
                    );
                    balanced = false;
                }
            }
        }
        balanced
    }

    /// Our queues of a topic, and how many members share it; `None` where the brokers do not know us as one of them.
    async fn share_of(&self, topic: &Arc<str>) -> Result<Option<(BTreeSet<MessageQueue>, usize)>, Error> {
        let route = self.client.route(topic).await?;
        let mut members = self.client.consumer_list(&self.group, topic).await?;
        if !members.iter().any(|id| **id == **self.client.id()) {
            tracing::debug!(group = %self.group, %topic, "not in the member list: heartbeat");
            self.client.heartbeat_soon();
            return Ok(None);
        }
        sort_members(&mut members);
        let mut queues = route.read_queues().to_vec();
        queues.sort();
        let share = average(&queues, &members, self.client.id());
        Ok(Some((share.into_iter().collect(), members.len())))
    }

    /// Gives up the queues of a topic that are ours no more, then begins those that are now.
    async fn take_over(
        self: &Arc<Self>,
        topic: &Arc<str>,
        subscription: &Arc<SubscriptionData>,
        share: BTreeSet<MessageQueue>,
        members: usize,
    ) {
        let lost: Vec<_> = {
            let queues = self.queues();
            let of_topic = queues.iter().filter(|(queue, _)| queue.topic == *topic);
            of_topic.filter(|(queue, _)| !share.contains(queue)).map(|(_, assigned)| assigned.clone()).collect()
        };
        self.revoke_all(lost).await;
        for queue in share {
            let mut queues = self.queues();
            if self.stopped.is_cancelled() || queues.contains_key(&queue) {
                continue;
            }
            let limits = Limits {
                messages: self.config.max_messages_per_queue,
                bytes: self.config.max_bytes_per_queue,
                span: self.config.max_span_per_queue,
            };
            tracing::info!(group = %self.group, %queue, members, "queue taken");
            let window = ProcessQueue::new(limits);
            let fetching = self.stopped.child_token();
            let assigned = Arc::new(AssignedQueue::new(queue.clone(), subscription.clone(), window, fetching));
            queues.insert(queue, assigned.clone());
            drop(queues);
            let settle = if members > 1 { SETTLE } else { Duration::ZERO };
            self.tasks.spawn(fetch(self.clone(), assigned, settle));
        }
    }

    /// Gives queues up: waits a moment for the messages in hand, records the offset, forgets the queue.
    async fn revoke_all(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) {
        let mut revoking = JoinSet::new();
        for assigned in queues {
            assigned.revoke();
            let shared = self.clone();
            revoking.spawn(async move {
                let in_hand = timeout(shared.config.revoke_timeout, assigned.wait_none_in_hand()).await;
                tracing::info!(group = %shared.group, queue = %assigned.queue, finished = in_hand.is_ok(), "queue given up");
                if let Err(error) = shared.record_anew(&assigned).await {
                    tracing::warn!(
                        group = %shared.group, queue = %assigned.queue, error = &error as &dyn std::error::Error,
                        "last offset not recorded: its next owner begins further back"
                    );
                }
                shared.queues().remove(&assigned.queue);
            });
        }
        while revoking.join_next().await.is_some() {}
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a new owner leaves the old one to finish and to record its offset, as the Java client does.
const SETTLE: Duration = Duration::from_millis(500);
