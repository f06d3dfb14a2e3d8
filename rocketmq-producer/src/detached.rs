//! Work that goes on without the polls of its caller.

use crate::{Error, producer::Shared};
use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
};
use tokio_util::task::AbortOnDropHandle;

/// Polls `work` once. Where it is not ready then, a task of the producer goes on with it: what it waits for or holds, room
/// above all, is not kept from other sends by a caller that keeps the future without polling it.
///
/// # Cancel safety
/// Dropping the future ends the work, at its next point of waiting.
pub(crate) async fn run_detached<T: Send + 'static>(
    producer: &Arc<Shared>,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let mut work = Box::pin(work);
    let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
    if let Poll::Ready(result) = first {
        return result;
    }
    let stopped = producer.stopped.clone();
    let until_stopped = async move {
        tokio::select! {
            biased;
            result = work => result,
            () = stopped.cancelled() => Err(Error::ShutDown),
        }
    };
    let task = AbortOnDropHandle::new(producer.tasks.spawn_on(until_stopped, &producer.runtime));
    // A task without a result has ended with its runtime, before anything was queued.
    task.await.unwrap_or(Err(Error::ShutDown))
}
