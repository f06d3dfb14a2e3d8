//! The tasks of a client: they run on the runtime in which it was started, and end when it is shut down.

use std::future::Future;
use tokio::{runtime::Handle as Runtime, sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns the tasks of one client. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct ClientTasks {
    tracker: TaskTracker,
    runtime: Runtime,
    stopped: CancellationToken,
}

impl ClientTasks {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self { tracker: TaskTracker::new(), runtime, stopped: CancellationToken::new() }
    }

    /// Runs `work` until it ends or the client is shut down, wherever this is called from.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let stopped = self.stopped.clone();
        let until_stopped = async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = work => {}
            }
        };
        self.tracker.spawn_on(until_stopped, &self.runtime)
    }

    /// Ends all tasks, and every later one at once.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(crate) fn are_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }

    /// Waits until the tasks have ended.
    pub(crate) async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Work that is done once, on a task of the client, for all who wait for its outcome. A cheap handle.
///
/// The work has its own time-outs and goes on whether or not anyone waits. Someone who waits holds nothing that others
/// need: their future may be kept without being polled, or dropped.
#[derive(Clone, Debug)]
pub(crate) struct SharedWork<T>(watch::Receiver<Option<T>>);

impl<T: Clone + Send + Sync + 'static> SharedWork<T> {
    pub(crate) fn start(tasks: &ClientTasks, work: impl Future<Output = T> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(None);
        drop(tasks.spawn(async move { _ = sender.send_replace(Some(work.await)) }));
        Self(receiver)
    }

    /// The outcome; `None` where there is none because the client has been shut down, or its runtime has ended.
    pub(crate) async fn outcome(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Whether the task has ended without an outcome.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.has_changed().is_err() && self.0.borrow().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn work_goes_on_without_anyone_who_waits_and_all_get_its_outcome() {
        let tasks = ClientTasks::new(Runtime::current());
        let work = SharedWork::start(&tasks, ready(7));
        let later = work.clone();
        assert_eq!(work.outcome().await, Some(7));
        tasks.wait().await;
        assert!(!later.is_lost());
        assert_eq!(later.outcome().await, Some(7));
    }

    #[tokio::test]
    async fn work_that_is_ended_has_no_outcome() {
        let tasks = ClientTasks::new(Runtime::current());
        let work = SharedWork::start(&tasks, pending::<()>());
        assert!(!work.is_lost());
        tasks.stop();
        assert_eq!(work.clone().outcome().await, None);
        assert!(work.is_lost());
    }

    #[tokio::test]
    async fn a_runtime_that_has_ended_does_no_work() {
        let elsewhere = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            ClientTasks::new(runtime.handle().clone())
        };
        let tasks = std::thread::spawn(elsewhere).join().unwrap();
        assert_eq!(SharedWork::start(&tasks, ready(7)).outcome().await, None);
    }
}
