use bytes::{Bytes, BytesMut};
use std::{mem, sync::Mutex};
use tokio::sync::Notify;

/// The frames that wait to be written, in order, as what one vectored write takes.
///
/// Callers append under a short lock, the writer swaps all of it out at once: many small frames become one buffer and
/// one system call. A large body stays where it is and becomes a segment of its own, never copied.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    pub(super) filled: Notify,
    /// Wakes the reader that waits until the peer has taken our answers.
    pub(super) drained: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) segments: Vec<Bytes>,
    pub(super) tail: BytesMut,
    /// The bytes of answers among them.
    pub(super) answer_bytes: usize,
    /// The byte permits to give back once these frames are written.
    pub(super) permits: usize,
}

impl Outgoing {
    /// Appends a frame; `frame` holds its head, and its body where that is small.
    pub(super) fn push(&self, frame: Frame) {
        let mut queue = self.lock();
        let was_empty = queue.is_empty();
        queue.permits += frame.permits;
        if frame.answer {
            queue.answer_bytes += frame.head.len() + frame.body.len();
        }
        queue.tail.extend_from_slice(&frame.head);
        if frame.body.len() >= OWN_SEGMENT_BYTES {
            let before = queue.tail.split().freeze();
            queue.segments.push(before);
            queue.segments.push(frame.body);
        } else {
            queue.tail.extend_from_slice(&frame.body);
        }
        drop(queue);
        // A writer that found frames before has been woken for them and will take this one along.
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Swaps all that waits for `empty`.
    pub(super) fn take(&self, empty: Queue) -> Queue {
        mem::replace(&mut *self.lock(), empty)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The bytes of answers that wait.
    pub(super) fn answer_bytes(&self) -> usize {
        self.lock().answer_bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.is_empty()
    }
}

/// One encoded frame on its way to the writer.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) head: BytesMut,
    pub(super) body: Bytes,
    pub(super) answer: bool,
    pub(super) permits: usize,
}

/// A body from this size on is written from where it is; below it, a copy is cheaper than another segment.
const OWN_SEGMENT_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_share_a_buffer_and_a_large_body_is_not_copied() {
        let outgoing = Outgoing::default();
        let large = Bytes::from(vec![7; OWN_SEGMENT_BYTES]);
        let frame = |head: &str, body: Bytes| Frame { head: head.into(), body, answer: false, permits: 1 };
        outgoing.push(frame("a", Bytes::from_static(b"b")));
        outgoing.push(frame("c", large.clone()));
        outgoing.push(frame("d", Bytes::new()));
        let queue = outgoing.take(Queue::default());
        assert_eq!(queue.segments.len(), 2);
        assert_eq!(queue.segments[0], "abc");
        assert_eq!(queue.segments[1].as_ptr(), large.as_ptr());
        assert_eq!(queue.tail, "d");
        assert_eq!(queue.permits, 3);
        assert!(outgoing.is_empty());
    }
}
