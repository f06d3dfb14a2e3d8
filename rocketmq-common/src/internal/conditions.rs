//! The conditions of a client or a consumer: what its log and its health check report.

use super::LogOnChange;
use crate::{Condition, ConditionKind, health};
use rocketmq_remote::ResponseCode;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::{Mutex, MutexGuard},
};

type Key = (ConditionKind, String);

/// The conditions that hold at the moment, by kind and subject. Of a subject with several parts, a broker with several
/// queues, one condition is reported, which begins with the first part that fails and ends with the last one.
#[derive(Debug, Default)]
pub struct Conditions {
    log: LogOnChange<Key>,
    parts: Mutex<BTreeMap<Key, BTreeSet<String>>>,
}

impl Conditions {
    /// The condition holds. Returns true if it has to be logged: it is new, or its cause is.
    pub fn begins(&self, kind: ConditionKind, subject: impl Display, cause: impl Display) -> bool {
        self.log.begins((kind, subject.to_string()), cause)
    }

    /// The condition does not hold. Returns true if it has held until now.
    pub fn ends(&self, kind: ConditionKind, subject: impl Display) -> bool {
        !self.log.is_empty() && self.log.ends(&(kind, subject.to_string()))
    }

    /// The condition holds for one part of the subject. Returns true if it has to be logged.
    pub fn begins_for(
        &self,
        kind: ConditionKind,
        subject: impl Display,
        part: impl Display,
        cause: impl Display,
    ) -> bool {
        let key = (kind, subject.to_string());
        let mut parts = self.parts();
        parts.entry(key.clone()).or_default().insert(part.to_string());
        self.log.begins(key, cause)
    }

    /// The condition does not hold for one part of the subject. Returns true if this was the last part for which it held.
    pub fn ends_for(&self, kind: ConditionKind, subject: impl Display, part: impl Display) -> bool {
        if self.log.is_empty() {
            return false;
        }
        let key = (kind, subject.to_string());
        let mut parts = self.parts();
        let Some(failing) = parts.get_mut(&key) else { return false };
        failing.remove(&part.to_string());
        if !failing.is_empty() {
            return false;
        }
        parts.remove(&key);
        self.log.ends(&key)
    }

    /// Whether no condition holds.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Forgets the conditions whose subject no longer exists.
    pub fn retain(&self, mut exists: impl FnMut(ConditionKind, &str) -> bool) {
        if self.is_empty() {
            return;
        }
        let mut parts = self.parts();
        parts.retain(|(kind, subject), _| exists(*kind, subject));
        self.log.retain(|(kind, subject)| exists(*kind, subject));
    }

    /// All conditions that hold.
    pub fn current(&self) -> Vec<Condition> {
        let held = self.log.current().into_iter();
        held.map(|((kind, subject), cause)| Condition { kind, subject, cause }).collect()
    }

    /// What to check where a broker has answered `code`, or, for `None`, has not answered.
    pub fn hint(code: Option<ResponseCode>) -> &'static str {
        health::hint(code)
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Key, BTreeSet<String>>> {
        self.parts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConditionKind::{Commit, Pull};

    #[test]
    fn a_condition_of_several_parts_is_reported_once() {
        let conditions = Conditions::default();
        assert!(conditions.begins_for(Pull, "t at a", 0, "no permission"));
        assert!(!conditions.begins_for(Pull, "t at a", 1, "no permission"));
        assert!(conditions.begins_for(Pull, "t at b", 0, "no permission"), "another broker");
        assert!(!conditions.ends_for(Pull, "t at a", 0), "another part still fails");
        assert!(!conditions.ends_for(Pull, "t at a", 7), "a part that never failed");
        assert!(!conditions.ends_for(Commit, "t at a", 1), "another kind");
        assert!(conditions.ends_for(Pull, "t at a", 1));
        assert!(!conditions.ends_for(Pull, "t at a", 1));
        let current: Vec<_> = conditions.current().iter().map(Condition::to_string).collect();
        assert_eq!(current, ["pull t at b: no permission"]);
    }

    #[test]
    fn conditions_of_what_is_gone_are_forgotten() {
        let conditions = Conditions::default();
        conditions.begins(ConditionKind::Connect, "a:1", "refused");
        conditions.begins_for(Pull, "a:1", 0, "refused");
        conditions.retain(|kind, subject| kind != ConditionKind::Connect || subject != "a:1");
        assert_eq!(conditions.current().len(), 1);
        assert!(conditions.ends_for(Pull, "a:1", 0) && conditions.is_empty());
    }

    #[test]
    fn parts_whose_causes_differ_do_not_report_in_turns() {
        let conditions = Conditions::default();
        assert!(conditions.begins_for(Pull, "t at a", 0, "refused"));
        assert!(conditions.begins_for(Pull, "t at a", 1, "timed out"));
        for _ in 0..3 {
            assert!(!conditions.begins_for(Pull, "t at a", 0, "refused"));
            assert!(!conditions.begins_for(Pull, "t at a", 1, "timed out"));
        }
    }
}
