//! What a message may need of its broker, and brokers of some versions or settings leave out without a word.

use crate::{Error, producer::Shared};
use rocketmq_common::{
    Error as ClientError,
    message::{Properties, property},
    remote::{Connection, Deadline, Error as RemoteError, ResponseCode},
};
use std::sync::Arc;

/// What a message needs of its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Delivery at a time.
    Timer,
    /// The choice of the queue by the priority.
    Priority,
}

impl Feature {
    /// What a message with these properties needs, if anything.
    pub(crate) fn of(properties: &Properties) -> Option<Self> {
        if properties.has_timer() {
            return Some(Self::Timer);
        }
        properties.get(property::PRIORITY).map(|_| Self::Priority)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Timer => "timer messages",
            Self::Priority => "priorities",
        }
    }

    /// The first version that has it: as one says it, and as brokers report it in their answers.
    ///
    /// # Protocol
    /// The ordinals of `MQVersion.Version`; 4.9.7 reports 407, 5.5.0 reports 513.
    fn since(self) -> (&'static str, i32) {
        match self {
            Self::Timer => ("5.0.0", 413),
            Self::Priority => ("5.4.0", 493),
        }
    }

    /// # Errors
    /// [`Error::BrokerTooOld`].
    fn check(self, broker_name: &Arc<str>, version: Option<i32>) -> Result<(), Error> {
        let (since, first) = self.since();
        match version {
            Some(version) if version < first => {
                Err(Error::BrokerTooOld { broker_name: broker_name.clone(), feature: self.name(), since, version })
            }
            _ => Ok(()),
        }
    }

    /// Checks the version of the broker behind `connection`; one that reports none is trusted.
    ///
    /// # Errors
    /// [`Error::BrokerTooOld`].
    pub(crate) async fn ensure(
        self,
        producer: &Shared,
        (broker_name, addr): (&Arc<str>, &Arc<str>),
        connection: &Connection,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let mut version = connection.peer_version();
        if version.is_none() {
            // The VIP channel may have answered nothing yet; the other connection has, to the first heartbeat.
            let usual = producer.client.broker(addr, deadline).await;
            version = usual.ok().and_then(|connection| connection.peer_version());
        }
        self.check(broker_name, version)
    }

    /// The error that a broker's refusal comes to, where it says that the broker does without this.
    pub(crate) fn refusal(self, broker_name: &Arc<str>, error: &ClientError) -> Option<Error> {
        match (self, error) {
            (Self::Timer, ClientError::Remote(RemoteError::Refused { code, remark, .. }))
                if *code == ResponseCode::SYSTEM_ERROR && remark.contains(WHEEL_OFF) =>
            {
                Some(Error::TimerDisabled { broker_name: broker_name.clone(), source: error.clone() })
            }
            _ => None,
        }
    }
}

/// Of the answer to a timer message where the timer wheel is off; the code is that of many other failures.
///
/// # Protocol
/// `SendMessageProcessor` of 5.5.0: "accurate timer message is not enabled, timerWheelEnable is false".
const WHEEL_OFF: &str = "timer message is not enabled";

#[cfg(test)]
mod tests {
    use super::*;
    use rocketmq_common::Message;

    #[test]
    fn a_broker_before_5_cannot_deliver_at_a_time() {
        let (broker_name, timer) = (Arc::from("broker-a"), Feature::Timer);
        for version in [None, Some(413), Some(479), Some(513)] {
            assert!(timer.check(&broker_name, version).is_ok(), "{version:?}");
        }
        let error = timer.check(&broker_name, Some(407)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "broker broker-a has no timer messages: they came with RocketMQ 5.0.0, it reports version 407"
        );
        assert!(!error.is_retryable() && !error.may_have_happened());
    }

    #[test]
    fn a_broker_before_5_4_ignores_priorities() {
        let of = |message: Message| Feature::of(message.properties());
        let priority = of(Message::new("t", "b").priority(0)).unwrap();
        assert_eq!((priority, of(Message::new("t", "b"))), (Feature::Priority, None));
        for version in [None, Some(493), Some(513)] {
            assert!(priority.check(&"broker-a".into(), version).is_ok(), "{version:?}");
        }
        let error = priority.check(&"broker-a".into(), Some(479)).unwrap_err();
        assert!(matches!(error, Error::BrokerTooOld { since: "5.4.0", version: 479, .. }), "{error:?}");
    }

    #[test]
    fn only_the_refusal_of_timer_messages_is_permanent() {
        let refusal = |code, remark: &str| {
            let refused = RemoteError::Refused { addr: "a:1".into(), code, remark: remark.to_owned() };
            Feature::Timer.refusal(&"broker-a".into(), &refused.into())
        };
        let off = "accurate timer message is not enabled, timerWheelEnable is false";
        assert!(matches!(refusal(ResponseCode::SYSTEM_ERROR, off), Some(Error::TimerDisabled { .. })));
        let busy = "timer message is under flow control, max num limit is 1";
        assert!(refusal(ResponseCode::SYSTEM_ERROR, busy).is_none());
        assert!(refusal(ResponseCode::SYSTEM_BUSY, off).is_none());
    }
}
