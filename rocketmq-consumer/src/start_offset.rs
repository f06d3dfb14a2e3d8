//! Where a group begins in a queue.

use crate::{Error, StartAt, assigned::AssignedQueue, member::Member, offset_store::Offsets, subscriptions::LookUp};
use rocketmq_common::{Client, MessageQueue, message::names::is_retry_topic, remote::ResponseCode};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

/// The queues that each topic had when this member first knew of it. A queue that is not among them appeared later: all
/// its messages came while the member was there, so that its end would be the wrong place to begin.
#[derive(Debug, Default)]
pub(crate) struct FirstRoutes(Mutex<BTreeMap<Arc<str>, BTreeSet<MessageQueue>>>);

impl FirstRoutes {
    /// Notes what a look-up of a topic came to. The first answer counts; a topic that does not exist has no queues.
    pub(crate) fn note(&self, topic: &Arc<str>, answer: &LookUp) {
        let queues: &[MessageQueue] = match answer {
            Ok(route) => route.read_queues(),
            Err(rocketmq_common::Error::TopicNotFound { .. }) => &[],
            Err(_) => return,
        };
        self.lock().entry(topic.clone()).or_insert_with(|| queues.iter().cloned().collect());
    }

    /// Whether a queue was not there when its topic was first known.
    pub(crate) fn is_later(&self, queue: &MessageQueue) -> bool {
        self.lock().get(&queue.topic).is_some_and(|first| !first.contains(queue))
    }

    /// Forgets the topics that are not wanted any more.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|topic, _| is_wanted(topic));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, BTreeSet<MessageQueue>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A place in a queue whose offset a broker has to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Zero,
    Min,
    Max,
    At(SystemTime),
}

/// Where a group without an offset begins.
///
/// # Protocol
/// Java: `RebalancePushImpl.computePullFromWhereWithException`, but for queues that appear while the member runs, and
/// for retry topics with a timestamp: there Java begins at the end.
fn place(start_at: StartAt, is_retry: bool, is_later: bool) -> Place {
    match start_at {
        _ if is_retry => Place::Zero,
        StartAt::Last if is_later => Place::Min,
        StartAt::Last => Place::Max,
        StartAt::First => Place::Min,
        StartAt::Timestamp(time) => Place::At(time),
    }
}

impl Member {
    /// Where to begin in a queue, and whether that is an offset the group is known to have.
    pub(crate) async fn start_offset(&self, queue: &MessageQueue) -> Result<(i64, bool), Error> {
        let client = &self.client;
        let recorded = self.recorded_offset(queue).await?;
        if let Some(offset) = recorded {
            // A broker answers 0 where the group has none in a young queue.
            return Ok((offset, offset > 0 || !matches!(self.offsets, Offsets::Brokers)));
        }
        let is_later = self.first_routes.is_later(queue) || self.offsets.knew_topic(&queue.topic);
        let offset = match place(self.config.start_at, is_retry_topic(&queue.topic), is_later) {
            Place::Zero => 0,
            Place::Min => first_offset(client, queue).await?,
            Place::Max => client.max_offset(queue).await?,
            Place::At(time) => client.offset_at(queue, time).await?,
        };
        Ok((offset, false))
    }

    /// Records where the group begins in a queue: until then a member that dies has the next one choose anew, and skip
    /// what came meanwhile.
    pub(crate) async fn record_start(self: &Arc<Self>, assigned: &Arc<AssignedQueue>, offset: i64) {
        if let Some(polled) = &assigned.polled {
            polled.commit_first(offset);
        }
        // What fails is logged there, and made up for with the next offset.
        self.record_all(vec![assigned.clone()]).await;
    }
}

/// The first offset of a queue. Where an ACL keeps that from the group, 0: a pull is answered with the right one.
pub(crate) async fn first_offset(client: &Client, queue: &MessageQueue) -> Result<i64, Error> {
    match client.min_offset(queue).await {
        Ok(offset) => Ok(offset.max(0)),
        Err(error) if error.response_code() == Some(ResponseCode::NO_PERMISSION) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocketmq_common::{
        TopicRoute,
        protocol::{QueueData, TopicRouteData},
    };

    fn route(queues: i32) -> LookUp {
        let queues = QueueData {
            broker_name: "b".into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: 6,
            topic_sys_flag: 0,
        };
        let data = TopicRouteData { queue_datas: vec![queues], ..TopicRouteData::default() };
        Ok(Arc::new(TopicRoute::new("t".into(), 1, data)))
    }

    fn not_found() -> LookUp {
        Err(rocketmq_common::Error::TopicNotFound { topic: "t".into() })
    }

    #[test]
    fn queues_that_the_first_route_did_not_have_appeared_later() {
        let (first, queue) = (FirstRoutes::default(), |id| MessageQueue::new("t", "b", id));
        assert!(!first.is_later(&queue(0)), "nothing is known of the topic");
        first.note(&"t".into(), &Err(rocketmq_common::Error::ShutDown));
        first.note(&"t".into(), &route(4));
        first.note(&"t".into(), &route(8));
        first.note(&"t".into(), &not_found());
        assert!(!first.is_later(&queue(3)) && first.is_later(&queue(4)));
        first.retain(|topic| topic != "t");
        first.note(&"t".into(), &not_found());
        first.note(&"t".into(), &route(4));
        assert!(first.is_later(&queue(0)), "the topic did not exist");
    }

    #[test]
    fn what_appears_later_is_consumed_from_its_first_message() {
        let time = SystemTime::UNIX_EPOCH;
        assert_eq!(place(StartAt::Last, false, false), Place::Max);
        assert_eq!(place(StartAt::Last, false, true), Place::Min);
        assert_eq!(place(StartAt::First, false, false), Place::Min);
        assert_eq!(place(StartAt::Timestamp(time), false, true), Place::At(time));
    }

    #[test]
    fn retry_topics_begin_at_zero_under_every_start_position() {
        for start_at in [StartAt::Last, StartAt::First, StartAt::Timestamp(SystemTime::now())] {
            for is_later in [false, true] {
                assert_eq!(place(start_at, true, is_later), Place::Zero);
            }
        }
    }
}
