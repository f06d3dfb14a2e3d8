use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// One queue of a topic on one broker.
///
/// Cheap to clone. Ordered as in Java (topic, then broker name, both by UTF-16 code units, then queue id), since all
/// members of a group have to sort the queues alike to share them out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageQueue {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Name of the broker.
    pub broker_name: Arc<str>,
    /// Number of the queue on that broker, from 0.
    pub queue_id: i32,
}

impl MessageQueue {
    /// Names a queue.
    pub fn new(topic: impl Into<Arc<str>>, broker_name: impl Into<Arc<str>>, queue_id: i32) -> Self {
        Self { topic: topic.into(), broker_name: broker_name.into(), queue_id }
    }
}

impl Ord for MessageQueue {
    fn cmp(&self, other: &Self) -> Ordering {
        let as_java = |a: &Arc<str>, b: &Arc<str>| {
            if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.encode_utf16().cmp(b.encode_utf16()) }
        };
        as_java(&self.topic, &other.topic)
            .then_with(|| as_java(&self.broker_name, &other.broker_name))
            .then_with(|| self.queue_id.cmp(&other.queue_id))
    }
}

impl PartialOrd for MessageQueue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.broker_name, self.queue_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_sort_as_in_java() {
        let queue = MessageQueue::new;
        // U+FFFD sorts behind U+1F680 in UTF-16 and before it in UTF-8.
        let sorted = [queue("a", "b", 10), queue("a", "c", 2), queue("\u{1F680}", "a", 0), queue("\u{FFFD}", "a", 0)];
        let mut queues = sorted.clone();
        queues.reverse();
        queues.sort();
        assert_eq!(queues, sorted);
        assert_eq!(queue("topic", "broker-a", 3).to_string(), "topic/broker-a/3");
    }
}
