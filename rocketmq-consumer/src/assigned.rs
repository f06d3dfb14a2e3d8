use crate::{
    hold::Hold,
    listener_threads::CallsOnThreads,
    polled_queue::PolledQueue,
    popped_queue::PoppedQueue,
    process_queue::{Limits, ProcessQueue},
    statistics::QueueMeter,
    suspension::Suspension,
    undecodable::is_alone,
};
use rocketmq_common::{MessageQueue, StoredMessage, protocol::SubscriptionData, remote::Connection};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// One queue that is ours for now.
#[derive(Debug)]
pub(crate) struct AssignedQueue {
    pub(crate) queue: MessageQueue,
    pub(crate) subscription: Arc<SubscriptionData>,
    /// The language of its filter, as pulls name it.
    pub(crate) expression_type: Arc<str>,
    window: Mutex<ProcessQueue>,
    /// Messages of windows before this one are not begun any more.
    oldest_epoch: AtomicU32,
    /// While an operator moves the group, nothing is fetched.
    pub(crate) moving: Suspension,
    pub(crate) meter: QueueMeter,
    /// Wakes the fetch task that waits for room.
    room: Notify,
    waits_for_room: AtomicBool,
    revoked: AtomicBool,
    /// Nobody waits any more for what is in hand.
    handed_over: AtomicBool,
    /// Ends the tasks of this queue; the end of the consumer does, too.
    ended: CancellationToken,
    /// Listener calls under way, and deliveries that nobody has settled.
    in_hand: AtomicUsize,
    /// Somebody waits until there are none.
    awaited: AtomicBool,
    none_in_hand: Notify,
    /// When the last message that was pulled had been stored, in milliseconds since 1970; below 0 before the first.
    stored_ms: AtomicI64,
    pub(crate) calls_on_threads: CallsOnThreads,
    /// The offset that is known to be recorded.
    recorded: Mutex<Option<i64>>,
    /// Where an operator has the group go on, as long as that is not recorded.
    told: Mutex<Option<i64>>,
    /// The address of the broker where it is, of one that a broker keeps.
    keeper: Mutex<Option<Arc<str>>>,
    /// Held by the one who records the offset.
    pub(crate) recording: tokio::sync::Mutex<()>,
    /// Somebody has chosen where to go on.
    moved: Notify,
    /// Of a queue that is consumed in order.
    pub(crate) order: Option<Order>,
    /// Of a queue that is polled.
    pub(crate) polled: Option<PolledQueue>,
    /// Of a queue that is popped.
    pub(crate) popped: Option<PoppedQueue>,
}

/// What a queue has beside, by the way it is consumed.
#[derive(Debug)]
pub(crate) enum Beside {
    Nothing,
    Order(Order),
    Polled(PolledQueue),
    Popped(PoppedQueue),
}

/// What a queue that is consumed in order has beside.
#[derive(Debug)]
pub(crate) struct Order {
    hold: watch::Sender<Hold>,
    /// By which the broker said that the lock is ours.
    lender: Mutex<Option<Connection>>,
    /// Fetched and not begun, by offset.
    waiting: Mutex<VecDeque<Waiting>>,
    filled: Notify,
}

/// A message that waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) epoch: u32,
    pub(crate) message: StoredMessage,
}

/// Where a queue is fetched from next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The epoch of the window that it belongs to.
    pub(crate) epoch: u32,
    pub(crate) next: i64,
}

impl AssignedQueue {
    pub(crate) fn new(
        queue: MessageQueue,
        subscription: Arc<SubscriptionData>,
        window: ProcessQueue,
        ended: CancellationToken,
        beside: Beside,
        meter: QueueMeter,
    ) -> Self {
        let (order, polled, popped) = match beside {
            Beside::Nothing => (None, None, None),
            Beside::Order(order) => (Some(order), None, None),
            Beside::Polled(polled) => (None, Some(polled), None),
            Beside::Popped(popped) => (None, None, Some(popped)),
        };
        Self {
            queue,
            expression_type: subscription.expression_type.name().into(),
            subscription,
            window: Mutex::new(window),
            oldest_epoch: AtomicU32::new(0),
            moving: Suspension::default(),
            meter,
            room: Notify::new(),
            waits_for_room: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            ended,
            in_hand: AtomicUsize::new(0),
            awaited: AtomicBool::new(false),
            none_in_hand: Notify::new(),
            stored_ms: AtomicI64::new(-1),
            calls_on_threads: CallsOnThreads::default(),
            recorded: Mutex::new(None),
            told: Mutex::default(),
            keeper: Mutex::default(),
            recording: tokio::sync::Mutex::default(),
            moved: Notify::new(),
            order,
            polled,
            popped,
        }
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, ProcessQueue> {
        self.window.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Goes on at `offset`; answers the epoch that begins. Messages that were fetched before do not count any more,
    /// whatever becomes of them, and those that were not begun are not.
    pub(crate) fn start_over(&self, offset: i64) -> u32 {
        let mut window = self.window();
        window.start_at(offset);
        let epoch = window.epoch();
        self.oldest_epoch.store(epoch, Ordering::SeqCst);
        // Before anything of the new epoch can come.
        if let Some(order) = &self.order {
            order.clear();
        }
        drop(window);
        self.moved.notify_one();
        self.room.notify_one();
        epoch
    }

    /// Goes on where an operator says: that is recorded whoever has the lock of the queue, since it is no progress.
    pub(crate) fn go_on_as_told(&self, offset: i64) {
        self.start_over(offset);
        if let Some(polled) = &self.polled {
            polled.commit(Some(offset));
        }
        *self.told() = Some(offset);
    }

    /// Where to fetch on: where the last fetch left off, unless the window has begun anew meanwhile.
    pub(crate) fn fetch_on_at(&self, place: Place) -> Place {
        let window = self.window();
        match window.epoch() == place.epoch {
            true => place,
            false => Place { epoch: window.epoch(), next: window.commit_offset().unwrap_or(place.next) },
        }
    }

    /// Marks a message done.
    pub(crate) fn finish(&self, epoch: u32, offset: i64) {
        self.finish_all(epoch, [offset]);
    }

    /// Marks messages done.
    pub(crate) fn finish_all(&self, epoch: u32, offsets: impl IntoIterator<Item = i64>) {
        let mut window = self.window();
        for offset in offsets {
            window.finish(epoch, offset);
        }
        let wake = self.waits_for_room.load(Ordering::Acquire) && window.has_room();
        drop(window);
        if wake {
            self.room.notify_one();
        }
    }

    /// Until somebody has chosen where to go on.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Changes how much may be in flight.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.window().set_limits(limits);
        if let Some(popped) = &self.popped {
            popped.set_limits(limits.of_pops());
        }
        self.room.notify_one();
    }

    /// No further message of this queue is begun.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
        self.ended.cancel();
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    /// The offset that is recorded now is the last one: what fails from here on must not come from the broker as well.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::SeqCst);
    }

    /// Whether what is not done is for the next owner of the queue. A popped message is for who has it.
    pub(crate) fn is_left_to_the_next(&self) -> bool {
        self.handed_over.load(Ordering::SeqCst) && self.popped.is_none()
    }

    /// What waits is not begun any more.
    pub(crate) fn withdraw(&self) {
        self.oldest_epoch.store(NO_EPOCH, Ordering::SeqCst);
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.oldest_epoch.load(Ordering::SeqCst) == NO_EPOCH
    }

    /// Whether a message that has waited may be begun: one that is popped is ours for a while only.
    pub(crate) fn may_begin(&self, message: &StoredMessage) -> bool {
        self.popped.as_ref().is_none_or(|popped| popped.may_begin(message))
    }

    /// Until the queue is revoked, or the consumer ends.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Counts a listener call as under way, unless the queue has been revoked or its messages are of a window of before.
    pub(crate) fn take_in_hand(self: &Arc<Self>, epoch: u32) -> Option<InHand> {
        // Counted before the look at `revoked`: who revokes a queue first says so and then waits for what is in hand.
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        let in_hand = InHand(self.clone());
        let is_ours = !self.is_revoked() || self.popped.is_some();
        let may_begin = is_ours && epoch >= self.oldest_epoch.load(Ordering::SeqCst);
        may_begin.then_some(in_hand)
    }

    pub(crate) fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::SeqCst)
    }

    /// Waits until nothing is in hand.
    pub(crate) async fn wait_none_in_hand(&self) {
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            let none = self.none_in_hand.notified();
            if self.in_hand() == 0 {
                return;
            }
            none.await;
        }
    }

    pub(crate) async fn wait_for_room(&self) {
        loop {
            self.waits_for_room.store(true, Ordering::Release);
            if self.window().has_room() {
                self.waits_for_room.store(false, Ordering::Release);
                return;
            }
            self.room.notified().await;
        }
    }

    /// A message was pulled that the broker had stored at this time, in milliseconds since 1970.
    pub(crate) fn note_stored(&self, millis: i64) {
        self.stored_ms.store(millis, Ordering::Relaxed);
    }

    /// When the last message that was pulled had been stored, in milliseconds since 1970; `None` before the first.
    pub(crate) fn stored_ms(&self) -> Option<i64> {
        Some(self.stored_ms.load(Ordering::Relaxed)).filter(|millis| *millis >= 0)
    }

    /// Offsets of the queue are kept at this broker's address now. What is recorded elsewhere does not count.
    pub(crate) fn kept_at(&self, keeper: Arc<str>) {
        let mut known = self.keeper.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.as_ref() != Some(&keeper) {
            *known = Some(keeper);
            *self.recorded() = None;
        }
    }

    /// The offset that is known to be recorded.
    pub(crate) fn recorded(&self) -> MutexGuard<'_, Option<i64>> {
        self.recorded.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An offset has been recorded.
    pub(crate) fn is_recorded(&self, offset: i64) {
        *self.recorded() = Some(offset);
        self.told().take_if(|told| *told == offset);
    }

    fn told(&self) -> MutexGuard<'_, Option<i64>> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The offset to record, where there is one that is not known to be.
    pub(crate) fn to_record(&self) -> Option<i64> {
        let offset = match self.polled.as_ref().and_then(PolledQueue::committed) {
            Some(committed) => committed,
            None => self.window().commit_offset(),
        };
        let may_record = |offset: i64| self.may_record() || *self.told() == Some(offset);
        offset.filter(|offset| may_record(*offset) && *self.recorded() != Some(*offset))
    }

    /// Whether progress may be recorded: not while another member may own the queue.
    fn may_record(&self) -> bool {
        self.order.as_ref().is_none_or(|order| order.hold.borrow().is_held(Instant::now()))
    }

    /// Until the lock of the queue is lost, or is a new one whose owner has not looked how far the group is. Never, for
    /// a queue that is not locked.
    pub(crate) async fn lock_moved(&self) {
        match &self.order {
            Some(order) => order.wait_hold(|hold| !hold.is_checked() || !hold.is_held(Instant::now())).await,
            None => std::future::pending().await,
        }
    }

    /// Waits for the lock of the queue; answers the tenure it belongs to. At once for a queue that is not locked.
    pub(crate) async fn wait_locked(&self) -> u32 {
        let Some(order) = &self.order else { return 0 };
        let mut hold = order.hold.subscribe();
        loop {
            if let Some(tenure) = hold.borrow_and_update().tenure(Instant::now()) {
                return tenure;
            }
            if hold.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Order {
    pub(crate) fn new(hold: Hold) -> Self {
        Self {
            hold: watch::Sender::new(hold),
            lender: Mutex::default(),
            waiting: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// The broker said, when asked at `asked_at`, that the lock is ours.
    pub(crate) fn grant(&self, asked_at: Instant, lender: Connection) {
        *self.lender() = Some(lender);
        self.change(|hold| hold.grant(asked_at));
    }

    /// Loses the lock if it can no longer be relied on: it was not renewed for too long, or its broker is gone, and has
    /// forgotten it. Answers whether it was ours until now.
    pub(crate) fn doubt(&self) -> bool {
        let is_gone = self.lender().as_ref().is_some_and(|lender| lender.close_cause().is_some());
        self.change(|hold| if is_gone { hold.lose() } else { hold.expire(Instant::now()) })
    }

    fn lender(&self) -> MutexGuard<'_, Option<Connection>> {
        self.lender.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the lock's state; answers what `change` does.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Hold) -> T) -> T {
        let mut answer = None;
        self.hold.send_if_modified(|hold| {
            let before = *hold;
            answer = Some(change(hold));
            *hold != before
        });
        answer.expect("the change is made at once")
    }

    pub(crate) fn hold(&self) -> Hold {
        *self.hold.borrow()
    }

    pub(crate) async fn wait_hold(&self, mut condition: impl FnMut(&Hold) -> bool) {
        // The sender lives as long as this does.
        let _ = self.hold.subscribe().wait_for(|hold| condition(hold)).await;
    }

    pub(crate) fn push(&self, epoch: u32, messages: Vec<StoredMessage>) {
        if messages.is_empty() {
            return;
        }
        self.waiting().extend(messages.into_iter().map(|message| Waiting { epoch, message }));
        self.filled.notify_one();
    }

    /// Puts messages back in front of the others.
    pub(crate) fn put_back(&self, epoch: u32, messages: Vec<StoredMessage>) {
        let mut waiting = self.waiting();
        for message in messages.into_iter().rev() {
            waiting.push_front(Waiting { epoch, message });
        }
    }

    /// Up to `max` messages of this epoch; those of earlier ones are dropped. One that cannot be decoded comes alone.
    pub(crate) fn take(&self, epoch: u32, max: usize) -> Vec<StoredMessage> {
        let mut waiting = self.waiting();
        let mut taken = Vec::with_capacity(max.min(waiting.len()));
        while taken.len() < max {
            match waiting.pop_front() {
                Some(next) if next.epoch == epoch && is_alone(&next.message) => {
                    match taken.is_empty() {
                        true => taken.push(next.message),
                        false => waiting.push_front(next),
                    }
                    break;
                }
                Some(next) if next.epoch == epoch => taken.push(next.message),
                Some(next) if next.epoch > epoch => {
                    waiting.push_front(next);
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        taken
    }

    pub(crate) async fn wait_filled(&self) {
        while self.waiting().is_empty() {
            self.filled.notified().await;
        }
    }

    pub(crate) fn clear(&self) {
        self.waiting().clear();
    }

    /// How many messages wait.
    pub(crate) fn count_waiting(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A listener call under way.
#[derive(Debug)]
pub(crate) struct InHand(Arc<AssignedQueue>);

impl Drop for InHand {
    fn drop(&mut self) {
        if self.0.in_hand.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.awaited.load(Ordering::SeqCst) {
            self.0.none_in_hand.notify_waiters();
        }
    }
}

/// Later than any.
const NO_EPOCH: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Filter, process_queue::Limits, statistics::Meters};

    #[test]
    fn where_an_operator_moves_a_group_is_recorded_even_without_the_lock() {
        let subscription = Filter::all().subscription("t", 0).unwrap();
        let window = ProcessQueue::new(Limits { messages: 10, bytes: 1000, span: 10 });
        let order = Order::new(Hold::needed());
        let meter = QueueMeter::new(Meters::default().of(&"t".into()));
        let queue = MessageQueue::new("t", "b", 0);
        let ended = CancellationToken::new();
        let queue = AssignedQueue::new(queue, Arc::new(subscription), window, ended, Beside::Order(order), meter);
        queue.start_over(10);
        assert_eq!(queue.to_record(), None, "somebody else may be further");
        queue.go_on_as_told(3);
        assert_eq!(queue.to_record(), Some(3));
        queue.window().advance(5);
        assert_eq!(queue.to_record(), None, "that is progress");
        queue.go_on_as_told(3);
        queue.is_recorded(3);
        *queue.recorded() = None;
        assert_eq!(queue.to_record(), None, "once is enough");
    }
}
