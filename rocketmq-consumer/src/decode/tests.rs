use super::*;
use crate::Filter;
use bytes::{Bytes, BytesMut};
use rocketmq_common::{compress::Compression, message::Record, protocol::MASTER_ID, remote::ResponseCode};

const SIZE: usize = 91 + 1 + 2;

/// The records of messages with these bodies, at the offsets from 10 on.
fn records(sys_flag: i32, bodies: &[&[u8]]) -> BytesMut {
    let mut out = BytesMut::new();
    for (offset, body) in (10..).zip(bodies) {
        let host = "127.0.0.1:10911".parse().unwrap();
        let record = Record {
            topic: "t",
            queue_id: 0,
            queue_offset: offset,
            commit_log_offset: offset * 1000,
            flag: 0,
            sys_flag,
            born_timestamp_ms: 0,
            born_host: host,
            store_timestamp_ms: 0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: "",
        };
        record.encode(&mut out).unwrap();
    }
    out
}

fn read(asked: i64, max_messages: i32, next: i64, body: impl Into<Bytes>) -> PulledRecords {
    let header = PullResult {
        suggested_broker_id: MASTER_ID,
        next_begin_offset: next,
        min_offset: 0,
        max_offset: 100,
        offset_delta: None,
    };
    let answer = Answer { code: ResponseCode::SUCCESS, header, body: body.into() };
    let subscription = Filter::all().subscription("t", 0).unwrap();
    PulledRecords::read(&MessageQueue::new("t", "b", 0), &subscription, asked, max_messages, &answer)
}

fn offsets(records: &PulledRecords) -> Vec<i64> {
    records.messages.iter().map(StoredMessage::queue_offset).collect()
}

#[test]
fn an_answer_ends_before_a_malformed_record_which_is_then_pulled_alone() {
    let whole = records(0, &[b"aa", b"bb", b"cc"]);
    for damage in [0, 4, 84].map(|at| at + SIZE) {
        let mut body = whole.clone();
        body[damage] ^= 0xFF;
        let read_many = read(10, 32, 13, body);
        assert_eq!((offsets(&read_many), read_many.next, read_many.is_cut), (vec![10], 11, true), "{damage}");
        let mut alone = BytesMut::from(&whole[SIZE..2 * SIZE]);
        alone[damage - SIZE] ^= 0xFF;
        let read_one = read(11, 1, 12, alone);
        assert_eq!((offsets(&read_one), read_one.next, read_one.is_cut), (vec![11], 12, false), "{damage}");
        assert!(read_one.messages[0].decode_error().is_some());
    }
}

#[test]
fn a_malformed_record_lies_where_its_pull_says() {
    let whole = records(0, &[b"aa"]);
    let damaged = |offset: i64| {
        let mut body = whole.clone();
        body[84] = 0xFF;
        body[20..28].copy_from_slice(&offset.to_be_bytes());
        // A filter has passed the messages from 5 on.
        offsets(&read(5, 1, 20, body))
    };
    assert_eq!(damaged(10), [10], "its own offset makes sense");
    assert_eq!((damaged(4), damaged(20), damaged(i64::MAX), damaged(-1)), (vec![5], vec![5], vec![5], vec![5]));
    assert_eq!(offsets(&read(5, 1, 20, vec![0xFF; 7])), [5], "nothing of it can be read");
}

#[test]
fn an_offset_beyond_the_answer_hides_no_message_behind_it() {
    let mut body = records(0, &[b"aa", b"bb", b"cc"]);
    body[SIZE + 20..SIZE + 28].copy_from_slice(&i64::MAX.to_be_bytes());
    assert_eq!(offsets(&read(10, 32, 13, body)), [10, 11, 12]);
}

#[tokio::test]
async fn bodies_are_decompressed_as_far_as_there_is_room() {
    let stream = Compression::Zlib.compress(5, &[0; 1000]).unwrap();
    let bomb = Compression::Zlib.compress(5, &vec![0; 3 * AT_ONCE]).unwrap();
    let mut pulled = read(10, 32, 14, records(0x301, &[&stream, &stream, &bomb, &stream]));
    let mut take = async |room| {
        let taken = pulled.take_within(room, 2 * AT_ONCE).await;
        let lengths: Vec<_> = taken.iter().map(|message| message.body().len()).collect();
        let failed = taken.iter().filter(|message| message.decode_error().is_some()).count();
        (lengths, failed, pulled.next_offset())
    };
    assert_eq!(take(0).await, (vec![1000], 0, 11), "one always has room");
    assert_eq!(take(2000).await, (vec![1000], 0, 12), "the next would not fit");
    assert_eq!(take(2000).await, (vec![bomb.len(), 1000], 1, 14), "over the limit of a body: it is not decompressed");
    assert_eq!(take(2000).await, (vec![], 0, 14));
}
