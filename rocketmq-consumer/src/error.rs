use crate::{FilterError, OffsetFileError};
use rocketmq_common::{
    MessageQueue, StoredMessage,
    message::CorruptRecord,
    pop::{HandleError, PopInfoError},
};
use std::sync::Arc;

/// Why a consumer did not start, did not do what was asked of it, or did not end well.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client could not do its part: no name server, a bad option or name.
    #[error(transparent)]
    Client(#[from] rocketmq_common::Error),
    /// A filter does not parse.
    #[error("the filter of topic {topic} does not parse")]
    Filter {
        /// The topic.
        topic: String,
        /// Why.
        source: FilterError,
    },
    /// The broker cannot filter that way: the expression does not parse, or the broker is not set up for its language.
    #[error("the broker refuses the filter of topic {topic}")]
    FilterRefused {
        /// The topic.
        topic: String,
        /// What the broker says.
        source: rocketmq_common::Error,
    },
    /// The topic is subscribed to twice, with different filters; a group subscribes to all of its retry topic by itself.
    #[error("two subscriptions to topic {topic} clash")]
    Clash {
        /// The topic.
        topic: String,
    },
    /// The file of a broadcast consumer's offsets, and its backup, cannot be read.
    #[error(transparent)]
    OffsetFile(#[from] OffsetFileError),
    /// The user's own store cannot load or save offsets.
    #[error("the offset store fails")]
    OffsetStore {
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing is subscribed to.
    #[error("no topic is subscribed to")]
    NoSubscription,
    /// There is no listener.
    #[error("no listener is set")]
    NoListener,
    /// Topics are subscribed to and queues assigned at once, or a call is for the other kind of the two.
    #[error("a consumer subscribes to topics or is assigned queues, not both")]
    SubscribedAndAssigned,
    /// The queue does not belong to this member.
    #[error("queue {queue} is not assigned to this consumer")]
    NotAssigned {
        /// The queue.
        queue: MessageQueue,
    },
    /// A message cannot be decoded: its record is malformed, or its body does not decompress. It is the next of its queue, and
    /// is not passed by itself: [`skip`](crate::PullConsumer::skip) it, or [`seek`](crate::PullConsumer::seek) elsewhere, and
    /// [`send_back`](crate::PullConsumer::send_back) before where it is to be kept.
    #[error("message at offset {offset} of queue {queue} cannot be decoded")]
    Undecodable {
        /// The queue.
        queue: MessageQueue,
        /// Where the message lies; of a record whose offset is damaged, the first offset at which it can lie.
        offset: i64,
        /// What could be read of it. Its body is the body as it is stored, or the whole record.
        message: Box<StoredMessage>,
        /// Why.
        source: Arc<CorruptRecord>,
    },
    /// No poll has failed with an undecodable message at that offset, or it has been skipped already.
    #[error("no undecodable message waits at offset {offset} of queue {queue}")]
    NothingToSkip {
        /// The queue.
        queue: MessageQueue,
        /// The offset.
        offset: i64,
    },
    /// An offset lies outside of its queue.
    #[error("offset {offset} is outside of queue {queue}, which has {min} to {max}")]
    OffsetOutOfRange {
        /// The queue.
        queue: MessageQueue,
        /// The offset.
        offset: i64,
        /// The first offset the queue still holds.
        min: i64,
        /// The next offset to be written.
        max: i64,
    },
    /// Offsets could not be recorded; what was polled stays with this consumer, and committing again may help.
    #[error("the offsets of {queues} queues are not recorded")]
    NotRecorded {
        /// How many queues it is about.
        queues: usize,
        /// Why the first of them could not, where that is known.
        #[source]
        cause: Option<Box<Self>>,
    },
    /// A broker has answered that it keeps an offset, and does not have it when asked for it, several times in a row.
    #[error("the broker does not keep offset {offset} of queue {queue}, although it confirmed the commit")]
    OffsetNotKept {
        /// The queue.
        queue: MessageQueue,
        /// The offset that was committed.
        offset: i64,
    },
    /// Messages were still in the listener's hands when the shutdown timeout passed, or offsets could not be recorded;
    /// these messages come again.
    #[error("shut down with {messages} messages unfinished and the offsets of {queues} queues unrecorded")]
    Unfinished {
        /// The messages in hand.
        messages: usize,
        /// The queues whose last offset could not be recorded.
        queues: usize,
        /// Why the first of them could not, where that is known.
        #[source]
        cause: Option<Box<Self>>,
    },
    /// The broker knows nothing of pops: it is older than 5.0.
    #[error("broker {broker_name} cannot be popped from: pops came with RocketMQ 5")]
    PopNotSupported {
        /// The broker.
        broker_name: String,
    },
    /// What a broker tells of popped messages cannot be read; they come again.
    #[error("what the broker tells of popped messages cannot be read")]
    PopInfo(#[from] PopInfoError),
    /// A text is no receipt handle.
    #[error("the text is no receipt handle")]
    Handle(#[from] HandleError),
    /// The invisible time of a message is over: it may have come again already.
    #[error("the invisible time of the message is over")]
    Expired,
    /// The broker knows of no such delivery of a message.
    #[error("the broker refuses the receipt handle")]
    HandleRefused {
        /// What the broker says.
        source: rocketmq_common::Error,
    },
    /// The consumer has been shut down.
    #[error("the consumer has been shut down")]
    ShutDown,
}

impl Error {
    /// Whether trying again may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::FilterRefused { source, .. } | Self::HandleRefused { source } => source.is_retryable(),
            // Committing again asks again, unless the cause is one that stays.
            Self::NotRecorded { cause, .. } => cause.as_ref().is_none_or(|cause| cause.is_retryable()),
            // The messages come again, and from other brokers others do.
            Self::OffsetStore { .. } | Self::OffsetNotKept { .. } | Self::PopInfo(_) => true,
            _ => false,
        }
    }

    /// The code a broker answered, where one has answered.
    pub(crate) fn response_code(&self) -> Option<rocketmq_common::remote::ResponseCode> {
        match self {
            Self::Client(error) => error.response_code(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wraps_an_error_is_as_retryable_as_its_cause() {
        let passing = || Error::Client(rocketmq_common::Error::BrokerNotFound { broker_name: "broker-a".into() });
        let staying = || Error::Client(rocketmq_common::Error::ShutDown);
        let not_recorded = |cause| Error::NotRecorded { queues: 1, cause };
        assert!(not_recorded(None).is_retryable());
        assert!(not_recorded(Some(passing().into())).is_retryable());
        assert!(not_recorded(Some(not_recorded(Some(passing().into())).into())).is_retryable());
        assert!(!not_recorded(Some(staying().into())).is_retryable());
        let missing = PopInfoError::Missing { queue_id: 0, offset: 0 };
        assert!(Error::from(missing).is_retryable());
        let source = rocketmq_common::Error::BrokerNotFound { broker_name: "broker-a".into() };
        assert!(Error::HandleRefused { source }.is_retryable());
    }
}
