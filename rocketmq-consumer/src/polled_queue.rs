use crate::{assigned::AssignedQueue, dispatch::Task, suspension::Suspension};
use rocketmq_common::StoredMessage;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

/// What a queue of a pull consumer has beside.
#[derive(Debug, Default)]
pub(crate) struct PolledQueue {
    /// How far the group is by what the user says; `None` where that follows from the polls.
    committed: Option<Mutex<Option<i64>>>,
    paused: Suspension,
    /// Fetched, and taken from the others because the queue is paused or waits for its user to decide.
    held: Mutex<VecDeque<Task<Vec<StoredMessage>>>>,
    undecodable: Mutex<Option<Box<Undecodable>>>,
}

/// A message that cannot be decoded and that the user has not skipped.
#[derive(Debug)]
struct Undecodable {
    epoch: u32,
    message: StoredMessage,
}

impl PolledQueue {
    pub(crate) fn new(auto_commit: bool) -> Self {
        Self { committed: (!auto_commit).then(Mutex::default), ..Self::default() }
    }

    /// What the user has said; `None` where the polls say it.
    pub(crate) fn committed(&self) -> Option<Option<i64>> {
        self.committed.as_ref().map(|committed| *lock(committed))
    }

    /// The user says how far the group is. Without effect where the polls say it.
    pub(crate) fn commit(&self, offset: Option<i64>) {
        if let Some(committed) = &self.committed {
            *lock(committed) = offset;
        }
    }

    /// Where the group begins, as long as the user has said nothing. Without effect where the polls say it.
    pub(crate) fn commit_first(&self, offset: i64) {
        if let Some(committed) = &self.committed {
            lock(committed).get_or_insert(offset);
        }
    }

    /// Drops what is held back, unless it is of `epoch`, or of a later one: two may go on elsewhere at once.
    pub(crate) fn keep_only(&self, epoch: u32) {
        lock(&self.held).retain(|task| task.epoch >= epoch);
        lock(&self.undecodable).take_if(|undecodable| undecodable.epoch < epoch);
    }

    pub(crate) fn pause(&self) {
        self.paused.set(true);
    }

    /// Ends a pause; answers what was held back, oldest first.
    pub(crate) fn resume(&self) -> VecDeque<Task<Vec<StoredMessage>>> {
        let mut held = lock(&self.held);
        self.paused.set(false);
        if lock(&self.undecodable).is_some() { VecDeque::new() } else { std::mem::take(&mut *held) }
    }

    /// Holds the queue back at a message that cannot be decoded, until that is skipped.
    pub(crate) fn hold_at(&self, epoch: u32, message: StoredMessage) {
        *lock(&self.undecodable) = Some(Box::new(Undecodable { epoch, message }));
    }

    /// The message of an epoch at which the queue is held back.
    pub(crate) fn undecodable(&self, epoch: u32) -> Option<StoredMessage> {
        let undecodable = lock(&self.undecodable);
        undecodable.as_ref().filter(|undecodable| undecodable.epoch == epoch).map(|known| known.message.clone())
    }

    /// Skips the message at which the queue is held back, if that is at `offset`. Returns its epoch, and what was held back
    /// behind it, oldest first.
    pub(crate) fn skip(&self, offset: i64) -> Option<(u32, VecDeque<Task<Vec<StoredMessage>>>)> {
        let mut held = lock(&self.held);
        let skipped = lock(&self.undecodable).take_if(|known| known.message.queue_offset() == offset)?;
        let released = if self.paused.is_on() { VecDeque::new() } else { std::mem::take(&mut *held) };
        Some((skipped.epoch, released))
    }
}

impl AssignedQueue {
    pub(crate) fn is_paused(&self) -> bool {
        self.polled.as_ref().is_some_and(|polled| polled.paused.is_on())
    }

    /// Holds messages back while the queue is paused, or held back at a message before them; returns them where it is not.
    pub(crate) fn unless_paused(&self, task: Task<Vec<StoredMessage>>) -> Option<Task<Vec<StoredMessage>>> {
        let Some(polled) = &self.polled else { return Some(task) };
        // Held, so that a pause does not end in between.
        let mut held = lock(&polled.held);
        let is_held = lock(&polled.undecodable).as_ref().is_some_and(|undecodable| undecodable.epoch == task.epoch);
        if !polled.paused.is_on() && !is_held {
            return Some(task);
        }
        held.push_back(task);
        None
    }

    /// Until the queue is not paused; at once if it is not.
    pub(crate) async fn wait_unpaused(&self) {
        if let Some(polled) = &self.polled {
            polled.paused.wait(false).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PushConfig, alone::Alone, listener::Listener};
    use std::{convert::Infallible, future::ready};

    #[tokio::test]
    async fn what_was_fetched_for_an_earlier_place_goes_and_for_a_later_one_stays() {
        let listener = Listener::one(false, |_| ready(Ok::<_, Infallible>(())));
        let alone = Alone::start(listener, false, PushConfig::default()).await.unwrap();
        let (queue, polled) = (alone.queue(), PolledQueue::new(true));
        let task = |epoch| Task { queue: queue.clone(), epoch, messages: Vec::new() };
        lock(&polled.held).extend([1, 2, 3].map(task));
        polled.keep_only(2);
        let kept: Vec<_> = polled.resume().iter().map(|task| task.epoch).collect();
        assert_eq!(kept, [2, 3]);
    }
}
