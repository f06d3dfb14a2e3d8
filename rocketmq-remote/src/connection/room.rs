//! Waiting for room on a connection, in turn.

use std::{
    future::{Future, poll_fn},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::{AcquireError, Notify},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Why there is no room.
#[derive(Debug)]
pub(super) enum Refused {
    /// The deadline has passed.
    Late,
    /// The connection has ended.
    Closed,
}

/// Waits for permits until the deadline.
///
/// `acquire` takes them from a fair semaphore, which gives them to the caller that has waited longest, also where its
/// future is kept without being polled. So a task takes them and offers them: where they are not accepted within
/// [`ACCEPTED_WITHIN`], they go to the next caller, and this one waits again, behind all others.
///
/// # Cancel safety
/// Dropping the future gives back what was taken.
pub(super) async fn room<P, F>(
    tasks: &TaskTracker,
    deadline: Instant,
    acquire: impl Fn() -> F + Send + Sync + 'static,
) -> Result<P, Refused>
where
    P: Send + 'static,
    F: Future<Output = Result<P, AcquireError>> + Send + 'static,
{
    // Polled once by the caller, so that turns follow from the order of calls and not from that of tasks.
    let mut acquiring = Box::pin(acquire());
    if let Poll::Ready(permits) = poll_fn(|context| Poll::Ready(acquiring.as_mut().poll(context))).await {
        return permits.map_err(|_| Refused::Closed);
    }
    let offer = Arc::new(Offer { permits: Mutex::new(None), made: Notify::new(), over: CancellationToken::new() });
    let waiting = Waiting(offer.clone());
    tasks.spawn(async move {
        let acquiring_in_turn = async {
            loop {
                let permits = acquiring.as_mut().await;
                let is_closed = permits.is_err();
                offer.set(Some(permits.map_err(|_| Refused::Closed)));
                offer.made.notify_one();
                if is_closed {
                    return;
                }
                sleep(ACCEPTED_WITHIN).await;
                offer.set(None);
                acquiring.set(acquire());
            }
        };
        tokio::select! {
            acquired = timeout_at(deadline, acquiring_in_turn) => {
                if acquired.is_err() {
                    drop(offer.set(None));
                }
            }
            () = offer.over.cancelled() => {}
        }
    });
    match timeout_at(deadline, waiting.0.accepted()).await {
        Ok(permits) => permits,
        Err(_) => Err(Refused::Late),
    }
}

/// Permits that a task has taken for a caller.
#[derive(Debug)]
struct Offer<P> {
    permits: Mutex<Option<Result<P, Refused>>>,
    made: Notify,
    /// The caller has accepted, or is gone.
    over: CancellationToken,
}

impl<P> Offer<P> {
    async fn accepted(&self) -> Result<P, Refused> {
        loop {
            if let Some(permits) = self.set(None) {
                return permits;
            }
            self.made.notified().await;
        }
    }

    fn set(&self, permits: Option<Result<P, Refused>>) -> Option<Result<P, Refused>> {
        std::mem::replace(&mut *self.permits.lock().unwrap_or_else(PoisonError::into_inner), permits)
    }
}

/// The caller's end of an offer.
struct Waiting<P>(Arc<Offer<P>>);

impl<P> Drop for Waiting<P> {
    fn drop(&mut self) {
        self.0.over.cancel();
        drop(self.0.set(None));
    }
}

/// How long permits stay with a caller that does not accept them.
const ACCEPTED_WITHIN: Duration = Duration::from_millis(100);
