use super::{SendMessage, Stored};
use bytes::Bytes;
use rocketmq_remote::{Answer, ExtFields, FieldError, Header, Request, RequestCode, ResponseCode, request};
use std::sync::Arc;

/// Sends a reply to whom asked: [`SendMessage`] under another code. The broker hands the reply on before it answers,
/// and stores it as well; where it could not hand it on, it answers SYSTEM_ERROR.
#[derive(Clone, Debug, PartialEq)]
pub struct SendReply(pub SendMessage);

impl Header for SendReply {
    fn write(&self, fields: &mut ExtFields) {
        self.0.write(fields);
    }

    fn read(fields: &ExtFields) -> Result<Self, FieldError> {
        SendMessage::read(fields).map(Self)
    }
}

impl Request for SendReply {
    const CODE: RequestCode = RequestCode::SEND_REPLY_MESSAGE_V2;
    const ALSO_OK: &'static [ResponseCode] = SendMessage::ALSO_OK;
    type Body = Bytes;
    type Reply = Answer<Stored>;
}

request! {
    PUSH_REPLY_MESSAGE_TO_CLIENT(Bytes) -> ();
    /// From the broker: the reply to a request of this client. Java: `ReplyMessageRequestHeader`.
    pub struct PushReply {
        /// Who replies.
        producer_group: Option<Arc<str>> = "producerGroup",
        /// The topic of replies.
        topic: Arc<str> = "topic",
        /// As the replier sent it, without a meaning here.
        default_topic: Option<Arc<str>> = "defaultTopic",
        /// As the replier sent it, without a meaning here.
        default_topic_queue_nums: Option<i32> = "defaultTopicQueueNums",
        /// The queue the replier chose.
        queue_id: i32 = "queueId",
        /// Bits of [`sys_flag`](super::sys_flag).
        sys_flag: i32 = "sysFlag",
        /// When the reply was sent.
        born_timestamp_ms: i64 = "bornTimestamp",
        /// The user's flag.
        flag: i32 = "flag",
        /// The properties, in their string form.
        properties: Option<String> = "properties",
        /// 0.
        reconsume_times: Option<i32> = "reconsumeTimes",
        /// Whether the replier lives in a unit.
        unit_mode: Option<bool> = "unitMode",
        /// The address of the replier; brokers of 4.9 put a slash before it.
        born_host: Option<String> = "bornHost",
        /// The address of the broker; brokers of 4.9 put a slash before it.
        store_host: Option<String> = "storeHost",
        /// When the broker took it.
        store_timestamp_ms: Option<i64> = "storeTimestamp",
    }
}
