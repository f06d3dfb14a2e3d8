//! What the log says of operations that are retried until they succeed: one WARN when they begin to fail, one INFO when
//! they succeed again, DEBUG in between.

use crate::Error;
use rocketmq_common::{Client, ConditionKind, MessageQueue, internal::Conditions, remote::ResponseCode};
use std::{
    collections::BTreeMap,
    error::Error as StdError,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard},
};

/// The conditions of one consumer, and whom they concern.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    client: Client,
    group: Arc<str>,
    pub(crate) conditions: Arc<Conditions>,
    /// How many times in a row this consumer was missing in the member lists of a topic's brokers.
    unlisted: Arc<Mutex<BTreeMap<Arc<str>, u32>>>,
}

impl Report {
    pub(crate) fn new(client: Client, group: Arc<str>) -> Self {
        Self { client, group, conditions: Arc::default(), unlisted: Arc::default() }
    }

    /// An operation on a queue has failed `failures` times in a row. What may pass by itself is reported the third time.
    pub(crate) fn queue_failed(&self, kind: ConditionKind, queue: &MessageQueue, failures: u32, error: &Error) {
        let code = error.response_code();
        let (group, broker) = (&self.group, self.client.broker_of(queue));
        let is_told = failures >= PASSING || code.is_some_and(is_permanent);
        if is_told && self.conditions.begins_for(kind, subject(queue, &broker), queue.queue_id, error) {
            // As the name server gave it.
            let addr = self.client.master(&broker).unwrap_or_else(|_| "unknown".into());
            let (topic, hint, error) = (&queue.topic, hint(error), error as &dyn StdError);
            tracing::warn!(
                %group, %topic, %broker, %addr, queue_id = queue.queue_id, error, hint,
                "{kind} fails, and is tried again with back-off"
            );
        } else {
            let error = error as &dyn StdError;
            tracing::debug!(%group, %queue, failures, error, "{kind} fails");
        }
    }

    pub(crate) fn queue_works(&self, kind: ConditionKind, queue: &MessageQueue) {
        if self.conditions.is_empty() {
            return;
        }
        let broker = self.client.broker_of(queue);
        if self.conditions.ends_for(kind, subject(queue, &broker), queue.queue_id) {
            tracing::info!(group = %self.group, topic = %queue.topic, %broker, "{kind} succeeds again");
        }
    }

    /// The queue is no longer ours, and nothing is tried any more.
    pub(crate) fn queue_gone(&self, queue: &MessageQueue) {
        if self.conditions.is_empty() {
            return;
        }
        let broker = self.client.broker_of(queue);
        let subject = subject(queue, &broker);
        for kind in [ConditionKind::StartOffset, ConditionKind::Pull, ConditionKind::Pop, ConditionKind::Commit] {
            if self.conditions.ends_for(kind, &subject, queue.queue_id) {
                tracing::debug!(group = %self.group, %queue, "{kind} failed until the queue was revoked");
            }
        }
    }

    /// No messages come from a topic that the user has named.
    pub(crate) fn topic_is_missing(&self, topic: &str, cause: &str) {
        let group = &self.group;
        if self.conditions.begins(ConditionKind::Topic, topic, cause) {
            tracing::warn!(
                %group, topic, hint = "check the name of the topic, and its permission",
                "the topic {cause}: nothing is consumed from it for now"
            );
        } else {
            tracing::debug!(%group, topic, "the topic still {cause}");
        }
    }

    pub(crate) fn topic_is_there(&self, topic: &str) {
        if self.conditions.ends(ConditionKind::Topic, topic) {
            tracing::info!(group = %self.group, topic, "the topic has queues to consume from");
        }
    }

    /// No queues can be assigned of a topic.
    pub(crate) fn not_assigned(&self, topic: &str, error: &(dyn StdError + 'static)) {
        let group = &self.group;
        if self.conditions.begins_for(ConditionKind::Assignment, &**group, topic, error) {
            tracing::warn!(%group, topic, error, "assignment of queues fails: this consumer keeps those it has");
        } else {
            tracing::debug!(%group, topic, error, "assignment of queues still fails");
        }
    }

    /// No broker of a topic lists this consumer as a member of its group. A consumer that has just started is listed a
    /// moment later.
    pub(crate) fn not_a_member(&self, topic: &Arc<str>) {
        let group = &self.group;
        let rounds = {
            let mut unlisted = self.unlisted();
            let rounds = unlisted.entry(topic.clone()).or_default();
            *rounds = rounds.saturating_add(1);
            *rounds
        };
        if rounds >= PASSING
            && self.conditions.begins_for(ConditionKind::Membership, &**group, topic, "not in the member list")
        {
            let brokers = self.client.known_route(topic).map(|route| {
                let named = route.brokers().map(|(name, addrs)| {
                    let addrs: Vec<_> = addrs.values().map(|addr| &**addr).collect();
                    format!("{name} ({})", addrs.join(", "))
                });
                named.collect::<Vec<_>>().join(", ")
            });
            tracing::warn!(
                %group, %topic, brokers,
                hint = "create the group on the brokers, or set autoCreateSubscriptionGroup=true there",
                "no broker lists this consumer as a member of its group: no queues are assigned to it for now"
            );
        } else {
            tracing::debug!(%group, %topic, rounds, "not in the member list");
        }
    }

    /// Queues of a topic were assigned, or there were none for this member.
    pub(crate) fn is_assigned(&self, topic: &str) {
        self.unlisted().remove(topic);
        if self.conditions.is_empty() {
            return;
        }
        for kind in [ConditionKind::Membership, ConditionKind::Assignment] {
            if self.conditions.ends_for(kind, &*self.group, topic) {
                tracing::info!(group = %self.group, topic, "queues can be assigned again");
            }
        }
    }

    /// The topic is no longer subscribed to.
    pub(crate) fn topic_gone(&self, topic: &str) {
        self.unlisted().remove(topic);
        self.conditions.ends(ConditionKind::Topic, topic);
        self.conditions.ends(ConditionKind::Subscription, topic);
        for kind in [ConditionKind::Membership, ConditionKind::Assignment] {
            self.conditions.ends_for(kind, &*self.group, topic);
        }
    }

    fn unlisted(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, u32>> {
        self.unlisted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Locking queues of a broker has failed.
    pub(crate) fn lock_failed(&self, broker: &str, error: &rocketmq_common::Error) {
        let (group, hint) = (&self.group, Conditions::hint(error.response_code()));
        let is_news = self.conditions.begins(ConditionKind::Lock, broker, error);
        let error = error as &dyn StdError;
        if is_news {
            let addr = self.client.master(broker).unwrap_or_else(|_| "unknown".into());
            tracing::warn!(
                %group, broker, %addr, error, hint,
                "queues cannot be locked: those of this broker are not consumed while they are not"
            );
        } else {
            tracing::debug!(%group, broker, error, "queues still cannot be locked");
        }
    }

    pub(crate) fn lock_works(&self, broker: &str) {
        if self.conditions.ends(ConditionKind::Lock, broker) {
            tracing::info!(group = %self.group, broker, "queues can be locked again");
        }
    }

    /// The store of one's own, or the file of a broadcast consumer, has not taken the offsets of some queues.
    pub(crate) fn store_failed(&self, queues: usize, error: &Error) {
        let group = &self.group;
        let is_news = self.conditions.begins(ConditionKind::Commit, OFFSET_STORE, error);
        let (hint, error) = (hint(error), error as &dyn StdError);
        if is_news {
            tracing::error!(%group, queues, error, hint, "offsets cannot be stored: messages would be consumed again");
        } else {
            tracing::debug!(%group, queues, error, "offsets still cannot be stored");
        }
    }

    pub(crate) fn store_works(&self) {
        if self.conditions.ends(ConditionKind::Commit, OFFSET_STORE) {
            tracing::info!(group = %self.group, "offsets are stored again");
        }
    }
}

fn subject(queue: &MessageQueue, broker: &str) -> impl Display + use<> {
    format!("{} at {broker}", queue.topic)
}

fn hint(error: &Error) -> &'static str {
    match error {
        Error::OffsetStore { .. } => "check the offset store that the consumer was given",
        Error::OffsetFile(_) => "check the directory of the offset file",
        error => Conditions::hint(error.response_code()),
    }
}

/// Whether an answer stays the same until an operator changes something.
fn is_permanent(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST | ResponseCode::NO_PERMISSION)
}

/// How many failures in a row may be passing ones.
const PASSING: u32 = 3;
const OFFSET_STORE: &str = "offset store";
