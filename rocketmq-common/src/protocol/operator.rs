//! What operators ask of a client, by way of its broker.

use super::{QueueTable, SubscriptionData, queue_table::read_offsets};
use crate::json::from_lenient_slice;
use bytes::Bytes;
use rocketmq_remote::{Body, Command, DecodeError, EncodeError, Json, JsonError, Reply, request};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, sync::Arc};

request! {
    GET_CONSUMER_RUNNING_INFO(()) -> RunningInfo;
    /// The inner state of one member of a group. Java: `GetConsumerRunningInfoRequestHeader`.
    pub struct GetRunningInfo {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
        /// The member.
        client_id: Arc<str> = "clientId",
        /// Whether the stacks of its threads are wanted, too.
        with_stacks: Option<bool> = "jstackEnable",
    }
}

request! {
    CONSUME_MESSAGE_DIRECTLY(Bytes) -> Json<ConsumedDirectly>;
    /// Has one member of a group consume a message now. From the operator it names the message; the broker passes it on
    /// with the stored message as its body. Java: `ConsumeMessageDirectlyResultRequestHeader`.
    pub struct ConsumeDirectly {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
        /// The member.
        client_id: Option<Arc<str>> = "clientId",
        /// The message's offset id.
        message_id: Option<String> = "msgId",
        /// Its broker; set by that.
        broker_name: Option<Arc<str>> = "brokerName",
        /// Its topic.
        topic: Option<Arc<str>> = "topic",
        /// Set by the broker, without a meaning here.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Set by the broker, without a meaning here.
        group_sys_flag: Option<i32> = "groupSysFlag",
    }
}

request! {
    RESET_CONSUMER_CLIENT_OFFSET(OffsetTable) -> ();
    /// From the broker, one-way: go on from these offsets. Java: `ResetOffsetRequestHeader`.
    pub struct ResetClientOffset {
        /// The topic.
        topic: Arc<str> = "topic",
        /// The group.
        group: Arc<str> = "group",
        /// The moment the offsets were looked up by; -1 where they were not.
        timestamp_ms: Option<i64> = "timestamp",
        /// Whether the group may move forward as well.
        is_force: Option<bool> = "isForce",
        /// The queue; -1 for all.
        queue_id: Option<i32> = "queueId",
        /// The offset the operator named; -1 where none was.
        offset: Option<i64> = "offset",
    }
}

request! {
    INVOKE_BROKER_TO_RESET_OFFSET(()) -> OffsetTable;
    /// To the broker, from an operator: move a group in a topic. Java: `ResetOffsetRequestHeader`.
    pub struct ResetOffset {
        /// The topic.
        topic: Arc<str> = "topic",
        /// The group.
        group: Arc<str> = "group",
        /// To the first messages stored at or after this moment; -1 to the end.
        timestamp_ms: i64 = "timestamp",
        /// Whether the group may move forward as well.
        is_force: bool = "isForce",
        /// The queue; -1, as if absent, for all.
        queue_id: Option<i32> = "queueId",
        /// To this offset, which counts with a queue only.
        offset: Option<i64> = "offset",
    }
}

request! {
    GET_CONSUMER_STATUS_FROM_CLIENT(()) -> ClientStatus;
    /// From the broker: how far a member is in its queues. Java: `GetConsumerStatusRequestHeader`.
    pub struct GetClientStatus {
        /// The topic; blank for all.
        topic: Arc<str> = "topic",
        /// The group.
        group: Arc<str> = "group",
        /// The member's client id.
        client_id: Option<Arc<str>> = "clientAddr",
    }
}

request! {
    INVOKE_BROKER_TO_GET_CONSUMER_STATUS(()) -> ClientStatus;
    /// To the broker, from an operator: how far the members of a group are. Java: `GetConsumerStatusRequestHeader`.
    pub struct GetGroupStatus {
        /// The topic; blank for all.
        topic: Arc<str> = "topic",
        /// The group.
        group: Arc<str> = "group",
        /// One member's client id; blank, or absent, for all.
        client_id: Option<Arc<str>> = "clientAddr",
    }
}

/// Offsets by queue. Java: `ResetOffsetBody`, and `ResetOffsetBodyForC`, which is read as well.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OffsetTable {
    /// The offset of each queue.
    #[serde(deserialize_with = "read_offsets")]
    pub offset_table: QueueTable<i64>,
}

/// How far members of a group are in their queues. Java: `GetConsumerStatusBody`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientStatus {
    /// Those of one member: a member's own answer.
    pub message_queue_table: QueueTable<i64>,
    /// Those of each member, by client id: a broker's answer.
    pub consumer_table: BTreeMap<String, QueueTable<i64>>,
}

/// The inner state of a consumer. Java: `ConsumerRunningInfo`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RunningInfo {
    /// What it was set up with, and the values named in [`prop`].
    #[serde(deserialize_with = "read_texts")]
    pub properties: BTreeMap<String, String>,
    /// What it subscribes to.
    pub subscription_set: Vec<SubscriptionData>,
    /// Its queues.
    pub mq_table: QueueTable<QueueInfo>,
    /// Its queues, where it pops.
    pub mq_pop_table: QueueTable<PopQueueInfo>,
    /// How it does, by topic.
    pub status_table: BTreeMap<String, ConsumeStatus>,
    /// What its user adds.
    #[serde(deserialize_with = "read_texts")]
    pub user_consumer_info: BTreeMap<String, String>,
    /// The stacks of its threads.
    pub jstack: Option<String>,
}

/// The names of properties that operators' tools look at. Java: `ConsumerRunningInfo.PROP_*`.
pub mod prop {
    /// `CONSUME_PASSIVELY` or `CONSUME_ACTIVELY`; tools fail without it.
    pub const CONSUME_TYPE: &str = "PROP_CONSUME_TYPE";
    /// When it was started, in milliseconds; tools fail without it.
    pub const START_TIMESTAMP: &str = "PROP_CONSUMER_START_TIMESTAMP";
    /// Whether it consumes in order.
    pub const IS_ORDERED: &str = "PROP_CONSUMEORDERLY";
    /// How many calls run at once.
    pub const CONCURRENCY: &str = "PROP_THREADPOOL_CORE_SIZE";
    /// The name servers, each followed by `;`.
    pub const NAME_SERVERS: &str = "PROP_NAMESERVER_ADDR";
    /// The version of the client.
    pub const CLIENT_VERSION: &str = "PROP_CLIENT_VERSION";
}

/// One queue of a consumer. Java: `ProcessQueueInfo`. Times in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueInfo {
    /// The offset that is safe to record.
    pub commit_offset: i64,
    /// The first message that is fetched and not done; of an ordered consumer, not begun.
    pub cached_msg_min_offset: i64,
    /// The last one.
    pub cached_msg_max_offset: i64,
    /// How many.
    pub cached_msg_count: i32,
    /// Their bodies, in MiB.
    #[serde(rename = "cachedMsgSizeInMiB")]
    pub cached_mib: i32,
    /// Of an ordered consumer: the first message in the listener's hands.
    pub transaction_msg_min_offset: i64,
    /// The last one.
    pub transaction_msg_max_offset: i64,
    /// How many.
    pub transaction_msg_count: i32,
    /// Whether the lock of the queue is ours.
    pub locked: bool,
    /// How often giving the lock up was put off.
    pub try_unlock_times: i64,
    /// When the lock was last renewed.
    pub last_lock_timestamp: i64,
    /// Whether the queue is being given up.
    #[serde(rename = "droped")]
    pub is_dropped: bool,
    /// When the last pull was made.
    pub last_pull_timestamp: i64,
    /// When a message was last begun or done.
    pub last_consume_timestamp: i64,
}

/// One queue of a consumer that pops. Java: `PopProcessQueueInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PopQueueInfo {
    /// Messages that are not acknowledged.
    pub wait_ack_count: i32,
    /// Whether the queue is being given up.
    #[serde(rename = "droped")]
    pub is_dropped: bool,
    /// When the last pop was made, in milliseconds since 1970.
    pub last_pop_timestamp: i64,
}

/// How a consumer does with a topic: averages and rates of the last minute. Java: `ConsumeStatus`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumeStatus {
    /// Milliseconds a pull takes that brings something.
    #[serde(rename = "pullRT")]
    pub pull_ms: f64,
    /// Messages pulled a second.
    #[serde(rename = "pullTPS")]
    pub pulled_per_second: f64,
    /// Milliseconds a listener call takes.
    #[serde(rename = "consumeRT")]
    pub consume_ms: f64,
    /// Messages done a second.
    #[serde(rename = "consumeOKTPS")]
    pub done_per_second: f64,
    /// Messages that failed, a second.
    #[serde(rename = "consumeFailedTPS")]
    pub failed_per_second: f64,
    /// Messages that failed in the last hour.
    #[serde(rename = "consumeFailedMsgs")]
    pub failed_messages: i64,
}

/// What became of a message that was consumed directly. Java: `ConsumeMessageDirectlyResult`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumedDirectly {
    /// Whether the listener consumes in order.
    #[serde(default)]
    pub order: bool,
    /// Whether progress is recorded by itself.
    #[serde(default)]
    pub auto_commit: bool,
    /// What the listener said.
    pub consume_result: DirectResult,
    /// Why the message was not consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// How long the call took, in milliseconds.
    #[serde(default)]
    pub spent_time_mills: i64,
}

/// What a listener says of a message. Java: `CMResult`, by name; its number is read, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DirectResult {
    /// It is done.
    #[serde(rename = "CR_SUCCESS")]
    Done,
    /// It is to come again.
    #[serde(rename = "CR_LATER")]
    Later,
    /// Java's ordered listeners without automatic commit: it is to come again.
    #[serde(rename = "CR_ROLLBACK")]
    RollBack,
    /// The same: it is done.
    #[serde(rename = "CR_COMMIT")]
    Commit,
    /// The listener threw an exception, or panicked.
    #[serde(rename = "CR_THROW_EXCEPTION")]
    Panicked,
    /// A Java listener returned null.
    #[serde(rename = "CR_RETURN_NULL")]
    Null,
}

impl DirectResult {
    /// In the order of Java's enum.
    const ALL: [Self; 6] = [Self::Done, Self::Later, Self::RollBack, Self::Commit, Self::Panicked, Self::Null];
    const NAMES: [&str; 6] =
        ["CR_SUCCESS", "CR_LATER", "CR_ROLLBACK", "CR_COMMIT", "CR_THROW_EXCEPTION", "CR_RETURN_NULL"];
}

impl<'de> Deserialize<'de> for DirectResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Said {
            Name(String),
            Number(usize),
        }
        let index = match Said::deserialize(deserializer)? {
            Said::Name(name) => Self::NAMES.iter().position(|known| *known == name),
            Said::Number(number) => Some(number),
        };
        let known = index.and_then(|index| Self::ALL.get(index)).copied();
        known.ok_or_else(|| serde::de::Error::custom("no such result"))
    }
}

impl OffsetTable {
    fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::from(br#"{"offsetTable":"#);
        self.offset_table.write(&mut out)?;
        out.push(b'}');
        Ok(out)
    }
}

impl ClientStatus {
    fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::from(br#"{"consumerTable":{"#);
        for (index, (client_id, table)) in self.consumer_table.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, client_id)?;
            out.push(b':');
            table.write(&mut out)?;
        }
        out.extend_from_slice(br#"},"messageQueueTable":"#);
        self.message_queue_table.write(&mut out)?;
        out.push(b'}');
        Ok(out)
    }
}

impl RunningInfo {
    fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::new();
        if let Some(jstack) = &self.jstack {
            out.extend_from_slice(br#"{"jstack":"#);
            serde_json::to_writer(&mut out, jstack)?;
            out.extend_from_slice(br#","mqPopTable":"#);
        } else {
            out.extend_from_slice(br#"{"mqPopTable":"#);
        }
        self.mq_pop_table.write(&mut out)?;
        out.extend_from_slice(br#","mqTable":"#);
        self.mq_table.write(&mut out)?;
        out.extend_from_slice(br#","properties":"#);
        serde_json::to_writer(&mut out, &self.properties)?;
        out.extend_from_slice(br#","statusTable":"#);
        serde_json::to_writer(&mut out, &self.status_table)?;
        out.extend_from_slice(br#","subscriptionSet":"#);
        serde_json::to_writer(&mut out, &self.subscription_set)?;
        out.extend_from_slice(br#","userConsumerInfo":"#);
        serde_json::to_writer(&mut out, &self.user_consumer_info)?;
        out.push(b'}');
        Ok(out)
    }
}

impl Body for OffsetTable {
    fn into_bytes(self) -> Result<Bytes, EncodeError> {
        written(self.write())
    }

    fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        read(&bytes)
    }
}

/// A reply whose body is written by hand.
macro_rules! reply {
    ($($name:ident),*) => {$(
        impl Reply for $name {
            fn from_command(command: Command) -> Result<Self, DecodeError> {
                read(&command.body)
            }

            fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
                command.body = written(self.write())?;
                Ok(())
            }
        }
    )*};
}

reply!(OffsetTable, ClientStatus, RunningInfo);

fn written(text: Result<Vec<u8>, serde_json::Error>) -> Result<Bytes, EncodeError> {
    Ok(text.map_err(JsonError::from)?.into())
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    Ok(from_lenient_slice(bytes).map_err(JsonError::from)?)
}

/// Texts; some clients write numbers and truth values as such.
fn read_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let text = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(values.into_iter().map(|(name, value)| (name, text(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MessageQueue, message::goldens};

    fn body<T: DeserializeOwned>(text: &str) -> Result<T, DecodeError> {
        read(text.as_bytes())
    }

    fn table(offset: i64) -> QueueTable<i64> {
        QueueTable::from_iter([(MessageQueue::new("T", "b", 3), offset)])
    }

    #[test]
    fn resets_are_read_in_either_form_and_written_as_java_writes_them() {
        let java = r#"{"offsetTable":{{"brokerName":"b","queueId":3,"topic":"T"}:7}}"#;
        let cpp = r#"{"offsetTable":[{"brokerName":"b","offset":7,"queueId":3,"topic":"T"}]}"#;
        let expected = OffsetTable { offset_table: table(7) };
        assert_eq!(body::<OffsetTable>(java).unwrap(), expected);
        assert_eq!(body::<OffsetTable>(cpp).unwrap(), expected);
        assert_eq!(expected.into_bytes().unwrap(), java);
        assert_eq!(body::<OffsetTable>("{}").unwrap(), OffsetTable::default());
        for wrong in [r#"{"offsetTable":7}"#, r#"{"offsetTable":[{"queueId":3}]}"#, "[", r#"{"offsetTable":{{}:7}}"#] {
            assert!(body::<OffsetTable>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read::<OffsetTable>(&goldens::body(goldens::RESET_OFFSET)).unwrap().offset_table.0.len(), 4);
    }

    #[test]
    fn a_status_reads_as_it_is_written() {
        let status = ClientStatus {
            message_queue_table: table(7),
            consumer_table: [("c\"1".to_owned(), table(8)), ("c2".to_owned(), QueueTable::default())].into(),
        };
        let text = String::from_utf8(status.write().unwrap()).unwrap();
        let queue = r#"{"brokerName":"b","queueId":3,"topic":"T"}"#;
        assert_eq!(
            text,
            format!(r#"{{"consumerTable":{{"c\"1":{{{queue}:8}},"c2":{{}}}},"messageQueueTable":{{{queue}:7}}}}"#)
        );
        assert_eq!(body::<ClientStatus>(&text).unwrap(), status);
    }

    #[test]
    fn running_info_is_written_as_java_writes_it() {
        let golden = goldens::body(goldens::RUNNING_INFO);
        let info: RunningInfo = read(&golden).unwrap();
        assert_eq!((info.mq_table.0.len(), info.subscription_set.len()), (5, 2));
        assert_eq!(info.properties[prop::CONSUME_TYPE], "CONSUME_PASSIVELY");
        let queue = MessageQueue::new("m_topic", "broker-a", 2);
        assert_eq!(info.mq_table.0[&queue].commit_offset, 25);
        assert_eq!(info.status_table["m_topic"].consume_ms, 76.72);
        let ours = info.write().unwrap();
        let json = |bytes: &[u8]| from_lenient_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(json(&ours), json(&golden));
        assert_eq!(read::<RunningInfo>(&ours).unwrap(), info);
        // The keys are no texts.
        assert!(String::from_utf8(ours).unwrap().contains(r#"{{"brokerName":"broker-a","queueId":0,"#));
        let stacks = RunningInfo { jstack: Some("a\n\"b\"".into()), ..info };
        assert_eq!(read::<RunningInfo>(&stacks.write().unwrap()).unwrap(), stacks);
    }

    #[test]
    fn numbers_and_truth_values_are_properties_too() {
        let info: RunningInfo = body(r#"{"properties":{"a":1,"b":true,"c":"d"},"jstack":null}"#).unwrap();
        let properties: Vec<_> = info.properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(properties, ["a=1", "b=true", "c=d"]);
    }

    #[test]
    fn results_are_written_by_name_and_read_by_number_too() {
        for (number, result) in DirectResult::ALL.into_iter().enumerate() {
            let name = serde_json::to_string(&result).unwrap();
            assert_eq!(name, format!("{:?}", DirectResult::NAMES[number]));
            assert_eq!(serde_json::from_str::<DirectResult>(&name).unwrap(), result);
            assert_eq!(serde_json::from_str::<DirectResult>(&number.to_string()).unwrap(), result);
        }
        assert!(serde_json::from_str::<DirectResult>("6").is_err());
        assert!(serde_json::from_str::<DirectResult>("\"CR_MAYBE\"").is_err());
        let consumed = ConsumedDirectly {
            order: false,
            auto_commit: true,
            consume_result: DirectResult::Done,
            remark: None,
            spent_time_mills: 0,
        };
        let text = r#"{"order":false,"autoCommit":true,"consumeResult":"CR_SUCCESS","spentTimeMills":0}"#;
        assert_eq!(serde_json::to_string(&consumed).unwrap(), text);
        assert_eq!(serde_json::from_str::<ConsumedDirectly>(text).unwrap(), consumed);
    }
}
