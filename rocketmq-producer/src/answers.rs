//! What the answers of brokers to a send mean.

use rocketmq_common::{
    Error as ClientError,
    remote::{Error as RemoteError, ResponseCode},
};

/// Answers that say: stored, but not as safely as asked for.
pub(crate) const NOT_SAFE: [ResponseCode; 3] =
    [ResponseCode::FLUSH_DISK_TIMEOUT, ResponseCode::FLUSH_SLAVE_TIMEOUT, ResponseCode::SLAVE_NOT_AVAILABLE];

/// Whether a broker's answer says that the route by which this was sent is old: the queue is on another broker, or is no
/// more; the topic may not be written, or does not exist.
///
/// # Protocol
/// A queue id that is too large is answered with INVALID_PARAMETER (29) by 5.5.0; a bad topic name, the other reason for
/// that code, is refused before anything is sent. 4.9.7 answers SYSTEM_ERROR: "request queueId[2] is illegal, ...".
pub(crate) fn is_refusal_of_route(error: &ClientError) -> bool {
    let ClientError::Remote(RemoteError::Refused { code, remark, .. }) = error else { return false };
    match *code {
        ResponseCode::NOT_LEADER_FOR_QUEUE
        | ResponseCode::INVALID_PARAMETER
        | ResponseCode::NO_PERMISSION
        | ResponseCode::TOPIC_NOT_EXIST => true,
        ResponseCode::SYSTEM_ERROR => remark.contains("request queueId[") && remark.contains("is illegal"),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_no_more_is_told_by_code_or_in_words() {
        let refuses_route = |code, remark: &str| {
            let refused = RemoteError::Refused { addr: "a:1".into(), code, remark: remark.to_owned() };
            is_refusal_of_route(&refused.into())
        };
        let old = "request queueId[2] is illegal, TopicConfig [topicName=t, readQueueNums=1]";
        assert!(refuses_route(ResponseCode::SYSTEM_ERROR, old));
        assert!(refuses_route(ResponseCode::INVALID_PARAMETER, old));
        assert!(refuses_route(ResponseCode::TOPIC_NOT_EXIST, ""));
        assert!(!refuses_route(ResponseCode::SYSTEM_ERROR, "store failed"));
        assert!(!refuses_route(ResponseCode::SYSTEM_BUSY, old));
    }
}
