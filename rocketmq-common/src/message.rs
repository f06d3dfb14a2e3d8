//! Messages: what is sent, what is received, and how both travel.

pub mod batch;
mod delivery;
mod error;
mod forward;
pub mod id;
#[cfg(feature = "json")]
mod json_body;
pub mod layout;
pub mod names;
pub mod properties;
mod queue;
mod record;
mod reply;
mod stored;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

pub use batch::{BatchItem, BatchItems, check_batch, decode_batch, encode_batch};
pub use error::MessageError;
pub use id::{OffsetId, OffsetIdError, UniqueIdGenerator, local_ip};
pub use layout::{CorruptCause, CorruptRecord, DecodeLimits, Records, decode_records};
pub use names::{NameError, NameKind};
pub use properties::{Properties, property};
pub use queue::MessageQueue;
pub use record::{Record, RecordError};
pub use stored::StoredMessage;

/// Longest property text a user may send, in bytes: what a broker stores (32,767) less 512 for what it adds.
///
/// With default names these are `MSG_REGION`, `TRACE_ON`, `CLUSTER`, `UNIQ_KEY`, `WAIT` and the checksum (160 bytes),
/// `REAL_TOPIC` and `REAL_QID` of delayed messages (160), and the timer's own times (90); the rest is for longer names
/// of region and cluster.
pub const MAX_PROPERTIES_BYTES: usize = 32_767 - 512;

/// A message to send.
///
/// What is wrong with it shows when it is sent: the setters neither fail nor panic, they keep the first problem for
/// [`validate`](Self::validate).
///
/// ```
/// use std::time::Duration;
/// use rocketmq_common::message::Message;
///
/// let message = Message::new("order-created", "{\"id\":17}")
///     .tag("eu")
///     .key("o-17")
///     .property("currency", "EUR")
///     .deliver_after(Duration::from_secs(90));
/// assert_eq!(message.properties().tag(), Some("eu"));
/// assert!(message.validate(4 * 1024 * 1024).is_ok());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    topic: String,
    body: Bytes,
    flag: i32,
    properties: Properties,
    problem: Option<Box<MessageError>>,
    asked_by: Option<Arc<str>>,
}

impl Message {
    /// Creates a message without properties.
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            body: body.into(),
            flag: 0,
            properties: Properties::default(),
            problem: None,
            asked_by: None,
        }
    }

    /// Gives it another topic.
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = topic.into();
        self
    }

    /// Sets the tag, by which consumers filter. One with a `|` in it or with a blank at an end is an error when the
    /// message is sent: filters divide and trim what they name, so they could not name it.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<str>) -> Self {
        let tag = tag.as_ref();
        if tag.contains('|') || (tag.trim() != tag && !tag.trim().is_empty()) {
            self.note(MessageError::Tag { tag: tag.to_owned() });
        }
        self.system(property::TAGS, tag)
    }

    /// Adds an index key, by which brokers find the message. A key with a space in it is two keys.
    #[must_use]
    pub fn key(self, key: impl AsRef<str>) -> Self {
        self.keys([key])
    }

    /// Adds index keys.
    #[must_use]
    pub fn keys<K: AsRef<str>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        let mut all = self.properties.get(property::KEYS).unwrap_or_default().to_owned();
        for key in keys {
            let key = key.as_ref();
            if self.accepts(property::KEYS, key) {
                if !all.is_empty() {
                    all.push(' ');
                }
                all.push_str(key);
            }
        }
        if !all.is_empty() {
            self.properties.set(property::KEYS, &all);
        }
        self
    }

    /// Sets the flag: 32 bits for the user's own use, which consumers see unchanged. Default 0.
    #[must_use]
    pub fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// Sets a property of the user's own.
    #[must_use]
    pub fn property(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        if properties::is_reserved(name) {
            self.note(MessageError::ReservedProperty { name: name.to_owned() });
            return self;
        }
        self.system(name, value.as_ref())
    }

    /// Sets the key whose messages go to one queue and stay in order.
    #[must_use]
    pub fn sharding_key(self, key: impl AsRef<str>) -> Self {
        self.system(property::SHARDING_KEY, key.as_ref())
    }

    /// Delays delivery by one of the steps of the brokers' table: 1 s, 5 s, 10 s, 30 s, 1 to 10 min, 20 min, 30 min,
    /// 1 h, 2 h by default. Brokers take a level past their last as the last; 0 is no delay.
    #[must_use]
    pub fn delay_level(mut self, level: i32) -> Self {
        match level {
            ..0 => self.note(MessageError::NegativeDelayLevel { level }),
            0 => _ = self.properties.remove(property::DELAY),
            1.. => _ = self.properties.set(property::DELAY, &level.to_string()),
        }
        self
    }

    /// Delivers at that time, to the second, with brokers of 5.0 and later (a producer refuses to send it to others); at
    /// once where it has passed. Takes the place of [`deliver_after`](Self::deliver_after). At most 3 days by default.
    #[must_use]
    pub fn deliver_at(mut self, time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since_epoch) => self.timer(property::TIMER_DELIVER_MS, since_epoch),
            Err(_) => self.note(MessageError::DeliveryBeforeEpoch),
        }
        self
    }

    /// Delivers after that time, to the second, counted by the broker's clock, with brokers of 5.0 and later. Takes
    /// the place of [`deliver_at`](Self::deliver_at). Brokers refuse more than 3 days by default.
    #[must_use]
    pub fn deliver_after(mut self, delay: Duration) -> Self {
        self.timer(property::TIMER_DELAY_MS, delay);
        self
    }

    /// Sets whether the broker waits for disk and replicas, as it is configured to, before it answers. Default true.
    #[must_use]
    pub fn wait_store(mut self, wait: bool) -> Self {
        self.properties.set(property::WAIT, if wait { "true" } else { "false" });
        self
    }

    /// Keeps brokers from asking what became of a transaction before so much time has passed, in whole seconds. Without
    /// it, that is the broker's `transactionTimeOut`, 6 s by default.
    #[must_use]
    pub fn check_immunity(self, time: Duration) -> Self {
        self.system(property::CHECK_IMMUNITY_TIME_IN_SECONDS, &time.as_secs().to_string())
    }

    /// Delivers the message to light queues as well, with brokers that have `enableLmq` and `enableMultiDispatch`. Their
    /// names begin with `%LMQ%` and have neither a `/` nor a `,` in them.
    #[must_use]
    pub fn light_queues<Q: AsRef<str>>(self, names: impl IntoIterator<Item = Q>) -> Self {
        let names: Vec<Q> = names.into_iter().collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        self.system(property::INNER_MULTI_DISPATCH, &names.join(","))
    }

    /// Sets the unique id, which a producer else makes.
    #[must_use]
    pub fn unique_id(self, id: impl AsRef<str>) -> Self {
        self.system(property::UNIQ_KEY, id.as_ref())
    }

    /// Returns the name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Replaces the body, and returns the one it had.
    pub fn replace_body(&mut self, body: impl Into<Bytes>) -> Bytes {
        std::mem::replace(&mut self.body, body.into())
    }

    /// Returns the flag.
    pub fn flag_bits(&self) -> i32 {
        self.flag
    }

    /// Returns the properties.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Returns the properties to change them, those of the system too.
    pub fn properties_mut(&mut self) -> &mut Properties {
        &mut self.properties
    }

    /// Whether the message is a [reply](StoredMessage::reply).
    pub fn is_reply(&self) -> bool {
        self.properties.get(property::MSG_TYPE) == Some(reply::REPLY)
    }

    /// Returns the name of the broker that has the request, of a [reply](StoredMessage::reply): the one that surely
    /// knows who asked.
    pub fn asked_by(&self) -> Option<&Arc<str>> {
        self.asked_by.as_ref()
    }

    /// Checks what brokers would refuse, or store and never deliver.
    ///
    /// # Errors
    /// The first problem: of a setter, the topic, the body (1 to `max_body_bytes`), the properties (at most
    /// [`MAX_PROPERTIES_BYTES`]), the delay.
    ///
    /// # Protocol
    /// Java `Validators.checkMessage`, which leaves separators in properties and negative levels to luck.
    pub fn validate(&self, max_body_bytes: usize) -> Result<(), MessageError> {
        if let Some(problem) = &self.problem {
            return Err(MessageError::clone(problem));
        }
        names::check_topic(&self.topic).map_err(|source| MessageError::Topic { source })?;
        if names::is_forbidden_target(&self.topic) {
            return Err(MessageError::ForbiddenTopic { topic: self.topic.clone() });
        }
        if self.body.is_empty() {
            return Err(MessageError::EmptyBody);
        }
        if self.body.len() > max_body_bytes {
            return Err(MessageError::BodyTooLarge { size: self.body.len(), max: max_body_bytes });
        }
        if self.properties.len() > MAX_PROPERTIES_BYTES {
            return Err(MessageError::PropertiesTooLarge { size: self.properties.len(), max: MAX_PROPERTIES_BYTES });
        }
        if self.properties.get(property::INNER_MULTI_DISPATCH).is_some_and(|queues| queues.contains('/')) {
            return Err(MessageError::PathInDispatch);
        }
        self.check_delivery()
    }

    /// Sets one of the two timers, which exclude each other.
    fn timer(&mut self, name: &str, time: Duration) {
        // A broker adds a delay to its clock without a look at overflow; half of the range cannot.
        match i64::try_from(time.as_millis()) {
            Ok(ms) if ms <= i64::MAX / 2 => {
                self.properties.remove(property::TIMER_DELIVER_MS);
                self.properties.remove(property::TIMER_DELAY_MS);
                self.properties.set(name, &ms.to_string());
            }
            _ => self.note(MessageError::DeliveryTooLate { time }),
        }
    }

    fn system(mut self, name: &str, value: &str) -> Self {
        if self.accepts(name, value) {
            self.properties.set(name, value);
        }
        self
    }

    /// Whether a property can travel; if not, that is the message's problem.
    fn accepts(&mut self, name: &str, value: &str) -> bool {
        if name.trim().is_empty() {
            self.note(MessageError::BlankPropertyName);
        } else if value.trim().is_empty() {
            self.note(MessageError::BlankProperty { name: name.to_owned() });
        } else if properties::has_separator(name) || properties::has_separator(value) {
            self.note(MessageError::SeparatorInProperty { name: name.to_owned() });
        } else {
            return true;
        }
        false
    }

    fn note(&mut self, problem: MessageError) {
        self.problem.get_or_insert_with(|| Box::new(problem));
    }
}

/// Bodies are not shown: they are the user's.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("body_bytes", &self.body.len())
            .field("flag", &self.flag)
            .field("properties", &self.properties)
            .field("problem", &self.problem)
            .finish()
    }
}

/// Frames of real peers, for the tests of this layer.
#[cfg(test)]
pub(crate) mod goldens {
    use bytes::Bytes;

    macro_rules! goldens {
        ($($name:ident = $file:literal;)*) => {
            $(pub(crate) const $name: &str = include_str!(concat!("../tests/goldens/", $file, ".hex"));)*
        };
    }

    goldens! {
        CLUSTER_INFO = "cluster_info_reply_550";
        RESET_OFFSET = "reset_offset_reply_550";
        RUNNING_INFO = "running_info_reply_550";
    }

    #[cfg(all(feature = "zlib", feature = "lz4", feature = "zstd"))]
    goldens! {
        SEND_ZLIB = "send_v2_request_zlib_550";
        SEND_LZ4 = "send_v2_request_lz4_550";
        SEND_ZSTD = "send_v2_request_zstd_550";
    }

    goldens! {
        SEND_BATCH_550 = "send_batch_request_550";
        SEND_BATCH_497 = "send_batch_request_497";
        PULL_UNICODE_550 = "pull_reply_unicode_550";
        PULL_UNICODE_497 = "pull_reply_unicode_497";
        PULL_BATCH_550 = "pull_reply_batch_550";
        PULL_BATCH_497 = "pull_reply_batch_497";
        PULL_ORDERED_550 = "pull_reply_ordered_550";
        PULL_ORDERED_497 = "pull_reply_ordered_497";
        PULL_RETRY = "pull_reply_retry_550";
        PULL_BINARY_HEAD = "pull_reply_binary_497";
        POP = "pop_reply_550";
        CHECK_550 = "check_transaction_550";
        CHECK_497 = "check_transaction_497";
    }

    /// The bytes behind the first line of a golden.
    fn frame(golden: &str) -> Bytes {
        let digits: Vec<u8> = golden.lines().skip(1).flat_map(|line| line.trim().bytes()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// Splits a frame into its head and its body: length word, type and head length, head, body.
    fn split(golden: &str) -> (Bytes, Bytes) {
        let mut head = frame(golden).slice(8..);
        let word = |at: usize| u32::from_be_bytes(frame(golden)[at..at + 4].try_into().unwrap());
        assert_eq!(usize::try_from(word(0)).unwrap(), head.len() + 4);
        let body = head.split_off(usize::try_from(word(4) & 0x00FF_FFFF).unwrap());
        (head, body)
    }

    pub(crate) fn body(golden: &str) -> Bytes {
        split(golden).1
    }

    /// The head of a JSON frame, as text.
    pub(crate) fn head(golden: &str) -> serde_json::Value {
        serde_json::from_slice(&split(golden).0).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4 * 1024 * 1024;

    fn problem(message: Message) -> MessageError {
        message.validate(MAX).unwrap_err()
    }

    fn message() -> Message {
        Message::new("t", "body")
    }

    #[test]
    fn setters_write_the_properties_java_writes() {
        let message = message()
            .tag("eu")
            .key("k1")
            .keys(["k2", "k3"])
            .property("colour", "blue")
            .sharding_key("u-7")
            .delay_level(3)
            .wait_store(false)
            .unique_id("ID")
            .flag(7);
        let expected = [
            ("TAGS", "eu"),
            ("KEYS", "k1 k2 k3"),
            ("colour", "blue"),
            ("__SHARDINGKEY", "u-7"),
            ("DELAY", "3"),
            ("WAIT", "false"),
            ("UNIQ_KEY", "ID"),
        ];
        assert_eq!(message.properties().iter().collect::<Vec<_>>(), expected);
        assert_eq!((message.topic(), message.body().as_ref(), message.flag_bits()), ("t", b"body".as_slice(), 7));
        assert_eq!(message.validate(MAX), Ok(()));
        assert!(message.delay_level(0).properties().get("DELAY").is_none());
    }

    #[test]
    fn the_last_time_of_delivery_counts() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let at = message().deliver_after(Duration::from_secs(5)).deliver_at(time);
        assert_eq!(at.properties().iter().collect::<Vec<_>>(), [("TIMER_DELIVER_MS", "1700000000123")]);
        let after = at.deliver_after(Duration::from_millis(1500));
        assert_eq!(after.properties().iter().collect::<Vec<_>>(), [("TIMER_DELAY_MS", "1500")]);
        assert_eq!(after.validate(MAX), Ok(()));
    }

    #[test]
    fn a_property_that_cannot_travel_is_reported_when_sent() {
        let reserved = message().property("KEYS", "k");
        assert_eq!(problem(reserved), MessageError::ReservedProperty { name: "KEYS".into() });
        assert_eq!(problem(message().property(" ", "v")), MessageError::BlankPropertyName);
        for blank in [message().property("n", " "), message().tag(""), message().key("\t"), message().sharding_key("")]
        {
            assert!(matches!(problem(blank), MessageError::BlankProperty { .. }));
        }
        for tag in ["a|b", "a||b", " a", "a\t"] {
            let refused = message().tag(tag).validate(9);
            assert_eq!(refused, Err(MessageError::Tag { tag: tag.to_owned() }));
        }
        assert_eq!(message().tag("a b").validate(9), Ok(()));
        for split in [message().property("a\u{1}", "v"), message().tag("v\u{2}"), message().keys(["a", "b\u{1}"])] {
            assert!(matches!(problem(split), MessageError::SeparatorInProperty { .. }));
        }
    }

    #[test]
    fn the_first_problem_is_the_one_reported() {
        let message = Message::new("", "").property("KEYS", "k").tag("").delay_level(-1);
        assert_eq!(problem(message), MessageError::ReservedProperty { name: "KEYS".into() });
    }

    #[test]
    fn a_topic_that_cannot_be_sent_to_is_refused() {
        assert!(matches!(problem(Message::new("a b", "x")), MessageError::Topic { .. }));
        assert!(matches!(problem(Message::new("SCHEDULE_TOPIC_XXXX", "x")), MessageError::ForbiddenTopic { .. }));
    }

    #[test]
    fn sizes_are_limited() {
        assert_eq!(problem(Message::new("t", "")), MessageError::EmptyBody);
        assert_eq!(message().validate(4), Ok(()));
        assert_eq!(message().validate(3), Err(MessageError::BodyTooLarge { size: 4, max: 3 }));
        let value = |length: usize| "v".repeat(length);
        assert_eq!(message().property("n", value(MAX_PROPERTIES_BYTES - 3)).validate(MAX), Ok(()));
        let large = message().property("n", value(MAX_PROPERTIES_BYTES - 2));
        assert!(matches!(problem(large), MessageError::PropertiesTooLarge { .. }));
    }

    #[test]
    fn delays_that_make_no_sense_are_refused() {
        assert_eq!(problem(message().delay_level(-1)), MessageError::NegativeDelayLevel { level: -1 });
        let both = message().delay_level(19).deliver_after(Duration::from_secs(1));
        assert_eq!(problem(both), MessageError::DelayLevelAndTimer { level: 19 });
        let early = message().deliver_at(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(problem(early), MessageError::DeliveryBeforeEpoch);
        assert!(matches!(problem(message().deliver_after(Duration::MAX)), MessageError::DeliveryTooLate { .. }));
    }

    #[test]
    fn a_path_among_light_queues_is_refused() {
        assert_eq!(problem(message().property("INNER_MULTI_DISPATCH", "a/b")), MessageError::PathInDispatch);
    }

    #[test]
    fn a_debug_text_shows_no_body() {
        let text = format!("{:?}", Message::new("t", "secret").tag("eu"));
        assert!(
            text.contains("body_bytes: 6") && text.contains("\"TAGS\": \"eu\"") && !text.contains("secret"),
            "{text}"
        );
    }
}
