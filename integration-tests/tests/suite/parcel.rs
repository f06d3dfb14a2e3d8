//! Messages of every shape, and whether one came as it was sent.

use anyhow::{Result, bail, ensure};
use rocketmq_common::{Message, StoredMessage};
use std::collections::{BTreeMap, BTreeSet};

/// What was sent, by message id.
pub(crate) type Sent = BTreeMap<String, Message>;

/// Message number `index` of a kind that varies in everything: size, bytes, tag, keys, properties, flag.
pub(crate) fn varied(topic: &str, index: usize) -> Message {
    let size = match index % 16 {
        0 => 1,
        1 => 256,
        2 => 4096,
        _ => 1 + noise(index, 0) % 4096,
    };
    let message = Message::new(topic, body(index, size)).flag(i32::try_from(index % 1000).unwrap_or(0) - 500);
    let message = match index % 3 {
        0 => message.tag("eu"),
        1 => message.tag("tagué-标签"),
        _ => message,
    };
    let message = match index % 4 {
        0 => message.key(format!("k-{index}")),
        1 => message.keys(["ключ", "鍵", "🚀"]).key(format!("{index}")),
        _ => message,
    };
    match index % 5 {
        0 => message.property("größe", "½ ≠ \u{2028} \"quoted\" \\ {json: 1}\n\t🚀"),
        1 => message.property("trace", format!("span={index}")).property("colour", "blue green"),
        _ => message,
    }
}

/// A body of every byte value, if it is long enough: 256 bytes in sequence, then noise.
pub(crate) fn body(index: usize, size: usize) -> Vec<u8> {
    let byte = |at: usize| if at < 256 { at.wrapping_add(index) } else { noise(index, at) };
    let block: Vec<u8> = (0..size.min(BLOCK)).map(|at| u8::try_from(byte(at) & 0xff).unwrap_or(0)).collect();
    let mut body = block.repeat(size / BLOCK + 1);
    body.truncate(size);
    body
}

/// A prime, so that a body that lost or moved something by a round number shows it.
const BLOCK: usize = 4099;

fn noise(index: usize, at: usize) -> usize {
    let mixed = (index.wrapping_mul(0x9e37_79b9) ^ at.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
    mixed >> 7
}

/// Fails unless a message came as it was sent.
pub(crate) fn expect_same(sent: &Message, stored: &StoredMessage) -> Result<()> {
    let id = stored.message_id();
    ensure!(stored.topic() == sent.topic(), "{id} came as of topic {}, sent to {}", stored.topic(), sent.topic());
    let (size, sent_size) = (stored.body().len(), sent.body().len());
    ensure!(size == sent_size, "{id} has a body of {size} bytes, sent were {sent_size}");
    if stored.body() != sent.body() {
        let differs = stored.body().iter().zip(sent.body()).position(|(one, other)| one != other);
        bail!("{id}: the body differs from byte {differs:?} of {size} on");
    }
    ensure!(stored.flag() == sent.flag_bits(), "{id} has flag {}, sent was {}", stored.flag(), sent.flag_bits());
    for (name, value) in sent.properties().iter() {
        ensure!(stored.property(name) == Some(value), "{id}: {name} is {:?}, not {value:?}", stored.property(name));
    }
    ensure!(stored.tag() == sent.properties().tag(), "{id} has tag {:?}", stored.tag());
    let keys: Vec<_> = stored.keys().collect();
    let sent_keys: Vec<_> = sent.properties().get("KEYS").unwrap_or_default().split_whitespace().collect();
    ensure!(keys == sent_keys, "{id} has keys {keys:?}, sent were {sent_keys:?}");
    // Brokers add properties of their own; their names have no small letter.
    let of_user = |name: &str| name.chars().any(char::is_lowercase);
    let came: BTreeSet<_> = stored.properties().map(|(name, _)| name).filter(|name| of_user(name)).collect();
    let went: BTreeSet<_> = sent.properties().iter().map(|(name, _)| name).filter(|name| of_user(name)).collect();
    ensure!(came == went, "{id} has the properties {came:?}, sent were {went:?}");
    Ok(())
}

/// Fails unless all of `stored` came as they were sent.
pub(crate) fn expect_all_same(sent: &Sent, stored: &[StoredMessage]) -> Result<()> {
    for message in stored {
        let id = message.message_id();
        let original = sent.get(&*id);
        ensure!(original.is_some(), "{id} was never sent");
        if let Some(original) = original {
            expect_same(original, message)?;
        }
    }
    Ok(())
}
