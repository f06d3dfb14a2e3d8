//! Half messages, their checks and their end; timer messages and their recall.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use rocketmq_common::{
    message::{DecodeLimits, OffsetId, decode_records},
    protocol::{CheckTransactionState, EndTransaction, RecallMessage, Stored, sys_flag},
};
use rocketmq_dev_broker::{DevCluster, RequestCode, StoredMessage};
use rocketmq_remote::{Connection, ConnectionOptions, Processors, ResponseCode};
use std::time::Duration;
use tokio::sync::mpsc;

const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";

/// A producer of group `p` that hands out what it is asked.
async fn producer(cluster: &DevCluster) -> (Connection, mpsc::Receiver<(CheckTransactionState, StoredMessage)>) {
    let (sender, receiver) = mpsc::channel(64);
    let processors = Processors::new().on(RequestCode::CHECK_TRANSACTION_STATE, move |incoming| {
        let body = incoming.command().body.clone();
        let message = decode_records(body, &"".into(), &BROKER.into(), DecodeLimits::default()).next();
        sender.try_send((incoming.header().unwrap(), message.unwrap().unwrap())).unwrap();
    });
    let addr = cluster.broker_addr(BROKER).unwrap();
    let connection = Connection::dial(&addr, ConnectionOptions::default(), processors).await.unwrap();
    heartbeat(&connection, "c", Vec::new()).await;
    (connection, receiver)
}

async fn send_half(connection: &Connection, id: &str) -> Stored {
    let properties = [("TRAN_MSG", "true"), ("PGROUP", "p"), ("UNIQ_KEY", id), ("TAGS", "a")];
    send(connection, &message("t", 1, &properties), "half").await.unwrap()
}

fn end(half: &Stored, state: i32) -> EndTransaction {
    let id: OffsetId = half.offset_id.as_deref().unwrap().parse().unwrap();
    EndTransaction {
        topic: Some("t".into()),
        producer_group: "p".into(),
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: id.commit_log_offset,
        commit_or_rollback: state,
        from_transaction_check: Some(false),
        message_id: half.transaction_id.clone().unwrap(),
        transaction_id: half.transaction_id.clone(),
        broker_name: Some(BROKER.into()),
    }
}

#[tokio::test]
async fn a_half_message_is_delivered_by_its_commit_alone() {
    let cluster = DevCluster::start().await.unwrap();
    let (connection, _checks) = producer(&cluster).await;
    let (one, other) = (send_half(&connection, "u1").await, send_half(&connection, "u2").await);
    assert_eq!((one.queue_offset, other.queue_offset), (0, 1));
    assert!(cluster.messages("t").is_empty());
    let code = async |request: EndTransaction| refused(connection.call(&request, (), soon()).await);
    let commit = || end(&one, sys_flag::TRANSACTION_COMMIT);
    let wrong = ResponseCode::SYSTEM_ERROR;
    assert_eq!(code(EndTransaction { producer_group: "q".into(), ..commit() }).await, wrong);
    assert_eq!(code(EndTransaction { tran_state_table_offset: 1, ..commit() }).await, wrong);
    assert_eq!(code(EndTransaction { commit_log_offset: 1, ..commit() }).await, wrong);
    connection.call(&end(&other, sys_flag::TRANSACTION_ROLLBACK), (), soon()).await.unwrap();
    connection.call(&commit(), (), soon()).await.unwrap();
    assert_eq!(code(commit()).await, wrong);
    assert_eq!(code(end(&other, sys_flag::TRANSACTION_COMMIT)).await, wrong);

    let messages = cluster.messages("t");
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((message.message_id().as_ref(), message.queue_id(), message.body().as_ref()), ("u1", 1, &b"half"[..]));
    assert_eq!((message.tag(), message.sys_flag()), (Some("a"), sys_flag::TRANSACTION_COMMIT));
    for gone in ["REAL_TOPIC", "REAL_QID", "TRAN_MSG"] {
        assert_eq!(message.property(gone), None);
    }
    assert!(cluster.messages(HALF_TOPIC).is_empty());
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_half_message_is_asked_about_fifteen_times() {
    let cluster = DevCluster::builder().transaction_check(Duration::from_millis(5)).start().await.unwrap();
    let (connection, mut checks) = producer(&cluster).await;
    let half = send_half(&connection, "u1").await;
    let mut offsets = vec![half.queue_offset];
    for number in 1..=15 {
        let (check, message) = checks.recv().await.unwrap();
        assert_eq!((check.topic.as_deref(), check.message_id.as_deref()), (Some(HALF_TOPIC), Some("u1")));
        assert_eq!((message.topic(), message.queue_id(), message.body().as_ref()), ("t", 1, &b"half"[..]));
        assert_eq!(message.property("TRANSACTION_CHECK_TIMES"), Some(&*number.to_string()));
        assert_eq!(message.commit_log_offset(), check.commit_log_offset);
        offsets.push(check.tran_state_table_offset);
        // Unknown.
        connection.call_oneway(&end(&half, 0), (), soon()).await.unwrap();
    }
    assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
    while cluster.messages("TRANS_CHECK_MAX_TIME_TOPIC").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(checks.try_recv().is_err() && cluster.messages("t").is_empty());
    assert!(cluster.messages(HALF_TOPIC).is_empty());
    cluster.shutdown().await;
}

#[tokio::test]
async fn recalls_that_cannot_be_are_refused() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let timer = |ms: &str| message("t", 0, &[("TIMER_DELAY_MS", ms), ("UNIQ_KEY", "u1")]);
    let stored = send(&connection, &timer("60000"), "later").await.unwrap();
    let handle = stored.recall_handle.unwrap();
    let request = |topic: &str, recall_handle: &str| RecallMessage {
        producer_group: Some("p".into()),
        topic: topic.into(),
        recall_handle: recall_handle.to_owned(),
        broker_name: Some(BROKER.into()),
    };
    for (topic, handle) in [("u", &*handle), ("t", "no handle"), ("t", "djEgdCBicm9rZXItYSAxIFU=")] {
        let answer = connection.call(&request(topic, handle), (), soon()).await;
        assert_eq!(refused(answer), ResponseCode::ILLEGAL_OPERATION, "{topic} {handle}");
    }
    let recalled = connection.call(&request("t", &handle), (), soon()).await.unwrap();
    assert_eq!(recalled.message_id, "u1");
    assert_eq!(refused(send(&connection, &timer("259300000"), "too late").await), ResponseCode::MESSAGE_ILLEGAL);
    assert!(send(&connection, &timer("0"), "now").await.unwrap().recall_handle.is_none());
    assert_eq!(cluster.messages("t").len(), 1);
    // A delay level goes before a timer.
    let both = message("t", 0, &[("TIMER_DELAY_MS", "60000"), ("DELAY", "18")]);
    assert!(send(&connection, &both, "level").await.unwrap().recall_handle.is_none());
    assert_eq!(cluster.messages("SCHEDULE_TOPIC_XXXX").len(), 1);
    cluster.shutdown().await;
}
