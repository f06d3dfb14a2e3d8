//! Which member of a group owns which queue, for ordered consumption. Pure: no I/O, no clock.

use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// The queue locks of a broker. Java: `RebalanceLockManager`.
#[derive(Debug, Default)]
pub(crate) struct QueueLocks {
    groups: HashMap<String, HashMap<(String, i32), Owner>>,
}

#[derive(Debug)]
struct Owner {
    client_id: String,
    since: Instant,
}

impl QueueLocks {
    /// Locks a queue, or renews its lock; answers whether it is the client's now.
    pub(crate) fn lock(&mut self, group: &str, queue: (&str, i32), client_id: &str, now: Instant) -> bool {
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(group) {
            return false;
        }
        let queues = self.groups.entry(group.to_owned()).or_default();
        let key = (queue.0.to_owned(), queue.1);
        if queues.len() >= MAX_QUEUES && !queues.contains_key(&key) {
            return false;
        }
        let owner = queues.entry(key).or_insert_with(|| Owner { client_id: client_id.to_owned(), since: now });
        if owner.client_id != client_id && !owner.is_expired(now) {
            return false;
        }
        *owner = Owner { client_id: client_id.to_owned(), since: now };
        true
    }

    /// Gives a lock up, if it is the client's.
    pub(crate) fn unlock(&mut self, group: &str, queue: (&str, i32), client_id: &str) {
        let key = (queue.0.to_owned(), queue.1);
        if let Some(queues) = self.groups.get_mut(group) {
            if queues.get(&key).is_some_and(|owner| owner.client_id == client_id) {
                queues.remove(&key);
            }
            if queues.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Whether any queue of a group is locked.
    pub(crate) fn any(&self, group: &str, now: Instant) -> bool {
        self.groups.get(group).is_some_and(|queues| queues.values().any(|owner| !owner.is_expired(now)))
    }
}

impl Owner {
    fn is_expired(&self, now: Instant) -> bool {
        now.duration_since(self.since) > EXPIRY
    }
}

/// Java: `REBALANCE_LOCK_MAX_LIVE_TIME`.
const EXPIRY: Duration = Duration::from_secs(60);
const MAX_GROUPS: usize = 1 << 16;
const MAX_QUEUES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_its_owners_until_it_expires() {
        let now = Instant::now();
        let mut locks = QueueLocks::default();
        assert!(locks.lock("g", ("t", 0), "c1", now));
        assert!(!locks.lock("g", ("t", 0), "c2", now));
        assert!(locks.lock("g", ("t", 1), "c2", now));
        assert!(locks.lock("g", ("t", 0), "c1", now + EXPIRY));
        assert!(!locks.lock("g", ("t", 0), "c2", now + EXPIRY * 2));
        assert!(locks.lock("g", ("t", 0), "c2", now + EXPIRY * 2 + Duration::from_millis(1)));
    }

    #[test]
    fn only_the_owner_unlocks() {
        let now = Instant::now();
        let mut locks = QueueLocks::default();
        locks.lock("g", ("t", 0), "c1", now);
        locks.unlock("g", ("t", 0), "c2");
        assert!(locks.any("g", now));
        assert!(!locks.any("g", now + EXPIRY + Duration::from_millis(1)));
        locks.unlock("g", ("t", 0), "c1");
        assert!(!locks.any("g", now));
    }
}
