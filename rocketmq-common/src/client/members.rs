use crate::{
    Error, Operated, StoredMessage,
    protocol::{CheckTransactionState, ConsumerData, ProducerData},
};
use rocketmq_remote::printable;
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, Weak},
};
use tokio::sync::{Notify, mpsc};

/// The groups this client is in: what its heartbeats say.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    producers: BTreeMap<Arc<str>, Option<mpsc::Sender<TransactionCheck>>>,
    consumers: BTreeMap<String, Consumer>,
    /// Those that were left, and of which the brokers have not been told yet.
    left: BTreeSet<Group>,
}

/// A group, as brokers know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Producers(Arc<str>),
    Consumers(Arc<str>),
}

/// What the brokers have to be told.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) groups: BTreeSet<Group>,
    /// Where a producer group was left: another one that stays.
    pub(super) other_producers: Option<Arc<str>>,
}

/// A broker's question what became of a half message, for the producer group that sent it.
#[derive(Debug)]
pub struct TransactionCheck {
    /// The half message; its body may still have to be [decompressed](StoredMessage::decompress).
    pub message: StoredMessage,
    /// What to answer with.
    pub request: CheckTransactionState,
    /// Where the question came from, and the answer goes.
    pub addr: Arc<str>,
}

#[derive(Debug)]
struct Consumer {
    data: ConsumerData,
    changed: Arc<Notify>,
    operated: Option<Weak<dyn Operated>>,
}

impl Groups {
    fn has(&self, group: &Group) -> bool {
        match group {
            Group::Producers(name) => self.producers.contains_key(name),
            Group::Consumers(name) => self.consumers.contains_key(&**name),
        }
    }
}

impl Members {
    pub(super) fn add_producer(
        &self,
        group: &Arc<str>,
        checks: Option<mpsc::Sender<TransactionCheck>>,
    ) -> Result<(), Error> {
        let mut groups = self.groups();
        if groups.producers.contains_key(group) {
            return Err(TAKEN);
        }
        groups.left.remove(&Group::Producers(group.clone()));
        groups.producers.insert(group.clone(), checks);
        Ok(())
    }

    /// Hands a check to the producer group it is for. One that cannot be taken now is asked again by the broker.
    pub(super) fn check(&self, group: &str, check: TransactionCheck) {
        let message_id = check.message.message_id().into_owned();
        let groups = self.groups();
        let taken = match groups.producers.get(group) {
            Some(Some(checks)) => checks.try_send(check).is_ok(),
            _ => false,
        };
        if !taken {
            let (group, message_id) = (printable(group), printable(&message_id));
            tracing::warn!(%group, %message_id, "transaction check not taken: no checker, or too many checks wait");
        }
    }

    pub(super) fn add_consumer(&self, data: ConsumerData, changed: Arc<Notify>) -> Result<(), Error> {
        let mut groups = self.groups();
        if groups.consumers.contains_key(&data.group_name) {
            return Err(TAKEN);
        }
        groups.left.remove(&Group::Consumers(data.group_name.as_str().into()));
        groups.consumers.insert(data.group_name.clone(), Consumer { data, changed, operated: None });
        Ok(())
    }

    pub(super) fn update_consumer(&self, data: ConsumerData) {
        if let Some(consumer) = self.groups().consumers.get_mut(&data.group_name) {
            consumer.data = data;
        }
    }

    pub(super) fn set_operated(&self, group: &str, operated: Weak<dyn Operated>) {
        if let Some(consumer) = self.groups().consumers.get_mut(group) {
            consumer.operated = Some(operated);
        }
    }

    /// Who answers operators for a consumer group; `None` where nobody does.
    pub(super) fn operated(&self, group: &str) -> Option<Arc<dyn Operated>> {
        self.groups().consumers.get(group)?.operated.as_ref()?.upgrade()
    }

    /// Takes a group out; the brokers have to be told.
    pub(super) fn leave(&self, group: Group) {
        let mut groups = self.groups();
        let was_there = match &group {
            Group::Producers(name) => groups.producers.remove(name).is_some(),
            Group::Consumers(name) => groups.consumers.remove(&**name).is_some(),
        };
        if was_there {
            groups.left.insert(group);
        }
    }

    /// The groups that were left, and not entered again; whoever takes them tells the brokers.
    pub(super) fn take_left(&self) -> Leaving {
        let mut groups = self.groups();
        let left = mem::take(&mut groups.left);
        let has_producers = left.iter().any(|group| matches!(group, Group::Producers(_)));
        let other_producers = groups.producers.keys().next().filter(|_| has_producers).cloned();
        Leaving { groups: left, other_producers }
    }

    /// Those of the groups named by a heartbeat that have been left since.
    pub(super) fn left_since(&self, mut named: Vec<Group>) -> Vec<Group> {
        let groups = self.groups();
        named.retain(|group| !groups.has(group));
        named
    }

    /// Has the brokers told once more of groups that were left, unless they have been entered again. Whether any is
    /// left to tell of.
    pub(super) fn leave_again(&self, mut gone: Vec<Group>) -> bool {
        let mut groups = self.groups();
        gone.retain(|group| !groups.has(group));
        let is_any = !gone.is_empty();
        groups.left.extend(gone);
        is_any
    }

    pub(super) fn note_change(&self, group: &str) {
        if let Some(consumer) = self.groups().consumers.get(group) {
            consumer.changed.notify_one();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let groups = self.groups();
        groups.producers.is_empty() && groups.consumers.is_empty()
    }

    pub(super) fn has_consumers(&self) -> bool {
        !self.groups().consumers.is_empty()
    }

    pub(super) fn heartbeat_data(&self) -> (Vec<ProducerData>, Vec<ConsumerData>) {
        let groups = self.groups();
        let producers = groups.producers.keys().map(|group| ProducerData { group_name: group.to_string() });
        let consumers = groups.consumers.values().map(|consumer| consumer.data.clone());
        (producers.collect(), consumers.collect())
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const TAKEN: Error = Error::Config { option: "group", message: "is in use by this client already" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ConsumeFrom, ConsumeType, MessageModel};

    fn consumers(name: &str) -> Group {
        Group::Consumers(name.into())
    }

    fn enter(members: &Members, name: &str) -> Result<(), Error> {
        let data = ConsumerData {
            group_name: name.to_owned(),
            consume_type: ConsumeType::Passively,
            message_model: MessageModel::Clustering,
            consume_from_where: ConsumeFrom::LastOffset,
            subscription_data_set: Vec::new(),
            unit_mode: false,
        };
        members.add_consumer(data, Arc::default())
    }

    #[test]
    fn what_is_left_is_told_once_unless_it_is_entered_again() {
        let members = Members::default();
        for name in ["a", "b"] {
            enter(&members, name).unwrap();
            members.add_producer(&name.into(), None).unwrap();
        }
        assert!(enter(&members, "a").is_err());
        members.leave(consumers("a"));
        members.leave(consumers("b"));
        enter(&members, "a").unwrap();
        let told = members.take_left();
        assert_eq!((told.groups, told.other_producers), ([consumers("b")].into(), None));
        members.leave(consumers("b"));
        members.leave(consumers("never entered"));
        members.leave(Group::Producers("a".into()));
        let told = members.take_left();
        assert_eq!((told.groups, told.other_producers), ([Group::Producers("a".into())].into(), Some("b".into())));
        assert!(members.take_left().groups.is_empty(), "told twice");
    }

    #[test]
    fn what_a_late_heartbeat_named_is_left_again() {
        let members = Members::default();
        enter(&members, "here").unwrap();
        let named = vec![consumers("gone"), consumers("here"), Group::Producers("here".into())];
        let gone = members.left_since(named);
        assert_eq!(gone, [consumers("gone"), Group::Producers("here".into())]);
        enter(&members, "gone").unwrap();
        assert!(members.leave_again(gone), "there is a producer group to tell of");
        assert_eq!(members.take_left().groups, [Group::Producers("here".into())].into());
        assert!(!members.leave_again(vec![consumers("here")]));
    }
}
