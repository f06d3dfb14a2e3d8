use crate::{RequestCode, ResponseCode, printable};
use std::{io, sync::Arc, time::Duration};

/// What went wrong with one call, or with the connection it needed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is not `host:port`.
    #[error("{addr:?} is not an address of the form host:port")]
    Address {
        /// The address as given.
        addr: Arc<str>,
    },
    /// No connection could be made.
    #[error("cannot connect to {addr}")]
    Connect {
        /// The peer.
        addr: Arc<str>,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The connection closed before the answer came.
    #[error("connection to {addr} closed")]
    Closed {
        /// The peer.
        addr: Arc<str>,
        /// Why; the same for every call that was waiting.
        #[source]
        cause: Arc<CloseCause>,
        /// Whether the request may have reached the peer.
        sent: bool,
    },
    /// No answer came before the deadline.
    #[error("no reply from {addr} to {code} in time")]
    TimedOut {
        /// The peer.
        addr: Arc<str>,
        /// What was asked.
        code: RequestCode,
    },
    /// The connection was made, but it was not ready when the deadline passed: the peer had not answered the heartbeat
    /// that is the first request on it. The call was never sent.
    #[error("connection to {addr} is not ready: the heartbeat on it was not answered in time")]
    NotReady {
        /// The peer.
        addr: Arc<str>,
    },
    /// The deadline had passed before the request was queued; it was never sent.
    #[error("{code} to {addr} was not sent: the deadline had passed")]
    DeadlinePassed {
        /// The peer.
        addr: Arc<str>,
        /// What was asked.
        code: RequestCode,
    },
    /// The deadline passed while the request waited for room on the connection; it was never sent.
    #[error("too many requests to {addr} in flight: {code} found no room in time")]
    NoRoom {
        /// The peer.
        addr: Arc<str>,
        /// What was asked.
        code: RequestCode,
    },
    /// The peer answered with an error code.
    #[error("{addr} answered {code}: {remark}{}", hint(*code))]
    Refused {
        /// The peer.
        addr: Arc<str>,
        /// The peer's code.
        code: ResponseCode,
        /// The peer's own words: [printable](crate::printable()), and shortened where they are very long.
        remark: String,
    },
    /// The request could not be written; nothing was sent.
    #[error("cannot encode {code}")]
    Encode {
        /// What was asked.
        code: RequestCode,
        /// Why.
        source: Arc<EncodeError>,
    },
    /// The answer came and could not be read.
    #[error("cannot read the reply of {addr} to {code}")]
    Decode {
        /// The peer.
        addr: Arc<str>,
        /// What was asked.
        code: RequestCode,
        /// Why.
        source: Arc<DecodeError>,
    },
}

impl Error {
    /// Whether another attempt, perhaps on another connection, may succeed.
    ///
    /// An answer with an error code is not judged here: which codes are worth a retry depends on what was asked.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Closed { .. }
            | Self::TimedOut { .. }
            | Self::NotReady { .. }
            | Self::DeadlinePassed { .. }
            | Self::NoRoom { .. } => true,
            Self::Refused { code, .. } => *code == ResponseCode::GO_AWAY,
            Self::Address { .. } | Self::Encode { .. } | Self::Decode { .. } => false,
        }
    }

    /// Whether the peer may have done what was asked, so that a retry could repeat it.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Decode { .. } => true,
            Self::Closed { sent, .. } => *sent,
            Self::Address { .. }
            | Self::Connect { .. }
            | Self::NotReady { .. }
            | Self::DeadlinePassed { .. }
            | Self::NoRoom { .. }
            | Self::Refused { .. }
            | Self::Encode { .. } => false,
        }
    }

    /// The code the peer answered, where it answered one.
    pub fn response_code(&self) -> Option<ResponseCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// What a code means beyond the words that come with it.
fn hint(code: ResponseCode) -> &'static str {
    if code == ResponseCode::REQUEST_CODE_NOT_SUPPORTED {
        " (the server does not know this request: it is older than the request, or a server of another kind)"
    } else {
        ""
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseCause {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The Tokio runtime that runs the connections of this client has ended.
    #[error("the runtime of the client has ended")]
    RuntimeEnded,
    /// The peer closed it.
    #[error("closed by the peer")]
    Peer,
    /// Reading or writing failed.
    #[error("input or output failed")]
    Io(#[from] io::Error),
    /// The peer sent what is no frame.
    #[error("the peer sent a broken frame")]
    Frame(#[from] DecodeError),
    /// Calls went unanswered and not a byte came for this long.
    #[error("the peer has been silent for {0:?} while calls waited")]
    Silent(Duration),
}

/// Why a frame or a part of it cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame's own length word is impossible.
    #[error("frame length {0} is negative or too small")]
    Length(i32),
    /// The frame is larger than this side accepts.
    #[error("frame of {length} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// The frame, its length word included.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The head is longer than its frame.
    #[error("head of {head} bytes in a frame of {frame}")]
    HeadLength {
        /// The head.
        head: usize,
        /// What the frame holds.
        frame: usize,
    },
    /// Neither JSON (0) nor binary (1).
    #[error("unknown head encoding {0}")]
    HeadEncoding(u8),
    /// The binary head does not hold what its lengths say.
    #[error("the binary head is cut or holds a bad length")]
    BinaryHead,
    /// An ext field is missing or unreadable.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// JSON that does not parse.
    #[error("JSON does not parse")]
    Json(#[from] JsonError),
    /// Reading failed while a frame was incomplete.
    #[error("reading failed")]
    Io(#[from] io::Error),
}

/// Why a command cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame would be larger than any peer accepts.
    #[error("frame of {length} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// The frame, its length word included.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The binary head has 16 bits for the code.
    #[error("code {0} does not fit the binary head")]
    CodeRange(i32),
    /// The binary head cannot hold an empty value: its reader would take it for an absent one.
    #[error("empty value of {name} cannot travel in a binary head")]
    EmptyValue {
        /// The field.
        name: String,
    },
    /// The body is not representable as JSON.
    #[error("body cannot be written as JSON")]
    Json(#[from] JsonError),
    /// Writing failed.
    #[error("writing failed")]
    Io(#[from] io::Error),
}

/// Why an ext field cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// It is not there and we cannot act without it.
    #[error("field {name} is missing")]
    Missing {
        /// The name on the wire.
        name: &'static str,
    },
    /// It is there and is no such value.
    #[error("field {name} is {value:?}, expected {expected}")]
    Invalid {
        /// The name on the wire.
        name: &'static str,
        /// The first 64 characters of what is there.
        value: String,
        /// What should be there.
        expected: &'static str,
    },
    /// The fields' lengths do not add up.
    #[error("the ext fields are cut, or not UTF-8")]
    Layout,
}

impl FieldError {
    /// A field that holds `value` where it should hold `expected`.
    pub fn invalid(name: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Invalid { name, value: value.chars().take(64).collect(), expected }
    }
}

/// What the JSON parser or writer said. It may quote what a peer sent.
#[derive(Debug, thiserror::Error)]
#[error("{}", printable(&.0.to_string()))]
pub struct JsonError(serde_json::Error);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_know_a_request_is_explained() {
        let refused = |code| Error::Refused { addr: "b:1".into(), code, remark: "no".to_owned() }.to_string();
        assert!(refused(ResponseCode::REQUEST_CODE_NOT_SUPPORTED).contains("does not know this request"));
        assert_eq!(refused(ResponseCode::SYSTEM_BUSY), "b:1 answered SYSTEM_BUSY (2): no");
    }

    #[test]
    fn what_the_json_parser_quotes_is_printable() {
        let error = serde_json::from_str::<u32>(&format!("\"{}\"", "x".repeat(10_000))).unwrap_err();
        assert!(JsonError::from(error).to_string().chars().count() < 1000);
    }
}
