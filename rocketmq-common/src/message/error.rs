use std::time::Duration;

use super::{NameError, property};

/// Why a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The topic has a name that brokers refuse.
    #[error("the topic cannot be sent to")]
    Topic {
        /// What is wrong with the name.
        source: NameError,
    },
    /// The topic is one of the brokers' own.
    #[error("the topic {topic} is for brokers only")]
    ForbiddenTopic {
        /// Name of the topic.
        topic: String,
    },
    /// The body is empty.
    #[error("the body is empty")]
    EmptyBody,
    /// The body is larger than allowed.
    #[error("the body has {size} bytes, at most {max} are allowed")]
    BodyTooLarge {
        /// Bytes in the body.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The text of the properties is longer than allowed.
    #[error("the properties take {size} bytes, at most {max} are allowed")]
    PropertiesTooLarge {
        /// Bytes of the text.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The name of the property belongs to clients and brokers.
    #[error("the property {name} is reserved")]
    ReservedProperty {
        /// Name of the property.
        name: String,
    },
    /// The property has no name, or nothing but white space.
    #[error("a property has a blank name")]
    BlankPropertyName,
    /// The property has no value, or nothing but white space.
    #[error("the value of the property {name} is blank")]
    BlankProperty {
        /// Name of the property.
        name: String,
    },
    /// No filter can name the tag.
    #[error("no filter can name the tag {tag:?}: it holds a | or has a blank at an end")]
    Tag {
        /// The tag.
        tag: String,
    },
    /// The name or the value of the property holds a byte 0x01 or 0x02, which divide properties.
    #[error("the property {name:?} holds a byte 0x01 or 0x02")]
    SeparatorInProperty {
        /// Name of the property.
        name: String,
    },
    /// The names of further light queues hold a path separator.
    #[error("the property {} holds a path separator", property::INNER_MULTI_DISPATCH)]
    PathInDispatch,
    /// The delay level is less than 0.
    #[error("the delay level {level} is negative")]
    NegativeDelayLevel {
        /// The level.
        level: i32,
    },
    /// The message has both a delay level and a time of delivery; brokers would drop the time.
    #[error("the message has the delay level {level} and a time of delivery, only one can hold")]
    DelayLevelAndTimer {
        /// The level.
        level: i32,
    },
    /// The message has a priority and something else with which brokers ignore the priority.
    #[error("the message has a priority and {with}, with which brokers ignore the priority")]
    PriorityWith {
        /// What else it has.
        with: &'static str,
    },
    /// The time of delivery is before 1970.
    #[error("the time of delivery is before 1970")]
    DeliveryBeforeEpoch,
    /// The time of delivery is too far away to be written down.
    #[error("the time of delivery is too far away ({time:?})")]
    DeliveryTooLate {
        /// The delay, or the time since the epoch.
        time: Duration,
    },
    /// The message that is to be replied to is no request: it lacks a property that says where a reply goes.
    #[error("message {message_id} asks for no reply: it has no property {missing}")]
    NotARequest {
        /// Id of the message.
        message_id: String,
        /// Name of the property.
        missing: &'static str,
    },
    /// The message is a reply, which cannot ask for another one.
    #[error("a reply cannot be a request")]
    ReplyAsRequest,
    /// A message of a batch is a reply, which brokers hand on one at a time.
    #[error("a message of a batch cannot be a reply")]
    ReplyInBatch,
    /// A message of a batch has a priority, which brokers apply to single messages only.
    #[error("a message of a batch cannot have a priority")]
    PriorityInBatch,
    /// A batch has no messages.
    #[error("the batch is empty")]
    EmptyBatch,
    /// The messages of a batch are for several topics.
    #[error("the messages of a batch are for the topics {first} and {other}, only one can be")]
    TopicsInBatch {
        /// Topic of the first message.
        first: String,
        /// Topic of another.
        other: String,
    },
    /// A batch is for a topic of messages to consume again.
    #[error("a batch cannot go to the retry topic {topic}")]
    RetryTopicInBatch {
        /// Name of the topic.
        topic: String,
    },
    /// A message of a batch is delayed.
    #[error("a message of a batch cannot be delayed")]
    DelayInBatch,
    /// The messages of a batch have different sharding keys, or only some have one: a batch lies in one queue.
    #[error("the messages of a batch have different sharding keys, and so belong to different queues")]
    ShardingKeysInBatch,
    /// The messages of a batch differ in whether the broker waits for disk and replicas.
    #[error("the messages of a batch differ in whether the broker waits for disk and replicas")]
    WaitStoreInBatch,
}
