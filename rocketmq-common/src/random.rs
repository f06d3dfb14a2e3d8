//! Randomness where nothing secret hangs on it: jitter, first indexes, ids. It saves a dependency on a generator.

use std::hash::{BuildHasher, RandomState};

/// A number nobody else has drawn. Each call draws fresh keys from the standard library's per-process seed.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(0)
}

/// A number below `bound`; 0 where the bound is 0.
pub fn random_below(bound: usize) -> usize {
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    random_u64().checked_rem(bound).and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_differ() {
        assert_eq!(random_below(0), 0);
        assert!((0..100).all(|_| random_below(7) < 7));
        assert_ne!(random_u64(), random_u64());
    }
}
