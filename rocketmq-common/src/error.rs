use crate::{
    NameError,
    message::{CorruptRecord, RecordError},
    resolver::ResolveError,
};
use rocketmq_remote::ResponseCode;
use std::sync::Arc;

/// What went wrong between a client and its cluster.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option cannot work.
    #[error("option {option} {message}")]
    Config {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        message: &'static str,
    },
    /// The option `name_servers`, or where it comes from, holds no address at all but this text, among others perhaps.
    #[error("{text:?} in option name_servers is not an address of the form host:port")]
    NameServerAddress {
        /// The first text that is no address.
        text: Arc<str>,
    },
    /// A topic or group name breaks the rules.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The resolver did not tell where the name servers are.
    #[error("the addresses of the name servers cannot be told")]
    NameServersUnknown {
        /// Why.
        source: ResolveError,
    },
    /// No name server answered.
    #[error("no name server answered (asked {}){}", list(asked), not_a_name_server(source))]
    NoNameServer {
        /// The addresses, in the order in which they were asked.
        asked: Vec<Arc<str>>,
        /// What the last of them came to.
        source: rocketmq_remote::Error,
    },
    /// No name server knows the topic, and none may be created after `TBW102`.
    #[error("topic {topic} does not exist")]
    TopicNotFound {
        /// The topic.
        topic: Arc<str>,
    },
    /// No route mentions a broker of that name, or none of its replicas will do.
    #[error("no address of broker {broker_name} is known")]
    BrokerNotFound {
        /// The broker's name.
        broker_name: Arc<str>,
    },
    /// So many requests of this client wait for their replies that no further one is taken.
    #[error("{limit} requests wait for their replies already")]
    TooManyRequests {
        /// How many may wait.
        limit: usize,
    },
    /// A reply came and cannot be read.
    #[error("the reply cannot be read")]
    UnreadableReply {
        /// Why.
        source: Arc<UnreadableReply>,
    },
    /// A request failed.
    #[error(transparent)]
    Remote(#[from] rocketmq_remote::Error),
    /// The client has been shut down, or the runtime in which it was started has ended.
    #[error("the client has been shut down")]
    ShutDown,
}

impl Error {
    /// Whether another attempt, perhaps on another broker, may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Remote(error) => error.is_retryable(),
            Self::NameServersUnknown { .. }
            | Self::NoNameServer { .. }
            | Self::BrokerNotFound { .. }
            | Self::TooManyRequests { .. } => true,
            Self::Config { .. }
            | Self::NameServerAddress { .. }
            | Self::Name(_)
            | Self::TopicNotFound { .. }
            | Self::UnreadableReply { .. }
            | Self::ShutDown => false,
        }
    }

    /// Whether the broker may have done what was asked, so that a retry could repeat it.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Remote(error) => error.may_have_happened(),
            Self::UnreadableReply { .. } => true,
            _ => false,
        }
    }

    /// The code the peer answered, where it answered one.
    pub fn response_code(&self) -> Option<ResponseCode> {
        match self {
            Self::Remote(error) => error.response_code(),
            _ => None,
        }
    }
}

/// Why a reply cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableReply {
    /// A field is larger than any that brokers store.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The body cannot be decompressed.
    #[error(transparent)]
    Corrupt(#[from] CorruptRecord),
}

/// Brokers do not know the requests of name servers.
fn not_a_name_server(error: &rocketmq_remote::Error) -> &'static str {
    if error.response_code() == Some(ResponseCode::REQUEST_CODE_NOT_SUPPORTED) {
        ": what answers there is not a name server but perhaps a broker; name servers usually listen on port 9876"
    } else {
        ""
    }
}

fn list(addresses: &[Arc<str>]) -> String {
    addresses.join(", ")
}
