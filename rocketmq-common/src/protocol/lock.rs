use crate::MessageQueue;
use rocketmq_remote::{Json, request};
use serde::{Deserialize, Serialize};

request! {
    LOCK_BATCH_MQ(Json<QueuesOfMember>) -> Json<LockedQueues>;
    /// Locks queues of one broker for a member of a group, or renews its locks: for ordered consumption. A lock lives
    /// for 60 s. Java: `LockBatchMqRequestHeader`, which 4.9.7 leaves out.
    pub struct LockQueues {}
}

request! {
    UNLOCK_BATCH_MQ(Json<QueuesOfMember>) -> ();
    /// Gives locks up; those of other members stay. Java: `UnlockBatchMqRequestHeader`, which 4.9.7 leaves out.
    pub struct UnlockQueues {}
}

/// Who locks or unlocks what. Java: `LockBatchRequestBody`, `UnlockBatchRequestBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueuesOfMember {
    /// The member.
    pub client_id: String,
    /// Its group.
    pub consumer_group: String,
    /// The queues, all of the broker that is asked.
    pub mq_set: Vec<QueueName>,
    /// Whether the broker leaves its replicas out; they count only where it locks in strict mode.
    pub only_this_broker: bool,
}

/// The queues that are the member's now, of those it asked for. Java: `LockBatchResponseBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockedQueues {
    /// The queues.
    #[serde(rename = "lockOKMQSet")]
    pub queues: Vec<QueueName>,
}

/// A queue in a body. Java: `MessageQueue`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueName {
    /// The broker's name.
    pub broker_name: String,
    /// The number of the queue on that broker.
    pub queue_id: i32,
    /// The topic.
    pub topic: String,
}

impl From<&MessageQueue> for QueueName {
    fn from(queue: &MessageQueue) -> Self {
        Self { broker_name: queue.broker_name.to_string(), queue_id: queue.queue_id, topic: queue.topic.to_string() }
    }
}

impl From<QueueName> for MessageQueue {
    fn from(name: QueueName) -> Self {
        Self::new(name.topic, name.broker_name, name.queue_id)
    }
}
