//! A stored record as bytes: what a broker changes in one, and what it takes over into another.

use bytes::{Bytes, BytesMut};
use rocketmq_common::{message::Record, protocol::sys_flag};
use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

/// Fills in where and when a record was stored.
pub(crate) fn set_position(record: &mut BytesMut, queue_offset: i64, place: i64, stored_ms: i64) {
    let born_host = if flag_at(record) & sys_flag::BORN_HOST_V6 == 0 { 8 } else { 20 };
    let mut put = |at: usize, value: i64| {
        if let Some(field) = record.get_mut(at..at + 8) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    };
    put(QUEUE_OFFSET, queue_offset);
    put(PLACE, place);
    put(BORN_HOST + born_host, stored_ms);
}

/// The same record with the mark taken off that its body is compressed, so that it reads without decompressing.
pub(crate) fn as_is(record: &Bytes) -> Bytes {
    let flag = flag_at(record) & !sys_flag::COMPRESSED;
    let mut copy = BytesMut::from(&record[..]);
    if let Some(field) = copy.get_mut(SYS_FLAG..SYS_FLAG + 4) {
        field.copy_from_slice(&flag.to_be_bytes());
    }
    copy.freeze()
}

/// The records that lie one after the other.
pub(crate) fn split(records: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = records.clone();
    std::iter::from_fn(move || {
        let size = usize::try_from(read_i32(&rest, 0)?).ok()?;
        (size > 0 && size <= rest.len()).then(|| rest.split_to(size))
    })
}

/// Where a record lies in its queue.
pub(crate) fn queue_offset(record: &[u8]) -> i64 {
    read_i64(record, QUEUE_OFFSET).unwrap_or(0)
}

fn flag_at(record: &[u8]) -> i32 {
    read_i32(record, SYS_FLAG).unwrap_or(0)
}

/// What a stored record says, its body as it was sent: not decompressed.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) flag: i32,
    pub(crate) place: i64,
    pub(crate) sys_flag: i32,
    pub(crate) born_ms: i64,
    pub(crate) born_host: SocketAddr,
    pub(crate) stored_ms: i64,
    pub(crate) store_host: SocketAddr,
    pub(crate) reconsume_times: i32,
    pub(crate) prepared_offset: i64,
    pub(crate) body: &'a [u8],
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a str,
}

impl<'a> Stored<'a> {
    /// Reads a record; `None` where it is damaged.
    pub(crate) fn read(record: &'a [u8]) -> Option<Self> {
        if usize::try_from(read_i32(record, 0)?).ok()? != record.len() {
            return None;
        }
        let flag = read_i32(record, FLAG)?;
        let sys_flag = read_i32(record, SYS_FLAG)?;
        let (born_host, at) = read_host(record, BORN_HOST, sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
        let stored_ms = read_i64(record, at)?;
        let (store_host, at) = read_host(record, at + 8, sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
        let reconsume_times = read_i32(record, at)?;
        let prepared_offset = read_i64(record, at + 4)?;
        let body = sized(record, at + 16, usize::try_from(read_i32(record, at + 12)?).ok()?)?;
        let topic = match read_i32(record, MAGIC)? {
            MAGIC_V1 => sized(record, body.end + 1, usize::from(*record.get(body.end)?))?,
            _ => sized(record, body.end + 2, read_u16(record, body.end)?)?,
        };
        let properties = sized(record, topic.end + 2, read_u16(record, topic.end)?)?;
        Some(Self {
            flag,
            place: read_i64(record, PLACE)?,
            sys_flag,
            born_ms: read_i64(record, BORN_TIME)?,
            born_host,
            stored_ms,
            store_host,
            reconsume_times,
            prepared_offset,
            body: &record[body],
            topic: std::str::from_utf8(&record[topic]).ok()?,
            properties: std::str::from_utf8(&record[properties]).ok()?,
        })
    }

    /// What to store anew: it has no place in any queue yet.
    pub(crate) fn anew(&self) -> Record<'a> {
        Record {
            topic: self.topic,
            queue_id: 0,
            queue_offset: 0,
            commit_log_offset: 0,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_timestamp_ms: self.born_ms,
            born_host: self.born_host,
            store_timestamp_ms: self.stored_ms,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_offset,
            body: self.body,
            properties: self.properties,
        }
    }
}

fn sized(record: &[u8], start: usize, length: usize) -> Option<Range<usize>> {
    let end = start.checked_add(length)?;
    (end <= record.len()).then_some(start..end)
}

fn read_host(record: &[u8], at: usize, is_v6: bool) -> Option<(SocketAddr, usize)> {
    let (ip, end): (IpAddr, usize) = match is_v6 {
        false => (record.get(at..)?.first_chunk::<4>().copied()?.into(), at + 4),
        true => (record.get(at..)?.first_chunk::<16>().copied()?.into(), at + 16),
    };
    let port = u16::try_from(read_i32(record, end)?).ok()?;
    Some((SocketAddr::new(ip, port), end + 4))
}

fn read_u16(record: &[u8], at: usize) -> Option<usize> {
    record.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)))
}

fn read_i32(record: &[u8], at: usize) -> Option<i32> {
    record.get(at..)?.first_chunk().map(|bytes| i32::from_be_bytes(*bytes))
}

fn read_i64(record: &[u8], at: usize) -> Option<i64> {
    record.get(at..)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes))
}

// Where the fields of a record begin. Java: `MessageDecoder`.
const MAGIC: usize = 4;
const FLAG: usize = 16;
const QUEUE_OFFSET: usize = 20;
const PLACE: usize = 28;
const SYS_FLAG: usize = 36;
const BORN_TIME: usize = 40;
const BORN_HOST: usize = 48;
const MAGIC_V1: i32 = -626_843_481;

#[cfg(test)]
mod tests {
    use super::*;
    use rocketmq_common::message::Record;

    #[test]
    fn a_record_reads_as_it_was_written() {
        for (host, topic) in [("1.2.3.4:5", "t".to_owned()), ("[::1]:6", "t".repeat(200))] {
            let mut bytes = BytesMut::new();
            let record = Record {
                topic: &topic,
                queue_id: 3,
                queue_offset: 0,
                commit_log_offset: 0,
                flag: 4,
                sys_flag: sys_flag::COMPRESSED,
                born_timestamp_ms: 5,
                born_host: host.parse().unwrap(),
                store_timestamp_ms: 0,
                store_host: "[::2]:7".parse().unwrap(),
                reconsume_times: 8,
                prepared_transaction_offset: 9,
                body: b"body",
                properties: "a\u{1}b\u{2}",
            };
            record.encode(&mut bytes).unwrap();
            set_position(&mut bytes, 10, 11, 12);
            let read = Stored::read(&bytes).unwrap();
            assert_eq!((read.flag, read.place, read.born_ms, read.reconsume_times), (4, 11, 5, 8));
            assert_eq!((read.born_host.to_string().as_str(), read.prepared_offset), (host, 9));
            assert_eq!((read.body, read.topic, read.properties), (&b"body"[..], &*topic, "a\u{1}b\u{2}"));
            assert_eq!(flag_at(&as_is(&bytes.clone().freeze())) & sys_flag::COMPRESSED, 0);
            for cut in 0..bytes.len() {
                assert!(Stored::read(&bytes[..cut]).is_none());
            }
        }
    }
}
