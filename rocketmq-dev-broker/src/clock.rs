use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The broker's time: Tokio's clock, told as milliseconds since the epoch. It never goes back, and store timestamps and
/// timers agree, also in a test that pauses time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: i64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_ms: millis(since_epoch) }
    }

    pub(crate) fn now_ms(self) -> i64 {
        self.started_ms.saturating_add(millis(self.started.elapsed()))
    }

    /// The moment at which `now_ms` answers `ms`.
    pub(crate) fn instant(self, ms: i64) -> Instant {
        let since = u64::try_from(ms.saturating_sub(self.started_ms)).unwrap_or(0);
        self.started.checked_add(Duration::from_millis(since)).unwrap_or(self.started + FAR_AWAY)
    }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

const FAR_AWAY: Duration = Duration::from_secs(86_400 * 365);
