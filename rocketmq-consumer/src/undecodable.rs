//! Messages that cannot be decoded, as failures: no listener gets them.

use crate::{assigned::AssignedQueue, member::Member, outcome::Failed, outcome::Outcome};
use rocketmq_common::{
    StoredMessage,
    message::{CorruptCause, CorruptRecord},
};
use std::error::Error;

/// What a call with these messages comes to without being made; `None` where all are decoded.
pub(crate) fn failure_of(messages: &[StoredMessage]) -> Option<Box<Failed>> {
    let error = messages.iter().find_map(StoredMessage::decode_error)?;
    Outcome::failed(reason(error)).into_failed()
}

/// The error and all of its causes.
pub(crate) fn reason(error: &CorruptRecord) -> String {
    let mut reason = format!("cannot be decoded: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    reason
}

/// Whether a call is for this message alone: it cannot be decoded, or has yet to be decompressed.
pub(crate) fn is_alone(message: &StoredMessage) -> bool {
    message.decode_error().is_some() || message.is_compressed()
}

/// Whether the record itself is malformed. Sent anew it would be a well-formed message with the record for a body, so it can
/// only be a dead letter then.
pub(crate) fn is_malformed(message: &StoredMessage) -> bool {
    message
        .decode_error()
        .is_some_and(|error| !matches!(error.cause, CorruptCause::Decompress(_) | CorruptCause::UnknownCompression(_)))
}

impl Member {
    /// Counts a message that failed without a call.
    pub(crate) fn fail_undecoded(&self, queue: &AssignedQueue, messages: &[StoredMessage]) -> Option<Box<Failed>> {
        let failed = failure_of(messages)?;
        queue.meter.failed(messages.len());
        Some(failed)
    }
}
