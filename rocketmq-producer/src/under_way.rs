use std::sync::{Mutex, MutexGuard};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// The sends under way, by the flush before which they began: a flush waits for these and for no later ones.
#[derive(Debug)]
pub(crate) struct UnderWay(Mutex<Epochs>);

#[derive(Debug)]
struct Epochs {
    /// Oldest first; sends that begin now are counted in the last one.
    trackers: Vec<TaskTracker>,
    closed: bool,
}

impl UnderWay {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Epochs { trackers: vec![TaskTracker::new()], closed: false }))
    }

    /// Counts a send as under way until the token is dropped; `None` where there are to be no more.
    pub(crate) fn begin(&self) -> Option<TaskTrackerToken> {
        let epochs = self.epochs();
        let current = epochs.trackers.last().filter(|_| !epochs.closed);
        current.map(TaskTracker::token)
    }

    /// Waits for the sends that are under way now.
    pub(crate) async fn flush(&self) {
        let earlier = {
            let mut epochs = self.epochs();
            for tracker in &epochs.trackers {
                tracker.close();
            }
            epochs.trackers.retain(|tracker| !tracker.is_empty());
            let earlier = epochs.trackers.clone();
            epochs.trackers.push(TaskTracker::new());
            earlier
        };
        for tracker in earlier {
            tracker.wait().await;
        }
    }

    /// Allows no more sends.
    pub(crate) fn close(&self) {
        self.epochs().closed = true;
    }

    /// How many sends are under way.
    pub(crate) fn len(&self) -> usize {
        self.epochs().trackers.iter().map(TaskTracker::len).sum()
    }

    fn epochs(&self) -> MutexGuard<'_, Epochs> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    /// Whether a future is ready at its first poll.
    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_flush_waits_for_what_began_before_it_and_not_for_later_sends() {
        let sends = UnderWay::new();
        assert!(is_ready(sends.flush()));
        let first = sends.begin().unwrap();
        assert!(!is_ready(sends.flush()));
        let second = sends.begin().unwrap();
        assert_eq!(sends.len(), 2);
        drop(second);
        assert!(!is_ready(sends.flush()));
        let mut flush = pin!(sends.flush());
        let mut context = Context::from_waker(Waker::noop());
        assert!(flush.as_mut().poll(&mut context).is_pending());
        let _later = sends.begin().unwrap();
        drop(first);
        assert!(flush.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn nothing_begins_after_the_close() {
        let sends = UnderWay::new();
        sends.close();
        assert!(sends.begin().is_none());
        assert_eq!(sends.len(), 0);
    }
}
