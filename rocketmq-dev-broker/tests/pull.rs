//! Pulls: every outcome, and waiting.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use rocketmq_common::{
    message::MessageQueue,
    protocol::{
        GetMaxOffset, GetMinOffset, GroupOffset, PullMessage, PullSysFlag, QueryConsumerOffset, SearchOffset,
        UpdateConsumerOffset,
    },
};
use rocketmq_dev_broker::DevCluster;
use rocketmq_remote::{Connection, ResponseCode};
use std::time::Duration;
use tokio::time::{Instant, timeout};

async fn with_messages(tags: &[&str]) -> (DevCluster, Connection) {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    cluster.create_topic("t", 2);
    for tag in tags {
        send_tagged(&connection, "t", tag).await;
    }
    (cluster, connection)
}

#[tokio::test]
async fn a_pull_reads_what_its_filter_lets_pass() {
    let (_cluster, connection) = with_messages(&["a", "b", "a", "c"]).await;
    let answer = call_pull(&connection, &pull("g", "t", 0)).await.unwrap();
    assert_eq!(tags("t", &answer), ["a", "b", "a", "c"]);
    let header = answer.header;
    assert_eq!((header.next_begin_offset, header.min_offset, header.max_offset), (4, 0, 4));
    let only = |tags: &str| PullMessage { subscription: Some(tags.into()), ..pull("g", "t", 0) };
    assert_eq!(tags("t", &call_pull(&connection, &only("a || c")).await.unwrap()), ["a", "a", "c"]);
    let none = call_pull(&connection, &only("d")).await.unwrap();
    assert_eq!((none.code, none.header.next_begin_offset), (ResponseCode::PULL_RETRY_IMMEDIATELY, 4));
    assert_eq!(refused(call_pull(&connection, &only("||")).await), ResponseCode::SUBSCRIPTION_PARSE_FAILED);
    let untyped = PullMessage { expression_type: Some(String::new().into()), ..only("a") };
    let answer = call_pull(&connection, &untyped).await.unwrap();
    assert_eq!(answer.code, ResponseCode::PULL_RETRY_IMMEDIATELY);
    let sql = PullMessage { expression_type: Some("SQL92".into()), ..only("a > 1") };
    assert_eq!(refused(call_pull(&connection, &sql).await), ResponseCode::SYSTEM_ERROR);
}

#[tokio::test]
async fn an_offset_outside_of_the_queue_is_corrected() {
    let (cluster, connection) = with_messages(&["a"; 5]).await;
    cluster.trim("t", 0, 2);
    for (offset, code, next) in [
        (1, ResponseCode::PULL_OFFSET_MOVED, 2),
        (5, ResponseCode::PULL_NOT_FOUND, 5),
        (6, ResponseCode::PULL_OFFSET_MOVED, 5),
    ] {
        let answer = call_pull(&connection, &pull("g", "t", offset)).await.unwrap();
        assert_eq!((answer.code, answer.header.next_begin_offset), (code, next), "{offset}");
    }
    for (offset, code) in [(0, ResponseCode::PULL_NOT_FOUND), (1, ResponseCode::PULL_OFFSET_MOVED)] {
        let answer = call_pull(&connection, &PullMessage { queue_id: 1, ..pull("g", "t", offset) }).await.unwrap();
        assert_eq!((answer.code, answer.header.next_begin_offset), (code, 0), "{offset}");
    }
    let wrong_queue = PullMessage { queue_id: 2, ..pull("g", "t", 0) };
    assert_eq!(refused(call_pull(&connection, &wrong_queue).await), ResponseCode::INVALID_PARAMETER);
    assert_eq!(refused(call_pull(&connection, &pull("g", "u", 0)).await), ResponseCode::TOPIC_NOT_EXIST);
    let no_group = pull("not a group", "t", 0);
    assert_eq!(refused(call_pull(&connection, &no_group).await), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
    cluster.set_permission("t", false, true);
    assert_eq!(refused(call_pull(&connection, &pull("g", "t", 2)).await), ResponseCode::NO_PERMISSION);
}

#[tokio::test]
async fn a_held_pull_is_answered_by_the_message_it_waits_for() {
    let (_cluster, connection) = with_messages(&["a"]).await;
    let only_b = PullMessage { subscription: Some("b".into()), ..pull("g", "t", 1) };
    let mut all = start_pull(&connection, &held(pull("g", "t", 1))).await;
    let mut b = start_pull(&connection, &held(only_b)).await;
    // Others are served meanwhile, and the pulls wait.
    assert!(timeout(Duration::from_millis(50), &mut all).await.is_err());
    let sent = Instant::now();
    send_tagged(&connection, "t", "c").await;
    assert_eq!(tags("t", &all.await.unwrap()), ["c"]);
    assert!(timeout(Duration::from_millis(50), &mut b).await.is_err());
    send_tagged(&connection, "t", "b").await;
    let answer = b.await.unwrap();
    assert_eq!((tags("t", &answer), answer.header.next_begin_offset), (vec!["b".to_owned()], 3));
    assert!(sent.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_held_pull_ends_when_its_time_is_over() {
    let (_cluster, connection) = with_messages(&["a"]).await;
    let brief = PullMessage { suspend_timeout_ms: 100, ..held(pull("g", "t", 1)) };
    let begun = Instant::now();
    let answer = call_pull(&connection, &brief).await.unwrap();
    assert_eq!((answer.code, answer.header.next_begin_offset), (ResponseCode::PULL_NOT_FOUND, 1));
    assert!(begun.elapsed() >= Duration::from_millis(95) && begun.elapsed() < Duration::from_secs(3));

    let only_b = PullMessage { subscription: Some("b".into()), suspend_timeout_ms: 300, ..held(pull("g", "t", 1)) };
    let waiting = start_pull(&connection, &only_b).await;
    send_tagged(&connection, "t", "c").await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.code, answer.header.next_begin_offset), (ResponseCode::PULL_RETRY_IMMEDIATELY, 2));
}

#[tokio::test]
async fn the_subscription_of_the_heartbeat_filters() {
    let (_cluster, connection) = with_messages(&["a", "b"]).await;
    let pull = PullMessage { sys_flag: 0, subscription: None, sub_version: 5, ..pull("g", "t", 0) };
    assert_eq!(refused(call_pull(&connection, &pull).await), ResponseCode::SUBSCRIPTION_NOT_EXIST);
    heartbeat(&connection, "c", vec![consumer("g", &[("u", "*", 5)])]).await;
    assert_eq!(refused(call_pull(&connection, &pull).await), ResponseCode::SUBSCRIPTION_NOT_EXIST);
    heartbeat(&connection, "c", vec![consumer("g", &[("t", "b", 4)])]).await;
    assert_eq!(refused(call_pull(&connection, &pull).await), ResponseCode::SUBSCRIPTION_NOT_LATEST);
    heartbeat(&connection, "c", vec![consumer("g", &[("t", "b", 5)])]).await;
    assert_eq!(tags("t", &call_pull(&connection, &pull).await.unwrap()), ["b"]);
}

#[tokio::test]
async fn offsets_are_recorded_and_found() {
    let (cluster, connection) = with_messages(&["a", "b", "c"]).await;
    let query = |queue_id, set_zero_if_not_found| QueryConsumerOffset {
        consumer_group: "g".into(),
        topic: "t".into(),
        queue_id,
        set_zero_if_not_found,
        broker_name: None,
    };
    // A young queue is read from its start, an empty one has no offset.
    assert_eq!(connection.call(&query(0, None), (), soon()).await.unwrap(), GroupOffset(Some(0)));
    assert_eq!(connection.call(&query(0, Some(false)), (), soon()).await.unwrap(), GroupOffset(None));
    assert_eq!(connection.call(&query(1, None), (), soon()).await.unwrap(), GroupOffset(None));
    cluster.trim("t", 0, 1);
    assert_eq!(connection.call(&query(0, None), (), soon()).await.unwrap(), GroupOffset(None));

    let update = UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "t".into(),
        queue_id: 0,
        commit_offset: 2,
        broker_name: None,
    };
    connection.call(&update, (), soon()).await.unwrap();
    let queue = MessageQueue::new("t", BROKER, 0);
    assert_eq!(cluster.committed_offset("g", &queue), Some(2));
    let sys_flag = PullSysFlag::SUBSCRIPTION | PullSysFlag::COMMIT;
    let committing = PullMessage { sys_flag, commit_offset: 3, ..pull("g", "t", 3) };
    call_pull(&connection, &committing).await.unwrap();
    assert_eq!(cluster.committed_offset("g", &queue), Some(3));
    let nowhere = UpdateConsumerOffset { topic: "u".into(), ..update };
    assert_eq!(refused(connection.call(&nowhere, (), soon()).await), ResponseCode::TOPIC_NOT_EXIST);

    let (topic, broker_name) = (|| "t".into(), None);
    let max = GetMaxOffset { topic: topic(), queue_id: 0, broker_name: broker_name.clone() };
    assert_eq!(connection.call(&max, (), soon()).await.unwrap().offset, 3);
    let min = GetMinOffset { topic: topic(), queue_id: 0, broker_name: broker_name.clone() };
    assert_eq!(connection.call(&min, (), soon()).await.unwrap().offset, 1);
    let search = |timestamp_ms| SearchOffset { topic: topic(), queue_id: 0, timestamp_ms, broker_name: None };
    assert_eq!(connection.call(&search(0), (), soon()).await.unwrap().offset, 1);
    assert_eq!(connection.call(&search(i64::MAX), (), soon()).await.unwrap().offset, 3);
}
