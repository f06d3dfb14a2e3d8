//! The threads on which blocking listeners run.
//!
//! Not those of `spawn_blocking`: the end of a runtime waits for them, so one call that hangs would keep the program from
//! ending after the consumer has been shut down.

use std::{
    any::Any,
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{runtime::Handle as Runtime, sync::oneshot};

/// Threads that start when they are needed and end when they have been idle for a while. Callers bound how many there are:
/// there is one for each job under way.
pub(crate) struct ListenerThreads(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    /// Nobody submits jobs any more.
    is_closed: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl ListenerThreads {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Runs `work` on one of the threads, within the caller's runtime. `work` runs to completion even if the future is
    /// dropped. A panic reaches the caller.
    ///
    /// # Errors
    /// The operating system starts no further thread; `work` has not been called.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let runtime = Runtime::current();
        let (sender, receiver) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        self.submit(Box::new(move || {
            let _entered = runtime.enter();
            // The caller may be gone.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        }))?;
        match receiver.await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(io::Error::other("the thread ended before the call")),
        }
    }

    fn submit(&self, job: Job) -> io::Result<()> {
        let mut state = self.0.state();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle {
            drop(state);
            self.0.changed.notify_one();
            return Ok(());
        }
        let shared = self.0.clone();
        let started = thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || shared.work());
        if let Err(error) = started {
            state.jobs.pop_back();
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for ListenerThreads {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for ListenerThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerThreads").field("idle", &self.0.state().idle).finish_non_exhaustive()
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// The next job; `None` where the thread is to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        let mut timed_out = false;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_closed || timed_out {
                return None;
            }
            state.idle += 1;
            let (again, wait) =
                self.changed.wait_timeout(state, KEEP_ALIVE).unwrap_or_else(|poisoned| poisoned.into_inner());
            state = again;
            state.idle -= 1;
            timed_out = wait.timed_out();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How many calls with messages of one queue run on threads. They are counted apart from their workers, which end before
/// them where a shutdown runs out of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallsOnThreads(Arc<AtomicUsize>);

impl CallsOnThreads {
    pub(crate) fn begin(&self) -> CallOnThread {
        self.0.fetch_add(1, Ordering::SeqCst);
        CallOnThread(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// One call on a thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct CallOnThread(CallsOnThreads);

impl Drop for CallOnThread {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// At most 15 characters, which is what Linux shows.
const THREAD_NAME: &str = "rocketmq-listen";
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::{task::JoinSet, time::timeout};

    #[tokio::test]
    async fn jobs_run_beside_each_other_and_idle_threads_are_used_again() {
        let threads = Arc::new(ListenerThreads::new());
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let mut jobs = JoinSet::new();
        for _ in 0..3 {
            let (threads, barrier) = (threads.clone(), barrier.clone());
            // All three have to be under way at once.
            jobs.spawn(async move {
                let work = move || {
                    barrier.wait();
                    thread::current().id()
                };
                threads.run(work).await.unwrap()
            });
        }
        let first = jobs.join_all().await;
        while threads.0.state().idle < 3 {
            tokio::task::yield_now().await;
        }
        let again = threads.run(|| thread::current().id()).await.unwrap();
        assert!(first.contains(&again));
    }

    #[tokio::test]
    async fn a_job_may_use_the_runtime_of_its_caller() {
        let work = || Runtime::current().block_on(async { 7 });
        assert_eq!(ListenerThreads::new().run(work).await.unwrap(), 7);
    }

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_panic_reaches_the_caller() {
        let _ = ListenerThreads::new().run(|| panic!("on purpose")).await;
    }

    #[tokio::test]
    async fn a_job_whose_caller_is_dropped_runs_to_its_end_and_keeps_nobody_waiting() {
        let (threads, calls) = (ListenerThreads::new(), CallsOnThreads::default());
        let ((begin, begun), (go, gate), (end, ended)) =
            (oneshot::channel(), mpsc::channel::<()>(), oneshot::channel());
        let call = calls.begin();
        let mut running = Box::pin(threads.run(move || {
            let _call = call;
            let _ = begin.send(());
            let _ = gate.recv();
            let _ = end.send(());
        }));
        tokio::select! {
            ended = &mut running => panic!("{ended:?} before the gate opened"),
            _ = begun => {}
        }
        drop(running);
        drop(threads);
        assert_eq!(calls.count(), 1);
        go.send(()).unwrap();
        ended.await.unwrap();
        let counted = async {
            while calls.count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), counted).await.unwrap();
    }
}
