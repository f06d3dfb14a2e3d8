//! Receipt handles as users keep them: with the topic, and how much time is left.

use crate::Error;
use rocketmq_common::pop::{HandleError, ReceiptHandle};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// One delivery of a message, as long as it is not settled.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The topic it was popped from, as the wire knows it.
    pub(crate) topic: Arc<str>,
    pub(crate) handle: ReceiptHandle,
    /// When it is visible again for sure.
    pub(crate) expires: Instant,
}

impl Kept {
    /// One whose answer has just come: the broker's time has begun already.
    pub(crate) fn fresh(topic: Arc<str>, handle: ReceiptHandle) -> Self {
        let left = u64::try_from(handle.invisible_time_ms).unwrap_or(0);
        Self { topic, handle, expires: Instant::now() + Duration::from_millis(left).min(FAR_AWAY) }
    }

    /// Reads what `to_string` wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let too_short = || HandleError::Fields { count: text.split(' ').count() };
        let (handle, topic) = text.rsplit_once(' ').ok_or_else(too_short)?;
        let handle: ReceiptHandle = handle.parse()?;
        if handle.to_string().len() + 1 + topic.len() != text.len() || topic.is_empty() {
            return Err(HandleError::Field { field: "topic" }.into());
        }
        let left = handle.expires_ms().saturating_sub(crate::subscriptions::now_ms());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(FAR_AWAY);
        Ok(Self { topic: topic.into(), handle, expires: Instant::now() + left })
    }

    pub(crate) fn has_expired(&self) -> bool {
        Instant::now() >= self.expires
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.handle, self.topic)
    }
}

const FAR_AWAY: Duration = Duration::from_secs(86_400 * 365);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_kept_with_its_topic() {
        let text = "10 9000000000000 60000 3 0 broker-a 1 12 NS%t";
        let kept = Kept::parse(text).unwrap();
        assert_eq!((&*kept.topic, kept.handle.offset, kept.to_string().as_str()), ("NS%t", 12, text));
        assert!(!kept.has_expired());
        assert!(Kept::parse("10 1700000000000 60000 3 0 broker-a 1 12 t").unwrap().has_expired());
    }

    #[test]
    fn what_is_no_handle_is_an_error() {
        let odd = [
            "",
            " ",
            "t",
            "10 9000000000000 60000 3 0 broker-a 1 12",
            "10 9000000000000 60000 3 0 broker-a 1 12 ",
            "10 9000000000000 60000 3 0 broker-a 1 12 more t",
            "+10 9000000000000 60000 3 0 broker-a 1 12 t",
            "10 9000000000000 60000 3 7 broker-a 1 12 t",
        ];
        for text in odd {
            assert!(matches!(Kept::parse(text), Err(Error::Handle(_))), "{text:?}");
        }
    }
}
