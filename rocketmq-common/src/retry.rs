use std::time::Duration;

/// How long to wait before the next attempt: doubling from a first to a longest wait, each shortened at random by up to
/// a half so that many clients do not come back together. Pure: randomness comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits from `first`, doubling up to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The wait after `failures` failures in a row; none after none.
    pub fn wait(self, failures: u32, random: u64) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let factor = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.longest);
        let part = u32::try_from(random % u64::from(JITTER_STEPS)).unwrap_or(0);
        whole - whole / 2 / JITTER_STEPS * part
    }
}

const JITTER_STEPS: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|failures| backoff.wait(failures, 0).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1000]);
        assert_eq!(backoff.wait(u32::MAX, 0), Duration::from_secs(1));
    }

    #[test]
    fn jitter_takes_at_most_a_half() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for random in 0..2048 {
            let wait = backoff.wait(1, random);
            assert!(wait > Duration::from_millis(49) && wait <= Duration::from_millis(100), "{wait:?}");
        }
    }
}
