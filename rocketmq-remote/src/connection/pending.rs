use crate::{CloseCause, Command, Error};
use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

/// The calls that wait for an answer, by opaque; or why there can be none.
///
/// A map with a counter, not a slab: a slab reuses numbers at once, and a late reply would reach a stranger. A 32-bit
/// counter does not come round while a late reply can still arrive.
#[derive(Debug)]
pub(super) enum Pending {
    Open { calls: Calls, next_opaque: i32, sweep_at: Option<Instant> },
    Closed(Arc<CloseCause>),
}

type Calls = HashMap<i32, Waiting, BuildHasherDefault<OpaqueHasher>>;

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) completion: Completion,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
    /// Goes back when the answer comes, not when somebody looks at it: replies that nobody has awaited yet do not keep
    /// others from asking.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// Whom a call's end is told to.
pub(super) enum Completion {
    /// The one who awaits it.
    Channel(oneshot::Sender<Outcome>),
    /// A function, which the connection's own task calls.
    Function(Box<dyn FnOnce(Outcome) + Send>),
}

impl Completion {
    pub(super) fn complete(self, outcome: Outcome) {
        match self {
            // A caller that is gone needs no answer.
            Self::Channel(sender) => _ = sender.send(outcome),
            Self::Function(function) => {
                // The connection outlives a function that panics: other calls wait on it.
                if catch_unwind(AssertUnwindSafe(|| function(outcome))).is_err() {
                    tracing::error!("what was to be done at the end of a call panicked");
                }
            }
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel(_) => "Channel",
            Self::Function(_) => "Function",
        })
    }
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Command),
    TimedOut,
    Closed(Arc<CloseCause>),
    /// It was never queued.
    Failed(Error),
}

impl Default for Pending {
    fn default() -> Self {
        Self::Open { calls: HashMap::default(), next_opaque: 0, sweep_at: None }
    }
}

impl Pending {
    /// Enters a call under a number of its own. Also tells whether its deadline is now the earliest one.
    pub(super) fn insert(&mut self, waiting: Waiting) -> Result<(i32, bool), (Arc<CloseCause>, Waiting)> {
        match self {
            Self::Open { calls, next_opaque, sweep_at } => {
                // A number still waiting after four billion calls keeps it.
                while calls.contains_key(next_opaque) {
                    *next_opaque = next_opaque.wrapping_add(1);
                }
                let opaque = *next_opaque;
                *next_opaque = next_opaque.wrapping_add(1);
                let earliest = sweep_at.is_none_or(|at| waiting.deadline < at);
                if earliest {
                    *sweep_at = Some(waiting.deadline);
                }
                calls.insert(opaque, waiting);
                Ok((opaque, earliest))
            }
            Self::Closed(cause) => Err((cause.clone(), waiting)),
        }
    }

    pub(super) fn remove(&mut self, opaque: i32) -> Option<Waiting> {
        match self {
            Self::Open { calls, .. } => calls.remove(&opaque),
            Self::Closed(_) => None,
        }
    }

    /// Takes out the calls whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Waiting> {
        let Self::Open { calls, sweep_at, .. } = self else { return Vec::new() };
        let opaques: Vec<i32> =
            calls.iter().filter(|(_, waiting)| waiting.deadline <= now).map(|(opaque, _)| *opaque).collect();
        let expired = opaques.iter().filter_map(|opaque| calls.remove(opaque)).collect();
        *sweep_at = calls.values().map(|waiting| waiting.deadline).min();
        expired
    }

    /// When to look for expired calls next.
    pub(super) fn sweep_at(&self) -> Option<Instant> {
        match self {
            Self::Open { sweep_at, .. } => *sweep_at,
            Self::Closed(_) => None,
        }
    }

    /// Ends all calls with one cause; later ones fail with it at once. The first cause stays.
    pub(super) fn close(&mut self, cause: &Arc<CloseCause>) -> Vec<Waiting> {
        match mem::replace(self, Self::Closed(cause.clone())) {
            Self::Open { calls, .. } => calls.into_values().collect(),
            Self::Closed(first) => {
                *self = Self::Closed(first);
                Vec::new()
            }
        }
    }

    pub(super) fn closed(&self) -> Option<&Arc<CloseCause>> {
        match self {
            Self::Open { .. } => None,
            Self::Closed(cause) => Some(cause),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Open { calls, .. } => calls.len(),
            Self::Closed(_) => 0,
        }
    }
}

/// Opaques are numbers of our own counting, so no peer can choose them to collide; they are spread by one multiplication.
#[derive(Debug, Default)]
pub(super) struct OpaqueHasher(u64);

impl Hasher for OpaqueHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(SPREAD);
        }
    }

    fn write_i32(&mut self, opaque: i32) {
        let product = u64::from(u32::from_ne_bytes(opaque.to_ne_bytes())).wrapping_mul(SPREAD);
        self.0 = product ^ (product >> 32);
    }
}

const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn waiting(deadline: Instant) -> (Waiting, oneshot::Receiver<Outcome>) {
        let (outcome, receiver) = oneshot::channel();
        (Waiting { completion: Completion::Channel(outcome), sent: deadline, deadline, _permit: None }, receiver)
    }

    #[test]
    fn numbers_are_not_given_twice_while_waiting() {
        let now = Instant::now();
        let mut pending = Pending::default();
        let (first, _) = pending.insert(waiting(now).0).unwrap();
        let Pending::Open { next_opaque, .. } = &mut pending else { unreachable!() };
        *next_opaque = first;
        assert_ne!(pending.insert(waiting(now).0).unwrap().0, first);
    }

    #[test]
    fn the_counter_wraps() {
        let now = Instant::now();
        let mut pending = Pending::Open { calls: HashMap::default(), next_opaque: i32::MAX, sweep_at: None };
        assert_eq!(pending.insert(waiting(now).0).unwrap().0, i32::MAX);
        assert_eq!(pending.insert(waiting(now).0).unwrap().0, i32::MIN);
    }

    #[test]
    fn only_expired_calls_are_taken_and_the_next_sweep_is_known() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut pending = Pending::default();
        assert!(pending.insert(waiting(later).0).unwrap().1);
        assert!(pending.insert(waiting(now).0).unwrap().1);
        assert!(!pending.insert(waiting(later).0).unwrap().1);
        assert_eq!(pending.take_expired(now).len(), 1);
        assert_eq!(pending.sweep_at(), Some(later));
        assert_eq!(pending.len(), 2);
    }

    #[test]
    fn the_first_cause_stays() {
        let mut pending = Pending::default();
        pending.close(&Arc::new(CloseCause::Peer));
        pending.close(&Arc::new(CloseCause::Local));
        assert!(matches!(pending.closed().unwrap().as_ref(), CloseCause::Peer));
        assert!(pending.insert(waiting(Instant::now()).0).is_err());
    }
}
