//! Which replica of its broker a queue is pulled from.

use rocketmq_common::{MessageQueue, protocol::MASTER_ID};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// Where the next pull of one queue goes: to the replica that the broker suggested last, unless that has just failed.
///
/// Pure: the addresses and the time come in.
///
/// # Protocol
/// Java: `PullAPIWrapper.recalculatePullFromWhichNode`, `MQClientInstance.findBrokerAddressInSubscribe`. Java keeps
/// asking a replica that fails; here it rests for a while. No bit has to be taken out of the flags of a pull that goes
/// to a replica: ours never bring an offset along.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    suggested: i64,
    /// Until when an address is not to be asked, as long as there is another one.
    resting: BTreeMap<Arc<str>, Instant>,
}

/// A replica to pull from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) addr: Arc<str>,
    pub(crate) is_master: bool,
}

impl Source {
    /// The replica to ask, of those at `addrs`: the suggested one, else the one after it, else any, the master first.
    /// `None` where there are none.
    pub(crate) fn pick(&self, addrs: &BTreeMap<i64, Arc<str>>, now: Instant) -> Option<Replica> {
        let rested = |addr: &Arc<str>| self.resting.get(addr).is_none_or(|until| *until <= now);
        let ids = match self.suggested {
            MASTER_ID => [MASTER_ID, MASTER_ID],
            id => [id, id.saturating_add(1)],
        };
        let wanted = ids.into_iter().filter_map(|id| addrs.get_key_value(&id));
        // Ascending: the master, if there is one, comes first.
        let found = wanted.chain(addrs).find(|(_, addr)| rested(addr)).or_else(|| addrs.first_key_value())?;
        Some(Replica { addr: found.1.clone(), is_master: *found.0 == MASTER_ID })
    }

    /// Follows what an answer suggests.
    pub(crate) fn follow(&mut self, suggested: i64) {
        self.suggested = suggested;
    }

    fn is_as_new(&self, now: Instant) -> bool {
        self.suggested == MASTER_ID && self.resting.values().all(|until| *until <= now)
    }

    /// A pull from a replica failed. The next one goes to the master; where that is what could not be reached, to a
    /// replica for a while, if there is one that serves.
    pub(crate) fn failed(&mut self, replica: Replica, answered: bool, now: Instant) {
        self.suggested = MASTER_ID;
        self.resting.retain(|_, until| *until > now);
        let rest = match replica.is_master {
            // It is there, and nobody else could do better.
            true if answered => return,
            true => MASTER_RESTS,
            false => REPLICA_RESTS,
        };
        self.resting.insert(replica.addr, now + rest);
    }
}

/// Where single pulls go, of queues that nobody fetches from.
///
/// # Protocol
/// Java: `PullAPIWrapper.pullFromWhichNodeTable`.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<BTreeMap<MessageQueue, Source>>);

impl Sources {
    /// The source of a queue, as the last pull has left it.
    pub(crate) fn of(&self, queue: &MessageQueue) -> Source {
        self.known().get(queue).cloned().unwrap_or_default()
    }

    /// Keeps what a pull has left, where it is not what a queue begins with.
    pub(crate) fn keep(&self, queue: &MessageQueue, source: Source, now: Instant) {
        match source.is_as_new(now) {
            true => _ = self.known().remove(queue),
            false => _ = self.known().insert(queue.clone(), source),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Source>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const MASTER_RESTS: Duration = Duration::from_secs(3);
const REPLICA_RESTS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs<const N: usize>(ids: [i64; N]) -> BTreeMap<i64, Arc<str>> {
        ids.into_iter().map(|id| (id, format!("host-{id}:1").into())).collect()
    }

    fn replica(id: i64) -> Replica {
        Replica { addr: format!("host-{id}:1").into(), is_master: id == MASTER_ID }
    }

    #[test]
    fn pulls_go_where_the_broker_suggests() {
        let (now, mut source) = (Instant::now(), Source::default());
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
        source.follow(1);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(1)));
        source.follow(0);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
    }

    #[test]
    fn where_the_suggested_one_is_unknown_the_next_and_then_any_will_do() {
        let (now, mut source) = (Instant::now(), Source::default());
        source.follow(2);
        assert_eq!(source.pick(&addrs([0, 2, 3]), now), Some(replica(2)));
        assert_eq!(source.pick(&addrs([0, 3]), now), Some(replica(3)));
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
        assert_eq!(source.pick(&addrs([1, 4]), now), Some(replica(1)));
        assert_eq!(source.pick(&addrs([]), now), None);
        source.follow(i64::MAX);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
    }

    #[test]
    fn without_a_master_any_replica_is_asked_and_is_known_as_one() {
        let source = Source::default();
        assert_eq!(source.pick(&addrs([1, 2]), Instant::now()), Some(replica(1)));
    }

    #[test]
    fn a_replica_that_fails_rests_whatever_the_master_suggests() {
        let (now, mut source) = (Instant::now(), Source::default());
        source.follow(1);
        source.failed(replica(1), true, now);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
        source.follow(1);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
        assert_eq!(source.pick(&addrs([0, 1, 2]), now), Some(replica(2)), "another replica serves");
        assert_eq!(source.pick(&addrs([0, 1]), now + REPLICA_RESTS), Some(replica(1)));
    }

    #[test]
    fn a_master_out_of_reach_rests_and_one_that_answers_does_not() {
        let (now, mut source) = (Instant::now(), Source::default());
        source.failed(replica(0), true, now);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)));
        source.failed(replica(0), false, now);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(1)));
        // The replica suggests the master: that may be back.
        source.follow(0);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(1)));
        assert_eq!(source.pick(&addrs([0, 1]), now + MASTER_RESTS), Some(replica(0)));
        assert_eq!(source.pick(&addrs([0]), now), Some(replica(0)), "there is nobody else");
        source.failed(replica(1), true, now);
        assert_eq!(source.pick(&addrs([0, 1]), now), Some(replica(0)), "when all rest, the master is asked");
    }

    #[test]
    fn those_that_have_rested_are_forgotten() {
        let (now, mut source) = (Instant::now(), Source::default());
        for second in 0..1000 {
            source.failed(replica(second), false, now + Duration::from_secs(u64::try_from(second).unwrap()));
        }
        assert!(source.resting.len() <= 10, "{} rest", source.resting.len());
    }

    #[test]
    fn only_queues_that_are_not_pulled_from_the_master_are_remembered() {
        let (now, sources) = (Instant::now(), Sources::default());
        let queue = |id| MessageQueue::new("T", "b", id);
        let mut source = sources.of(&queue(0));
        source.follow(1);
        sources.keep(&queue(0), source, now);
        assert_eq!(sources.of(&queue(0)).pick(&addrs([0, 1]), now), Some(replica(1)));
        assert_eq!(sources.of(&queue(1)).pick(&addrs([0, 1]), now), Some(replica(0)));
        let mut source = sources.of(&queue(0));
        source.follow(0);
        sources.keep(&queue(0), source, now);
        sources.keep(&queue(1), sources.of(&queue(1)), now);
        assert!(sources.known().is_empty(), "{sources:?}");
        let mut source = sources.of(&queue(0));
        source.failed(replica(0), false, now);
        sources.keep(&queue(0), source, now);
        assert_eq!(sources.of(&queue(0)).pick(&addrs([0, 1]), now), Some(replica(1)), "the master rests");
        sources.keep(&queue(0), sources.of(&queue(0)), now + MASTER_RESTS);
        assert!(sources.known().is_empty(), "it has rested: {sources:?}");
    }
}
