//! Properties of a message: one string, looked up in place.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// Ends a name, begins its value.
const SEPARATOR: char = '\u{1}';
/// Ends a value.
const END: char = '\u{2}';
const SEPARATOR_BYTE: u8 = 1;
const END_BYTE: u8 = 2;

/// Names of properties which clients and brokers give a meaning to.
pub mod property {
    /// Index keys, joined with one space.
    pub const KEYS: &str = "KEYS";
    /// The tag.
    pub const TAGS: &str = "TAGS";
    /// `true` or `false`: whether the broker waits for disk and replicas as configured. Missing is `true`.
    pub const WAIT: &str = "WAIT";
    /// Delay level, 1 to 18 with the brokers' default table.
    pub const DELAY: &str = "DELAY";
    /// Original topic of a message to consume again.
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    /// Original topic of a delayed or half message.
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    /// Original queue id of a delayed or half message.
    pub const REAL_QID: &str = "REAL_QID";
    /// `true` on a half message.
    pub const TRAN_MSG: &str = "TRAN_MSG";
    /// Producer group of a transaction.
    pub const PGROUP: &str = "PGROUP";
    /// Smallest offset of the queue when the message was pulled.
    pub const MIN_OFFSET: &str = "MIN_OFFSET";
    /// Largest offset of the queue when the message was pulled.
    pub const MAX_OFFSET: &str = "MAX_OFFSET";
    /// Of old clients, without meaning today.
    pub const BUYER_ID: &str = "BUYER_ID";
    /// Offset id of the first copy of a message that is consumed again.
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    /// The group that popped a message and did not acknowledge it, on its copy in the retry topic.
    pub const ORIGIN_GROUP: &str = "ORIGIN_GROUP";
    /// Of old brokers, without meaning today.
    pub const TRANSFER_FLAG: &str = "TRANSFER_FLAG";
    /// Of old brokers, without meaning today.
    pub const CORRECTION_FLAG: &str = "CORRECTION_FLAG";
    /// Of old brokers, without meaning today.
    pub const MQ2_FLAG: &str = "MQ2_FLAG";
    /// How often the message was consumed; travels in the send header of retry topics.
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    /// How often the message may be consumed; travels in the send header of retry topics.
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    /// Region id of the broker.
    pub const MSG_REGION: &str = "MSG_REGION";
    /// Whether the broker wants traces of the message.
    pub const TRACE_ON: &str = "TRACE_ON";
    /// Unique id, made by the client.
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    /// More of the unique id, of old clients.
    pub const EXTEND_UNIQ_INFO: &str = "EXTEND_UNIQ_INFO";
    /// When the consumer began with the message, in ms since the epoch.
    pub const CONSUME_START_TIME: &str = "CONSUME_START_TIME";
    /// Messages in an inner batch.
    pub const INNER_NUM: &str = "INNER_NUM";
    /// First offset of an inner batch.
    pub const INNER_BASE: &str = "INNER_BASE";
    /// Marks copies of replicated clusters.
    pub const DUP_INFO: &str = "DUP_INFO";
    /// Seconds during which a half message is not checked.
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    /// Queue offset of the first copy of a half message.
    pub const TRAN_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    /// Transaction id, the same as the unique id.
    pub const TRANSACTION_ID: &str = "__transactionId__";
    /// How often a half message was checked.
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    /// Namespace of the producer.
    pub const INSTANCE_ID: &str = "INSTANCE_ID";
    /// Pairs a request with its reply.
    pub const CORRELATION_ID: &str = "CORRELATION_ID";
    /// Client id of who asked.
    pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
    /// How long who asked waits for the reply, in ms.
    pub const TTL: &str = "TTL";
    /// `reply` on the answer to a request.
    pub const MSG_TYPE: &str = "MSG_TYPE";
    /// Cluster of the broker that stored the message.
    pub const CLUSTER: &str = "CLUSTER";
    /// When a reply reached who asked, in ms since the epoch.
    pub const ARRIVE_TIME: &str = "ARRIVE_TIME";
    /// When a reply left the broker, in ms since the epoch.
    pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
    /// Handle by which a popped message is acknowledged.
    pub const POP_CK: &str = "POP_CK";
    /// Offset within the handle of a popped message.
    pub const POP_CK_OFFSET: &str = "POP_CK_OFFSET";
    /// When the message was first popped, in ms since the epoch.
    pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
    /// How urgent the message is, from 0; higher is more urgent.
    pub const PRIORITY: &str = "_SYS_MSG_PRIORITY_";
    /// Key whose messages stay in order.
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    /// Queue id of a forwarded message.
    pub const FORWARD_QUEUE_ID: &str = "PROPERTY_FORWARD_QUEUE_ID";
    /// Marks a redirected message.
    pub const REDIRECT: &str = "REDIRECT";
    /// Further light queues the message goes to, joined with commas.
    pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
    /// Offsets in the further light queues.
    pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
    /// Context of a distributed trace.
    pub const TRACE_CONTEXT: &str = "TRACE_CONTEXT";
    /// Delay of a timer message, in seconds.
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    /// Delay of a timer message, in ms.
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    /// When a timer message is due, in ms since the epoch.
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    /// When a timer message entered the wheel, in ms since the epoch.
    pub const TIMER_ENQUEUE_MS: &str = "TIMER_ENQUEUE_MS";
    /// When a timer message left the wheel, in ms since the epoch.
    pub const TIMER_DEQUEUE_MS: &str = "TIMER_DEQUEUE_MS";
    /// How often a timer message went round the wheel.
    pub const TIMER_ROLL_TIMES: &str = "TIMER_ROLL_TIMES";
    /// When a timer message is due by the broker's reckoning, in ms since the epoch.
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    /// Delay level of a timer message.
    pub const TIMER_DELAY_LEVEL: &str = "TIMER_DELAY_LEVEL";
    /// Unique id of the timer message which this one deletes.
    pub const TIMER_DEL_UNIQKEY: &str = "TIMER_DEL_UNIQKEY";
    /// Host of the producer, where a message was stored on its behalf.
    pub const BORN_HOST: &str = "__BORNHOST";
    /// When the producer made the message, in ms since the epoch.
    pub const BORN_TIMESTAMP: &str = "BORN_TIMESTAMP";
    /// Original topic of a dead letter.
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    /// Message id of the message a dead letter was made of.
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    /// Checksum over the stored message.
    pub const CRC32: &str = "__CRC32#";
    /// Start of the names which consumers add and nobody stores.
    pub const TRANSIENT_PREFIX: &str = "__RMQ.TRANSIENT.";
    /// Flags of the topic, added by the consumer.
    pub const TRANSIENT_TOPIC_SYS_FLAG: &str = "__RMQ.TRANSIENT.TOPIC_SYS_FLAG";
    /// Flags of the group, added by the consumer.
    pub const TRANSIENT_GROUP_SYS_FLAG: &str = "__RMQ.TRANSIENT.GROUP_SYS_FLAG";
}

/// Whether users may not set a property of this name.
///
/// # Protocol
/// Java `MessageConst.STRING_HASH_SET`.
pub fn is_reserved(name: &str) -> bool {
    use property::*;
    matches!(
        name,
        KEYS | TAGS
            | PRIORITY
            | WAIT
            | DELAY
            | RETRY_TOPIC
            | REAL_TOPIC
            | REAL_QID
            | TRAN_MSG
            | PGROUP
            | MIN_OFFSET
            | MAX_OFFSET
            | BUYER_ID
            | ORIGIN_MESSAGE_ID
            | TRANSFER_FLAG
            | CORRECTION_FLAG
            | MQ2_FLAG
            | RECONSUME_TIME
            | MAX_RECONSUME_TIMES
            | MSG_REGION
            | TRACE_ON
            | UNIQ_KEY
            | EXTEND_UNIQ_INFO
            | CONSUME_START_TIME
            | DUP_INFO
            | TRAN_PREPARED_QUEUE_OFFSET
            | INSTANCE_ID
            | CORRELATION_ID
            | REPLY_TO_CLIENT
            | TTL
            | MSG_TYPE
            | CLUSTER
            | ARRIVE_TIME
            | PUSH_REPLY_TIME
            | POP_CK
            | POP_CK_OFFSET
            | FIRST_POP_TIME
            | INNER_MULTI_QUEUE_OFFSET
            | TIMER_DELAY_SEC
            | TIMER_DELAY_MS
            | TIMER_DELIVER_MS
            | TIMER_ENQUEUE_MS
            | TIMER_DEQUEUE_MS
            | TIMER_ROLL_TIMES
            | TIMER_OUT_MS
            | TIMER_DELAY_LEVEL
            | TIMER_DEL_UNIQKEY
            | BORN_HOST
            | BORN_TIMESTAMP
            | DLQ_ORIGIN_TOPIC
            | DLQ_ORIGIN_MESSAGE_ID
            | CRC32
    )
}

/// Finds the value of a property in the text in which properties travel; where a name occurs twice, the last wins.
///
/// # Protocol
/// `name 0x01 value 0x02` one after the other, where the last 0x02 may be missing; a piece without a name or without
/// a value counts as not there. Java `MessageDecoder.string2messageProperties`.
/// Witness: golden `pull_reply_unicode_497.hex`, test `properties_of_real_brokers_are_found`.
pub fn lookup<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.get(find(text.as_bytes(), name)?)
}

/// Iterates over the properties in the text in which they travel, in its order. Where a name occurs twice, both are
/// seen, and the last is the one that counts, as it does when they are collected into a map.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(END).filter_map(|piece| {
        let (name, value) = piece.split_once(SEPARATOR)?;
        (!name.is_empty() && !value.is_empty()).then_some((name, value))
    })
}

/// Splits the value of [`property::KEYS`] into keys.
pub fn split_keys(keys: &str) -> impl Iterator<Item = &str> {
    keys.split(' ').filter(|key| !key.is_empty())
}

/// Where the value of a property is. From the end, since the last of a name counts and the search may then stop.
fn find(text: &[u8], name: &str) -> Option<Range<usize>> {
    let name = name.as_bytes();
    if name.is_empty() || name.contains(&SEPARATOR_BYTE) {
        return None;
    }
    let mut end = text.len();
    loop {
        let start = text[..end].iter().rposition(|&byte| byte == END_BYTE).map_or(0, |at| at + 1);
        if let Some([SEPARATOR_BYTE, value @ ..]) = text[start..end].strip_prefix(name) {
            if !value.is_empty() {
                return Some(end - value.len()..end);
            }
        }
        end = start.checked_sub(1)?;
    }
}

/// Properties as they travel: one string, looked up in place, never parsed into a map.
///
/// ```
/// use rocketmq_common::message::Properties;
///
/// let mut properties = Properties::default();
/// properties.set("region", "eu");
/// assert_eq!(properties.get("region"), Some("eu"));
/// assert_eq!(properties.as_str(), "region\u{1}eu\u{2}");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(String);

impl Properties {
    /// Sets a property, in place of the one of that name, and says whether it did. A name or value that cannot travel
    /// (empty, or with a byte 0x01 or 0x02 in it) is not set, and removes the one that was there.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        self.remove(name);
        if !travels(name) || !travels(value) {
            return false;
        }
        if !self.0.is_empty() && !self.0.ends_with(END) {
            self.0.push(END);
        }
        // The first property makes room for those that most messages get: tag, keys, unique id.
        self.0.reserve((name.len() + value.len() + 2).max(if self.0.is_empty() { 120 } else { 0 }));
        self.0.push_str(name);
        self.0.push(SEPARATOR);
        self.0.push_str(value);
        self.0.push(END);
        true
    }

    /// Removes a property and says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let mut removed = false;
        while let Some(value) = find(self.0.as_bytes(), name) {
            let end = (value.end + 1).min(self.0.len());
            self.0.replace_range(value.start - name.len() - 1..end, "");
            removed = true;
        }
        removed
    }

    /// Returns the value of a property.
    pub fn get(&self, name: &str) -> Option<&str> {
        lookup(&self.0, name)
    }

    /// Iterates over names and values, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.0)
    }

    /// Returns the text in which they travel.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text in which they travel.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the length of the text in which they travel, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the tag.
    pub fn tag(&self) -> Option<&str> {
        self.get(property::TAGS)
    }

    /// Iterates over the index keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        split_keys(self.get(property::KEYS).unwrap_or_default())
    }

    /// Returns the unique id, made by the client.
    pub fn unique_id(&self) -> Option<&str> {
        self.get(property::UNIQ_KEY)
    }

    /// Returns the key whose messages stay in order.
    pub fn sharding_key(&self) -> Option<&str> {
        self.get(property::SHARDING_KEY)
    }

    /// Returns the delay level; 0, the default, is none.
    pub fn delay_level(&self) -> i32 {
        parse_level(self.get(property::DELAY))
    }

    /// Whether the broker waits for disk and replicas as configured. Default true.
    pub fn wait_store(&self) -> bool {
        self.get(property::WAIT).is_none_or(|value| value.eq_ignore_ascii_case("true"))
    }

    /// How far ahead of `now` the time of delivery of a timer message is; `None` where it has none that can be read.
    pub fn timer_delay(&self, now: SystemTime) -> Option<Duration> {
        if !self.as_str().contains("TIMER_DEL") {
            return None;
        }
        let number = |name| self.get(name).and_then(|text| text.parse::<u64>().ok());
        // In the order in which a broker looks at them.
        let after = number(property::TIMER_DELAY_SEC).map(Duration::from_secs);
        let after = after.or_else(|| number(property::TIMER_DELAY_MS).map(Duration::from_millis));
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = || number(property::TIMER_DELIVER_MS).map(Duration::from_millis);
        after.or_else(|| at().map(|at| at.saturating_sub(since_epoch)))
    }

    /// Whether the message has a time of delivery (not a delay level).
    pub fn has_timer(&self) -> bool {
        [property::TIMER_DELAY_SEC, property::TIMER_DELAY_MS, property::TIMER_DELIVER_MS]
            .into_iter()
            .any(|name| self.get(name).is_some())
    }
}

/// Whether a name or a value survives the trip in the text.
fn travels(text: &str) -> bool {
    !text.is_empty() && !text.contains([SEPARATOR, END])
}

/// Whether the text holds one of the two bytes that divide properties.
pub(super) fn has_separator(text: &str) -> bool {
    text.contains([SEPARATOR, END])
}

/// The delay level which the value of [`property::DELAY`] stands for; 0 is none.
pub(super) fn parse_level(value: Option<&str>) -> i32 {
    value.and_then(|level| level.parse().ok()).unwrap_or(0)
}

impl From<String> for Properties {
    /// Takes the text in which properties travel as it is.
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut properties = Self::default();
        for (name, value) in pairs {
            properties.set(name.as_ref(), value.as_ref());
        }
        properties
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The property text of a received message: a slice of the frame it came in.
///
/// Producers may write any bytes. What is not UTF-8 reads with U+FFFD in its place, as in Java, and the bytes stay as they
/// are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum SharedText {
    /// Found to be UTF-8 when it was made.
    Utf8(Bytes),
    Other(Arc<OtherText>),
}

#[derive(PartialEq, Eq)]
pub(super) struct OtherText {
    bytes: Bytes,
    readable: String,
}

impl SharedText {
    pub(super) fn new(bytes: Bytes) -> Self {
        match String::from_utf8_lossy(&bytes) {
            Cow::Borrowed(_) => Self::Utf8(bytes),
            Cow::Owned(readable) => Self::Other(Arc::new(OtherText { bytes, readable })),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Utf8(bytes) => std::str::from_utf8(bytes).expect("the text was checked when it was made"),
            Self::Other(text) => &text.readable,
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Utf8(bytes) => bytes,
            Self::Other(text) => &text.bytes,
        }
    }

    /// Searches the bytes, so that only the value is checked once more, not the whole text.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        match self {
            Self::Utf8(bytes) => {
                let value = &bytes[find(bytes, name)?];
                Some(std::str::from_utf8(value).expect("a piece of checked text between ASCII bytes is text"))
            }
            Self::Other(text) => lookup(&text.readable, name),
        }
    }

    /// The bytes of a value as they were written.
    pub(super) fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        let bytes = self.as_bytes();
        bytes.get(find(bytes, name)?)
    }
}

impl Default for SharedText {
    fn default() -> Self {
        Self::Utf8(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_of_a_name_wins() {
        let text = "a\u{1}1\u{2}b\u{1}2\u{2}a\u{1}3\u{2}";
        assert_eq!(lookup(text, "a"), Some("3"));
        assert_eq!(pairs(text).collect::<HashMap<_, _>>(), HashMap::from([("a", "3"), ("b", "2")]));
    }

    #[test]
    fn a_piece_without_name_or_value_is_not_there() {
        let text = "a\u{1}1\u{2}a\u{1}\u{2}\u{1}x\u{2}b\u{2}\u{2}cc\u{1}";
        assert_eq!(lookup(text, "a"), Some("1"));
        assert_eq!(lookup(text, ""), None);
        assert_eq!(lookup(text, "b"), None);
        assert_eq!(lookup(text, "cc"), None);
        assert_eq!(pairs(text).collect::<Vec<_>>(), [("a", "1")]);
    }

    #[test]
    fn the_last_end_mark_may_be_missing() {
        assert_eq!(lookup("a\u{1}1\u{2}bb\u{1}2", "bb"), Some("2"));
        let mut properties = Properties::from("a\u{1}1\u{2}bb\u{1}2".to_owned());
        properties.set("c", "3");
        assert_eq!(properties.as_str(), "a\u{1}1\u{2}bb\u{1}2\u{2}c\u{1}3\u{2}");
    }

    #[test]
    fn the_first_separator_ends_the_name() {
        assert_eq!(lookup("a\u{1}b\u{1}c\u{2}", "a"), Some("b\u{1}c"));
        assert_eq!(lookup("a\u{1}b\u{1}c\u{2}", "a\u{1}b"), None);
    }

    #[test]
    fn a_name_is_not_found_inside_another() {
        let text = "xTAGS\u{1}1\u{2}TAGSx\u{1}2\u{2}";
        assert_eq!(lookup(text, "TAGS"), None);
    }

    #[test]
    fn setting_replaces() {
        let mut properties = Properties::from_iter([("a", "1"), ("b", "2")]);
        assert!(properties.set("a", "3"));
        assert_eq!(properties.iter().collect::<Vec<_>>(), [("b", "2"), ("a", "3")]);
        assert!(properties.remove("b"));
        assert!(!properties.remove("b"));
        assert_eq!(properties.as_str(), "a\u{1}3\u{2}");
    }

    #[test]
    fn what_cannot_travel_is_not_set() {
        let mut properties = Properties::from_iter([("a", "1")]);
        for (name, value) in [("", "x"), ("b", ""), ("b\u{1}", "x"), ("b", "x\u{2}")] {
            assert!(!properties.set(name, value));
        }
        assert_eq!(properties.as_str(), "a\u{1}1\u{2}");
        assert!(!properties.set("a", ""));
        assert!(properties.is_empty());
    }

    #[test]
    fn typed_getters_have_the_defaults_of_java() {
        let none = Properties::default();
        assert_eq!((none.delay_level(), none.wait_store(), none.has_timer()), (0, true, false));
        assert_eq!((none.tag(), none.unique_id(), none.keys().count()), (None, None, 0));
        let some = Properties::from_iter([
            (property::DELAY, "3"),
            (property::WAIT, "false"),
            (property::KEYS, "k1  k2"),
            (property::TIMER_DELAY_SEC, "1"),
        ]);
        assert_eq!((some.delay_level(), some.wait_store(), some.has_timer()), (3, false, true));
        assert_eq!(some.keys().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(Properties::from_iter([(property::DELAY, "soon")]).delay_level(), 0);
    }

    #[test]
    fn names_of_the_system_are_reserved() {
        for name in ["KEYS", "UNIQ_KEY", "1ST_POP_TIME", "__CRC32#", "TIMER_DELIVER_MS", "_SYS_MSG_PRIORITY_"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["__SHARDINGKEY", "INNER_MULTI_DISPATCH", "__transactionId__", "keys", "colour"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_reads_with_replacements_and_keeps_its_bytes() {
        // "Beijing" and half a character more, in GBK: a separator behind such a byte still separates.
        let text =
            SharedText::new(Bytes::from_static(b"city\x01\xB1\xB1\xBE\xA9\xD6\x02TAGS\x01a\x02\xC3\xFB\x01x\x02"));
        assert_eq!(text.get("city"), Some("\u{FFFD}".repeat(5).as_str()));
        assert_eq!(text.get_bytes("city"), Some(&b"\xB1\xB1\xBE\xA9\xD6"[..]));
        assert_eq!((text.get("TAGS"), text.get_bytes("TAGS")), (Some("a"), Some(&b"a"[..])));
        let names: Vec<_> = pairs(text.as_str()).map(|(name, _)| name).collect();
        assert_eq!(names, ["city", "TAGS", "\u{FFFD}\u{FFFD}"]);
    }

    /// Rules 4.2, written the long way round.
    fn as_java_reads(text: &str) -> HashMap<&str, &str> {
        let mut map = HashMap::new();
        for piece in text.split('\u{2}') {
            let Some(at) = piece.find('\u{1}') else { continue };
            if piece.chars().count() >= 3 && at > 0 && at + 1 < piece.len() {
                map.insert(&piece[..at], &piece[at + 1..]);
            }
        }
        map
    }

    proptest! {
        #[test]
        fn any_text_reads_as_java_reads_it(text in "[ab\u{1}\u{2}é]{0,24}", name in "[abé\u{1}\u{2}]{0,3}") {
            let expected = as_java_reads(&text);
            prop_assert_eq!(lookup(&text, &name), expected.get(name.as_str()).copied());
            prop_assert_eq!(pairs(&text).collect::<HashMap<_, _>>(), expected);
            let shared = SharedText::new(Bytes::from(text.clone()));
            prop_assert_eq!(shared.get(&name), lookup(&text, &name));
            prop_assert_eq!(shared.get_bytes(&name), lookup(&text, &name).map(str::as_bytes));
        }

        #[test]
        fn set_then_get_is_the_same(text in "[ab\u{1}\u{2}]{0,16}", name in "[ab]{1,3}", value in "\\PC{1,8}") {
            let mut properties = Properties::from(text.clone());
            let mut expected: HashMap<String, String> =
                as_java_reads(&text).into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert!(properties.set(&name, &value));
            expected.insert(name, value);
            let read: HashMap<String, String> =
                properties.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
