use crate::{
    Error, Filter,
    decode::PulledRecords,
    fetch::tell_filter,
    member::Member,
    pull_from::pull_from,
    source::Sources,
    subscriptions::{now_ms, parse_one},
};
use rocketmq_common::{
    MessageQueue, StoredMessage,
    protocol::{PullMessage, PullSysFlag},
    remote::{Deadline, ResponseCode},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// What one pull has brought.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pulled {
    /// The messages, in the order of the queue.
    pub messages: Vec<StoredMessage>,
    /// Whether there were any, and if not why.
    pub status: PullStatus,
    /// Where to pull on.
    pub next_offset: i64,
    /// The first offset the queue still holds.
    pub min_offset: i64,
    /// The next offset to be written in the queue.
    pub max_offset: i64,
}

/// How a pull ended. Java: `PullStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullStatus {
    /// There are messages, unless the filter lets none of them pass.
    Found,
    /// The queue has none from this offset on.
    NoNewMessage,
    /// There are some, and none that the filter lets pass.
    NoMatchedMessage,
    /// The offset lies outside of the queue: [`next_offset`](Pulled::next_offset) does not.
    OffsetIllegal,
}

/// Pulls once from a queue, by the name the wire knows.
pub(crate) async fn pull_once(
    member: &Member,
    sources: &Sources,
    queue: MessageQueue,
    offset: i64,
    max: i32,
    wait: Duration,
) -> Result<Pulled, Error> {
    if member.stopped.is_cancelled() {
        return Err(Error::ShutDown);
    }
    let invalid = |option, message| Err(rocketmq_common::Error::Config { option, message }.into());
    if offset < 0 {
        return invalid("offset", "is below 0");
    }
    if !(1..=1024).contains(&max) {
        return invalid("max", "is not from 1 to 1024");
    }
    let subscription = match member.subscriptions().get(&queue.topic) {
        Some(known) => known.clone(),
        None => Arc::new(parse_one(&queue.topic, &Filter::all(), now_ms())?),
    };
    let client = &member.client;
    let route = client.route(&queue.topic).await.map_err(|error| client.namespace().strip_error(error))?;
    let mut request = PullMessage {
        consumer_group: member.group.clone(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        queue_offset: offset,
        max_messages: max,
        sys_flag: if wait.is_zero() { 0 } else { PullSysFlag::SUSPEND },
        commit_offset: 0,
        suspend_timeout_ms: i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
        subscription: None,
        sub_version: subscription.sub_version,
        expression_type: Some(subscription.expression_type.name().into()),
        max_bytes: None,
        broker_name: Some(route.broker_of(&queue).clone()),
    };
    tell_filter(&mut request, &subscription);
    let deadline = Deadline::after(wait.saturating_add(client.config().request_timeout).saturating_add(SCAN));
    let ask = async |request: &PullMessage| {
        let mut source = sources.of(&queue);
        let answer = tokio::select! {
            biased;
            () = member.stopped.cancelled() => return Err(Error::ShutDown),
            answer = pull_from(&mut source, client, &route, &queue, request, deadline) => answer,
        };
        sources.keep(&queue, source, Instant::now());
        Ok(answer?)
    };
    let mut answer = ask(&request).await?;
    let status = match answer.code {
        ResponseCode::SUCCESS => PullStatus::Found,
        ResponseCode::PULL_NOT_FOUND => PullStatus::NoNewMessage,
        ResponseCode::PULL_RETRY_IMMEDIATELY => PullStatus::NoMatchedMessage,
        _ => PullStatus::OffsetIllegal,
    };
    let (mut messages, mut next_offset) = (Vec::new(), answer.header.next_begin_offset);
    if status == PullStatus::Found {
        let mut records = PulledRecords::read(&queue, &subscription, offset, max, &answer);
        if records.is_cut && records.len() == 0 {
            // The next record is malformed. Only alone it is known where it ends.
            let offset = records.next_offset();
            request = PullMessage {
                queue_offset: offset,
                max_messages: 1,
                sys_flag: request.sys_flag & !PullSysFlag::SUSPEND,
                ..request
            };
            answer = ask(&request).await?;
            records = PulledRecords::read(&queue, &subscription, offset, 1, &answer);
        }
        let config = &member.config;
        messages = records.take_within(config.max_bytes_per_queue, config.max_body_bytes).await;
        next_offset = records.next_offset();
        if let Some(at) = messages.iter().position(|message| message.decode_error().is_some()) {
            match member.undecodable(&queue, &messages[at]) {
                Some(error) if at == 0 => return Err(error),
                _ => next_offset = messages[at].queue_offset(),
            }
            messages.truncate(at);
        }
        messages.retain(|message| member.passes_filter(message));
    }
    Ok(Pulled {
        messages: messages.iter().map(|message| member.as_the_user_sees_it(message)).collect(),
        status,
        next_offset,
        min_offset: answer.header.min_offset,
        max_offset: answer.header.max_offset,
    })
}

/// A broker looks every 5 s which of the pulls it holds have waited for long enough.
const SCAN: Duration = Duration::from_secs(5);
