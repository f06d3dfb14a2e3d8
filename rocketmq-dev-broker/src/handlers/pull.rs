//! Reading messages, at once or when there are some. Java: `PullMessageProcessor`.

use super::{Asked, Outcome, Refusal};
use crate::{
    broker::Broker,
    filter::TagFilter,
    holds::Wait,
    log::{Read, ReadStatus},
};
use rocketmq_common::{
    message::names::check_topic,
    protocol::{ExpressionType, Permission, PullMessage, PullResult, PullSysFlag},
};
use rocketmq_remote::{Command, ResponseCode};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A pull that may be tried again.
#[derive(Debug)]
pub(crate) struct Pull {
    topic: Arc<str>,
    queue_id: i32,
    offset: i64,
    max_messages: i32,
    filter: TagFilter,
}

pub(super) fn pull(broker: &Broker, asked: Asked) {
    let header: PullMessage = match asked.incoming.header() {
        Ok(header) => header,
        Err(error) => return asked.answer(Err(error.into())),
    };
    let filter = match check(broker, &header).and_then(|()| filter(broker, &header)) {
        Ok(filter) => filter,
        Err(refusal) => return asked.answer(Err(refusal)),
    };
    if header.sys_flag & PullSysFlag::COMMIT != 0 {
        broker.offsets().set(&header.consumer_group, &header.topic, header.queue_id, header.commit_offset);
    }
    let pull = Pull {
        topic: header.topic,
        queue_id: header.queue_id,
        offset: header.queue_offset,
        max_messages: header.max_messages,
        filter,
    };
    let may_hold = header.sys_flag & PullSysFlag::SUSPEND != 0;
    let mut store = broker.store();
    let read = store.log.read(&pull.topic, pull.queue_id, pull.offset, pull.max_messages, &pull.filter);
    if !may_hold || code_of(&read, pull.offset) != ResponseCode::PULL_NOT_FOUND {
        drop(store);
        return asked.answer(reply(read, pull.offset));
    }
    if store.holds.len() >= MAX_HELD {
        drop(store);
        return asked.answer(Err(Refusal::new(ResponseCode::SYSTEM_BUSY, "too many pulls are held")));
    }
    let suspend = Duration::from_millis(u64::try_from(header.suspend_timeout_ms).unwrap_or(0)).min(MAX_SUSPEND);
    let wait = Wait {
        topic: pull.topic.clone(),
        queue_id: pull.queue_id,
        filter: pull.filter.clone(),
        deadline: Instant::now() + suspend,
        connection: asked.incoming.connection_id(),
    };
    let earliest = store.holds.insert(wait, (asked, pull));
    drop(store);
    if earliest {
        broker.wake_timer();
    }
}

/// Answers a pull with what there is now.
pub(crate) fn answer_now(broker: &Broker, asked: Asked, pull: &Pull) {
    let read = broker.store().log.read(&pull.topic, pull.queue_id, pull.offset, pull.max_messages, &pull.filter);
    asked.answer(reply(read, pull.offset));
}

/// Whether the queue can be read at all.
fn check(broker: &Broker, header: &PullMessage) -> Result<(), Refusal> {
    super::send_back::check_group(&header.consumer_group)?;
    let Some(config) = broker.store().log.topic(&header.topic) else {
        let remark = match check_topic(&header.topic) {
            Ok(()) => format!("topic[{}] not exist, apply first please!", header.topic),
            Err(error) => error.to_string(),
        };
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    };
    if broker.has_moved(&header.topic, header.queue_id) {
        return Err(Refusal::moved(&header.topic, header.queue_id, &broker.name));
    }
    if !Permission::is_readable(config.perm) {
        let remark = format!("the topic[{}] pulling message is forbidden", header.topic);
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, remark));
    }
    if header.queue_id < 0 || header.queue_id >= config.read_queues {
        let remark = format!(
            "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}]",
            header.queue_id, header.topic, config.read_queues
        );
        return Err(Refusal::new(ResponseCode::INVALID_PARAMETER, remark));
    }
    Ok(())
}

/// The filter that came along, or the one of the group's heartbeats.
fn filter(broker: &Broker, header: &PullMessage) -> Result<TagFilter, Refusal> {
    if header.sys_flag & PullSysFlag::SUBSCRIPTION != 0 {
        let expression = header.subscription.as_deref().unwrap_or_default();
        let filter = match header.expression_type.as_deref() {
            None | Some(TAG) => TagFilter::parse(expression),
            // Java takes an empty type for tags and computes no hash of any.
            Some("") => TagFilter::parse(expression).map(|filter| match filter {
                TagFilter::All => filter,
                TagFilter::OneOf(_) => TagFilter::OneOf([].into()),
            }),
            Some(other) => return Err(no_sql(other)),
        };
        return filter.ok_or_else(|| {
            Refusal::new(ResponseCode::SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed")
        });
    }
    let groups = broker.groups();
    let Some(subscription) = groups.subscription(&header.consumer_group, &header.topic) else {
        return Err(Refusal::new(ResponseCode::SUBSCRIPTION_NOT_EXIST, "the consumer's group info not exist"));
    };
    let Some(subscription) = subscription else {
        return Err(Refusal::new(ResponseCode::SUBSCRIPTION_NOT_EXIST, "the consumer's subscription not exist"));
    };
    if subscription.version < header.sub_version {
        return Err(Refusal::new(ResponseCode::SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest"));
    }
    match subscription.expression_type {
        ExpressionType::Tag => Ok(subscription.filter.clone()),
        other => Err(no_sql(other.name())),
    }
}

/// A broker filters by SQL only where it is set up to (`enablePropertyFilter`), which it is not by default.
pub(super) fn no_sql(expression_type: &str) -> Refusal {
    let remark = format!("The broker does not support consumer to filter message by {expression_type}");
    Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
}

fn code_of(read: &Read, asked_offset: i64) -> ResponseCode {
    match read.status {
        ReadStatus::Found => ResponseCode::SUCCESS,
        ReadStatus::NoMatchedMessage => ResponseCode::PULL_RETRY_IMMEDIATELY,
        ReadStatus::NoMessageInQueue | ReadStatus::NoMatchedLogicQueue if asked_offset == 0 => {
            ResponseCode::PULL_NOT_FOUND
        }
        ReadStatus::OffsetOverflowOne => ResponseCode::PULL_NOT_FOUND,
        _ => ResponseCode::PULL_OFFSET_MOVED,
    }
}

fn reply(read: Read, asked_offset: i64) -> Outcome {
    let header = PullResult {
        suggested_broker_id: 0,
        next_begin_offset: read.next_offset,
        min_offset: read.min_offset,
        max_offset: read.max_offset,
        offset_delta: None,
    };
    let mut command = Command::response(0, code_of(&read, asked_offset)).with_header(&header);
    command.fields.push("topicSysFlag", "0");
    command.fields.push("groupSysFlag", "0");
    Ok(command.with_remark(read.status.name()).with_body(read.body))
}

/// The name of [`ExpressionType::Tag`].
const TAG: &str = "TAG";
/// A client may not make the broker wait for ever.
const MAX_SUSPEND: Duration = Duration::from_secs(3600);
/// Java: `maxPullRequestSize` of queues that wait, roughly.
const MAX_HELD: usize = 1 << 17;
