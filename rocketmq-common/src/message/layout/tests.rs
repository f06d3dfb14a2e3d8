use std::error::Error;

use proptest::prelude::*;

use super::*;
#[cfg(feature = "zlib")]
use crate::compress::Compression;
use crate::message::{Message, encode_batch, goldens};
use crate::message::{MessageQueue, Record, RecordError};
use crate::protocol::sys_flag::{BORN_HOST_V6, COMPRESSED, STORE_HOST_V6};
use bytes::BytesMut;
use std::time::{Duration, UNIX_EPOCH};

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
    assert_eq!(corrupt.to_string(), "cannot read the record at byte 114, queue offset 41, commit log offset 336835456");
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
        assert!(matches!(cause(whole.slice(..length)), CorruptCause::TotalSize { remaining } if remaining == length));
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
    assert!(matches!(patched(body, &(-1_i32).to_be_bytes()), CorruptCause::Length { field: "body", length: -1, .. }));
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
fn text_that_is_not_utf8_is_no_defect_and_keeps_its_bytes() {
    let changed = |at: usize| {
        let mut body = encode(&[record("t", b"body")]);
        body[at] ^= 0x80;
        decode_all(body).remove(0)
    };
    assert_eq!(changed(93).topic(), "\u{FFFD}");
    let message = changed(96);
    assert!(message.properties_text().contains('\u{FFFD}'), "{message:?}");
    let whole = encode(&[record("t", b"body")]);
    assert_eq!(message.properties_bytes().len(), whole.len() - 96);
    assert_eq!(message.properties_bytes()[1..], whole[97..]);
}

#[test]
fn a_body_that_was_changed_is_corrupt_where_it_is_checked() {
    let mut body = encode(&[record("t", b"body")]);
    body[88] ^= 0x80;
    let body = body.freeze();
    assert!(matches!(cause(body.clone()), CorruptCause::Checksum { .. }));
    // By default the checksum is not looked at.
    let mut read = decode_records(body, &"t".into(), &"b".into(), DecodeLimits::default());
    assert!(read.next().unwrap().is_ok());
}

#[test]
fn a_corrupt_record_is_a_message_with_what_could_be_read() {
    let whole = encode(&[Record { reconsume_times: 3, ..record("t", b"body") }]);
    let broken = |at: usize, bytes: &[u8]| {
        let mut body = whole.clone();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        let message = decode(body.clone()).remove(0).unwrap_err().into_message().unwrap();
        assert!(message.decode_error().is_some());
        assert_eq!(message.body(), &body.freeze(), "the whole record");
        (message.queue_offset(), message.commit_log_offset(), message.reconsume_times())
    };
    let known = (41, 0x1413_B380, 3);
    assert_eq!(broken(0, &[0xFF; 4]), known, "the size");
    assert_eq!(broken(84, &[0xFF; 4]), known, "the length of the body");
    assert_eq!(broken(4, &[0]), (-1, -1, 0), "the magic: no field can be believed");
    assert_eq!(broken(52, &[0xFF; 4]), (41, 0x1413_B380, 0), "a host");
}

#[test]
#[cfg(feature = "zlib")]
fn a_body_may_be_left_compressed_for_later() {
    let stream = Compression::Zlib.compress(5, &[7; 5000]).unwrap();
    let records = encode(&[Record { sys_flag: 0x301, ..record("t", &stream) }]).freeze();
    let mut read = decode_records(records, &"t".into(), &"b".into(), CHECKED).compressed();
    let mut message = read.next().unwrap().unwrap();
    assert_eq!((message.body(), message.is_compressed()), (&stream, true));
    let too_small = message.decompress(4999);
    assert!(matches!(too_small, Err(CorruptCause::Decompress(CompressError::TooLarge { .. }))));
    assert_eq!((message.body(), message.is_compressed()), (&stream, true));
    message.decompress(5000).unwrap();
    assert_eq!((message.body().len(), message.is_compressed()), (5000, false));
    message.decompress(0).unwrap();
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
    let message = decode(encode(&[zlib(b"body", 0x301)])).remove(0).unwrap_err().into_message().unwrap();
    assert_eq!((message.body().as_ref(), message.sys_flag()), (&b"body"[..], 0x301), "as it is stored");
}

#[test]
fn an_unknown_compression_is_corrupt() {
    let unknown = Record { sys_flag: 0x701, ..record("t", b"body") };
    assert!(matches!(cause(encode(&[unknown])), CorruptCause::UnknownCompression(UnknownCompression { kind: 7 })));
}

#[test]
fn an_inner_batch_comes_out_as_its_messages() {
    let messages: Vec<_> = (0..3).map(|n| Message::new("t", format!("m{n}")).flag(n).tag(format!("tag{n}"))).collect();
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
        let _ = (message.message_id(), message.transaction_id(), message.keys().count(), message.properties().count());
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

#[test]
fn messages_that_failed_know_where_they_come_from() {
    for (topic, properties, expected) in [
        ("t", "TAGS\u{1}eu\u{2}", None),
        ("%DLQ%g", "RETRY_TOPIC\u{1}t\u{2}", Some("t")),
        ("%DLQ%g", "RETRY_TOPIC\u{1}NS%t\u{2}", Some("NS%t")),
        // Popped, and retried by way of either kind of retry topic.
        ("%DLQ%g_1", "RETRY_TOPIC\u{1}%RETRY%g_1_t_2\u{2}", Some("t_2")),
        ("%DLQ%g_1", "RETRY_TOPIC\u{1}%RETRY%g_1+t_2\u{2}", Some("t_2")),
        ("%DLQ%g", "ORIGIN_GROUP\u{1}NS%g\u{2}RETRY_TOPIC\u{1}%RETRY%NS%g_NS%t\u{2}", Some("NS%t")),
        ("%DLQ%other", "RETRY_TOPIC\u{1}%RETRY%g\u{2}", Some("%RETRY%g")),
    ] {
        let message = decode_all(encode(&[Record { properties, ..record(topic, b"body") }])).remove(0);
        assert_eq!(message.origin_topic(), expected, "{properties}");
    }
    let properties = "RETRY_TOPIC\u{1}t\u{2}ORIGIN_MESSAGE_ID\u{1}7F000001000081DF0000000000000000\u{2}";
    let message = decode_all(encode(&[Record { properties, ..record("%DLQ%g", b"body") }])).remove(0);
    assert_eq!(message.origin_message_id(), Some("7F000001000081DF0000000000000000"));
}
