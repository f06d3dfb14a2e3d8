use std::fmt;

/// Declares a newtype over the number on the wire, with its named values: a number that is not among them survives and
/// prints as itself.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $code:ident = $value:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i32);

        impl $name {
            $($(#[$doc])* pub const $code: Self = Self($value);)*

            /// The name in the Java sources, where the number has one.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($code)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{name} ({})", self.0),
                    None => write!(f, "{}", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

codes! {
    /// What a request asks for. Java: `RequestCode`.
    RequestCode {
        /// Store one message, long field names.
        SEND_MESSAGE = 10,
        /// Read messages of one queue.
        PULL_MESSAGE = 11,
        /// Find messages by key.
        QUERY_MESSAGE = 12,
        /// A group's offset in one queue.
        QUERY_CONSUMER_OFFSET = 14,
        /// Record a group's offset in one queue.
        UPDATE_CONSUMER_OFFSET = 15,
        /// Create or change a topic.
        UPDATE_AND_CREATE_TOPIC = 17,
        /// How a broker is doing: many numbers, by name.
        GET_BROKER_RUNTIME_INFO = 28,
        /// The offset of the first message stored at or after a moment.
        SEARCH_OFFSET_BY_TIMESTAMP = 29,
        /// The next offset to be written in a queue.
        GET_MAX_OFFSET = 30,
        /// The first offset still held in a queue.
        GET_MIN_OFFSET = 31,
        /// When the oldest message of a queue was stored.
        GET_EARLIEST_MSG_STORETIME = 32,
        /// One message by its place in the commit log.
        VIEW_MESSAGE_BY_ID = 33,
        /// Who this client is and what it consumes.
        HEART_BEAT = 34,
        /// This client leaves.
        UNREGISTER_CLIENT = 35,
        /// A consumer gives a message back for a later retry.
        CONSUMER_SEND_MSG_BACK = 36,
        /// Commit or roll back a half message.
        END_TRANSACTION = 37,
        /// The client ids of a consumer group.
        GET_CONSUMER_LIST_BY_GROUP = 38,
        /// From the broker: what became of this half message?
        CHECK_TRANSACTION_STATE = 39,
        /// From the broker: the members of a group changed.
        NOTIFY_CONSUMER_IDS_CHANGED = 40,
        /// Lock queues for ordered consumption.
        LOCK_BATCH_MQ = 41,
        /// Unlock queues.
        UNLOCK_BATCH_MQ = 42,
        /// Check a subscription before it is used.
        CHECK_CLIENT_CONFIG = 46,
        /// Put a name server configuration value.
        PUT_KV_CONFIG = 100,
        /// Get a name server configuration value.
        GET_KV_CONFIG = 101,
        /// The brokers and queues of a topic.
        GET_ROUTEINFO_BY_TOPIC = 105,
        /// The brokers of every cluster.
        GET_BROKER_CLUSTER_INFO = 106,
        /// Create or change a consumer group.
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP = 200,
        /// The connections of a consumer group.
        GET_CONSUMER_CONNECTION_LIST = 203,
        /// Delete a topic on a broker.
        DELETE_TOPIC_IN_BROKER = 215,
        /// From the broker: move a group's offsets.
        RESET_CONSUMER_CLIENT_OFFSET = 220,
        /// From the broker: a consumer's offsets.
        GET_CONSUMER_STATUS_FROM_CLIENT = 221,
        /// An operator moves a group's offsets.
        INVOKE_BROKER_TO_RESET_OFFSET = 222,
        /// An operator asks for the offsets of a group's consumers.
        INVOKE_BROKER_TO_GET_CONSUMER_STATUS = 223,
        /// From the broker: a consumer's inner state.
        GET_CONSUMER_RUNNING_INFO = 307,
        /// From the broker: consume this message now.
        CONSUME_MESSAGE_DIRECTLY = 309,
        /// Store one message, one-letter field names.
        SEND_MESSAGE_V2 = 310,
        /// Store many messages in one queue.
        SEND_BATCH_MESSAGE = 320,
        /// A reply to a request message, long field names.
        SEND_REPLY_MESSAGE = 324,
        /// A reply to a request message, one-letter field names.
        SEND_REPLY_MESSAGE_V2 = 325,
        /// From the broker: a reply to a request message.
        PUSH_REPLY_MESSAGE_TO_CLIENT = 326,
        /// Read messages of one queue without a group on the broker.
        LITE_PULL_MESSAGE = 361,
        /// Take a timer message back.
        RECALL_MESSAGE = 370,
        /// Ask the broker which queues are ours.
        QUERY_ASSIGNMENT = 400,
        /// Choose pull or pop for a group.
        SET_MESSAGE_REQUEST_MODE = 401,
        /// Take messages for a while.
        POP_MESSAGE = 200_050,
        /// A popped message is done.
        ACK_MESSAGE = 200_051,
        /// Keep a popped message longer, or give it back.
        CHANGE_MESSAGE_INVISIBLETIME = 200_053,
        /// Wait for messages without taking them.
        NOTIFICATION = 200_054,
        /// Many popped messages are done.
        BATCH_ACK_MESSAGE = 200_151,
    }
}

codes! {
    /// How a request ended. Java: `ResponseCode`, `RemotingSysResponseCode`.
    ResponseCode {
        /// Done.
        SUCCESS = 0,
        /// Any failure in the server.
        SYSTEM_ERROR = 1,
        /// The server has too much to do.
        SYSTEM_BUSY = 2,
        /// The server does not know this request.
        REQUEST_CODE_NOT_SUPPORTED = 3,
        /// Stored, but not flushed to disk in time.
        FLUSH_DISK_TIMEOUT = 10,
        /// Stored, but no replica is usable.
        SLAVE_NOT_AVAILABLE = 11,
        /// Stored, but no replica confirmed in time.
        FLUSH_SLAVE_TIMEOUT = 12,
        /// The message breaks a limit.
        MESSAGE_ILLEGAL = 13,
        /// The store is shut down, full or not writable.
        SERVICE_NOT_AVAILABLE = 14,
        /// The peer's version cannot do this.
        VERSION_NOT_SUPPORTED = 15,
        /// Refused by permission or authentication.
        NO_PERMISSION = 16,
        /// No such topic.
        TOPIC_NOT_EXIST = 17,
        /// No new message.
        PULL_NOT_FOUND = 19,
        /// Nothing matched so far; pull on from the new offset.
        PULL_RETRY_IMMEDIATELY = 20,
        /// The offset is outside the queue; a corrected one is given.
        PULL_OFFSET_MOVED = 21,
        /// Nothing found.
        QUERY_NOT_FOUND = 22,
        /// The filter expression does not parse.
        SUBSCRIPTION_PARSE_FAILED = 23,
        /// The broker does not know the group or its subscription.
        SUBSCRIPTION_NOT_EXIST = 24,
        /// The broker has an older subscription; its heartbeat is on the way.
        SUBSCRIPTION_NOT_LATEST = 25,
        /// No such consumer group.
        SUBSCRIPTION_GROUP_NOT_EXIST = 26,
        /// No compiled filter yet.
        FILTER_DATA_NOT_EXIST = 27,
        /// The compiled filter is older than the subscription.
        FILTER_DATA_NOT_LATEST = 28,
        /// An argument is out of range.
        INVALID_PARAMETER = 29,
        /// No buyer id (legacy).
        NO_BUYER_ID = 204,
        /// Not served by this unit.
        NOT_IN_CURRENT_UNIT = 205,
        /// No member of the group is connected.
        CONSUMER_NOT_ONLINE = 206,
        /// The client took too long over a forwarded request.
        CONSUME_MSG_TIMEOUT = 207,
        /// No message.
        NO_MESSAGE = 208,
        /// Too many requests are held.
        POLLING_FULL = 209,
        /// A held request ended without a message.
        POLLING_TIMEOUT = 210,
        /// Slow down.
        FLOW_CONTROL = 215,
        /// The queue of a static topic moved.
        NOT_LEADER_FOR_QUEUE = 501,
        /// Too late, or a bad handle.
        ILLEGAL_OPERATION = 604,
        /// The server is shutting down and did not do what was asked: ask again on a fresh connection.
        GO_AWAY = 1500,
    }
}

/// The language a peer is written in, by its number. Java: `LanguageCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LanguageCode(pub u8);

impl LanguageCode {
    /// Java.
    pub const JAVA: Self = Self(0);
    /// Rust, known to servers from 4.9.4 on.
    pub const RUST: Self = Self(12);
    /// A name this client does not know.
    pub const UNKNOWN: Self = Self(u8::MAX);

    /// The name as it stands in JSON.
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or("OTHER")
    }

    /// The language of a name; [`UNKNOWN`](Self::UNKNOWN) where there is none.
    pub fn from_name(name: &str) -> Self {
        let index = NAMES.iter().position(|known| *known == name);
        index.and_then(|index| u8::try_from(index).ok()).map_or(Self::UNKNOWN, Self)
    }
}

const NAMES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST",
    "NODE_JS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_prints_its_name_and_an_unknown_one_its_number() {
        assert_eq!(RequestCode::SEND_MESSAGE_V2.to_string(), "SEND_MESSAGE_V2 (310)");
        assert_eq!(ResponseCode(4711).to_string(), "4711");
        assert_eq!(ResponseCode::GO_AWAY, ResponseCode(1500));
    }

    #[test]
    fn languages_go_by_name_and_number() {
        assert_eq!(LanguageCode::from_name("RUST"), LanguageCode::RUST);
        assert_eq!(LanguageCode::RUST.name(), "RUST");
        assert_eq!(LanguageCode::from_name("KLINGON"), LanguageCode::UNKNOWN);
    }
}
