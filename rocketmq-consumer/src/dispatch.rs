use crate::{fetch::AssignedQueue, listener::Failure, push::Shared};
use rocketmq_common::{
    StoredMessage,
    message::{names::is_retry_topic, property},
    protocol::SendBack,
    remote::Deadline,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
    vec,
};
use tokio::{sync::Notify, time::sleep};

/// The messages that wait for a listener call. A pulled batch comes in as one and is handed out one message a call.
///
/// It is bounded by the windows of the queues: nothing is fetched that they have no room for.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    batches: Mutex<VecDeque<Batch>>,
    filled: Notify,
}

#[derive(Debug)]
struct Batch {
    queue: Arc<AssignedQueue>,
    epoch: u32,
    messages: vec::IntoIter<StoredMessage>,
}

/// One message for one listener call.
#[derive(Debug)]
struct Task {
    queue: Arc<AssignedQueue>,
    epoch: u32,
    message: StoredMessage,
}

impl Dispatcher {
    pub(crate) fn push(&self, queue: Arc<AssignedQueue>, epoch: u32, messages: Vec<StoredMessage>) {
        if messages.is_empty() {
            return;
        }
        self.batches().push_back(Batch { queue, epoch, messages: messages.into_iter() });
        self.filled.notify_one();
    }

    /// The next message. One worker wakes the next one as long as there is more to do, so a batch wakes as many as it
    /// needs and a worker that is fast enough stays alone.
    async fn next(&self) -> Task {
        loop {
            if let Some((task, more)) = self.take() {
                if more {
                    self.filled.notify_one();
                }
                return task;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<(Task, bool)> {
        let mut batches = self.batches();
        loop {
            let batch = batches.front_mut()?;
            let Some(message) = batch.messages.next() else {
                batches.pop_front();
                continue;
            };
            let task = Task { queue: batch.queue.clone(), epoch: batch.epoch, message };
            if batch.messages.as_slice().is_empty() {
                batches.pop_front();
            }
            return Some((task, !batches.is_empty()));
        }
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.batches.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Runs the listener, one message after the other, until the consumer stops; what is in hand then is finished, unless
/// the consumer gives it up.
pub(crate) async fn work(shared: Arc<Shared>) {
    loop {
        let task = tokio::select! {
            biased;
            () = shared.stopped.cancelled() => return,
            task = shared.dispatcher.next() => task,
        };
        // Counted before the look at `revoked`: who revokes a queue first says so and then waits for what is in hand.
        let Some(_in_hand) = task.queue.take_in_hand() else { continue };
        tokio::select! {
            () = run(&shared, &task) => {}
            () = shared.given_up.cancelled() => return,
        }
    }
}

async fn run(shared: &Arc<Shared>, task: &Task) {
    let outcome = shared.listener.consume(shared.as_the_user_sees_it(&task.message)).await;
    match outcome {
        // Also of a queue that is being given up: that waits for what is in hand and records it when it is done.
        Ok(()) => task.queue.finish(task.epoch, task.message.queue_offset()),
        // The next owner of the queue gets the message again: nothing was recorded for it.
        Err(_) if task.queue.is_revoked() => {}
        Err(failure) => give_back(shared, task, failure).await,
    }
}

/// Has a failed message come again later: from the broker, or, where that does not take it back, from here.
async fn give_back(shared: &Arc<Shared>, task: &Task, failure: Failure) {
    let message = &task.message;
    tracing::warn!(
        group = %shared.group, topic = message.topic(), queue_id = message.queue_id(), offset = message.queue_offset(),
        message_id = %message.message_id(), reconsume_times = message.reconsume_times(), %failure, "message not consumed"
    );
    let broker_name = shared.client.broker_of(&message.queue());
    let request = SendBack {
        commit_log_offset: message.commit_log_offset(),
        group: shared.group.clone(),
        delay_level: 0,
        origin_message_id: Some(message.message_id().into_owned()),
        origin_topic: Some(message.shared_topic().clone()),
        unit_mode: Some(false),
        max_reconsume_times: Some(shared.config.max_reconsume_times),
        broker_name: Some(broker_name.clone()),
    };
    match shared.client.send_back(&broker_name, &request, Deadline::after(SEND_BACK_TIMEOUT)).await {
        Ok(()) => task.queue.finish(task.epoch, message.queue_offset()),
        Err(error) => {
            // The message stays unfinished, so the recorded offset does not pass it whatever happens.
            tracing::warn!(
                group = %shared.group, topic = message.topic(), message_id = %message.message_id(),
                error = &error as &dyn std::error::Error, "message not taken back: it is tried again here"
            );
            retry_here(shared, task);
        }
    }
}

fn retry_here(shared: &Arc<Shared>, task: &Task) {
    let (queue, epoch, messages) = (task.queue.clone(), task.epoch, vec![task.message.clone()]);
    let shared_again = shared.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = shared_again.stopped.cancelled() => {}
            () = sleep(RETRY_HERE_AFTER) => shared_again.dispatcher.push(queue, epoch, messages),
        }
    });
}

impl Shared {
    /// A message of the retry topic carries the topic it was sent to, and none a namespace.
    fn as_the_user_sees_it(&self, message: &StoredMessage) -> StoredMessage {
        let message = message.clone();
        let message = match message.property(property::RETRY_TOPIC).filter(|_| is_retry_topic(message.topic())) {
            Some(topic) => {
                let topic = self.shared_topic(topic);
                message.with_topic(topic)
            }
            None => message,
        };
        self.client.namespace().strip_message(message)
    }
}

const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_HERE_AFTER: Duration = Duration::from_secs(5);
