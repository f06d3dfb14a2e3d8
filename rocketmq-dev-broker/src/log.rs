//! Topics and their queues: what a broker stores. Pure: no I/O, no clock.

mod queue;

pub(crate) use queue::{Boundary, Read, ReadStatus};

use crate::filter::TagFilter;
use bytes::{Bytes, BytesMut};
use queue::{Entry, Queue};
use rocketmq_common::protocol::Permission;
use std::{collections::HashMap, sync::Arc};

/// All messages of one broker.
#[derive(Debug)]
pub(crate) struct Log {
    topics: HashMap<Arc<str>, Topic>,
    /// Where the message lies that begins at a place of the commit log; ordered by place.
    places: Vec<Place>,
    next_place: i64,
    last_stored_ms: i64,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    config: TopicConfig,
    queues: Vec<Queue>,
}

/// How a topic is set up. Java: `TopicConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicConfig {
    pub(crate) read_queues: i32,
    pub(crate) write_queues: i32,
    /// Bits of [`Permission`].
    pub(crate) perm: i32,
    /// 1: clients of a unit write here; 2: they subscribe here.
    pub(crate) sys_flag: i32,
}

impl TopicConfig {
    /// A topic that is read and written.
    pub(crate) fn new(queues: i32) -> Self {
        Self { read_queues: queues, write_queues: queues, perm: Permission::READ | Permission::WRITE, sys_flag: 0 }
    }

    /// The same, where its first client says that it lives in a unit. Java: `TopicSysFlag.buildSysFlag`.
    pub(crate) fn of_unit(self, unit_mode: bool, is_retry_topic: bool) -> Self {
        let sys_flag = match (unit_mode, is_retry_topic) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        Self { sys_flag, ..self }
    }

    fn queue_count(self) -> usize {
        usize::try_from(self.read_queues.max(self.write_queues)).unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
struct Place {
    at: i64,
    topic: Arc<str>,
    queue: usize,
    offset: i64,
}

/// Where a message was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) queue_offset: i64,
    pub(crate) place: i64,
}

/// Why a message was not put anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendError {
    NoQueue,
    Full,
}

/// A message to append: its record, whose position fields are filled in here.
#[derive(Debug)]
pub(crate) struct NewRecord {
    pub(crate) bytes: BytesMut,
    pub(crate) tag_hash: i32,
}

impl Log {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            topics: HashMap::new(),
            places: Vec::new(),
            next_place: 0,
            last_stored_ms: i64::MIN,
            bytes: 0,
            max_bytes,
        }
    }

    /// Creates or changes a topic. Queues are added, never taken away: fewer of them hide messages.
    ///
    /// Answers whether there is room for it: names come from clients, and without an end they would fill the memory.
    pub(crate) fn set_topic(&mut self, name: &str, config: TopicConfig) -> bool {
        if !self.topics.contains_key(name) {
            if self.topics.len() >= MAX_TOPICS {
                return false;
            }
            let name: Arc<str> = name.into();
            self.topics.insert(name.clone(), Topic { name, config, queues: Vec::new() });
        }
        if let Some(topic) = self.topics.get_mut(name) {
            topic.config = config;
            let count = config.queue_count().max(topic.queues.len());
            topic.queues.resize_with(count, Queue::default);
        }
        true
    }

    pub(crate) fn topic(&self, name: &str) -> Option<TopicConfig> {
        self.topics.get(name).map(|topic| topic.config)
    }

    pub(crate) fn remove_topic(&mut self, name: &str) {
        if let Some(topic) = self.topics.remove(name) {
            self.bytes -= topic.queues.iter().map(Queue::bytes).sum::<usize>();
            self.places.retain(|place| *place.topic != *name);
        }
    }

    /// Appends a message that a client sent.
    pub(crate) fn append(
        &mut self,
        topic: &str,
        queue_id: i32,
        record: NewRecord,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        if !self.has_room(record.bytes.len()) {
            return Err(AppendError::Full);
        }
        self.append_anyway(topic, queue_id, record, now_ms)
    }

    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= self.max_bytes
    }

    /// Appends a message, whether there is room or not: one that moves from queue to queue has been counted already.
    pub(crate) fn append_anyway(
        &mut self,
        topic: &str,
        queue_id: i32,
        record: NewRecord,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let NewRecord { mut bytes, tag_hash } = record;
        let at = usize::try_from(queue_id).map_err(|_| AppendError::NoQueue)?;
        let topic = self.topics.get_mut(topic).ok_or(AppendError::NoQueue)?;
        let queue = topic.queues.get_mut(at).ok_or(AppendError::NoQueue)?;
        // Searches by time rely on this order.
        let stored_ms = now_ms.max(self.last_stored_ms);
        let (queue_offset, place) = (queue.max(), self.next_place);
        crate::record::set_position(&mut bytes, queue_offset, place, stored_ms);
        self.last_stored_ms = stored_ms;
        self.bytes += bytes.len();
        self.next_place += i64::try_from(bytes.len()).unwrap_or(0);
        queue.push(Entry { record: bytes.freeze(), tag_hash, stored_ms });
        self.places.push(Place { at: place, topic: topic.name.clone(), queue: at, offset: queue_offset });
        Ok(Appended { queue_offset, place })
    }

    /// Reads for a pull.
    pub(crate) fn read(&self, topic: &str, queue_id: i32, offset: i64, max_messages: i32, filter: &TagFilter) -> Read {
        match self.queue(topic, queue_id) {
            Some(queue) => queue.read(offset, max_messages, filter),
            None => Read::empty(ReadStatus::NoMatchedLogicQueue, 0, 0, 0),
        }
    }

    /// The record that begins at a place of the commit log.
    pub(crate) fn record_at(&self, place: i64) -> Option<Bytes> {
        let index = self.places.binary_search_by_key(&place, |known| known.at).ok()?;
        let Place { topic, queue, offset, .. } = self.places.get(index)?;
        let entry = self.topics.get(topic)?.queues.get(*queue)?.get(*offset)?;
        Some(entry.record.clone())
    }

    /// The record at an offset of a queue.
    pub(crate) fn record(&self, topic: &str, queue_id: i32, offset: i64) -> Option<Bytes> {
        self.queue(topic, queue_id)?.get(offset).map(|entry| entry.record.clone())
    }

    /// Changes the stored bytes of a message; returns whether there is one at that offset.
    pub(crate) fn change(
        &mut self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let queue = usize::try_from(queue_id)
            .ok()
            .and_then(|queue_id| self.topics.get_mut(topic).and_then(|topic| topic.queues.get_mut(queue_id)));
        let Some(entry) = queue.and_then(|queue| queue.get_mut(offset)) else { return false };
        let mut record = entry.record.to_vec();
        change(&mut record);
        self.bytes = self.bytes - entry.record.len() + record.len();
        entry.record = record.into();
        true
    }

    /// First offset still held, and next offset to be written.
    pub(crate) fn bounds(&self, topic: &str, queue_id: i32) -> Option<(i64, i64)> {
        self.queue(topic, queue_id).map(|queue| (queue.min(), queue.max()))
    }

    /// When the oldest message was stored.
    pub(crate) fn earliest_ms(&self, topic: &str, queue_id: i32) -> Option<i64> {
        let queue = self.queue(topic, queue_id)?;
        queue.get(queue.min()).map(|entry| entry.stored_ms)
    }

    /// The offset for a moment.
    pub(crate) fn search(&self, topic: &str, queue_id: i32, time_ms: i64, boundary: Boundary) -> i64 {
        self.queue(topic, queue_id).map_or(0, |queue| queue.search(time_ms, boundary))
    }

    /// Drops the messages of a queue below an offset.
    pub(crate) fn trim(&mut self, topic: &str, queue_id: i32, min_offset: i64) {
        let at = usize::try_from(queue_id).unwrap_or(usize::MAX);
        let queue = self.topics.get_mut(topic).and_then(|topic| topic.queues.get_mut(at));
        let freed = queue.map_or(0, |queue| queue.trim(min_offset));
        self.bytes -= freed;
        if freed > 0 {
            self.places.retain(|place| *place.topic != *topic || place.queue != at || place.offset >= min_offset);
        }
    }

    /// Takes the oldest message of a queue if it was stored at or before a moment.
    pub(crate) fn take_oldest(&mut self, topic: &str, queue_id: i32, stored_until_ms: i64) -> Option<Bytes> {
        let at = usize::try_from(queue_id).ok()?;
        let queue = self.topics.get_mut(topic)?.queues.get_mut(at)?;
        let record = queue.take_oldest(stored_until_ms)?;
        self.bytes -= record.len();
        Some(record)
    }

    /// The records of a topic, by queue and offset.
    pub(crate) fn records(&self, topic: &str) -> impl Iterator<Item = Bytes> {
        self.topics.get(topic).into_iter().flat_map(|topic| topic.queues.iter().flat_map(Queue::records))
    }

    fn queue(&self, topic: &str, queue_id: i32) -> Option<&Queue> {
        self.topics.get(topic)?.queues.get(usize::try_from(queue_id).ok()?)
    }
}

const MAX_TOPICS: usize = 1 << 16;

#[cfg(test)]
mod tests;
