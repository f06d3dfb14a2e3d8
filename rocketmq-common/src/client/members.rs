use crate::{
    Error,
    protocol::{ConsumerData, ProducerData},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::Notify;

/// The groups this client is in: what its heartbeats say.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    producers: Vec<Arc<str>>,
    consumers: BTreeMap<String, Consumer>,
}

#[derive(Debug)]
struct Consumer {
    data: ConsumerData,
    changed: Arc<Notify>,
}

impl Members {
    pub(super) fn add_producer(&self, group: &Arc<str>) -> Result<(), Error> {
        let mut groups = self.groups();
        if groups.producers.contains(group) {
            return Err(TAKEN);
        }
        groups.producers.push(group.clone());
        Ok(())
    }

    pub(super) fn add_consumer(&self, data: ConsumerData, changed: Arc<Notify>) -> Result<(), Error> {
        let mut groups = self.groups();
        if groups.consumers.contains_key(&data.group_name) {
            return Err(TAKEN);
        }
        groups.consumers.insert(data.group_name.clone(), Consumer { data, changed });
        Ok(())
    }

    pub(super) fn update_consumer(&self, data: ConsumerData) {
        if let Some(consumer) = self.groups().consumers.get_mut(&data.group_name) {
            consumer.data = data;
        }
    }

    pub(super) fn remove_producer(&self, group: &str) {
        self.groups().producers.retain(|known| **known != *group);
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
        let producers = groups.producers.iter().map(|group| ProducerData { group_name: group.to_string() });
        let consumers = groups.consumers.values().map(|consumer| consumer.data.clone());
        (producers.collect(), consumers.collect())
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const TAKEN: Error = Error::Config { option: "group", message: "is in use by this client already" };
