//! Ordered consumption: one worker a queue, on a queue whose lock is ours.

use crate::{
    assigned::{AssignedQueue, Order},
    call::Called,
    member::Member,
    outcome::{DEAD, Failed},
    stall::Turn,
};
use rocketmq_common::StoredMessage;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Runs the listener on the messages of one queue, one call after the other, until the queue is given up.
pub(crate) async fn consume_in_order(member: Arc<Member>, assigned: Arc<AssignedQueue>) {
    let Some(order) = &assigned.order else { return };
    let mut turn = Turn::default();
    loop {
        turn.end().await;
        let next = tokio::select! {
            biased;
            () = assigned.ended() => return,
            next = next(&member, &assigned, order) => next,
        };
        // What was fetched before an operator moved the group is not begun any more.
        let Some(_in_hand) = assigned.take_in_hand(next.epoch) else { continue };
        let pause = tokio::select! {
            pause = run(&member, &mut turn, &assigned, order, next) => pause,
            () = member.given_up.cancelled() => return,
        };
        // Nobody is to wait for what only waits itself.
        drop(_in_hand);
        if let Some(pause) = pause {
            tokio::select! {
                () = assigned.ended() => return,
                () = sleep(pause) => {}
            }
        }
    }
}

/// What one call gets, and the leave to make it.
struct Next<'a> {
    epoch: u32,
    messages: Vec<StoredMessage>,
    _entered: crate::limit::Entered<'a>,
}

async fn next<'a>(member: &'a Member, assigned: &AssignedQueue, order: &Order) -> Next<'a> {
    loop {
        order.wait_filled().await;
        member.resumed().await;
        let entered = member.ordered_calls.enter().await;
        member.doubt_lock(assigned);
        if !order.hold().may_consume(Instant::now()) {
            drop(entered);
            order.wait_hold(|hold| hold.may_consume(Instant::now())).await;
            continue;
        }
        let (epoch, messages) = {
            // Held, so that no newer epoch begins in between: its messages would be dropped as if they were old ones.
            let window = assigned.window();
            (window.epoch(), order.take(window.epoch(), member.calls_worth()))
        };
        if !messages.is_empty() && !member.is_suspended() {
            return Next { epoch, messages, _entered: entered };
        }
        order.put_back(epoch, messages);
    }
}

/// Makes one call and sees to what comes of it. Answers how long the queue is to wait then.
async fn run(
    member: &Member,
    turn: &mut Turn,
    assigned: &AssignedQueue,
    order: &Order,
    next: Next<'_>,
) -> Option<Duration> {
    let Next { epoch, messages, _entered } = next;
    let Called::Failed(failed) = member.call(turn, assigned, &messages).await else {
        assigned.finish_all(epoch, messages.iter().map(StoredMessage::queue_offset));
        return None;
    };
    let mut again = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        if !failed.is_failed(index) || is_done_with(member, assigned, &message, &failed).await {
            assigned.finish(epoch, message.queue_offset());
        } else {
            again.push(message.consumed_in_vain());
        }
    }
    if again.is_empty() {
        return None;
    }
    order.put_back(epoch, again);
    let pause = failed.suspend.unwrap_or(member.config.suspend_time);
    Some(pause.clamp(SHORTEST_SUSPENSION, LONGEST_SUSPENSION))
}

/// Whether a failed message does not come again: because it need not, or because it is a dead letter now.
async fn is_done_with(member: &Member, assigned: &AssignedQueue, message: &StoredMessage, failed: &Failed) -> bool {
    member.tell_failed(message, &failed.reason);
    if member.is_broadcast {
        return true;
    }
    let is_over = failed.is_dead() || message.reconsume_times() >= member.max_reconsume_times();
    is_over && member.give_back(assigned, message, DEAD).await.is_ok()
}

/// Java: the limits of `ConsumeMessageOrderlyService.submitConsumeRequestLater`.
const SHORTEST_SUSPENSION: Duration = Duration::from_millis(10);
const LONGEST_SUSPENSION: Duration = Duration::from_secs(30);
