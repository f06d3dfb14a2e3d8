use rocketmq_remote::{Command, DecodeError, EncodeError, Header, Reply, ResponseCode, header, request};
use std::sync::Arc;

header! {
    /// A position in a queue.
    pub struct Offset {
        /// The position.
        offset: i64 = "offset",
    }
}

/// A group's recorded offset in a queue; `None` where nothing is recorded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupOffset(pub Option<i64>);

impl Reply for GroupOffset {
    fn from_command(command: Command) -> Result<Self, DecodeError> {
        match command.response_code() {
            ResponseCode::QUERY_NOT_FOUND => Ok(Self(None)),
            _ => Ok(Self(Some(Offset::read(&command.fields)?.offset))),
        }
    }

    fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
        match self.0 {
            Some(offset) => Offset { offset }.write(&mut command.fields),
            None => command.code = ResponseCode::QUERY_NOT_FOUND.0,
        }
        Ok(())
    }
}

request! {
    QUERY_CONSUMER_OFFSET(()) -> GroupOffset, also on [QUERY_NOT_FOUND];
    /// A group's recorded offset in one queue. Java: `QueryConsumerOffsetRequestHeader`.
    ///
    /// A broker answers 0, not "not found", for a new group on a queue whose first message is still in memory.
    pub struct QueryConsumerOffset {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic.
        topic: Arc<str> = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// Whether the broker may answer 0 where nothing is recorded; absent counts as true.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    UPDATE_CONSUMER_OFFSET(()) -> ();
    /// Records a group's offset in one queue, also one further back. Java: `UpdateConsumerOffsetRequestHeader`.
    pub struct UpdateConsumerOffset {
        /// The group.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic.
        topic: Arc<str> = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The next offset to consume.
        commit_offset: i64 = "commitOffset",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    GET_MAX_OFFSET(()) -> Offset;
    /// The next offset to be written in a queue. Java: `GetMaxOffsetRequestHeader`.
    pub struct GetMaxOffset {
        /// The topic.
        topic: Arc<str> = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    GET_MIN_OFFSET(()) -> Offset;
    /// The first offset a queue still holds. Java: `GetMinOffsetRequestHeader`.
    pub struct GetMinOffset {
        /// The topic.
        topic: Arc<str> = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    SEARCH_OFFSET_BY_TIMESTAMP(()) -> Offset;
    /// The offset of the first message stored at or after a moment; the end of the queue if all are older. Java:
    /// `SearchOffsetRequestHeader`.
    pub struct SearchOffset {
        /// The topic.
        topic: Arc<str> = "topic",
        /// The queue.
        queue_id: i32 = "queueId",
        /// The moment.
        timestamp_ms: i64 = "timestamp",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}
