use crate::filter::TagFilter;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// One queue: the messages from its first offset on.
#[derive(Debug, Default)]
pub(super) struct Queue {
    first: i64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Bytes,
    pub(super) tag_hash: i32,
    pub(super) stored_ms: i64,
}

/// What a read found. Java: `GetMessageStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadStatus {
    Found,
    NoMatchedMessage,
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
    NoMessageInQueue,
    NoMatchedLogicQueue,
}

impl ReadStatus {
    /// The name in the Java sources, which brokers put into the remark.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
            Self::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            Self::NoMatchedLogicQueue => "NO_MATCHED_LOGIC_QUEUE",
        }
    }
}

/// The outcome of a read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) status: ReadStatus,
    pub(crate) next_offset: i64,
    pub(crate) min_offset: i64,
    pub(crate) max_offset: i64,
    /// The records, one after the other.
    pub(crate) body: Bytes,
}

impl Read {
    pub(super) fn empty(status: ReadStatus, next_offset: i64, min_offset: i64, max_offset: i64) -> Self {
        Self { status, next_offset, min_offset, max_offset, body: Bytes::new() }
    }
}

/// Which message is meant where none, or many, were stored at just that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// The first one stored at or after the moment.
    Lower,
    /// The last one stored at or before the moment.
    Upper,
}

impl Queue {
    pub(super) fn min(&self) -> i64 {
        self.first
    }

    pub(super) fn max(&self) -> i64 {
        self.first + count(self.entries.len())
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.record.len()).sum()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    pub(super) fn get(&self, offset: i64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn get_mut(&mut self, offset: i64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Bytes> {
        self.entries.iter().map(|entry| entry.record.clone())
    }

    /// Reads for a pull. The first message that matches is answered whatever its size. Java: `DefaultMessageStore`.
    pub(super) fn read(&self, offset: i64, max_messages: i32, filter: &TagFilter) -> Read {
        let (min, max) = (self.min(), self.max());
        let empty = |status, next| Read::empty(status, next, min, max);
        if max == 0 {
            return empty(ReadStatus::NoMessageInQueue, 0);
        }
        if offset < min {
            return empty(ReadStatus::OffsetTooSmall, min);
        }
        if offset >= max {
            let status = if offset == max { ReadStatus::OffsetOverflowOne } else { ReadStatus::OffsetOverflowBadly };
            return empty(status, max);
        }
        let most = usize::try_from(max_messages).unwrap_or(0).min(MAX_MESSAGES);
        let scan = MAX_SCANNED.max(usize::try_from(max_messages).unwrap_or(0));
        let start = usize::try_from(offset - min).unwrap_or(usize::MAX);
        let (mut picked, mut bytes, mut scanned) = (Vec::with_capacity(most.max(1)), 0, 0);
        for entry in self.entries.iter().skip(start).take(scan) {
            if filter.matches(entry.tag_hash) {
                if !picked.is_empty() && (picked.len() >= most || bytes + entry.record.len() > MAX_BYTES) {
                    break;
                }
                bytes += entry.record.len();
                picked.push(&entry.record);
            }
            scanned += 1;
        }
        let next = offset + count(scanned);
        match picked.as_slice() {
            [] => empty(ReadStatus::NoMatchedMessage, next),
            records => Read {
                status: ReadStatus::Found,
                next_offset: next,
                min_offset: min,
                max_offset: max,
                body: join(records, bytes),
            },
        }
    }

    /// The offset for a moment. Java: `ConsumeQueue.binarySearchInQueueByTime`.
    pub(super) fn search(&self, time_ms: i64, boundary: Boundary) -> i64 {
        match boundary {
            Boundary::Lower => self.first + count(self.entries.partition_point(|entry| entry.stored_ms < time_ms)),
            Boundary::Upper => match self.entries.partition_point(|entry| entry.stored_ms <= time_ms) {
                0 => 0,
                older => self.first + count(older) - 1,
            },
        }
    }

    /// Drops what lies below an offset; answers the bytes freed.
    pub(super) fn trim(&mut self, min_offset: i64) -> usize {
        let drop = usize::try_from(min_offset.saturating_sub(self.first)).unwrap_or(0).min(self.entries.len());
        self.first += count(drop);
        self.entries.drain(..drop).map(|entry| entry.record.len()).sum()
    }

    pub(super) fn take_oldest(&mut self, stored_until_ms: i64) -> Option<Bytes> {
        let entry = self.entries.front().filter(|entry| entry.stored_ms <= stored_until_ms)?;
        let record = entry.record.clone();
        self.entries.pop_front();
        self.first += 1;
        Some(record)
    }
}

/// One record is answered as it lies; more are copied behind each other.
fn join(records: &[&Bytes], bytes: usize) -> Bytes {
    if let [record] = records {
        return (*record).clone();
    }
    let mut body = BytesMut::with_capacity(bytes);
    for record in records {
        body.extend_from_slice(record);
    }
    body.freeze()
}

fn count(entries: usize) -> i64 {
    i64::try_from(entries).unwrap_or(i64::MAX)
}

/// Java: `maxTransferCountOnMessageInMemory`, `maxTransferBytesOnMessageInMemory`, `maxFilterMessageSize` / 20.
const MAX_MESSAGES: usize = 32;
const MAX_BYTES: usize = 256 * 1024;
const MAX_SCANNED: usize = 800;
