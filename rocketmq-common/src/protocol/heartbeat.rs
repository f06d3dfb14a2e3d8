use super::fastjson::{self, JavaEnum};
use rocketmq_remote::{Json, request};
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::Arc;

request! {
    HEART_BEAT(Json<HeartbeatData>) -> ();
    /// Who this client is and what it does; sent to every broker it knows. Java: `HeartbeatRequestHeader`.
    pub struct Heartbeat {}
}

request! {
    UNREGISTER_CLIENT(()) -> ();
    /// This client leaves a group. Java: `UnregisterClientRequestHeader`.
    pub struct UnregisterClient {
        /// The client.
        client_id: Arc<str> = "clientID",
        /// The producer group it leaves.
        producer_group: Option<Arc<str>> = "producerGroup",
        /// The consumer group it leaves.
        consumer_group: Option<Arc<str>> = "consumerGroup",
    }
}

request! {
    CHECK_CLIENT_CONFIG(Json<ClientConfigToCheck>) -> ();
    /// Asks whether a broker can serve a subscription: whether its expression parses, and in that language. Java:
    /// `CheckClientConfigProcessor`.
    pub struct CheckClientConfig {}
}

/// Java: `CheckClientRequestBody`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientConfigToCheck {
    /// The client.
    pub client_id: String,
    /// The consumer group.
    pub group: String,
    /// The namespace of topic and group, if they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The subscription.
    pub subscription_data: SubscriptionData,
}

/// The body of a heartbeat. Java: `HeartbeatData`; the members of a set are named as there.
///
/// It is read as leniently as Java's brokers read it, since clients of other languages write numbers as texts, leave
/// fields out, or have names of their own for values that no broker uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeartbeatData {
    /// The client.
    #[serde(rename = "clientID", deserialize_with = "fastjson::text")]
    pub client_id: String,
    /// The producer groups it is in.
    #[serde(deserialize_with = "fastjson::list")]
    pub producer_data_set: Vec<ProducerData>,
    /// The consumer groups it is in.
    #[serde(deserialize_with = "fastjson::list")]
    pub consumer_data_set: Vec<ConsumerData>,
    /// 0: a whole heartbeat, not a V2 one.
    #[serde(deserialize_with = "fastjson::number")]
    pub heartbeat_fingerprint: i32,
    /// Whether the subscriptions are left out; V2 only.
    #[serde(deserialize_with = "fastjson::flag")]
    pub without_sub: bool,
}

/// A producer group. Java: `ProducerData`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerData {
    /// Its name.
    pub group_name: String,
}

/// A consumer group and what this member subscribes to. Java: `ConsumerData`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerData {
    /// Its name.
    pub group_name: String,
    /// Who asks whom.
    #[serde(default, deserialize_with = "fastjson::named")]
    pub consume_type: ConsumeType,
    /// Whether members share messages or each get all.
    #[serde(default, deserialize_with = "fastjson::named")]
    pub message_model: MessageModel,
    /// Where a new group begins.
    #[serde(default, deserialize_with = "fastjson::named")]
    pub consume_from_where: ConsumeFrom,
    /// The topics and filters; the same for all members of a group.
    #[serde(default)]
    pub subscription_data_set: Vec<SubscriptionData>,
    /// Whether the member lives in a unit.
    #[serde(default, deserialize_with = "fastjson::flag")]
    pub unit_mode: bool,
}

/// Java: `ConsumeType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsumeType {
    /// Pull consumers.
    #[serde(rename = "CONSUME_ACTIVELY")]
    Actively,
    /// Push consumers.
    #[default]
    #[serde(rename = "CONSUME_PASSIVELY")]
    Passively,
    /// Pop consumers.
    #[serde(rename = "CONSUME_POP")]
    Pop,
}

/// Whether the members of a group share the messages. Java: `MessageModel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageModel {
    /// Each message goes to one member.
    #[default]
    #[serde(rename = "CLUSTERING")]
    Clustering,
    /// Each message goes to every member.
    #[serde(rename = "BROADCASTING")]
    Broadcasting,
}

/// Where a group without a recorded offset begins. Java: `ConsumeFromWhere`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsumeFrom {
    /// At the end of the queue.
    #[default]
    #[serde(rename = "CONSUME_FROM_LAST_OFFSET")]
    LastOffset,
    /// At the first message the queue still holds.
    #[serde(rename = "CONSUME_FROM_FIRST_OFFSET")]
    FirstOffset,
    /// At a moment.
    #[serde(rename = "CONSUME_FROM_TIMESTAMP")]
    Timestamp,
    /// Deprecated; as `LastOffset`.
    #[serde(rename = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST")]
    LastOffsetAndFromMinWhenBootFirst,
    /// Deprecated; as `LastOffset`.
    #[serde(rename = "CONSUME_FROM_MIN_OFFSET")]
    MinOffset,
    /// Deprecated; as `LastOffset`.
    #[serde(rename = "CONSUME_FROM_MAX_OFFSET")]
    MaxOffset,
}

/// A topic and its filter. Java: `SubscriptionData`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionData {
    /// The topic.
    pub topic: String,
    /// The expression as given; `*` for all.
    #[serde(default, deserialize_with = "fastjson::text")]
    pub sub_string: String,
    /// The tags; empty for all and for SQL92.
    #[serde(default, deserialize_with = "fastjson::texts")]
    pub tags_set: Vec<String>,
    /// Java's hash of each tag. Go clients write them as texts.
    #[serde(default, deserialize_with = "fastjson::numbers")]
    pub code_set: Vec<i32>,
    /// Milliseconds; grows whenever the subscription changes, or the broker keeps the old one.
    #[serde(default, deserialize_with = "fastjson::number")]
    pub sub_version: i64,
    /// The language of the expression.
    #[serde(default, deserialize_with = "expression_type")]
    pub expression_type: ExpressionType,
    /// Obsolete: false.
    #[serde(default, deserialize_with = "fastjson::flag")]
    pub class_filter_mode: bool,
}

/// The language of a filter expression. Java: `ExpressionType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpressionType {
    /// Tags, joined by `||`.
    #[default]
    #[serde(rename = "TAG")]
    Tag,
    /// SQL92 over properties.
    #[serde(rename = "SQL92")]
    Sql92,
}

impl ExpressionType {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tag => "TAG",
            Self::Sql92 => "SQL92",
        }
    }
}

impl JavaEnum for ConsumeType {
    const BY_ORDINAL: &'static [Self] = &[Self::Actively, Self::Passively, Self::Pop];
}

impl JavaEnum for MessageModel {
    const BY_ORDINAL: &'static [Self] = &[Self::Broadcasting, Self::Clustering];
}

impl JavaEnum for ConsumeFrom {
    const BY_ORDINAL: &'static [Self] = &[
        Self::LastOffset,
        Self::LastOffsetAndFromMinWhenBootFirst,
        Self::MinOffset,
        Self::MaxOffset,
        Self::FirstOffset,
        Self::Timestamp,
    ];
}

/// Java has a text there, and takes an empty one for tags. Any other language is one that is not tags: brokers accept
/// the heartbeat and refuse the pulls, as they do with SQL92 by default.
fn expression_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ExpressionType, D::Error> {
    Ok(match fastjson::text(deserializer)?.as_str() {
        "" | "TAG" => ExpressionType::Tag,
        _ => ExpressionType::Sql92,
    })
}
