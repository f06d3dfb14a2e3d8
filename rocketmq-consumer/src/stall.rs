//! Detects a listener that blocks its runtime thread, and keeps the rest of the runtime running beside it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Handle as Runtime, RuntimeFlavor},
    task::{block_in_place, yield_now},
};

/// Watches how long polls of one consumer's listener occupy their thread.
#[derive(Debug)]
pub(crate) struct StallWatch {
    group: Arc<str>,
    /// Other threads can take over what the blocked thread would run.
    is_multi_thread: bool,
    /// The listener blocks: the warning was logged, and polls run in `block_in_place` from then on.
    is_blocking: AtomicBool,
    long_polls: Mutex<LongPolls>,
}

impl StallWatch {
    pub(crate) fn new(group: Arc<str>, runtime: &Runtime) -> Self {
        Self {
            group,
            is_multi_thread: runtime.runtime_flavor() == RuntimeFlavor::MultiThread,
            is_blocking: AtomicBool::new(false),
            long_polls: Mutex::default(),
        }
    }

    fn poll<F: Future>(&self, call: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.is_multi_thread && self.is_blocking.load(Ordering::Relaxed) {
            block_in_place(|| call.poll(context))
        } else {
            call.poll(context)
        }
    }

    fn note(&self, took: Duration, now: Instant) {
        if took >= LONG_POLL && !self.is_blocking.load(Ordering::Relaxed) {
            self.note_long_poll(took, now);
        }
    }

    fn note_long_poll(&self, took: Duration, now: Instant) {
        let mut long_polls = self.long_polls.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_blocking = long_polls.add(took, now);
        drop(long_polls);
        if is_blocking && !self.is_blocking.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                group = %self.group, blocked_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "the listener blocks threads of the async runtime and delays heartbeats, commits and other tasks: \
                 use blocking_listener for code that blocks"
            );
        }
    }
}

/// The time that long polls took within a window.
#[derive(Debug, Default)]
struct LongPolls {
    since: Option<Instant>,
    total: Duration,
}

impl LongPolls {
    /// Adds a long poll; returns whether they add up to a stall.
    fn add(&mut self, took: Duration, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > WINDOW) {
            *self = Self { since: Some(now), total: Duration::ZERO };
        }
        self.total += took;
        self.total >= STALL
    }
}

/// How long a worker has occupied its thread since it last gave way to other tasks. Reads the clock only where a call waits:
/// a call that is done at once has its beginning and its end measured for the statistics anyway.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    spent: Duration,
    /// When the last poll of the call began.
    poll_began: Option<Instant>,
    /// The call gave way to other tasks itself.
    has_waited: bool,
}

impl Turn {
    /// Awaits a listener call that begins now. [`ended`](Self::ended) has to follow.
    pub(crate) async fn call<F: Future>(&mut self, watch: &StallWatch, began: Instant, call: F) -> F::Output {
        let mut call = pin!(call);
        (self.poll_began, self.has_waited) = (Some(began), false);
        poll_fn(|context| {
            let began = *self.poll_began.get_or_insert_with(Instant::now);
            let polled = watch.poll(call.as_mut(), context);
            if polled.is_pending() {
                let now = Instant::now();
                watch.note(now.saturating_duration_since(began), now);
                (self.poll_began, self.has_waited) = (None, true);
            }
            polled
        })
        .await
    }

    /// The call has ended.
    pub(crate) fn ended(&mut self, watch: &StallWatch, now: Instant) {
        let took = self.poll_began.take().map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        watch.note(took, now);
        self.spent = if self.has_waited { took } else { self.spent + took };
    }

    /// Lets other tasks run if the calls since the last time took long without waiting. A listener that never awaits would
    /// otherwise keep its thread as long as there are messages.
    pub(crate) async fn end(&mut self) {
        if self.spent >= LONGEST_TURN {
            self.spent = Duration::ZERO;
            yield_now().await;
        }
    }
}

/// Short enough for other tasks, and long enough that calls of microseconds do not pay for it.
const LONGEST_TURN: Duration = Duration::from_micros(200);
/// A poll that takes longer blocks. Shorter ones may be the scheduler of a busy machine.
const LONG_POLL: Duration = Duration::from_millis(100);
/// Long polls that add up to this within [`WINDOW`] are no accident.
const STALL: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_polls_are_a_stall_once_they_add_up_within_the_window() {
        let (mut polls, began) = (LongPolls::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(!polls.add(Duration::from_millis(500), at(0)));
        assert!(!polls.add(Duration::from_millis(400), at(59)));
        assert!(!polls.add(Duration::from_millis(900), at(61)), "a new window has begun");
        assert!(polls.add(Duration::from_millis(100), at(100)));
        assert!(LongPolls::default().add(Duration::from_secs(1), at(0)), "one poll may be enough");
    }

    #[tokio::test]
    async fn a_turn_ends_after_calls_that_did_not_wait() {
        let watch = StallWatch::new("g".into(), &Runtime::current());
        let (mut turn, began) = (Turn::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        turn.call(&watch, began, async {}).await;
        turn.ended(&watch, began + hour);
        turn.call(&watch, began, async {}).await;
        turn.ended(&watch, began + hour);
        assert_eq!(turn.spent, 2 * hour, "calls that do not wait add up");
        turn.end().await;
        assert_eq!(turn.spent, Duration::ZERO);
        turn.spent = hour;
        turn.call(&watch, began, yield_now()).await;
        turn.ended(&watch, Instant::now());
        assert!(turn.spent < hour, "the call gave way to others itself");
    }
}
