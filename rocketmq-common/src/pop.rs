//! What is known of popped messages beside themselves: where they lie, and by which handle they are settled. No I/O.

use crate::{
    StoredMessage,
    message::{names::RETRY_PREFIX, property},
    protocol::PopHead,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    str::FromStr,
    sync::Arc,
};

/// Which topic a popped message lies in. What nobody acknowledged lies in a retry topic of its group and topic, whose
/// name is of one of two generations.
///
/// # Protocol
/// The retry flag of receipt handles and offset infos. Java: `KeyBuilder.buildPopRetryTopicV1`, `…V2`,
/// `ExtraInfoUtil.getRealTopic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PopSource {
    /// The topic itself.
    Topic,
    /// `%RETRY%<group>_<topic>`.
    RetryV1,
    /// `%RETRY%<group>+<topic>`, of brokers with `enableRetryTopicV2`.
    RetryV2,
}

impl PopSource {
    /// The flag on the wire.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Topic => "0",
            Self::RetryV1 => "1",
            Self::RetryV2 => "2",
        }
    }

    /// Reads a flag.
    pub fn from_flag(flag: &str) -> Option<Self> {
        [Self::Topic, Self::RetryV1, Self::RetryV2].into_iter().find(|source| source.flag() == flag)
    }

    /// What the name of a topic tells.
    pub fn of_topic(topic: &str) -> Self {
        match topic.strip_prefix(RETRY_PREFIX) {
            None => Self::Topic,
            Some(rest) if rest.contains('+') => Self::RetryV2,
            Some(_) => Self::RetryV1,
        }
    }

    /// The name of the topic in which a message lies that a group popped from `topic`.
    pub fn real_topic(self, topic: &Arc<str>, group: &str) -> Arc<str> {
        match self {
            Self::Topic => topic.clone(),
            Self::RetryV1 => format!("{RETRY_PREFIX}{group}_{topic}").into(),
            Self::RetryV2 => format!("{RETRY_PREFIX}{group}+{topic}").into(),
        }
    }
}

/// By what a broker knows one delivery of a popped message. Each delivery, and each change of its invisible time, makes
/// a new one.
///
/// ```
/// use rocketmq_common::pop::{PopSource, ReceiptHandle};
///
/// let handle: ReceiptHandle = "10 1700000000000 60000 3 0 broker-a 1 12".parse()?;
/// assert_eq!((handle.source, handle.queue_id, handle.offset), (PopSource::Topic, 1, 12));
/// assert_eq!(handle.to_string(), "10 1700000000000 60000 3 0 broker-a 1 12");
/// # Ok::<(), rocketmq_common::pop::HandleError>(())
/// ```
///
/// # Protocol
/// `extraInfo` of acks, the property `POP_CK`. Java: `ExtraInfoUtil.buildExtraInfo`. Witness: golden
/// `200051_ack_request_550.hex`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReceiptHandle {
    /// Where the check point begins, which the messages of a queue share that were popped together.
    pub start_offset: i64,
    /// When the message was popped, by the broker's clock.
    pub pop_time_ms: i64,
    /// How long it is hidden.
    pub invisible_time_ms: i64,
    /// The queue in which the broker keeps account of it; [`ORDERED`](Self::ORDERED) where it was popped in order.
    pub revive_queue_id: i32,
    /// The topic it lies in.
    pub source: PopSource,
    /// The broker it lies on.
    pub broker_name: Arc<str>,
    /// Its queue.
    pub queue_id: i32,
    /// Its offset.
    pub offset: i64,
}

impl ReceiptHandle {
    /// The revive queue of messages that were popped in order. Java: `KeyBuilder.POP_ORDER_REVIVE_QUEUE`.
    pub const ORDERED: i32 = 999;

    /// Whether the message was popped in order.
    pub fn is_ordered(&self) -> bool {
        self.revive_queue_id == Self::ORDERED
    }

    /// When the message comes back, in ms since the epoch by the broker's clock.
    pub fn expires_ms(&self) -> i64 {
        self.pop_time_ms.saturating_add(self.invisible_time_ms)
    }
}

impl fmt::Display for ReceiptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start_offset, pop_time_ms, invisible_time_ms, revive_queue_id, .. } = self;
        let Self { source, broker_name, queue_id, offset, .. } = self;
        write!(f, "{start_offset} {pop_time_ms} {invisible_time_ms} {revive_queue_id} {} ", source.flag())?;
        write!(f, "{broker_name} {queue_id} {offset}")
    }
}

/// Why a text is no receipt handle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// It has not as many fields as a handle.
    #[error("a receipt handle of {count} fields")]
    Fields {
        /// The fields it has.
        count: usize,
    },
    /// A field is no number, or one that cannot be.
    #[error("the {field} of the receipt handle makes no sense")]
    Field {
        /// The field.
        field: &'static str,
    },
}

impl FromStr for ReceiptHandle {
    type Err = HandleError;

    /// Reads the eight fields. Brokers may write more behind them, which are passed over.
    fn from_str(text: &str) -> Result<Self, HandleError> {
        let mut fields = text.split(' ');
        let first: [Option<&str>; FIELDS] = std::array::from_fn(|_| fields.next());
        let count = first.iter().flatten().count();
        let [
            Some(start_offset),
            Some(pop_time),
            Some(invisible_time),
            Some(revive_queue_id),
            Some(flag),
            Some(broker_name),
            Some(queue_id),
            Some(offset),
        ] = first
        else {
            return Err(HandleError::Fields { count });
        };
        if broker_name.is_empty() {
            return Err(HandleError::Field { field: "broker name" });
        }
        Ok(Self {
            start_offset: natural(start_offset, "start offset")?,
            pop_time_ms: natural(pop_time, "pop time")?,
            invisible_time_ms: natural(invisible_time, "invisible time")?,
            revive_queue_id: natural(revive_queue_id, "revive queue")?,
            source: PopSource::from_flag(flag).ok_or(HandleError::Field { field: "retry flag" })?,
            broker_name: broker_name.into(),
            queue_id: natural(queue_id, "queue")?,
            offset: natural(offset, "offset")?,
        })
    }
}

fn natural<N: FromStr + PartialOrd + Default>(text: &str, field: &'static str) -> Result<N, HandleError> {
    text.parse().ok().filter(|number| *number >= N::default()).ok_or(HandleError::Field { field })
}

/// What a pop tells of one of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The handle by which it is settled.
    pub handle: ReceiptHandle,
    /// How often it came before; told only of messages popped in order.
    pub order_count: Option<i32>,
}

/// Why what a broker tells of popped messages cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PopInfoError {
    /// An entry does not read.
    #[error("{entry:?} is no entry of {field}")]
    Entry {
        /// The field of the answer.
        field: &'static str,
        /// The entry.
        entry: String,
    },
    /// A queue stands there twice.
    #[error("{entry:?} of {field} is of a queue that stands there already")]
    Twice {
        /// The field of the answer.
        field: &'static str,
        /// The entry.
        entry: String,
    },
    /// Nothing is told of a message.
    #[error("nothing is told of the message at offset {offset} of queue {queue_id}")]
    Missing {
        /// The queue.
        queue_id: i32,
        /// Its offset.
        offset: i64,
    },
}

/// What a pop tells of its messages, in their order.
///
/// A message that comes again carries its handle itself, where the broker gave it the topic it was popped from. Of the
/// others the answer tells where the check point of each queue begins.
///
/// # Errors
/// Where the broker tells what makes no sense; of a single message, where it tells nothing of that.
///
/// # Protocol
/// Java: `MQClientAPIImpl.processPopResponse`. Witness: golden `200050_pop_reply_topic_550.hex`.
pub fn receipts(
    head: &PopHead,
    broker_name: &Arc<str>,
    messages: &[StoredMessage],
) -> Result<Vec<Result<Receipt, PopInfoError>>, PopInfoError> {
    let starts = start_offsets(head.start_offsets.as_deref().unwrap_or_default())?;
    let offsets = message_offsets(head.message_offsets.as_deref().unwrap_or_default())?;
    let counts = order_counts(head.order_counts.as_deref().unwrap_or_default())?;
    let mut came: BTreeMap<Place, Vec<i64>> = BTreeMap::new();
    for message in messages {
        came.entry(place(message)).or_default().push(message.queue_offset());
    }
    let receipt = |message: &StoredMessage| {
        let own = message.property(property::POP_CK).and_then(|handle| handle.parse().ok());
        if let Some(handle) = own.filter(|handle: &ReceiptHandle| handle.broker_name == *broker_name) {
            return Ok(Receipt { handle, order_count: None });
        }
        let place = place(message);
        let missing = PopInfoError::Missing { queue_id: place.1, offset: message.queue_offset() };
        let came = came.get(&place).map(Vec::as_slice).unwrap_or_default();
        let (start_offset, offset) = if starts.is_empty() {
            (came.first().copied().ok_or(missing)?, message.queue_offset())
        } else {
            let start_offset = *starts.get(&place).ok_or(missing.clone())?;
            let listed = offsets.get(&place).ok_or(missing.clone())?;
            (start_offset, listed_offset(message.queue_offset(), came, listed).ok_or(missing)?)
        };
        let of_queue = counts.get(&(place.0, place.1.to_string()));
        let count = counts.get(&(place.0, format!("qo{}%{offset}", place.1))).or(of_queue);
        let handle = ReceiptHandle {
            start_offset,
            pop_time_ms: head.pop_time_ms,
            invisible_time_ms: head.invisible_time_ms,
            revive_queue_id: head.revive_queue_id,
            source: place.0,
            broker_name: broker_name.clone(),
            queue_id: place.1,
            offset,
        };
        Ok(Receipt { handle, order_count: count.copied() })
    };
    Ok(messages.iter().map(receipt).collect())
}

/// A queue of the topic or of one of its retry topics.
type Place = (PopSource, i32);

fn place(message: &StoredMessage) -> Place {
    (PopSource::of_topic(message.topic()), message.queue_id())
}

/// The offset by which the broker knows a message: its own as a rule, else the one that stands in its place.
fn listed_offset(own: i64, came: &[i64], listed: &[i64]) -> Option<i64> {
    if listed.contains(&own) {
        return Some(own);
    }
    let at = came.iter().position(|offset| *offset == own).filter(|_| came.len() == listed.len())?;
    listed.get(at).copied()
}

/// `0 1 10;1 0 4`: where the check points of queues begin.
fn start_offsets(text: &str) -> Result<BTreeMap<Place, i64>, PopInfoError> {
    entries(text, "startOffsetInfo", |source, queue_id, value| {
        Some(((source, queue_id.parse().ok()?), value.parse().ok()?))
    })
}

/// `0 1 10,12`: the offsets of the messages of queues.
fn message_offsets(text: &str) -> Result<BTreeMap<Place, Vec<i64>>, PopInfoError> {
    entries(text, "msgOffsetInfo", |source, queue_id, value| {
        let offsets = value.split(',').map(|offset| offset.parse().ok()).collect::<Option<_>>()?;
        Some(((source, queue_id.parse().ok()?), offsets))
    })
}

/// `0 qo1%10 2;0 1 2`: how often messages came before, and the least of each queue.
fn order_counts(text: &str) -> Result<BTreeMap<(PopSource, String), i32>, PopInfoError> {
    entries(text, "orderCountInfo", |source, key, value| Some(((source, key.to_owned()), value.parse().ok()?)))
}

fn entries<K: Ord, V>(
    text: &str,
    field: &'static str,
    read: impl Fn(PopSource, &str, &str) -> Option<(K, V)>,
) -> Result<BTreeMap<K, V>, PopInfoError> {
    let mut entries = BTreeMap::new();
    for entry in text.split(';').filter(|entry| !entry.is_empty()) {
        let mut parts = entry.split(' ');
        let read = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(flag), Some(key), Some(value), None) => {
                PopSource::from_flag(flag).and_then(|source| read(source, key, value))
            }
            _ => None,
        };
        let (key, value) = read.ok_or_else(|| PopInfoError::Entry { field, entry: entry.to_owned() })?;
        match entries.entry(key) {
            Entry::Vacant(free) => free.insert(value),
            Entry::Occupied(_) => return Err(PopInfoError::Twice { field, entry: entry.to_owned() }),
        };
    }
    Ok(entries)
}

const FIELDS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DecodeLimits, Record, decode_records};
    use bytes::BytesMut;

    fn message(topic: &str, queue_id: i32, queue_offset: i64, properties: &str) -> StoredMessage {
        let mut bytes = BytesMut::new();
        let record = Record {
            topic,
            queue_id,
            queue_offset,
            commit_log_offset: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: ([127, 0, 0, 1], 1).into(),
            store_timestamp_ms: 0,
            store_host: ([127, 0, 0, 1], 2).into(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties,
        };
        record.encode(&mut bytes).unwrap();
        decode_records(bytes.freeze(), &topic.into(), &"b".into(), DecodeLimits::default()).next().unwrap().unwrap()
    }

    fn head(starts: &str, offsets: &str, counts: &str) -> PopHead {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PopHead {
            pop_time_ms: 1000,
            invisible_time_ms: 60_000,
            revive_queue_id: 3,
            rest: None,
            start_offsets: text(starts),
            message_offsets: text(offsets),
            order_counts: text(counts),
        }
    }

    fn handles(head: &PopHead, messages: &[StoredMessage]) -> Vec<String> {
        let receipts = receipts(head, &"b".into(), messages).unwrap();
        receipts.into_iter().map(|receipt| receipt.unwrap().handle.to_string()).collect()
    }

    #[test]
    fn each_queue_has_a_check_point_of_its_own() {
        let messages = [message("t", 0, 13, ""), message("t", 0, 15, ""), message("t", 1, 19, "")];
        let told = head("0 0 12;0 1 19", "0 0 13,15;0 1 19", "");
        assert_eq!(
            handles(&told, &messages),
            ["12 1000 60000 3 0 b 0 13", "12 1000 60000 3 0 b 0 15", "19 1000 60000 3 0 b 1 19"]
        );
    }

    #[test]
    fn without_check_points_the_first_message_of_a_queue_begins_one() {
        let messages = [message("t", 0, 13, ""), message("t", 0, 15, ""), message("%RETRY%g_t", 0, 2, "")];
        assert_eq!(
            handles(&head("", "", ""), &messages),
            ["13 1000 60000 3 0 b 0 13", "13 1000 60000 3 0 b 0 15", "2 1000 60000 3 1 b 0 2"]
        );
    }

    #[test]
    fn what_comes_again_may_carry_its_handle() {
        let own = "4 900 60000 3 1 b 0 4";
        let messages = [message("t", 0, 4, &format!("POP_CK\u{1}{own}\u{2}")), message("t", 0, 13, "")];
        let told = head("1 0 4;0 0 13", "1 0 4;0 0 13", "");
        assert_eq!(handles(&told, &messages), [own, "13 1000 60000 3 0 b 0 13"]);
        // Anybody may have sent such a property: one that is no handle of this broker does not count.
        for odd in ["hello", "4 900 60000 3 1 other 0 4"] {
            let messages = [message("t", 0, 13, &format!("POP_CK\u{1}{odd}\u{2}"))];
            assert_eq!(handles(&told, &messages), ["13 1000 60000 3 0 b 0 13"]);
        }
    }

    #[test]
    fn retry_topics_of_both_generations_may_come_under_their_names() {
        let messages = [message("%RETRY%g_t", 0, 4, ""), message("%RETRY%g+t", 0, 4, "")];
        let told = head("1 0 3;2 0 4", "1 0 4;2 0 4", "");
        assert_eq!(handles(&told, &messages), ["3 1000 60000 3 1 b 0 4", "4 1000 60000 3 2 b 0 4"]);
        let topic = "t".into();
        assert_eq!(&*PopSource::RetryV1.real_topic(&topic, "g"), "%RETRY%g_t");
        assert_eq!(&*PopSource::RetryV2.real_topic(&topic, "g"), "%RETRY%g+t");
        assert_eq!(PopSource::Topic.real_topic(&topic, "g"), topic);
    }

    #[test]
    fn a_message_that_counts_otherwise_goes_by_its_place() {
        let messages = [message("t", 0, 1013, ""), message("t", 0, 1014, "")];
        assert_eq!(handles(&head("0 0 12", "0 0 13,14", ""), &messages)[1], "12 1000 60000 3 0 b 0 14");
        // One that could not be decoded leaves no hole in the list.
        let told = head("0 0 12", "0 0 13,14,15", "");
        assert_eq!(handles(&told, &[message("t", 0, 15, "")]), ["12 1000 60000 3 0 b 0 15"]);
        // One of which nothing is told takes the others nothing.
        let missing = |offset| Err(PopInfoError::Missing { queue_id: 0, offset });
        assert_eq!(receipts(&told, &"b".into(), &messages), Ok(vec![missing(1013), missing(1014)]));
        let told = receipts(&told, &"b".into(), &[message("t", 0, 15, ""), message("t", 0, 99, "")]).unwrap();
        assert_eq!(told.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn counts_are_of_a_message_or_else_of_its_queue() {
        let messages = [message("t", 1, 10, ""), message("t", 1, 11, ""), message("t", 2, 5, "")];
        let told = head("0 1 10;0 2 5", "0 1 10,11;0 2 5", "0 qo1%10 2;0 1 1");
        let receipts = receipts(&told, &"b".into(), &messages).unwrap();
        let counts: Vec<_> = receipts.into_iter().map(|receipt| receipt.unwrap().order_count).collect();
        assert_eq!(counts, [Some(2), Some(1), None]);
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let one = [message("t", 0, 13, "")];
        for (starts, offsets, counts) in [
            ("0 0", "0 0 13", ""),
            ("0 0 13 1", "0 0 13", ""),
            ("3 0 13", "0 0 13", ""),
            ("0 x 13", "0 0 13", ""),
            ("0 0 99999999999999999999", "0 0 13", ""),
            ("0 0 13;0 0 14", "0 0 13", ""),
            ("0 0 13", "0 0 13,", ""),
            ("0 0 13", "0 0 ", ""),
            ("0 0 13", "", ""),
            ("0 1 13", "0 0 13", ""),
            ("0 0 13", "0 0 13", "0 0"),
            ("0 0 13", "0 0 13", "0 0 x"),
            ("0 0 13", "0 0 1,2", ""),
        ] {
            let told = receipts(&head(starts, offsets, counts), &"b".into(), &one);
            assert!(told.is_err() || told.is_ok_and(|told| told[0].is_err()), "{starts} {offsets} {counts}");
        }
    }

    #[test]
    fn a_handle_reads_as_it_was_written_and_what_is_none_is_an_error() {
        let text = "10 1700000000000 60000 3 2 broker-a 1 12";
        let handle: ReceiptHandle = text.parse().unwrap();
        assert_eq!((handle.to_string().as_str(), handle.expires_ms()), (text, 1_700_000_060_000));
        assert_eq!(format!("{text} 4711 more").parse(), Ok(handle));
        assert_eq!("".parse::<ReceiptHandle>(), Err(HandleError::Fields { count: 1 }));
        for cut in 0..text.len() - 1 {
            // A shorter last number is a number all the same.
            if cut < text.len() - 2 {
                assert!(text[..cut].parse::<ReceiptHandle>().is_err(), "{}", &text[..cut]);
            }
        }
        for (at, field) in text.split(' ').enumerate() {
            for odd in ["", "-1", "x", "99999999999999999999"] {
                if at == 5 && !odd.is_empty() {
                    continue;
                }
                let fields = text.split(' ').enumerate();
                let hostile: Vec<&str> = fields.map(|(n, field)| if n == at { odd } else { field }).collect();
                let hostile = hostile.join(" ");
                assert!(hostile.parse::<ReceiptHandle>().is_err(), "{hostile:?} with {odd:?} for {field}");
            }
        }
    }

    #[test]
    fn random_bytes_are_survived() {
        let alphabet = ["0", "1", "2", " ", ";", ",", "qo", "%", "-", "9", "ä", "\u{0}"];
        for _ in 0..5000 {
            let text: String = (0..crate::random::random_below(24))
                .map(|_| alphabet[crate::random::random_below(alphabet.len())])
                .collect();
            let _ = text.parse::<ReceiptHandle>();
            let told = head(&text, &text, &text);
            let _ = receipts(&told, &"b".into(), &[message("t", 1, 1, "")]);
        }
    }
}
