//! Which queues of a topic belong to which member of a group. Pure: every member comes to the same result by itself.

mod by_room;
mod hash;

pub use by_room::RoomResolver;

use rocketmq_common::{MessageQueue, message::names::is_retry_topic};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Shares the queues of a topic out among the members of a group.
///
/// Each member asks its strategy for its own share only. So that every queue has one owner, all members of a group need
/// the same strategy, and it has to give the same answer everywhere: from its arguments alone, or from what is the same
/// at all members. [`Allocate`] has the ones that Java clients have; one of your own can stand on those.
///
/// ```
/// use rocketmq_consumer::{AllocateError, AllocateStrategy, Members, MessageQueue};
///
/// /// The member that comes first has all queues, the others wait for it to leave.
/// struct First;
///
/// impl AllocateStrategy for First {
///     fn name(&self) -> &str { "FIRST" }
///
///     fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError> {
///         Ok(if members.index() == Some(0) { queues.to_vec() } else { Vec::new() })
///     }
/// }
/// ```
///
/// # Protocol
/// Java: `AllocateMessageQueueStrategy`.
pub trait AllocateStrategy: Send + Sync {
    /// What brokers and logs know it by.
    fn name(&self) -> &str;

    /// The queues of the own member, in any order: some of `queues`, which are all of one topic, sorted, and named as
    /// the user names them. It is called where queues are shared out, also for the group's retry topic, so it must not
    /// block.
    ///
    /// # Errors
    /// Whatever keeps it from an answer. It is logged, as a panic is, and so is a queue in the answer that is not among
    /// `queues`: the member keeps the queues it has, and the strategy is asked again a second later. As an error it is
    /// logged again only when its text is another one.
    fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError>;
}

/// Who shares the queues of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    group: &'a str,
    own_id: &'a str,
    ids: &'a [String],
    /// The topic as the wire knows it, where that is not the name the queues have.
    wire_topic: Option<&'a str>,
}

impl<'a> Members<'a> {
    /// The members of `group` by their client ids, sorted by UTF-16 code units, and which of them asks.
    pub fn new(group: &'a str, own_id: &'a str, ids: &'a [String]) -> Self {
        Self { group, own_id, ids, wire_topic: None }
    }

    /// As seen by a member in a namespace.
    pub(crate) fn with_wire_topic(self, topic: &'a str) -> Self {
        Self { wire_topic: Some(topic), ..self }
    }

    /// Some of these members, or others: for a strategy that asks another one.
    #[must_use]
    pub fn among<'b>(&self, ids: &'b [String]) -> Members<'b>
    where
        'a: 'b,
    {
        Members { ids, ..*self }
    }

    /// The group, as the user names it.
    pub fn group(&self) -> &'a str {
        self.group
    }

    /// The client id of the member whose share is asked for.
    pub fn own_id(&self) -> &'a str {
        self.own_id
    }

    /// The client ids of all members, sorted by UTF-16 code units.
    ///
    /// An id may stand there more than once: a broker lists one for each connection, so that one comes twice while a
    /// connection that is lost is not given up by the broker yet, and as long as two processes call themselves the
    /// same. A place that is repeated has its share, and nobody takes it: that is how Java's strategies have it, and
    /// members that do not agree would have queues in common.
    pub fn ids(&self) -> &'a [String] {
        self.ids
    }

    /// The first place of the own member among all; `None` where it is not one of them.
    pub fn index(&self) -> Option<usize> {
        self.ids.iter().position(|id| id == self.own_id)
    }
}

/// Why a strategy has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// A strategy of the user's own says so.
    #[error("{0}")]
    Failed(String),
    /// The strategy panicked.
    #[error("the strategy panicked")]
    Panicked,
    /// The strategy's answer names a queue the topic does not have.
    #[error("{0} is not a queue of the topic")]
    NoSuchQueue(MessageQueue),
    /// The resolver knows no machine room for a queue's broker, or for a client id.
    #[error("no machine room is known for {0}")]
    NoRoom(String),
}

/// The strategies that Java clients have. A group may have members of both kinds: they come to the same result.
///
/// ```no_run
/// # async fn run() -> Result<(), rocketmq_consumer::Error> {
/// use rocketmq_consumer::{Allocate, Filter, PushConsumer, StoredMessage};
///
/// let consumer = PushConsumer::builder("billing").name_servers(["127.0.0.1:9876"])
///     .subscribe("order-created", Filter::all())
///     .allocate(Allocate::consistent_hash(10))
///     .listener(|message: StoredMessage| async move { Ok::<_, String>(println!("{message:?}")) })
///     .start().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Allocate {
    name: Arc<str>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Average,
    Circle,
    Hash { virtual_nodes: u16 },
    Fixed(Arc<[MessageQueue]>),
    Rooms(Arc<BTreeSet<String>>),
    Nearest { inner: Arc<dyn AllocateStrategy>, resolver: Arc<dyn RoomResolver> },
}

impl Allocate {
    /// The sorted queues are cut into as many runs as there are members, the longer runs first. The default.
    ///
    /// # Protocol
    /// Java: `AllocateMessageQueueAveragely`, by the name `AVG`.
    pub fn average() -> Self {
        Self::of("AVG", Way::Average)
    }

    /// The sorted queues are dealt out one by one, as cards are: each member gets queues of all brokers.
    ///
    /// # Protocol
    /// Java: `AllocateMessageQueueAveragelyByCircle`, by the name `AVG_BY_CIRCLE`.
    pub fn by_circle() -> Self {
        Self::of("AVG_BY_CIRCLE", Way::Circle)
    }

    /// Each member has `virtual_nodes` places on a ring, and each queue belongs to the member whose place comes next:
    /// few queues move when members come and go, and the shares are less even. Java's default is 10; with 0 nobody has
    /// any queue.
    ///
    /// # Protocol
    /// Java: `AllocateMessageQueueConsistentHash`, by the name `CONSISTENT_HASH`. The ring is that of its MD5 hash.
    pub fn consistent_hash(virtual_nodes: u16) -> Self {
        Self::of("CONSISTENT_HASH", Way::Hash { virtual_nodes })
    }

    /// This member has exactly these queues, whoever else is there; other topics have none. A queue that does not exist
    /// is an error, in the log, for the whole of its topic. The retry topic of the group is shared by
    /// [`average`](Self::average), so that what failed comes again.
    ///
    /// # Protocol
    /// Java: `AllocateMessageQueueByConfig`, by the name `CONFIG`; it leaves the retry topic to nobody.
    pub fn fixed(queues: impl IntoIterator<Item = MessageQueue>) -> Self {
        Self::of("CONFIG", Way::Fixed(queues.into_iter().collect()))
    }

    /// Only queues of brokers in one of `rooms` are shared out, by average; the room stands in a broker's name:
    /// `room@name`. All others belong to nobody.
    ///
    /// # Protocol
    /// Java: `AllocateMessageQueueByMachineRoom`, by the name `MACHINE_ROOM`.
    pub fn by_machine_room(rooms: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::of("MACHINE_ROOM", Way::Rooms(Arc::new(rooms.into_iter().map(Into::into).collect())))
    }

    /// The queues of a machine room are shared out by `inner` among the members in it; those of a room without members
    /// among all.
    ///
    /// # Protocol
    /// Java: `AllocateMachineRoomNearby`, by the name `MACHINE_ROOM_NEARBY-` and that of `inner`.
    pub fn nearest_machine_room(inner: impl AllocateStrategy + 'static, resolver: impl RoomResolver + 'static) -> Self {
        let name = format!("MACHINE_ROOM_NEARBY-{}", inner.name());
        Self::of(&name, Way::Nearest { inner: Arc::new(inner), resolver: Arc::new(resolver) })
    }

    fn of(name: &str, way: Way) -> Self {
        Self { name: name.into(), way }
    }
}

impl Default for Allocate {
    fn default() -> Self {
        Self::average()
    }
}

impl fmt::Debug for Allocate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Allocate").field(&self.name).finish()
    }
}

impl AllocateStrategy for Allocate {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError> {
        if let (Way::Fixed(own), Some(first)) = (&self.way, queues.first()) {
            if !is_retry_topic(&first.topic) {
                return Ok(own.iter().filter(|queue| queue.topic == first.topic).cloned().collect());
            }
        }
        let Some(index) = members.index() else { return Ok(Vec::new()) };
        let count = members.ids().len();
        Ok(match &self.way {
            Way::Average | Way::Fixed(_) => average(queues, index, count),
            Way::Circle => queues.iter().skip(index).step_by(count).cloned().collect(),
            Way::Hash { virtual_nodes } => hash::allocate(*virtual_nodes, members, queues),
            Way::Rooms(rooms) => by_room::allocate(rooms, queues, index, count),
            Way::Nearest { inner, resolver } => return by_room::nearest(&**inner, &**resolver, members, queues),
        })
    }
}

/// The run of member number `index` of `count`.
fn average(queues: &[MessageQueue], index: usize, count: usize) -> Vec<MessageQueue> {
    let (whole, rest) = (queues.len() / count, queues.len() % count);
    let start = index * whole + index.min(rest);
    let size = whole + usize::from(index < rest);
    queues.iter().skip(start).take(size).cloned().collect()
}

/// Sorts member ids as every member does; one that is repeated stays so.
///
/// # Protocol
/// Java: `RebalanceImpl.rebalanceByTopic`.
pub(crate) fn sort_members(members: &mut [String]) {
    members.sort_by(|one, other| one.encode_utf16().cmp(other.encode_utf16()));
}

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod tests;
