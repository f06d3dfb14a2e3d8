//! Shows how far a run is, and ends it where it does not end by itself.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// A progress bar on standard error, where that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Nobody looks: then nothing is to be spent on it.
    hidden: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// The time is up.
    TimedOut,
    /// Nothing has come for a while.
    Idle,
    Interrupted,
}

/// When a run is ended that does not end by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    /// Longest time without progress.
    pub(crate) idle: Option<Duration>,
}

impl End {
    /// What to tell the user, where not all is well.
    pub(crate) fn trouble(self, limits: Limits) -> Option<String> {
        match self {
            Self::Done => None,
            Self::TimedOut => Some(format!("stopped after {} s, the time limit", limits.timeout.as_secs())),
            Self::Idle => Some(format!("nothing came for {} s", limits.idle.unwrap_or_default().as_secs())),
            Self::Interrupted => Some("interrupted".to_owned()),
        }
    }
}

impl Progress {
    pub(crate) fn new(messages: u64) -> Self {
        let hidden = !io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(messages), target);
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len}, {per_sec}, {eta} left");
        Self { bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())), hidden }
    }

    pub(crate) fn show(&self, done: u64) {
        if !self.hidden {
            self.bar.set_position(done);
        }
    }

    /// Runs `work` to its end, or to that of the time, or of the user's patience. `changed` sees each new `count`.
    pub(crate) async fn watch(
        &self,
        limits: Limits,
        count: impl Fn() -> u64,
        mut changed: impl FnMut(),
        work: impl Future<Output = ()>,
    ) -> End {
        let mut ticks = interval(if self.hidden { LOOK } else { DRAW });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (count(), Instant::now());
        let timeout = sleep(limits.timeout);
        tokio::pin!(work, timeout);
        let end = loop {
            tokio::select! {
                () = &mut work => break End::Done,
                () = &mut timeout => break End::TimedOut,
                _ = tokio::signal::ctrl_c() => break End::Interrupted,
                _ = ticks.tick() => {
                    let now = count();
                    self.show(now);
                    if now != last.0 {
                        last = (now, Instant::now());
                        changed();
                    } else if limits.idle.is_some_and(|idle| last.1.elapsed() >= idle) {
                        break End::Idle;
                    }
                }
            }
        };
        self.bar.finish_and_clear();
        end
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

const DRAW: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, future::pending};

    fn limits(timeout_ms: u64, idle_ms: Option<u64>) -> Limits {
        Limits { timeout: Duration::from_millis(timeout_ms), idle: idle_ms.map(Duration::from_millis) }
    }

    #[tokio::test]
    async fn a_run_ends_with_its_work() {
        let end = Progress::new(1).watch(limits(60_000, None), || 0, || {}, async {}).await;
        assert_eq!((end, end.trouble(limits(1, None))), (End::Done, None));
    }

    #[tokio::test]
    async fn a_run_that_does_not_end_is_ended() {
        let end = Progress::new(1).watch(limits(20, None), || 0, || {}, pending()).await;
        assert_eq!(end, End::TimedOut);
        assert_eq!(end.trouble(limits(20_000, None)).unwrap(), "stopped after 20 s, the time limit");
    }

    #[tokio::test]
    async fn a_run_without_progress_is_ended() {
        let (count, changes) = (Cell::new(0), Cell::new(0));
        let counted = || count.replace((count.get() + 1).min(2));
        let progress = Progress::new(1);
        let end = progress.watch(limits(60_000, Some(1)), counted, || changes.set(changes.get() + 1), pending()).await;
        assert_eq!((end, changes.get()), (End::Idle, 2));
        assert_eq!(end.trouble(limits(1, Some(30_000))).unwrap(), "nothing came for 30 s");
    }
}
