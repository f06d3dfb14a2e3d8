//! How long each message took.

use hdrhistogram::Histogram;
use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

/// Latencies of many callers, in buckets a thousandth wide: memory does not grow with their number.
#[derive(Debug)]
pub(crate) struct Latency(Mutex<Histogram<u64>>);

impl Latency {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(Histogram::new_with_bounds(1, LONGEST_US, 3)?)))
    }

    pub(crate) fn record(&self, took: Duration) {
        // A longer one counts as the longest; it then does not matter by how much.
        self.histogram().saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// The latency in microseconds that a share of the callers stayed within; 0 where there is none.
    pub(crate) fn quantile_us(&self, share: f64) -> u64 {
        self.histogram().value_at_quantile(share)
    }

    fn histogram(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const LONGEST_US: u64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_thousandth() {
        let latency = Latency::new().unwrap();
        for us in 1..=10_000 {
            latency.record(Duration::from_micros(us));
        }
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 1000 + 1;
        assert!(near(latency.quantile_us(0.5), 5_000), "{}", latency.quantile_us(0.5));
        assert!(near(latency.quantile_us(0.99), 9_900), "{}", latency.quantile_us(0.99));
    }

    #[test]
    fn none_is_zero_and_the_longest_is_capped() {
        let latency = Latency::new().unwrap();
        assert_eq!(latency.quantile_us(0.99), 0);
        latency.record(Duration::MAX);
        assert!(latency.quantile_us(0.5) >= LONGEST_US);
    }
}
