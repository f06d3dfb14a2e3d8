use crate::{FilterError, OffsetFileError};

/// Why a consumer did not start, or did not end well.
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
    /// The topic is subscribed to twice, with different filters.
    #[error("two subscriptions to topic {topic} clash")]
    Clash {
        /// The topic.
        topic: String,
    },
    /// The file of a broadcast consumer's offsets, and its backup, cannot be read.
    #[error(transparent)]
    OffsetFile(#[from] OffsetFileError),
    /// Nothing is subscribed to.
    #[error("no topic is subscribed to")]
    NoSubscription,
    /// There is no listener.
    #[error("no listener is set")]
    NoListener,
    /// Messages were still in the listener's hands when the shutdown timeout passed, or offsets could not be recorded;
    /// these messages come again.
    #[error("shut down with {messages} messages unfinished and the offsets of {queues} queues unrecorded")]
    Unfinished {
        /// The messages in hand.
        messages: usize,
        /// The queues whose last offset could not be recorded.
        queues: usize,
    },
    /// The consumer has been shut down.
    #[error("the consumer has been shut down")]
    ShutDown,
}

impl Error {
    /// Whether trying again may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_retryable())
    }
}
