//! Consumer groups: members, notices, messages given back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use rocketmq_common::protocol::{
    Assignments, ConsumerIds, GetConsumerList, GetRoute, LenientJson, LockQueues, MemberOfGroup, QueryAssignment,
    QueueName, QueuesOfMember, SendBack, SendMessage, UnlockQueues, UnregisterClient,
};
use rocketmq_dev_broker::{DevCluster, StoredMessage};
use rocketmq_remote::{Connection, Json, ResponseCode};
use std::time::Duration;
use tokio::{sync::mpsc::Receiver, time::timeout};

async fn told(notices: &mut Receiver<String>) -> Option<String> {
    timeout(Duration::from_secs(5), notices.recv()).await.unwrap()
}

async fn untold(notices: &mut Receiver<String>) {
    assert!(timeout(Duration::from_millis(50), notices.recv()).await.is_err());
}

async fn members(connection: &Connection) -> Vec<String> {
    let request = GetConsumerList { consumer_group: "g".into() };
    let Json(ConsumerIds { consumer_id_list }) = connection.call(&request, (), soon()).await.unwrap();
    consumer_id_list
}

#[tokio::test]
async fn members_are_told_when_others_come_and_go() {
    let cluster = DevCluster::start().await.unwrap();
    let (one, mut notices) = listening(&cluster).await;
    let list = GetConsumerList { consumer_group: "g".into() };
    assert_eq!(refused(one.call(&list, (), soon()).await), ResponseCode::SYSTEM_ERROR);
    let data = || vec![consumer("g", &[("t", "*", 1)])];
    heartbeat(&one, "c1", data()).await;
    assert_eq!(told(&mut notices).await.as_deref(), Some("g"));
    heartbeat(&one, "c1", data()).await;
    untold(&mut notices).await;

    let (two, mut of_two) = listening(&cluster).await;
    heartbeat(&two, "c2", data()).await;
    assert_eq!(told(&mut notices).await.as_deref(), Some("g"));
    assert_eq!(told(&mut of_two).await.as_deref(), Some("g"));
    assert_eq!(members(&one).await, ["c1", "c2"]);
    assert_eq!(cluster.consumer_ids("g"), ["c1", "c2"]);

    // One leaves with a word, the other without.
    let leaving = UnregisterClient { client_id: "c2".into(), producer_group: None, consumer_group: Some("g".into()) };
    two.call(&leaving, (), soon()).await.unwrap();
    assert_eq!(told(&mut notices).await.as_deref(), Some("g"));
    heartbeat(&two, "c2", data()).await;
    assert_eq!(told(&mut notices).await.as_deref(), Some("g"));
    drop(two);
    assert_eq!(told(&mut notices).await.as_deref(), Some("g"));
    assert_eq!(members(&one).await, ["c1"]);
}

#[tokio::test]
async fn a_group_gets_its_retry_topic_with_its_first_heartbeat() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    heartbeat(&connection, "c", vec![consumer("g", &[])]).await;
    let request = GetRoute { topic: "%RETRY%g".into(), accept_standard_json_only: None };
    let LenientJson(route) = dial(&cluster.name_server()).await.call(&request, (), soon()).await.unwrap();
    assert_eq!((route.queue_datas[0].read_queue_nums, route.queue_datas[0].perm), (1, 6));
}

fn back(message: &StoredMessage, delay_level: i32, max_reconsume_times: i32) -> SendBack {
    SendBack {
        commit_log_offset: message.commit_log_offset(),
        group: "g".into(),
        delay_level,
        origin_message_id: Some(message.message_id().into_owned()),
        origin_topic: Some(message.topic().into()),
        unit_mode: Some(false),
        max_reconsume_times: Some(max_reconsume_times),
        broker_name: Some(BROKER.into()),
    }
}

/// What comes to a queue at an offset.
async fn next(connection: &Connection, topic: &str, offset: i64) -> StoredMessage {
    let answer = call_pull(connection, &held(pull("g", topic, offset))).await.unwrap();
    decode(topic, &answer).remove(0)
}

#[tokio::test]
async fn a_message_given_back_comes_again_and_ends_as_a_dead_letter() {
    let delays = [Duration::from_millis(20); 18];
    let cluster = DevCluster::builder().delay_levels(delays).start().await.unwrap();
    let connection = broker(&cluster).await;
    send_tagged(&connection, "t", "a").await;
    let first = cluster.messages("t").remove(0);

    connection.call(&back(&first, 0, 2), (), soon()).await.unwrap();
    let second = next(&connection, "%RETRY%g", 0).await;
    assert_eq!((second.reconsume_times(), second.body()), (1, first.body()));
    assert_eq!((second.unique_id(), second.tag(), second.flag()), (first.unique_id(), Some("a"), first.flag()));
    assert_ne!(second.offset_id(), first.offset_id());
    let kept = |message: &StoredMessage| {
        let property = |name| message.property(name).unwrap_or_default().to_owned();
        assert_eq!((property("RETRY_TOPIC"), property("ORIGIN_MESSAGE_ID")), ("t".to_owned(), first.offset_id()));
        property("DELAY")
    };
    assert_eq!(kept(&second), "3");

    connection.call(&back(&second, 5, 2), (), soon()).await.unwrap();
    let third = next(&connection, "%RETRY%g", 1).await;
    assert_eq!((third.reconsume_times(), kept(&third).as_str()), (2, "5"));

    connection.call(&back(&third, 0, 2), (), soon()).await.unwrap();
    let dead = next(&connection, "%DLQ%g", 0).await;
    assert_eq!((dead.reconsume_times(), kept(&dead).as_str()), (3, "0"));

    // At once, where that is wanted.
    connection.call(&back(&first, -1, 16), (), soon()).await.unwrap();
    assert_eq!(next(&connection, "%DLQ%g", 1).await.reconsume_times(), 1);
}

#[tokio::test]
async fn what_cannot_be_given_back_is_refused() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    send_tagged(&connection, "t", "a").await;
    let message = cluster.messages("t").remove(0);
    let nowhere = SendBack { commit_log_offset: 1, ..back(&message, 0, 16) };
    assert_eq!(refused(connection.call(&nowhere, (), soon()).await), ResponseCode::SYSTEM_ERROR);
    let no_group = SendBack { group: "no group".into(), ..back(&message, 0, 16) };
    let outcome = connection.call(&no_group, (), soon()).await;
    assert_eq!(refused(outcome), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
}

fn lock_body(client_id: &str) -> Json<QueuesOfMember> {
    let queue = QueueName { broker_name: BROKER.to_owned(), queue_id: 1, topic: "t".to_owned() };
    let member =
        QueuesOfMember { client_id: client_id.to_owned(), consumer_group: "g".to_owned(), ..Default::default() };
    Json(QueuesOfMember { mq_set: vec![queue], ..member })
}

#[tokio::test]
async fn a_queue_belongs_to_who_locked_it() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let lock = async |client_id| {
        let Json(locked) = connection.call(&LockQueues {}, lock_body(client_id), soon()).await.unwrap();
        locked.queues.len()
    };
    assert_eq!((lock("c1").await, lock("c2").await, lock("c1").await), (1, 0, 1));
    connection.call(&UnlockQueues {}, lock_body("c1"), soon()).await.unwrap();
    assert_eq!(lock("c2").await, 1);

    // What a group that consumes in order sends to its retry topic is dead.
    let retry = SendMessage { reconsume_times: Some(1), ..message("%RETRY%g", 0, &[("DELAY", "3")]) };
    send(&connection, &retry, "given up").await.unwrap();
    assert_eq!(cluster.messages("%DLQ%g")[0].property("DELAY"), Some("-1"));
    connection.call(&UnlockQueues {}, lock_body("c2"), soon()).await.unwrap();
    send(&connection, &SendMessage { properties: None, ..retry.clone() }, "again").await.unwrap();
    assert_eq!(cluster.messages("%RETRY%g").len(), 1);
    let too_often = SendMessage { reconsume_times: Some(3), max_reconsume_times: Some(2), ..retry };
    send(&connection, &too_often, "given up").await.unwrap();
    assert_eq!(cluster.messages("%DLQ%g").len(), 2);
}

#[tokio::test]
async fn queues_of_all_running_brokers_are_shared_out() {
    let cluster = DevCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 2);
    let one = broker(&cluster).await;
    let query = async || {
        let member = MemberOfGroup {
            client_id: "c1".into(),
            consumer_group: "g".into(),
            strategy_name: "AVG".into(),
            topic: "t".into(),
            ..MemberOfGroup::default()
        };
        let Json(Assignments { queues }) = one.call(&QueryAssignment {}, Json(member), soon()).await.unwrap();
        queues.map(|queues| queues.into_iter().map(|it| (it.message_queue.broker_name, it.message_queue.queue_id)))
    };
    assert!(query().await.is_none(), "nobody is in the group");
    heartbeat(&one, "c1", vec![consumer("g", &[("t", "*", 1)])]).await;
    let all: Vec<_> = query().await.unwrap().collect();
    assert_eq!(all, [("broker-a", 0), ("broker-a", 1), ("broker-b", 0), ("broker-b", 1)].map(|(b, id)| (b.into(), id)));
    let two = broker(&cluster).await;
    heartbeat(&two, "c0", vec![consumer("g", &[("t", "*", 1)])]).await;
    assert!(query().await.unwrap().map(|(broker, _)| broker).eq(["broker-b", "broker-b"]));
    cluster.stop_broker("broker-b").await;
    assert!(query().await.unwrap().eq([("broker-a".to_owned(), 1)]));
}
