use super::*;
use rocketmq_common::message::{DecodeLimits, Record, StoredMessage, decode_records};

fn log() -> Log {
    let mut log = Log::new(1 << 20);
    log.set_topic("t", TopicConfig::new(2));
    log
}

fn record(body: &[u8], tag_hash: i32) -> NewRecord {
    let host = "127.0.0.1:1".parse().unwrap();
    let mut bytes = BytesMut::new();
    let record = Record {
        topic: "t",
        queue_id: 0,
        queue_offset: 0,
        commit_log_offset: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 0,
        born_host: host,
        store_timestamp_ms: 0,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: "",
    };
    record.encode(&mut bytes).unwrap();
    NewRecord { bytes, tag_hash }
}

fn fill(log: &mut Log, count: i32) {
    for n in 0..count {
        log.append("t", 0, record(b"x", n), i64::from(n) * 10).unwrap();
    }
}

fn decode(body: Bytes) -> Vec<StoredMessage> {
    decode_records(body, &"t".into(), &"b".into(), DecodeLimits::default()).map(Result::unwrap).collect()
}

fn outcome(read: &Read) -> (ReadStatus, i64) {
    (read.status, read.next_offset)
}

#[test]
fn a_message_gets_its_place() {
    let mut log = log();
    let first = log.append("t", 0, record(b"a", 0), 5).unwrap();
    let second = log.append("t", 0, record(b"b", 0), 3).unwrap();
    assert_eq!((first.queue_offset, first.place), (0, 0));
    assert_eq!((second.queue_offset, second.place), (1, 93));
    let read = log.read("t", 0, 0, 32, &TagFilter::All);
    let messages = decode(read.body);
    assert_eq!(messages[1].body(), "b");
    assert_eq!((messages[1].queue_offset(), messages[1].commit_log_offset()), (1, 93));
    // The clock went back, the log did not.
    assert_eq!(messages[1].store_timestamp_ms(), 5);
    assert_eq!(decode(log.record_at(93).unwrap())[0].body(), "b");
    assert_eq!(log.record_at(92), None);
}

#[test]
fn reads_beside_the_queue_say_where_it_is() {
    let mut log = log();
    let all = TagFilter::All;
    assert_eq!(outcome(&log.read("t", 0, 5, 1, &all)), (ReadStatus::NoMessageInQueue, 0));
    assert_eq!(outcome(&log.read("t", 2, 5, 1, &all)), (ReadStatus::NoMatchedLogicQueue, 0));
    fill(&mut log, 4);
    log.trim("t", 0, 2);
    assert_eq!(outcome(&log.read("t", 0, 1, 1, &all)), (ReadStatus::OffsetTooSmall, 2));
    assert_eq!(outcome(&log.read("t", 0, 2, 1, &all)), (ReadStatus::Found, 3));
    assert_eq!(outcome(&log.read("t", 0, 4, 1, &all)), (ReadStatus::OffsetOverflowOne, 4));
    assert_eq!(outcome(&log.read("t", 0, 9, 1, &all)), (ReadStatus::OffsetOverflowBadly, 4));
    assert_eq!(outcome(&log.read("t", 0, i64::MIN, 1, &all)), (ReadStatus::OffsetTooSmall, 2));
    assert_eq!(log.bounds("t", 0), Some((2, 4)));
}

#[test]
fn a_filter_skips_and_says_how_far_it_looked() {
    let mut log = log();
    fill(&mut log, 1_000);
    let of = |hash: i32| TagFilter::OneOf([hash].into());
    let read = log.read("t", 0, 0, 32, &of(3));
    assert_eq!(outcome(&read), (ReadStatus::Found, 800));
    assert_eq!(decode(read.body)[0].queue_offset(), 3);
    assert_eq!(outcome(&log.read("t", 0, 4, 32, &of(3))), (ReadStatus::NoMatchedMessage, 804));
    assert_eq!(outcome(&log.read("t", 0, 804, 32, &of(3))), (ReadStatus::NoMatchedMessage, 1_000));
}

#[test]
fn a_read_ends_at_its_limits() {
    let mut log = log();
    fill(&mut log, 40);
    assert_eq!(log.read("t", 0, 0, 100, &TagFilter::All).next_offset, 32);
    assert_eq!(log.read("t", 0, 0, 7, &TagFilter::All).next_offset, 7);
    assert_eq!(log.read("t", 0, 0, -1, &TagFilter::All).next_offset, 1);
    let large = vec![0; 200 * 1024];
    log.append("t", 1, record(&large, 0), 0).unwrap();
    log.append("t", 1, record(&large, 0), 0).unwrap();
    assert_eq!(log.read("t", 1, 0, 32, &TagFilter::All).next_offset, 1);
}

#[test]
fn a_moment_is_found_from_either_side() {
    let mut log = log();
    fill(&mut log, 5); // stored at 0, 10, 20, 30, 40
    let search = |ms, boundary| log.search("t", 0, ms, boundary);
    assert_eq!((search(20, Boundary::Lower), search(20, Boundary::Upper)), (2, 2));
    assert_eq!((search(25, Boundary::Lower), search(25, Boundary::Upper)), (3, 2));
    assert_eq!((search(-1, Boundary::Lower), search(-1, Boundary::Upper)), (0, 0));
    assert_eq!((search(99, Boundary::Lower), search(99, Boundary::Upper)), (5, 4));
}

#[test]
fn a_full_log_takes_no_more_until_it_is_trimmed() {
    let mut log = Log::new(200);
    log.set_topic("t", TopicConfig::new(1));
    fill(&mut log, 2);
    assert_eq!(log.append("t", 0, record(b"x", 0), 0), Err(AppendError::Full));
    log.trim("t", 0, 1);
    assert!(log.append("t", 0, record(b"x", 0), 0).is_ok());
    log.remove_topic("t");
    assert_eq!(log.append("t", 0, record(b"x", 0), 0), Err(AppendError::NoQueue));
}

#[test]
fn the_oldest_is_taken_once_it_is_old_enough() {
    let mut log = log();
    fill(&mut log, 2);
    assert!(log.take_oldest("t", 0, 5).is_some());
    assert!(log.take_oldest("t", 0, 5).is_none());
    assert_eq!(log.earliest_ms("t", 0), Some(10));
}
