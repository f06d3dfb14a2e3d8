use std::time::Duration;
use tokio::time::Instant;

/// The moment by which a call must be over.
///
/// A deadline rather than a timeout is passed down, so that queueing, dialling and every retry spend from one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline `timeout` from now; one too far away to be represented is 30 years from now.
    pub fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(timeout).unwrap_or(now + FAR_AWAY))
    }

    /// The later of this deadline and one `timeout` from now.
    #[must_use]
    pub fn at_least(self, timeout: Duration) -> Self {
        self.max(Self::after(timeout))
    }

    /// The time left; zero once the deadline has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// The earlier of this deadline and one `timeout` from now.
    #[must_use]
    pub fn at_most(self, timeout: Duration) -> Self {
        self.min(Self::after(timeout))
    }

    /// The deadline as a moment of Tokio's clock.
    pub fn instant(self) -> Instant {
        self.0
    }
}

const FAR_AWAY: Duration = Duration::from_secs(86_400 * 365 * 30);
