//! The sends in flight: what a flush and a shutdown wait for.

use rocketmq_common::remote::Deadline;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// The sends that have begun and not ended. A flush waits for those that began before it, and for each no longer than it
/// may take: a caller that keeps the future of a send without polling it does not hold up a flush for ever.
#[derive(Debug, Default)]
pub(crate) struct InFlightSends(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By the order in which they began.
    sends: BTreeMap<u64, Limits>,
    closed: bool,
}

/// How long a send is waited for; `None` is without a limit.
#[derive(Clone, Copy, Debug)]
struct Limits {
    by_flush: Instant,
    by_shutdown: Option<Instant>,
}

/// Counts a send as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightSend {
    id: u64,
    sends: Arc<Shared>,
}

impl InFlightSends {
    /// Begins a send that ends by `deadline`; `None` where there are to be no more.
    pub(crate) fn begin(&self, deadline: Deadline) -> Option<InFlightSend> {
        let until = waited_until(deadline);
        self.enter(Limits { by_flush: until, by_shutdown: Some(until) })
    }

    /// Begins a send that is in flight by `deadline`, and may then take as long as the user's code does: a flush waits
    /// until the deadline, a shutdown until the end.
    pub(crate) fn begin_unlimited(&self, deadline: Deadline) -> Option<InFlightSend> {
        self.enter(Limits { by_flush: waited_until(deadline), by_shutdown: None })
    }

    fn enter(&self, limits: Limits) -> Option<InFlightSend> {
        let mut state = self.0.state();
        if state.closed {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.sends.insert(id, limits);
        drop(state);
        Some(InFlightSend { id, sends: self.0.clone() })
    }

    /// Waits for the sends that are in flight now, for each until its deadline at the latest.
    pub(crate) async fn flush(&self) {
        self.wait(|limits| Some(limits.by_flush)).await;
    }

    /// As [`flush`](Self::flush), for the end: what the user's code does beside a send is waited for without a limit.
    pub(crate) async fn drain(&self) {
        self.wait(|limits| limits.by_shutdown).await;
    }

    async fn wait(&self, until: impl Fn(Limits) -> Option<Instant>) {
        let before = self.0.state().next;
        let mut from = 0;
        loop {
            let ended = self.0.ended.notified();
            let first = self.0.state().sends.range(from..before).next().map(|(id, limits)| (*id, *limits));
            let Some((id, limits)) = first else { return };
            let Some(until) = until(limits) else {
                ended.await;
                continue;
            };
            if timeout_at(until, ended).await.is_err() {
                // One that is overdue is not polled any more by its caller.
                from = id + 1;
            }
        }
    }

    /// Allows no more sends.
    pub(crate) fn close(&self) {
        self.0.state().closed = true;
    }

    /// How many sends are in flight.
    pub(crate) fn len(&self) -> usize {
        self.0.state().sends.len()
    }
}

impl Drop for InFlightSend {
    fn drop(&mut self) {
        self.sends.state().sends.remove(&self.id);
        self.sends.ended.notify_waiters();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A send ends a little after its deadline, when its timer has run out and its outcome is known.
fn waited_until(deadline: Deadline) -> Instant {
    deadline.instant() + GRACE
}

const GRACE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn begin(sends: &InFlightSends) -> InFlightSend {
        sends.begin(Deadline::after(TIMEOUT)).unwrap()
    }

    /// Whether a future is ready at its first poll.
    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_waits_for_what_began_before_it_and_not_for_later_sends() {
        let sends = InFlightSends::default();
        assert!(is_ready(sends.flush()));
        let first = begin(&sends);
        assert!(!is_ready(sends.flush()));
        let second = begin(&sends);
        assert_eq!(sends.len(), 2);
        drop(second);
        assert!(!is_ready(sends.flush()));
        let mut flush = pin!(sends.flush());
        let mut context = Context::from_waker(Waker::noop());
        assert!(flush.as_mut().poll(&mut context).is_pending());
        let _later = begin(&sends);
        drop(first);
        assert!(flush.as_mut().poll(&mut context).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_send_that_is_kept_beyond_its_deadline_holds_up_no_flush_and_no_shutdown() {
        let sends = InFlightSends::default();
        let (_kept, began) = (begin(&sends), Instant::now());
        let ended = sends.begin(Deadline::after(Duration::from_secs(3600))).unwrap();
        drop(ended);
        sends.flush().await;
        assert_eq!(began.elapsed(), TIMEOUT + GRACE);
        let _another = begin(&sends);
        sends.drain().await;
        assert_eq!(began.elapsed(), (TIMEOUT + GRACE) * 2);
        assert_eq!(sends.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_shutdown_waits_for_the_step_of_a_transaction() {
        let sends = InFlightSends::default();
        let (step, began) = (sends.begin_unlimited(Deadline::after(TIMEOUT)).unwrap(), Instant::now());
        sends.flush().await;
        assert_eq!(began.elapsed(), TIMEOUT + GRACE);
        let long = Duration::from_secs(60);
        let (_, ()) = tokio::join!(sends.drain(), async {
            tokio::time::sleep(long).await;
            drop(step);
        });
        assert_eq!(began.elapsed(), TIMEOUT + GRACE + long);
    }

    #[tokio::test]
    async fn nothing_begins_after_the_close() {
        let sends = InFlightSends::default();
        sends.close();
        assert!(sends.begin(Deadline::after(TIMEOUT)).is_none());
        assert_eq!(sends.len(), 0);
    }
}
