use std::time::Duration;
use tokio::time::Instant;

/// Whether a queue's lock is ours, for ordered consumption. Pure: the time comes in.
///
/// A lock that was lost may have been somebody else's meanwhile. So nothing is consumed on a lock that is new until
/// somebody has looked how far the group is: each time the lock becomes ours a tenure begins, and one has to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// When the broker was last asked, of the times it said that the lock is ours; `None` while it is not.
    since: Option<Instant>,
    tenure: u32,
    checked: u32,
    /// Where each member has all queues there is nothing to lock.
    is_needed: bool,
}

impl Hold {
    /// A lock that is not ours yet.
    pub(crate) fn needed() -> Self {
        Self { since: None, tenure: 0, checked: 0, is_needed: true }
    }

    /// No lock at all.
    pub(crate) fn not_needed() -> Self {
        Self { since: None, tenure: 1, checked: 0, is_needed: false }
    }

    /// The broker said that the lock is ours, when asked at `asked_at`.
    pub(crate) fn grant(&mut self, asked_at: Instant) {
        if self.since.is_none() {
            self.tenure = self.tenure.wrapping_add(1);
        }
        self.since = Some(asked_at);
    }

    /// The lock is not ours any more; whether it was until now.
    pub(crate) fn lose(&mut self) -> bool {
        self.since.take().is_some()
    }

    /// Loses the lock if it has not been renewed for too long; whether it was ours until now.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        !self.is_held(now) && self.lose()
    }

    pub(crate) fn is_held(&self, now: Instant) -> bool {
        !self.is_needed || self.since.is_some_and(|since| now.saturating_duration_since(since) <= LIFE)
    }

    /// The tenure, while the lock is ours.
    pub(crate) fn tenure(&self, now: Instant) -> Option<u32> {
        self.is_held(now).then_some(self.tenure)
    }

    /// It is known how far the group was when this tenure began.
    pub(crate) fn check(&mut self, tenure: u32) {
        self.checked = tenure;
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.checked == self.tenure
    }

    /// Whether messages may be consumed.
    pub(crate) fn may_consume(&self, now: Instant) -> bool {
        self.is_held(now) && self.is_checked()
    }

    /// When the lock was last asked for and granted, while it is ours.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.is_needed
    }
}

/// How long a lock counts that is not renewed. Java: `REBALANCE_LOCK_MAX_LIVE_TIME`; brokers keep it for 60 s.
const LIFE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lock_counts_for_half_of_the_time_it_lives_at_the_broker() {
        let now = Instant::now();
        let mut hold = Hold::needed();
        assert!(!hold.is_held(now));
        hold.grant(now);
        assert!(hold.is_held(now + LIFE) && !hold.is_held(now + LIFE + SECOND));
        hold.grant(now + LIFE);
        assert!(hold.is_held(now + LIFE + SECOND));
        assert!(!hold.expire(now + LIFE * 2));
        assert!(hold.expire(now + LIFE * 3));
        assert!(!hold.expire(now + LIFE * 3), "it is lost once");
    }

    #[test]
    fn a_renewed_lock_goes_on_and_a_new_one_has_to_be_checked() {
        let now = Instant::now();
        let mut hold = Hold::needed();
        hold.grant(now);
        assert!(hold.is_held(now) && !hold.may_consume(now));
        let tenure = hold.tenure(now).unwrap();
        hold.check(tenure);
        assert!(hold.may_consume(now));
        hold.grant(now + SECOND);
        assert!(hold.may_consume(now + SECOND));
        assert!(hold.lose() && !hold.lose());
        assert_eq!((hold.tenure(now), hold.may_consume(now)), (None, false));
        hold.grant(now + SECOND * 2);
        assert!(hold.is_held(now + SECOND * 2) && !hold.may_consume(now + SECOND * 2));
        hold.check(tenure);
        assert!(!hold.may_consume(now + SECOND * 2), "the check was of an earlier tenure");
    }

    #[test]
    fn where_none_is_needed_there_is_none_to_lose() {
        let now = Instant::now();
        let mut hold = Hold::not_needed();
        assert!(!hold.expire(now + LIFE * 9) && hold.is_held(now + LIFE * 9));
        hold.check(hold.tenure(now).unwrap());
        assert!(hold.may_consume(now));
    }
}
