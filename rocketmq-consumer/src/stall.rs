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

    /// Polls a listener call; returns how long the poll took as well.
    fn poll<F: Future>(&self, call: Pin<&mut F>, context: &mut Context<'_>) -> (Poll<F::Output>, Duration) {
        let began = Instant::now();
        let polled = if self.is_multi_thread && self.is_blocking.load(Ordering::Relaxed) {
            block_in_place(|| call.poll(context))
        } else {
            call.poll(context)
        };
        let took = began.elapsed();
        if took >= LONG_POLL && !self.is_blocking.load(Ordering::Relaxed) {
            self.note_long_poll(took, began + took);
        }
        (polled, took)
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

/// How long a worker has occupied its thread since it last gave way to other tasks.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    spent: Duration,
}

impl Turn {
    /// Awaits a listener call.
    pub(crate) async fn run<F: Future>(&mut self, watch: &StallWatch, call: F) -> F::Output {
        let mut call = pin!(call);
        poll_fn(|context| {
            let (polled, took) = watch.poll(call.as_mut(), context);
            self.spent = if polled.is_pending() { Duration::ZERO } else { self.spent + took };
            polled
        })
        .await
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
        let mut turn = Turn { spent: Duration::from_secs(3600) };
        turn.run(&watch, async {}).await;
        assert!(turn.spent >= Duration::from_secs(3600), "calls that do not wait add up");
        turn.end().await;
        assert_eq!(turn.spent, Duration::ZERO);
        turn.spent = Duration::from_secs(3600);
        turn.run(&watch, yield_now()).await;
        assert!(turn.spent < Duration::from_secs(3600), "the call gave way to others itself");
    }
}
