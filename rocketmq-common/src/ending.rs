use std::sync::OnceLock;
use tokio::{runtime::Handle as Runtime, sync::watch};
use tokio_util::task::TaskTracker;

/// What shutting something down comes to: that happens once, for all who ask, and whether or not they wait.
#[derive(Debug)]
pub struct Ending<T> {
    outcome: OnceLock<watch::Receiver<Option<T>>>,
    /// The one that does it.
    task: TaskTracker,
    runtime: Runtime,
}

impl<T: Clone + Send + Sync + 'static> Ending<T> {
    /// An end that is yet to come, in this runtime, wherever it is asked for.
    pub fn new(runtime: Runtime) -> Self {
        Self { outcome: OnceLock::new(), task: TaskTracker::new(), runtime }
    }

    /// Begins it on a task of its own, unless that has been done, and waits for the outcome: `None` where the runtime has
    /// ended before.
    ///
    /// # Cancel safety
    /// Once this has been polled, it goes on by itself.
    pub async fn once<F>(&self, shut_down: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let begin = || {
            let (tell, outcome) = watch::channel(None);
            let shutting_down = shut_down();
            self.task.spawn_on(async move { tell.send_replace(Some(shutting_down.await)) }, &self.runtime);
            outcome
        };
        let mut outcome = self.outcome.get_or_init(begin).clone();
        outcome.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::{sync::Semaphore, task::yield_now};

    #[tokio::test]
    async fn it_comes_once_whoever_waits() {
        let (ending, begun, gate) =
            (Ending::new(Runtime::current()), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let end = || {
            let (begun, gate) = (begun.clone(), gate.clone());
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                let _ = gate.acquire().await;
                7
            }
        };
        tokio::select! {
            biased;
            outcome = ending.once(end) => panic!("{outcome:?} before the gate is open"),
            () = yield_now() => {}
        }
        gate.add_permits(1);
        assert_eq!([ending.once(end).await, ending.once(end).await], [Some(7); 2]);
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }
}
