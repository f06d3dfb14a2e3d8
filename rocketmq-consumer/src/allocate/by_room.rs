//! Strategies that look at where brokers and members are.

use super::{AllocateError, AllocateStrategy, Members};
use rocketmq_common::MessageQueue;
use std::collections::{BTreeMap, BTreeSet};

/// Knows in which machine room brokers and members are, for
/// [`Allocate::nearest_machine_room`](super::Allocate::nearest_machine_room). It has to give the same answers at all
/// members, without blocking. `None`, and an empty name, are an error: the queues stay as they are.
///
/// ```
/// use rocketmq_consumer::{Allocate, MessageQueue, RoomResolver};
///
/// /// Brokers are called `broker-a.east`, and members have an instance name like `worker-1.west`.
/// struct BehindTheDot;
///
/// impl RoomResolver for BehindTheDot {
///     fn room_of_queue(&self, queue: &MessageQueue) -> Option<String> {
///         queue.broker_name.rsplit_once('.').map(|(_, room)| room.to_owned())
///     }
///     fn room_of_member(&self, client_id: &str) -> Option<String> {
///         client_id.rsplit_once('.').map(|(_, room)| room.to_owned())
///     }
/// }
/// let strategy = Allocate::nearest_machine_room(Allocate::average(), BehindTheDot);
/// ```
///
/// # Protocol
/// Java: `AllocateMachineRoomNearby.MachineRoomResolver`.
pub trait RoomResolver: Send + Sync {
    /// The room of the broker that has a queue.
    fn room_of_queue(&self, queue: &MessageQueue) -> Option<String>;

    /// The room of a member, by its client id.
    fn room_of_member(&self, client_id: &str) -> Option<String>;
}

/// The queues of brokers in `rooms`, each member an equal number of neighbours, and what is left one by one.
pub(super) fn allocate(
    rooms: &BTreeSet<String>,
    queues: &[MessageQueue],
    index: usize,
    count: usize,
) -> Vec<MessageQueue> {
    let in_rooms = queues.iter().filter(|queue| room_in(&queue.broker_name).is_some_and(|room| rooms.contains(room)));
    let shared: Vec<_> = in_rooms.cloned().collect();
    let whole = shared.len() / count;
    let rest = shared.iter().skip(whole * count + index).take(usize::from(index < shared.len() % count));
    shared.iter().skip(whole * index).take(whole).chain(rest).cloned().collect()
}

/// The room in a broker's name of the form `room@name`. Signs at the end do not count, as in Java's `split`.
fn room_in(broker_name: &str) -> Option<&str> {
    let (room, rest) = broker_name.trim_end_matches('@').split_once('@')?;
    (!rest.contains('@')).then_some(room)
}

/// The queues of the own room among its members, and those of rooms without members among all.
pub(super) fn nearest(
    inner: &dyn AllocateStrategy,
    resolver: &dyn RoomResolver,
    members: &Members<'_>,
    queues: &[MessageQueue],
) -> Result<Vec<MessageQueue>, AllocateError> {
    let known = |room: Option<String>, what: &dyn ToString| {
        room.filter(|room| !room.is_empty()).ok_or_else(|| AllocateError::NoRoom(what.to_string()))
    };
    let mut queues_by_room: BTreeMap<String, Vec<MessageQueue>> = BTreeMap::new();
    for queue in queues {
        let room = known(resolver.room_of_queue(queue), queue)?;
        queues_by_room.entry(room).or_default().push(queue.clone());
    }
    let mut ids_by_room: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for id in members.ids() {
        ids_by_room.entry(known(resolver.room_of_member(id), id)?).or_default().push(id.clone());
    }
    let mut share = Vec::new();
    for (room, queues) in &queues_by_room {
        match ids_by_room.get(room) {
            Some(ids) if ids.iter().any(|id| id == members.own_id()) => {
                share.extend(inner.allocate(&members.among(ids), queues)?);
            }
            Some(_) => {}
            None => share.extend(inner.allocate(members, queues)?),
        }
    }
    Ok(share)
}
