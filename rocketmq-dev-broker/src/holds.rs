//! Pulls that wait for a message.

use crate::filter::TagFilter;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::time::Instant;

/// The held pulls of a broker, by queue; `T` is what is needed to answer one.
#[derive(Debug)]
pub(crate) struct Holds<T> {
    next_id: u64,
    queues: HashMap<Arc<str>, HashMap<i32, Vec<Hold<T>>>>,
    deadlines: BTreeMap<(Instant, u64), (Arc<str>, i32)>,
}

#[derive(Debug)]
struct Hold<T> {
    id: u64,
    connection: u64,
    deadline: Instant,
    filter: TagFilter,
    pull: T,
}

/// What a pull waits for.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) topic: Arc<str>,
    pub(crate) queue_id: i32,
    pub(crate) filter: TagFilter,
    pub(crate) deadline: Instant,
    pub(crate) connection: u64,
}

impl<T> Default for Holds<T> {
    fn default() -> Self {
        Self { next_id: 0, queues: HashMap::new(), deadlines: BTreeMap::new() }
    }
}

impl<T> Holds<T> {
    /// Holds a pull. Answers whether its deadline is the earliest now.
    pub(crate) fn insert(&mut self, wait: Wait, pull: T) -> bool {
        let id = self.next_id;
        self.next_id += 1;
        let Wait { topic, queue_id, filter, deadline, connection } = wait;
        self.deadlines.insert((deadline, id), (topic.clone(), queue_id));
        let holds = self.queues.entry(topic).or_default().entry(queue_id).or_default();
        holds.push(Hold { id, connection, deadline, filter, pull });
        self.deadlines.first_key_value().is_some_and(|((_, first), _)| *first == id)
    }

    /// A message with this tag was appended: takes the pulls that want it. Those that do not are answered by
    /// `unmatched_until` at the latest, with a new offset. The second value tells whether there are such.
    pub(crate) fn wake(
        &mut self,
        topic: &str,
        queue_id: i32,
        tag_hash: i32,
        unmatched_until: impl FnOnce() -> Instant,
    ) -> (Vec<T>, bool) {
        let Some(holds) = self.queues.get_mut(topic).and_then(|queues| queues.get_mut(&queue_id)) else {
            return (Vec::new(), false);
        };
        if holds.is_empty() {
            return (Vec::new(), false);
        }
        let mut woken = Vec::with_capacity(holds.len());
        for hold in holds.extract_matching(|hold| hold.filter.matches(tag_hash)) {
            self.deadlines.remove(&(hold.deadline, hold.id));
            woken.push(hold.pull);
        }
        if holds.is_empty() {
            return (woken, false);
        }
        let until = unmatched_until();
        for hold in holds.iter_mut().filter(|hold| hold.deadline > until) {
            if let Some(queue) = self.deadlines.remove(&(hold.deadline, hold.id)) {
                hold.deadline = until;
                self.deadlines.insert((until, hold.id), queue);
            }
        }
        (woken, true)
    }

    /// Takes all that is held for a queue, whatever it wants.
    pub(crate) fn take_topic(&mut self, topic: &str, queue_id: i32) -> Vec<T> {
        let holds = self.queues.get_mut(topic).and_then(|queues| queues.get_mut(&queue_id));
        let holds = holds.map(std::mem::take).unwrap_or_default();
        for hold in &holds {
            self.deadlines.remove(&(hold.deadline, hold.id));
        }
        holds.into_iter().map(|hold| hold.pull).collect()
    }

    /// Takes the pulls whose time is over.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some(((deadline, id), (topic, queue_id))) = self.deadlines.pop_first() {
            if deadline > now {
                self.deadlines.insert((deadline, id), (topic, queue_id));
                break;
            }
            let holds = self.queues.get_mut(&topic).and_then(|queues| queues.get_mut(&queue_id));
            if let Some(holds) = holds {
                expired.extend(holds.extract_matching(|hold| hold.id == id).map(|hold| hold.pull));
            }
        }
        expired
    }

    /// Drops the pulls of a connection that has ended.
    pub(crate) fn drop_connection(&mut self, connection: u64) {
        for holds in self.queues.values_mut().flat_map(HashMap::values_mut) {
            for hold in holds.extract_matching(|hold| hold.connection == connection) {
                self.deadlines.remove(&(hold.deadline, hold.id));
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }
}

trait ExtractMatching<T> {
    /// Removes what matches and keeps the order of the rest.
    fn extract_matching(&mut self, matches: impl Fn(&T) -> bool) -> std::vec::IntoIter<T>;
}

impl<T> ExtractMatching<T> for Vec<T> {
    fn extract_matching(&mut self, matches: impl Fn(&T) -> bool) -> std::vec::IntoIter<T> {
        if !self.iter().any(&matches) {
            return Self::new().into_iter();
        }
        let (taken, kept): (Self, Self) = self.drain(..).partition(matches);
        *self = kept;
        taken.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn wait(queue_id: i32, filter: &str, deadline: Instant, connection: u64) -> Wait {
        let filter = TagFilter::parse(filter).unwrap();
        Wait { topic: "t".into(), queue_id, filter, deadline, connection }
    }

    #[test]
    fn a_message_wakes_those_that_want_it() {
        let now = Instant::now();
        let later = now + Duration::from_secs(15);
        let mut holds = Holds::default();
        assert!(holds.insert(wait(0, "*", later, 1), "all"));
        assert!(holds.insert(wait(0, "a", now + Duration::from_secs(9), 1), "a"));
        assert!(!holds.insert(wait(1, "*", later, 1), "other queue"));
        let soon = now + Duration::from_secs(5);
        assert_eq!(holds.wake("t", 0, 98, || soon), (vec!["all"], true));
        assert_eq!(holds.next_deadline(), Some(soon));
        assert_eq!(holds.wake("t", 0, 97, || soon), (vec!["a"], false));
        assert_eq!(holds.wake("t", 0, 97, || soon), (vec![], false));
        assert_eq!(holds.len(), 1);
    }

    #[test]
    fn time_ends_a_hold() {
        let now = Instant::now();
        let mut holds = Holds::default();
        holds.insert(wait(0, "*", now + Duration::from_secs(2), 1), 2);
        holds.insert(wait(1, "*", now + Duration::from_secs(1), 1), 1);
        assert_eq!(holds.take_expired(now), Vec::<i32>::new());
        assert_eq!(holds.take_expired(now + Duration::from_secs(1)), [1]);
        assert_eq!(holds.next_deadline(), Some(now + Duration::from_secs(2)));
    }

    #[test]
    fn a_connection_takes_its_holds_along() {
        let now = Instant::now();
        let mut holds = Holds::default();
        holds.insert(wait(0, "*", now, 1), 1);
        holds.insert(wait(0, "*", now, 2), 2);
        holds.drop_connection(1);
        assert_eq!(holds.len(), 1);
        assert_eq!(holds.take_expired(now), [2]);
    }
}
