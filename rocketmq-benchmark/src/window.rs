//! How the messages are shared out among callers, and how many of one caller are in flight.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number of messages that many callers take from.
#[derive(Debug)]
pub(crate) struct Supply {
    left: AtomicU64,
}

impl Supply {
    pub(crate) fn new(messages: u64) -> Self {
        Self { left: AtomicU64::new(messages) }
    }

    /// Takes up to `wanted` messages; `None` once there are no more.
    pub(crate) fn take(&self, wanted: u64) -> Option<u64> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            0 => None,
            _ => Some(left.saturating_sub(wanted)),
        });
        left.ok().map(|left| left.min(wanted))
    }
}

/// What is in flight, in order, bounded in number.
#[derive(Debug)]
pub(crate) struct Window<T> {
    in_flight: VecDeque<T>,
    room: usize,
}

impl<T> Window<T> {
    pub(crate) fn new(room: usize) -> Self {
        Self { in_flight: VecDeque::with_capacity(room), room }
    }

    /// Enters one. Where that is one too many, the oldest comes out and is to be awaited first.
    pub(crate) fn push(&mut self, item: T) -> Option<T> {
        self.in_flight.push_back(item);
        if self.in_flight.len() >= self.room { self.in_flight.pop_front() } else { None }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.in_flight.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supply_gives_out_what_it_has_and_no_more() {
        let supply = Supply::new(70);
        assert_eq!(supply.take(32), Some(32));
        assert_eq!(supply.take(32), Some(32));
        assert_eq!(supply.take(32), Some(6));
        assert_eq!(supply.take(32), None);
        assert_eq!(supply.take(1), None);
    }

    #[test]
    fn a_window_holds_what_it_has_room_for_and_gives_the_oldest() {
        let mut window = Window::new(3);
        assert_eq!((window.push(1), window.push(2)), (None, None));
        assert_eq!(window.push(3), Some(1), "three are in flight until the first of them is done");
        assert_eq!(window.push(4), Some(2));
        assert_eq!((window.pop(), window.pop(), window.pop()), (Some(3), Some(4), None));
    }

    #[test]
    fn a_window_of_one_waits_for_each() {
        let mut window = Window::new(1);
        assert_eq!(window.push('a'), Some('a'));
        assert_eq!(window.pop(), None);
    }
}
