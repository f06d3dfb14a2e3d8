//! When to look up the route of a topic anew after a broker has refused a send because of it. Pure: the time comes in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// The routes that were looked up a moment ago, so that sends which fail one after the other do not each ask a name server.
#[derive(Debug, Default)]
pub(crate) struct RecentRefreshes(Mutex<HashMap<Arc<str>, (u64, Instant)>>);

impl RecentRefreshes {
    /// Whether a route of this generation is as fresh as it needs to be.
    pub(crate) fn is_fresh(&self, topic: &str, generation: u64, now: Instant) -> bool {
        self.recent().get(topic).is_some_and(|(known, at)| *known == generation && is_recent(*at, now))
    }

    /// Notes that a look-up has just come to a route of this generation.
    pub(crate) fn note(&self, topic: &Arc<str>, generation: u64, now: Instant) {
        let mut recent = self.recent();
        recent.retain(|_, (_, at)| is_recent(*at, now));
        recent.insert(topic.clone(), (generation, now));
    }

    fn recent(&self) -> MutexGuard<'_, HashMap<Arc<str>, (u64, Instant)>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < FRESH
}

/// The shortest time between two look-ups of a topic that fail the same sends.
const FRESH: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_fresh_for_a_moment_and_another_one_is_not() {
        let (refreshes, topic, now) = (RecentRefreshes::default(), Arc::from("t"), Instant::now());
        assert!(!refreshes.is_fresh(&topic, 1, now));
        refreshes.note(&topic, 2, now);
        let later = now + FRESH - Duration::from_millis(1);
        assert!(refreshes.is_fresh(&topic, 2, later));
        assert!(!refreshes.is_fresh(&topic, 1, later) && !refreshes.is_fresh("other", 2, later));
        assert!(!refreshes.is_fresh(&topic, 2, now + FRESH));
        refreshes.note(&"other".into(), 3, now + FRESH);
        assert_eq!(refreshes.recent().len(), 1, "the old one takes up room");
    }
}
