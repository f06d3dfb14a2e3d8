use bytes::Bytes;
use rocketmq_remote::{Command, DecodeError, EncodeError, Header, Json, Reply, ResponseCode, header, request};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

header! {
    /// Where popped messages lie and how long they are hidden. Java: `PopMessageResponseHeader`.
    pub struct PopHead {
        /// When they were popped, by the broker's clock.
        pop_time_ms: i64 = "popTime",
        /// How long they are hidden.
        invisible_time_ms: i64 = "invisibleTime",
        /// The queue in which the broker keeps account of them; 999 where they were popped in order.
        revive_queue_id: i32 = "reviveQid",
        /// About how many are left.
        rest: Option<i64> = "restNum",
        /// Where the check point of each queue begins; see [`pop`](crate::pop).
        start_offsets: Option<String> = "startOffsetInfo",
        /// The offsets of the messages of each queue.
        message_offsets: Option<String> = "msgOffsetInfo",
        /// How often messages popped in order came before.
        order_counts: Option<String> = "orderCountInfo",
    }
}

/// What a pop came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Popped {
    /// Messages; the body holds them one after the other, as that of a pull does.
    Found(PopHead, Bytes),
    /// None: `POLLING_TIMEOUT`, also where the broker was not to hold the pop, or `PULL_NOT_FOUND`; `POLLING_FULL` where it
    /// would have held it and has no room for more. What header comes along means nothing.
    Nothing(ResponseCode),
}

impl Reply for Popped {
    fn from_command(command: Command) -> Result<Self, DecodeError> {
        match command.response_code() {
            ResponseCode::SUCCESS => Ok(Self::Found(PopHead::read(&command.fields)?, command.body)),
            code => Ok(Self::Nothing(code)),
        }
    }

    fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
        match self {
            Self::Found(head, body) => {
                head.write(&mut command.fields);
                command.body = body;
            }
            Self::Nothing(code) => command.code = code.0,
        }
        Ok(())
    }
}

request! {
    POP_MESSAGE(()) -> Popped, also on [PULL_NOT_FOUND, POLLING_TIMEOUT, POLLING_FULL];
    /// Takes messages, which are hidden from the group for a while. Java: `PopMessageRequestHeader`.
    ///
    /// Brokers from 5.0 on know this. The group's retry topics for this topic are popped along with it.
    pub struct PopMessage {
        /// For whom.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic; never a retry topic.
        topic: Arc<str> = "topic",
        /// The queue; -1 for all of this broker.
        queue_id: i32 = "queueId",
        /// Most messages to take, 32 at most.
        max_messages: i32 = "maxMsgNums",
        /// How long they are hidden.
        invisible_time_ms: i64 = "invisibleTime",
        /// How long the broker may hold the pop while there is no message; 0 not at all.
        poll_time_ms: i64 = "pollTime",
        /// When this was asked. With 0 the broker goes by its own clock, so that a wrong one of ours does no harm.
        born_time_ms: i64 = "bornTime",
        /// Where a new group begins: 0 at the first message, else at the last.
        init_mode: i32 = "initMode",
        /// `TAG` or `SQL92`.
        expression_type: Option<Arc<str>> = "expType",
        /// The filter expression; none is for all.
        expression: Option<Arc<str>> = "exp",
        /// Whether a queue gives nothing before all that was popped from it is acknowledged.
        order: Option<bool> = "order",
        /// Two ordered pops of the same id get the same messages: for one whose answer got lost.
        attempt_id: Option<String> = "attemptId",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    ACK_MESSAGE(()) -> ();
    /// A popped message is done. Java: `AckMessageRequestHeader`.
    pub struct AckMessage {
        /// Whose it was.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic it lies in: a retry topic, where it came from there.
        topic: Arc<str> = "topic",
        /// Its queue.
        queue_id: i32 = "queueId",
        /// The receipt handle.
        extra_info: String = "extraInfo",
        /// Its offset.
        offset: i64 = "offset",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    BATCH_ACK_MESSAGE(Json<BatchAcks>) -> ();
    /// Popped messages of one broker are done. What makes no sense is passed over without a word. Java:
    /// `BatchAckMessageRequestBody`; it has no header.
    pub struct BatchAckMessage {}
}

/// The check points whose messages are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BatchAcks {
    /// The broker that is asked.
    pub broker_name: String,
    /// One entry for each check point.
    pub acks: Vec<BatchAck>,
}

/// The messages of one check point that are done. Java: `BatchAck`, with its short names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAck {
    /// Whose they were.
    #[serde(rename = "c", alias = "consumerGroup")]
    pub consumer_group: String,
    /// The topic they were popped from; the retry flag tells in which one they lie.
    #[serde(rename = "t", alias = "topic")]
    pub topic: String,
    /// The retry flag: `0`, `1` or `2`.
    #[serde(rename = "r", alias = "retry")]
    pub retry: String,
    /// Where the check point begins.
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: i64,
    /// The queue.
    #[serde(rename = "q", alias = "queueId")]
    pub queue_id: i32,
    /// The queue in which the broker keeps account of them.
    #[serde(rename = "rq", alias = "reviveQueueId")]
    pub revive_queue_id: i32,
    /// When they were popped.
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_time_ms: i64,
    /// How long they are hidden.
    #[serde(rename = "it", alias = "invisibleTime")]
    pub invisible_time_ms: i64,
    /// The offsets, counted from where the check point begins.
    #[serde(rename = "b", alias = "bitSet")]
    pub offsets: OffsetBits,
}

/// Small numbers as bits: bit `i` of byte `n` is the number `8 n + i`. In JSON the bytes in Base64. Java:
/// `BitSet.toByteArray`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct OffsetBits(Vec<u8>);

impl OffsetBits {
    /// The greatest number that fits, so that none makes for a body without an end.
    pub const MAX: u16 = u16::MAX;

    /// Adds a number.
    pub fn insert(&mut self, number: u16) {
        let byte = usize::from(number / 8);
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        self.0[byte] |= 1 << (number % 8);
    }

    /// The numbers, from the smallest on.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(at, byte): (usize, &u8)| {
            let byte = *byte;
            (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

impl FromIterator<u16> for OffsetBits {
    fn from_iter<I: IntoIterator<Item = u16>>(numbers: I) -> Self {
        let mut bits = Self::default();
        numbers.into_iter().for_each(|number| bits.insert(number));
        bits
    }
}

impl From<OffsetBits> for String {
    fn from(bits: OffsetBits) -> Self {
        let mut text = Self::with_capacity(bits.0.len().div_ceil(3) * 4);
        for chunk in bits.0.chunks(3) {
            let byte = |at: usize| usize::from(chunk.get(at).copied().unwrap_or(0));
            let word = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                let letter = if digit <= chunk.len() { ALPHABET[word >> (18 - 6 * digit) & 63] } else { b'=' };
                text.push(char::from(letter));
            }
        }
        text
    }
}

impl TryFrom<String> for OffsetBits {
    type Error = BadOffsets;

    fn try_from(text: String) -> Result<Self, BadOffsets> {
        if text.len() > MAX_LETTERS {
            return Err(BadOffsets);
        }
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
        let (mut word, mut count) = (0_u32, 0);
        for letter in text.trim_end_matches('=').bytes() {
            let value = ALPHABET.iter().position(|known| *known == letter).ok_or(BadOffsets)?;
            word = (word << 6 | u32::try_from(value).unwrap_or(0)) & 0xFFFF;
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push(u8::try_from(word >> count & 0xFF).unwrap_or(0));
            }
        }
        Ok(Self(bytes))
    }
}

/// A text that is no Base64, or one of numbers beyond [`OffsetBits::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the offsets are not in Base64, or too far apart")]
pub struct BadOffsets;

header! {
    /// The hiding of a message, from now on. Java: `ChangeInvisibleTimeResponseHeader`.
    pub struct Hidden {
        /// When it began, by the broker's clock; 0 where nothing was changed, since an ordered message is done already.
        pop_time_ms: i64 = "popTime",
        /// How long it takes.
        invisible_time_ms: i64 = "invisibleTime",
        /// The queue in which the broker keeps account of it.
        revive_queue_id: i32 = "reviveQid",
    }
}

request! {
    CHANGE_MESSAGE_INVISIBLETIME(()) -> Hidden;
    /// Hides a popped message for so long from now on: longer than before, or not so long. The receipt handle that comes
    /// along is worth nothing afterwards. Java: `ChangeInvisibleTimeRequestHeader`.
    pub struct ChangeInvisibleTime {
        /// Whose it is.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic it lies in: a retry topic, where it came from there.
        topic: Arc<str> = "topic",
        /// Its queue.
        queue_id: i32 = "queueId",
        /// The receipt handle.
        extra_info: String = "extraInfo",
        /// Its offset.
        offset: i64 = "offset",
        /// How long it is hidden, from now on.
        invisible_time_ms: i64 = "invisibleTime",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

header! {
    /// The end of a wait for messages. Java: `NotificationResponseHeader`.
    pub struct Notice {
        /// Whether there are messages.
        has_messages: Option<bool> = "hasMsg",
        /// Whether too many wait, so that this one did not.
        is_full: Option<bool> = "pollingFull",
    }
}

request! {
    NOTIFICATION(()) -> Notice;
    /// Waits until there are messages to pop, without taking them. Java: `NotificationRequestHeader`.
    pub struct Notification {
        /// For whom.
        consumer_group: Arc<str> = "consumerGroup",
        /// The topic; never a retry topic.
        topic: Arc<str> = "topic",
        /// The queue; -1 for all of this broker.
        queue_id: i32 = "queueId",
        /// How long to wait.
        poll_time_ms: i64 = "pollTime",
        /// As of [`PopMessage`].
        born_time_ms: i64 = "bornTime",
        /// Whether a queue counts as empty while messages popped from it are not acknowledged.
        order: Option<bool> = "order",
        /// As of [`PopMessage`].
        attempt_id: Option<String> = "attemptId",
        /// `TAG` or `SQL92`; brokers before 5.5 do not look at it.
        expression_type: Option<Arc<str>> = "expType",
        /// The filter expression; brokers before 5.5 do not look at it.
        expression: Option<Arc<str>> = "exp",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

/// Those of the bits up to [`OffsetBits::MAX`].
const MAX_LETTERS: usize = (OffsetBits::MAX as usize / 8 + 1).div_ceil(3) * 4;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_written_as_java_writes_it() {
        let ack = BatchAck {
            consumer_group: "g".into(),
            topic: "T".into(),
            retry: "0".into(),
            start_offset: 10,
            queue_id: 1,
            revive_queue_id: 2,
            pop_time_ms: 1000,
            invisible_time_ms: 60000,
            offsets: [0, 2, 9].into_iter().collect(),
        };
        let java = r#"{"acks":[{"b":"BQI=","c":"g","it":60000,"pt":1000,"q":1,"r":"0","rq":2,"so":10,"t":"T"}],"brokerName":"b"}"#;
        let ours = BatchAcks { broker_name: "b".into(), acks: vec![ack] };
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(serde_json::to_value(&ours).unwrap(), value(java));
        assert_eq!(serde_json::from_str::<BatchAcks>(java).unwrap(), ours);
        let long = r#"{"acks":[{"bitSet":"BQI=","consumerGroup":"g","invisibleTime":60000,"popTime":1000,"queueId":1,"retry":"0","reviveQueueId":2,"startOffset":10,"topic":"T"}],"brokerName":"b"}"#;
        assert_eq!(serde_json::from_str::<BatchAcks>(long).unwrap(), ours);
    }

    #[test]
    fn bits_read_as_they_were_written() {
        for count in 0..100 {
            let bits: OffsetBits = (0..count).map(|number| number * 3).collect();
            let text = String::from(bits.clone());
            assert_eq!(OffsetBits::try_from(text), Ok(bits.clone()));
            let numbers: Vec<_> = bits.iter().collect();
            assert_eq!(numbers, (0..usize::from(count)).map(|number| number * 3).collect::<Vec<_>>());
        }
        let last = OffsetBits::from_iter([OffsetBits::MAX]);
        assert_eq!(last.iter().collect::<Vec<_>>(), [65_535]);
        let text = String::from(last.clone());
        assert_eq!(OffsetBits::try_from(format!("{text}AAAA")), Err(BadOffsets), "one body could hold millions");
        assert_eq!(OffsetBits::try_from(text), Ok(last));
        assert_eq!(OffsetBits::try_from("ä".to_owned()), Err(BadOffsets));
        for odd in ["", "=", "A", "====", "ZZZZZ"] {
            assert!(OffsetBits::try_from(odd.to_owned()).is_ok(), "{odd}");
        }
    }
}
