//! Conditions that are logged when they begin, when their cause changes and when they end, not at each retry.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fmt::Display,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The conditions that hold at the moment, by key, each with the texts of its causes.
///
/// An operation that is retried for as long as it fails reports each failure to [`begins`](Self::begins) and logs it at
/// WARN if that returns true, else at DEBUG. It reports each success to [`ends`](Self::ends) and logs the recovery at
/// INFO if that returns true. Causes that alternate are reported once each, and of one condition no more than 8
/// are, so that a cause which names a time or a number does not fill the log.
///
/// A key of an object that no longer exists has to be removed with [`ends`](Self::ends) or [`retain`](Self::retain).
#[derive(Debug)]
pub struct LogOnChange<K = String> {
    /// The reported causes of each condition, the current one last.
    causes: Mutex<BTreeMap<K, Vec<String>>>,
    /// The number of entries, so that `ends` needs no lock while there is none.
    count: AtomicUsize,
}

impl<K> Default for LogOnChange<K> {
    fn default() -> Self {
        Self { causes: Mutex::default(), count: AtomicUsize::new(0) }
    }
}

impl<K: Ord> LogOnChange<K> {
    /// Records that the condition `key` holds because of `cause`. Returns true if it is new, or if its cause has changed
    /// to one that has not been reported since the condition began.
    pub fn begins(&self, key: impl Into<K>, cause: impl Display) -> bool {
        let cause = cause.to_string();
        let mut causes = self.causes();
        let key = key.into();
        let known = causes.entry(key).or_default();
        let at = known.iter().position(|known| *known == cause);
        let is_news = at.is_none() && known.len() < MAX_CAUSES;
        if let Some(at) = at {
            known[at..].rotate_left(1);
        } else if is_news {
            known.push(cause);
        }
        self.count.store(causes.len(), Ordering::Release);
        is_news
    }

    /// Records that the condition `key` does not hold. Returns true if it held until now.
    pub fn ends<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        if self.is_empty() {
            return false;
        }
        let mut causes = self.causes();
        let held = causes.remove(key).is_some();
        self.count.store(causes.len(), Ordering::Release);
        held
    }

    /// Whether the condition `key` holds.
    pub fn holds<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        !self.is_empty() && self.causes().contains_key(key)
    }

    /// Removes the conditions whose key does not satisfy `keep`, for objects that no longer exist.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut causes = self.causes();
        causes.retain(|key, _| keep(key));
        self.count.store(causes.len(), Ordering::Release);
    }

    /// Whether no condition holds.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// The conditions that hold, by key, with their causes.
    pub fn current(&self) -> BTreeMap<K, String>
    where
        K: Clone,
    {
        let causes = self.causes();
        let last = |causes: &Vec<String>| causes.last().cloned().unwrap_or_default();
        causes.iter().map(|(key, causes)| (key.clone(), last(causes))).collect()
    }

    fn causes(&self) -> MutexGuard<'_, BTreeMap<K, Vec<String>>> {
        self.causes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How many causes of one condition are reported.
const MAX_CAUSES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_reported_when_it_begins_changes_or_begins_again() {
        let conditions = LogOnChange::<String>::default();
        assert!(conditions.begins("one", "no"));
        assert!(!conditions.begins("one", "no"));
        assert!(conditions.begins("other", "no"), "another key");
        assert!(conditions.begins("one", "never"), "another cause");
        assert!(!conditions.begins("one", "no"), "the first cause again");
        assert!(!conditions.begins("one", "never"), "causes that alternate");
        assert!(conditions.ends("one"));
        assert!(!conditions.ends("one"), "an end is reported once");
        assert!(conditions.begins("one", "no"), "it has ended in between");
        assert!(!conditions.begins("other", "no"), "the other condition still holds");
    }

    #[test]
    fn causes_that_always_differ_do_not_fill_the_log() {
        let conditions = LogOnChange::<String>::default();
        let reported = (0..100).filter(|number| conditions.begins("one", number)).count();
        assert_eq!(reported, MAX_CAUSES);
        assert!(conditions.ends("one") && conditions.begins("one", 100));
    }

    #[test]
    fn the_conditions_that_hold_are_listed_with_their_causes() {
        let conditions = LogOnChange::<String>::default();
        assert!(conditions.is_empty() && !conditions.ends("a") && !conditions.holds("a"));
        conditions.begins("a", "first");
        conditions.begins("b", "second");
        conditions.begins("a", "third");
        assert!(conditions.holds("a") && !conditions.is_empty());
        let current: Vec<_> = conditions.current().into_iter().collect();
        assert_eq!(current, [("a".to_owned(), "third".to_owned()), ("b".to_owned(), "second".to_owned())]);
        conditions.retain(|key| key == "b");
        assert!(!conditions.holds("a") && conditions.ends("b"));
        assert!(conditions.is_empty());
    }
}
