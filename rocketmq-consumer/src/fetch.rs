use crate::{
    assigned::{AssignedQueue, Order, Place},
    decode::PulledRecords,
    member::Member,
    pull_from::pull_from,
    pull_size::{PullSize, is_too_large},
    recreated::{begin_again, first_unseen, is_topic_gone, record_correction},
    source::Source,
};
use rocketmq_common::{
    Backoff, ConditionKind, Error,
    protocol::{ExpressionType, PullMessage, PullResult, PullSysFlag, SubscriptionData},
    random::random_u64,
    remote::{Answer, Deadline, ResponseCode},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Sleep, sleep};

/// Fetches the messages of one queue until it is revoked.
pub(crate) async fn fetch(member: Arc<Member>, assigned: Arc<AssignedQueue>, settle: Duration) {
    tokio::select! {
        () = assigned.ended() => {}
        () = fetch_on(&member, &assigned, settle) => {}
    }
    member.report.queue_gone(&assigned.queue);
}

async fn fetch_on(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, settle: Duration) {
    // The member that had the queue until now may still be recording its last offset.
    sleep(settle).await;
    let mut place = begin(member, assigned, None).await;
    let mut source = Source::default();
    let (mut failures, mut fruitless, mut was_gone) = (0, 0u32, false);
    let mut size = PullSize::new(member.config.pull_batch);
    // Of the last pull, where its bodies did not all have room.
    let mut left: Option<(Place, PulledRecords)> = None;
    loop {
        tokio::select! {
            biased;
            () = assigned.lock_moved() => {
                place = begin(member, assigned, Some(place)).await;
                continue;
            }
            () = assigned.moved() => {
                place = assigned.fetch_on_at(place);
                continue;
            }
            () = ready(member, assigned) => {}
        }
        place = assigned.fetch_on_at(place);
        if let Some((_, records)) = left.take().filter(|(of, _)| *of == place) {
            (place, left) = deliver(member, assigned, place, records).await;
            continue;
        }
        let max_messages = size.next();
        let began = assigned.meter.pulling();
        let answer = tokio::select! {
            biased;
            answer = pull(member, assigned, place.next, max_messages, &mut source) => answer,
            // What the broker still answers finds nobody, and is pulled again.
            () = assigned.lock_moved() => continue,
            () = assigned.moved() => continue,
            () = member.suspended() => continue,
            () = assigned.moving.wait(true) => continue,
        };
        match answer {
            Ok(_) if was_gone => match begin_again(member, assigned, place).await {
                Ok(next) => (place, was_gone) = (next, false),
                Err(error) => pause(member, assigned, ConditionKind::StartOffset, &error, &mut failures).await,
            },
            Ok(answer) => {
                member.report.queue_works(ConditionKind::Pull, &assigned.queue);
                failures = 0;
                fruitless = if is_fruitless(&answer, place.next) { fruitless.saturating_add(1) } else { 0 };
                size.answered(answer.body.len());
                size.set_alone(false);
                match answer.code {
                    ResponseCode::SUCCESS => {
                        let (queue, subscription) = (&assigned.queue, &assigned.subscription);
                        assigned.meter.ends_at(answer.header.max_offset);
                        let records = PulledRecords::read(queue, subscription, place.next, max_messages, &answer);
                        assigned.meter.pulled(began, records.len());
                        size.set_alone(records.is_cut);
                        (place, left) = deliver(member, assigned, place, records).await;
                    }
                    _ => place = take_empty(member, assigned, place, answer).await,
                }
                // One is as it should be: an offset that is corrected, a replica that sends us to the master.
                if fruitless > 1 {
                    sleep(BACKOFF.wait(fruitless - 1, random_u64())).await;
                }
            }
            Err(error) => {
                member.doubt_lock(assigned);
                if is_too_large(&error) {
                    let max_messages = size.was_too_large();
                    tracing::warn!(
                        group = %member.group, queue = %assigned.queue, offset = place.next, max_messages,
                        error = &error as &dyn std::error::Error, "pull answer exceeds the frame limit, asking for less"
                    );
                }
                if error.response_code().is_some_and(wants_heartbeat) {
                    member.client.heartbeat_soon();
                }
                was_gone |= is_topic_gone(member, &assigned.queue, &error);
                pause(member, assigned, ConditionKind::Pull, &error.into(), &mut failures).await;
            }
        }
    }
}

/// Until there is room for what a pull may bring.
async fn ready(member: &Member, assigned: &AssignedQueue) {
    loop {
        member.resumed().await;
        assigned.moving.wait(false).await;
        assigned.wait_unpaused().await;
        assigned.wait_for_room().await;
        if !(member.is_suspended() || assigned.moving.is_on() || assigned.is_paused()) {
            return;
        }
    }
}

/// Finds out where the group is in a queue that is ours from now on, or again; answers where to fetch on. What was
/// fetched before still counts, unless another member has been further meanwhile. Where an operator moves the group
/// meanwhile, that counts.
async fn begin(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, place: Option<Place>) -> Place {
    let place = place.map(|place| assigned.fetch_on_at(place));
    let epoch = assigned.window().epoch();
    let mut failures = 0;
    loop {
        let tenure = assigned.wait_locked().await;
        let recorded = match place {
            None => member.start_offset(&assigned.queue).await.map(|(offset, is_recorded)| (Some(offset), is_recorded)),
            Some(_) => member.recorded_offset(&assigned.queue).await.map(|recorded| (recorded, true)),
        };
        let (recorded, is_recorded) = match recorded {
            Ok(found) => {
                member.report.queue_works(ConditionKind::StartOffset, &assigned.queue);
                found
            }
            Err(error) => {
                pause(member, assigned, ConditionKind::StartOffset, &error, &mut failures).await;
                continue;
            }
        };
        let (known, place) = {
            let mut window = assigned.window();
            let is_ahead = |known: i64| recorded.is_none_or(|offset| offset <= known);
            let known = match place {
                Some(place) if window.epoch() == epoch => {
                    window.commit_offset().filter(|known| is_ahead(*known)).map(|_| place.next)
                }
                // Nothing is known of a queue that is new, unless somebody has chosen where to begin.
                _ => window.commit_offset(),
            };
            let next = known.unwrap_or_else(|| {
                let offset = recorded.or(place.map(|place| place.next)).unwrap_or(0);
                window.start_at(offset);
                offset
            });
            (known, Place { epoch: window.epoch(), next })
        };
        if known.is_none() {
            assigned.order.iter().for_each(Order::clear);
            if !is_recorded {
                member.record_start(assigned, place.next).await;
            }
        }
        if let Some(order) = &assigned.order {
            order.change(|hold| hold.check(tenure));
        }
        tracing::debug!(group = %member.group, queue = %assigned.queue, offset = place.next, "queue begun");
        return place;
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

/// How long to wait after a failure, longer each time.
fn pause(
    member: &Member,
    assigned: &AssignedQueue,
    kind: ConditionKind,
    error: &crate::Error,
    failures: &mut u32,
) -> Sleep {
    *failures = failures.saturating_add(1);
    member.report.queue_failed(kind, &assigned.queue, *failures, error);
    let wait = BACKOFF.wait(*failures, random_u64());
    sleep(wait)
}

/// Whether an answer was given at once and brought the queue no further. A broker that keeps giving such ones is not
/// asked again without a pause.
fn is_fruitless(answer: &Answer<PullResult>, asked: i64) -> bool {
    match answer.code {
        // The broker has held the pull.
        ResponseCode::PULL_NOT_FOUND => false,
        ResponseCode::PULL_OFFSET_MOVED => true,
        _ => answer.header.next_begin_offset <= asked,
    }
}

async fn pull(
    member: &Member,
    assigned: &AssignedQueue,
    offset: i64,
    max_messages: i32,
    source: &mut Source,
) -> Result<Answer<PullResult>, Error> {
    let queue = &assigned.queue;
    let long_poll = member.config.long_poll;
    let route = member.client.known_route(&queue.topic);
    let route = route.ok_or_else(|| Error::BrokerNotFound { broker_name: queue.broker_name.clone() })?;
    let broker_name = route.broker_of(queue);
    let mut request = PullMessage {
        consumer_group: member.group.clone(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        queue_offset: offset,
        max_messages,
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
    if assigned.polled.is_some() {
        tell_filter(&mut request, &assigned.subscription);
    }
    let deadline = Deadline::after(long_poll + PULL_GRACE);
    pull_from(source, &member.client, &route, queue, &request, deadline).await
}

/// Has the filter go along with a pull: the broker then needs no heartbeat of the group.
///
/// # Protocol
/// Java: `DefaultLitePullConsumerImpl.pullSyncImpl`; the version is that of expressions that have to be compiled.
pub(crate) fn tell_filter(request: &mut PullMessage, subscription: &SubscriptionData) {
    request.sys_flag |= PullSysFlag::SUBSCRIPTION;
    request.subscription = Some(subscription.sub_string.as_str().into());
    if subscription.expression_type == ExpressionType::Tag {
        request.sub_version = 0;
    }
}

/// Takes in an answer without messages; returns where to pull on.
async fn take_empty(
    member: &Arc<Member>,
    assigned: &Arc<AssignedQueue>,
    place: Place,
    answer: Answer<PullResult>,
) -> Place {
    let next = answer.header.next_begin_offset;
    assigned.meter.ends_at(answer.header.max_offset);
    if answer.code == ResponseCode::PULL_OFFSET_MOVED {
        return go_on_elsewhere(member, assigned, place, &answer.header).await;
    }
    // Nothing new, or nothing that matches.
    let mut window = assigned.window();
    if window.epoch() == place.epoch {
        window.advance(next);
    }
    drop(window);
    assigned.fetch_on_at(Place { next, ..place })
}

/// The offset is outside the queue, or an operator has moved the group.
///
/// # Protocol
/// Brokers from 5.2 on move a group by themselves: the next pull is answered PULL_OFFSET_MOVED, though its offset is in the
/// queue, and until then what is recorded does not count.
async fn go_on_elsewhere(member: &Member, assigned: &AssignedQueue, place: Place, result: &PullResult) -> Place {
    let asked = place.next;
    let next = match asked > result.max_offset {
        true => first_unseen(member, assigned).await.unwrap_or(result.min_offset),
        false => result.next_begin_offset,
    };
    if assigned.window().epoch() != place.epoch {
        return assigned.fetch_on_at(place);
    }
    tracing::warn!(
        group = %member.group, queue = %assigned.queue, asked, min_offset = result.min_offset,
        max_offset = result.max_offset, next, "offset outside of the queue, or reset by an operator: going on at another one"
    );
    // Messages in flight belong to what is no more; whatever becomes of them, the corrected offset stands.
    match asked < result.min_offset {
        // The broker does not have them any more: they are consumed all the same.
        true => {
            assigned.window().start_at(next);
            assigned.order.iter().for_each(Order::clear);
        }
        false => _ = assigned.start_over(next),
    }
    record_correction(member, assigned).await;
    assigned.fetch_on_at(place)
}

/// Hands out messages as far as there is room for their bodies. Returns where to fetch on, and the messages for which there
/// was no room, with the place where they go on. What was asked for by an earlier window does not count.
async fn deliver(
    member: &Arc<Member>,
    assigned: &Arc<AssignedQueue>,
    place: Place,
    mut records: PulledRecords,
) -> (Place, Option<(Place, PulledRecords)>) {
    let room = assigned.window().byte_room();
    let mut messages = records.take_within(room, member.config.max_body_bytes).await;
    messages.retain(|message| message.decode_error().is_some() || member.passes_filter(message));
    let next = records.next_offset();
    let mut window = assigned.window();
    if window.epoch() != place.epoch {
        drop(window);
        return (assigned.fetch_on_at(place), None);
    }
    if let Some(last) = messages.iter().rfind(|message| message.decode_error().is_none()) {
        assigned.note_stored(last.store_timestamp_ms());
    }
    messages.retain(|message| window.insert(message.queue_offset(), message.body().len()));
    window.advance(next);
    drop(window);
    match &assigned.order {
        Some(order) => order.push(place.epoch, messages),
        None => member.dispatcher.push(assigned.clone(), place.epoch, messages),
    }
    let place = Place { next, ..place };
    (assigned.fetch_on_at(place), (records.len() > 0).then_some((place, records)))
}

/// How much longer than the long poll an answer may take.
const PULL_GRACE: Duration = Duration::from_secs(15);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));

#[cfg(test)]
mod tests;
