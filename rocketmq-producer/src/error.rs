use crate::answers::is_refusal_of_route;
use rocketmq_common::{MessageError, MessageQueue, compress::CompressError};
use std::{fmt, sync::Arc, time::Duration};

/// Why a producer did not start, or a message was not sent, or not known to be.
///
/// An error after a time-out or a broken connection does not mean that nothing was stored: the broker may have stored the
/// message and its answer been lost. [`may_have_happened`](Self::may_have_happened) tells such errors apart. Sending the
/// message again may then store it twice: give it an id of its own ([`Message::unique_id`](crate::Message::unique_id), or
/// a key), and have consumers recognize what they have done already.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message breaks a rule; nothing was sent.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The client could not do its part: no name server, no such topic, a bad option or name.
    #[error(transparent)]
    Client(#[from] rocketmq_common::Error),
    /// The topic has no queue that may be written.
    #[error("topic {topic} has no queue that may be written")]
    NoQueue {
        /// The topic.
        topic: Arc<str>,
    },
    /// The send timeout passed before a name server had answered with the topic's route.
    #[error("no route of topic {topic} came in time")]
    NoRoute {
        /// The topic.
        topic: Arc<str>,
    },
    /// The queue that was chosen is none that may be written.
    #[error("queue {queue} does not exist or may not be written")]
    NoSuchQueue {
        /// The queue.
        queue: MessageQueue,
    },
    /// A selector returned an index beyond the queues it was given.
    #[error("the selector chose queue {index} of {count} of topic {topic}")]
    BadSelection {
        /// The topic.
        topic: Arc<str>,
        /// What it returned.
        index: usize,
        /// How many queues there are.
        count: usize,
    },
    /// The time of a timer message is further ahead than [`max_timer_delay`](crate::ProducerConfig::max_timer_delay).
    #[error("the message is to be delivered in {ahead:?}, at most {max:?} ahead is allowed")]
    TimerTooFar {
        /// How far ahead it is.
        ahead: Duration,
        /// How far it may be.
        max: Duration,
    },
    /// The broker is too old for what the message needs, and would leave that out without a word; nothing was sent.
    #[error("broker {broker_name} has no {feature}: they came with RocketMQ {since}, it reports version {version}")]
    BrokerTooOld {
        /// The broker.
        broker_name: Arc<str>,
        /// What it does not have.
        feature: &'static str,
        /// The release that first has it.
        since: &'static str,
        /// What the broker reports, as Java numbers its releases: 407 is 4.9.7.
        version: i32,
    },
    /// The broker is set not to take timer messages (`timerWheelEnable=false`); nothing was stored.
    #[error("broker {broker_name} takes no timer messages: its timer wheel is off (timerWheelEnable)")]
    TimerDisabled {
        /// The broker.
        broker_name: Arc<str>,
        /// What it says.
        source: rocketmq_common::Error,
    },
    /// The body could not be compressed.
    #[error("the body cannot be compressed")]
    Compress(#[source] Arc<CompressError>),
    /// The message of this receipt cannot be taken back: it was no timer message, or its broker is older than 5.3.2.
    #[error("message {message_id} cannot be recalled")]
    NotRecallable {
        /// The unique id.
        message_id: String,
    },
    /// The producer has no transaction checker, without which transactions may stay open.
    #[error("a producer without a transaction checker cannot send in transactions")]
    NoChecker,
    /// The message of a transaction has a delay, which brokers do not combine.
    #[error("a message of a transaction cannot be delayed")]
    DelayedTransaction,
    /// The request is stored, but its reply did not come in time: nobody consumes the topic, or who does is slow, does
    /// not reply, or could not.
    #[error("message {message_id} to topic {topic} is stored, but no reply to it came within {timeout:?}")]
    NoReply {
        /// The topic.
        topic: Arc<str>,
        /// The unique id of the request.
        message_id: String,
        /// How long it was waited for, from the beginning of the request.
        timeout: Duration,
    },
    /// Every attempt failed.
    #[error(transparent)]
    NotSent(#[from] Box<NotSent>),
    /// Shut down in time, but for this many sends whose outcome is unknown.
    #[error("{sends} sends were still under way when the shutdown timeout passed")]
    Unfinished {
        /// Their number.
        sends: usize,
    },
    /// The producer, its client or its runtime ended before the outcome of a send was known: it may have been stored.
    #[error("the producer ended before the outcome of the send was known")]
    OutcomeUnknown,
    /// The producer has been shut down; nothing was sent.
    #[error("the producer has been shut down")]
    ShutDown,
}

/// A message, or a batch, that no attempt got stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NotSent {
    /// The topic.
    pub topic: Arc<str>,
    /// The unique id; the same in every attempt. For a batch, that of its first message.
    pub message_id: String,
    /// What was tried, in order; never empty.
    pub attempts: Vec<FailedAttempt>,
    /// Whether another send of the message may succeed.
    pub retryable: bool,
}

/// Names every attempt; the last one's own words are left to the source.
impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} to topic {} not sent: ", self.message_id, self.topic)?;
        for (index, attempt) in self.attempts.iter().enumerate() {
            let number = index + 1;
            let elapsed = attempt.elapsed.as_millis();
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "attempt {number} at {} failed after {elapsed} ms", attempt.broker_name)?;
            if number < self.attempts.len() {
                write!(f, " ({})", attempt.error)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for NotSent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.attempts.last().map(|attempt| &attempt.error as &dyn std::error::Error)
    }
}

/// One attempt to send a message.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The broker's name.
    pub broker_name: Arc<str>,
    /// How long it took.
    pub elapsed: Duration,
    /// What it came to.
    pub error: rocketmq_common::Error,
}

impl Error {
    /// The same for another message that shared its fate.
    pub(crate) fn of_message(mut self, id: String) -> Self {
        if let Self::NotSent(not_sent) = &mut self {
            not_sent.message_id = id;
        }
        self
    }

    /// Whether the last broker refused the route by which it was sent, and none has stored it.
    pub(crate) fn is_refusal_of_route(&self) -> bool {
        let Self::NotSent(not_sent) = self else { return false };
        let last = not_sent.attempts.last();
        last.is_some_and(|attempt| is_refusal_of_route(&attempt.error)) && !self.may_have_happened()
    }

    /// Whether sending the same message again may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::NotSent(not_sent) => not_sent.retryable,
            Self::NoQueue { .. } | Self::NoRoute { .. } | Self::NoReply { .. } => true,
            Self::Message(_)
            | Self::NoSuchQueue { .. }
            | Self::BadSelection { .. }
            | Self::TimerTooFar { .. }
            | Self::BrokerTooOld { .. }
            | Self::TimerDisabled { .. }
            | Self::Compress(_)
            | Self::NotRecallable { .. }
            | Self::NoChecker
            | Self::DelayedTransaction
            | Self::ShutDown
            | Self::OutcomeUnknown
            | Self::Unfinished { .. } => false,
        }
    }

    /// Whether the message may have been stored all the same, so that sending it again could store it twice.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::NotSent(not_sent) => not_sent.attempts.iter().any(|attempt| attempt.error.may_have_happened()),
            Self::Client(error) => error.may_have_happened(),
            Self::Unfinished { .. } | Self::NoReply { .. } | Self::OutcomeUnknown => true,
            Self::Message(_)
            | Self::NoQueue { .. }
            | Self::NoRoute { .. }
            | Self::NoSuchQueue { .. }
            | Self::BadSelection { .. }
            | Self::TimerTooFar { .. }
            | Self::BrokerTooOld { .. }
            | Self::TimerDisabled { .. }
            | Self::Compress(_)
            | Self::NotRecallable { .. }
            | Self::NoChecker
            | Self::DelayedTransaction
            | Self::ShutDown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_every_attempt_and_each_fact_once() {
        let attempt = |broker: &str, error| FailedAttempt {
            broker_name: broker.into(),
            elapsed: Duration::from_millis(5),
            error,
        };
        let gone = rocketmq_common::Error::BrokerNotFound { broker_name: "a".into() };
        let attempts = vec![attempt("a", gone.clone()), attempt("b", gone)];
        let not_sent = NotSent { topic: "t".into(), message_id: "ID".into(), attempts, retryable: true };
        let error = Error::from(Box::new(not_sent));
        assert_eq!(
            error.to_string(),
            "message ID to topic t not sent: attempt 1 at a failed after 5 ms (no address of broker a is known); \
             attempt 2 at b failed after 5 ms"
        );
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no address of broker a is known");
        assert!(error.is_retryable() && !error.may_have_happened());
    }
}
