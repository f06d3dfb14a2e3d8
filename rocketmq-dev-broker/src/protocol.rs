//! Requests that a broker serves and `rocketmq-common` does not declare.

use bytes::Bytes;
use rocketmq_common::protocol::{SendMessage, Stored};
use rocketmq_remote::{Answer, header, request};
use std::sync::Arc;

request! {
    SEND_MESSAGE(Bytes) -> Answer<Stored>, also on [FLUSH_DISK_TIMEOUT, FLUSH_SLAVE_TIMEOUT, SLAVE_NOT_AVAILABLE];
    /// [`SendMessage`] under long names. Java: `SendMessageRequestHeader`.
    pub(crate) struct SendMessageV1 {
        producer_group: Arc<str> = "producerGroup",
        topic: Arc<str> = "topic",
        default_topic: Arc<str> = "defaultTopic",
        default_topic_queue_nums: i32 = "defaultTopicQueueNums",
        queue_id: i32 = "queueId",
        sys_flag: i32 = "sysFlag",
        born_timestamp_ms: i64 = "bornTimestamp",
        flag: i32 = "flag",
        properties: Option<String> = "properties",
        reconsume_times: Option<i32> = "reconsumeTimes",
        unit_mode: Option<bool> = "unitMode",
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
        batch: Option<bool> = "batch",
        broker_name: Option<Arc<str>> = "bname",
    }
}

impl From<SendMessageV1> for SendMessage {
    fn from(header: SendMessageV1) -> Self {
        Self {
            producer_group: header.producer_group,
            topic: header.topic,
            default_topic: header.default_topic,
            default_topic_queue_nums: header.default_topic_queue_nums,
            queue_id: header.queue_id,
            sys_flag: header.sys_flag,
            born_timestamp_ms: header.born_timestamp_ms,
            flag: header.flag,
            properties: header.properties,
            reconsume_times: header.reconsume_times,
            unit_mode: header.unit_mode,
            max_reconsume_times: header.max_reconsume_times,
            batch: header.batch,
            broker_name: header.broker_name,
        }
    }
}

header! {
    /// When the oldest message of a queue was stored; -1 where there is none.
    pub(crate) struct StoreTime {
        timestamp_ms: i64 = "timestamp",
    }
}

request! {
    GET_EARLIEST_MSG_STORETIME(()) -> StoreTime;
    /// Java: `GetEarliestMsgStoretimeRequestHeader`.
    pub(crate) struct EarliestStoreTime {
        topic: Arc<str> = "topic",
        queue_id: i32 = "queueId",
    }
}

request! {
    PUT_KV_CONFIG(()) -> ();
    /// To the name server. Java: `PutKVConfigRequestHeader`.
    pub(crate) struct PutValue {
        namespace: String = "namespace",
        key: String = "key",
        value: String = "value",
    }
}

header! {
    /// Java: `GetKVConfigResponseHeader`.
    pub(crate) struct Value {
        value: String = "value",
    }
}

request! {
    GET_KV_CONFIG(()) -> Value;
    /// To the name server. Java: `GetKVConfigRequestHeader`.
    pub(crate) struct GetValue {
        namespace: String = "namespace",
        key: String = "key",
    }
}

header! {
    /// A heartbeat's reply. Java: `HeartbeatV2Result` and what `ClientManageProcessor` adds.
    pub(crate) struct HeartbeatReply {
        supports_v2: bool = "IS_SUPPORT_HEART_BEAT_V2",
        subscription_changed: bool = "IS_SUB_CHANGE",
    }
}

request! {
    VIEW_MESSAGE_BY_ID(()) -> Answer<NoFields>;
    /// Java: `ViewMessageRequestHeader`.
    pub(crate) struct ViewMessage {
        place: i64 = "offset",
    }
}

header! {
    /// A header without fields.
    pub(crate) struct NoFields {}
}
