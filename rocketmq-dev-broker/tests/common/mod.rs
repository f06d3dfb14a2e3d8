//! What the tests share: raw connections and typed requests, without a client in between.

#![allow(dead_code, clippy::allow_attributes, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use rocketmq_common::{
    message::{DecodeLimits, StoredMessage, decode_records},
    protocol::{
        ConsumeFrom, ConsumeType, ConsumerData, ExpressionType, Heartbeat, HeartbeatData, MessageModel, ProducerData,
        PullMessage, PullResult, PullSysFlag, SendMessage, Stored, SubscriptionData,
    },
};
use rocketmq_dev_broker::{DevCluster, RequestCode};
use rocketmq_remote::{
    Answer, Connection, ConnectionOptions, Deadline, Error, Json, PendingReply, Processors, ResponseCode,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

pub(crate) const BROKER: &str = "broker-a";

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

pub(crate) async fn dial(addr: &str) -> Connection {
    Connection::dial(addr, ConnectionOptions::default(), Processors::new()).await.unwrap()
}

pub(crate) async fn broker(cluster: &DevCluster) -> Connection {
    dial(&cluster.broker_addr(BROKER).unwrap()).await
}

/// A connection that hands on the groups of which it is told that they have changed.
pub(crate) async fn listening(cluster: &DevCluster) -> (Connection, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel(64);
    let processors = Processors::new().on(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED, move |incoming| {
        let group = incoming.command().fields.get("consumerGroup").unwrap().to_owned();
        sender.try_send(group).unwrap();
    });
    let addr = cluster.broker_addr(BROKER).unwrap();
    (Connection::dial(&addr, ConnectionOptions::default(), processors).await.unwrap(), receiver)
}

/// `name\u{1}value\u{2}` of each pair.
pub(crate) fn properties(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}\u{1}{value}\u{2}")).collect()
}

pub(crate) fn message(topic: &str, queue_id: i32, pairs: &[(&str, &str)]) -> SendMessage {
    SendMessage {
        producer_group: "p".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: 4,
        queue_id,
        sys_flag: 0,
        born_timestamp_ms: 1_700_000_000_000,
        flag: 7,
        properties: Some(properties(pairs)),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: None,
        batch: Some(false),
        broker_name: Some(BROKER.into()),
    }
}

pub(crate) async fn send(connection: &Connection, header: &SendMessage, body: &'static str) -> Result<Stored, Error> {
    connection.call(header, Bytes::from_static(body.as_bytes()), soon()).await.map(|answer| answer.header)
}

/// Sends a message with a tag to queue 0.
pub(crate) async fn send_tagged(connection: &Connection, topic: &str, tag: &str) -> Stored {
    send(connection, &message(topic, 0, &[("TAGS", tag), ("UNIQ_KEY", tag)]), "body").await.unwrap()
}

pub(crate) fn pull(group: &str, topic: &str, offset: i64) -> PullMessage {
    PullMessage {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: 0,
        queue_offset: offset,
        max_messages: 32,
        sys_flag: PullSysFlag::SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_ms: 15_000,
        subscription: Some("*".into()),
        sub_version: 0,
        expression_type: Some("TAG".into()),
        max_bytes: None,
        broker_name: None,
    }
}

pub(crate) fn held(pull: PullMessage) -> PullMessage {
    PullMessage { sys_flag: pull.sys_flag | PullSysFlag::SUSPEND, ..pull }
}

pub(crate) async fn call_pull(connection: &Connection, pull: &PullMessage) -> Result<Answer<PullResult>, Error> {
    connection.call(pull, (), Deadline::after(Duration::from_secs(20))).await
}

pub(crate) async fn start_pull(connection: &Connection, pull: &PullMessage) -> PendingReply<PullMessage> {
    connection.call_async(pull, (), Deadline::after(Duration::from_secs(20))).await.unwrap()
}

pub(crate) fn decode(topic: &str, answer: &Answer<PullResult>) -> Vec<StoredMessage> {
    let topic: Arc<str> = topic.into();
    decode_records(answer.body.clone(), &topic, &BROKER.into(), DecodeLimits::default()).map(Result::unwrap).collect()
}

pub(crate) fn tags(topic: &str, answer: &Answer<PullResult>) -> Vec<String> {
    decode(topic, answer).iter().map(|message| message.tag().unwrap_or_default().to_owned()).collect()
}

pub(crate) fn consumer(group: &str, subscriptions: &[(&str, &str, i64)]) -> ConsumerData {
    let subscription = |(topic, expression, version): &(&str, &str, i64)| {
        let tags: Vec<_> = expression.split(" || ").filter(|tag| *tag != "*").map(str::to_owned).collect();
        SubscriptionData {
            topic: (*topic).to_owned(),
            sub_string: (*expression).to_owned(),
            code_set: tags.iter().map(|tag| rocketmq_common::message::names::java_hash(tag)).collect(),
            tags_set: tags,
            sub_version: *version,
            expression_type: ExpressionType::Tag,
            class_filter_mode: false,
        }
    };
    ConsumerData {
        group_name: group.to_owned(),
        consume_type: ConsumeType::Passively,
        message_model: MessageModel::Clustering,
        consume_from_where: ConsumeFrom::LastOffset,
        subscription_data_set: subscriptions.iter().map(subscription).collect(),
        unit_mode: false,
    }
}

pub(crate) async fn heartbeat(connection: &Connection, client_id: &str, consumers: Vec<ConsumerData>) {
    let data = HeartbeatData {
        client_id: client_id.to_owned(),
        producer_data_set: vec![ProducerData { group_name: "p".to_owned() }],
        consumer_data_set: consumers,
        heartbeat_fingerprint: 0,
        without_sub: false,
    };
    connection.call(&Heartbeat {}, Json(data), soon()).await.unwrap();
}

/// The code with which a call was refused.
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ResponseCode {
    outcome.unwrap_err().response_code().unwrap()
}
