//! Gathers the acknowledgements of popped messages: one request for many messages of a broker, where single ones would each
//! cost a request and a task.

use crate::{
    Error,
    assigned::AssignedQueue,
    member::Member,
    pop_group::is_passing,
    pop_handle::Kept,
    popped_queue::{Hidden, PoppedQueue},
};
use rocketmq_common::{Backoff, StoredMessage, random::random_u64};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Acknowledgements that wait to be sent, by broker. A broker has an entry as long as a task sends to it.
#[derive(Debug, Default)]
pub(crate) struct AckQueue(Mutex<BTreeMap<Arc<str>, Gathered>>);

#[derive(Debug, Default)]
struct Gathered {
    acks: Vec<Ack>,
    is_full: Arc<Notify>,
}

/// A message that is done, and that its broker has to be told of.
#[derive(Debug)]
struct Ack {
    queue: Arc<AssignedQueue>,
    message: StoredMessage,
    hidden: Arc<Hidden>,
}

impl AckQueue {
    /// Adds an acknowledgement; returns true if the caller has to start the task that sends to the broker.
    fn push(&self, broker_name: &Arc<str>, ack: Ack) -> bool {
        let mut brokers = self.brokers();
        let (gathered, is_first) = match brokers.entry(broker_name.clone()) {
            Entry::Occupied(known) => (known.into_mut(), false),
            Entry::Vacant(free) => (free.insert(Gathered::default()), true),
        };
        gathered.acks.push(ack);
        if gathered.acks.len() >= FULL {
            gathered.is_full.notify_one();
        }
        is_first
    }

    /// Waits until a request for the broker is full, or others have had time to join it.
    async fn gathered(&self, broker_name: &Arc<str>) {
        let is_full = self.brokers().get(broker_name).map(|gathered| gathered.is_full.clone());
        if let Some(is_full) = is_full {
            let _ = timeout(DELAY, is_full.notified()).await;
        }
    }

    /// Takes the acknowledgements of one request; `None` once there are none left, and the task of the broker has to end.
    fn take(&self, broker_name: &Arc<str>) -> Option<Vec<Ack>> {
        let mut brokers = self.brokers();
        let gathered = brokers.get_mut(broker_name)?;
        if gathered.acks.is_empty() {
            brokers.remove(broker_name);
            return None;
        }
        let rest = gathered.acks.split_off(gathered.acks.len().min(MOST));
        if rest.len() >= FULL {
            gathered.is_full.notify_one();
        }
        Some(std::mem::replace(&mut gathered.acks, rest))
    }

    fn brokers(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Gathered>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Member {
    /// Acknowledges messages of a popped queue soon, without waiting for it: the next call need not be later.
    pub(crate) fn acknowledge_soon(self: &Arc<Self>, queue: &Arc<AssignedQueue>, messages: &[StoredMessage]) {
        let Some(popped) = &queue.popped else { return };
        for message in messages {
            let Some(hidden) = popped.get(message) else { continue };
            let has_time = !hidden.expires_within(URGENT);
            let ack = Ack { queue: queue.clone(), message: message.clone(), hidden };
            if !has_time {
                self.acknowledge_alone(ack);
            } else if self.acks.push(message.broker_name(), ack) {
                let (member, broker_name) = (self.clone(), message.broker_name().clone());
                self.spawn(async move {
                    tokio::select! {
                        () = member.given_up.cancelled() => {}
                        () = member.send_acks(&broker_name) => {}
                    }
                });
            }
        }
    }

    async fn send_acks(self: &Arc<Self>, broker_name: &Arc<str>) {
        loop {
            self.acks.gathered(broker_name).await;
            let Some(acks) = self.acks.take(broker_name) else { return };
            self.acknowledge(broker_name, acks).await;
        }
    }

    fn acknowledge_alone(self: &Arc<Self>, ack: Ack) {
        let member = self.clone();
        self.spawn(async move {
            let Some(popped) = &ack.queue.popped else { return };
            let acknowledge = async {
                let kept = ack.hidden.kept.lock().await;
                let outcome = member.tell_acknowledged(ack.message.broker_name(), &[&kept]).await;
                drop(kept);
                member.settled(popped, &ack.message, outcome);
            };
            tokio::select! {
                () = member.given_up.cancelled() => {}
                () = acknowledge => {}
            }
        });
    }

    async fn acknowledge(self: &Arc<Self>, broker_name: &Arc<str>, acks: Vec<Ack>) {
        let mut alone = Vec::new();
        {
            let mut locked = Vec::with_capacity(acks.len());
            for ack in &acks {
                // One whose invisible time is being extended gets another handle.
                match ack.hidden.kept.try_lock() {
                    Ok(kept) => locked.push((ack, kept)),
                    Err(_) => alone.push((ack.queue.clone(), ack.message.clone(), ack.hidden.clone())),
                }
            }
            let kept: Vec<&Kept> = locked.iter().map(|(_, kept)| &**kept).collect();
            let outcome = self.tell_acknowledged(broker_name, &kept).await;
            for (ack, kept) in locked {
                drop(kept);
                if let Some(popped) = &ack.queue.popped {
                    self.settled(popped, &ack.message, outcome.clone());
                }
            }
        }
        for (queue, message, hidden) in alone {
            self.acknowledge_alone(Ack { queue, message, hidden });
        }
    }

    /// Tells a broker that messages are done; tries again where a failure may pass.
    async fn tell_acknowledged(&self, broker_name: &Arc<str>, kept: &[&Kept]) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            let outcome = match kept {
                [] => return Ok(()),
                // The answer to a single one says whether the handle was good.
                [one] => self.pops.ack(one).await,
                several => self.pops.ack_of_broker(broker_name, several).await,
            };
            match outcome {
                Err(error)
                    if is_passing(&error)
                        && failures < MOST_FAILURES
                        && !kept.iter().any(|kept| kept.has_expired()) =>
                {
                    failures += 1;
                    sleep(BACKOFF.wait(failures, random_u64())).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn settled(&self, popped: &PoppedQueue, message: &StoredMessage, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            tracing::warn!(
                group = %self.group, topic = message.topic(), message_id = %message.printable_id(),
                error = &error as &dyn std::error::Error, "acknowledgement failed: the message may come again"
            );
        }
        popped.remove(message);
    }
}

/// How long an acknowledgement waits for others to join it.
const DELAY: Duration = Duration::from_millis(10);
/// So many do not wait for more: as many as one pop brings.
const FULL: usize = 32;
/// Most messages of one request.
const MOST: usize = 256;
/// Messages that become visible this soon do not wait.
const URGENT: Duration = Duration::from_secs(1);
const MOST_FAILURES: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
