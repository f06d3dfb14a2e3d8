//! Messages to be delivered at a time of their own. Java: `HookUtils`, `TimerMessageStore`. Pure: no I/O, no clock.

use rocketmq_common::message::properties::{Properties, lookup, property};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Timer messages by the time at which they are due: unique id, and place in the log.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<(i64, u64), (String, i64)>,
    next: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, due_ms: i64, unique_id: &str, place: i64) {
        self.waiting.insert((due_ms, self.next), (unique_id.to_owned(), place));
        self.next += 1;
    }

    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.waiting.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// The place of one that is due.
    pub(crate) fn take_due(&mut self, now_ms: i64) -> Option<i64> {
        let entry = self.waiting.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        Some(entry.remove().1)
    }

    /// Forgets a message, if it still waits.
    pub(crate) fn remove(&mut self, due_ms: i64, unique_id: &str) {
        let mut at_that_time = self.waiting.range((due_ms, 0)..=(due_ms, u64::MAX));
        let key = at_that_time.find(|(_, (id, _))| id == unique_id).map(|(key, _)| *key);
        if let Some(key) = key {
            self.waiting.remove(&key);
        }
    }
}

/// A delay that is no number, or too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadTimer;

/// When a message is due: rounded down to the second, a whole second to the one before. `None` where it is now.
pub(crate) fn due_ms(properties: &str, now_ms: i64) -> Result<Option<i64>, BadTimer> {
    // One that has been delivered and is given back does not wait again.
    if lookup(properties, property::TIMER_OUT_MS).is_some() {
        return Ok(None);
    }
    let number = |name| lookup(properties, name).map(|value| value.parse::<i64>().map_err(|_| BadTimer)).transpose();
    let due_ms = if let Some(delay_s) = number(property::TIMER_DELAY_SEC)? {
        now_ms.saturating_add(delay_s.saturating_mul(1000))
    } else if let Some(delay_ms) = number(property::TIMER_DELAY_MS)? {
        now_ms.saturating_add(delay_ms)
    } else if let Some(due_ms) = number(property::TIMER_DELIVER_MS)? {
        due_ms
    } else {
        return Ok(None);
    };
    if due_ms <= now_ms {
        return Ok(None);
    }
    if due_ms - now_ms > MAX_DELAY_MS {
        return Err(BadTimer);
    }
    Ok(Some((due_ms - 1) / PRECISION_MS * PRECISION_MS))
}

pub(crate) fn is_timer(properties: &str) -> bool {
    NAMES.iter().any(|name| lookup(properties, name).is_some())
}

/// A delay level goes before a timer.
pub(crate) fn without_timer(properties: String) -> String {
    let mut properties = Properties::from(properties);
    for name in NAMES {
        properties.remove(name);
    }
    properties.into_string()
}

/// Whether a message may still be recalled that is due at that time.
pub(crate) fn is_recallable(due_ms: i64, now_ms: i64) -> bool {
    due_ms > now_ms && due_ms - now_ms <= MAX_DELAY_MS
}

/// What a timer message is recalled by. Java: `RecallMessageHandle`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) topic: String,
    pub(crate) broker_name: String,
    pub(crate) deliver_ms: i64,
    pub(crate) unique_id: String,
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, broker_name, deliver_ms, unique_id } = self;
        let text = format!("v1 {topic} {broker_name} {deliver_ms} {unique_id}");
        for chunk in text.as_bytes().chunks(3) {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4_usize {
                let index = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
                let letter = if digit <= chunk.len() { ALPHABET[index] } else { b'=' };
                write!(f, "{}", char::from(letter))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Handle {
    type Err = BadTimer;

    fn from_str(handle: &str) -> Result<Self, BadTimer> {
        let mut bytes = Vec::new();
        let (mut bits, mut count) = (0_u32, 0);
        for letter in handle.trim_end_matches('=').bytes() {
            let value = ALPHABET.iter().position(|known| *known == letter).ok_or(BadTimer)?;
            bits = bits << 6 | u32::try_from(value).unwrap_or(0);
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push(u8::try_from(bits >> count & 0xff).unwrap_or(0));
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| BadTimer)?;
        let parts: Vec<&str> = text.split(' ').collect();
        let ["v1", topic, broker_name, deliver_ms, unique_id, ..] = parts[..] else { return Err(BadTimer) };
        Ok(Self {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            deliver_ms: deliver_ms.parse().map_err(|_| BadTimer)?,
            unique_id: unique_id.to_owned(),
        })
    }
}

/// Where timer messages wait. Java: `TimerMessageStore.TIMER_TOPIC`.
pub(crate) const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
const NAMES: [&str; 3] = [property::TIMER_DELAY_SEC, property::TIMER_DELAY_MS, property::TIMER_DELIVER_MS];
/// Java: `timerMaxDelaySec`, `timerPrecisionMs`.
const MAX_DELAY_MS: i64 = 3 * 86_400 * 1000;
const PRECISION_MS: i64 = 1000;
/// Base64 for addresses of web pages.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_down_and_a_whole_second_to_the_one_before() {
        let due = |properties: &str| due_ms(properties, 10_500);
        assert_eq!(due("TIMER_DELAY_MS\u{1}3000\u{2}"), Ok(Some(13_000)));
        assert_eq!(due("TIMER_DELAY_MS\u{1}2500\u{2}"), Ok(Some(12_000)));
        assert_eq!(due("TIMER_DELAY_SEC\u{1}3\u{2}TIMER_DELAY_MS\u{1}9000\u{2}"), Ok(Some(13_000)));
        assert_eq!(due("TIMER_DELIVER_MS\u{1}11001\u{2}"), Ok(Some(11_000)));
        assert_eq!(due("TIMER_DELIVER_MS\u{1}10500\u{2}"), Ok(None));
        assert_eq!(due("TIMER_DELAY_MS\u{1}3000\u{2}TIMER_OUT_MS\u{1}9\u{2}"), Ok(None));
        assert_eq!(due("TIMER_DELAY_MS\u{1}259200000\u{2}"), Ok(Some(259_210_000)));
        assert_eq!(due("TIMER_DELAY_MS\u{1}259200001\u{2}"), Err(BadTimer));
        assert_eq!(due("TIMER_DELAY_MS\u{1}soon\u{2}"), Err(BadTimer));
        assert_eq!(due("a\u{1}b\u{2}"), Ok(None));
    }

    #[test]
    fn a_handle_reads_as_it_was_written() {
        for unique_id in ["U", "UU", "UUU", "UUUU"] {
            let handle = || Handle {
                topic: "größe".into(),
                broker_name: "b".into(),
                deliver_ms: 12_001,
                unique_id: unique_id.into(),
            };
            assert_eq!(handle().to_string().parse(), Ok(handle()));
            assert_eq!(handle().to_string().len() % 4, 0);
        }
        let handle = Handle { topic: "t".into(), broker_name: "b".into(), deliver_ms: 1, unique_id: "U".into() };
        assert_eq!(handle.to_string(), "djEgdCBiIDEgVQ==");
        for bad in ["", "v1", "djEgdCBiIDE=", "ä"] {
            assert_eq!(bad.parse::<Handle>(), Err(BadTimer));
        }
    }

    #[test]
    fn what_is_due_comes_in_order_unless_it_was_recalled() {
        let mut timers = Timers::default();
        for (due_ms, id, place) in [(20, "a", 1), (10, "b", 2), (20, "c", 3)] {
            timers.insert(due_ms, id, place);
        }
        assert_eq!((timers.next_ms(), timers.take_due(9)), (Some(10), None));
        timers.remove(20, "a");
        timers.remove(20, "b");
        assert_eq!([timers.take_due(20), timers.take_due(20), timers.take_due(20)], [Some(2), Some(3), None]);
    }
}
