use crate::{
    Error,
    attempt::{Delivery, Store, Target},
    producer::Shared,
};
use rocketmq_common::{
    MessageQueue,
    protocol::Stored,
    remote::{Answer, Error as RemoteError},
};
use std::sync::Arc;

/// How a delivery ended: its id, and where the broker put it.
pub(crate) type Delivered = Result<(String, MessageQueue, Answer<Stored>), Error>;

/// Queues the first attempt of a delivery, waiting only for its turn, and tells `done` once how the delivery ended, all
/// further attempts included. `done` may run on a task of the connection and has to be quick.
///
/// # Cancel safety
/// Dropping the future before it is ready sends nothing, and tells nobody.
pub(crate) async fn launch<R: Store>(
    producer: &Arc<Shared>,
    mut delivery: Delivery<R>,
    done: impl FnOnce(Delivered) + Send + 'static,
) {
    match delivery.reserve(producer).await {
        Ok((target, call)) => {
            let producer = producer.clone();
            call.start_then(target.deadline, move |result| settle(producer, delivery, target, result, done));
        }
        Err(error) => done(Err(error)),
    }
}

/// Ends a delivery whose first attempt did it; else makes the further ones, on a task of the producer's own.
fn settle<R: Store>(
    producer: Arc<Shared>,
    mut delivery: Delivery<R>,
    target: Target,
    result: Result<Answer<Stored>, RemoteError>,
    done: impl FnOnce(Delivered) + Send + 'static,
) {
    let result = match result {
        Ok(answer) if producer.is_safe_enough(&answer) => {
            delivery.note_success(&producer, &target);
            return done(Ok((delivery.message_id, target.queue, answer)));
        }
        other => other,
    };
    let (tasks, runtime) = (producer.tasks.clone(), producer.runtime.clone());
    let trying = async move {
        let finished = tokio::select! {
            biased;
            finished = delivery.finish(&producer, target, result) => Some(finished),
            () = producer.stopped.cancelled() => None,
        };
        let finished = finished.unwrap_or_else(|| Err(delivery.give_up()));
        done(finished.map(|(queue, answer)| (delivery.message_id, queue, answer)));
    };
    tasks.spawn_on(trying, &runtime);
}
