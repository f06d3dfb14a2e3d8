//! Messages as brokers store them: the records in the body of a pull.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{BatchItems, decode_batch};
use super::properties::SharedText;
use super::record::crc32;
use super::stored::StoredMessage;
use crate::compress::{CompressError, UnknownCompression};
use crate::protocol::sys_flag;

/// Magic of records whose topic has one byte of length.
pub(super) const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of records whose topic has two bytes of length.
pub(super) const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Bytes of the smallest record: addresses of IPv4, and no topic, body and properties.
pub(super) const MIN_RECORD_BYTES: usize = 91;

/// Address of a record that does not tell it.
const NO_HOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Both bits mark an inner batch that a client has to take apart.
const INNER_BATCH: i32 = sys_flag::NEED_UNWRAP | sys_flag::INNER_BATCH;

/// What a decoder accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest body after it is decompressed, in bytes. Default 64 MiB, four times what a frame can carry: a body that
    /// was worth compressing passes, and a few KiB made to fill the memory do not.
    pub max_body_bytes: usize,
    /// Whether to check the body against the checksum the broker stored. Default false, as in Java: TCP and the broker
    /// have checked it before.
    pub verify_crc: bool,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_body_bytes: 64 * 1024 * 1024, verify_crc: false }
    }
}

/// A record that cannot be read, and what is known of it.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the record at byte {position}{}", self.known_offsets())]
#[non_exhaustive]
pub struct CorruptRecord {
    /// Where in the body the record begins, in bytes.
    pub position: usize,
    /// The size the record claims, in bytes.
    pub total_size: Option<i32>,
    /// Its position in the queue, if that could be read.
    pub queue_offset: Option<i64>,
    /// Its position in the commit log, if that could be read.
    pub commit_log_offset: Option<i64>,
    /// Why it cannot be read.
    #[source]
    pub cause: CorruptCause,
    /// The fields that could be read.
    pub(super) partial: Option<Box<StoredMessage>>,
}

impl CorruptRecord {
    pub(super) fn at(position: usize, cause: CorruptCause) -> Self {
        Self { position, total_size: None, queue_offset: None, commit_log_offset: None, cause, partial: None }
    }

    /// Returns the record as a message that has a [`decode_error`](StoredMessage::decode_error): with the fields that
    /// could be read, and with the bytes as they came for a body. An offset that could not be read is -1. `None` for an
    /// item of a batch, which is no record of its own.
    pub fn into_message(mut self) -> Option<StoredMessage> {
        let mut message = *self.partial.take()?;
        message.decode_error = Some(Arc::new(self));
        Some(message)
    }

    fn known_offsets(&self) -> String {
        let known = |name, offset: Option<i64>| offset.map_or(String::new(), |offset| format!(", {name} {offset}"));
        known("queue offset", self.queue_offset) + &known("commit log offset", self.commit_log_offset)
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptCause {
    /// The record claims a size that is too small for any, or larger than what is there, so that nothing after it can
    /// be found.
    #[error("its size does not fit the {remaining} bytes that are left")]
    TotalSize {
        /// Bytes from its beginning to the end of the body.
        remaining: usize,
    },
    /// The record is of no known version.
    #[error("its magic {magic:#010x} is not known")]
    Magic {
        /// What stands in the magic's place.
        magic: u32,
    },
    /// A field is negative in length, or reaches past the end of the record.
    #[error("its {field} of {length} bytes does not fit the {remaining} bytes that are left")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// The length it claims, in bytes.
        length: i64,
        /// Bytes left in the record.
        remaining: usize,
    },
    /// The record goes on after its last field.
    #[error("it goes on for {count} bytes after its last field")]
    TrailingBytes {
        /// Bytes after the last field.
        count: usize,
    },
    /// The port of a host is none.
    #[error("the port {port} of its {field} is out of range")]
    Port {
        /// Name of the field.
        field: &'static str,
        /// What stands in the port's place.
        port: i32,
    },
    /// The body does not match its checksum.
    #[error("its body has the checksum {actual:#010x} and not {expected:#010x}")]
    Checksum {
        /// What the broker stored.
        expected: u32,
        /// What the body has.
        actual: u32,
    },
    /// The body is compressed in a way that is not known.
    #[error("its body cannot be decompressed")]
    UnknownCompression(#[from] UnknownCompression),
    /// The body does not decompress.
    #[error("its body cannot be decompressed")]
    Decompress(#[from] CompressError),
}

/// Decodes the records of one pulled body, one after the other. A record that cannot be read is reported, and those
/// after it are still delivered where its size tells where they begin.
///
/// Messages of the expected `topic` share it. Inner batches come out as the messages in them. Text that is not UTF-8 is no
/// defect: it reads with U+FFFD in its place.
///
/// # Protocol
/// Bodies of `PULL_MESSAGE` (11), `POP_MESSAGE` (200050), `CHECK_TRANSACTION_STATE` (39); Java `MessageDecoder`.
/// Witness: goldens `pull_reply_*.hex`, `pop_reply_550.hex`, `check_transaction_*.hex`, test
/// `records_of_real_brokers_are_written_as_they_were_read`. Inner batches are unconfirmed.
pub fn decode_records(body: Bytes, topic: &Arc<str>, broker_name: &Arc<str>, limits: DecodeLimits) -> Records {
    let (topic, broker_name) = (topic.clone(), broker_name.clone());
    Records { body, position: 0, topic, broker_name, limits, decompresses: true, inner: None }
}

/// Iterator over the records of a body; see [`decode_records`].
#[derive(Debug)]
pub struct Records {
    body: Bytes,
    position: usize,
    topic: Arc<str>,
    broker_name: Arc<str>,
    limits: DecodeLimits,
    decompresses: bool,
    inner: Option<InnerBatch>,
}

impl Iterator for Records {
    type Item = Result<StoredMessage, CorruptRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(inner) = &mut self.inner {
                match inner.next() {
                    Some(item) => return Some(item),
                    None => self.inner = None,
                }
            }
            let remaining = self.body.len() - self.position;
            if remaining == 0 {
                return None;
            }
            let position = self.position;
            let (total_size, size) = Reader::total_size(&self.body[position..], MIN_RECORD_BYTES);
            // Where the size makes no sense nobody knows where the next record begins: the rest is one corrupt record.
            self.position += size.unwrap_or(remaining);
            let mut message = self.blank(position..self.position);
            let read = self.read(&mut message, position);
            let read = if size.is_some() { read } else { Err(CorruptCause::TotalSize { remaining }) };
            if size.is_none() {
                message.body = self.body.slice(position..);
            }
            match read {
                Ok(()) if message.sys_flag & INNER_BATCH == INNER_BATCH => {
                    self.inner = Some(InnerBatch::new(message, position));
                }
                Ok(()) => return Some(Ok(message)),
                Err(cause) => {
                    let record = &self.body[position..self.position];
                    let offset_at = |at: usize| record.get(at..)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
                    return Some(Err(CorruptRecord {
                        position,
                        total_size,
                        queue_offset: offset_at(20),
                        commit_log_offset: offset_at(28),
                        cause,
                        partial: Some(Box::new(message)),
                    }));
                }
            }
        }
    }
}

impl Records {
    /// Leaves compressed bodies as they are, for [`StoredMessage::decompress`] later.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.decompresses = false;
        self
    }

    /// A message of which nothing is known but its bytes.
    fn blank(&self, record: Range<usize>) -> StoredMessage {
        StoredMessage {
            topic: self.topic.clone(),
            broker_name: self.broker_name.clone(),
            queue_id: 0,
            flag: 0,
            queue_offset: -1,
            commit_log_offset: -1,
            sys_flag: 0,
            reconsume_times: 0,
            born_timestamp_ms: 0,
            store_timestamp_ms: 0,
            prepared_transaction_offset: 0,
            born_host: NO_HOST,
            store_host: NO_HOST,
            store_size: 0,
            body_crc: 0,
            body: self.body.slice(record),
            properties: SharedText::default(),
            decode_error: None,
        }
    }

    /// Reads the record that begins at `position` into a message whose body is that record. The fields before a defect
    /// are kept.
    fn read(&self, message: &mut StoredMessage, position: usize) -> Result<(), CorruptCause> {
        let record = message.body.clone();
        let mut reader = Reader::new(&record);
        message.store_size = reader.u32("total size")?;
        let magic = reader.u32("magic")?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(CorruptCause::Magic { magic });
        }
        message.body_crc = reader.u32("body CRC")?;
        message.queue_id = reader.i32("queue id")?;
        message.flag = reader.i32("flag")?;
        message.queue_offset = reader.i64("queue offset")?;
        message.commit_log_offset = reader.i64("commit log offset")?;
        message.sys_flag = reader.i32("system flag")?;
        message.born_timestamp_ms = reader.i64("born timestamp")?;
        message.born_host = reader.host("born host", message.sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
        message.store_timestamp_ms = reader.i64("store timestamp")?;
        message.store_host = reader.host("store host", message.sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
        message.reconsume_times = reader.i32("reconsume times")?;
        message.prepared_transaction_offset = reader.i64("prepared transaction offset")?;
        let body = reader.sized_i32("body")?;
        let topic = if magic == MAGIC_V1 { reader.sized_i8("topic")? } else { reader.sized_i16("topic")? };
        let properties = reader.sized_i16("properties")?;
        message.topic = self.topic(&record[topic]);
        message.properties = SharedText::new(record.slice(properties));
        reader.end()?;

        message.body = self.body.slice(position + body.start..position + body.end);
        if self.limits.verify_crc {
            let actual = crc32(&message.body);
            if actual != message.body_crc {
                return Err(CorruptCause::Checksum { expected: message.body_crc, actual });
            }
        }
        if self.decompresses || message.sys_flag & INNER_BATCH == INNER_BATCH {
            message.decompress(self.limits.max_body_bytes)?;
        }
        Ok(())
    }

    fn topic(&self, name: &[u8]) -> Arc<str> {
        if name == self.topic.as_bytes() { self.topic.clone() } else { String::from_utf8_lossy(name).into() }
    }
}

/// The messages in one record: all that the record says holds for each, but flag, body, properties and offset.
#[derive(Debug)]
struct InnerBatch {
    outer: StoredMessage,
    position: usize,
    items: BatchItems,
    next: i64,
}

impl InnerBatch {
    fn new(mut outer: StoredMessage, position: usize) -> Self {
        let items = decode_batch(std::mem::take(&mut outer.body));
        Self { outer, position, items, next: 0 }
    }

    fn next(&mut self) -> Option<Result<StoredMessage, CorruptRecord>> {
        let item = self.items.next()?;
        let queue_offset = self.outer.queue_offset.saturating_add(self.next);
        self.next += 1;
        Some(match item {
            Ok(item) => {
                let (flag, body, properties) = item.into_parts();
                Ok(StoredMessage { flag, body, properties, queue_offset, ..self.outer.clone() })
            }
            Err(corrupt) => Err(CorruptRecord {
                position: self.position,
                queue_offset: Some(queue_offset),
                commit_log_offset: Some(self.outer.commit_log_offset),
                partial: Some(Box::new(StoredMessage { queue_offset, ..self.outer.clone() })),
                ..corrupt
            }),
        })
    }
}

/// Reads the fields of one record, each checked against the bytes that are left.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The size a record claims, and the same once more if a record of that size is there.
    pub(super) fn total_size(bytes: &[u8], min: usize) -> (Option<i32>, Option<usize>) {
        let claimed = bytes.first_chunk().map(|word| i32::from_be_bytes(*word));
        let size = claimed.and_then(|size| usize::try_from(size).ok());
        (claimed, size.filter(|size| (min..=bytes.len()).contains(size)))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CorruptCause> {
        let rest = &self.bytes[self.at..];
        match rest.first_chunk() {
            Some(array) => {
                self.at += N;
                Ok(*array)
            }
            None => {
                Err(CorruptCause::Length { field, length: i64::try_from(N).unwrap_or(i64::MAX), remaining: rest.len() })
            }
        }
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, CorruptCause> {
        self.array(field).map(i32::from_be_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, CorruptCause> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, CorruptCause> {
        self.array(field).map(i64::from_be_bytes)
    }

    fn host(&mut self, field: &'static str, is_v6: bool) -> Result<SocketAddr, CorruptCause> {
        let ip: IpAddr = if is_v6 { self.array::<16>(field)?.into() } else { self.array::<4>(field)?.into() };
        let port = self.i32(field)?;
        let port = u16::try_from(port).map_err(|_| CorruptCause::Port { field, port })?;
        Ok(SocketAddr::new(ip, port))
    }

    /// Where a field lies that comes after its length.
    pub(super) fn sized_i32(&mut self, field: &'static str) -> Result<Range<usize>, CorruptCause> {
        let length = self.i32(field)?;
        self.skip(field, length.into())
    }

    pub(super) fn sized_i16(&mut self, field: &'static str) -> Result<Range<usize>, CorruptCause> {
        let length = i16::from_be_bytes(self.array(field)?);
        self.skip(field, length.into())
    }

    fn sized_i8(&mut self, field: &'static str) -> Result<Range<usize>, CorruptCause> {
        let length = i8::from_be_bytes(self.array(field)?);
        self.skip(field, length.into())
    }

    fn skip(&mut self, field: &'static str, length: i64) -> Result<Range<usize>, CorruptCause> {
        let remaining = self.bytes.len() - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= remaining => {
                let start = self.at;
                self.at += length;
                Ok(start..self.at)
            }
            _ => Err(CorruptCause::Length { field, length, remaining }),
        }
    }

    /// Checks that the record ends here: one that goes on has swallowed the next.
    pub(super) fn end(&self) -> Result<(), CorruptCause> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            count => Err(CorruptCause::TrailingBytes { count }),
        }
    }
}

#[cfg(test)]
mod tests;
