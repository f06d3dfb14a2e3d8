use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// How brokers that were slow or failed are avoided for a while. Java: `MQFaultStrategy`, off by default there too.
///
/// It decides among the queues that take turns; a chosen queue is used whatever its broker did.
///
/// ```
/// use rocketmq_producer::{FaultTolerance, ProducerConfig};
///
/// let tolerance = FaultTolerance { detector: true, ..Default::default() };
/// let config = ProducerConfig { fault_tolerance: Some(tolerance), ..Default::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultTolerance {
    /// From which latency of a send on its broker is avoided for how long, by rising latency. Default, as in Java: from
    /// 550 ms on for 2 s, 1.8 s 5 s, 3 s 6 s, 5 s 10 s, 15 s 30 s.
    #[serde(with = "steps")]
    pub latency_steps: Vec<(Duration, Duration)>,
    /// The latency that a failed attempt counts as. Default 10 s.
    #[serde(with = "rocketmq_common::duration")]
    pub failure_counts_as: Duration,
    /// Whether brokers that could not be reached are probed until they answer, and avoided until then. Default false.
    pub detector: bool,
    /// How often such a broker is probed. Default 2 s.
    #[serde(with = "rocketmq_common::duration")]
    pub detect_interval: Duration,
    /// How long a probe may take. Default 200 ms.
    #[serde(with = "rocketmq_common::duration")]
    pub detect_timeout: Duration,
}

impl Default for FaultTolerance {
    fn default() -> Self {
        let steps = [(550, 2000), (1800, 5000), (3000, 6000), (5000, 10_000), (15_000, 30_000)];
        let ms = Duration::from_millis;
        Self {
            latency_steps: steps.map(|(latency, avoided)| (ms(latency), ms(avoided))).into(),
            failure_counts_as: Duration::from_secs(10),
            detector: false,
            detect_interval: Duration::from_secs(2),
            detect_timeout: ms(200),
        }
    }
}

/// The latency steps, with short texts for their durations.
mod steps {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    #[derive(Serialize, Deserialize)]
    struct Step(
        #[serde(with = "rocketmq_common::duration")] Duration,
        #[serde(with = "rocketmq_common::duration")] Duration,
    );

    pub(super) fn serialize<S: Serializer>(steps: &[(Duration, Duration)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(steps.iter().map(|(latency, avoided)| Step(*latency, *avoided)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(Duration, Duration)>, D::Error> {
        let steps = Vec::<Step>::deserialize(deserializer)?;
        Ok(steps.into_iter().map(|Step(latency, avoided)| (latency, avoided)).collect())
    }
}

impl FaultTolerance {
    fn avoided_for(&self, latency: Duration) -> Duration {
        let reached = self.latency_steps.iter().rev().find(|(from, _)| latency >= *from);
        reached.map_or(Duration::ZERO, |(_, avoided)| *avoided)
    }
}

/// What an attempt told about a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It answered, after so long.
    Answered(Duration),
    /// It answered that it cannot do it.
    Refused,
    /// It did not answer.
    Unreachable,
}

/// Which brokers to avoid, and until when. Pure: the time comes in.
#[derive(Debug)]
pub(crate) struct FaultTable {
    tolerance: FaultTolerance,
    brokers: Mutex<HashMap<Arc<str>, Fault>>,
}

#[derive(Debug, Clone)]
struct Fault {
    avoid_until: Instant,
    reachable: bool,
    /// A topic it serves, to probe it with.
    topic: Arc<str>,
}

impl FaultTable {
    pub(crate) fn new(tolerance: FaultTolerance) -> Self {
        Self { tolerance, brokers: Mutex::default() }
    }

    pub(crate) fn tolerance(&self) -> &FaultTolerance {
        &self.tolerance
    }

    /// Notes what an attempt at `broker` told. The time until which it is avoided is never shortened.
    pub(crate) fn note(&self, broker: &Arc<str>, topic: &Arc<str>, sign: Sign, now: Instant) {
        let latency = match sign {
            Sign::Answered(latency) => latency,
            Sign::Refused | Sign::Unreachable => self.tolerance.failure_counts_as,
        };
        let avoid_until = now + self.tolerance.avoided_for(latency).min(LONGEST);
        // Without a detector nobody would find a broker reachable again.
        let reachable = sign != Sign::Unreachable || !self.tolerance.detector;
        let mut brokers = self.brokers();
        match brokers.get_mut(broker) {
            Some(fault) => {
                fault.avoid_until = fault.avoid_until.max(avoid_until);
                fault.reachable = reachable;
            }
            None if avoid_until > now || !reachable => {
                brokers.insert(broker.clone(), Fault { avoid_until, reachable, topic: topic.clone() });
            }
            None => {}
        }
    }

    /// Whether nothing speaks against a broker.
    pub(crate) fn is_available(&self, broker: &str, now: Instant) -> bool {
        self.brokers().get(broker).is_none_or(|fault| fault.reachable && now >= fault.avoid_until)
    }

    /// Whether a broker, slow as it may be, answers at all.
    pub(crate) fn is_reachable(&self, broker: &str) -> bool {
        self.brokers().get(broker).is_none_or(|fault| fault.reachable)
    }

    /// The brokers to probe, each with a topic it serves.
    pub(crate) fn unreachable(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let brokers = self.brokers();
        let unreachable = brokers.iter().filter(|(_, fault)| !fault.reachable);
        unreachable.map(|(broker, fault)| (broker.clone(), fault.topic.clone())).collect()
    }

    /// Notes that a probe was answered.
    pub(crate) fn note_reachable(&self, broker: &str) {
        if let Some(fault) = self.brokers().get_mut(broker) {
            fault.reachable = true;
        }
    }

    /// Forgets a broker that has left the cluster.
    pub(crate) fn forget(&self, broker: &str) {
        self.brokers().remove(broker);
    }

    fn brokers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Fault>> {
        self.brokers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A moment further away cannot be told, and comes as late as never.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn table(detector: bool) -> (FaultTable, Arc<str>, Instant) {
        let tolerance = FaultTolerance { detector, ..Default::default() };
        (FaultTable::new(tolerance), "a".into(), Instant::now())
    }

    /// For how long the broker is avoided after that, in ms.
    fn avoided(sign: Sign) -> u128 {
        let (table, broker, now) = table(false);
        table.note(&broker, &"t".into(), sign, now);
        let avoided = (0..60_000).find(|ms| table.is_available(&broker, now + MS * *ms));
        avoided.unwrap().into()
    }

    #[test]
    fn slow_and_failed_brokers_are_avoided_as_long_as_in_java() {
        let after = |ms| avoided(Sign::Answered(MS * ms));
        assert_eq!([0, 50, 100, 549, 550, 1799].map(after), [0, 0, 0, 0, 2000, 2000]);
        assert_eq!([1800, 3000, 5000, 14_999, 15_000].map(after), [5000, 6000, 10_000, 10_000, 30_000]);
        assert_eq!([avoided(Sign::Refused), avoided(Sign::Unreachable)], [10_000, 10_000]);
    }

    #[test]
    fn the_time_is_never_shortened() {
        let (table, broker, now) = table(false);
        let topic = "t".into();
        table.note(&broker, &topic, Sign::Refused, now);
        table.note(&broker, &topic, Sign::Answered(MS), now);
        assert!(!table.is_available(&broker, now + MS * 9999));
        assert!(table.is_available(&broker, now + MS * 10_000));
        assert!(table.is_reachable(&broker) && table.unreachable().is_empty());
    }

    #[test]
    fn with_a_detector_an_unreachable_broker_waits_for_a_probe() {
        let (table, broker, now) = table(true);
        let topic: Arc<str> = "t".into();
        table.note(&broker, &topic, Sign::Unreachable, now);
        let later = now + MS * 100_000;
        assert!(!table.is_available(&broker, later) && !table.is_reachable(&broker));
        assert_eq!(table.unreachable(), [(broker.clone(), topic.clone())]);
        table.note_reachable(&broker);
        assert!(table.is_available(&broker, later) && table.unreachable().is_empty());
        table.note(&broker, &topic, Sign::Unreachable, later);
        table.forget(&broker);
        assert!(table.is_available(&broker, later));
    }

    #[test]
    fn a_broker_may_be_avoided_for_longer_than_time() {
        let latency_steps = vec![(Duration::ZERO, Duration::MAX)];
        let table = FaultTable::new(FaultTolerance { latency_steps, ..Default::default() });
        let (broker, now): (Arc<str>, _) = ("a".into(), Instant::now());
        table.note(&broker, &"t".into(), Sign::Answered(MS), now);
        assert!(!table.is_available(&broker, now + Duration::from_secs(86_400)));
    }

    #[test]
    fn brokers_that_do_well_are_not_remembered() {
        let (table, broker, now) = table(true);
        table.note(&broker, &"t".into(), Sign::Answered(MS), now);
        assert!(table.brokers().is_empty());
    }
}
