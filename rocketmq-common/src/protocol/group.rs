use rocketmq_remote::{Json, request};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The members of a consumer group. Java: `GetConsumerListByGroupResponseBody`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerIds {
    /// Their client ids, one a connection. A member whose heartbeat had no client id is left out.
    #[serde(deserialize_with = "super::fastjson::texts")]
    pub consumer_id_list: Vec<String>,
}

request! {
    GET_CONSUMER_LIST_BY_GROUP(()) -> Json<ConsumerIds>;
    /// The client ids of a consumer group. A group without members is answered with SYSTEM_ERROR. Java:
    /// `GetConsumerListByGroupRequestHeader`.
    pub struct GetConsumerList {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
    }
}

request! {
    NOTIFY_CONSUMER_IDS_CHANGED(()) -> ();
    /// From the broker, one-way: the members of a group changed. Java: `NotifyConsumerIdsChangedRequestHeader`.
    pub struct NotifyConsumerIdsChanged {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
    }
}
