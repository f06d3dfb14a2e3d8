//! A message as it is received.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rocketmq_remote::printable;

use super::names::{DLQ_PREFIX, RETRY_PREFIX};
use super::properties::{self, SharedText, property};
use super::{CorruptCause, CorruptRecord, MessageQueue, OffsetId};
use crate::compress::Compression;
use crate::protocol::sys_flag;

/// A message as a broker stored it.
///
/// Body and properties are slices of the reply they came in, so a message that is kept keeps that reply in memory.
#[derive(Clone)]
pub struct StoredMessage {
    pub(super) topic: Arc<str>,
    pub(super) broker_name: Arc<str>,
    pub(super) queue_id: i32,
    pub(super) flag: i32,
    pub(super) queue_offset: i64,
    pub(super) commit_log_offset: i64,
    pub(super) sys_flag: i32,
    pub(super) reconsume_times: i32,
    pub(super) born_timestamp_ms: i64,
    pub(super) store_timestamp_ms: i64,
    pub(super) prepared_transaction_offset: i64,
    pub(super) born_host: SocketAddr,
    pub(super) store_host: SocketAddr,
    pub(super) store_size: u32,
    pub(super) body_crc: u32,
    pub(super) body: Bytes,
    pub(super) properties: SharedText,
    pub(super) decode_error: Option<Arc<CorruptRecord>>,
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

    /// Returns why the message cannot be decoded: its record is malformed, or its body does not decompress. The other
    /// fields are then those that could be read. [`body`](Self::body) is the body as it is stored, or, where that cannot be
    /// found, the whole record.
    ///
    /// Only consumers that hand such a message over instead of its error set this; a listener never gets one.
    pub fn decode_error(&self) -> Option<&Arc<CorruptRecord>> {
        self.decode_error.as_ref()
    }

    /// Whether the body is still compressed: of a message that cannot be decoded, or read by [`Records::compressed`].
    ///
    /// [`Records::compressed`]: super::Records::compressed
    pub fn is_compressed(&self) -> bool {
        self.sys_flag & sys_flag::COMPRESSED != 0
    }

    /// Decompresses the body, if it is compressed.
    ///
    /// # Errors
    /// Where it does not decompress into at most `max_bytes`; the message is as it was then.
    pub fn decompress(&mut self, max_bytes: usize) -> Result<(), CorruptCause> {
        if let Some(compression) = Compression::from_sys_flag(self.sys_flag) {
            self.body = compression?.decompress(&self.body, max_bytes)?;
            self.sys_flag &= !sys_flag::COMPRESSED;
        }
        Ok(())
    }

    /// Notes that the message cannot be decoded, and why.
    pub fn set_decode_error(&mut self, cause: CorruptCause) {
        self.decode_error = Some(Arc::new(CorruptRecord {
            total_size: i32::try_from(self.store_size).ok(),
            queue_offset: Some(self.queue_offset),
            commit_log_offset: Some(self.commit_log_offset),
            ..CorruptRecord::at(0, cause)
        }));
    }

    /// Moves the message to another position in its queue, where the stored one cannot be read.
    pub fn set_queue_offset(&mut self, offset: i64) {
        self.queue_offset = offset;
    }

    /// Returns the body, decompressed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the body, decompressed.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Returns the value of a property. What is not UTF-8 in it reads as U+FFFD, as in Java;
    /// [`property_bytes`](Self::property_bytes) are what the producer wrote.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)
    }

    /// Returns the bytes of a property: for text in another encoding than UTF-8.
    ///
    /// ```
    /// # fn city(message: &rocketmq_common::message::StoredMessage) -> Option<String> {
    /// let gbk: &[u8] = message.property_bytes("city")?;
    /// // Any decoder of that encoding, such as the crate `encoding_rs`.
    /// # fn decode_gbk(bytes: &[u8]) -> String { String::from_utf8_lossy(bytes).into() }
    /// Some(decode_gbk(gbk))
    /// # }
    /// ```
    pub fn property_bytes(&self, name: &str) -> Option<&[u8]> {
        self.properties.get_bytes(name)
    }

    /// Iterates over the properties, in the order of the text; see [`properties::pairs`].
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::pairs(self.properties.as_str())
    }

    /// Returns the text in which the properties travel; what is not UTF-8 in it reads as U+FFFD.
    pub fn properties_text(&self) -> &str {
        self.properties.as_str()
    }

    /// Returns the bytes in which the properties travel.
    pub fn properties_bytes(&self) -> &[u8] {
        self.properties.as_bytes()
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

    /// Returns the topic that it was sent to, of a message that a group has failed to consume: a dead letter, or one that
    /// lies in a retry topic. `None` for any other. With a namespace it is as the wire has it, `<namespace>%<topic>`, which
    /// a producer of that namespace sends to as it is.
    ///
    /// # Protocol
    /// Brokers and clients set the property `RETRY_TOPIC` at the first failure and keep it. Witness: scenario
    /// `dead_letters::tell_where_they_come_from`.
    pub fn origin_topic(&self) -> Option<&str> {
        let topic = self.property(property::RETRY_TOPIC)?;
        Some(self.topic_of_pop_retry(topic).unwrap_or(topic))
    }

    /// The topic of messages that lie in a retry topic of pops: `%RETRY%<group>_<topic>`, or with a `+` in between.
    fn topic_of_pop_retry<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let rest = topic.strip_prefix(RETRY_PREFIX)?;
        let behind = |group: &str| rest.strip_prefix(group)?.strip_prefix(['_', '+']);
        let of_letter = || behind(self.topic.strip_prefix(DLQ_PREFIX)?);
        self.property(property::ORIGIN_GROUP).and_then(behind).or_else(of_letter)
    }

    /// Returns the offset id of the record of which the group first told a broker that it failed; see
    /// [`origin_topic`](Self::origin_topic). That is the record the message was sent as, or, of a message that was popped,
    /// perhaps its copy in the retry topic. The [`message_id`](Self::message_id) stays the same in all of them.
    ///
    /// # Protocol
    /// The property `ORIGIN_MESSAGE_ID`.
    pub fn origin_message_id(&self) -> Option<&str> {
        self.property(property::ORIGIN_MESSAGE_ID)
    }

    /// Returns the id to show to users: the unique id, else the offset id.
    pub fn message_id(&self) -> Cow<'_, str> {
        self.unique_id().map_or_else(|| Cow::Owned(self.offset_id()), Cow::Borrowed)
    }

    /// Returns the [`message_id`](Self::message_id) as it may stand in a line of a log: control characters in it are escaped,
    /// since a producer may choose any id.
    ///
    /// ```
    /// # fn consume(message: &rocketmq_common::message::StoredMessage) {
    /// println!("message {} consumed", message.printable_id());
    /// # }
    /// ```
    pub fn printable_id(&self) -> String {
        printable(&self.message_id()).into_owned()
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
            || self.sys_flag & sys_flag::TRANSACTION_ROLLBACK != 0 || self.property(property::TRAN_MSG) == Some("true");
        self.property(property::TRANSACTION_ID).or_else(|| if in_transaction() { self.unique_id() } else { None })
    }

    /// Returns the checksum the broker stored of the body as it was sent; see [`DecodeLimits::verify_crc`](super::DecodeLimits::verify_crc).
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

    /// Gives it the number of its queue in a static topic, which is not that of the broker's own queue.
    pub fn set_queue_id(&mut self, queue_id: i32) {
        self.queue_id = queue_id;
    }

    /// Counts one more go at it that failed, where the broker does not: of a queue that is consumed in order.
    #[must_use]
    pub fn consumed_in_vain(mut self) -> Self {
        self.reconsume_times = self.reconsume_times.saturating_add(1);
        self
    }

    /// Gives it another count of how often it was consumed in vain: of one popped in order, which only the answer tells.
    #[must_use]
    pub fn with_reconsume_times(mut self, times: i32) -> Self {
        self.reconsume_times = times;
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
