//! Replies to requests: messages that say which request they answer, and who made it.

use super::{Message, MessageError, StoredMessage, names::reply_topic, property};
use bytes::Bytes;

/// The value of [`property::MSG_TYPE`] on a reply.
pub(super) const REPLY: &str = "reply";

impl StoredMessage {
    /// Whether who sent it waits for a reply.
    pub fn wants_reply(&self) -> bool {
        self.property(property::CORRELATION_ID).is_some() && self.property(property::REPLY_TO_CLIENT).is_some()
    }

    /// Makes the reply to a request, for any producer to send. Tag, keys and properties may be added to it.
    ///
    /// It is a message like another, so that who consumes needs no more than a producer to reply, and the producer's
    /// attempts, compression and errors are those of every message.
    ///
    /// ```
    /// use rocketmq_common::{Message, MessageError, StoredMessage};
    ///
    /// fn answer(question: &StoredMessage) -> Result<Message, MessageError> {
    ///     Ok(question.reply("42")?.property("unit", "none"))
    /// }
    /// ```
    ///
    /// # Errors
    /// [`MessageError::NotARequest`] for a message whose sender waits for none.
    ///
    /// # Protocol
    /// Java: `MessageUtil.createReplyMessage`. Witness: golden `send_reply_v2_request`, tests `request::*`.
    pub fn reply(&self, body: impl Into<Bytes>) -> Result<Message, MessageError> {
        let needed = |missing| {
            let not_a_request = || MessageError::NotARequest { message_id: self.printable_id(), missing };
            self.property(missing).ok_or_else(not_a_request)
        };
        let (correlation_id, client) = (needed(property::CORRELATION_ID)?, needed(property::REPLY_TO_CLIENT)?);
        let mut reply = Message::new(reply_topic(needed(property::CLUSTER)?), body);
        let properties = reply.properties_mut();
        properties.set(property::MSG_TYPE, REPLY);
        properties.set(property::CORRELATION_ID, correlation_id);
        properties.set(property::REPLY_TO_CLIENT, client);
        if let Some(ttl) = self.property(property::TTL) {
            properties.set(property::TTL, ttl);
        }
        reply.asked_by = Some(self.broker_name().clone());
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DecodeLimits, Record, decode_records};
    use bytes::BytesMut;

    fn stored(properties: &str) -> StoredMessage {
        let host = ([127, 0, 0, 1], 1).into();
        let record = Record {
            topic: "t",
            queue_id: 0,
            queue_offset: 0,
            commit_log_offset: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: host,
            store_timestamp_ms: 0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"question",
            properties,
        };
        let mut bytes = BytesMut::new();
        record.encode(&mut bytes).unwrap();
        decode_records(bytes.freeze(), &"t".into(), &"b".into(), DecodeLimits::default()).next().unwrap().unwrap()
    }

    #[test]
    fn a_reply_says_what_it_answers() {
        let request = stored("CORRELATION_ID\u{1}c\u{2}REPLY_TO_CLIENT\u{1}me@1\u{2}TTL\u{1}9\u{2}CLUSTER\u{1}C\u{2}");
        assert!(request.wants_reply());
        let reply = request.reply("answer").unwrap().tag("a");
        assert_eq!((reply.topic(), reply.is_reply()), ("C_REPLY_TOPIC", true));
        assert_eq!(reply.asked_by().map(|name| &**name), Some("b"));
        let pairs: Vec<_> = reply.properties().iter().collect();
        let copied = [("CORRELATION_ID", "c"), ("REPLY_TO_CLIENT", "me@1"), ("TTL", "9")];
        assert_eq!(pairs, [&[("MSG_TYPE", "reply")], &copied[..], &[("TAGS", "a")]].concat());
        assert_eq!(reply.validate(100), Ok(()));
    }

    #[test]
    fn a_message_that_asks_for_no_reply_gets_none() {
        let missing = |properties: &str| match stored(properties).reply("answer") {
            Err(MessageError::NotARequest { missing, .. }) => missing,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(""), "CORRELATION_ID");
        assert_eq!(missing("CORRELATION_ID\u{1}c\u{2}"), "REPLY_TO_CLIENT");
        assert_eq!(missing("CORRELATION_ID\u{1}c\u{2}REPLY_TO_CLIENT\u{1}me@1\u{2}"), "CLUSTER");
        assert!(!stored("CORRELATION_ID\u{1}c\u{2}").wants_reply());
    }
}
