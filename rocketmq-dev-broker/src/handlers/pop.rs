//! Messages that are taken for a while. Java: `PopMessageProcessor`, `NotificationProcessor`.

mod settle;

pub(super) use settle::{ack, batch_ack, change};

use super::{Asked, Refusal, done, pull::no_sql, send_back::check_group};
use crate::{
    broker::{Broker, Store},
    filter::TagFilter,
    holds::Wait,
    log::{ReadStatus, TopicConfig},
    pops::{Delivery, QueueOfGroup},
    record::{self, Stored},
};
use bytes::{Bytes, BytesMut};
use rocketmq_common::{
    message::{
        Record,
        names::RETRY_PREFIX,
        properties::{Properties, property},
    },
    pop::{PopSource, ReceiptHandle},
    protocol::{Notice, Notification, Permission, PopHead, PopMessage},
    random::random_below,
};
use rocketmq_remote::{Command, ResponseCode};
use std::{
    fmt::Write,
    sync::{Arc, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// A pop, or a wait for messages, that may be tried again.
#[derive(Debug)]
pub(crate) struct Waiting {
    wish: Wish,
    deadline: Instant,
}

#[derive(Debug)]
enum Wish {
    Messages { request: PopMessage, filter: TagFilter },
    Notice(Notification),
}

pub(super) fn pop(broker: &Broker, asked: Asked) {
    let request: PopMessage = match asked.incoming.header() {
        Ok(header) => header,
        Err(error) => return asked.answer(Err(error.into())),
    };
    let checked = check(broker, &request.consumer_group, &request.topic, request.queue_id);
    let filter = match checked.and_then(|()| filter(&request)) {
        Ok(filter) => filter,
        // A refusal of a pop carries the fields of its success.
        Err(refusal) => {
            let head = PopHead { start_offsets: None, message_offsets: None, order_counts: None, ..no_head(0, 0, 0) };
            return asked.answer(Ok(refusal.into_command().with_header(&head)));
        }
    };
    begin(broker, asked, request.poll_time_ms, Wish::Messages { request, filter });
}

pub(super) fn notify(broker: &Broker, asked: Asked) {
    let request: Notification = match asked.incoming.header() {
        Ok(header) => header,
        Err(error) => return asked.answer(Err(error.into())),
    };
    match check(broker, &request.consumer_group, &request.topic, request.queue_id) {
        Ok(()) => begin(broker, asked, request.poll_time_ms, Wish::Notice(request)),
        Err(refusal) => asked.answer(Err(refusal)),
    }
}

fn begin(broker: &Broker, asked: Asked, poll_time_ms: i64, wish: Wish) {
    let poll = Duration::from_millis(u64::try_from(poll_time_ms).unwrap_or(0)).min(LONGEST_POLL);
    answer_or_hold(broker, asked, Waiting { wish, deadline: Instant::now() + poll });
}

/// Answers with what there is now, or holds the request until there is something.
pub(crate) fn answer_or_hold(broker: &Broker, asked: Asked, waiting: Waiting) {
    let places = places(broker, &waiting.wish);
    let (now_ms, revive_queue_id) = (broker.clock.now_ms(), random_queue(REVIVE_QUEUES));
    let mut store = broker.store();
    let (answer, came_to) = match &waiting.wish {
        Wish::Messages { request, filter } => {
            let mut taken = Taken { revive_queue_id, ..Taken::default() };
            let has_room = store.pops.has_room();
            for place in places.iter().filter(|_| has_room) {
                taken.take(&mut store, request, filter, place, now_ms, &broker.name);
            }
            (taken.answer(request, now_ms), taken.came_to)
        }
        Wish::Notice(request) => {
            let has_messages = places.iter().any(|place| has_messages(&store, request, place, now_ms));
            (has_messages.then(|| notice(true, false)), Vec::new())
        }
    };
    // Under the lock: of two pops at once the one that comes further records last.
    for (queue, offset) in came_to {
        broker.offsets().set(&queue.group, &queue.topic, queue.queue_id, offset);
    }
    match answer {
        Some(answer) => {
            drop(store);
            asked.answer(Ok(answer));
        }
        None => hold_or_end(store, asked, waiting, now_ms, revive_queue_id),
    }
    // Something may be hidden, or held, that ends before all else.
    broker.wake_timer();
}

/// Under the lock under which nothing was found, so that no message slips past.
fn hold_or_end(mut store: MutexGuard<'_, Store>, asked: Asked, waiting: Waiting, now_ms: i64, revive_queue_id: i32) {
    let is_full = store.pop_holds.len() >= MAX_HELD;
    if waiting.deadline <= Instant::now() || is_full {
        drop(store);
        return asked.answer(Ok(nothing(&waiting.wish, is_full, now_ms, revive_queue_id)));
    }
    let wait = Wait {
        topic: waiting.wish.topic().clone(),
        queue_id: ANY_QUEUE,
        filter: waiting.wish.filter(),
        deadline: waiting.deadline,
        connection: asked.incoming.connection_id(),
    };
    store.pop_holds.insert(wait, (asked, waiting));
}

/// The time of a request that was held is over.
pub(crate) fn answer_nothing(broker: &Broker, asked: Asked, waiting: &Waiting) {
    let revive_queue_id = random_queue(REVIVE_QUEUES);
    asked.answer(Ok(nothing(&waiting.wish, false, broker.clock.now_ms(), revive_queue_id)));
}

fn nothing(wish: &Wish, is_full: bool, now_ms: i64, revive_queue_id: i32) -> Command {
    let Wish::Messages { request, .. } = wish else { return notice(false, is_full) };
    let code = if is_full { ResponseCode::POLLING_FULL } else { ResponseCode::POLLING_TIMEOUT };
    let is_ordered = request.order == Some(true);
    let head = PopHead {
        order_counts: is_ordered.then(String::new),
        ..no_head(now_ms, request.invisible_time_ms, if is_ordered { ReceiptHandle::ORDERED } else { revive_queue_id })
    };
    Command::response(0, code).with_header(&head).with_remark(ReadStatus::NoMessageInQueue.name())
}

fn no_head(pop_time_ms: i64, invisible_time_ms: i64, revive_queue_id: i32) -> PopHead {
    PopHead {
        pop_time_ms,
        invisible_time_ms,
        revive_queue_id,
        rest: Some(0),
        start_offsets: Some(String::new()),
        message_offsets: Some(String::new()),
        order_counts: None,
    }
}

fn notice(has_messages: bool, is_full: bool) -> Command {
    let head = Notice { has_messages: Some(has_messages), is_full: Some(is_full) };
    done().with_header(&head).with_remark(NOT_SET)
}

impl Wish {
    fn topic(&self) -> &Arc<str> {
        match self {
            Self::Messages { request, .. } => &request.topic,
            Self::Notice(request) => &request.topic,
        }
    }

    /// A notice is given for whatever comes.
    fn filter(&self) -> TagFilter {
        match self {
            Self::Messages { filter, .. } => filter.clone(),
            Self::Notice(_) => TagFilter::All,
        }
    }
}

/// Whether the group may pop from the topic at all.
fn check(broker: &Broker, group: &str, topic: &str, queue_id: i32) -> Result<(), Refusal> {
    let Some(config) = broker.store().log.topic(topic) else { return Err(no_topic(topic)) };
    if !Permission::is_readable(config.perm) {
        let remark = format!("the topic[{topic}] peeking message is forbidden");
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, remark));
    }
    if queue_id >= config.read_queues {
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, no_queue(topic, queue_id, config)));
    }
    check_group(group)
}

fn no_topic(topic: &str) -> Refusal {
    Refusal::new(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist, apply first please!"))
}

fn no_queue(topic: &str, queue_id: i32, config: TopicConfig) -> String {
    format!("queueId[{queue_id}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{}]", config.read_queues)
}

fn filter(request: &PopMessage) -> Result<TagFilter, Refusal> {
    if request.max_messages > MOST_MESSAGES {
        let remark = format!("the broker[127.0.0.1] pop message's num is greater than {MOST_MESSAGES}");
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    match request.expression_type.as_deref() {
        None | Some("" | "TAG") => {}
        Some(other) => return Err(no_sql(other)),
    }
    TagFilter::parse(request.expression.as_deref().unwrap_or_default()).ok_or_else(|| {
        Refusal::new(ResponseCode::SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed")
    })
}

/// A queue to look into, and where the group has recorded that it is.
struct PopPlace {
    queue: QueueOfGroup,
    source: PopSource,
    recorded: Option<i64>,
}

/// The queues of the topic and of the group's retry topics for it, in the order in which they are looked into: any of them
/// may come first, and now and then the retry topics do.
fn places(broker: &Broker, wish: &Wish) -> Vec<PopPlace> {
    let (group, topic, queue_id, with_retries) = match wish {
        Wish::Messages { request, .. } => {
            (&request.consumer_group, &request.topic, request.queue_id, request.order != Some(true))
        }
        Wish::Notice(request) => (&request.consumer_group, &request.topic, request.queue_id, true),
    };
    let own = if broker.config.retry_topics_v2 { PopSource::RetryV2 } else { PopSource::RetryV1 };
    let retries = [own, PopSource::RetryV1];
    let retries = if own == PopSource::RetryV1 { &retries[..1] } else { &retries[..] };
    let mut sources = vec![PopSource::Topic];
    if with_retries {
        sources.extend(retries);
    }
    if with_retries && random_queue(RETRIES_FIRST) == 0 {
        sources.rotate_left(1);
    }
    let mut places = Vec::new();
    for source in sources {
        let real: Arc<str> = source.real_topic(topic, group);
        let Some(config) = broker.store().log.topic(&real) else { continue };
        let first = random_queue(config.read_queues);
        let queues = match source {
            PopSource::Topic if queue_id >= 0 => queue_id..queue_id + 1,
            _ => 0..config.read_queues,
        };
        let turned = queues.clone().map(|id| if queues.len() > 1 { (id + first) % config.read_queues } else { id });
        places.extend(turned.map(|queue_id| PopPlace {
            queue: QueueOfGroup { group: group.clone(), topic: real.clone(), queue_id },
            source,
            recorded: None,
        }));
    }
    let offsets = broker.offsets();
    for place in &mut places {
        let QueueOfGroup { group, topic, queue_id } = &place.queue;
        place.recorded = offsets.get(group, topic, *queue_id);
    }
    places
}

/// As Java does it: by chance, so that no queue starves.
fn random_queue(queues: i32) -> i32 {
    let below = random_below(usize::try_from(queues).unwrap_or(0));
    i32::try_from(below).unwrap_or(0)
}

impl PopPlace {
    /// Where to pop from. A new group begins at the first message, or at the last.
    fn start(&self, store: &Store, init_mode: i32) -> i64 {
        let known = store.pops.next(&self.queue).max(self.recorded).filter(|offset| *offset >= 0);
        let (min, max) = store.log.bounds(&self.queue.topic, self.queue.queue_id).unwrap_or_default();
        known.unwrap_or(match init_mode {
            // All there is lies in memory, and then the first message is as good as the last.
            _ if self.source != PopSource::Topic || init_mode == 0 || min <= 0 => min,
            _ => (max - 1).max(min),
        })
    }
}

/// Whether there is anything to pop.
fn has_messages(store: &Store, request: &Notification, place: &PopPlace, now_ms: i64) -> bool {
    let is_blocked =
        request.order == Some(true) && store.pops.is_blocked(&place.queue, request.attempt_id.as_deref(), now_ms);
    let max = store.log.bounds(&place.queue.topic, place.queue.queue_id).map_or(0, |(_, max)| max);
    !is_blocked && place.start(store, 0) < max
}

/// What one pop has gathered.
#[derive(Default)]
struct Taken {
    revive_queue_id: i32,
    records: Vec<Bytes>,
    start_offsets: String,
    message_offsets: String,
    order_counts: String,
    rest: i64,
    /// Where the group is now, of queues that it has moved in.
    came_to: Vec<(QueueOfGroup, i64)>,
}

impl Taken {
    /// Takes what a queue has, up to what was asked for.
    fn take(
        &mut self,
        store: &mut Store,
        request: &PopMessage,
        filter: &TagFilter,
        place: &PopPlace,
        now_ms: i64,
        broker_name: &Arc<str>,
    ) {
        let queue = &place.queue;
        let (is_ordered, attempt_id) = (request.order == Some(true), request.attempt_id.as_deref());
        let room = request.max_messages - i32::try_from(self.records.len()).unwrap_or(i32::MAX);
        if is_ordered && store.pops.is_blocked(queue, attempt_id, now_ms) {
            return;
        }
        let mut start = place.start(store, request.init_mode);
        let mut read = store.log.read(&queue.topic, queue.queue_id, start, room, filter);
        if matches!(read.status, ReadStatus::OffsetTooSmall | ReadStatus::OffsetOverflowBadly) {
            start = read.next_offset;
            read = store.log.read(&queue.topic, queue.queue_id, start, room, filter);
        }
        if room <= 0 {
            self.rest += read.max_offset - start;
            return;
        }
        self.rest += read.max_offset - read.next_offset;
        if read.status == ReadStatus::NoMatchedMessage {
            store.pops.advance(queue, read.next_offset);
            self.came_to.push((queue.clone(), read.next_offset));
        }
        if read.status != ReadStatus::Found {
            return;
        }
        let until_ms = now_ms.saturating_add(request.invisible_time_ms);
        let records: Vec<Bytes> = record::split(&read.body).collect();
        let offsets: Vec<i64> = records.iter().map(|record| record::queue_offset(record)).collect();
        let flag = place.source.flag();
        let list = |offsets: &[i64]| offsets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        append(&mut self.start_offsets, format_args!("{flag} {} {start}", queue.queue_id));
        append(&mut self.message_offsets, format_args!("{flag} {} {}", queue.queue_id, list(&offsets)));
        if is_ordered {
            let counts = store.pops.order(queue, &offsets, attempt_id, now_ms, until_ms);
            store.pops.advance(queue, start);
            for (offset, count) in offsets.iter().zip(&counts).filter(|(_, count)| **count > 0) {
                append(&mut self.order_counts, format_args!("{flag} qo{}%{offset} {count}", queue.queue_id));
            }
            let least = counts.iter().min().copied().unwrap_or(0);
            append(&mut self.order_counts, format_args!("{flag} {} {least}", queue.queue_id));
            self.came_to.push((queue.clone(), start));
        } else {
            for offset in &offsets {
                store.pops.hide(queue, Delivery { offset: *offset, pop_time_ms: now_ms }, until_ms);
            }
            store.pops.advance(queue, read.next_offset);
            self.came_to.push((queue.clone(), read.next_offset));
        }
        for (record, offset) in records.into_iter().zip(offsets) {
            let handle = ReceiptHandle {
                start_offset: start,
                pop_time_ms: now_ms,
                invisible_time_ms: request.invisible_time_ms,
                revive_queue_id: self.revive_queue_id,
                source: place.source,
                broker_name: broker_name.clone(),
                queue_id: queue.queue_id,
                offset,
            };
            let original = (place.source != PopSource::Topic).then(|| as_original(&record, &request.topic, &handle));
            self.records.push(original.flatten().unwrap_or(record));
        }
    }

    fn answer(&mut self, request: &PopMessage, now_ms: i64) -> Option<Command> {
        if self.records.is_empty() {
            return None;
        }
        let is_ordered = request.order == Some(true);
        let mut body = BytesMut::with_capacity(self.records.iter().map(Bytes::len).sum());
        self.records.iter().for_each(|record| body.extend_from_slice(record));
        let head = PopHead {
            pop_time_ms: now_ms,
            invisible_time_ms: request.invisible_time_ms,
            revive_queue_id: if is_ordered { ReceiptHandle::ORDERED } else { self.revive_queue_id },
            rest: Some(self.rest),
            start_offsets: Some(std::mem::take(&mut self.start_offsets)),
            message_offsets: Some(std::mem::take(&mut self.message_offsets)),
            order_counts: is_ordered.then(|| std::mem::take(&mut self.order_counts)),
        };
        Some(done().with_header(&head).with_remark(ReadStatus::Found.name()).with_body(body.freeze()))
    }
}

/// Appends an entry to an offset info.
fn append(info: &mut String, entry: std::fmt::Arguments<'_>) {
    if !info.is_empty() {
        info.push(';');
    }
    // Writing to a string does not fail.
    let _ = info.write_fmt(entry);
}

/// A message of a retry topic under the topic it was sent to, with its handle.
fn as_original(record: &Bytes, topic: &str, handle: &ReceiptHandle) -> Option<Bytes> {
    let stored = Stored::read(record)?;
    let mut properties = Properties::from(stored.properties.to_owned());
    properties.set(property::POP_CK, &handle.to_string());
    let mut bytes = BytesMut::new();
    let copy = Record {
        topic,
        queue_id: handle.queue_id,
        queue_offset: handle.offset,
        commit_log_offset: stored.place,
        properties: properties.as_str(),
        ..stored.anew()
    };
    copy.encode(&mut bytes).ok()?;
    Some(bytes.freeze())
}

/// The topic whose pops look into a retry topic of a group.
pub(crate) fn original_topic<'a>(topic: &'a str, group: &str) -> &'a str {
    let rest = topic.strip_prefix(RETRY_PREFIX).and_then(|rest| rest.strip_prefix(group));
    rest.and_then(|rest| rest.strip_prefix(['_', '+'])).unwrap_or(topic)
}

/// What holds are filed under: a pop waits for any queue.
pub(crate) const ANY_QUEUE: i32 = -1;
/// Java: `PopMessageProcessor` refuses more.
const MOST_MESSAGES: i32 = 32;
/// One pop in so many looks into the retry topics first. Java: `popFromRetryProbability`, 20 in 100.
const RETRIES_FIRST: i32 = 5;
/// Java: `reviveQueueNum`.
const REVIVE_QUEUES: i32 = 8;
/// What Java's answers say where nobody has set a remark.
const NOT_SET: &str = "not set any response code";
/// A client may not make the broker wait for ever.
const LONGEST_POLL: Duration = Duration::from_secs(3600);
/// Java: `maxPopPollingSize`.
const MAX_HELD: usize = 100_000;
