use super::LenientJson;
use rocketmq_remote::request;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

request! {
    GET_ROUTEINFO_BY_TOPIC(()) -> LenientJson<TopicRouteData>;
    /// The brokers and queues of a topic, from a name server. Java: `GetRouteInfoRequestHeader`.
    pub struct GetRoute {
        /// The topic.
        topic: Arc<str> = "topic",
        /// Whether the answer must be standard JSON; servers before 4.9.4 do not know this.
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
    }
}

/// What a name server knows of a topic. Java: `TopicRouteData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicRouteData {
    /// For order topics the queues in their order: `broker-a:4;broker-b:4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    /// The queues a broker has.
    pub queue_datas: Vec<QueueData>,
    /// The brokers.
    pub broker_datas: Vec<BrokerData>,
    /// Of a static topic: which of its queues each broker has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_queue_mapping_by_broker: Option<BTreeMap<String, QueueMapping>>,
}

/// The queues of a static topic on one broker. Java: `TopicQueueMappingInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueMapping {
    /// The topic.
    pub topic: String,
    /// Within which its queues are numbered: `__global__`.
    pub scope: String,
    /// The queues of the topic, over all brokers.
    pub total_queues: i32,
    /// The broker.
    #[serde(rename = "bname")]
    pub broker_name: String,
    /// Of two brokers that claim a queue, the one with the greater epoch has it.
    pub epoch: i64,
    /// The broker's own queue that stands for a queue of the topic, by the number of the latter.
    pub curr_id_map: BTreeMap<i32, i32>,
}

/// The queues of a topic on one broker. Java: `QueueData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueData {
    /// The broker.
    pub broker_name: String,
    /// Queues 0 to this are read from.
    pub read_queue_nums: i32,
    /// Queues 0 to this are written to.
    pub write_queue_nums: i32,
    /// Bits of [`Permission`].
    pub perm: i32,
    /// 1: a unit topic; 2: it has a unit subscription.
    pub topic_sys_flag: i32,
}

/// One broker: its master and its replicas. Java: `BrokerData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BrokerData {
    /// The cluster.
    pub cluster: String,
    /// The logical name.
    pub broker_name: String,
    /// The address of each replica by its id; 0 is the master.
    pub broker_addrs: BTreeMap<i64, String>,
    /// Whether a replica may stand in for a lost master.
    pub enable_acting_master: bool,
}

/// The id of a broker's master.
pub const MASTER_ID: i64 = 0;

/// Bits of a topic's permission. Java: `PermName`.
#[derive(Clone, Copy, Debug)]
pub struct Permission;

impl Permission {
    /// New topics may be created after this one.
    pub const INHERIT: i32 = 1;
    /// May be written.
    pub const WRITE: i32 = 2;
    /// May be read.
    pub const READ: i32 = 4;

    /// Whether `perm` allows writing.
    pub fn is_writable(perm: i32) -> bool {
        perm & Self::WRITE != 0
    }

    /// Whether `perm` allows reading.
    pub fn is_readable(perm: i32) -> bool {
        perm & Self::READ != 0
    }
}
