//! Many messages in one body: what a client sends as a batch, and what a broker stores as an inner batch.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::layout::{CorruptCause, CorruptRecord, Reader};
use super::properties::{self, SharedText};
use super::{Message, MessageError, names, property};

/// Bytes of an item beside its body and its properties.
const FIXED_BYTES: usize = 22;

/// Checks that the messages may travel as one batch: each by itself, and one topic, one wish to wait, no delays.
///
/// # Errors
/// Says what is wrong with the first message that cannot go.
///
/// # Protocol
/// Java `MessageBatch.generateFromList`.
pub fn check_batch<'a>(
    messages: impl IntoIterator<Item = &'a Message>,
    max_body_bytes: usize,
) -> Result<(), MessageError> {
    let mut messages = messages.into_iter();
    let first = messages.next().ok_or(MessageError::EmptyBatch)?;
    if names::is_retry_topic(first.topic()) {
        return Err(MessageError::RetryTopicInBatch { topic: first.topic().to_owned() });
    }
    let wait_store = first.properties().wait_store();
    for message in std::iter::once(first).chain(messages) {
        message.validate(max_body_bytes)?;
        if message.topic() != first.topic() {
            return Err(MessageError::TopicsInBatch {
                first: first.topic().to_owned(),
                other: message.topic().to_owned(),
            });
        }
        if message.properties().delay_level() > 0 || message.properties().has_timer() {
            return Err(MessageError::DelayInBatch);
        }
        if message.properties().get(property::PRIORITY).is_some() {
            return Err(MessageError::PriorityInBatch);
        }
        if message.is_reply() {
            return Err(MessageError::ReplyInBatch);
        }
        if message.properties().wait_store() != wait_store {
            return Err(MessageError::WaitStoreInBatch);
        }
    }
    Ok(())
}

/// Writes the messages as the body of one batch. Does not judge whether they go together: [`check_batch`] does.
///
/// # Errors
/// A body or the properties of a message are longer than the layout can tell; `out` is then as it was.
///
/// # Protocol
/// Body of `SEND_BATCH_MESSAGE` (320); Java `MessageDecoder.encodeMessages`.
/// Witness: golden `send_batch_request_550.hex`, test `a_batch_of_java_is_read_and_written_byte_for_byte`.
pub fn encode_batch<'a>(
    messages: impl IntoIterator<Item = &'a Message>,
    out: &mut BytesMut,
) -> Result<(), MessageError> {
    let start = out.len();
    for message in messages {
        if let Err(error) = encode_item(message, out) {
            out.truncate(start);
            return Err(error);
        }
    }
    Ok(())
}

fn encode_item(message: &Message, out: &mut BytesMut) -> Result<(), MessageError> {
    let body = message.body();
    let properties = message.properties().as_str();
    let properties_length = i16::try_from(properties.len()).map_err(|_| MessageError::PropertiesTooLarge {
        size: properties.len(),
        max: i16::MAX.unsigned_abs().into(),
    })?;
    let total = FIXED_BYTES + body.len() + properties.len();
    let too_large = |_| MessageError::BodyTooLarge { size: body.len(), max: MAX_BODY_BYTES };
    let total_size = i32::try_from(total).map_err(too_large)?;
    let body_length = i32::try_from(body.len()).map_err(too_large)?;
    out.reserve(total);
    out.put_i32(total_size);
    out.put_i32(0); // magic
    out.put_i32(0); // body CRC
    out.put_i32(message.flag_bits());
    out.put_i32(body_length);
    out.put_slice(body);
    out.put_i16(properties_length);
    out.put_slice(properties.as_bytes());
    Ok(())
}

/// Longest body for which the length words of an item suffice, whatever its properties.
const MAX_BODY_BYTES: usize = i32::MAX.unsigned_abs() as usize - i16::MAX.unsigned_abs() as usize - FIXED_BYTES;

/// One message of a batch.
#[derive(Clone)]
pub struct BatchItem {
    flag: i32,
    body: Bytes,
    properties: SharedText,
}

impl BatchItem {
    /// Returns the flag which the user gave it.
    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// Returns the body, a slice of the batch.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the text in which the properties travel; what is not UTF-8 in it reads as U+FFFD.
    pub fn properties_text(&self) -> &str {
        self.properties.as_str()
    }

    /// Returns the bytes in which the properties travel.
    pub fn properties_bytes(&self) -> &[u8] {
        self.properties.as_bytes()
    }

    /// Returns the value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)
    }

    /// Iterates over the properties, in the order of the text.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::pairs(self.properties.as_str())
    }

    pub(super) fn into_parts(self) -> (i32, Bytes, SharedText) {
        (self.flag, self.body, self.properties)
    }
}

impl fmt::Debug for BatchItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchItem")
            .field("flag", &self.flag)
            .field("body_bytes", &self.body.len())
            .field("properties", &self.properties_text())
            .finish()
    }
}

/// Reads the messages of a batch, one after the other. An item that cannot be read is reported, and those after it
/// are still read where its size tells where they begin.
pub fn decode_batch(body: Bytes) -> BatchItems {
    BatchItems { body, position: 0 }
}

/// Iterator over the messages of a batch; see [`decode_batch`].
#[derive(Debug)]
pub struct BatchItems {
    body: Bytes,
    position: usize,
}

impl Iterator for BatchItems {
    type Item = Result<BatchItem, CorruptRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let remaining = self.body.len() - self.position;
        if remaining == 0 {
            return None;
        }
        let position = self.position;
        let (total_size, size) = Reader::total_size(&self.body[position..], FIXED_BYTES);
        // Where the size makes no sense nobody knows where the next item begins: the rest is one corrupt record.
        self.position += size.unwrap_or(remaining);
        let item = match size {
            Some(size) => decode_item(&self.body.slice(position..position + size)),
            None => Err(CorruptCause::TotalSize { remaining }),
        };
        Some(item.map_err(|cause| CorruptRecord { total_size, ..CorruptRecord::at(position, cause) }))
    }
}

fn decode_item(item: &Bytes) -> Result<BatchItem, CorruptCause> {
    let mut reader = Reader::new(item);
    reader.i32("total size")?;
    reader.i32("magic")?;
    reader.i32("body CRC")?;
    let flag = reader.i32("flag")?;
    let body = reader.sized_i32("body")?;
    let properties = reader.sized_i16("properties")?;
    reader.end()?;
    Ok(BatchItem { flag, body: item.slice(body), properties: SharedText::new(item.slice(properties)) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Properties, goldens};

    fn decode_all(body: Bytes) -> Vec<BatchItem> {
        decode_batch(body).collect::<Result<_, _>>().unwrap()
    }

    fn message(n: i32) -> Message {
        Message::new("t", format!("body {n}")).flag(n).tag("eu")
    }

    fn encode(messages: &[Message]) -> BytesMut {
        let mut out = BytesMut::new();
        encode_batch(messages, &mut out).unwrap();
        out
    }

    #[test]
    fn a_batch_of_java_is_read_and_written_byte_for_byte() {
        for golden in [goldens::SEND_BATCH_550, goldens::SEND_BATCH_497] {
            let body = goldens::body(golden);
            let items = decode_all(body.clone());
            assert!(items.iter().all(|item| item.property("UNIQ_KEY").is_some()));
            let messages: Vec<_> = items
                .iter()
                .map(|item| {
                    let mut message = Message::new("t", item.body().clone()).flag(item.flag());
                    *message.properties_mut() = Properties::from(item.properties_text().to_owned());
                    message
                })
                .collect();
            assert_eq!(encode(&messages), body);
            assert_eq!(check_batch(&messages, body.len()), Ok(()));
        }
    }

    #[test]
    fn an_item_that_cannot_be_read_is_passed() {
        let mut body = encode(&[message(1), message(2), message(3)]);
        let size = body.len() / 3;
        body[size + 16] = 0x80;
        let items: Vec<_> = decode_batch(body.freeze()).collect();
        assert_eq!(items.len(), 3);
        let corrupt = items[1].as_ref().unwrap_err();
        assert_eq!((corrupt.position, corrupt.queue_offset), (size, None));
        assert!(matches!(corrupt.cause, CorruptCause::Length { field: "body", .. }));
        assert_eq!(items[2].as_ref().unwrap().body().as_ref(), b"body 3");
    }

    #[test]
    fn where_the_size_is_wrong_the_rest_is_one_corrupt_item() {
        for size in [0, 21, -1, i32::MAX] {
            let mut body = encode(&[message(1), message(2)]);
            body[..4].copy_from_slice(&size.to_be_bytes());
            let items: Vec<_> = decode_batch(body.freeze()).collect();
            assert_eq!(items.len(), 1);
            assert!(matches!(items[0].as_ref().unwrap_err().cause, CorruptCause::TotalSize { .. }));
        }
        assert_eq!(decode_batch(Bytes::new()).count(), 0);
    }

    #[test]
    fn properties_too_long_for_an_item_leave_the_batch_as_it_was() {
        let large = Message::new("t", "x").property("n", "v".repeat(32_767));
        let mut out = BytesMut::from("before");
        let error = encode_batch([&message(1), &large], &mut out).unwrap_err();
        assert_eq!(error, MessageError::PropertiesTooLarge { size: 32_770, max: 32_767 });
        assert_eq!(out, "before");
    }

    #[test]
    fn messages_that_do_not_go_together_are_refused() {
        let check = |messages: &[Message]| check_batch(messages, 100);
        assert_eq!(check(&[message(1), message(2).wait_store(true)]), Ok(()));
        assert_eq!(check(&[]), Err(MessageError::EmptyBatch));
        assert_eq!(
            check(&[message(1), Message::new("other", "x")]),
            Err(MessageError::TopicsInBatch { first: "t".into(), other: "other".into() })
        );
        assert_eq!(
            check(&[Message::new("%RETRY%g", "x")]),
            Err(MessageError::RetryTopicInBatch { topic: "%RETRY%g".into() })
        );
        assert_eq!(check(&[message(1), message(2).delay_level(1)]), Err(MessageError::DelayInBatch));
        let timer = message(2).deliver_after(std::time::Duration::from_secs(1));
        assert_eq!(check(&[message(1), timer]), Err(MessageError::DelayInBatch));
        assert_eq!(check(&[message(1), message(2).priority(1)]), Err(MessageError::PriorityInBatch));
        assert_eq!(check(&[message(1), message(2).wait_store(false)]), Err(MessageError::WaitStoreInBatch));
        assert_eq!(check(&[message(1), Message::new("t", "")]), Err(MessageError::EmptyBody));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_batch(bytes.into()).count() <= 200 / FIXED_BYTES + 1);
        }

        #[test]
        fn bits_flipped_in_a_batch_are_survived(
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..8),
        ) {
            let mut body = encode(&[message(1), message(2), message(3)]);
            for (at, bit) in flips {
                let at = at.index(body.len());
                body[at] ^= 1 << bit;
            }
            let most = body.len() / FIXED_BYTES + 1;
            prop_assert!(decode_batch(body.freeze()).count() <= most);
        }

        #[test]
        fn a_batch_reads_as_it_was_written(
            messages in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..40), "\\PC{1,20}"), 0..8),
        ) {
            let messages: Vec<_> = messages
                .into_iter()
                .map(|(flag, body, value)| Message::new("t", body).flag(flag).property("n", value))
                .collect();
            let items = decode_all(encode(&messages).freeze());
            prop_assert_eq!(items.len(), messages.len());
            for (item, message) in items.iter().zip(&messages) {
                prop_assert_eq!(item.flag(), message.flag_bits());
                prop_assert_eq!(item.body(), message.body());
                prop_assert_eq!(item.properties_text(), message.properties().as_str());
            }
        }
    }
}
