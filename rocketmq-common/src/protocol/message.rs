use bytes::Bytes;
use rocketmq_remote::{Answer, ExtFields, FieldError, Header, Request, RequestCode, ResponseCode, header, request};
use std::sync::Arc;

/// Bits of a message's `sysFlag`. Java: `MessageSysFlag`.
pub mod sys_flag {
    /// The body is compressed.
    pub const COMPRESSED: i32 = 0x1;
    /// A half message.
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    /// A committed message of a transaction.
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    /// A rolled back message of a transaction.
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    /// The born host is an IPv6 address.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The store host is an IPv6 address.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// An inner batch that must be unwrapped.
    pub const NEED_UNWRAP: i32 = 0x40;
    /// The body holds many messages.
    pub const INNER_BATCH: i32 = 0x80;
}

header! {
    /// Where the broker put a message. Java: `SendMessageResponseHeader`.
    pub struct Stored {
        /// The offset id, made by the broker; for a batch one an item, joined by commas.
        offset_id: Option<String> = "msgId",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The position in the queue; of the first item, for a batch.
        queue_offset: i64 = "queueOffset",
        /// The unique id of a half message.
        transaction_id: Option<String> = "transactionId",
        /// The unique id of an inner batch.
        batch_unique_id: Option<String> = "batchUniqId",
        /// The handle by which a timer message can be taken back.
        recall_handle: Option<String> = "recallHandle",
        /// The region of the broker.
        region_id: Option<String> = "MSG_REGION",
        /// Whether the broker wants this message traced.
        trace_on: Option<String> = "TRACE_ON",
    }
}

request! {
    SEND_MESSAGE_V2(Bytes) -> Answer<Stored>, also on [FLUSH_DISK_TIMEOUT, FLUSH_SLAVE_TIMEOUT, SLAVE_NOT_AVAILABLE];
    /// Stores one message in one queue. Java: `SendMessageRequestHeaderV2`, whose names are single letters.
    pub struct SendMessage {
        /// Who sends.
        producer_group: Arc<str> = "a",
        /// The topic.
        topic: Arc<str> = "b",
        /// The topic whose configuration a topic that does not exist is created after.
        default_topic: Arc<str> = "c",
        /// The queues a topic created that way gets.
        default_topic_queue_nums: i32 = "d",
        /// The queue; below 0 the broker picks one.
        queue_id: i32 = "e",
        /// Bits of [`sys_flag`].
        sys_flag: i32 = "f",
        /// When this attempt was made.
        born_timestamp_ms: i64 = "g",
        /// The user's flag.
        flag: i32 = "h",
        /// The properties, in their string form.
        properties: Option<String> = "i",
        /// How often the message has been consumed in vain; for retry topics.
        reconsume_times: Option<i32> = "j",
        /// Whether the sender lives in a unit.
        unit_mode: Option<bool> = "k",
        /// How often it may be consumed in vain; for retry topics.
        max_reconsume_times: Option<i32> = "l",
        /// Whether the body is a batch.
        batch: Option<bool> = "m",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "n",
    }
}

header! {
    /// The end of a pull. Java: `PullMessageResponseHeader`.
    pub struct PullResult {
        /// The replica to pull from next.
        suggested_broker_id: i64 = "suggestWhichBrokerId",
        /// Where to pull on.
        next_begin_offset: i64 = "nextBeginOffset",
        /// The first offset the queue still holds.
        min_offset: i64 = "minOffset",
        /// The next offset to be written.
        max_offset: i64 = "maxOffset",
        /// To be added to the queue offset of each message; static topics only.
        offset_delta: Option<i64> = "offsetDelta",
    }
}

request! {
    PULL_MESSAGE(()) -> Answer<PullResult>, also on [PULL_NOT_FOUND, PULL_RETRY_IMMEDIATELY, PULL_OFFSET_MOVED];
    /// Reads messages of one queue. The body of the answer holds stored messages, one after the other. Java:
    /// `PullMessageRequestHeader`.
    pub struct PullMessage {
        /// For whom.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic.
        topic: Arc<str> = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The first offset to read.
        queue_offset: i64 = "queueOffset",
        /// Most messages to answer with; brokers have a limit of their own, 32 by default.
        max_messages: i32 = "maxMsgNums",
        /// Bits of [`PullSysFlag`].
        sys_flag: i32 = "sysFlag",
        /// The group's offset to record, where the flag says so.
        commit_offset: i64 = "commitOffset",
        /// How long the broker may hold an empty pull.
        suspend_timeout_ms: i64 = "suspendTimeoutMillis",
        /// The filter expression, where the flag says so.
        subscription: Option<Arc<str>> = "subscription",
        /// The version of the subscription the broker must know at least.
        sub_version: i64 = "subVersion",
        /// `TAG` or `SQL92`.
        expression_type: Option<Arc<str>> = "expressionType",
        /// Most bytes to answer with; brokers up to 5.5.0 do not look at it.
        max_bytes: Option<i32> = "maxMsgBytes",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

/// Bits of a pull's `sysFlag`. Java: `PullSysFlag`.
#[derive(Clone, Copy, Debug)]
pub struct PullSysFlag;

impl PullSysFlag {
    /// `commitOffset` is to be recorded.
    pub const COMMIT: i32 = 1;
    /// The broker may hold the pull until a message comes.
    pub const SUSPEND: i32 = 2;
    /// `subscription` counts, not the one of the heartbeat.
    pub const SUBSCRIPTION: i32 = 4;
    /// A lite pull.
    pub const LITE: i32 = 16;
}

request! {
    CONSUMER_SEND_MSG_BACK(()) -> ();
    /// Gives a message back: the broker puts it into the group's retry topic, or its dead letter queue. Java:
    /// `ConsumerSendMsgBackRequestHeader`.
    pub struct SendBack {
        /// The message's place in the commit log.
        commit_log_offset: i64 = "offset",
        /// Who gives it back.
        group: Arc<str> = "group",
        /// When it comes again: below 0 never (dead letter), 0 as the broker decides, else a delay level.
        delay_level: i32 = "delayLevel",
        /// The message's id.
        origin_message_id: Option<String> = "originMsgId",
        /// The message's topic.
        origin_topic: Option<Arc<str>> = "originTopic",
        /// Whether the consumer lives in a unit.
        unit_mode: Option<bool> = "unitMode",
        /// How often the message may be consumed in vain.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

/// Stores many messages in one queue: [`SendMessage`] under another code, with `batch` set, which is what makes a
/// broker read the body as a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct SendBatchMessage(pub SendMessage);

impl Header for SendBatchMessage {
    fn write(&self, fields: &mut ExtFields) {
        self.0.write(fields);
    }

    fn read(fields: &ExtFields) -> Result<Self, FieldError> {
        SendMessage::read(fields).map(Self)
    }
}

impl Request for SendBatchMessage {
    const CODE: RequestCode = RequestCode::SEND_BATCH_MESSAGE;
    const ALSO_OK: &'static [ResponseCode] = SendMessage::ALSO_OK;
    type Body = Bytes;
    type Reply = Answer<Stored>;
}

header! {
    /// The message that was recalled. Java: `RecallMessageResponseHeader`.
    pub struct Recalled {
        /// Its unique id.
        message_id: String = "msgId",
    }
}

request! {
    RECALL_MESSAGE(()) -> Recalled;
    /// Takes a timer message back before it is delivered. Java: `RecallMessageRequestHeader`.
    ///
    /// Brokers from 5.3.2 on know this, where `recallMessageEnable` is set; else they answer NO_PERMISSION.
    pub struct RecallMessage {
        /// Who sent it.
        producer_group: Option<Arc<str>> = "producerGroup",
        /// The topic.
        topic: Arc<str> = "topic",
        /// The handle from the receipt.
        recall_handle: String = "recallHandle",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}
