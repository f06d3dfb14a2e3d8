//! How much of what a name server answers is believed.

use crate::MessageQueue;
use rocketmq_remote::printable;
use std::{borrow::Cow, cell::Cell, sync::Arc};

/// The limits of one route. What is beyond them is left out, and a warning says so once: a name server that is broken, or
/// that is not the user's, does not fill the memory, or the log with control characters.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    topic: &'a str,
    exceeded: Cell<bool>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(topic: &'a str) -> Self {
        Self { topic, exceeded: Cell::new(false) }
    }

    /// Whether a text may be the name or the address of a broker: short, and without control characters. Such names end
    /// up in errors and logs.
    pub(super) fn is_name(&self, text: &str) -> bool {
        self.noted(text.len() <= MAX_NAME_BYTES && matches!(printable(text), Cow::Borrowed(_)))
    }

    /// How many of the queues that a broker claims to have are believed, of the `left` ones of the topic.
    pub(super) fn queues(&self, claimed: i32, left: &mut usize) -> usize {
        let claimed = usize::try_from(claimed).unwrap_or(0);
        let believed = claimed.min(MAX_QUEUES).min(*left);
        *left -= believed;
        self.noted(believed == claimed);
        believed
    }

    /// How many of `claimed` things are believed.
    pub(super) fn at_most(&self, claimed: usize, max: usize) -> usize {
        self.noted(claimed <= max);
        claimed.min(max)
    }

    pub(super) fn warn(self) {
        if self.exceeded.get() {
            tracing::warn!(
                topic = self.topic,
                "the route that a name server answered holds more than any cluster has, or names that cannot be: the \
                 rest of it is used"
            );
        }
    }

    fn noted(&self, is_within: bool) -> bool {
        self.exceeded.set(self.exceeded.get() || !is_within);
        is_within
    }
}

/// Queues of a topic, broker after broker, within the limits.
#[derive(Debug)]
pub(super) struct QueueList<'a> {
    topic: &'a Arc<str>,
    limits: &'a Limits<'a>,
    queues: Vec<MessageQueue>,
    left: usize,
}

impl<'a> QueueList<'a> {
    pub(super) fn new(topic: &'a Arc<str>, limits: &'a Limits<'a>) -> Self {
        Self { topic, limits, queues: Vec::new(), left: MAX_QUEUES_OF_TOPIC }
    }

    /// Adds the queues 0 to `count` of a broker.
    pub(super) fn add(&mut self, broker_name: &str, count: i32) {
        let (topic, broker_name) = (self.topic, Arc::<str>::from(broker_name));
        let count = self.limits.queues(count, &mut self.left);
        let queue = |queue_id| MessageQueue { topic: topic.clone(), broker_name: broker_name.clone(), queue_id };
        self.queues.extend((0..).take(count).map(queue));
    }

    pub(super) fn into_queues(self) -> Vec<MessageQueue> {
        self.queues
    }
}

/// Most queues of a topic on one broker.
const MAX_QUEUES: usize = 65_536;
/// Most queues of a topic on all brokers.
pub(super) const MAX_QUEUES_OF_TOPIC: usize = 131_072;
/// Most brokers of a topic.
pub(super) const MAX_BROKERS: usize = 4_096;
/// Most replicas of a broker.
pub(super) const MAX_REPLICAS: usize = 256;
const MAX_NAME_BYTES: usize = 255;
