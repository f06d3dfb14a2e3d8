//! Messages as brokers store them: the records in the body of a pull.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{BatchItems, decode_batch};
use super::properties::{self, SharedText, property};
use super::{MessageQueue, OffsetId};
use crate::compress::{CompressError, Compression, UnknownCompression};

/// Magic of records whose topic has one byte of length.
const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of records whose topic has two bytes of length.
const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Bytes of the smallest record: addresses of IPv4, and no topic, body and properties.
const MIN_RECORD_BYTES: usize = 91;

/// Bits of the system flag.
const COMPRESSED: i32 = 0x1;
const TRANSACTION_MASK: i32 = 0xC;
const BORN_HOST_V6: i32 = 0x10;
const STORE_HOST_V6: i32 = 0x20;
const INNER_BATCH: i32 = 0x40 | 0x80;

/// A message as a broker stored it.
///
/// Body and properties are slices of the reply they came in, so a message that is kept keeps that reply in memory.
#[derive(Clone)]
pub struct StoredMessage {
    topic: Arc<str>,
    broker_name: Arc<str>,
    queue_id: i32,
    flag: i32,
    queue_offset: i64,
    commit_log_offset: i64,
    sys_flag: i32,
    reconsume_times: i32,
    born_timestamp_ms: i64,
    store_timestamp_ms: i64,
    prepared_transaction_offset: i64,
    born_host: SocketAddr,
    store_host: SocketAddr,
    store_size: u32,
    body_crc: u32,
    body: Bytes,
    properties: SharedText,
}

impl StoredMessage {
    /// Returns the name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the name of the topic, shared among the messages of a pull.
    pub fn shared_topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Returns the name of the broker, shared among the messages of a pull.
    pub fn broker_name(&self) -> &Arc<str> {
        &self.broker_name
    }

    /// Returns the number of the queue.
    pub fn queue_id(&self) -> i32 {
        self.queue_id
    }

    /// Returns the queue.
    pub fn queue(&self) -> MessageQueue {
        MessageQueue::new(self.topic.clone(), self.broker_name.clone(), self.queue_id)
    }

    /// Returns the position in the queue.
    pub fn queue_offset(&self) -> i64 {
        self.queue_offset
    }

    /// Returns the position in the broker's commit log, in bytes.
    pub fn commit_log_offset(&self) -> i64 {
        self.commit_log_offset
    }

    /// Returns the flag which the producer's user gave it.
    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// Returns the system flag. The bit for a compressed body is off, since [`body`](Self::body) no longer is.
    pub fn sys_flag(&self) -> i32 {
        self.sys_flag
    }

    /// Returns when the producer sent it, by the producer's clock.
    pub fn born_timestamp(&self) -> SystemTime {
        system_time(self.born_timestamp_ms)
    }

    /// Returns when the producer sent it, by the producer's clock, in ms since the epoch.
    pub fn born_timestamp_ms(&self) -> i64 {
        self.born_timestamp_ms
    }

    /// Returns the producer's address, as the broker sees it.
    pub fn born_host(&self) -> SocketAddr {
        self.born_host
    }

    /// Returns when the broker stored it, by the broker's clock.
    pub fn store_timestamp(&self) -> SystemTime {
        system_time(self.store_timestamp_ms)
    }

    /// Returns when the broker stored it, by the broker's clock, in ms since the epoch.
    pub fn store_timestamp_ms(&self) -> i64 {
        self.store_timestamp_ms
    }

    /// Returns the address of the broker that stored it first.
    pub fn store_host(&self) -> SocketAddr {
        self.store_host
    }

    /// Returns how often the group has failed to consume it.
    pub fn reconsume_times(&self) -> i32 {
        self.reconsume_times
    }

    /// Returns where the half message stands, of a message that was part of a transaction.
    pub fn prepared_transaction_offset(&self) -> i64 {
        self.prepared_transaction_offset
    }

    /// Returns the body, decompressed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the body, decompressed.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Returns the value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)
    }

    /// Iterates over the properties, in the order of the text; see [`properties::pairs`].
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::pairs(self.properties.as_str())
    }

    /// Returns the text in which the properties travel.
    pub fn properties_text(&self) -> &str {
        self.properties.as_str()
    }

    /// Returns the tag.
    pub fn tag(&self) -> Option<&str> {
        self.property(property::TAGS)
    }

    /// Iterates over the index keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        properties::split_keys(self.property(property::KEYS).unwrap_or_default())
    }

    /// Returns the unique id, made by the producer, or by the broker where there was none.
    pub fn unique_id(&self) -> Option<&str> {
        self.property(property::UNIQ_KEY)
    }

    /// Returns the id to show to users: the unique id, else the offset id.
    pub fn message_id(&self) -> Cow<'_, str> {
        self.unique_id().map_or_else(|| Cow::Owned(self.offset_id()), Cow::Borrowed)
    }

    /// Returns the id that says where the broker stored it; see [`OffsetId`].
    pub fn offset_id(&self) -> String {
        OffsetId { host: self.store_host, commit_log_offset: self.commit_log_offset }.to_string()
    }

    /// Returns the key whose messages stay in order.
    pub fn sharding_key(&self) -> Option<&str> {
        self.property(property::SHARDING_KEY)
    }

    /// Returns the delay level; 0 is none.
    pub fn delay_level(&self) -> i32 {
        properties::parse_level(self.property(property::DELAY))
    }

    /// Returns the id of the transaction the message was part of; brokers leave it to the unique id.
    pub fn transaction_id(&self) -> Option<&str> {
        // A half message loses the bits while it waits for its outcome, and a committed one the property.
        let in_transaction =
            || self.sys_flag & TRANSACTION_MASK != 0 || self.property(property::TRAN_MSG) == Some("true");
        self.property(property::TRANSACTION_ID).or_else(|| if in_transaction() { self.unique_id() } else { None })
    }

    /// Returns the checksum the broker stored of the body as it was sent; see [`DecodeLimits::verify_crc`].
    pub fn body_crc(&self) -> u32 {
        self.body_crc
    }

    /// Returns the bytes the record takes in the broker's commit log.
    pub fn store_size(&self) -> u32 {
        self.store_size
    }

    /// Gives it another topic: the original one of a message to consume again, or the name without its namespace.
    #[must_use]
    pub fn with_topic(mut self, topic: Arc<str>) -> Self {
        self.topic = topic;
        self
    }

    /// Moves the position in the queue, for a queue whose offsets are counted over several brokers.
    pub fn add_offset(&mut self, delta: i64) {
        self.queue_offset = self.queue_offset.saturating_add(delta);
    }
}

/// Bodies are not shown: they are the user's.
impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredMessage")
            .field("topic", &self.topic)
            .field("broker_name", &self.broker_name)
            .field("queue_id", &self.queue_id)
            .field("queue_offset", &self.queue_offset)
            .field("message_id", &self.message_id())
            .field("reconsume_times", &self.reconsume_times)
            .field("store_timestamp_ms", &self.store_timestamp_ms)
            .field("body_bytes", &self.body.len())
            .field("properties", &self.properties_text())
            .finish_non_exhaustive()
    }
}

/// A time of the wire. What lies outside of the platform's range is the epoch.
fn system_time(ms: i64) -> SystemTime {
    let since = Duration::from_millis(ms.unsigned_abs());
    let time = if ms < 0 { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) };
    time.unwrap_or(UNIX_EPOCH)
}

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
}

impl CorruptRecord {
    pub(super) fn at(position: usize, cause: CorruptCause) -> Self {
        Self { position, total_size: None, queue_offset: None, commit_log_offset: None, cause }
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
    /// A text is not UTF-8.
    #[error("its {field} is not UTF-8")]
    NotUtf8 {
        /// Name of the field.
        field: &'static str,
        /// Where it is not.
        source: Utf8Error,
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
/// Messages of the expected `topic` share it. Inner batches come out as the messages in them.
///
/// # Protocol
/// Bodies of `PULL_MESSAGE` (11), `POP_MESSAGE` (200050), `CHECK_TRANSACTION_STATE` (39); Java `MessageDecoder`.
/// Witness: goldens `pull_reply_*.hex`, `pop_reply_550.hex`, `check_transaction_*.hex`, test
/// `records_of_real_brokers_are_written_as_they_were_read`. Inner batches are unconfirmed.
pub fn decode_records(body: Bytes, topic: &Arc<str>, broker_name: &Arc<str>, limits: DecodeLimits) -> Records {
    Records { body, position: 0, topic: topic.clone(), broker_name: broker_name.clone(), limits, inner: None }
}

/// Iterator over the records of a body; see [`decode_records`].
#[derive(Debug)]
pub struct Records {
    body: Bytes,
    position: usize,
    topic: Arc<str>,
    broker_name: Arc<str>,
    limits: DecodeLimits,
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
            let record = &self.body[position..self.position];
            let decoded = match size {
                Some(_) => self.decode(record, position),
                None => Err(CorruptCause::TotalSize { remaining }),
            };
            match decoded {
                Ok(message) if message.sys_flag & INNER_BATCH == INNER_BATCH => {
                    self.inner = Some(InnerBatch::new(message, position));
                }
                Ok(message) => return Some(Ok(message)),
                Err(cause) => {
                    let offset_at = |at: usize| record.get(at..)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
                    return Some(Err(CorruptRecord {
                        position,
                        total_size,
                        queue_offset: offset_at(20),
                        commit_log_offset: offset_at(28),
                        cause,
                    }));
                }
            }
        }
    }
}

impl Records {
    /// Decodes the record whose bytes begin at `position`.
    fn decode(&self, record: &[u8], position: usize) -> Result<StoredMessage, CorruptCause> {
        let mut reader = Reader::new(record);
        let store_size = reader.u32("total size")?;
        let magic = reader.u32("magic")?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(CorruptCause::Magic { magic });
        }
        let body_crc = reader.u32("body CRC")?;
        let queue_id = reader.i32("queue id")?;
        let flag = reader.i32("flag")?;
        let queue_offset = reader.i64("queue offset")?;
        let commit_log_offset = reader.i64("commit log offset")?;
        let sys_flag = reader.i32("system flag")?;
        let born_timestamp_ms = reader.i64("born timestamp")?;
        let born_host = reader.host("born host", sys_flag & BORN_HOST_V6 != 0)?;
        let store_timestamp_ms = reader.i64("store timestamp")?;
        let store_host = reader.host("store host", sys_flag & STORE_HOST_V6 != 0)?;
        let reconsume_times = reader.i32("reconsume times")?;
        let prepared_transaction_offset = reader.i64("prepared transaction offset")?;
        let body = reader.sized_i32("body")?;
        let topic = if magic == MAGIC_V1 { reader.sized_i8("topic")? } else { reader.sized_i16("topic")? };
        let properties = reader.sized_i16("properties")?;
        reader.end()?;

        let shared = |range: Range<usize>| self.body.slice(position + range.start..position + range.end);
        let properties = SharedText::new(shared(properties))
            .map_err(|source| CorruptCause::NotUtf8 { field: "properties", source })?;
        let topic = self.topic(&record[topic])?;
        if self.limits.verify_crc {
            let actual = crc32(&record[body.clone()]);
            if actual != body_crc {
                return Err(CorruptCause::Checksum { expected: body_crc, actual });
            }
        }
        let body = match Compression::from_sys_flag(sys_flag) {
            None => shared(body),
            Some(compression) => compression?.decompress(&record[body], self.limits.max_body_bytes)?,
        };
        Ok(StoredMessage {
            topic,
            broker_name: self.broker_name.clone(),
            queue_id,
            flag,
            queue_offset,
            commit_log_offset,
            sys_flag: sys_flag & !COMPRESSED,
            reconsume_times,
            born_timestamp_ms,
            store_timestamp_ms,
            prepared_transaction_offset,
            born_host,
            store_host,
            store_size,
            body_crc,
            body,
            properties,
        })
    }

    fn topic(&self, name: &[u8]) -> Result<Arc<str>, CorruptCause> {
        if name == self.topic.as_bytes() {
            return Ok(self.topic.clone());
        }
        let name = std::str::from_utf8(name).map_err(|source| CorruptCause::NotUtf8 { field: "topic", source })?;
        Ok(name.into())
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

/// A record to write: a message, and all that a broker knows of it.
///
/// Where a message does not come out of a pull (a reply pushed to who asked), write it as a record and decode that.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Number of the queue.
    pub queue_id: i32,
    /// Position in the queue.
    pub queue_offset: i64,
    /// Position in the commit log, in bytes.
    pub commit_log_offset: i64,
    /// Flag of the producer's user.
    pub flag: i32,
    /// System flag; the two bits that tell of IPv6 are set as the addresses are.
    pub sys_flag: i32,
    /// When the producer sent it, in ms since the epoch.
    pub born_timestamp_ms: i64,
    /// Address of the producer.
    pub born_host: SocketAddr,
    /// When the broker stored it, in ms since the epoch.
    pub store_timestamp_ms: i64,
    /// Address of the broker.
    pub store_host: SocketAddr,
    /// How often the group has failed to consume it.
    pub reconsume_times: i32,
    /// Where the half message stands.
    pub prepared_transaction_offset: i64,
    /// Body, compressed if the system flag says so.
    pub body: &'a [u8],
    /// Properties, in the text in which they travel.
    pub properties: &'a str,
}

/// Why a record cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {field} of {size} bytes is too large for a record, which holds {max}")]
#[non_exhaustive]
pub struct RecordError {
    /// Name of the field.
    pub field: &'static str,
    /// Bytes of the field.
    pub size: usize,
    /// Bytes allowed.
    pub max: usize,
}

impl Record<'_> {
    /// Appends the record to `out` and returns its size in bytes.
    ///
    /// # Errors
    /// A field is larger than its length word can tell; `out` is then as it was.
    ///
    /// # Protocol
    /// Java `MessageExtEncoder`: version 1, and version 2 where the topic is longer than 127 bytes.
    pub fn encode(&self, out: &mut BytesMut) -> Result<usize, RecordError> {
        let too_large = |field, size, max| RecordError { field, size, max };
        let (topic, properties) = (self.topic.as_bytes(), self.properties.as_bytes());
        let topic_length = i16::try_from(topic.len()).map_err(|_| too_large("topic", topic.len(), I16_MAX))?;
        let properties_length =
            i16::try_from(properties.len()).map_err(|_| too_large("properties", properties.len(), I16_MAX))?;
        let body_length =
            i32::try_from(self.body.len()).map_err(|_| too_large("body", self.body.len(), MAX_BODY_BYTES))?;
        let short_topic = i8::try_from(topic_length).ok();
        let more_of = |host: SocketAddr| if host.is_ipv6() { 12 } else { 0 };
        let size = MIN_RECORD_BYTES
            + usize::from(short_topic.is_none())
            + more_of(self.born_host)
            + more_of(self.store_host)
            + self.body.len()
            + topic.len()
            + properties.len();
        let total_size = i32::try_from(size).map_err(|_| too_large("body", self.body.len(), MAX_BODY_BYTES))?;
        let bit = |host: SocketAddr, mask| if host.is_ipv6() { mask } else { 0 };
        let sys_flag = self.sys_flag & !(BORN_HOST_V6 | STORE_HOST_V6)
            | bit(self.born_host, BORN_HOST_V6)
            | bit(self.store_host, STORE_HOST_V6);

        out.reserve(size);
        out.put_i32(total_size);
        out.put_u32(if short_topic.is_some() { MAGIC_V1 } else { MAGIC_V2 });
        out.put_u32(crc32(self.body));
        out.put_i32(self.queue_id);
        out.put_i32(self.flag);
        out.put_i64(self.queue_offset);
        out.put_i64(self.commit_log_offset);
        out.put_i32(sys_flag);
        out.put_i64(self.born_timestamp_ms);
        put_host(self.born_host, out);
        out.put_i64(self.store_timestamp_ms);
        put_host(self.store_host, out);
        out.put_i32(self.reconsume_times);
        out.put_i64(self.prepared_transaction_offset);
        out.put_i32(body_length);
        out.put_slice(self.body);
        match short_topic {
            Some(length) => out.put_i8(length),
            None => out.put_i16(topic_length),
        }
        out.put_slice(topic);
        out.put_i16(properties_length);
        out.put_slice(properties);
        Ok(size)
    }
}

fn put_host(host: SocketAddr, out: &mut BytesMut) {
    match host.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_i32(host.port().into());
}

const I16_MAX: usize = i16::MAX as usize;
/// Longest body that fits beside the longest topic and properties.
const MAX_BODY_BYTES: usize = i32::MAX as usize - 2 * I16_MAX - MIN_RECORD_BYTES - 25;

/// CRC-32 (IEEE) without its top bit, as brokers store it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        CRC_TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    };
    !bytes.iter().fold(u32::MAX, step) & 0x7FFF_FFFF
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0_u32;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::error::Error;

    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, encode_batch, goldens};

    const RECORDS: [&str; 11] = [
        goldens::PULL_UNICODE_550,
        goldens::PULL_UNICODE_497,
        goldens::PULL_BATCH_550,
        goldens::PULL_BATCH_497,
        goldens::PULL_ORDERED_550,
        goldens::PULL_ORDERED_497,
        goldens::PULL_RETRY,
        goldens::PULL_BINARY_HEAD,
        goldens::POP,
        goldens::CHECK_550,
        goldens::CHECK_497,
    ];

    const CHECKED: DecodeLimits = DecodeLimits { max_body_bytes: 1 << 20, verify_crc: true };

    fn decode(body: impl Into<Bytes>) -> Vec<Result<StoredMessage, CorruptRecord>> {
        decode_records(body.into(), &"t".into(), &"broker-a".into(), CHECKED).collect()
    }

    fn decode_all(body: impl Into<Bytes>) -> Vec<StoredMessage> {
        decode(body).into_iter().collect::<Result<_, _>>().unwrap()
    }

    /// Bytes of a record of [`record`] with the topic `t`, beside its body.
    const RECORD_BYTES: usize = MIN_RECORD_BYTES + 1 + 19;

    fn record<'a>(topic: &'a str, body: &'a [u8]) -> Record<'a> {
        Record {
            topic,
            queue_id: 3,
            queue_offset: 41,
            commit_log_offset: 0x1413_B380,
            flag: -7,
            sys_flag: 0,
            born_timestamp_ms: 1_700_000_000_123,
            born_host: "10.0.0.7:40000".parse().unwrap(),
            store_timestamp_ms: 1_700_000_000_456,
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 99,
            body,
            properties: "TAGS\u{1}eu\u{2}KEYS\u{1}k1 k2\u{2}",
        }
    }

    fn record_of(message: &StoredMessage) -> Record<'_> {
        Record {
            topic: message.topic(),
            queue_id: message.queue_id(),
            queue_offset: message.queue_offset(),
            commit_log_offset: message.commit_log_offset(),
            flag: message.flag(),
            sys_flag: message.sys_flag(),
            born_timestamp_ms: message.born_timestamp_ms(),
            born_host: message.born_host(),
            store_timestamp_ms: message.store_timestamp_ms(),
            store_host: message.store_host(),
            reconsume_times: message.reconsume_times(),
            prepared_transaction_offset: message.prepared_transaction_offset(),
            body: message.body(),
            properties: message.properties_text(),
        }
    }

    fn encode(records: &[Record<'_>]) -> BytesMut {
        let mut out = BytesMut::new();
        for record in records {
            let before = out.len();
            assert_eq!(record.encode(&mut out).unwrap(), out.len() - before);
        }
        out
    }

    fn cause(body: impl Into<Bytes>) -> CorruptCause {
        let [Err(corrupt)] = <[_; 1]>::try_from(decode(body)).unwrap() else { panic!("not corrupt") };
        corrupt.cause
    }

    #[test]
    fn records_of_real_brokers_are_written_as_they_were_read() {
        for golden in RECORDS {
            let body = goldens::body(golden);
            let mut at = 0;
            for message in decode_all(body.clone()) {
                let size = usize::try_from(message.store_size()).unwrap();
                let original = &body[at..at + size];
                assert_eq!(encode(&[record_of(&message)]), original);
                at += size;
            }
            assert_eq!(at, body.len());
        }
    }

    #[test]
    fn properties_of_real_brokers_are_found() {
        for golden in [goldens::PULL_UNICODE_550, goldens::PULL_UNICODE_497] {
            let message = &decode_all(goldens::body(golden))[0];
            assert_eq!(message.topic(), "gold_unicode");
            let n = message.property("u_i").unwrap();
            assert_eq!(message.body(), format!("消息-é-🚀-{n}").as_bytes());
            assert_eq!(message.property("u_text"), Some("值 🚀 \"q\" \\ /"));
            assert_eq!(message.keys().collect::<Vec<_>>(), [format!("键{n}")]);
            assert!(matches!(message.tag(), Some("odd" | "even")));
            assert_eq!(message.unique_id().map(str::len), Some(56));
            assert_eq!(message.message_id(), message.unique_id().unwrap());
            assert_eq!(message.store_host().to_string(), "127.0.0.1:10911");
        }
    }

    #[test]
    fn a_transaction_to_check_names_its_id() {
        for golden in [goldens::CHECK_550, goldens::CHECK_497] {
            let messages = decode_all(goldens::body(golden));
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].transaction_id(), messages[0].unique_id());
            let head = goldens::head(golden);
            assert_eq!(head["extFields"]["transactionId"], messages[0].transaction_id().unwrap());
            assert_eq!(head["extFields"]["offsetMsgId"], messages[0].offset_id());
        }
    }

    #[test]
    fn every_field_is_read_as_written() {
        let messages = decode_all(encode(&[record("t", b"body")]));
        let message = &messages[0];
        assert_eq!(message.topic(), "t");
        assert_eq!(message.queue(), MessageQueue::new("t", "broker-a", 3));
        assert_eq!(message.queue_offset(), 41);
        assert_eq!(message.commit_log_offset(), 0x1413_B380);
        assert_eq!((message.flag(), message.sys_flag()), (-7, 0));
        assert_eq!(message.born_timestamp(), UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
        assert_eq!(message.store_timestamp(), UNIX_EPOCH + Duration::from_millis(1_700_000_000_456));
        assert_eq!(message.born_host().to_string(), "10.0.0.7:40000");
        assert_eq!((message.reconsume_times(), message.prepared_transaction_offset()), (2, 99));
        assert_eq!(message.body().as_ref(), b"body");
        assert_eq!((message.tag(), message.delay_level(), message.transaction_id()), (Some("eu"), 0, None));
        assert_eq!(message.properties().collect::<Vec<_>>(), [("TAGS", "eu"), ("KEYS", "k1 k2")]);
        assert_eq!(message.message_id(), "7F00000100002A9F000000001413B380");
        assert_eq!(usize::try_from(message.store_size()), Ok(RECORD_BYTES + "body".len()));
    }

    #[test]
    fn the_checksum_is_the_one_of_the_brokers() {
        assert_eq!(crc32(b"123456789"), 0x4BF4_3926);
        assert_eq!(crc32(b"hello"), 0x3610_A686);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_body_is_a_slice_of_the_reply_and_the_topic_is_shared() {
        let reply = encode(&[record("t", b"body"), record("other", b"body")]).freeze();
        let topic: Arc<str> = "t".into();
        let read: Vec<_> = decode_records(reply.clone(), &topic, &"b".into(), CHECKED).map(Result::unwrap).collect();
        assert!(reply.as_ptr_range().contains(&read[0].body().as_ptr()));
        assert!(Arc::ptr_eq(read[0].shared_topic(), &topic));
        assert!(Arc::ptr_eq(read[0].broker_name(), read[1].broker_name()));
        assert_eq!(read[1].topic(), "other");
    }

    #[test]
    fn what_a_consumer_changes_is_changed() {
        let mut message = decode_all(encode(&[record("%RETRY%g", b"body")])).remove(0).with_topic("t".into());
        message.add_offset(1000);
        assert_eq!((message.topic(), message.queue_offset()), ("t", 1041));
        message.add_offset(i64::MAX);
        assert_eq!(message.queue_offset(), i64::MAX);
    }

    #[test]
    fn addresses_of_ipv6_and_long_topics_are_read() {
        let long = "x".repeat(128);
        for (born, store) in [("[::1]:1", "127.0.0.1:2"), ("127.0.0.1:1", "[fd00::2]:2"), ("[::1]:1", "[::2]:65535")] {
            for topic in ["t", long.as_str()] {
                let hosts = (born.parse().unwrap(), store.parse().unwrap());
                let record = Record { born_host: hosts.0, store_host: hosts.1, ..record(topic, b"body") };
                let read = decode_all(encode(&[record]));
                assert_eq!((read[0].born_host(), read[0].store_host()), hosts);
                assert_eq!((read[0].topic(), read[0].body().as_ref()), (topic, b"body".as_slice()));
            }
        }
    }

    #[test]
    fn a_field_too_large_for_a_record_is_refused_when_written() {
        let mut out = BytesMut::new();
        let properties = "x".repeat(32_768);
        let large = Record { properties: &properties, ..record("t", b"body") };
        assert_eq!(large.encode(&mut out), Err(RecordError { field: "properties", size: 32_768, max: 32_767 }));
        assert!(out.is_empty());
    }

    #[test]
    fn a_corrupt_record_is_passed_and_named() {
        let mut body = encode(&[record("t", b"one"), record("t", b"two"), record("t", b"three")]);
        let second = RECORD_BYTES + "one".len();
        body[second + 4] = 0;
        let read = decode(body);
        assert_eq!(read.len(), 3);
        assert_eq!(read[2].as_ref().unwrap().body().as_ref(), b"three");
        let corrupt = read[1].as_ref().unwrap_err();
        assert_eq!((corrupt.position, corrupt.total_size), (second, Some(114)));
        assert_eq!((corrupt.queue_offset, corrupt.commit_log_offset), (Some(41), Some(0x1413_B380)));
        assert!(matches!(corrupt.cause, CorruptCause::Magic { magic: 0x00A3_20A7 }));
        assert_eq!(
            corrupt.to_string(),
            "cannot read the record at byte 114, queue offset 41, commit log offset 336835456"
        );
        assert_eq!(corrupt.source().unwrap().to_string(), "its magic 0x00a320a7 is not known");
    }

    #[test]
    fn where_the_size_is_wrong_the_rest_is_one_corrupt_record() {
        for size in [0, 4, 90, 10_000, i32::MAX, -1, i32::MIN] {
            let mut body = encode(&[record("t", b"one"), record("t", b"two"), record("t", b"three")]);
            body[114..118].copy_from_slice(&size.to_be_bytes());
            let read = decode(body);
            assert_eq!(read.len(), 2, "{size}");
            let corrupt = read[1].as_ref().unwrap_err();
            assert_eq!((corrupt.position, corrupt.total_size), (114, Some(size)));
            assert_eq!(corrupt.queue_offset, Some(41));
            assert!(matches!(corrupt.cause, CorruptCause::TotalSize { remaining: 230 }), "{:?}", corrupt.cause);
        }
    }

    #[test]
    fn a_reply_that_ends_early_says_so() {
        let whole = encode(&[record("t", b"body")]).freeze();
        for length in 1..whole.len() {
            assert!(
                matches!(cause(whole.slice(..length)), CorruptCause::TotalSize { remaining } if remaining == length)
            );
        }
        let corrupt = decode(whole.slice(..30)).remove(0).unwrap_err();
        assert_eq!((corrupt.queue_offset, corrupt.commit_log_offset), (Some(41), None));
    }

    #[test]
    fn lengths_are_held_against_the_record() {
        let patched = |at: usize, bytes: &[u8]| {
            let mut body = encode(&[record("t", b"body")]);
            body[at..at + bytes.len()].copy_from_slice(bytes);
            cause(body)
        };
        let (body, topic, properties) = (84, 84 + 4 + 4, 84 + 4 + 4 + 2);
        assert!(matches!(
            patched(body, &(-1_i32).to_be_bytes()),
            CorruptCause::Length { field: "body", length: -1, .. }
        ));
        assert!(matches!(patched(body, &[0x7F; 4]), CorruptCause::Length { field: "body", .. }));
        assert!(matches!(patched(topic, &[0x80]), CorruptCause::Length { field: "topic", length: -128, .. }));
        assert!(matches!(patched(topic, &[100]), CorruptCause::Length { field: "topic", .. }));
        assert!(matches!(patched(properties, &[0xFF, 0xFF]), CorruptCause::Length { field: "properties", .. }));
        assert!(matches!(patched(properties, &[0, 18]), CorruptCause::TrailingBytes { count: 1 }));
        // The flags say IPv6, so every field after the address is 12 bytes further on.
        assert!(matches!(patched(39, &[0x30]), CorruptCause::Port { .. } | CorruptCause::Length { .. }));
        assert!(matches!(patched(52, &[0, 1, 0, 0]), CorruptCause::Port { field: "born host", port: 0x1_0000 }));
    }

    #[test]
    fn text_that_is_not_utf8_and_a_body_that_was_changed_are_corrupt() {
        let flipped = |at: usize| {
            let mut body = encode(&[record("t", b"body")]);
            body[at] ^= 0x80;
            cause(body)
        };
        assert!(matches!(flipped(93), CorruptCause::NotUtf8 { field: "topic", .. }));
        assert!(matches!(flipped(96), CorruptCause::NotUtf8 { field: "properties", .. }));
        assert!(matches!(flipped(88), CorruptCause::Checksum { .. }));
        // By default nobody asks.
        let mut body = encode(&[record("t", b"body")]);
        body[88] ^= 0x80;
        let mut read = decode_records(body.freeze(), &"t".into(), &"b".into(), DecodeLimits::default());
        assert!(read.next().unwrap().is_ok());
    }

    #[test]
    #[cfg(feature = "zlib")]
    fn a_compressed_body_is_decompressed_up_to_the_limit() {
        let bomb = Compression::Zlib.compress(5, &vec![0; CHECKED.max_body_bytes + 1]).unwrap();
        let fits = Compression::Zlib.compress(5, &vec![7; CHECKED.max_body_bytes]).unwrap();
        // Type 0 is zlib too: what clients wrote that knew no other.
        let zlib = |body, sys_flag| Record { sys_flag, ..record("t", body) };
        let read = decode(encode(&[zlib(&fits, 0x301), zlib(&bomb, 0x301), zlib(&fits, 0x001), zlib(b"body", 0x301)]));
        for index in [0, 2] {
            let message = read[index].as_ref().unwrap();
            assert_eq!((message.body().len(), message.sys_flag() & COMPRESSED), (CHECKED.max_body_bytes, 0));
        }
        let cause = |index: usize| &read[index].as_ref().unwrap_err().cause;
        assert!(matches!(cause(1), CorruptCause::Decompress(CompressError::TooLarge { .. })));
        assert!(matches!(cause(3), CorruptCause::Decompress(CompressError::Corrupt { .. })));
    }

    #[test]
    fn an_unknown_compression_is_corrupt() {
        let unknown = Record { sys_flag: 0x701, ..record("t", b"body") };
        assert!(matches!(cause(encode(&[unknown])), CorruptCause::UnknownCompression(UnknownCompression { kind: 7 })));
    }

    #[test]
    fn an_inner_batch_comes_out_as_its_messages() {
        let messages: Vec<_> =
            (0..3).map(|n| Message::new("t", format!("m{n}")).flag(n).tag(format!("tag{n}"))).collect();
        let mut items = BytesMut::new();
        encode_batch(&messages, &mut items).unwrap();
        fn batch(items: &[u8]) -> Record<'_> {
            Record { sys_flag: INNER_BATCH, ..record("t", items) }
        }
        let read = decode_all(encode(&[batch(&items), batch(b""), record("t", b"last")]));
        assert_eq!(read.len(), 4);
        for (n, message) in (0..).zip(&read[..3]) {
            assert_eq!(message.queue_offset(), 41 + i64::from(n));
            assert_eq!((message.flag(), message.tag()), (n, Some(format!("tag{n}").as_str())));
            assert_eq!(message.body(), format!("m{n}").as_bytes());
            assert_eq!((message.commit_log_offset(), message.queue_id()), (0x1413_B380, 3));
        }
        assert_eq!(read[3].body().as_ref(), b"last");

        let second = items.len() / 3;
        items[second + 16] = 0x7F;
        let read = decode(encode(&[batch(&items)]));
        let corrupt = read[1].as_ref().unwrap_err();
        assert_eq!((corrupt.position, corrupt.queue_offset), (0, Some(42)));
        assert_eq!(read[2].as_ref().unwrap().queue_offset(), 43);
    }

    #[test]
    fn a_debug_text_shows_no_body() {
        let text = format!("{:?}", decode_all(encode(&[record("t", b"secret")]))[0]);
        assert!(text.contains("body_bytes: 6") && !text.contains("secret"), "{text}");
    }

    /// Reads to the end, and reads all that can be asked of each message.
    fn read_through(body: Bytes) -> usize {
        let size = body.len();
        let records = decode(body);
        for message in records.iter().flatten() {
            let _ =
                (message.message_id(), message.transaction_id(), message.keys().count(), message.properties().count());
            let _ = (message.born_timestamp(), message.store_timestamp(), format!("{message:?}"));
        }
        assert!(records.len() <= size / 22 + 1);
        records.len()
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            read_through(bytes.into());
        }

        #[test]
        fn bits_flipped_in_real_records_are_survived(
            body in prop::sample::select(RECORDS.map(goldens::body).to_vec()),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..12),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut body = body.to_vec();
            for (at, bit) in flips {
                let at = at.index(body.len());
                body[at] ^= 1 << bit;
            }
            if let Some(cut) = cut {
                body.truncate(cut.index(body.len()));
            }
            read_through(body.into());
        }

        #[test]
        fn a_record_reads_as_it_was_written(
            topic in "\\PC{0,80}",
            body in prop::collection::vec(any::<u8>(), 0..64),
            properties in "[ab\u{1}\u{2}é]{0,32}",
            numbers: (i32, i32, i32, i64, i64, i64, i64, i64),
            hosts: (SocketAddr, SocketAddr),
            sys_flag in prop::sample::select(vec![0, 0x2, 0x4, 0x8, 0x40, 0x80, 0x700]),
        ) {
            // An address of the wire has no scope.
            let host = |host: SocketAddr| SocketAddr::new(host.ip(), host.port());
            let written = Record {
                topic: &topic,
                queue_id: numbers.0,
                queue_offset: numbers.3,
                commit_log_offset: numbers.4,
                flag: numbers.1,
                sys_flag,
                born_timestamp_ms: numbers.5,
                born_host: host(hosts.0),
                store_timestamp_ms: numbers.6,
                store_host: host(hosts.1),
                reconsume_times: numbers.2,
                prepared_transaction_offset: numbers.7,
                body: &body,
                properties: &properties,
            };
            let bytes = encode(&[written, written]);
            let read = decode_all(bytes.clone());
            prop_assert_eq!(read.len(), 2);
            prop_assert_eq!(encode(&[record_of(&read[0]), record_of(&read[1])]), bytes);
            prop_assert_eq!(read[1].sys_flag() & BORN_HOST_V6 != 0, hosts.0.is_ipv6());
            prop_assert_eq!(read[1].sys_flag() & STORE_HOST_V6 != 0, hosts.1.is_ipv6());
            prop_assert_eq!(read[1].sys_flag() & !(BORN_HOST_V6 | STORE_HOST_V6), sys_flag);
            let _ = (read[0].born_timestamp(), read[0].store_timestamp());
        }
    }
}
