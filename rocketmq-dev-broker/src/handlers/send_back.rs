//! Messages that a consumer gives back. Java: `AbstractSendMessageProcessor`.

use super::{Asked, Outcome, Refusal, done};
use crate::{
    broker::{Broker, Woken},
    handlers::send::{NewMessage, store},
    log::TopicConfig,
    record::Stored,
};
use rocketmq_common::{
    message::{
        OffsetId,
        names::{self, dlq_topic, retry_topic},
        properties::{Properties, property},
    },
    protocol::SendBack,
};
use rocketmq_remote::{Incoming, ResponseCode};

pub(super) fn send_back(broker: &Broker, asked: Asked) {
    let mut woken = Woken::default();
    let outcome = give_back(broker, &asked.incoming, &mut woken);
    asked.answer(outcome);
    broker.settle(woken);
}

fn give_back(broker: &Broker, incoming: &Incoming, woken: &mut Woken) -> Outcome {
    let header: SendBack = incoming.header()?;
    check_group(&header.group)?;
    let retry = retry_topic(&header.group);
    ensure_topic(broker, &retry);
    let not_found = || {
        let remark = format!("look message by offset failed, {}", header.commit_log_offset);
        Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
    };
    let record = broker.store().log.record_at(header.commit_log_offset).ok_or_else(not_found)?;
    let stored = Stored::read(&record).ok_or_else(not_found)?;
    let mut properties = Properties::from(stored.properties.to_owned());
    if properties.get(property::RETRY_TOPIC).is_none() {
        properties.set(property::RETRY_TOPIC, stored.topic);
    }
    if properties.get(property::ORIGIN_MESSAGE_ID).is_none() {
        let id = OffsetId { host: broker.addr, commit_log_offset: stored.place };
        properties.set(property::ORIGIN_MESSAGE_ID, &id.to_string());
    }
    properties.set(property::WAIT, "false");
    let limit = retry_limit(incoming, header.max_reconsume_times);
    let is_dead = stored.reconsume_times >= limit || header.delay_level < 0;
    let topic = if is_dead { dlq_topic(&header.group) } else { retry };
    if is_dead {
        ensure_topic(broker, &topic);
        properties.set(property::DELAY, "0");
    } else {
        let level = match header.delay_level {
            0 => stored.reconsume_times.saturating_add(3),
            level => level,
        };
        properties.set(property::DELAY, &level.to_string());
    }
    let message = NewMessage {
        topic: &topic,
        queue_id: 0,
        flag: stored.flag,
        sys_flag: stored.sys_flag,
        born_ms: stored.born_ms,
        born_host: stored.born_host,
        reconsume_times: stored.reconsume_times.saturating_add(1),
        prepared_offset: 0,
        body: stored.body,
        properties: properties.into_string(),
    };
    store(broker, message, woken)?;
    Ok(done())
}

/// How often a message may be consumed in vain: what the client says, or the group's default.
pub(super) fn retry_limit(incoming: &Incoming, of_client: Option<i32>) -> i32 {
    match of_client {
        Some(limit) if incoming.command().version >= VERSION_3_4_9 => limit,
        _ => RETRY_MAX_TIMES,
    }
}

/// Refuses a group that cannot exist. Any other comes to be when it is first used (`autoCreateSubscriptionGroup`).
pub(super) fn check_group(group: &str) -> Result<(), Refusal> {
    names::check_group(group).map_err(|_| {
        let remark = format!("subscription group [{group}] does not exist");
        Refusal::new(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
    })
}

/// Creates a retry or dead letter topic unless it is there: one queue, read and written.
pub(crate) fn ensure_topic(broker: &Broker, topic: &str) {
    ensure_topic_as(broker, topic, TopicConfig::new(1));
}

/// Creates a topic unless it is there.
pub(super) fn ensure_topic_as(broker: &Broker, topic: &str, config: TopicConfig) {
    let mut store = broker.store();
    if store.log.topic(topic).is_none() {
        store.log.set_topic(topic, config);
    }
}

/// Java's `SubscriptionGroupConfig`.
const RETRY_MAX_TIMES: i32 = 16;
/// As Java numbers its releases; older clients do not know about limits.
const VERSION_3_4_9: i32 = 121;
