use crate::Error;
use rocketmq_common::{Message, MessageQueue, message::names::java_hash, random::random_below};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Which queue of its topic a message goes to. Without one, the queues take turns.
///
/// A message whose queue is chosen stays there: further attempts go to the same queue, so that the messages of a key
/// keep their order.
///
/// ```
/// use rocketmq_producer::{Message, MessageQueue, Producer, Select};
///
/// # async fn run(producer: Producer) -> Result<(), rocketmq_producer::Error> {
/// producer.send_to(Select::hash("user-7"), Message::new("t", "in order with others of user-7")).await?;
/// producer.send_to(Select::queue(&MessageQueue::new("t", "broker-a", 0)), Message::new("t", "there")).await?;
/// producer.send_to(Select::by(|queues, message| message.body().len() % queues.len()), Message::new("t", "b")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Select(Choice);

#[derive(Clone)]
enum Choice {
    Hash(i32),
    Queue(MessageQueue),
    Random,
    By(Arc<Selector>),
}

type Selector = dyn Fn(&[MessageQueue], &Message) -> usize + Send + Sync;

impl Select {
    /// The queue of a key: the same one that a Java producer picks for the same text and the same route.
    ///
    /// # Protocol
    /// Java: `SelectMessageQueueByHash`; the remainder of `String.hashCode`, without its sign. Witness: test
    /// `select::the_same_key_goes_where_java_sends_it`.
    pub fn hash(key: impl AsRef<str>) -> Self {
        Self(Choice::Hash(java_hash(key.as_ref())))
    }

    /// This queue.
    pub fn queue(queue: &MessageQueue) -> Self {
        Self(Choice::Queue(queue.clone()))
    }

    /// Any queue, at random.
    pub fn random() -> Self {
        Self(Choice::Random)
    }

    /// The queue whose index `selector` returns. It gets the topic's queues in Java's order, never none, and the
    /// message. An index beyond them is an error of the send.
    pub fn by(selector: impl Fn(&[MessageQueue], &Message) -> usize + Send + Sync + 'static) -> Self {
        Self(Choice::By(Arc::new(selector)))
    }

    /// The queue of `message` among `queues`.
    pub(crate) fn choose(&self, queues: &[MessageQueue], message: &Message) -> Result<MessageQueue, Error> {
        let no_queue = || Error::NoQueue { topic: message.topic().into() };
        let count = queues.len();
        let index = match &self.0 {
            _ if queues.is_empty() => return Err(no_queue()),
            Choice::Queue(queue) => {
                let known = queues.contains(queue);
                return if known { Ok(queue.clone()) } else { Err(Error::NoSuchQueue { queue: queue.clone() }) };
            }
            Choice::Hash(hash) => {
                let remainder = i64::from(*hash) % i64::try_from(count).unwrap_or(i64::MAX);
                usize::try_from(remainder.unsigned_abs()).unwrap_or(0)
            }
            Choice::Random => random_below(count),
            Choice::By(selector) => selector(queues, message),
        };
        queues.get(index).cloned().ok_or_else(|| Error::BadSelection { topic: message.topic().into(), index, count })
    }
}

/// How a queue was chosen: enough to choose again where that queue is no more.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) select: Select,
    /// The message, where the choice depends on it.
    message: Option<Message>,
}

impl Selection {
    pub(crate) fn new(select: Select, message: &Message) -> Self {
        let message = matches!(select.0, Choice::By(_)).then(|| message.clone());
        Self { select, message }
    }

    /// What to choose a queue of `topic` for.
    pub(crate) fn message(&self, topic: &str) -> Message {
        self.message.clone().unwrap_or_else(|| Message::new(topic, ""))
    }
}

impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Choice::Hash(hash) => write!(f, "Select::hash({hash})"),
            Choice::Queue(queue) => write!(f, "Select::queue({queue})"),
            Choice::Random => f.write_str("Select::random"),
            Choice::By(_) => f.write_str("Select::by"),
        }
    }
}

/// The next queue, round and round. Pure: where it begins comes in.
#[derive(Debug)]
pub(crate) struct RoundRobin(AtomicUsize);

impl RoundRobin {
    pub(crate) fn beginning_at(first: usize) -> Self {
        Self(AtomicUsize::new(first))
    }

    /// The next queue to which the first of the `wishes` applies; where one applies to no queue, the one after it
    /// counts, and in the end none. `None` where there are no queues.
    pub(crate) fn next<'a>(&self, queues: &'a [MessageQueue], wishes: &[&Wish<'_>]) -> Option<&'a MessageQueue> {
        let count = queues.len();
        let first = self.0.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        let granted =
            |wish: &&Wish<'_>| (0..count).map(|step| &queues[(first + step) % count]).find(|queue| wish(queue));
        wishes.iter().find_map(granted).or_else(|| queues.get(first))
    }
}

type Wish<'a> = dyn Fn(&MessageQueue) -> bool + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(brokers: &[&str]) -> Vec<MessageQueue> {
        brokers.iter().map(|broker| MessageQueue::new("t", *broker, 0)).collect()
    }

    fn numbered(count: i32) -> Vec<MessageQueue> {
        (0..count).map(|id| MessageQueue::new("t", "a", id)).collect()
    }

    #[test]
    fn each_queue_has_its_turn() {
        let queues = numbered(3);
        let next = RoundRobin::beginning_at(usize::MAX - 2);
        let ids: Vec<_> = (0..6).map(|_| next.next(&queues, &[]).unwrap().queue_id).collect();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{ids:?}");
    }

    #[test]
    fn the_first_wish_that_can_be_granted_counts() {
        let next = RoundRobin::beginning_at(0);
        let queues = queues(&["a", "a", "b", "c"]);
        let wish = |name: &'static str| move |queue: &MessageQueue| &*queue.broker_name == name;
        for _ in 0..6 {
            let chosen = next.next(&queues, &[&wish("x"), &wish("b"), &wish("c")]);
            assert_eq!(&*chosen.unwrap().broker_name, "b");
        }
        let chosen: Vec<_> = (0..4).filter_map(|_| next.next(&queues, &[&wish("x")])).collect();
        assert_eq!(chosen.len(), 4);
        assert!(chosen.windows(2).any(|pair| pair[0].broker_name != pair[1].broker_name), "each has its turn");
    }

    #[test]
    fn no_queue_is_none() {
        assert!(RoundRobin::beginning_at(7).next(&[], &[]).is_none());
    }

    #[test]
    fn the_same_key_goes_where_java_sends_it() {
        // "order-created".hashCode() is -392709271: -392709271 % 7 is -4 in Java, and its absolute value counts.
        let message = Message::new("t", "b");
        let chosen = Select::hash("order-created").choose(&numbered(7), &message).unwrap();
        assert_eq!(chosen.queue_id, 392_709_271 % 7);
        assert_eq!(Select::hash("TagA").choose(&numbered(8), &message).unwrap().queue_id, 2_598_919 % 8);
        assert_eq!(Select::hash("").choose(&numbered(8), &message).unwrap().queue_id, 0);
    }

    #[test]
    fn a_queue_that_is_not_there_is_an_error() {
        let message = Message::new("t", "b");
        let chosen = Select::queue(&MessageQueue::new("t", "a", 8)).choose(&numbered(8), &message);
        assert!(matches!(chosen, Err(Error::NoSuchQueue { .. })));
        let chosen = Select::by(|queues, _| queues.len()).choose(&numbered(8), &message);
        assert!(matches!(chosen, Err(Error::BadSelection { index: 8, count: 8, .. })));
        assert!(matches!(Select::random().choose(&[], &message), Err(Error::NoQueue { .. })));
    }
}
