use crate::{StartAt, assigned::AssignedQueue, member::Member, subscription::wants};
use rocketmq_common::{
    Backoff, Error, MessageQueue,
    message::{DecodeLimits, decode_records, names::is_retry_topic},
    protocol::{MASTER_ID, PullMessage, PullResult, PullSysFlag},
    random::random_u64,
    remote::{Answer, Deadline, ResponseCode},
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Fetches the messages of one queue until it is revoked.
pub(crate) async fn fetch(member: Arc<Member>, assigned: Arc<AssignedQueue>, settle: Duration) {
    tokio::select! {
        () = assigned.ended() => {}
        () = fetch_on(&member, &assigned, settle) => {}
    }
}

async fn fetch_on(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, settle: Duration) {
    // The member that had the queue until now may still be recording its last offset.
    sleep(settle).await;
    let mut next = begin(member, assigned, None).await;
    let mut broker_id = MASTER_ID;
    let mut failures = 0;
    loop {
        tokio::select! {
            biased;
            () = assigned.lock_moved() => {
                next = begin(member, assigned, Some(next)).await;
                continue;
            }
            () = ready(member, assigned) => {}
        }
        let answer = tokio::select! {
            biased;
            answer = pull(member, assigned, next, broker_id) => answer,
            // What the broker still answers finds nobody, and is pulled again.
            () = assigned.lock_moved() => continue,
            () = member.suspended() => continue,
        };
        match answer {
            Ok(answer) => {
                failures = 0;
                broker_id = answer.header.suggested_broker_id;
                next = take(member, assigned, next, answer).await;
            }
            Err(error) => {
                broker_id = MASTER_ID;
                member.doubt_lock(assigned);
                if error.response_code().is_some_and(wants_heartbeat) {
                    member.client.heartbeat_soon();
                }
                pause(assigned, &error, &mut failures).await;
            }
        }
    }
}

/// Until there is room for what a pull may bring.
async fn ready(member: &Member, assigned: &AssignedQueue) {
    loop {
        member.resumed().await;
        assigned.wait_for_room().await;
        if !member.is_suspended() {
            return;
        }
    }
}

/// Finds out where the group is in a queue that is ours from now on, or again; answers where to fetch on. What was
/// fetched before still counts, unless another member has been further meanwhile.
async fn begin(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, next: Option<i64>) -> i64 {
    let mut failures = 0;
    loop {
        let tenure = assigned.wait_locked().await;
        let recorded = match next {
            None => start_offset(member, &assigned.queue).await.map(Some),
            Some(_) => member.recorded_offset(&assigned.queue).await,
        };
        let recorded = match recorded {
            Ok(recorded) => recorded,
            Err(error) => {
                pause(assigned, &error, &mut failures).await;
                continue;
            }
        };
        let mut window = assigned.window();
        let known =
            window.commit_offset().zip(next).filter(|(known, _)| recorded.is_none_or(|offset| offset <= *known));
        let from = match (known, recorded) {
            (Some((_, next)), _) => next,
            (None, recorded) => {
                let offset = recorded.or(next).unwrap_or(0);
                window.start_at(offset);
                offset
            }
        };
        drop(window);
        if let Some(order) = &assigned.order {
            if known.is_none() {
                order.clear();
            }
            order.change(|hold| hold.check(tenure));
        }
        tracing::debug!(group = %member.group, queue = %assigned.queue, offset = from, "queue begun");
        return from;
    }
}

/// Whether the broker has lost, or not yet got, the heartbeat that a pull depends on.
fn wants_heartbeat(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::SUBSCRIPTION_NOT_EXIST
            | ResponseCode::SUBSCRIPTION_NOT_LATEST
            | ResponseCode::FILTER_DATA_NOT_EXIST
            | ResponseCode::FILTER_DATA_NOT_LATEST
    )
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
    member: &Member,
    assigned: &AssignedQueue,
    offset: i64,
    broker_id: i64,
) -> Result<Answer<PullResult>, Error> {
    let queue = &assigned.queue;
    let long_poll = member.config.long_poll;
    let not_found = || Error::BrokerNotFound { broker_name: queue.broker_name.clone() };
    let route = member.client.known_route(&queue.topic).ok_or_else(not_found)?;
    let broker_name = route.broker_of(queue);
    let request = PullMessage {
        consumer_group: member.group.clone(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        queue_offset: offset,
        max_messages: member.config.pull_batch,
        // The group's offset does not go along with a pull: brokers serve pulls and offset updates on different
        // threads, so it could overtake, and undo, the last one that is recorded at a shutdown.
        sys_flag: PullSysFlag::SUSPEND,
        commit_offset: 0,
        suspend_timeout_ms: i64::try_from(long_poll.as_millis()).unwrap_or(i64::MAX),
        subscription: None,
        sub_version: assigned.subscription.sub_version,
        expression_type: Some(assigned.expression_type.clone()),
        max_bytes: None,
        broker_name: Some(broker_name.clone()),
    };
    let addrs = route.broker_addrs(broker_name).ok_or_else(not_found)?;
    let addr = addrs.get(&broker_id).or_else(|| addrs.values().next()).ok_or_else(not_found)?;
    let deadline = Deadline::after(long_poll + PULL_GRACE);
    let result = member.client.pull_message(addr, &request, deadline).await;
    // A queue of a static topic may be on another broker by now.
    let elsewhere = |code: Option<ResponseCode>| code == Some(ResponseCode::NOT_LEADER_FOR_QUEUE) || code.is_none();
    if result.as_ref().is_err_and(|error| elsewhere(error.response_code())) {
        member.client.note_stale(&route);
    }
    result
}

/// Takes in what a pull brought; answers where to pull on.
async fn take(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, asked: i64, answer: Answer<PullResult>) -> i64 {
    let next = answer.header.next_begin_offset;
    match answer.code {
        ResponseCode::SUCCESS => deliver(member, assigned, answer),
        ResponseCode::PULL_OFFSET_MOVED => {
            tracing::warn!(
                group = %member.group, queue = %assigned.queue, asked, corrected = next, "offset is outside the queue"
            );
            // Messages in flight belong to what is no more; whatever becomes of them, the corrected offset stands.
            assigned.window().start_at(next);
            if let Some(order) = &assigned.order {
                order.clear();
            }
            if let Err(error) = member.record(assigned).await {
                tracing::warn!(queue = %assigned.queue, error = &error as &dyn std::error::Error, "offset not recorded");
            }
        }
        // Nothing new, or nothing that matches.
        _ => assigned.window().advance(next),
    }
    next
}

fn deliver(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, answer: Answer<PullResult>) {
    let queue = &assigned.queue;
    let Answer { header, body, .. } = answer;
    let mut messages = Vec::with_capacity(usize::try_from(member.config.pull_batch).unwrap_or_default().min(64));
    for record in decode_records(body, &queue.topic, &queue.broker_name, DecodeLimits::default()) {
        match record {
            Ok(mut message) => {
                if let Some(delta) = header.offset_delta {
                    message.add_offset(delta);
                }
                message.set_queue_id(queue.queue_id);
                if wants(&assigned.subscription, &message) && member.passes_filter(&message) {
                    messages.push(message);
                }
            }
            Err(corrupt) => tracing::error!(
                group = %member.group, %queue, error = &corrupt as &dyn std::error::Error,
                "a message is corrupt and is passed over"
            ),
        }
    }
    let mut window = assigned.window();
    let epoch = window.epoch();
    messages.retain(|message| window.insert(message.queue_offset(), message.body().len()));
    window.advance(header.next_begin_offset);
    drop(window);
    match &assigned.order {
        Some(order) => order.push(epoch, messages),
        None => member.dispatcher.push(assigned.clone(), epoch, messages),
    }
}

/// Where to begin in a queue.
///
/// # Protocol
/// Java: `RebalancePushImpl.computePullFromWhereWithException`.
async fn start_offset(member: &Member, queue: &MessageQueue) -> Result<i64, Error> {
    let client = &member.client;
    if let Some(recorded) = member.recorded_offset(queue).await? {
        return Ok(recorded);
    }
    match member.config.start_at {
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

#[cfg(test)]
mod tests;
