//! Storing messages. Java: `SendMessageProcessor`.

mod properties;

use super::{
    Asked, Outcome, Refusal, done,
    send_back::{check_group, ensure_topic, retry_limit},
};
use crate::{
    broker::{Broker, CLUSTER, Woken},
    filter::tag_hash,
    halves::Half,
    log::{AppendError, Appended, NewRecord, TopicConfig},
    protocol::SendMessageV1,
    timers::{self, Handle, TIMER_TOPIC},
};
use bytes::BytesMut;
use properties::Facts;
use rocketmq_common::{
    message::{
        OffsetId, Record, decode_batch,
        names::{self, HALF_TOPIC, RETRY_PREFIX, SCHEDULE_TOPIC, dlq_topic},
        properties::{Properties, lookup, property},
    },
    protocol::{Permission, SendMessage, Stored, sys_flag},
};
use rocketmq_remote::{Incoming, RequestCode, ResponseCode};
use std::net::SocketAddr;
use tokio::time::Instant;

pub(super) fn send(broker: &Broker, asked: Asked) {
    let mut woken = Woken::default();
    let outcome = store_sent(broker, &asked.incoming, &mut woken);
    asked.answer(outcome.or_else(with_region));
    broker.settle(woken);
}

/// A refusal of a send carries what its success would, unless something went wrong inside.
fn with_region(refusal: Refusal) -> Outcome {
    if refusal.code == ResponseCode::SYSTEM_ERROR {
        return Err(refusal);
    }
    let mut command = refusal.into_command();
    command.fields.push(property::MSG_REGION, REGION);
    command.fields.push(property::TRACE_ON, "true");
    Ok(command)
}

fn store_sent(broker: &Broker, incoming: &Incoming, woken: &mut Woken) -> Outcome {
    let mut header: SendMessage = match incoming.command().request_code() {
        RequestCode::SEND_MESSAGE => incoming.header::<SendMessageV1>()?.into(),
        _ => incoming.header()?,
    };
    let config = find_topic(broker, &header)?;
    if header.queue_id >= config.read_queues.max(config.write_queues) {
        let remark = format!("request queueId[{}] is illegal, topic {}", header.queue_id, header.topic);
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    if header.queue_id < 0 {
        header.queue_id = broker.any_queue(config.write_queues);
    }
    if broker.has_moved(&header.topic, header.queue_id) {
        return Err(Refusal::moved(&header.topic, header.queue_id, &broker.name));
    }
    if incoming.command().body.is_empty() {
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "the message has no body"));
    }
    if incoming.command().body.len() > broker.config.max_message_bytes {
        return Err(illegal(broker));
    }
    match header.batch {
        Some(true) => store_batch(broker, incoming, &header, woken),
        _ => store_one(broker, incoming, &mut header, woken),
    }
}

/// The topic, created after its template if need be.
pub(super) fn find_topic(broker: &Broker, header: &SendMessage) -> Result<TopicConfig, Refusal> {
    let topic = &*header.topic;
    if let Err(error) = names::check_topic(topic) {
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, error.to_string()));
    }
    if names::is_forbidden_target(topic) {
        let remark = format!("Sending message to topic[{topic}] is forbidden.");
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, remark));
    }
    let mut store = broker.store();
    if let Some(config) = store.log.topic(topic) {
        return Ok(config);
    }
    let template = store.log.topic(&header.default_topic).filter(|config| config.perm & Permission::INHERIT != 0);
    let config = match template {
        Some(template) => {
            let queues = header.default_topic_queue_nums.min(template.write_queues).max(0);
            TopicConfig { perm: template.perm & !Permission::INHERIT, ..TopicConfig::new(queues) }
        }
        None if names::is_retry_topic(topic) => TopicConfig::new(1),
        None => {
            let remark = format!("topic[{topic}] not exist, apply first please!");
            return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
        }
    };
    let config = config.of_unit(header.unit_mode == Some(true), names::is_retry_topic(topic));
    if store.log.set_topic(topic, config) {
        Ok(config)
    } else {
        Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, "the dev broker has no room for more topics"))
    }
}

fn illegal(broker: &Broker) -> Refusal {
    let remark = format!(
        "the message is illegal, maybe msg body or properties length not matched. msg body length limit {}B, msg \
         properties length limit 32KB.",
        broker.config.max_message_bytes
    );
    Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark)
}

/// A message to store, all but its place.
#[derive(Debug)]
pub(super) struct NewMessage<'a> {
    pub(super) topic: &'a str,
    pub(super) queue_id: i32,
    pub(super) flag: i32,
    pub(super) sys_flag: i32,
    pub(super) born_ms: i64,
    pub(super) born_host: SocketAddr,
    pub(super) reconsume_times: i32,
    pub(super) prepared_offset: i64,
    pub(super) body: &'a [u8],
    pub(super) properties: String,
}

fn store_one(broker: &Broker, incoming: &Incoming, header: &mut SendMessage, woken: &mut Woken) -> Outcome {
    let facts = Facts::of(header.properties.take().unwrap_or_default(), CLUSTER);
    let mut message = NewMessage {
        topic: &header.topic,
        queue_id: header.queue_id,
        flag: header.flag,
        sys_flag: header.sys_flag,
        born_ms: header.born_timestamp_ms,
        born_host: incoming.peer().unwrap_or(broker.addr),
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_offset: 0,
        body: &incoming.command().body,
        properties: facts.text,
    };
    let dead_letters;
    if let Some(group) = header.topic.strip_prefix(RETRY_PREFIX) {
        check_group(group)?;
        let limit = retry_limit(incoming, header.max_reconsume_times);
        // A group that consumes in order sends here only what it has given up.
        let in_order = broker.locks().any(group, Instant::now());
        if in_order || message.reconsume_times > limit {
            dead_letters = dlq_topic(group);
            ensure_topic(broker, &dead_letters);
            (message.topic, message.queue_id) = (&dead_letters, 0);
            let mut properties = Properties::from(message.properties);
            properties.set(property::DELAY, "-1");
            message.properties = properties.into_string();
        }
    }
    let (appended, timer_ms) = store(broker, message, woken)?;
    let id = OffsetId { host: broker.addr, commit_log_offset: appended.place };
    let handle = timer_ms.filter(|_| !names::is_retry_topic(&header.topic)).map(|timer_ms| {
        let (topic, broker_name) = (header.topic.to_string(), broker.name.to_string());
        Handle { topic, broker_name, deliver_ms: timer_ms.saturating_add(1), unique_id: facts.unique_id.clone() }
    });
    let handle = handle.map(|handle| handle.to_string());
    Ok(stored(header, id.to_string(), appended, Some(facts.unique_id), handle))
}

/// Stores a message, keeps it until its delay is over, or puts it where half messages are. Answers also when a timer
/// message is due.
pub(super) fn store(
    broker: &Broker,
    message: NewMessage<'_>,
    woken: &mut Woken,
) -> Result<(Appended, Option<i64>), Refusal> {
    let NewMessage { mut topic, mut queue_id, mut properties, .. } = message;
    let is_half = lookup(&properties, property::TRAN_MSG).is_some_and(|half| half.eq_ignore_ascii_case("true"));
    let level = match lookup(&properties, property::DELAY) {
        None => 0,
        Some(level) => level
            .parse()
            .map_err(|_| Refusal::new(ResponseCode::SYSTEM_ERROR, format!("For input string: \"{level}\"")))?,
    };
    let level = i32::min(level, broker.max_delay_level());
    let is_delayed = level > 0 && !is_half;
    let mut sys_flag = message.sys_flag;
    let now_ms = broker.clock.now_ms();
    if is_delayed && timers::is_timer(&properties) {
        properties = timers::without_timer(properties);
    }
    let timer_ms = if is_half { None } else { timers::due_ms(&properties, now_ms).map_err(|_| illegal(broker))? };
    if is_delayed || is_half || timer_ms.is_some() {
        let mut with_target = Properties::from(properties);
        with_target.set(property::REAL_TOPIC, topic);
        with_target.set(property::REAL_QID, &queue_id.to_string());
        if is_half {
            let unique_id = with_target.unique_id().unwrap_or_default().to_owned();
            with_target.set(property::TRANSACTION_ID, &unique_id);
            sys_flag &= !sys_flag::TRANSACTION_ROLLBACK;
            (topic, queue_id) = (HALF_TOPIC, 0);
        } else if let Some(timer_ms) = timer_ms {
            with_target.set(property::TIMER_OUT_MS, &timer_ms.to_string());
            (topic, queue_id) = (TIMER_TOPIC, 0);
        } else {
            with_target.set(property::DELAY, &level.to_string());
            (topic, queue_id) = (SCHEDULE_TOPIC, level - 1);
        }
        properties = with_target.into_string();
    }
    let record = Record {
        topic,
        queue_id,
        queue_offset: 0,
        commit_log_offset: 0,
        flag: message.flag,
        sys_flag,
        born_timestamp_ms: message.born_ms,
        born_host: message.born_host,
        store_timestamp_ms: now_ms,
        store_host: broker.addr,
        reconsume_times: message.reconsume_times,
        prepared_transaction_offset: message.prepared_offset,
        body: message.body,
        properties: &properties,
    };
    let mut bytes = BytesMut::new();
    record.encode(&mut bytes).map_err(|_| illegal(broker))?;
    let tag_hash = tag_hash(lookup(&properties, property::TAGS));
    let mut store = broker.store();
    let appended = store.log.append(topic, queue_id, NewRecord { bytes, tag_hash }, now_ms).map_err(refused)?;
    if is_half {
        let group = lookup(&properties, property::PGROUP).unwrap_or_default();
        store.halves.insert(Half::new(group, appended, now_ms));
    }
    if let Some(timer_ms) = timer_ms {
        store.timers.insert(timer_ms, lookup(&properties, property::UNIQ_KEY).unwrap_or_default(), appended.place);
    }
    if is_delayed || timer_ms.is_some() {
        drop(store);
        broker.wake_timer();
    } else {
        *woken = store.wake(topic, queue_id, tag_hash);
    }
    Ok((appended, timer_ms))
}

fn refused(error: AppendError) -> Refusal {
    match error {
        AppendError::Full => {
            let remark = "service not available now. It may be caused by one of the following reasons: the broker's \
                          disk is full [max_store_bytes of the dev broker]";
            Refusal::new(ResponseCode::SERVICE_NOT_AVAILABLE, remark)
        }
        AppendError::NoQueue => Refusal::new(ResponseCode::SYSTEM_ERROR, "the topic has no such queue"),
    }
}

/// Stores the messages of a batch behind each other; each keeps exactly its own properties, as from 5.4 on.
fn store_batch(broker: &Broker, incoming: &Incoming, header: &SendMessage, woken: &mut Woken) -> Outcome {
    let of_batch = header.properties.as_deref().unwrap_or_default();
    let is_delayed = lookup(of_batch, property::DELAY).is_some_and(|level| level.parse::<i32>().is_ok_and(|l| l > 0));
    if names::is_retry_topic(&header.topic) {
        let remark = format!("batch request does not support retry group {}", header.topic);
        return Err(Refusal::new(ResponseCode::MESSAGE_ILLEGAL, remark));
    }
    if is_delayed || header.sys_flag & sys_flag::TRANSACTION_ROLLBACK != 0 {
        return Err(illegal(broker));
    }
    let now_ms = broker.clock.now_ms();
    let mut records = Vec::new();
    for item in decode_batch(incoming.command().body.clone()) {
        let item = item.map_err(|error| Refusal::new(ResponseCode::SYSTEM_ERROR, error.to_string()))?;
        // Brokers do not look whether it is text: the bytes are taken over, at the end of the record.
        let properties = item.properties_bytes();
        let space = " ".repeat(properties.len());
        let record = Record {
            topic: &header.topic,
            queue_id: header.queue_id,
            queue_offset: 0,
            commit_log_offset: 0,
            flag: item.flag(),
            sys_flag: header.sys_flag,
            born_timestamp_ms: header.born_timestamp_ms,
            born_host: incoming.peer().unwrap_or(broker.addr),
            store_timestamp_ms: now_ms,
            store_host: broker.addr,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_transaction_offset: 0,
            body: item.body(),
            properties: &space,
        };
        let mut bytes = BytesMut::new();
        let size = record.encode(&mut bytes).map_err(|_| illegal(broker))?;
        bytes[size - properties.len()..].copy_from_slice(properties);
        records.push(NewRecord { bytes, tag_hash: tag_hash(item.property(property::TAGS)) });
    }
    let mut ids = String::new();
    let mut first = None;
    let bytes = records.iter().map(|record| record.bytes.len()).sum();
    let mut store = broker.store();
    if !store.log.has_room(bytes) {
        return Err(refused(AppendError::Full));
    }
    for record in records {
        let tag_hash = record.tag_hash;
        let appended = store.log.append(&header.topic, header.queue_id, record, now_ms).map_err(refused)?;
        let of_item = store.wake(&header.topic, header.queue_id, tag_hash);
        woken.held.extend(of_item.held);
        woken.pops.extend(of_item.pops);
        woken.earlier |= of_item.earlier;
        first.get_or_insert(appended);
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(&OffsetId { host: broker.addr, commit_log_offset: appended.place }.to_string());
    }
    drop(store);
    let first = first.ok_or_else(|| Refusal::new(ResponseCode::SYSTEM_ERROR, "the batch is empty"))?;
    let unique_id = lookup(of_batch, property::UNIQ_KEY).map(ToOwned::to_owned);
    Ok(stored(header, ids, first, unique_id, None))
}

fn stored(
    header: &SendMessage,
    offset_id: String,
    at: Appended,
    unique_id: Option<String>,
    recall_handle: Option<String>,
) -> rocketmq_remote::Command {
    done().with_header(&Stored {
        offset_id: Some(offset_id),
        queue_id: header.queue_id,
        queue_offset: at.queue_offset,
        transaction_id: unique_id,
        batch_unique_id: None,
        recall_handle,
        region_id: Some(REGION.to_owned()),
        trace_on: Some("true".to_owned()),
    })
}

/// Java's `BrokerConfig`.
pub(super) const REGION: &str = "DefaultRegion";
