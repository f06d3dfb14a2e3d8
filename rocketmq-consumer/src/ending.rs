use crate::Error;
use std::sync::OnceLock;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// What shutting a consumer down comes to: it happens once, for all who ask, and whether or not they wait.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    outcome: OnceLock<watch::Receiver<Option<Result<(), Error>>>>,
    /// The one that shuts it down; not among the consumer's, which it waits for.
    task: TaskTracker,
}

impl Ending {
    /// Begins it on a task of its own, unless that has been done, and waits for the outcome.
    pub(crate) async fn once<F>(&self, shut_down: impl FnOnce() -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let begin = || {
            let (tell, outcome) = watch::channel(None);
            let shutting_down = shut_down();
            self.task.spawn(async move { tell.send_replace(Some(shutting_down.await)) });
            outcome
        };
        let mut outcome = self.outcome.get_or_init(begin).clone();
        let outcome = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        // Where there is none, the runtime has ended.
        outcome.ok().flatten().unwrap_or(Err(Error::ShutDown))
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
        let (ending, begun, gate) = (Ending::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let end = || {
            let (begun, gate) = (begun.clone(), gate.clone());
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                let _ = gate.acquire().await;
                Err(Error::NotRecorded { queues: 7, cause: None })
            }
        };
        tokio::select! {
            biased;
            outcome = ending.once(end) => panic!("{outcome:?} before the gate is open"),
            () = yield_now() => {}
        }
        gate.add_permits(1);
        for outcome in [ending.once(end).await, ending.once(end).await] {
            assert!(matches!(outcome, Err(Error::NotRecorded { queues: 7, .. })), "{outcome:?}");
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }
}
