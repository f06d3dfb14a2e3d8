//! Messages whose transactions have not ended. Pure: no I/O, no clock.

use crate::log::Appended;
use std::sync::Arc;

/// The half messages of a broker, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Halves(Vec<Half>);

/// A half message. Each check appends it anew, so it has many places in the log; the last one holds it.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    pub(crate) group: Arc<str>,
    pub(crate) stored_ms: i64,
    pub(crate) checks: usize,
    places: Vec<Appended>,
}

impl Half {
    pub(crate) fn new(group: &str, at: Appended, stored_ms: i64) -> Self {
        Self { group: group.into(), stored_ms, checks: 0, places: vec![at] }
    }

    /// Where it lies now.
    pub(crate) fn place(&self) -> i64 {
        self.places.last().map_or(-1, |at| at.place)
    }

    /// It has been appended anew.
    pub(crate) fn moved(&mut self, to: Appended) {
        self.places.push(to);
    }

    fn is_at(&self, place: i64) -> Option<Appended> {
        self.places.iter().find(|at| at.place == place).copied()
    }
}

impl Halves {
    pub(crate) fn insert(&mut self, half: Half) {
        self.0.push(half);
    }

    /// The half message that was once stored at a place, and the offset it had there.
    pub(crate) fn find(&self, place: i64) -> Option<(&Half, i64)> {
        self.0.iter().find_map(|half| Some((half, half.is_at(place)?.queue_offset)))
    }

    pub(crate) fn take(&mut self, place: i64) -> Option<Half> {
        let index = self.0.iter().position(|half| half.is_at(place).is_some())?;
        Some(self.0.remove(index))
    }

    /// Where those lie that were first stored at or before a moment.
    pub(crate) fn stored_until(&self, ms: i64) -> Vec<i64> {
        self.0.iter().filter(|half| half.stored_ms <= ms).map(Half::place).collect()
    }

    /// The first offset that is still needed.
    pub(crate) fn min_offset(&self) -> Option<i64> {
        self.0.iter().filter_map(|half| half.places.last()).map(|at| at.queue_offset).min()
    }
}
