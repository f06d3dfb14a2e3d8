//! The records of a pull as messages.
//!
//! A record that cannot be decoded is a message, too, one with a decode error: its queue offset is not passed before it has
//! been treated as a message that failed. Bodies are decompressed when there is room for them, since what they grow to is not
//! known before.

use crate::subscription::wants;
use rocketmq_common::{
    MessageQueue, StoredMessage,
    compress::CompressError,
    message::{CorruptCause, DecodeLimits, decode_records},
    protocol::{PullResult, SubscriptionData},
    remote::Answer,
};
use std::collections::VecDeque;

/// The wanted messages of one pull, in the order of their queue, as far as they have not been decompressed.
#[derive(Debug)]
pub(crate) struct PulledRecords {
    messages: VecDeque<StoredMessage>,
    /// Where to pull on after these messages.
    next: i64,
    /// A record is malformed, so that it is not known where those behind it begin. The next pull is for one message.
    pub(crate) is_cut: bool,
}

impl PulledRecords {
    /// Reads the answer to a pull of up to `max_messages` from the offset `asked` on. Bodies stay compressed.
    ///
    /// Behind a malformed record no other can be trusted: its size may be wrong. So the answer ends before it, and it has to
    /// be pulled alone. Then it is known to be the whole answer.
    pub(crate) fn read(
        queue: &MessageQueue,
        subscription: &SubscriptionData,
        asked: i64,
        max_messages: i32,
        answer: &Answer<PullResult>,
    ) -> Self {
        let end = answer.header.next_begin_offset;
        let most = usize::try_from(max_messages).unwrap_or_default().min(64);
        let mut read = Self { messages: VecDeque::with_capacity(most), next: end, is_cut: false };
        // The lowest offset that the next record can have.
        let mut lowest = asked;
        let body = answer.body.clone();
        for record in decode_records(body, &queue.topic, &queue.broker_name, DecodeLimits::default()).compressed() {
            let (mut message, is_malformed) = match record {
                Ok(message) => (message, false),
                Err(_) if max_messages > 1 => {
                    (read.next, read.is_cut) = (lowest, true);
                    break;
                }
                Err(corrupt) => {
                    let Some(message) = corrupt.into_message() else { continue };
                    (message, true)
                }
            };
            message.add_offset(answer.header.offset_delta.unwrap_or(0));
            message.set_queue_id(queue.queue_id);
            let offset = message.queue_offset();
            if offset >= end || is_malformed && offset < lowest {
                message.set_queue_offset(lowest);
            }
            lowest = lowest.max(message.queue_offset().saturating_add(1));
            if is_malformed || wants(subscription, &message) {
                read.messages.push_back(message);
            }
            if is_malformed {
                break;
            }
        }
        read
    }

    /// How many messages are left.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Where to fetch on: at the first message that is left, else behind the pull.
    pub(crate) fn next_offset(&self) -> i64 {
        self.messages.front().map_or(self.next, StoredMessage::queue_offset)
    }

    /// Takes messages and decompresses them until their bodies fill `room`. The first is taken whatever its size, up to
    /// `max_body_bytes`.
    pub(crate) async fn take_within(&mut self, room: usize, max_body_bytes: usize) -> Vec<StoredMessage> {
        if !self.messages.iter().any(needs_decompressing) {
            return std::mem::take(&mut self.messages).into();
        }
        let mut taken = Vec::with_capacity(self.messages.len());
        let mut used = 0_usize;
        while let Some(mut message) = self.messages.pop_front() {
            if needs_decompressing(&message) {
                let left = room.saturating_sub(used);
                let limit = if taken.is_empty() { max_body_bytes } else { max_body_bytes.min(left) };
                match decompress(&mut message, limit).await {
                    Ok(()) => {}
                    Err(cause) if limit < max_body_bytes && is_too_large(&cause) => {
                        self.messages.push_front(message);
                        break;
                    }
                    Err(cause) => message.set_decode_error(cause),
                }
            }
            used = used.saturating_add(message.body().len());
            taken.push(message);
        }
        taken
    }
}

/// Whether a body is to be decompressed before its message is used.
pub(crate) fn needs_decompressing(message: &StoredMessage) -> bool {
    message.is_compressed() && message.decode_error().is_none()
}

/// Decompresses a message that was left compressed for want of room; if that fails, it has a decode error.
pub(crate) async fn decompressed(mut message: StoredMessage, max_body_bytes: usize) -> StoredMessage {
    if needs_decompressing(&message) {
        if let Err(cause) = decompress(&mut message, max_body_bytes).await {
            message.set_decode_error(cause);
        }
    }
    message
}

/// Decompresses messages as long as they fill no more than `room`; the rest stay compressed.
pub(crate) async fn decompress_within<M>(
    messages: &mut [M],
    as_message: impl Fn(&mut M) -> &mut StoredMessage,
    room: usize,
    max_body_bytes: usize,
) {
    let mut used = 0_usize;
    for message in messages {
        let message = as_message(message);
        if needs_decompressing(message) {
            let limit = max_body_bytes.min(room.saturating_sub(used));
            match decompress(message, limit).await {
                Ok(()) => {}
                Err(cause) if limit < max_body_bytes && is_too_large(&cause) => continue,
                Err(cause) => message.set_decode_error(cause),
            }
        }
        used = used.saturating_add(message.body().len());
    }
}

/// Decompresses a body: a small one at once, a large one on a thread that may be kept busy.
async fn decompress(message: &mut StoredMessage, limit: usize) -> Result<(), CorruptCause> {
    if message.body().len() <= AT_ONCE {
        match message.decompress(limit.min(AT_ONCE)) {
            Err(cause) if limit > AT_ONCE && is_too_large(&cause) => {}
            outcome => return outcome,
        }
    }
    let mut copy = message.clone();
    let decompressing = tokio::task::spawn_blocking(move || copy.decompress(limit).map(|()| copy));
    match decompressing.await {
        Ok(decompressed) => {
            *message = decompressed?;
            Ok(())
        }
        // The runtime ends, or its threads are gone.
        Err(_) => message.decompress(limit),
    }
}

fn is_too_large(cause: &CorruptCause) -> bool {
    matches!(cause, CorruptCause::Decompress(CompressError::TooLarge { .. }))
}

/// Bytes of a body, compressed or not, up to which it is decompressed where it is met: a fraction of a millisecond.
const AT_ONCE: usize = 256 * 1024;

#[cfg(test)]
mod tests;
