//! Which replica of its broker a queue is pulled from.

use rocketmq_common::protocol::MASTER_ID;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Where the next pull of one queue goes: to the replica that the broker suggested last, unless that has just failed.
///
/// Pure: the addresses and the time come in.
///
/// # Protocol
/// Java: `PullAPIWrapper.recalculatePullFromWhichNode`, `MQClientInstance.findBrokerAddressInSubscribe`. Java keeps
/// asking a replica that fails; here it rests for a while. No bit has to be taken out of the flags of a pull that goes
/// to a replica: ours never bring an offset along.
#[derive(Debug, Default)]
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
}
