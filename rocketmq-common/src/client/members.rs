use crate::{
    Error, Operated, StoredMessage,
    protocol::{CheckTransactionState, ConsumerData, ProducerData},
};
use std::{
    collections::BTreeMap,
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
}

/// A broker's question what became of a half message, for the producer group that sent it.
#[derive(Debug)]
pub struct TransactionCheck {
    /// The half message.
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
            tracing::warn!(group, message_id, "transaction check not taken: no checker, or too many checks wait");
        }
    }

    pub(super) fn add_consumer(&self, data: ConsumerData, changed: Arc<Notify>) -> Result<(), Error> {
        let mut groups = self.groups();
        if groups.consumers.contains_key(&data.group_name) {
            return Err(TAKEN);
        }
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

    /// Takes a producer group out, and answers another one that stays.
    pub(super) fn remove_producer(&self, group: &str) -> Option<Arc<str>> {
        let mut groups = self.groups();
        groups.producers.remove(group);
        groups.producers.keys().next().cloned()
    }

    pub(super) fn remove_consumer(&self, group: &str) {
        self.groups().consumers.remove(group);
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
