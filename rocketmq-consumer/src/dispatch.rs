use crate::{
    assigned::AssignedQueue, call::Called, member::Member, outcome::Failed, stall::Turn, undecodable::is_alone,
};
use futures_util::{StreamExt, stream};
use rocketmq_common::StoredMessage;
use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    slice,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
    vec,
};
use tokio::{sync::Notify, time::sleep};

/// The messages that wait for a listener call. A pulled batch comes in as one and is handed out one call's worth at a
/// time.
///
/// It is bounded by the windows of the queues: nothing is fetched that they have no room for.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    batches: Mutex<VecDeque<Batch>>,
    filled: Notify,
}

/// Messages of one pull that nobody has taken.
#[derive(Debug)]
struct Batch {
    queue: Arc<AssignedQueue>,
    epoch: u32,
    messages: vec::IntoIter<StoredMessage>,
}

/// What one listener call gets, of one queue.
#[derive(Debug)]
pub(crate) struct Task<M> {
    pub(crate) queue: Arc<AssignedQueue>,
    pub(crate) epoch: u32,
    pub(crate) messages: M,
}

impl Dispatcher {
    pub(crate) fn push(&self, queue: Arc<AssignedQueue>, epoch: u32, messages: Vec<StoredMessage>) {
        if messages.is_empty() {
            return;
        }
        let batch = |messages: Vec<_>| Batch { queue: queue.clone(), epoch, messages: messages.into_iter() };
        let mut batches = self.batches();
        let mut rest = messages;
        while let Some(at) = rest.iter().position(is_alone) {
            let behind = rest.split_off(at + 1);
            let alone = rest.split_off(at);
            batches.extend([rest, alone].into_iter().filter(|messages| !messages.is_empty()).map(batch));
            rest = behind;
        }
        if !rest.is_empty() {
            batches.push_back(batch(rest));
        }
        drop(batches);
        self.filled.notify_one();
    }

    /// Puts batches back in front of the others.
    pub(crate) fn put_back(&self, tasks: impl DoubleEndedIterator<Item = Task<Vec<StoredMessage>>>) {
        let mut batches = self.batches();
        for Task { queue, epoch, messages } in tasks.rev() {
            batches.push_front(Batch { queue, epoch, messages: messages.into_iter() });
        }
        drop(batches);
        self.filled.notify_one();
    }

    /// Takes all that waits of a queue.
    pub(crate) fn take_out(&self, queue: &AssignedQueue) -> Vec<StoredMessage> {
        let mut taken = Vec::new();
        self.batches().retain_mut(|batch| {
            let is_other = !std::ptr::eq(&*batch.queue, queue);
            if !is_other {
                taken.extend(batch.messages.by_ref());
            }
            is_other
        });
        taken
    }

    /// Drops what waits of a queue, unless it is of `epoch` or of a later one.
    pub(crate) fn keep_only(&self, queue: &AssignedQueue, epoch: u32) {
        self.batches().retain(|batch| !std::ptr::eq(&*batch.queue, queue) || batch.epoch >= epoch);
    }

    /// The next message. One worker wakes the next one as long as there is more to do, so a batch wakes as many as it
    /// needs and a worker that is fast enough stays alone.
    pub(crate) async fn next(&self) -> Task<StoredMessage> {
        loop {
            if let Some(task) = self.take() {
                return task;
            }
            self.filled.notified().await;
        }
    }

    /// The next messages of one pull, up to `max`.
    pub(crate) async fn next_many(&self, max: usize) -> Task<Vec<StoredMessage>> {
        loop {
            if let Some(task) = self.take_by(|messages| {
                let some: Vec<_> = messages.take(max).collect();
                (!some.is_empty()).then_some(some)
            }) {
                return task;
            }
            self.filled.notified().await;
        }
    }

    /// Until there may be something to take.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The next message, if there is one.
    pub(crate) fn take(&self) -> Option<Task<StoredMessage>> {
        self.take_by(Iterator::next)
    }

    fn take_by<M>(&self, take: impl Fn(&mut vec::IntoIter<StoredMessage>) -> Option<M>) -> Option<Task<M>> {
        let mut batches = self.batches();
        loop {
            let batch = batches.front_mut()?;
            let Some(messages) = take(&mut batch.messages) else {
                batches.pop_front();
                continue;
            };
            let task = Task { queue: batch.queue.clone(), epoch: batch.epoch, messages };
            if batch.messages.as_slice().is_empty() {
                batches.pop_front();
            }
            let more = !batches.is_empty();
            drop(batches);
            if more {
                self.filled.notify_one();
            }
            return Some(task);
        }
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.batches.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How many workers there are, and how many there may be.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    wanted: AtomicUsize,
    there: AtomicUsize,
    fewer_wanted: Notify,
}

impl Workers {
    /// How many there may be.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Acquire)
    }

    /// Whether one worker too many is there: who asks is it, and has to go.
    fn retires(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Acquire);
        if self.there.load(Ordering::Acquire) <= wanted {
            return false;
        }
        let one_less = |there: usize| (there > self.wanted.load(Ordering::Acquire)).then(|| there - 1);
        self.there.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok()
    }
}

impl Member {
    /// Has so many workers run the listener. Those that are too many end after the call they are at.
    pub(crate) fn want_workers(self: &Arc<Self>, wanted: usize) {
        let workers = &self.workers;
        workers.wanted.store(wanted, Ordering::Release);
        workers.fewer_wanted.notify_waiters();
        let one_more = |there: usize| (there < workers.wanted.load(Ordering::Acquire)).then(|| there + 1);
        while workers.there.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok() {
            match self.listener.as_ref().is_some_and(|listener| !listener.takes_one()) {
                true => self.spawn(work_many(self.clone())),
                false => self.spawn(work_one(self.clone())),
            };
        }
    }
}

/// Runs the listener, one message after the other, until the consumer stops; what is in hand then is finished, unless
/// the consumer gives it up.
async fn work_one(member: Arc<Member>) {
    let mut turn = Turn::default();
    loop {
        turn.end().await;
        let Some(task) = next_task(&member, member.dispatcher.next()).await else { return };
        let Some(_in_hand) = task.queue.take_in_hand(task.epoch) else {
            member.give_back_unbegun(&task.queue, vec![task.messages]);
            continue;
        };
        if !task.queue.may_begin(&task.messages) {
            continue;
        }
        let call = run(&member, &mut turn, &task.queue, task.epoch, slice::from_ref(&task.messages));
        tokio::select! {
            () = call => {}
            () = member.given_up.cancelled() => return,
        }
    }
}

/// As [`work_one`], several messages a call.
async fn work_many(member: Arc<Member>) {
    let mut turn = Turn::default();
    loop {
        turn.end().await;
        let next = member.dispatcher.next_many(member.config.consume_batch);
        let Some(mut task) = next_task(&member, next).await else { return };
        let Some(_in_hand) = task.queue.take_in_hand(task.epoch) else {
            member.give_back_unbegun(&task.queue, task.messages);
            continue;
        };
        task.messages.retain(|message| task.queue.may_begin(message));
        if task.messages.is_empty() {
            continue;
        }
        let call = run(&member, &mut turn, &task.queue, task.epoch, &task.messages);
        tokio::select! {
            () = call => {}
            () = member.given_up.cancelled() => return,
        }
    }
}

/// What to do next; `None` where this worker is to end.
async fn next_task<T>(member: &Member, next: impl Future<Output = T>) -> Option<T> {
    let fewer_wanted = member.workers.fewer_wanted.notified();
    if member.workers.retires() {
        return None;
    }
    let mut next = pin!(next);
    let mut fewer_wanted = pin!(fewer_wanted);
    loop {
        tokio::select! {
            biased;
            () = member.stopped.cancelled() => return None,
            task = next.as_mut() => {
                if member.is_suspended() {
                    tokio::select! {
                        () = member.stopped.cancelled() => return None,
                        () = member.resumed() => {}
                    }
                }
                return Some(task);
            }
            () = fewer_wanted.as_mut() => {
                fewer_wanted.set(member.workers.fewer_wanted.notified());
                if member.workers.retires() {
                    return None;
                }
            }
        }
    }
}

/// Makes one call and sees to what comes of it.
async fn run(
    member: &Arc<Member>,
    turn: &mut Turn,
    queue: &Arc<AssignedQueue>,
    epoch: u32,
    messages: &[StoredMessage],
) {
    let given_back = Mutex::default();
    let giving_back = time_out(member, queue, epoch, messages, &given_back);
    let failed = match member.call_within_time(turn, queue, messages, giving_back).await {
        Called::GivenBack => return,
        // Also of a queue that is being given up: that waits for what is in hand and records it when it is done.
        Called::Done => return member.finish(queue, epoch, messages),
        Called::Failed(failed) => failed,
    };
    let (mut done, mut again) = (Vec::new(), Vec::new());
    let given_back = given_back.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let left = messages.iter().enumerate().filter(|(index, _)| !given_back.contains(index));
    for (index, message) in left {
        let which = if failed.is_failed(index) { &mut again } else { &mut done };
        which.push(message.clone());
    }
    member.finish(queue, epoch, &done);
    give_back(member, queue, epoch, again, &failed).await;
}

/// A call takes too long: its messages come again, perhaps at another member, and no longer hold the queue up. The call
/// itself goes on. Answers whether the broker has taken all of them: none where the next owner of the queue gets them.
async fn time_out(
    member: &Member,
    queue: &AssignedQueue,
    epoch: u32,
    messages: &[StoredMessage],
    given_back: &Mutex<BTreeSet<usize>>,
) -> bool {
    if queue.is_left_to_the_next() && !member.is_broadcast {
        return false;
    }
    let send_back = async |(index, message): (usize, &StoredMessage)| {
        member.tell_failed(message, "the listener takes longer than consume_timeout");
        if member.is_broadcast || member.give_back(queue, message, TIMED_OUT_LEVEL).await.is_ok() {
            queue.finish(epoch, message.queue_offset());
            given_back.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index);
        }
    };
    stream::iter(messages.iter().enumerate()).for_each_concurrent(SEND_BACKS, send_back).await;
    given_back.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len() == messages.len()
}

/// Has failed messages come again later: from the broker, or, where that does not take them back, from here.
async fn give_back(
    member: &Arc<Member>,
    queue: &Arc<AssignedQueue>,
    epoch: u32,
    messages: Vec<StoredMessage>,
    failed: &Failed,
) {
    let send_back = async |message: StoredMessage| {
        member.tell_failed(&message, &failed.reason);
        if member.is_broadcast {
            // Every member has its own go at a message, and just the one.
            queue.finish(epoch, message.queue_offset());
        } else if queue.is_left_to_the_next() {
            // The next owner of the queue gets the message again: nothing was recorded for it.
        } else if member.give_back(queue, &message, failed.delay_level).await.is_ok() {
            queue.finish(epoch, message.queue_offset());
        } else {
            // The message stays unfinished, so the recorded offset does not pass it whatever happens.
            retry_here(member, queue, epoch, message);
        }
    };
    stream::iter(messages).for_each_concurrent(SEND_BACKS, send_back).await;
}

pub(crate) fn retry_here(member: &Arc<Member>, queue: &Arc<AssignedQueue>, epoch: u32, message: StoredMessage) {
    let (queue, member_again) = (queue.clone(), member.clone());
    member.spawn(async move {
        tokio::select! {
            () = member_again.stopped.cancelled() => {}
            () = sleep(RETRY_HERE_AFTER) => member_again.dispatcher.push(queue, epoch, vec![message]),
        }
    });
}

/// Most messages of one call that are sent back at the same time.
const SEND_BACKS: usize = 16;
const RETRY_HERE_AFTER: Duration = Duration::from_secs(5);
/// Java: `ProcessQueue.cleanExpiredMsg`.
const TIMED_OUT_LEVEL: i32 = 3;

#[cfg(test)]
mod tests;
