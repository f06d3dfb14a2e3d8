use rocketmq_common::MessageQueue;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The next queue, round and round. Pure: where it begins comes in.
#[derive(Debug)]
pub(crate) struct RoundRobin(AtomicUsize);

impl RoundRobin {
    pub(crate) fn beginning_at(first: usize) -> Self {
        Self(AtomicUsize::new(first))
    }

    /// The next queue that is not on broker `avoid`; where all are, the next one. `None` where there are none.
    pub(crate) fn next<'a>(&self, queues: &'a [MessageQueue], avoid: Option<&str>) -> Option<&'a MessageQueue> {
        let count = queues.len();
        let first = self.0.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        let Some(avoid) = avoid else { return queues.get(first) };
        let elsewhere =
            (0..count).map(|step| &queues[(first + step) % count]).find(|queue| &*queue.broker_name != avoid);
        elsewhere.or_else(|| queues.get(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(brokers: &[&str]) -> Vec<MessageQueue> {
        brokers.iter().map(|broker| MessageQueue::new("t", *broker, 0)).collect()
    }

    #[test]
    fn each_queue_has_its_turn() {
        let queues: Vec<_> = (0..3).map(|id| MessageQueue::new("t", "a", id)).collect();
        let next = RoundRobin::beginning_at(usize::MAX - 2);
        let ids: Vec<_> = (0..6).map(|_| next.next(&queues, None).unwrap().queue_id).collect();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{ids:?}");
    }

    #[test]
    fn the_broker_that_failed_is_avoided_while_there_is_another() {
        let next = RoundRobin::beginning_at(0);
        let both = queues(&["a", "a", "b"]);
        for _ in 0..6 {
            assert_eq!(&*next.next(&both, Some("a")).unwrap().broker_name, "b");
        }
        assert!(next.next(&queues(&["a"]), Some("a")).is_some());
    }

    #[test]
    fn no_queue_is_none() {
        assert!(RoundRobin::beginning_at(7).next(&[], None).is_none());
    }
}
