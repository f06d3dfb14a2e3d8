//! What has been popped: where each group is, and which messages are hidden until when. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The popped messages of a broker.
#[derive(Debug)]
pub(crate) struct Pops {
    queues: HashMap<QueueOfGroup, Position>,
    /// What is hidden, by the time at which it comes back.
    hidden: BTreeMap<(i64, u64), (QueueOfGroup, Delivery)>,
    count: u64,
    most_hidden: usize,
}

impl Default for Pops {
    fn default() -> Self {
        Self { queues: HashMap::new(), hidden: BTreeMap::new(), count: 0, most_hidden: MAX_HIDDEN }
    }
}

/// A queue as one group pops it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueOfGroup {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) queue_id: i32,
}

/// One delivery of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Delivery {
    pub(crate) offset: i64,
    pub(crate) pop_time_ms: i64,
}

/// Where a group is in a queue.
#[derive(Debug, Default)]
struct Position {
    next: i64,
    hidden: HashMap<Delivery, (i64, u64)>,
    order: Option<Order>,
}

/// What was popped last from a queue that is popped in order. Java: `ConsumerOrderInfoManager.OrderInfo`.
#[derive(Debug)]
struct Order {
    attempt_id: Option<String>,
    pop_time_ms: i64,
    messages: Vec<Ordered>,
}

#[derive(Debug)]
struct Ordered {
    offset: i64,
    is_done: bool,
    visible_ms: i64,
    /// How often it came before.
    times: i32,
}

/// What an acknowledgement of an ordered message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrderedAck {
    /// It is of an earlier delivery, or the message is done already.
    Stale,
    /// The message was not popped.
    Unknown,
    /// The group is here now.
    Next(i64),
}

impl Pops {
    /// The next offset to pop.
    pub(crate) fn next(&self, queue: &QueueOfGroup) -> Option<i64> {
        self.queues.get(queue).map(|position| position.next)
    }

    /// The group has come as far as this.
    pub(crate) fn advance(&mut self, queue: &QueueOfGroup, next: i64) {
        self.position(queue).next = next;
    }

    /// Hides a message until a moment.
    pub(crate) fn hide(&mut self, queue: &QueueOfGroup, delivery: Delivery, until_ms: i64) {
        let key = (until_ms, self.count);
        self.count += 1;
        if let Some(old) = self.position(queue).hidden.insert(delivery, key) {
            self.hidden.remove(&old);
        }
        self.hidden.insert(key, (queue.clone(), delivery));
    }

    /// Hides a message as another delivery, in place of the one before. False where that was not hidden and there is no
    /// room for more.
    pub(crate) fn hide_again(
        &mut self,
        queue: &QueueOfGroup,
        before: Delivery,
        pop_time_ms: i64,
        until_ms: i64,
    ) -> bool {
        if !self.ack(queue, before) && !self.has_room() {
            return false;
        }
        self.hide(queue, Delivery { pop_time_ms, ..before }, until_ms);
        true
    }

    /// A delivery is done; answers whether it was hidden.
    pub(crate) fn ack(&mut self, queue: &QueueOfGroup, delivery: Delivery) -> bool {
        let key = self.queues.get_mut(queue).and_then(|position| position.hidden.remove(&delivery));
        key.is_some_and(|key| self.hidden.remove(&key).is_some())
    }

    /// A message whose time is over.
    pub(crate) fn take_due(&mut self, now_ms: i64) -> Option<(QueueOfGroup, Delivery)> {
        let entry = self.hidden.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        let (queue, delivery) = entry.remove();
        if let Some(position) = self.queues.get_mut(&queue) {
            position.hidden.remove(&delivery);
        }
        Some((queue, delivery))
    }

    /// When the next message comes back.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.hidden.first_key_value().map(|((until_ms, _), _)| *until_ms)
    }

    /// Whether more may be hidden.
    pub(crate) fn has_room(&self) -> bool {
        self.hidden.len() < self.most_hidden
    }

    /// Whether a queue that is popped in order gives nothing now: a message is neither done nor visible again. An attempt
    /// that is made once more gets what it got.
    pub(crate) fn is_blocked(&self, queue: &QueueOfGroup, attempt_id: Option<&str>, now_ms: i64) -> bool {
        let Some(order) = self.queues.get(queue).and_then(|position| position.order.as_ref()) else { return false };
        if order.attempt_id.is_some() && order.attempt_id.as_deref() == attempt_id {
            return false;
        }
        order.messages.iter().any(|message| !message.is_done && now_ms < message.visible_ms)
    }

    /// Messages were popped in order; answers how often each came before.
    pub(crate) fn order(
        &mut self,
        queue: &QueueOfGroup,
        offsets: &[i64],
        attempt_id: Option<&str>,
        pop_time_ms: i64,
        until_ms: i64,
    ) -> Vec<i32> {
        let position = self.position(queue);
        let before = position.order.take();
        let times = |offset: i64| {
            let Some(before) = &before else { return 0 };
            let is_same = before.attempt_id.is_some() && before.attempt_id.as_deref() == attempt_id;
            let came = before.messages.iter().find(|message| message.offset == offset);
            came.map_or(0, |came| came.times + i32::from(!is_same))
        };
        let message =
            |offset: &i64| Ordered { offset: *offset, is_done: false, visible_ms: until_ms, times: times(*offset) };
        let messages: Vec<Ordered> = offsets.iter().map(message).collect();
        let counts = messages.iter().map(|message| message.times).collect();
        position.order = Some(Order { attempt_id: attempt_id.map(ToOwned::to_owned), pop_time_ms, messages });
        counts
    }

    /// An ordered message is done.
    pub(crate) fn ack_in_order(&mut self, queue: &QueueOfGroup, delivery: Delivery) -> OrderedAck {
        let Some(position) = self.queues.get_mut(queue) else { return OrderedAck::Unknown };
        if delivery.offset < position.next {
            return OrderedAck::Stale;
        }
        let Some(order) = &mut position.order else { return OrderedAck::Unknown };
        if order.pop_time_ms != delivery.pop_time_ms {
            return OrderedAck::Stale;
        }
        let Some(message) = order.messages.iter_mut().find(|message| message.offset == delivery.offset) else {
            return OrderedAck::Unknown;
        };
        message.is_done = true;
        let waiting = order.messages.iter().find(|message| !message.is_done);
        let last = order.messages.last();
        position.next = waiting.map(|message| message.offset).or(last.map(|message| message.offset + 1)).unwrap_or(0);
        OrderedAck::Next(position.next)
    }

    /// Hides an ordered message until another moment; answers whether it is not done.
    pub(crate) fn hide_in_order(&mut self, queue: &QueueOfGroup, delivery: Delivery, until_ms: i64) -> bool {
        let Some(position) = self.queues.get_mut(queue) else { return true };
        if delivery.offset < position.next {
            return false;
        }
        let order = position.order.as_mut().filter(|order| order.pop_time_ms == delivery.pop_time_ms);
        let mut messages = order.into_iter().flat_map(|order| &mut order.messages);
        if let Some(message) = messages.find(|message| message.offset == delivery.offset) {
            message.visible_ms = until_ms;
        }
        true
    }

    fn position(&mut self, queue: &QueueOfGroup) -> &mut Position {
        if !self.queues.contains_key(queue) {
            self.queues.insert(queue.clone(), Position::default());
        }
        self.queues.get_mut(queue).expect("the position has just been entered")
    }
}

/// Beyond this nothing is popped until something is settled.
const MAX_HIDDEN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> QueueOfGroup {
        QueueOfGroup { group: "g".into(), topic: "t".into(), queue_id: 0 }
    }

    fn delivery(offset: i64, pop_time_ms: i64) -> Delivery {
        Delivery { offset, pop_time_ms }
    }

    #[test]
    fn what_is_not_done_in_time_comes_back() {
        let (mut pops, queue) = (Pops::default(), queue());
        assert_eq!(pops.next(&queue), None);
        pops.advance(&queue, 3);
        for (offset, until) in [(0, 30), (1, 20), (2, 20)] {
            pops.hide(&queue, delivery(offset, 10), until);
        }
        assert!(pops.ack(&queue, delivery(1, 10)));
        assert!(!pops.ack(&queue, delivery(1, 10)), "done twice");
        assert!(!pops.ack(&queue, delivery(2, 9)), "of another delivery");
        assert_eq!((pops.next(&queue), pops.next_ms(), pops.hidden.len()), (Some(3), Some(20), 2));
        assert_eq!(pops.take_due(19), None);
        assert_eq!(pops.take_due(20), Some((queue.clone(), delivery(2, 10))));
        assert_eq!(pops.take_due(29), None);
        pops.hide(&queue, delivery(0, 10), 40);
        assert_eq!((pops.take_due(39), pops.hidden.len()), (None, 1));
        assert_eq!(pops.take_due(40), Some((queue.clone(), delivery(0, 10))));
        assert!(!pops.ack(&queue, delivery(0, 10)), "done after it came back");
    }

    #[test]
    fn no_more_is_hidden_than_there_is_room_for() {
        let (mut pops, queue) = (Pops { most_hidden: 2, ..Pops::default() }, queue());
        pops.hide(&queue, delivery(0, 10), 20);
        assert!(pops.has_room() && pops.hide_again(&queue, delivery(1, 10), 11, 20));
        assert!(!pops.has_room() && !pops.hide_again(&queue, delivery(2, 10), 11, 20));
        assert!(pops.hide_again(&queue, delivery(0, 10), 11, 30), "it takes no more room than before");
        assert_eq!((pops.hidden.len(), pops.queues[&queue].hidden.len()), (2, 2));
        assert_eq!(pops.take_due(29), Some((queue.clone(), delivery(1, 11))));
        assert!(pops.hide_again(&queue, delivery(2, 10), 11, 20));
    }

    #[test]
    fn a_queue_in_order_waits_for_all_it_gave() {
        let (mut pops, queue) = (Pops::default(), queue());
        assert!(!pops.is_blocked(&queue, None, 0));
        assert_eq!(pops.ack_in_order(&queue, delivery(5, 10)), OrderedAck::Unknown);
        assert!(pops.hide_in_order(&queue, delivery(5, 10), 99));
        assert!(pops.queues.is_empty(), "nothing is kept of who has popped nothing");
        assert_eq!(pops.order(&queue, &[5, 7], Some("a"), 10, 20), [0, 0]);
        pops.advance(&queue, 5);
        assert!(pops.is_blocked(&queue, None, 19) && pops.is_blocked(&queue, Some("b"), 19));
        assert!(!pops.is_blocked(&queue, Some("a"), 19), "the same attempt");
        assert!(!pops.is_blocked(&queue, None, 20), "visible again");
        assert_eq!(pops.ack_in_order(&queue, delivery(6, 10)), OrderedAck::Unknown);
        assert_eq!(pops.ack_in_order(&queue, delivery(7, 10)), OrderedAck::Next(5));
        assert!(pops.is_blocked(&queue, None, 19));
        assert!(pops.hide_in_order(&queue, delivery(5, 10), 15));
        assert!(!pops.is_blocked(&queue, None, 15));
        assert_eq!(pops.order(&queue, &[5, 7], Some("a"), 11, 21), [0, 0], "the same attempt counts once");
        assert_eq!(pops.order(&queue, &[5, 7, 8], Some("b"), 12, 22), [1, 1, 0]);
        assert_eq!(pops.ack_in_order(&queue, delivery(5, 11)), OrderedAck::Stale);
        assert_eq!(pops.ack_in_order(&queue, delivery(5, 12)), OrderedAck::Next(7));
        assert_eq!(pops.ack_in_order(&queue, delivery(5, 12)), OrderedAck::Stale);
        assert!(!pops.hide_in_order(&queue, delivery(5, 12), 99));
        assert_eq!(pops.ack_in_order(&queue, delivery(7, 12)), OrderedAck::Next(8));
        assert_eq!(pops.ack_in_order(&queue, delivery(8, 12)), OrderedAck::Next(9));
        assert!(!pops.is_blocked(&queue, None, 0));
    }
}
