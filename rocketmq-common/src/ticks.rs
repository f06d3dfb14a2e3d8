use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Ticks at once, and then once a `period`; after a tick that was late the next one is a whole period later. A period may
/// be as long as you like, [`Duration::MAX`] included; none is shorter than 1 ms.
///
/// # Panics
/// Outside of a runtime.
pub fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period.clamp(SHORTEST, LONGEST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

const SHORTEST: Duration = Duration::from_millis(1);
/// A moment further away cannot be told, and comes as late as never.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn a_period_may_be_longer_than_time() {
        let (mut ticks, begun) = (ticks(Duration::MAX), Instant::now());
        // The next tick is counted from one that is late.
        advance(Duration::from_secs(1)).await;
        ticks.tick().await;
        ticks.tick().await;
        assert_eq!(begun.elapsed().as_secs(), 1 + LONGEST.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn no_period_is_too_short() {
        let mut ticks = ticks(Duration::ZERO);
        ticks.tick().await;
        ticks.tick().await;
        assert_eq!(ticks.period(), SHORTEST);
    }
}
