//! How far a group is behind what is stored.

use crate::{
    Error, PopConsumer, PullConsumer, PushConsumer, StartAt, member::Member, pop_group::PopGroup, popper::Popper,
    start_offset::first_offset,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use rocketmq_common::{Client, MessageQueue, pop::PopSource};
use std::{collections::BTreeSet, sync::Arc};

/// How many messages a group has still to consume, as the brokers tell. Made by [`PushConsumer::lag`],
/// [`PullConsumer::lag`] and [`PopConsumer::lag`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The messages behind, over all queues.
    pub total: u64,
    /// The queues of all topics that are subscribed to, whichever member consumes them; those of the group's retry topics
    /// among them, as far as they exist.
    pub queues: Vec<QueueLag>,
}

/// How many messages of one queue a group has still to consume.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLag {
    /// The queue.
    pub queue: MessageQueue,
    /// The offset of the message that the group consumes next: all before it are done. Where the group has no offset
    /// yet, the one where it begins.
    pub offset: i64,
    /// The next offset to be written.
    pub max_offset: i64,
    /// The distance between the two: messages that are not done, or that a filter passes over.
    pub lag: u64,
}

impl QueueLag {
    fn new(queue: MessageQueue, offset: i64, max_offset: i64) -> Self {
        let lag = u64::try_from(max_offset.saturating_sub(offset)).unwrap_or(0);
        Self { queue, offset, max_offset, lag }
    }
}

impl PushConsumer {
    /// How many messages the group has still to consume: in each queue of its topics, and in all. Brokers are asked; for
    /// a queue that belongs to this member counts what it has done, for any other what its owner has recorded. In a
    /// [broadcast](crate::PushConsumerBuilder::broadcast) it is this member's own lag. See
    /// [`statistics`](Self::statistics) for what is known without asking. Where the group
    /// [pops](crate::PushConsumerBuilder::allocate_by_broker), as [`PopConsumer::lag`].
    ///
    /// ```no_run
    /// # async fn tell(consumer: &rocketmq_consumer::PushConsumer) -> Result<(), rocketmq_consumer::Error> {
    /// let lag = consumer.lag().await?;
    /// println!("{} messages behind", lag.total);
    /// for queue in lag.queues.iter().filter(|queue| queue.lag > 0) {
    ///     println!("{}: {} of {}", queue.queue, queue.offset, queue.max_offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Client`] where a broker or every name server does not answer, [`Error::OffsetStore`] where a store of
    /// one's own does not; [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// A future that is dropped changes nothing.
    ///
    /// # Protocol
    /// `GET_MAX_OFFSET` (30), `QUERY_CONSUMER_OFFSET` (14). Java: `DefaultMQAdminExt.examineConsumeStats`.
    pub async fn lag(&self) -> Result<Lag, Error> {
        self.member().lag().await
    }
}

impl PullConsumer {
    /// How many messages the group has still to consume: in each queue of its topics, and in all; with queues of the
    /// user's choice, in those. As [`PushConsumer::lag`]: of a queue that belongs to this member, what the last poll
    /// answered counts as not done, as long as no other poll or commit has said that it is.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn lag(&self) -> Result<Lag, Error> {
        self.member().lag().await
    }
}

impl PopConsumer {
    /// How many messages the group has still to consume: in each queue of its topics, and in all, by the brokers' own
    /// numbers. A message that is popped and not acknowledged may count or not: brokers record an offset when they have
    /// written down what was popped up to there, or it was acknowledged.
    ///
    /// # Errors
    /// [`Error::Client`] where a broker or every name server does not answer; [`Error::ShutDown`].
    ///
    /// # Cancel safety
    /// A future that is dropped changes nothing.
    ///
    /// # Protocol
    /// As [`PushConsumer::lag`]; of the pop retry topics both generations count.
    pub async fn lag(&self) -> Result<Lag, Error> {
        self.popper().lag().await
    }
}

impl Member {
    pub(crate) async fn lag(&self) -> Result<Lag, Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let (subscriptions, mut topics) = (self.subscriptions(), BTreeSet::new());
        for topic in subscriptions.keys() {
            topics.insert(topic.clone());
            if self.queues().values().any(|assigned| assigned.popped.is_some()) {
                topics.extend(retry_topics(topic, &self.group));
            }
        }
        let mut queues = queues_of(&self.client, &topics).await?;
        if !self.is_in_group() {
            queues.retain(|queue| self.queues().contains_key(queue));
        }
        lag_of(&self.client, queues, |queue| self.next_offset(queue)).await
    }

    /// The offset of the message of a queue that the group consumes next.
    async fn next_offset(&self, queue: MessageQueue) -> Result<i64, Error> {
        let assigned = self.queues().get(&queue).filter(|assigned| assigned.popped.is_none()).cloned();
        match assigned.and_then(|assigned| assigned.window().commit_offset()) {
            Some(offset) => Ok(offset),
            None => Ok(self.start_offset(&queue).await?.0),
        }
    }
}

impl Popper {
    pub(crate) async fn lag(&self) -> Result<Lag, Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let (subscriptions, mut topics) = (self.subscriptions(), BTreeSet::new());
        for topic in subscriptions.keys() {
            topics.insert(topic.clone());
            topics.extend(retry_topics(topic, &self.pops.group));
        }
        let queues = queues_of(&self.pops.client, &topics).await?;
        lag_of(&self.pops.client, queues, |queue| next_popped(&self.pops, queue)).await
    }
}

/// The offset of the message of a queue that a group pops next.
async fn next_popped(pops: &PopGroup, queue: MessageQueue) -> Result<i64, Error> {
    match pops.client.kept_consumer_offset(&pops.group, &queue).await? {
        Some(offset) => Ok(offset),
        None if pops.start_at == StartAt::First => first_offset(&pops.client, &queue).await,
        // Nothing has been popped yet, and the broker chooses the first offset only when the first message is popped.
        None => Ok(pops.client.consumer_offset(&pops.group, &queue).await?.unwrap_or(i64::MAX)),
    }
}

/// Where messages of a topic lie that were popped and not acknowledged in time.
fn retry_topics(topic: &Arc<str>, group: &str) -> [Arc<str>; 2] {
    [PopSource::RetryV1, PopSource::RetryV2].map(|source| source.real_topic(topic, group))
}

/// The queues of those topics that exist.
async fn queues_of(client: &Client, topics: &BTreeSet<Arc<str>>) -> Result<Vec<MessageQueue>, Error> {
    let mut queues = Vec::new();
    for topic in topics {
        match client.route(topic).await {
            Ok(route) => queues.extend_from_slice(route.read_queues()),
            Err(rocketmq_common::Error::TopicNotFound { .. }) => {}
            Err(error) => return Err(client.namespace().strip_error(error).into()),
        }
    }
    Ok(queues)
}

/// The lag of each queue, several asked about at once.
async fn lag_of<F>(client: &Client, queues: Vec<MessageQueue>, next: impl Fn(MessageQueue) -> F) -> Result<Lag, Error>
where
    F: Future<Output = Result<i64, Error>>,
{
    let asking = queues.into_iter().map(|queue| {
        let next = next(queue.clone());
        async move {
            // The end comes second: an offset is never beyond it then.
            let offset = next.await?;
            let max_offset = client.max_offset(&queue).await?;
            Ok::<_, Error>(QueueLag::new(client.namespace().strip_queue(queue), offset.min(max_offset), max_offset))
        }
    });
    let queues: Vec<_> = stream::iter(asking).buffered(AT_ONCE).try_collect().await?;
    Ok(Lag { total: queues.iter().map(|queue| queue.lag).sum(), queues })
}

/// How many queues are asked about at once.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_of_a_queue_is_never_negative() {
        let lag = |offset, max_offset| QueueLag::new(MessageQueue::new("t", "b", 0), offset, max_offset).lag;
        assert_eq!([lag(0, 10), lag(10, 10), lag(12, 10), lag(i64::MIN, i64::MAX)], [10, 0, 0, u64::MAX / 2]);
    }
}
