use super::{
    Connection, PendingReply,
    pending::{Completion, Outcome, Waiting},
};
use crate::{Command, Deadline, Error, Request};
use std::{marker::PhantomData, mem};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

/// A call that has room on its connection and is yet to be started. Dropping it gives the room back.
#[must_use = "the call is made only when it is started"]
#[derive(Debug)]
pub struct ReservedCall<R> {
    command: Command,
    call: OwnedSemaphorePermit,
    bytes: BytesToBe,
    request: PhantomData<fn() -> R>,
}

/// Permits for bytes that are yet to be queued.
#[derive(Debug)]
struct BytesToBe {
    connection: Connection,
    permits: usize,
}

impl Drop for BytesToBe {
    fn drop(&mut self) {
        self.connection.0.shared.bytes.add_permits(self.permits);
    }
}

impl<R: Request> ReservedCall<R> {
    pub(super) fn new(command: Command, call: OwnedSemaphorePermit, connection: Connection, bytes: usize) -> Self {
        let bytes = BytesToBe { connection, permits: bytes };
        Self { command, call, bytes, request: PhantomData }
    }

    /// Queues the request and returns a future of the answer.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Encode`], and [`Error::DeadlinePassed`].
    pub fn start(self, deadline: Deadline) -> Result<PendingReply<R>, Error> {
        let connection = self.bytes.connection.clone();
        let (outcome, receiver) = oneshot::channel();
        let opaque = self.enter(deadline, Completion::Channel(outcome)).map_err(|(error, _)| error)?;
        Ok(PendingReply { connection, opaque, receiver, done: false, request: PhantomData })
    }

    /// Queues the request. Its answer, or the reason why there is none, goes to `done`, which is called exactly once:
    /// by the connection's own task, so it has to be quick and must not block; or right here, where the request cannot
    /// be queued.
    pub fn start_then(self, deadline: Deadline, done: impl FnOnce(Result<R::Reply, Error>) + Send + 'static) {
        let connection = self.bytes.connection.clone();
        let function = Box::new(move |outcome| done(connection.read_outcome::<R>(outcome)));
        if let Err((error, Completion::Function(function))) = self.enter(deadline, Completion::Function(function)) {
            function(Outcome::Failed(error));
        }
    }

    /// Enters the call and queues its frame; gives the completion back where that fails.
    fn enter(mut self, deadline: Deadline, completion: Completion) -> Result<i32, (Error, Completion)> {
        let connection = self.bytes.connection.clone();
        let shared = &connection.0.shared;
        if let Err(error) = connection.refuse_while_closing() {
            return Err((error, completion));
        }
        let (sent, deadline) = (Instant::now(), deadline.instant());
        if sent >= deadline {
            return Err((Error::DeadlinePassed { addr: connection.addr().clone(), code: R::CODE }, completion));
        }
        let waiting = Waiting { completion, sent, deadline, _permit: Some(self.call) };
        let opaque = match shared.enter(waiting) {
            Ok(opaque) => opaque,
            Err((cause, waiting)) => return Err((connection.closed(cause, false), waiting.completion)),
        };
        self.command.opaque = opaque;
        let mut frame = match shared.encode(&mut self.command) {
            Ok(frame) => frame,
            Err(source) => {
                let error = connection.encode_error(R::CODE, source);
                let taken_back = shared.pending().remove(opaque);
                return match taken_back {
                    Some(waiting) => Err((error, waiting.completion)),
                    // The connection has ended in between, and the call with it.
                    None => Ok(opaque),
                };
            }
        };
        frame.permits = mem::take(&mut self.bytes.permits);
        shared.outgoing.push(frame);
        Ok(opaque)
    }
}
