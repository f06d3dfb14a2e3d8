//! One call of the listener: interceptors around it, a time-out, and the count of what came of it.

use crate::{
    assigned::AssignedQueue,
    decode::{decompressed, needs_decompressing},
    interceptor::{Consumed, Watch},
    listener::Seen,
    member::Member,
    outcome::Failed,
    stall::Turn,
};
use rocketmq_common::StoredMessage;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    slice,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// What came of a call.
#[derive(Debug)]
pub(crate) enum Called {
    Done,
    Failed(Box<Failed>),
    /// It took too long, and its messages were given back before it ended.
    GivenBack,
}

/// A call that has ended.
struct Ended {
    watch: Option<Watch>,
    began: Instant,
    failed: Option<Box<Failed>>,
    given_back: bool,
}

impl Member {
    /// Calls the listener with messages of one queue, however long that takes.
    pub(crate) async fn call(&self, turn: &mut Turn, queue: &AssignedQueue, messages: &[StoredMessage]) -> Called {
        if let Some(failed) = self.fail_undecoded(queue, messages) {
            return Called::Failed(failed);
        }
        let (watch, seen) = self.see(messages, false);
        let began = Instant::now();
        let failed = turn.call(&self.stall_watch, began, self.listen(Some(queue), seen)).await;
        self.called(turn, queue, messages, Ended { watch, began, failed, given_back: false })
    }

    /// As [`call`](Self::call). One that takes longer than `consume_timeout` goes on, but has its messages given back:
    /// `give_back` does that, and answers whether all were taken.
    pub(crate) async fn call_within_time(
        &self,
        turn: &mut Turn,
        queue: &AssignedQueue,
        messages: &[StoredMessage],
        give_back: impl Future<Output = bool>,
    ) -> Called {
        let decompressed = match messages {
            // A popped one for which there was no room before.
            [message] if needs_decompressing(message) => {
                Some(decompressed(message.clone(), self.config.max_body_bytes).await)
            }
            _ => None,
        };
        let messages = decompressed.as_ref().map_or(messages, slice::from_ref);
        if let Some(failed) = self.fail_undecoded(queue, messages) {
            return Called::Failed(failed);
        }
        let (watch, seen) = self.see(messages, false);
        let began = Instant::now();
        let (failed, given_back) = {
            let mut consuming = pin!(turn.call(&self.stall_watch, began, self.listen(Some(queue), seen)));
            match within(self.config.consume_timeout, consuming.as_mut()).await {
                Some(failed) => (failed, false),
                None => tokio::join!(consuming, give_back),
            }
        };
        self.called(turn, queue, messages, Ended { watch, began, failed, given_back })
    }

    /// Calls the listener with a message that may be of any queue, for an operator.
    pub(crate) async fn call_directly(&self, message: &StoredMessage) -> (Option<Box<Failed>>, Duration) {
        let messages = slice::from_ref(message);
        let (watch, seen) = self.see(messages, true);
        let began = Instant::now();
        let failed = Turn::default().call(&self.stall_watch, began, self.listen(None, seen)).await;
        if let Some(watch) = watch {
            watch.after(Consumed::of(failed.as_deref(), 1));
        }
        (failed, began.elapsed())
    }

    /// The messages as the user sees them, once the interceptors have.
    fn see(&self, messages: &[StoredMessage], is_direct: bool) -> (Option<Watch>, Seen) {
        let seen = match messages {
            [message] => Seen::One(self.as_the_user_sees_it(message)),
            several => Seen::Many(several.iter().map(|message| self.as_the_user_sees_it(message)).collect()),
        };
        (self.interceptors.before(self.group(), seen.as_slice(), is_direct), seen)
    }

    async fn listen(&self, queue: Option<&AssignedQueue>, seen: Seen) -> Option<Box<Failed>> {
        let listener = self.listener.as_ref()?;
        let on_thread = queue.filter(|_| listener.is_blocking()).map(|queue| queue.calls_on_threads.begin());
        listener.consume(seen, on_thread).await.into_failed()
    }

    /// Counts a call that has ended.
    fn called(&self, turn: &mut Turn, queue: &AssignedQueue, messages: &[StoredMessage], ended: Ended) -> Called {
        let Ended { watch, began, failed, given_back } = ended;
        let consumed = if given_back { Consumed::TimedOut } else { Consumed::of(failed.as_deref(), messages.len()) };
        let now = queue.meter.called(began, messages.len(), consumed.failed(messages.len()));
        turn.ended(&self.stall_watch, now);
        if let Some(watch) = watch {
            watch.after(consumed);
        }
        match failed {
            _ if given_back => Called::GivenBack,
            None => Called::Done,
            Some(failed) => Called::Failed(failed),
        }
    }
}

/// Waits for a listener call up to a limit. One that is done at once costs no timer.
async fn within<F: Future>(limit: Duration, mut call: Pin<&mut F>) -> Option<F::Output> {
    match poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await {
        Poll::Ready(output) => Some(output),
        Poll::Pending => timeout(limit, call).await.ok(),
    }
}
