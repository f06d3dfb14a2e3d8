use crate::{BatchReceipt, Error, SendReceipt};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::oneshot;

/// What becomes of messages that are queued, as a future.
///
/// It resolves within the send timeout, counted from when there was room. The producer makes further attempts after a
/// failed one by itself, whether or not anybody awaits this. Dropping it takes nothing back; a failure is then told in
/// the log only.
#[must_use = "await the receipt, or nobody learns of a failure"]
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<Result<T, Error>>);

/// The receipt of a message queued by [`Producer::send_async`](crate::Producer::send_async), as a future.
pub type PendingReceipt = Pending<SendReceipt>;

/// The receipt of a batch queued by [`Producer::send_batch_async`](crate::Producer::send_batch_async), as a future.
pub type PendingBatchReceipt = Pending<BatchReceipt>;

impl<T> Pending<T> {
    /// A future, and what makes it ready.
    pub(crate) fn new() -> (Outcome<T>, Self) {
        let (sender, receiver) = oneshot::channel();
        (Outcome(sender), Self(receiver))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // What is dropped without a word has been ended by the end of its producer, or of the runtime, maybe under way.
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(Error::OutcomeUnknown)))
    }
}

/// Whom a send's outcome is told to.
#[derive(Debug)]
pub(crate) struct Outcome<T>(oneshot::Sender<Result<T, Error>>);

impl<T> Outcome<T> {
    /// Tells it. A failure that nobody awaits any more is at least logged.
    pub(crate) fn tell(self, result: Result<T, Error>) {
        if let Err(Err(error)) = self.0.send(result) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a send nobody awaits has failed");
        }
    }
}
