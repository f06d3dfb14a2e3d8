use super::{MessageModel, QueueName};
use rocketmq_remote::{Json, request};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

request! {
    QUERY_ASSIGNMENT(Json<MemberOfGroup>) -> Json<Assignments>;
    /// Asks a broker which queues of a topic are a member's. Since 5.0. Java: `QueryAssignmentRequestBody`, without a
    /// header.
    pub struct QueryAssignment {}
}

request! {
    SET_MESSAGE_REQUEST_MODE(Json<RequestModeOfGroup>) -> ();
    /// From an operator, to each broker: how a group gets the messages of a topic, where it has brokers share the queues
    /// out. Since 5.0. Java: `SetMessageRequestModeRequestBody`, without a header.
    pub struct SetRequestMode {}
}

/// Who asks for its queues. Java: `QueryAssignmentRequestBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemberOfGroup {
    /// The member.
    pub client_id: String,
    /// Its group.
    pub consumer_group: String,
    /// Whether the members share the messages.
    pub message_model: MessageModel,
    /// How the broker is to share them out. Brokers know `AVG` and `AVG_BY_CIRCLE`.
    pub strategy_name: String,
    /// The topic.
    pub topic: String,
}

/// What belongs to a member. Java: `QueryAssignmentResponseBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Assignments {
    /// The queues; `None` where the broker cannot tell: it knows neither the topic, nor the group, nor the strategy. In
    /// that case the member keeps what it has.
    #[serde(rename = "messageQueueAssignments", skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<Assignment>>,
}

/// A queue that belongs to a member, and how its messages are had. Java: `MessageQueueAssignment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The queue. In pop mode its number is -1 where all queues of the broker are meant.
    pub message_queue: QueueName,
    /// How its messages are had.
    #[serde(default)]
    pub mode: RequestMode,
    /// What else the broker has to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<BTreeMap<String, String>>,
}

/// How an operator has a group get the messages of a topic. Java: `SetMessageRequestModeRequestBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestModeOfGroup {
    /// The group.
    pub consumer_group: String,
    /// How it gets them.
    pub mode: RequestMode,
    /// In pop mode: how many other members' queues a member pops from besides its own; 0 for all of them.
    pub pop_share_queue_num: i32,
    /// The topic.
    pub topic: String,
}

/// How messages are had. Java: `MessageRequestMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestMode {
    /// By the member that has the queue, which pulls and keeps the offset.
    #[default]
    #[serde(rename = "PULL")]
    Pull,
    /// By many members at once; the broker remembers which messages are under way.
    #[serde(rename = "POP")]
    Pop,
    /// In a way that is newer than this client; it is never written.
    #[serde(other, rename = "OTHER")]
    Other,
}
