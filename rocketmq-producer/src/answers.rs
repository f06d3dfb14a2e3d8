//! What the answers of brokers to a send mean.

use rocketmq_common::remote::ResponseCode;

/// Answers that say: stored, but not as safely as asked for.
pub(crate) const NOT_SAFE: [ResponseCode; 3] =
    [ResponseCode::FLUSH_DISK_TIMEOUT, ResponseCode::FLUSH_SLAVE_TIMEOUT, ResponseCode::SLAVE_NOT_AVAILABLE];

/// Whether an answer says that the route by which this was sent is old: the queue is on another broker, or is no more; the
/// topic may not be written, or does not exist.
///
/// # Protocol
/// INVALID_PARAMETER (29) is the answer to a queue id that is too large; a bad topic name, the other reason for it, is
/// refused before anything is sent.
pub(crate) fn is_refusal_of_route(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::NOT_LEADER_FOR_QUEUE
            | ResponseCode::INVALID_PARAMETER
            | ResponseCode::NO_PERMISSION
            | ResponseCode::TOPIC_NOT_EXIST
    )
}

/// Answers after which a later send of the same message may succeed.
pub(crate) const RETRYABLE: [ResponseCode; 7] = [
    ResponseCode::NOT_LEADER_FOR_QUEUE,
    ResponseCode::INVALID_PARAMETER,
    ResponseCode::SYSTEM_ERROR,
    ResponseCode::SYSTEM_BUSY,
    ResponseCode::SERVICE_NOT_AVAILABLE,
    ResponseCode::FLOW_CONTROL,
    ResponseCode::GO_AWAY,
];
