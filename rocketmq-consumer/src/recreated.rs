//! Queues that hold less than a group has consumed: their topic was deleted and created again, or their broker has lost
//! its newest messages.

use crate::{
    Error,
    assigned::{AssignedQueue, Place},
    member::Member,
    start_offset::first_offset,
};
use rocketmq_common::{
    Error as ClientError, MessageQueue,
    remote::{Error as RemoteError, ResponseCode},
};
use std::time::{Duration, UNIX_EPOCH};

/// Where a queue holds the first message that this member cannot have pulled: the first one stored since the last that it
/// has pulled, by the broker's clock. Where it has pulled none, nothing is known of what the queue held, and no message is
/// to be lost: the first one of all.
///
/// # Protocol
/// Java goes on at the end of the queue.
pub(crate) async fn first_unseen(member: &Member, assigned: &AssignedQueue) -> Result<i64, Error> {
    let (client, queue) = (&member.client, &assigned.queue);
    match assigned.stored_ms() {
        Some(millis) => {
            let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0));
            Ok(client.offset_at(queue, time).await?.max(0))
        }
        None => first_offset(client, queue).await,
    }
}

/// Whether a failed pull means that the topic was deleted: its master says so. A replica that does not know the topic has
/// not heard of it yet: replicas of 5.5.0 learn of a new topic up to a minute after their master.
pub(crate) fn is_topic_gone(member: &Member, queue: &MessageQueue, error: &ClientError) -> bool {
    let ClientError::Remote(RemoteError::Refused { addr, code: ResponseCode::TOPIC_NOT_EXIST, .. }) = error else {
        return false;
    };
    member.client.master(&member.client.broker_of(queue)).is_ok_and(|master| master == *addr)
}

/// Goes on in a queue whose topic did not exist for a while: at `place`, unless the queue has begun again.
///
/// # Errors
/// Where that cannot be told now: to pull on could skip messages.
pub(crate) async fn begin_again(member: &Member, assigned: &AssignedQueue, place: Place) -> Result<Place, Error> {
    let next = first_unseen(member, assigned).await?;
    if next < place.next && assigned.window().epoch() == place.epoch {
        tracing::warn!(
            group = %member.group, queue = %assigned.queue, asked = place.next, next,
            "topic was deleted and created again: going on at its first message"
        );
        assigned.start_over(next);
        record_correction(member, assigned).await;
    }
    Ok(assigned.fetch_on_at(place))
}

/// Records an offset that is no progress of this member's.
pub(crate) async fn record_correction(member: &Member, assigned: &AssignedQueue) {
    if let Some(polled) = &assigned.polled {
        // The offsets are no longer what they were when the user said how far the group is.
        polled.commit(None);
    }
    if let Err(error) = member.record(assigned).await {
        tracing::warn!(queue = %assigned.queue, error = &error as &dyn std::error::Error, "offset not recorded");
    }
}
