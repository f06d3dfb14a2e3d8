//! Fault rules, each kind.

mod common;

use common::*;
use rocketmq_common::protocol::{GetRoute, UpdateConsumerOffset};
use rocketmq_dev_broker::{DevCluster, RequestCode};
use rocketmq_remote::{Deadline, Error, ResponseCode};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;

#[tokio::test]
async fn a_rule_answers_as_often_as_it_says() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    cluster.on(SEND).answer(ResponseCode::SYSTEM_BUSY).times(2);
    for _ in 0..2 {
        assert_eq!(refused(send(&connection, &message("t", 0, &[]), "x").await), ResponseCode::SYSTEM_BUSY);
    }
    send(&connection, &message("t", 0, &[]), "x").await.unwrap();
    assert_eq!((cluster.messages("t").len(), cluster.received(SEND)), (1, 3));

    cluster.on(SEND).answer(ResponseCode::GO_AWAY);
    assert_eq!(refused(send(&connection, &message("t", 0, &[]), "x").await), ResponseCode::GO_AWAY);
    assert!(connection.is_spent());
    cluster.clear_faults();
    send(&connection, &message("t", 0, &[]), "x").await.unwrap();
}

#[tokio::test]
async fn a_message_may_be_stored_and_its_sender_told_otherwise() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    cluster.on(SEND).process_first().answer(ResponseCode::SYSTEM_ERROR).times(1);
    assert_eq!(refused(send(&connection, &message("t", 0, &[]), "x").await), ResponseCode::SYSTEM_ERROR);
    assert_eq!(cluster.messages("t").len(), 1);

    cluster.on(SEND).process_first().forget().times(1);
    let header = message("t", 0, &[]);
    let unanswered = connection.call(&header, "x".into(), Deadline::after(Duration::from_millis(100))).await;
    assert!(matches!(unanswered, Err(Error::TimedOut { .. })));
    assert_eq!(cluster.messages("t").len(), 2);

    cluster.on(SEND).process_first().close().times(1);
    assert!(matches!(send(&connection, &message("t", 0, &[]), "x").await, Err(Error::Closed { sent: true, .. })));
    assert_eq!(cluster.messages("t").len(), 3);
}

#[tokio::test]
async fn a_request_may_come_to_nothing() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    cluster.on(SEND).forget().times(1);
    let header = message("t", 0, &[]);
    let unanswered = connection.call(&header, "x".into(), Deadline::after(Duration::from_millis(100))).await;
    assert!(matches!(unanswered, Err(Error::TimedOut { .. })));
    cluster.on(SEND).close().times(1);
    assert!(matches!(send(&connection, &header, "x").await, Err(Error::Closed { .. })));
    assert!(cluster.messages("t").is_empty());
}

#[tokio::test]
async fn a_delay_holds_nobody_else_up() {
    let delay = Duration::from_millis(200);
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    for processed_first in [false, true] {
        let rule = cluster.on(SEND);
        let rule = if processed_first { rule.process_first() } else { rule };
        rule.delay(delay).times(1);
        let before = cluster.messages("t").len();
        let begun = Instant::now();
        let late = connection.call_async(&message("t", 0, &[]), "late".into(), soon()).await.unwrap();
        send(&connection, &message("t", 0, &[]), "soon").await.unwrap();
        assert!(begun.elapsed() < delay);
        assert_eq!(cluster.messages("t").len() - before, 1 + usize::from(processed_first));
        late.await.unwrap();
        assert!(begun.elapsed() >= delay - Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_rule_may_be_for_one_server() {
    let cluster = DevCluster::builder().brokers(2).start().await.unwrap();
    cluster.on(SEND).at_broker("broker-b").answer(ResponseCode::SYSTEM_BUSY);
    cluster.on(RequestCode::GET_ROUTEINFO_BY_TOPIC).at_name_server().answer(ResponseCode::SYSTEM_ERROR);
    send(&broker(&cluster).await, &message("t", 0, &[]), "x").await.unwrap();
    let other = dial(&cluster.broker_addr("broker-b").unwrap()).await;
    assert_eq!(refused(send(&other, &message("t", 0, &[]), "x").await), ResponseCode::SYSTEM_BUSY);
    let request = GetRoute { topic: "t".into(), accept_standard_json_only: None };
    let name_server = dial(&cluster.name_server()).await;
    assert_eq!(refused(name_server.call(&request, (), soon()).await), ResponseCode::SYSTEM_ERROR);
    assert_eq!(refused(other.call(&request, (), soon()).await), ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
}

#[tokio::test]
async fn a_held_pull_and_a_one_way_request_obey_too() {
    let cluster = DevCluster::start().await.unwrap();
    cluster.create_topic("t", 1);
    let connection = broker(&cluster).await;
    cluster.on(RequestCode::PULL_MESSAGE).process_first().answer(ResponseCode::SYSTEM_BUSY).times(1);
    let mut held = start_pull(&connection, &held(pull("g", "t", 0))).await;
    assert!(timeout(Duration::from_millis(50), &mut held).await.is_err());
    send_tagged(&connection, "t", "a").await;
    assert_eq!(refused(held.await), ResponseCode::SYSTEM_BUSY);

    cluster.on(RequestCode::UPDATE_CONSUMER_OFFSET).close().times(1);
    let update = UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "t".into(),
        queue_id: 0,
        commit_offset: 1,
        broker_name: None,
    };
    connection.call_oneway(&update, (), soon()).await.unwrap();
    timeout(Duration::from_secs(5), connection.ended()).await.unwrap();
}
