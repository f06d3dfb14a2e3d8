//! The layout in which brokers store messages, written: what our own broker and tests need.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use super::layout::{MAGIC_V1, MAGIC_V2, MIN_RECORD_BYTES};
use crate::protocol::sys_flag::{BORN_HOST_V6, STORE_HOST_V6};

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
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) & 0x7FFF_FFFF
}
