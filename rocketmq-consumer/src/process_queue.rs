use std::collections::VecDeque;

/// What one queue has in flight: fetched messages by offset, done or not. Says how far the group's offset may go.
///
/// Pure: no clock, no task. Offsets come in ascending order, so the window is a double-ended queue.
#[derive(Debug)]
pub(crate) struct ProcessQueue {
    slots: VecDeque<Slot>,
    /// Every message below this offset has been fetched, or is not wanted.
    fetched_to: Option<i64>,
    /// Grows when the window starts over, so that what is finished late does not count.
    epoch: u32,
    unfinished: usize,
    bytes: usize,
    limits: Limits,
}

/// How much may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) span: i64,
}

impl Limits {
    /// The limits where messages are popped, which is less far ahead: what waits long has to be hidden anew.
    ///
    /// # Protocol
    /// Java: `DefaultMQPushConsumer.popThresholdForQueue`.
    pub(crate) fn of_pops(self) -> Self {
        Self { messages: self.messages.min(MOST_POPPED), ..self }
    }

    /// The limits of one of `queues` queues of a topic, which may together have so many messages and bytes in flight.
    /// Each may have one message at least.
    pub(crate) fn share(self, messages: Option<usize>, bytes: Option<usize>, queues: usize) -> Self {
        let share = |own: usize, of_all: Option<usize>| of_all.map_or(own, |all| own.min((all / queues.max(1)).max(1)));
        Self { messages: share(self.messages, messages), bytes: share(self.bytes, bytes), ..self }
    }
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    bytes: usize,
    done: bool,
}

impl ProcessQueue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { slots: VecDeque::new(), fetched_to: None, epoch: 0, unfinished: 0, bytes: 0, limits }
    }

    /// Changes how much may be in flight. What is in flight stays.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Begins at `offset`, forgetting what is in flight: its messages do not count any more when they are finished.
    pub(crate) fn start_at(&mut self, offset: i64) {
        self.slots.clear();
        self.unfinished = 0;
        self.bytes = 0;
        self.epoch = self.epoch.wrapping_add(1);
        self.fetched_to = Some(offset);
    }

    /// The epoch to hand out with messages.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Enters a fetched message. One that is not beyond the last one is in the window, or done, already: false.
    pub(crate) fn insert(&mut self, offset: i64, bytes: usize) -> bool {
        if self.slots.back().is_some_and(|last| offset <= last.offset) {
            return false;
        }
        self.slots.push_back(Slot { offset, bytes, done: false });
        self.unfinished += 1;
        self.bytes += bytes;
        true
    }

    /// Notes that everything below `offset` has been fetched.
    pub(crate) fn advance(&mut self, offset: i64) {
        self.fetched_to = Some(self.fetched_to.map_or(offset, |known| known.max(offset)));
    }

    /// Marks a message done.
    pub(crate) fn finish(&mut self, epoch: u32, offset: i64) {
        if epoch != self.epoch {
            return;
        }
        let Ok(index) = self.slots.binary_search_by_key(&offset, |slot| slot.offset) else { return };
        let Some(slot) = self.slots.get_mut(index).filter(|slot| !slot.done) else { return };
        slot.done = true;
        self.unfinished -= 1;
        self.bytes -= slot.bytes;
        while self.slots.front().is_some_and(|slot| slot.done) {
            self.slots.pop_front();
        }
    }

    /// The lowest offset that is not done: the one to record. `None` before anything is known.
    pub(crate) fn commit_offset(&self) -> Option<i64> {
        self.slots.front().map(|slot| slot.offset).or(self.fetched_to)
    }

    /// The lowest offset beyond `polled` that is not done: of the message that comes next.
    pub(crate) fn next_after(&self, polled: i64) -> Option<i64> {
        let next = self.slots.iter().find(|slot| !slot.done && slot.offset > polled);
        next.map(|slot| slot.offset).or(self.fetched_to)
    }

    /// The offsets that are not done, in ascending order.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = i64> {
        self.slots.iter().filter(|slot| !slot.done).map(|slot| slot.offset)
    }

    /// The bodies of the messages that are not done.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes of bodies that the limits leave room for.
    pub(crate) fn byte_room(&self) -> usize {
        self.limits.bytes.saturating_sub(self.bytes)
    }

    /// Whether another pull may be made. As in Java the limits may be passed by one pull.
    pub(crate) fn has_room(&self) -> bool {
        let span = match (self.slots.front(), self.slots.back()) {
            (Some(first), Some(last)) => last.offset.saturating_sub(first.offset),
            _ => 0,
        };
        self.unfinished < self.limits.messages && self.bytes < self.limits.bytes && span < self.limits.span
    }
}

const MOST_POPPED: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> ProcessQueue {
        let mut queue = ProcessQueue::new(Limits { messages: 3, bytes: 100, span: 10 });
        queue.start_at(5);
        queue
    }

    #[test]
    fn the_offset_to_record_is_the_lowest_that_is_not_done() {
        let mut queue = queue();
        assert_eq!(queue.commit_offset(), Some(5));
        for offset in [5, 6, 8] {
            assert!(queue.insert(offset, 1));
        }
        queue.advance(10);
        let epoch = queue.epoch();
        queue.finish(epoch, 6);
        assert_eq!(queue.commit_offset(), Some(5));
        queue.finish(epoch, 5);
        assert_eq!(queue.commit_offset(), Some(8));
        queue.finish(epoch, 8);
        assert_eq!(queue.commit_offset(), Some(10), "what was filtered out is passed once all before it is done");
        assert_eq!(queue.unfinished, 0);
    }

    #[test]
    fn a_message_finished_twice_counts_once() {
        let mut queue = queue();
        queue.insert(5, 10);
        queue.insert(6, 10);
        let epoch = queue.epoch();
        queue.finish(epoch, 6);
        queue.finish(epoch, 6);
        queue.finish(epoch, 99);
        assert_eq!((queue.unfinished, queue.bytes), (1, 10));
    }

    #[test]
    fn a_message_fetched_again_is_not_entered_again() {
        let mut queue = queue();
        assert!(queue.insert(5, 1));
        assert!(!queue.insert(5, 1));
        assert!(!queue.insert(4, 1));
    }

    #[test]
    fn what_belongs_to_an_earlier_window_does_not_count() {
        let mut queue = queue();
        queue.insert(5, 1);
        let old = queue.epoch();
        queue.start_at(100);
        queue.insert(100, 1);
        queue.finish(old, 100);
        queue.finish(old, 5);
        assert_eq!((queue.commit_offset(), queue.unfinished), (Some(100), 1));
    }

    #[test]
    fn a_window_may_start_over_further_back() {
        let mut queue = queue();
        queue.advance(50);
        queue.start_at(7);
        assert_eq!(queue.commit_offset(), Some(7));
    }

    #[test]
    fn the_queues_of_a_topic_share_its_limits() {
        let own = Limits { messages: 1000, bytes: 500, span: 10 };
        assert_eq!(own.share(None, None, 8), own);
        assert_eq!(own.share(Some(100), Some(90), 8), Limits { messages: 12, bytes: 11, ..own });
        assert_eq!(own.share(Some(5), Some(90_000), 8), Limits { messages: 1, ..own });
        // However many queues there are, the topic's limit stays the same.
        for queues in 1..=100 {
            let all = own.share(Some(100), None, queues).messages * queues;
            assert!((100 - queues..=100).contains(&all), "{queues} queues have {all}");
        }
    }

    #[test]
    fn limits_may_change_while_messages_are_in_flight() {
        let mut queue = queue();
        (5..8).for_each(|offset| assert!(queue.insert(offset, 1)));
        assert!(!queue.has_room());
        queue.set_limits(Limits { messages: 4, bytes: 100, span: 10 });
        assert!(queue.has_room());
    }

    #[test]
    fn offsets_that_make_no_sense_are_no_room() {
        let mut queue = queue();
        queue.insert(i64::MIN, 1);
        queue.insert(i64::MAX, 1);
        assert!(!queue.has_room());
    }

    #[test]
    fn room_ends_with_count_bytes_or_span() {
        let mut counted = queue();
        for offset in 5..8 {
            assert!(counted.has_room());
            counted.insert(offset, 1);
        }
        assert!(!counted.has_room());
        let mut heavy = queue();
        heavy.insert(5, 100);
        assert!(!heavy.has_room());
        let mut wide = queue();
        wide.insert(5, 1);
        wide.insert(15, 1);
        assert!(!wide.has_room());
        let epoch = wide.epoch();
        wide.finish(epoch, 5);
        assert!(wide.has_room());
    }
}
