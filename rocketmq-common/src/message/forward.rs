//! Messages that are sent on: what was received, as a message to send.

use super::{Message, StoredMessage, properties::is_reserved, property};

impl StoredMessage {
    /// Makes a message to send of a received one: with its topic, body, tag, keys, flag, sharding key and the user's own
    /// properties. What clients and brokers have added is left out, such as the unique id, the marks of retries and
    /// transactions, and receipt handles: the new message has its own. A delay and a priority are left out, too.
    ///
    /// Text that is not UTF-8 is sent on with U+FFFD in its place. The body of a message that cannot be decoded is sent on as
    /// it is stored.
    ///
    /// ```
    /// use rocketmq_common::{Message, StoredMessage};
    ///
    /// fn archived(message: &StoredMessage) -> Message {
    ///     message.to_message().with_topic("archive").property("archived-from", message.topic())
    /// }
    /// ```
    ///
    /// # Protocol
    /// Java has no such method; its users copy tags, keys, body and the properties they know.
    pub fn to_message(&self) -> Message {
        let mut message = Message::new(self.topic(), self.body().clone()).flag(self.flag());
        for (name, value) in self.properties() {
            if matches!(name, property::TAGS | property::KEYS) || !is_of_one_delivery(name) {
                message.properties_mut().set(name, value);
            }
        }
        message
    }
}

/// Whether a property is of the stored message and not of a copy of it.
fn is_of_one_delivery(name: &str) -> bool {
    is_reserved(name)
        || name.starts_with(property::TRANSIENT_PREFIX)
        || matches!(
            name,
            property::TRANSACTION_ID
                | property::TRANSACTION_CHECK_TIMES
                | property::CHECK_IMMUNITY_TIME_IN_SECONDS
                | property::INNER_NUM
                | property::INNER_BASE
                | property::INNER_MULTI_DISPATCH
                | property::FORWARD_QUEUE_ID
                | property::REDIRECT
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DecodeLimits, Record, decode_records};
    use bytes::BytesMut;

    fn stored(properties: &str) -> StoredMessage {
        let host = "127.0.0.1:10911".parse().unwrap();
        let record = Record {
            topic: "t",
            queue_id: 1,
            queue_offset: 2,
            commit_log_offset: 3,
            flag: 7,
            sys_flag: 0x8,
            born_timestamp_ms: 4,
            born_host: host,
            store_timestamp_ms: 5,
            store_host: host,
            reconsume_times: 3,
            prepared_transaction_offset: 9,
            body: b"body",
            properties,
        };
        let mut bytes = BytesMut::new();
        record.encode(&mut bytes).unwrap();
        decode_records(bytes.freeze(), &"t".into(), &"b".into(), DecodeLimits::default()).next().unwrap().unwrap()
    }

    #[test]
    fn what_the_user_set_is_sent_on_and_what_brokers_added_is_not() {
        let own = "TAGS\u{1}eu\u{2}KEYS\u{1}k1 k2\u{2}colour\u{1}blue\u{2}__SHARDINGKEY\u{1}user-7\u{2}";
        let added = [
            "UNIQ_KEY",
            "RETRY_TOPIC",
            "ORIGIN_MESSAGE_ID",
            "DELAY",
            "REAL_TOPIC",
            "MIN_OFFSET",
            "MAX_OFFSET",
            "CLUSTER",
            "MSG_REGION",
            "TRACE_ON",
            "POP_CK",
            "1ST_POP_TIME",
            "CORRELATION_ID",
            "TRAN_MSG",
            "PGROUP",
            "__transactionId__",
            "TIMER_DELIVER_MS",
            "_SYS_MSG_PRIORITY_",
            "TIMER_OUT_MS",
            "__CRC32#",
            "DLQ_ORIGIN_TOPIC",
            "__RMQ.TRANSIENT.TOPIC_SYS_FLAG",
            "INNER_NUM",
            "WAIT",
        ];
        let added: String = added.iter().map(|name| format!("{name}\u{1}1\u{2}")).collect();
        let message = stored(&format!("{added}{own}")).to_message();
        assert_eq!((message.topic(), &message.body()[..], message.flag_bits()), ("t", &b"body"[..], 7));
        assert_eq!(message.properties().as_str(), own);
        assert!(message.validate(1000).is_ok());
        assert_eq!(message.with_topic("u").topic(), "u");
    }

    #[test]
    fn an_id_with_control_characters_is_escaped_where_it_is_printed() {
        let message = stored("UNIQ_KEY\u{1}x\n\u{1b}[2J\u{2}");
        assert_eq!(message.message_id(), "x\n\u{1b}[2J");
        assert_eq!(message.printable_id(), "x\\n\\u{1b}[2J");
        assert!(!format!("{message:?}").contains(['\n', '\u{1b}']), "{message:?}");
        let error = message.reply("42").unwrap_err();
        assert!(!error.to_string().contains(['\n', '\u{1b}']), "{error}");
        assert!(stored("").printable_id().starts_with("7F000001"));
    }
}
