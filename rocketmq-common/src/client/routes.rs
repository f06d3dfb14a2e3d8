use crate::{Error, TopicRoute, protocol::TopicRouteData};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::time::Instant;

/// The routes in use: snapshots by topic, with at most one look-up in flight a topic.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    topics: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    generation: std::sync::atomic::AtomicU64,
}

#[derive(Debug, Default)]
struct Entry {
    state: Mutex<State>,
    /// Held by the one who looks up; the others wait and take what came of it.
    looking_up: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    route: Option<Arc<TopicRoute>>,
    /// What the last look-up came to, where it failed.
    failure: Option<(Instant, Error)>,
}

impl RouteTable {
    /// The route of `topic` as it is known, if it is.
    pub(super) fn known(&self, topic: &str) -> Option<Arc<TopicRoute>> {
        self.topics().get(topic)?.state().route.clone()
    }

    /// The route of `topic`, looked up unless one newer than generation `seen` is known: two failures of the same route
    /// do not throw away a fresh one.
    pub(super) async fn newer_than<F>(
        &self,
        topic: &Arc<str>,
        seen: u64,
        look_up: impl FnOnce() -> F,
    ) -> Result<Arc<TopicRoute>, Error>
    where
        F: Future<Output = Result<TopicRouteData, Error>>,
    {
        let asked_at = Instant::now();
        let entry = self.topics().entry(topic.clone()).or_default().clone();
        let _looking_up = entry.looking_up.lock().await;
        {
            let state = entry.state();
            if let Some(route) = state.route.as_ref().filter(|route| route.generation() > seen) {
                return Ok(route.clone());
            }
            // Those who waited for one look-up share its failure, too.
            if let Some((failed_at, error)) = state.failure.as_ref().filter(|(failed_at, _)| *failed_at >= asked_at) {
                tracing::debug!(%topic, ?failed_at, "sharing the failure of another look-up");
                return Err(error.clone());
            }
        }
        match look_up().await {
            Ok(data) => {
                let route = Arc::new(TopicRoute::new(topic.clone(), self.next_generation(), data));
                *entry.state() = State { route: Some(route.clone()), failure: None };
                Ok(route)
            }
            Err(error) => {
                let mut state = entry.state();
                state.failure = Some((Instant::now(), error.clone()));
                let known = state.route.is_some();
                drop(state);
                if !known {
                    self.forget_unknown(topic, &entry);
                }
                Err(error)
            }
        }
    }

    /// Enters a route made up for a topic that a first send will create.
    pub(super) fn assume(&self, topic: &Arc<str>, template: &TopicRoute, queues: i32) -> Arc<TopicRoute> {
        let route = Arc::new(template.for_new_topic(topic.clone(), self.next_generation(), queues));
        let entry = self.topics().entry(topic.clone()).or_default().clone();
        let mut state = entry.state();
        state.route.get_or_insert(route).clone()
    }

    /// Every topic looked up so far.
    pub(super) fn topics_in_use(&self) -> Vec<Arc<str>> {
        self.topics().keys().cloned().collect()
    }

    /// The addresses of a broker's replicas, as the newest route that mentions it has them.
    pub(super) fn broker_addrs(&self, broker_name: &str) -> Vec<(i64, Arc<str>)> {
        let topics = self.topics();
        let routes = topics.values().filter_map(|entry| entry.state().route.clone());
        let newest =
            routes.filter(|route| route.broker_addrs(broker_name).is_some()).max_by_key(|route| route.generation());
        let addrs = newest.as_ref().and_then(|route| route.broker_addrs(broker_name));
        addrs.into_iter().flatten().map(|(id, addr)| (*id, addr.clone())).collect()
    }

    /// The addresses of all brokers: of masters, or of all replicas.
    pub(super) fn addresses(&self, replicas: bool) -> HashSet<Arc<str>> {
        let topics = self.topics();
        let routes = topics.values().filter_map(|entry| entry.state().route.clone());
        let mut addresses = HashSet::new();
        for route in routes {
            for (_, addrs) in route.brokers() {
                let wanted = addrs.iter().filter(|(id, _)| replicas || **id == crate::protocol::MASTER_ID);
                addresses.extend(wanted.map(|(_, addr)| addr.clone()));
            }
        }
        addresses
    }

    /// A topic nobody knows leaves no trace, or asking for many of them would fill the memory.
    fn forget_unknown(&self, topic: &Arc<str>, entry: &Arc<Entry>) {
        let mut topics = self.topics();
        if topics.get(topic).is_some_and(|known| Arc::ptr_eq(known, entry) && known.state().route.is_none()) {
            topics.remove(topic);
        }
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Entry>>> {
        self.topics.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
