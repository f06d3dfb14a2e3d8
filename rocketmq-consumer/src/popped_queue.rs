use crate::{pop_handle::Kept, process_queue::Limits};
use rocketmq_common::StoredMessage;
use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

/// What a queue that is popped has beside: its messages that are hidden from the group, because this member is to settle
/// them.
#[derive(Debug)]
pub(crate) struct PoppedQueue {
    unsettled: Mutex<Unsettled>,
    fewer: Notify,
    /// When what was given back comes again.
    again: watch::Sender<BTreeSet<Instant>>,
}

#[derive(Debug)]
struct Unsettled {
    /// By where a message lies in its broker's log: no two deliveries lie in one place.
    messages: HashMap<i64, Arc<Hidden>>,
    bytes: usize,
    limits: Limits,
    /// A task sees to it that they stay hidden.
    is_watched: bool,
}

impl Unsettled {
    fn has_room(&self) -> bool {
        self.messages.len() < self.limits.messages && self.bytes < self.limits.bytes
    }
}

/// One message that is to be settled.
#[derive(Debug)]
pub(crate) struct Hidden {
    /// Held by the one who settles the message, or has it hidden for longer.
    pub(crate) kept: tokio::sync::Mutex<Kept>,
    bytes: usize,
}

impl Hidden {
    /// Whether the message is visible again, and may be with another member.
    fn has_expired(&self) -> bool {
        self.expires_within(Duration::ZERO)
    }

    /// Whether that is so after a time, unless somebody settles the message just now.
    pub(crate) fn expires_within(&self, time: Duration) -> bool {
        self.kept.try_lock().is_ok_and(|kept| kept.expires <= Instant::now() + time)
    }
}

impl PoppedQueue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            unsettled: Mutex::new(Unsettled { messages: HashMap::new(), bytes: 0, limits, is_watched: false }),
            fewer: Notify::new(),
            again: watch::Sender::default(),
        }
    }

    /// Enters a message. One that is here already has come once more, because its broker has forgotten that it gave it:
    /// the new handle counts then, and the message is not to be consumed twice; false.
    pub(crate) fn enter(&self, message: &StoredMessage, kept: Kept) -> bool {
        let bytes = message.body().len();
        let hidden = Arc::new(Hidden { kept: tokio::sync::Mutex::new(kept), bytes });
        let mut unsettled = self.unsettled();
        match unsettled.messages.entry(message.commit_log_offset()) {
            Entry::Occupied(mut known) => {
                known.insert(hidden);
                false
            }
            Entry::Vacant(free) => {
                free.insert(hidden);
                unsettled.bytes += bytes;
                true
            }
        }
    }

    /// Whether somebody has to begin to see to it that messages stay hidden. Who asks is to do it.
    pub(crate) fn is_to_be_watched(&self) -> bool {
        let mut unsettled = self.unsettled();
        !unsettled.messages.is_empty() && !std::mem::replace(&mut unsettled.is_watched, true)
    }

    /// What is to be seen to; `None` where there is nothing, and nobody has to any more.
    pub(crate) fn watched(&self) -> Option<Vec<Arc<Hidden>>> {
        let mut unsettled = self.unsettled();
        unsettled.is_watched = !unsettled.messages.is_empty();
        unsettled.is_watched.then(|| unsettled.messages.values().cloned().collect())
    }

    pub(crate) fn get(&self, message: &StoredMessage) -> Option<Arc<Hidden>> {
        self.unsettled().messages.get(&message.commit_log_offset()).cloned()
    }

    /// A message is settled.
    pub(crate) fn remove(&self, message: &StoredMessage) {
        let mut unsettled = self.unsettled();
        if let Some(hidden) = unsettled.messages.remove(&message.commit_log_offset()) {
            unsettled.bytes -= hidden.bytes;
        }
        drop(unsettled);
        self.fewer.notify_waiters();
    }

    /// Whether a message that has waited may be begun. One that is visible again is with the broker now.
    pub(crate) fn may_begin(&self, message: &StoredMessage) -> bool {
        let hidden = self.get(message);
        if hidden.as_ref().is_some_and(|hidden| hidden.has_expired()) {
            self.remove(message);
            return false;
        }
        hidden.is_some()
    }

    /// The bytes of bodies that the limits leave room for.
    pub(crate) fn byte_room(&self) -> usize {
        let unsettled = self.unsettled();
        unsettled.limits.bytes.saturating_sub(unsettled.bytes)
    }

    pub(crate) fn count(&self) -> usize {
        self.unsettled().messages.len()
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        self.unsettled().limits = limits;
        self.fewer.notify_waiters();
    }

    /// Until another pop may be made. As with pulls the limits may be passed by one.
    pub(crate) async fn wait_for_room(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.unsettled().has_room() {
                return;
            }
            fewer.await;
        }
    }

    /// Something was given back, and comes again after a time.
    pub(crate) fn expect_again(&self, after: Duration) {
        let at = Instant::now() + after + BROKERS_LOOK;
        self.again.send_if_modified(|expected| {
            // One look finds all that is there.
            if expected.range(at..=at + BROKERS_LOOK).next().is_some() {
                return false;
            }
            expected.insert(at);
            if expected.len() > MOST_EXPECTED {
                expected.pop_last();
            }
            true
        });
    }

    /// Until something that was given back may be there again.
    pub(crate) async fn wait_again(&self) {
        let mut again = self.again.subscribe();
        loop {
            let next = again.borrow_and_update().first().copied();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as this does.
                _ = again.changed() => {}
                () = due => {
                    self.again.send_modify(|expected| expected.retain(|at| *at > Instant::now()));
                    return;
                }
            }
        }
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Brokers look in steps of a second for what is visible again, and tell nobody of it.
const BROKERS_LOOK: Duration = Duration::from_secs(1);
/// Beyond this the latest are found when the broker is asked next anyway.
const MOST_EXPECTED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::pulled;
    use rocketmq_common::message::{DecodeLimits, decode_records};

    fn queue() -> PoppedQueue {
        PoppedQueue::new(Limits { messages: 2, bytes: 300, span: 0 })
    }

    fn messages(count: i64) -> Vec<StoredMessage> {
        let records = decode_records(pulled(0, count), &"t".into(), &"b".into(), DecodeLimits::default());
        records.collect::<Result<_, _>>().unwrap()
    }

    /// A handle whose time is over in so many milliseconds.
    fn kept(left_ms: i64) -> Kept {
        let popped_ms = crate::subscriptions::now_ms() + left_ms - 60_000;
        Kept::parse(&format!("10 {popped_ms} 60000 3 0 b 1 12 t")).unwrap()
    }

    #[tokio::test]
    async fn room_ends_with_count_or_bytes_and_comes_back() {
        let (queue, messages) = (queue(), messages(3));
        let has_room = || queue.wait_for_room();
        for message in &messages[..2] {
            tokio::time::timeout(Duration::ZERO, has_room()).await.expect("there is room");
            assert!(queue.enter(message, kept(60_000)));
        }
        tokio::time::timeout(Duration::ZERO, has_room()).await.expect_err("two are the limit");
        queue.set_limits(Limits { messages: 9, bytes: 256, span: 0 });
        tokio::time::timeout(Duration::ZERO, has_room()).await.expect_err("256 bytes are there");
        queue.remove(&messages[0]);
        queue.remove(&messages[0]);
        has_room().await;
        queue.remove(&messages[1]);
        assert_eq!((queue.count(), queue.unsettled().bytes), (0, 0));
    }

    #[test]
    fn a_message_that_came_once_more_is_consumed_once() {
        let (queue, messages) = (queue(), messages(1));
        assert!(queue.enter(&messages[0], kept(60_000)));
        assert!(!queue.enter(&messages[0], kept(90_000)));
        let hidden = queue.get(&messages[0]).unwrap();
        assert!(hidden.kept.try_lock().unwrap().expires > Instant::now() + Duration::from_secs(70));
        assert_eq!((queue.count(), queue.unsettled().bytes), (1, 128));
    }

    #[test]
    fn what_is_visible_again_is_not_begun() {
        let (queue, messages) = (queue(), messages(2));
        assert!(!queue.may_begin(&messages[0]), "it never came");
        queue.enter(&messages[0], kept(60_000));
        queue.enter(&messages[1], kept(-1));
        assert!(queue.may_begin(&messages[0]));
        assert!(!queue.may_begin(&messages[1]));
        assert_eq!(queue.count(), 1);
    }

    #[test]
    fn one_at_a_time_sees_to_what_is_there() {
        let (queue, messages) = (queue(), messages(1));
        assert!(!queue.is_to_be_watched(), "there is nothing");
        queue.enter(&messages[0], kept(60_000));
        assert!(queue.is_to_be_watched());
        assert!(!queue.is_to_be_watched(), "somebody does");
        assert_eq!(queue.watched().map(|hidden| hidden.len()), Some(1));
        queue.remove(&messages[0]);
        assert!(queue.watched().is_none());
        queue.enter(&messages[0], kept(60_000));
        assert!(queue.is_to_be_watched());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_back_is_looked_for_when_it_is_due() {
        let queue = queue();
        let began = Instant::now();
        for seconds in [60, 10, 30, 31, 29] {
            queue.expect_again(Duration::from_secs(seconds));
        }
        for seconds in [11, 31, 32, 61] {
            queue.wait_again().await;
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
        let nothing_more = tokio::time::timeout(Duration::from_secs(600), queue.wait_again());
        nothing_more.await.expect_err("all has been looked for");
        (0..1000).for_each(|hours| queue.expect_again(Duration::from_secs(hours * 3600)));
        assert_eq!(queue.again.borrow().len(), MOST_EXPECTED);
    }
}
