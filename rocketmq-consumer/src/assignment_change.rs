//! What the user is told when queues change hands.

use crate::member::Member;
use rocketmq_common::MessageQueue;
use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// A change of the queues that belong to this member, all of one topic and sorted, named as the user names them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssignmentChange {
    /// The topic; the retry topic of the group has its changes, too.
    pub topic: Arc<str>,
    /// All queues of the topic, whoever has them.
    pub all: Vec<MessageQueue>,
    /// The queues that are this member's now; the number -1 stands for all queues of a broker, to be popped.
    pub own: Vec<MessageQueue>,
    /// Those of them that were not before.
    pub taken: Vec<MessageQueue>,
    /// Those that were and are no longer: no further message of them is begun.
    pub given_up: Vec<MessageQueue>,
}

/// The user's own code, to be told.
#[derive(Clone)]
pub(crate) struct ChangeHook(pub(crate) Arc<dyn Fn(&AssignmentChange) + Send + Sync>);

impl fmt::Debug for ChangeHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangeHook")
    }
}

impl Member {
    /// Tells the user that queues of a topic have changed hands.
    pub(crate) fn tell_change(&self, topic: &Arc<str>, taken: Vec<MessageQueue>, given_up: Vec<MessageQueue>) {
        let Some(ChangeHook(hook)) = &self.sharing.told else { return };
        if taken.is_empty() && given_up.is_empty() {
            return;
        }
        let namespace = self.client.namespace();
        let as_named = |queues: Vec<MessageQueue>| {
            let mut named: Vec<_> = queues.into_iter().map(|queue| namespace.strip_queue(queue)).collect();
            named.sort();
            named
        };
        let all = self.client.known_route(topic).map(|route| route.read_queues().to_vec()).unwrap_or_default();
        let own = {
            let queues = self.queues();
            let own = queues.values().filter(|assigned| assigned.queue.topic == *topic && !assigned.is_revoked());
            own.map(|assigned| assigned.queue.clone()).collect()
        };
        let change = AssignmentChange {
            topic: namespace.strip_shared(topic.clone()),
            all: as_named(all),
            own: as_named(own),
            taken: as_named(taken),
            given_up: as_named(given_up),
        };
        if catch_unwind(AssertUnwindSafe(|| hook(&change))).is_err() {
            tracing::error!(group = %self.group, %topic, "what is told of changed assignments panicked");
        }
    }

    /// Tells the user of queues that were given up, whatever their topics.
    pub(crate) fn tell_given_up(&self, queues: Vec<MessageQueue>) {
        let mut by_topic: BTreeMap<Arc<str>, Vec<MessageQueue>> = BTreeMap::new();
        for queue in queues {
            by_topic.entry(queue.topic.clone()).or_default().push(queue);
        }
        for (topic, given_up) in by_topic {
            self.tell_change(&topic, Vec::new(), given_up);
        }
    }
}
