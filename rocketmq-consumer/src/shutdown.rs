//! Shuts a member of a group down within its deadline, whatever its listener and the brokers do.

use crate::{Error, assigned::AssignedQueue, member::Member, unrecorded::Unrecorded};
use rocketmq_common::remote::Deadline;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

impl Member {
    /// Waits for the calls under way, commits the offsets, leaves the group.
    pub(crate) async fn shutdown(self: &Arc<Self>) -> Result<(), Error> {
        // Here, not in the task: that may have to wait for a thread which a listener blocks, call after call.
        self.stopped.cancel();
        let member = self.clone();
        self.ending.once(|| async move { member.shut_down_once().await }).await.unwrap_or(Err(Error::ShutDown))
    }

    async fn shut_down_once(self: &Arc<Self>) -> Result<(), Error> {
        let deadline = Deadline::after(self.config.shutdown_timeout);
        self.tasks.close();
        if let Some(polling) = &self.polling {
            polling.end();
        }
        let begun = self.queues_begun();
        let finished = self.finish_all(&begun, deadline).await;
        let messages = if finished { 0 } else { begun.iter().map(|assigned| assigned.in_hand()).sum() };
        self.given_up.cancel();
        // A task does not end while its listener blocks a poll.
        let _ = timeout(TASKS_END, self.tasks.wait()).await;
        let queues: Vec<_> = self.queues().values().cloned().collect();
        let locked: Vec<_> = queues
            .iter()
            // A call that is still running keeps its lock, which expires at the broker a minute after its last renewal.
            .filter(|assigned| assigned.is_locked_queue() && !assigned.has_calls())
            .map(|assigned| assigned.queue.clone())
            .collect();
        let count = queues.len();
        let commit = async { tokio::join!(self.record_all_anew(queues), self.give_back_unsettled(&begun)).0 };
        let committed = timeout(deadline.at_least(CLOSING).remaining(), commit).await;
        let Unrecorded { queues, cause } = committed.unwrap_or_else(|_| Unrecorded::of(count, None));
        let leaving = deadline.at_least(CLOSING);
        let leave = async {
            self.give_up_locks(locked).await;
            if self.registered.swap(false, Ordering::AcqRel) {
                self.client.unregister_consumer(&self.group).await;
            }
        };
        let _ = timeout_at(leaving.instant(), leave).await;
        if self.registered.swap(false, Ordering::AcqRel) {
            self.client.forget_consumer(&self.group);
        }
        if self.owns_client {
            self.client.shutdown(leaving).await;
        }
        tracing::info!(group = %self.group, messages, unrecorded = queues, "consumer shut down");
        if messages == 0 && queues == 0 {
            Ok(())
        } else {
            Err(Error::Unfinished { messages, queues, cause: cause.map(Box::new) })
        }
    }

    /// Waits until all tasks have ended, renewing locks meanwhile; false where the deadline comes first.
    async fn finish_all(&self, begun: &[Arc<AssignedQueue>], deadline: Deadline) -> bool {
        let (done, mut finished) = (CancellationToken::new(), false);
        let all_done = async {
            // Deliveries of a stream belong to no task.
            for assigned in begun {
                assigned.wait_none_in_hand().await;
            }
            self.tasks.wait().await;
            finished = true;
            done.cancel();
        };
        let _ = timeout_at(deadline.instant(), async { tokio::join!(all_done, self.keep_locks(&done)) }).await;
        finished
    }
}

/// Waits for a signal, or until a consumer has been shut down without it.
pub(crate) async fn until_signal(signal: impl Future, stopped: &CancellationToken) {
    tokio::select! {
        _ = signal => {}
        () = stopped.cancelled() => {}
    }
}

impl AssignedQueue {
    /// Whether a listener call with messages of the queue is under way.
    fn has_calls(&self) -> bool {
        self.in_hand() > 0 || self.calls_on_threads.count() > 0
    }
}

/// How long tasks get to end that have been told to.
const TASKS_END: Duration = Duration::from_millis(200);
/// How long committing offsets gets, and leaving the group, even if waiting has used up the time.
const CLOSING: Duration = Duration::from_secs(1);
