//! Queue locks for ordered consumption. Java: `AdminBrokerProcessor`.

use super::{Outcome, done};
use crate::broker::Broker;
use rocketmq_common::protocol::{LockQueues, LockedQueues, UnlockQueues};
use rocketmq_remote::{Incoming, Json, Reply};
use tokio::time::Instant;

pub(super) fn lock(broker: &Broker, incoming: &Incoming) -> Outcome {
    let Json(mut body) = incoming.body::<LockQueues>()?;
    let now = Instant::now();
    let mut locks = broker.locks();
    body.mq_set.retain(|queue| locks.lock(&body.consumer_group, (&queue.topic, queue.queue_id), &body.client_id, now));
    drop(locks);
    let mut command = done();
    Json(LockedQueues { queues: body.mq_set }).write_to(&mut command)?;
    Ok(command)
}

pub(super) fn unlock(broker: &Broker, incoming: &Incoming) -> Outcome {
    let Json(body) = incoming.body::<UnlockQueues>()?;
    let mut locks = broker.locks();
    for queue in &body.mq_set {
        locks.unlock(&body.consumer_group, (&queue.topic, queue.queue_id), &body.client_id);
    }
    Ok(done())
}
