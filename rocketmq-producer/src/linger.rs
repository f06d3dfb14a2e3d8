//! Messages that wait a moment for others to travel with.

use crate::{
    BatchReceipt, Error, SendReceipt,
    batch::{batch_delivery, encoded_size},
    launch::{Delivered, launch},
    producer::Shared,
    select::Selection,
};
use rocketmq_common::{
    Message, MessageQueue,
    message::{names, property},
    remote::Deadline,
};
use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

/// A message on its way to a batch, and whom to tell what becomes of it: where it is dropped, that nothing was sent.
pub(crate) struct Passenger {
    message: Message,
    size: usize,
    /// Whether it has to go by itself, and waits only for its turn.
    alone: bool,
    deadline: Deadline,
    withdrawal: Option<Withdrawal>,
    /// How its queue was chosen, if it was.
    selection: Option<Selection>,
    done: Option<Done>,
}

type Done = Box<dyn FnOnce(Result<SendReceipt, Error>) + Send>;

impl Passenger {
    pub(crate) fn new(
        message: Message,
        alone: bool,
        deadline: Deadline,
        withdrawal: Option<Withdrawal>,
        done: impl FnOnce(Result<SendReceipt, Error>) + Send + 'static,
    ) -> Self {
        let (size, done): (_, Done) = (encoded_size(&message), Box::new(done));
        Self { size, message, alone, deadline, withdrawal, selection: None, done: Some(done) }
    }

    /// The same, for a queue that was chosen that way.
    pub(crate) fn by_selection(mut self, selection: Option<Selection>) -> Self {
        self.selection = selection;
        self
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawal.as_ref().is_some_and(|withdrawal| withdrawal.0.load(Ordering::Acquire))
    }

    /// The message, on its way from here on, and whom to tell.
    fn depart(mut self) -> (Message, Departed) {
        let message = mem::replace(&mut self.message, Message::new("", ""));
        let done = self.done.take().unwrap_or_else(|| Box::new(drop));
        (message, Departed { selection: self.selection.take(), deadline: self.deadline, done })
    }
}

/// What is kept of a message on its way.
struct Departed {
    selection: Option<Selection>,
    deadline: Deadline,
    done: Done,
}

impl Departed {
    fn tell(self, delivered: Delivered) {
        (self.done)(delivered.map(|(id, queue, answer)| SendReceipt::new(id, queue, answer)));
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        if let Some(done) = self.done.take().filter(|_| !self.is_withdrawn()) {
            done(Err(Error::ShutDown));
        }
    }
}

/// Says that a message is not to be sent any more, unless it is on its way already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Withdrawal(Arc<AtomicBool>);

impl Withdrawal {
    /// Withdraws the message when this is dropped.
    pub(crate) fn on_drop(self) -> WithdrawOnDrop {
        WithdrawOnDrop(self)
    }
}

/// Withdraws a message when it is dropped.
#[derive(Debug)]
pub(crate) struct WithdrawOnDrop(Withdrawal);

impl Drop for WithdrawOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Passenger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passenger").field("message", &self.message).finish_non_exhaustive()
    }
}

/// Whether a message may travel with others.
///
/// # Protocol
/// Java: `DefaultMQProducer.canBatch`.
pub(crate) fn may_share(message: &Message) -> bool {
    let properties = message.properties();
    let is_delayed = properties.delay_level() > 0 || properties.has_timer();
    let has_priority = properties.get(property::PRIORITY).is_some();
    let is_for_one = has_priority || message.is_reply() || properties.get(property::PGROUP).is_some();
    !is_delayed && !is_for_one && !names::is_retry_topic(message.topic())
}

/// What goes together: messages of one topic, for one queue if they were meant for one, with one wish to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lane {
    topic: String,
    queue: Option<MessageQueue>,
    wait_store: bool,
}

/// The lanes in use, each with a task of its own, so that the messages of one stay in order and no lane waits for another.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<Lane, mpsc::Sender<Passenger>>>,
    /// Counts the flushes, at each of which the batches go at once.
    flushes: watch::Sender<u64>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self { lanes: Mutex::default(), flushes: watch::Sender::new(0) }
    }

    /// Sends what is waiting now without letting it wait any longer.
    pub(crate) fn flush(&self) {
        self.flushes.send_modify(|count| *count += 1);
    }

    /// Puts a message into its lane, waiting only for its turn.
    ///
    /// # Errors
    /// [`Error::ShutDown`] where the producer or its runtime has ended: a lane that has a sender ends in no other way.
    pub(crate) async fn board(
        &self,
        producer: &Arc<Shared>,
        queue: Option<MessageQueue>,
        passenger: Passenger,
    ) -> Result<(), Error> {
        let wait_store = passenger.message.properties().wait_store();
        let lane = Lane { topic: passenger.message.topic().to_owned(), queue, wait_store };
        if producer.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let sender = self.lanes().entry(lane.clone()).or_insert_with(|| self.open(producer, lane)).clone();
        sender.send(passenger).await.map_err(|_| Error::ShutDown)
    }

    fn open(&self, producer: &Arc<Shared>, lane: Lane) -> mpsc::Sender<Passenger> {
        let (sender, passengers) = mpsc::channel(PASSENGERS_IN_LINE);
        // From here on, and not only from when the task first runs, no flush is missed.
        let flushes = self.flushes.subscribe();
        producer.spawn(run(producer.clone(), lane, passengers, flushes));
        sender
    }

    /// Closes a lane unless somebody is in it, or about to be.
    fn retire(&self, lane: &Lane, passengers: &mpsc::Receiver<Passenger>) -> bool {
        let mut lanes = self.lanes();
        // Senders are cloned under the lock only, and whoever has one may still send: so they are counted first.
        let is_unused = passengers.sender_strong_count() <= 1 && passengers.is_empty();
        if is_unused {
            lanes.remove(lane);
        }
        is_unused
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Lane, mpsc::Sender<Passenger>>> {
        self.lanes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Gathers the messages of a lane into batches and sends these one after the other, until nobody comes any more.
async fn run(
    producer: Arc<Shared>,
    lane: Lane,
    mut passengers: mpsc::Receiver<Passenger>,
    mut flushes: watch::Receiver<u64>,
) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match timeout(IDLE, passengers.recv()).await {
                Ok(Some(first)) => first,
                Ok(None) => return,
                Err(_) if producer.lanes.retire(&lane, &passengers) => return,
                Err(_) => continue,
            },
        };
        let mut batch = Batch::of(first);
        let leaves_at = Instant::now() + producer.config.linger;
        let mut at_once = false;
        while next.is_none() && !batch.is_full(producer.config.linger_bytes) {
            let passenger = match passengers.try_recv() {
                Ok(passenger) => Some(passenger),
                Err(_) if at_once => break,
                Err(_) => tokio::select! {
                    biased;
                    passenger = passengers.recv() => passenger,
                    _ = flushes.changed() => {
                        at_once = true;
                        continue;
                    }
                    () = sleep_until(leaves_at) => None,
                },
            };
            match passenger {
                Some(passenger) => next = batch.add(passenger, producer.config.linger_bytes),
                None => break,
            }
        }
        batch.send(&producer, lane.queue.clone()).await;
    }
}

/// Messages that go together.
#[derive(Debug)]
struct Batch {
    passengers: Vec<Passenger>,
    size: usize,
}

impl Batch {
    fn of(first: Passenger) -> Self {
        Self { size: first.size, passengers: vec![first] }
    }

    /// Adds a message, or gives it back where it does not fit in or goes alone.
    fn add(&mut self, passenger: Passenger, max_bytes: usize) -> Option<Passenger> {
        if passenger.alone || self.size + passenger.size > max_bytes {
            return Some(passenger);
        }
        self.size += passenger.size;
        self.passengers.push(passenger);
        None
    }

    fn is_full(&self, max_bytes: usize) -> bool {
        self.size >= max_bytes || self.passengers.iter().any(|passenger| passenger.alone)
    }

    /// Sends it, waiting only until it is queued: the next batch of the lane follows it on the connection.
    async fn send(mut self, producer: &Arc<Shared>, queue: Option<MessageQueue>) {
        self.passengers.retain(|passenger| !passenger.is_withdrawn());
        if self.passengers.len() > 1 {
            return self.send_together(producer, queue).await;
        }
        let Some(passenger) = self.passengers.pop() else { return };
        let (message, mut departed) = passenger.depart();
        match producer.load(message, departed.deadline).await {
            Ok(delivery) => {
                let delivery = delivery.to(queue).by_selection(departed.selection.take());
                launch(producer, delivery, |delivered| departed.tell(delivered)).await;
            }
            Err(error) => departed.tell(Err(error)),
        }
    }

    async fn send_together(self, producer: &Arc<Shared>, queue: Option<MessageQueue>) {
        let deadline = self.passengers.iter().map(|passenger| passenger.deadline).min();
        let deadline = deadline.unwrap_or_else(|| Deadline::after(producer.config.send_timeout));
        let (messages, waiting): (Vec<_>, Vec<_>) = self.passengers.into_iter().map(Passenger::depart).unzip();
        let ids: Vec<String> = messages.iter().filter_map(|m| m.properties().unique_id().map(str::to_owned)).collect();
        let delivery = batch_delivery(producer, &messages, deadline);
        let sending = producer.clone();
        let chosen = queue.clone();
        // Kept only where the queue may turn out to be no more.
        let messages = if chosen.is_some() { messages } else { Vec::new() };
        let tell = move |delivered: Delivered| match delivered {
            Ok((_, queue, answer)) => {
                let receipts = BatchReceipt::new(ids, queue, answer).receipts();
                waiting.into_iter().zip(receipts).for_each(|(departed, receipt)| (departed.done)(Ok(receipt)));
            }
            Err(error) if chosen.is_some_and(|queue| sending.has_lost(&queue, &error)) => {
                let each = messages.into_iter().zip(waiting).collect();
                sending.spawn(send_each(sending.clone(), each));
            }
            // Everybody in the batch hears of it, each with the id of the own message.
            Err(error) => {
                let each = waiting.into_iter().zip(ids);
                each.for_each(|(departed, id)| departed.tell(Err(error.clone().of_message(id))));
            }
        };
        match delivery {
            Ok(delivery) => launch(producer, delivery.to(queue), tell).await,
            Err(error) => tell(Err(error)),
        }
    }
}

/// Sends the messages of a batch whose queue is no more, each to the queue that is chosen for it now.
async fn send_each(producer: Arc<Shared>, each: Vec<(Message, Departed)>) {
    for (message, mut departed) in each {
        let select = departed.selection.take().map(|selection| selection.select);
        match producer.prepare(message, select, departed.deadline).await {
            Ok(delivery) => launch(&producer, delivery, |delivered| departed.tell(delivered)).await,
            Err(error) => departed.tell(Err(error)),
        }
    }
}

impl Shared {
    /// Whether a send failed because its queue is no more, and so has stored nothing.
    fn has_lost(&self, queue: &MessageQueue, error: &Error) -> bool {
        let route = self.client.known_route(&queue.topic);
        error.is_refusal_of_route() && route.is_some_and(|route| !route.write_queues().contains(queue))
    }
}

/// Messages that wait for their turn in a lane; senders of further ones wait.
const PASSENGERS_IN_LINE: usize = 1024;
/// How long a lane stays open with nobody in it.
const IDLE: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(10) };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Producer, ProducerConfig};
    use rocketmq_dev_broker::DevCluster;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_message_that_meets_an_idle_lane_is_sent() {
        const SENDERS: u64 = 16;
        const EACH: u64 = 600;
        let cluster = DevCluster::start().await.unwrap();
        let config = ProducerConfig { linger: Duration::from_micros(100), ..Default::default() };
        let producer =
            Producer::builder("p").name_servers([cluster.name_server()]).config(config).start().await.unwrap();
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..SENDERS {
            let producer = producer.clone();
            senders.spawn(async move {
                for index in 0..EACH {
                    producer.send(Message::new(format!("t{sender}"), "body")).await?;
                    // The next one comes about when the lane is closed.
                    let pause = Duration::from_micros(7 * (index % 300));
                    let until = std::time::Instant::now() + pause;
                    while std::time::Instant::now() < until {
                        tokio::task::yield_now().await;
                    }
                }
                Ok::<_, Error>(())
            });
        }
        while let Some(sent) = senders.join_next().await {
            sent.unwrap().unwrap();
        }
        producer.shutdown().await.unwrap();
    }
}
