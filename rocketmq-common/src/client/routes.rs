//! The routes in use, and the look-ups that bring them.

use crate::{
    Error, TopicRoute,
    message::names::AUTO_CREATE_TOPIC,
    protocol::{MASTER_ID, TopicRouteData},
    tasks::SharedWork,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The routes in use: snapshots by topic, with at most one look-up in flight a topic.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    known: RwLock<Known>,
    look_ups: Mutex<LookUps>,
    generation: AtomicU64,
}

/// What every send, pull and acknowledgement reads.
#[derive(Debug, Default)]
struct Known {
    routes: HashMap<Arc<str>, Arc<TopicRoute>>,
    /// The routes that name each broker, by generation: the newest one counts. Provisional ones do not.
    by_broker: HashMap<Arc<str>, BTreeMap<u64, Arc<TopicRoute>>>,
}

#[derive(Debug, Default)]
struct LookUps {
    in_flight: HashMap<Arc<str>, LookUp>,
    missing: MissingTopics,
    /// The newest generation of the template topic's route after which a provisional route has failed.
    failed_template: u64,
    /// When the template topic was last looked up.
    template_looked_up: Option<Instant>,
}

/// A look-up in flight.
pub(super) type LookUp = SharedWork<Result<Arc<TopicRoute>, Error>>;

/// How to come by a route.
#[derive(Debug)]
pub(super) enum Found {
    Known(Arc<TopicRoute>),
    LookUp(LookUp),
}

impl RouteTable {
    /// The route of `topic` as it is known, if it is.
    pub(super) fn known(&self, topic: &str) -> Option<Arc<TopicRoute>> {
        self.read().routes.get(topic).cloned()
    }

    /// The route of `topic`, if one newer than generation `seen` is known; else a look-up: the one in flight, or the one
    /// that `start` begins. Two failures of the same route do not throw away a fresh one.
    pub(super) fn newer_than(&self, topic: &Arc<str>, seen: u64, start: impl FnOnce() -> LookUp) -> Found {
        let mut look_ups = self.look_ups();
        if let Some(route) = self.known(topic).filter(|route| route.generation() > seen) {
            return Found::Known(route);
        }
        if let Some(look_up) = look_ups.in_flight.get(topic).filter(|look_up| !look_up.is_lost()) {
            return Found::LookUp(look_up.clone());
        }
        let look_up = start();
        look_ups.in_flight.insert(topic.clone(), look_up.clone());
        Found::LookUp(look_up)
    }

    /// Whether no name server knew the topic a moment ago, nor has a route come since.
    pub(super) fn is_missing(&self, topic: &str, now: Instant) -> bool {
        self.look_ups().missing.contains(topic, now)
    }

    /// Enters the outcome of a look-up. Where it failed, the route that was known stays.
    pub(super) fn finish(
        &self,
        topic: &Arc<str>,
        answer: Result<TopicRouteData, Error>,
        now: Instant,
    ) -> Result<Arc<TopicRoute>, Error> {
        let answer = answer.map(|data| Arc::new(TopicRoute::new(topic.clone(), self.next_generation(), data)));
        let mut look_ups = self.look_ups();
        look_ups.in_flight.remove(topic);
        if **topic == *AUTO_CREATE_TOPIC {
            look_ups.template_looked_up = Some(now);
        }
        match &answer {
            Ok(route) => {
                look_ups.missing.remove(topic);
                self.write().insert(route.clone());
            }
            Err(Error::TopicNotFound { .. }) => look_ups.missing.insert(topic.clone(), now),
            Err(_) => {}
        }
        answer
    }

    /// Enters a provisional route of a topic that a first send will create, unless a route is known meanwhile.
    pub(super) fn assume(&self, topic: &Arc<str>, template: &TopicRoute, queues: i32) -> Arc<TopicRoute> {
        let route = Arc::new(template.for_new_topic(topic.clone(), self.next_generation(), queues));
        self.write().routes.entry(topic.clone()).or_insert(route).clone()
    }

    /// Forgets a route that has failed, if it is provisional: the next one is made after a newer template.
    pub(super) fn expire(&self, route: &TopicRoute) {
        let Some(template_generation) = route.template_generation() else { return };
        let mut look_ups = self.look_ups();
        look_ups.failed_template = look_ups.failed_template.max(template_generation);
        let mut known = self.write();
        if known.routes.get(route.topic()).is_some_and(|known| known.generation() == route.generation()) {
            known.routes.remove(route.topic());
        }
    }

    /// The generation that the template topic's route has to be newer than, to be of use. While brokers are away,
    /// provisional routes fail all the time: name servers are not to suffer for it.
    pub(super) fn failed_template(&self, now: Instant) -> u64 {
        let look_ups = self.look_ups();
        match look_ups.template_looked_up {
            Some(at) if now < at + TEMPLATE_PAUSE => 0,
            _ => look_ups.failed_template,
        }
    }

    /// Every topic with a route.
    pub(super) fn topics_in_use(&self) -> Vec<Arc<str>> {
        self.read().routes.keys().cloned().collect()
    }

    /// The newest route that names a broker.
    pub(super) fn of_broker(&self, broker_name: &str) -> Option<Arc<TopicRoute>> {
        let known = self.read();
        let (_, route) = known.by_broker.get(broker_name)?.last_key_value()?;
        Some(route.clone())
    }

    /// The addresses of all brokers: of masters, or of all replicas.
    pub(super) fn addresses(&self, replicas: bool) -> HashSet<Arc<str>> {
        let known = self.read();
        let newest =
            known.by_broker.iter().filter_map(|(name, routes)| routes.last_key_value()?.1.broker_addrs(name)).flatten();
        newest.filter(|(id, _)| replicas || **id == MASTER_ID).map(|(_, addr)| addr.clone()).collect()
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked before [`known`](Self::read), where both are.
    fn look_ups(&self) -> MutexGuard<'_, LookUps> {
        self.look_ups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, route: Arc<TopicRoute>) {
        if let Some(old) = self.routes.insert(route.topic().clone(), route.clone()) {
            for (name, _) in old.brokers() {
                if let Some(routes) = self.by_broker.get_mut(name) {
                    routes.remove(&old.generation());
                    if routes.is_empty() {
                        self.by_broker.remove(name);
                    }
                }
            }
        }
        for (name, _) in route.brokers() {
            self.by_broker.entry(name.clone()).or_default().insert(route.generation(), route.clone());
        }
    }
}

/// Topics that no name server knew a moment ago. Pure: the clock comes in.
///
/// Sends to such a topic do not ask the name servers each time, and a topic that appears is found after
/// [`MISSING_FOR`]. Asking for many of them does not fill the memory: what is over is removed.
#[derive(Debug, Default)]
struct MissingTopics {
    since: HashMap<Arc<str>, Instant>,
    /// How many there may be before those that are over are removed.
    limit: usize,
}

impl MissingTopics {
    fn contains(&self, topic: &str, now: Instant) -> bool {
        self.since.get(topic).is_some_and(|since| now < *since + MISSING_FOR)
    }

    fn insert(&mut self, topic: Arc<str>, now: Instant) {
        if self.since.len() >= self.limit {
            self.since.retain(|_, since| now < *since + MISSING_FOR);
            self.limit = (2 * self.since.len()).max(LEAST_MISSING);
        }
        self.since.insert(topic, now);
    }

    fn remove(&mut self, topic: &str) {
        self.since.remove(topic);
    }
}

/// How long it is believed that a topic does not exist.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// How often the template topic is looked up at most, because provisional routes fail.
const TEMPLATE_PAUSE: Duration = Duration::from_secs(1);
const LEAST_MISSING: usize = 64;

#[cfg(test)]
mod tests;
