use super::LenientJson;
use rocketmq_remote::{Json, request};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

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

/// What a broker knows of a consumer group, as far as it is read here. Java: `ConsumerConnection`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerConnections {
    /// The members.
    pub connection_set: Vec<ConsumerConnection>,
    /// What the group subscribes to, by topic: of several members with different filters, the one of the greatest version.
    pub subscription_table: BTreeMap<String, KnownSubscription>,
}

/// One member of a group. Java: `Connection`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerConnection {
    /// Its client id.
    #[serde(deserialize_with = "super::fastjson::text")]
    pub client_id: String,
    /// Its address, as the broker sees it.
    #[serde(deserialize_with = "super::fastjson::text")]
    pub client_addr: String,
}

/// A subscription of a group, as a broker keeps it. Java: `SubscriptionData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KnownSubscription {
    /// The expression.
    pub sub_string: String,
    /// The language of the expression; `TAG` where it is missing.
    pub expression_type: Option<String>,
    /// A broker takes a greater one only.
    pub sub_version: i64,
}

request! {
    GET_CONSUMER_CONNECTION_LIST(()) -> LenientJson<ConsumerConnections>;
    /// The connections and the subscriptions of a consumer group. A group without members is answered with
    /// CONSUMER_NOT_ONLINE. Java: `GetConsumerConnectionListRequestHeader`.
    pub struct GetConsumerConnections {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
    }
}
