//! How many messages a pull asks for.

use rocketmq_common::{
    Error,
    remote::{DecodeError, MAX_FRAME_BYTES},
};
use std::error::Error as _;

/// How many messages the next pull of a queue asks for: as many as the user says, but fewer after an answer that no frame
/// holds, and one where a malformed record has to be pulled alone.
///
/// Pure.
#[derive(Debug)]
pub(crate) struct PullSize {
    usual: i32,
    now: i32,
    is_alone: bool,
}

impl PullSize {
    pub(crate) fn new(usual: i32) -> Self {
        Self { usual, now: usual, is_alone: false }
    }

    pub(crate) fn next(&self) -> i32 {
        if self.is_alone { 1 } else { self.now }
    }

    /// Whether the next pull is for one message only.
    pub(crate) fn set_alone(&mut self, is_alone: bool) {
        self.is_alone = is_alone;
    }

    /// An answer came of so many bytes. Where that leaves room, more are asked for again.
    pub(crate) fn answered(&mut self, bytes: usize) {
        if bytes < MAX_FRAME_BYTES / 8 {
            self.now = self.now.saturating_mul(2).min(self.usual);
        }
    }

    /// An answer was larger than a frame. Returns how many messages the next pull asks for.
    pub(crate) fn was_too_large(&mut self) -> i32 {
        self.now = (self.next() / 2).max(1);
        self.now
    }
}

/// Whether an answer did not come because it is larger than a frame may be.
pub(crate) fn is_too_large(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(DecodeError::TooLarge { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocketmq_common::remote::{CloseCause, Error as RemoteError};
    use std::sync::Arc;

    #[test]
    fn an_answer_too_large_halves_what_is_asked_for_until_there_is_room_again() {
        let mut size = PullSize::new(32);
        assert_eq!(size.next(), 32);
        let halves: Vec<_> = (0..6).map(|_| size.was_too_large()).collect();
        assert_eq!(halves, [16, 8, 4, 2, 1, 1]);
        size.answered(MAX_FRAME_BYTES / 2);
        assert_eq!(size.next(), 1, "two of these would be too large again");
        size.answered(100);
        assert_eq!(size.next(), 2);
        (0..9).for_each(|_| size.answered(100));
        assert_eq!(size.next(), 32);
        size.set_alone(true);
        assert_eq!(size.next(), 1);
        size.set_alone(false);
        assert_eq!(size.next(), 32);
    }

    #[test]
    fn a_frame_over_the_limit_is_known_as_such() {
        let closed =
            |cause| Error::from(RemoteError::Closed { addr: "a:1".into(), cause: Arc::new(cause), sent: true });
        let too_large = DecodeError::TooLarge { length: 1 << 25, limit: MAX_FRAME_BYTES };
        assert!(is_too_large(&closed(CloseCause::Frame(too_large))));
        assert!(!is_too_large(&closed(CloseCause::Peer)));
        assert!(!is_too_large(&closed(CloseCause::Frame(DecodeError::Length(-1)))));
    }
}
