//! Waiting for messages without taking them: one request is held at each broker, however many receivers wait.
//!
//! A pop that a broker holds would take messages for a receiver that is gone. So receivers pop only what is there, and
//! wait for a bell meanwhile.

use crate::popper::Popper;
use rocketmq_common::{MessageQueue, protocol::SubscriptionData};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::watch;

/// What is watched, and the bell that rings when there may be messages.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    watched: Mutex<HashSet<MessageQueue>>,
    bell: watch::Sender<Option<MessageQueue>>,
}

impl Watches {
    /// The bell; it tells where there may be messages.
    pub(crate) fn bell(&self) -> watch::Receiver<Option<MessageQueue>> {
        self.bell.subscribe()
    }

    /// Has the bell rung when there is something to pop, unless somebody waits for that already.
    pub(crate) fn watch(popper: &Arc<Popper>, queue: &MessageQueue, subscription: &Arc<SubscriptionData>) {
        if !popper.watches.watched().insert(queue.clone()) {
            return;
        }
        let subscription = subscription.clone();
        let watching = Watching { popper: popper.clone(), queue: queue.clone() };
        popper.tasks.spawn(async move {
            let has_messages = tokio::select! {
                () = watching.popper.stopped.cancelled() => false,
                has_messages = watching.popper.pops.wait_for_messages(&watching.queue, &subscription, watching.popper.config.long_poll) => has_messages,
            };
            let (popper, queue) = (watching.popper.clone(), watching.queue.clone());
            // First, so that who hears the bell can have it rung again.
            drop(watching);
            if has_messages {
                popper.watches.bell.send_replace(Some(queue));
            }
        });
    }

    fn watched(&self) -> MutexGuard<'_, HashSet<MessageQueue>> {
        self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A request that is held; when it ends, however it does, another one may begin.
struct Watching {
    popper: Arc<Popper>,
    queue: MessageQueue,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.popper.watches.watched().remove(&self.queue);
    }
}
