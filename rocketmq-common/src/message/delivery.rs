//! Priorities of messages, and the delivery options that exclude each other.

use super::{Message, MessageError, property};

impl Message {
    /// Sets the priority; 0 is the lowest. Default none.
    ///
    /// Brokers from 5.4 on store the message in the queue with the number of the priority, or in their last queue if they have
    /// fewer; a queue chosen by the caller only selects the broker. Pop consumers receive higher queues first if the
    /// topic was created with the attribute `message.type=PRIORITY`.
    ///
    /// A producer refuses to send a message with a priority to an older broker (`Error::BrokerTooOld`), and together with a
    /// sharding key, a delay, a transaction or a batch: brokers would silently ignore the priority.
    ///
    /// ```
    /// use rocketmq_common::Message;
    ///
    /// let urgent = Message::new("alarms", "fire").priority(3);
    /// assert_eq!(urgent.properties().get("_SYS_MSG_PRIORITY_"), Some("3"));
    /// assert!(urgent.delay_level(1).validate(100).is_err());
    /// ```
    ///
    /// # Protocol
    /// `_SYS_MSG_PRIORITY_`; Java: `Message.setPriority`; broker 5.5.0: `SendMessageProcessor.sendMessage` and
    /// `TopicMessageType.parseFromMessageProperty`. Witness: test
    /// `send::a_priority_chooses_the_queue`.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.properties.set(property::PRIORITY, &priority.to_string());
        self
    }

    /// Checks that delay level, timer, sharding key and priority do not exclude each other.
    pub(super) fn check_delivery(&self) -> Result<(), MessageError> {
        let (level, has_timer) = (self.properties.delay_level(), self.properties.has_timer());
        if level < 0 {
            return Err(MessageError::NegativeDelayLevel { level });
        }
        if level > 0 && has_timer {
            return Err(MessageError::DelayLevelAndTimer { level });
        }
        if self.properties.get(property::PRIORITY).is_none() {
            return Ok(());
        }
        if self.properties.sharding_key().is_some() {
            return Err(MessageError::PriorityWith { with: "a sharding key" });
        }
        if level > 0 || has_timer {
            return Err(MessageError::PriorityWith { with: "a delay" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_priority_that_brokers_would_ignore_is_refused() {
        let urgent = || Message::new("t", "body").priority(2);
        assert_eq!(urgent().validate(100), Ok(()));
        let day = Duration::from_secs(86_400);
        let by_key = urgent().sharding_key("k").validate(100);
        assert_eq!(by_key, Err(MessageError::PriorityWith { with: "a sharding key" }));
        for delayed in [urgent().delay_level(1), urgent().deliver_after(day), urgent().deliver_at(UNIX_EPOCH)] {
            assert_eq!(delayed.validate(100), Err(MessageError::PriorityWith { with: "a delay" }));
        }
        assert_eq!(urgent().delay_level(0).validate(100), Ok(()));
        assert_eq!(Message::new("t", "body").sharding_key("k").validate(100), Ok(()));
    }
}
