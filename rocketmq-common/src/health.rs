//! What a health check can ask a producer or a consumer.

use rocketmq_remote::ResponseCode;
use std::{fmt, sync::Arc, time::Duration};

/// The state of a producer or a consumer and its client, as far as it is known without asking anybody.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Health {
    /// The addresses of the brokers to which a connection is open. A broker is connected when it is first needed.
    pub connected_brokers: Vec<Arc<str>>,
    /// How long ago a broker last accepted a heartbeat; `None` if none has yet. Heartbeats are sent every
    /// [`heartbeat_interval`](crate::ClientConfig::heartbeat_interval), and only for groups.
    pub last_heartbeat: Option<Duration>,
    /// The number of queues assigned to a push or pull consumer, those of retry topics included; `None` for producers and
    /// pop consumers, to which no queues are assigned.
    pub assigned_queues: Option<usize>,
    /// What keeps it from working as it should at the moment. Each one was logged at WARN when it began.
    pub conditions: Vec<Condition>,
}

impl Health {
    /// Whether a broker is connected, queues are assigned where there are any to assign, and no condition holds.
    pub fn is_ok(&self) -> bool {
        !self.connected_brokers.is_empty() && self.assigned_queues != Some(0) && self.conditions.is_empty()
    }
}

/// Something that fails for as long as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Condition {
    /// What fails.
    pub kind: ConditionKind,
    /// What is concerned: an address, a topic, a broker.
    pub subject: String,
    /// Why, as it was last logged.
    pub cause: String,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.subject, self.cause)
    }
}

/// What can fail for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConditionKind {
    /// Looking up routes: no name server answers.
    NameServers,
    /// Connecting to an address.
    Connect,
    /// Heartbeats to an address.
    Heartbeat,
    /// A topic that does not exist, or none of whose queues is readable.
    Topic,
    /// Being listed as a member of the group, without which no queues are assigned.
    Membership,
    /// Finding out which queues of a topic are assigned to this consumer.
    Assignment,
    /// Locking the queues of a broker, for ordered consumption.
    Lock,
    /// Reading the offset at which a queue begins.
    StartOffset,
    /// Pulling from the queues that a topic has on a broker.
    Pull,
    /// Popping from the queues that a topic has on a broker.
    Pop,
    /// Committing offsets.
    Commit,
    /// The subscription to a topic: another member of the group has another filter.
    Subscription,
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameServers => "name servers",
            Self::Connect => "connect",
            Self::Heartbeat => "heartbeat",
            Self::Topic => "topic",
            Self::Membership => "membership",
            Self::Assignment => "assignment",
            Self::Lock => "lock",
            Self::StartOffset => "start offset",
            Self::Pull => "pull",
            Self::Pop => "pop",
            Self::Commit => "commit",
            Self::Subscription => "subscription",
        })
    }
}

/// What to check where a broker has answered `code`, or, for `None`, has not answered.
pub(crate) fn hint(code: Option<ResponseCode>) -> &'static str {
    match code {
        None => "check that the broker runs and that the address which the name server gives can be reached from here",
        Some(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST) => {
            "create the group on this broker, or set autoCreateSubscriptionGroup=true there"
        }
        Some(ResponseCode::NO_PERMISSION) => {
            "check the broker's brokerPermission, the topic's perm, the group's consumeEnable and the access rules"
        }
        Some(ResponseCode::TOPIC_NOT_EXIST) => "check the topic's name, and that it exists on this broker",
        Some(
            ResponseCode::SUBSCRIPTION_NOT_EXIST
            | ResponseCode::SUBSCRIPTION_NOT_LATEST
            | ResponseCode::SUBSCRIPTION_PARSE_FAILED
            | ResponseCode::FILTER_DATA_NOT_EXIST
            | ResponseCode::FILTER_DATA_NOT_LATEST,
        ) => "check that all members of the group have the same subscriptions",
        Some(_) => "see the broker's log",
    }
}
