//! Sends: what is stored, and what is refused.

mod common;

use bytes::{Bytes, BytesMut};
use common::*;
use rocketmq_common::{
    message::{Message, OffsetId, encode_batch},
    protocol::{GetRoute, LenientJson, SendBatchMessage, SendMessage, sys_flag},
};
use rocketmq_dev_broker::DevCluster;
use rocketmq_remote::ResponseCode;
use std::time::Duration;

#[tokio::test]
async fn a_message_is_stored_with_what_a_broker_adds() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let header = message("t", 2, &[("TAGS", "a"), ("UNIQ_KEY", "u1"), ("colour", "red")]);
    let stored = send(&connection, &header, "hello").await.unwrap();
    assert_eq!((stored.queue_id, stored.queue_offset), (2, 0));
    assert_eq!(stored.transaction_id.as_deref(), Some("u1"));
    assert_eq!((stored.region_id.as_deref(), stored.trace_on.as_deref()), (Some("DefaultRegion"), Some("true")));
    let id: OffsetId = stored.offset_id.unwrap().parse().unwrap();
    assert_eq!(id.host.to_string(), cluster.broker_addr(BROKER).unwrap());

    let messages = cluster.messages("t");
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((message.body().as_ref(), message.queue_id(), message.flag()), (&b"hello"[..], 2, 7));
    assert_eq!(message.commit_log_offset(), id.commit_log_offset);
    assert_eq!(message.born_timestamp_ms(), 1_700_000_000_000);
    let mut names: Vec<_> = message.properties().collect();
    names.sort_unstable();
    let expected = [
        ("CLUSTER", "DefaultCluster"),
        ("MSG_REGION", "DefaultRegion"),
        ("TAGS", "a"),
        ("TRACE_ON", "true"),
        ("UNIQ_KEY", "u1"),
        ("colour", "red"),
    ];
    assert_eq!(names, expected);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_topic_is_created_after_its_template() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let name_server = dial(&cluster.name_server()).await;
    let route = async |topic: &str| {
        let request = GetRoute { topic: topic.into(), accept_standard_json_only: None };
        name_server.call(&request, (), soon()).await
    };
    assert_eq!(refused(route("new").await), ResponseCode::TOPIC_NOT_EXIST);
    let LenientJson(template) = route("TBW102").await.unwrap();
    assert_eq!((template.queue_datas[0].write_queue_nums, template.queue_datas[0].perm), (8, 7));

    send(&connection, &message("new", 3, &[]), "x").await.unwrap();
    let LenientJson(created) = route("new").await.unwrap();
    assert_eq!((created.queue_datas[0].read_queue_nums, created.queue_datas[0].perm), (4, 6));
    assert_eq!(created.broker_datas[0].broker_addrs[&0], cluster.broker_addr(BROKER).unwrap());

    let wide = SendMessage { default_topic_queue_nums: 99, ..message("wide", 7, &[]) };
    send(&connection, &wide, "x").await.unwrap();
    let without = SendMessage { default_topic: "no such template".into(), ..message("never", 0, &[]) };
    assert_eq!(refused(send(&connection, &without, "x").await), ResponseCode::TOPIC_NOT_EXIST);
}

#[tokio::test]
async fn what_a_broker_refuses_is_refused() {
    let cluster = DevCluster::builder().max_message_bytes(1_000).max_store_bytes(2_000).start().await.unwrap();
    let connection = broker(&cluster).await;
    let long = "x".repeat(32_700);
    let cases = [
        (message("t", 4, &[]), "x", ResponseCode::INVALID_PARAMETER),
        (message("no spaces", 0, &[]), "x", ResponseCode::INVALID_PARAMETER),
        (message(&"t".repeat(128), 0, &[]), "x", ResponseCode::INVALID_PARAMETER),
        (message("SCHEDULE_TOPIC_XXXX", 0, &[]), "x", ResponseCode::NO_PERMISSION),
        (message("t", 0, &[]), "", ResponseCode::SYSTEM_ERROR),
        (message("t", 0, &[("DELAY", "soon")]), "x", ResponseCode::SYSTEM_ERROR),
        (message("t", 0, &[("long", &long)]), "x", ResponseCode::MESSAGE_ILLEGAL),
    ];
    for (header, body, code) in cases {
        assert_eq!(refused(send(&connection, &header, body).await), code, "{header:?}");
    }
    let sized = async |bytes| connection.call(&message("t", 0, &[]), Bytes::from(vec![b'x'; bytes]), soon()).await;
    assert_eq!(refused(sized(1_001).await), ResponseCode::MESSAGE_ILLEGAL);
    sized(1_000).await.unwrap();
    assert_eq!(refused(sized(1_000).await), ResponseCode::SERVICE_NOT_AVAILABLE);
    cluster.trim("t", 0, 1);
    sized(1_000).await.unwrap();
}

#[tokio::test]
async fn a_sender_that_names_no_queue_gets_one() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let stored = send(&connection, &message("t", -1, &[]), "x").await.unwrap();
    assert!((0..4).contains(&stored.queue_id));
    assert_eq!(stored.transaction_id.unwrap(), cluster.messages("t")[0].unique_id().unwrap());
}

#[tokio::test]
async fn the_items_of_a_batch_keep_their_own_properties() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let items = [Message::new("t", "one").tag("a"), Message::new("t", "two").flag(9)];
    let mut body = BytesMut::new();
    encode_batch(&items, &mut body).unwrap();
    let header = SendMessage { batch: Some(true), ..message("t", 1, &[("UNIQ_KEY", "batch")]) };
    let answer = connection.call(&SendBatchMessage(header.clone()), body.freeze(), soon()).await.unwrap();
    assert_eq!(answer.header.offset_id.unwrap().split(',').count(), 2);
    assert_eq!((answer.header.queue_offset, answer.header.transaction_id.as_deref()), (0, Some("batch")));
    let messages = cluster.messages("t");
    assert_eq!(messages[0].properties().collect::<Vec<_>>(), [("TAGS", "a")]);
    assert_eq!((messages[1].body().as_ref(), messages[1].flag(), messages[1].queue_offset()), (&b"two"[..], 9, 1));

    let retry = SendMessage { topic: "%RETRY%g".into(), queue_id: 0, ..header.clone() };
    let half = SendMessage { sys_flag: sys_flag::TRANSACTION_PREPARED, ..header.clone() };
    for wrong in [retry, half] {
        assert_eq!(refused(send(&connection, &wrong, "x").await), ResponseCode::MESSAGE_ILLEGAL);
    }
    assert_eq!(refused(send(&connection, &header, "no batch").await), ResponseCode::SYSTEM_ERROR);
}

#[tokio::test]
async fn a_delayed_message_comes_when_it_is_due() {
    let delay = Duration::from_millis(150);
    let cluster = DevCluster::builder().delay_levels([delay * 100, delay]).start().await.unwrap();
    let connection = broker(&cluster).await;
    // There is no level 9: the last one counts.
    send(&connection, &message("t", 3, &[("DELAY", "9"), ("TAGS", "a")]), "late").await.unwrap();
    send(&connection, &message("t", 3, &[("DELAY", "1")]), "far too late").await.unwrap();
    assert!(cluster.messages("t").is_empty());
    let waiting = held(pull("g", "t", 0));
    let sent = tokio::time::Instant::now();
    let answer = call_pull(&connection, &rocketmq_common::protocol::PullMessage { queue_id: 3, ..waiting }).await;
    assert!(sent.elapsed() >= delay - Duration::from_millis(20) && sent.elapsed() < delay * 10);
    let messages = decode("t", &answer.unwrap());
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((message.topic(), message.queue_id(), message.body().as_ref()), ("t", 3, &b"late"[..]));
    let kept = [("DELAY", Some("2")), ("REAL_TOPIC", Some("t")), ("REAL_QID", Some("3")), ("TAGS", Some("a"))];
    for (name, value) in kept {
        assert_eq!(message.property(name), value);
    }
}

#[tokio::test]
async fn a_half_message_is_not_to_be_seen() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let sys_flag = sys_flag::TRANSACTION_PREPARED;
    let half = SendMessage { sys_flag, ..message("t", 1, &[("TRAN_MSG", "true"), ("UNIQ_KEY", "u")]) };
    let stored = send(&connection, &half, "half").await.unwrap();
    assert_eq!((stored.queue_id, stored.transaction_id.as_deref()), (1, Some("u")));
    assert!(cluster.messages("t").is_empty());
    let message = cluster.messages("RMQ_SYS_TRANS_HALF_TOPIC").remove(0);
    assert_eq!((message.sys_flag(), message.property("__transactionId__")), (0, Some("u")));
    assert_eq!((message.property("REAL_TOPIC"), message.property("REAL_QID")), (Some("t"), Some("1")));
}
