use crate::{StartAt, process_queue::ProcessQueue, push::Shared, subscription::wants};
use rocketmq_common::{
    Backoff, Error, MessageQueue,
    message::{DecodeLimits, decode_records, names::is_retry_topic},
    protocol::{MASTER_ID, PullMessage, PullResult, PullSysFlag, SubscriptionData},
    random::random_u64,
    remote::{Answer, Deadline, ResponseCode},
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

/// One queue that is ours for now.
#[derive(Debug)]
pub(crate) struct AssignedQueue {
    pub(crate) queue: MessageQueue,
    subscription: Arc<SubscriptionData>,
    window: Mutex<ProcessQueue>,
    /// Wakes the fetch task that waits for room.
    room: Notify,
    waits_for_room: AtomicBool,
    revoked: AtomicBool,
    /// Ends the fetch task; the end of the consumer does, too.
    fetching: CancellationToken,
    /// Listener calls under way.
    in_hand: AtomicUsize,
    none_in_hand: Notify,
    /// The offset the broker last confirmed to have recorded.
    pub(crate) recorded: Mutex<Option<i64>>,
    /// Held by the one who records the offset.
    pub(crate) recording: tokio::sync::Mutex<()>,
}

impl AssignedQueue {
    pub(crate) fn new(
        queue: MessageQueue,
        subscription: Arc<SubscriptionData>,
        window: ProcessQueue,
        fetching: CancellationToken,
    ) -> Self {
        Self {
            queue,
            subscription,
            window: Mutex::new(window),
            room: Notify::new(),
            waits_for_room: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            fetching,
            in_hand: AtomicUsize::new(0),
            none_in_hand: Notify::new(),
            recorded: Mutex::new(None),
            recording: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, ProcessQueue> {
        self.window.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Marks a message done.
    pub(crate) fn finish(&self, epoch: u32, offset: i64) {
        let mut window = self.window();
        window.finish(epoch, offset);
        let wake = self.waits_for_room.load(Ordering::Acquire) && window.has_room();
        drop(window);
        if wake {
            self.room.notify_one();
        }
    }

    /// No further message of this queue is begun.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
        self.fetching.cancel();
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    /// Counts a listener call as under way, unless the queue has been revoked.
    pub(crate) fn take_in_hand(self: &Arc<Self>) -> Option<InHand> {
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        let in_hand = InHand(self.clone());
        (!self.is_revoked()).then_some(in_hand)
    }

    pub(crate) fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::SeqCst)
    }

    /// Waits until no listener call is under way.
    pub(crate) async fn wait_none_in_hand(&self) {
        loop {
            let none = self.none_in_hand.notified();
            if self.in_hand() == 0 {
                return;
            }
            none.await;
        }
    }

    async fn wait_for_room(&self) {
        loop {
            self.waits_for_room.store(true, Ordering::Release);
            if self.window().has_room() {
                self.waits_for_room.store(false, Ordering::Release);
                return;
            }
            self.room.notified().await;
        }
    }
}

/// A listener call under way.
#[derive(Debug)]
pub(crate) struct InHand(Arc<AssignedQueue>);

impl Drop for InHand {
    fn drop(&mut self) {
        if self.0.in_hand.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_revoked() {
            self.0.none_in_hand.notify_waiters();
        }
    }
}

/// Fetches the messages of one queue until it is revoked.
pub(crate) async fn fetch(shared: Arc<Shared>, assigned: Arc<AssignedQueue>, settle: Duration) {
    tokio::select! {
        () = assigned.fetching.cancelled() => {}
        () = fetch_on(&shared, &assigned, settle) => {}
    }
}

async fn fetch_on(shared: &Arc<Shared>, assigned: &Arc<AssignedQueue>, settle: Duration) {
    // The member that had the queue until now may still be recording its last offset.
    sleep(settle).await;
    let mut failures = 0;
    let mut next = loop {
        match start_offset(shared, &assigned.queue).await {
            Ok(offset) => break offset,
            Err(error) => pause(assigned, &error, &mut failures).await,
        }
    };
    tracing::debug!(group = %shared.group, queue = %assigned.queue, offset = next, "queue begun");
    assigned.window().start_at(next);
    let mut broker_id = MASTER_ID;
    failures = 0;
    loop {
        assigned.wait_for_room().await;
        match pull(shared, assigned, next, broker_id).await {
            Ok(answer) => {
                failures = 0;
                broker_id = answer.header.suggested_broker_id;
                next = take(shared, assigned, next, answer).await;
            }
            Err(error) => {
                broker_id = MASTER_ID;
                if error.response_code() == Some(ResponseCode::SUBSCRIPTION_NOT_EXIST) {
                    // The broker has lost, or not yet got, our heartbeat.
                    shared.client.heartbeat_soon();
                }
                pause(assigned, &error, &mut failures).await;
            }
        }
    }
}

async fn pause(assigned: &AssignedQueue, error: &Error, failures: &mut u32) {
    *failures = failures.saturating_add(1);
    let wait = BACKOFF.wait(*failures, random_u64());
    tracing::debug!(
        queue = %assigned.queue, failures = *failures, wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        error = error as &dyn std::error::Error, "fetching pauses"
    );
    sleep(wait).await;
}

async fn pull(
    shared: &Shared,
    assigned: &AssignedQueue,
    offset: i64,
    broker_id: i64,
) -> Result<Answer<PullResult>, Error> {
    let queue = &assigned.queue;
    let long_poll = shared.config.long_poll;
    let not_found = || Error::BrokerNotFound { broker_name: queue.broker_name.clone() };
    let route = shared.client.known_route(&queue.topic).ok_or_else(not_found)?;
    let broker_name = route.broker_of(queue);
    let request = PullMessage {
        consumer_group: shared.group.clone(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        queue_offset: offset,
        max_messages: shared.config.pull_batch,
        // The group's offset does not go along with a pull: brokers serve pulls and offset updates on different
        // threads, so it could overtake, and undo, the last one that is recorded at a shutdown.
        sys_flag: PullSysFlag::SUSPEND,
        commit_offset: 0,
        suspend_timeout_ms: i64::try_from(long_poll.as_millis()).unwrap_or(i64::MAX),
        subscription: None,
        sub_version: assigned.subscription.sub_version,
        expression_type: Some(shared.expression_type.clone()),
        max_bytes: None,
        broker_name: Some(broker_name.clone()),
    };
    let addrs = route.broker_addrs(broker_name).ok_or_else(not_found)?;
    let addr = addrs.get(&broker_id).or_else(|| addrs.values().next()).ok_or_else(not_found)?;
    let deadline = Deadline::after(long_poll + PULL_GRACE);
    let result = shared.client.pull_message(addr, &request, deadline).await;
    // A queue of a static topic may be on another broker by now.
    let elsewhere = |code: Option<ResponseCode>| code == Some(ResponseCode::NOT_LEADER_FOR_QUEUE) || code.is_none();
    if result.as_ref().is_err_and(|error| elsewhere(error.response_code())) {
        shared.client.note_stale(&route);
    }
    result
}

/// Takes in what a pull brought; answers where to pull on.
async fn take(shared: &Arc<Shared>, assigned: &Arc<AssignedQueue>, asked: i64, answer: Answer<PullResult>) -> i64 {
    let next = answer.header.next_begin_offset;
    match answer.code {
        ResponseCode::SUCCESS => deliver(shared, assigned, answer),
        ResponseCode::PULL_OFFSET_MOVED => {
            tracing::warn!(
                group = %shared.group, queue = %assigned.queue, asked, corrected = next, "offset is outside the queue"
            );
            // Messages in flight belong to what is no more; whatever becomes of them, the corrected offset stands.
            assigned.window().start_at(next);
            if let Err(error) = shared.record(assigned).await {
                tracing::warn!(queue = %assigned.queue, error = &error as &dyn std::error::Error, "offset not recorded");
            }
        }
        // Nothing new, or nothing that matches.
        _ => assigned.window().advance(next),
    }
    next
}

fn deliver(shared: &Arc<Shared>, assigned: &Arc<AssignedQueue>, answer: Answer<PullResult>) {
    let queue = &assigned.queue;
    let Answer { header, body, .. } = answer;
    let mut messages = Vec::with_capacity(usize::try_from(shared.config.pull_batch).unwrap_or_default().min(64));
    for record in decode_records(body, &queue.topic, &queue.broker_name, DecodeLimits::default()) {
        match record {
            Ok(mut message) => {
                if let Some(delta) = header.offset_delta {
                    message.add_offset(delta);
                }
                message.set_queue_id(queue.queue_id);
                if wants(&assigned.subscription, &message) {
                    messages.push(message);
                }
            }
            Err(corrupt) => tracing::error!(
                group = %shared.group, %queue, error = &corrupt as &dyn std::error::Error,
                "a message is corrupt and is passed over"
            ),
        }
    }
    let mut window = assigned.window();
    let epoch = window.epoch();
    messages.retain(|message| window.insert(message.queue_offset(), message.body().len()));
    window.advance(header.next_begin_offset);
    drop(window);
    shared.dispatcher.push(assigned.clone(), epoch, messages);
}

/// Where to begin in a queue.
///
/// # Protocol
/// Java: `RebalancePushImpl.computePullFromWhereWithException`.
async fn start_offset(shared: &Shared, queue: &MessageQueue) -> Result<i64, Error> {
    let client = &shared.client;
    if let Some(recorded) = client.consumer_offset(&shared.group, queue).await? {
        return Ok(recorded);
    }
    match shared.config.start_at {
        StartAt::Last if is_retry_topic(&queue.topic) => Ok(0),
        StartAt::Last => client.max_offset(queue).await,
        StartAt::First => client.min_offset(queue).await.map(|offset| offset.max(0)),
        StartAt::Timestamp(_) if is_retry_topic(&queue.topic) => client.max_offset(queue).await,
        StartAt::Timestamp(time) => client.offset_at(queue, time).await,
    }
}

/// How much longer than the long poll an answer may take.
const PULL_GRACE: Duration = Duration::from_secs(15);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
