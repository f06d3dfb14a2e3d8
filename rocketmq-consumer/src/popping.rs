//! A push consumer whose group pops: brokers remember which messages are under way, and no offsets are kept here.
//!
//! # Protocol
//! Java: `DefaultMQPushConsumerImpl.popMessage`, `ConsumeMessagePopConcurrentlyService`. Unlike Java's, this consumer keeps
//! messages hidden while they wait and while their listener runs, has what fails too often become a dead letter, and gives
//! back what it has not begun when it ends.

use crate::{
    Error,
    assigned::AssignedQueue,
    decode::decompress_within,
    member::Member,
    outcome::DEAD,
    pop_config::millis,
    pop_group::PopGroup,
    pop_handle::Kept,
    popped_queue::{Hidden, PoppedQueue},
    subscription::wants,
    undecodable::{is_alone, is_malformed},
};
use rocketmq_common::{Backoff, ConditionKind, StoredMessage, random::random_u64};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};

/// Pops the messages of one queue until it is given up.
pub(crate) async fn pop(member: Arc<Member>, assigned: Arc<AssignedQueue>, settle: Duration) {
    tokio::select! {
        () = member.given_up.cancelled() => {}
        () = pop_on(&member, &assigned, settle) => {}
    }
    member.report.queue_gone(&assigned.queue);
}

async fn pop_on(member: &Arc<Member>, assigned: &Arc<AssignedQueue>, settle: Duration) {
    let Some(popped) = &assigned.popped else { return };
    let (queue, subscription, config) = (&assigned.queue, &assigned.subscription, &member.config);
    let mut pause = settle;
    let (mut failures, mut in_vain) = (0u32, 0u32);
    loop {
        let ready = async {
            sleep(pause).await;
            popped.wait_for_room().await;
            member.resumed().await;
        };
        tokio::select! {
            () = assigned.ended() => return,
            () = ready => {}
        }
        let began = assigned.meter.pulling();
        // Not dropped when the queue is given up: what it brings is hidden from all others.
        let came = member.pops.pop(queue, subscription, config.pop_batch, millis(config.pop_invisible_time)).await;
        pause = Duration::ZERO;
        if came.is_ok() {
            member.report.queue_works(ConditionKind::Pop, queue);
        }
        match came {
            Ok(came) if came.is_empty() => {
                failures = 0;
                let told = tokio::select! {
                    () = assigned.ended() => return,
                    () = member.suspended() => false,
                    () = popped.wait_again() => false,
                    told = member.pops.wait_for_messages(queue, subscription, config.long_poll) => told,
                };
                // A broker may speak of messages that it does not give.
                pause = IN_VAIN.wait(in_vain, random_u64());
                in_vain = if told { in_vain.saturating_add(1) } else { 0 };
            }
            Ok(came) => {
                (failures, in_vain) = (0, 0);
                take(member, assigned, popped, began, came).await;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                pause = BACKOFF.wait(failures, random_u64());
                member.report.queue_failed(ConditionKind::Pop, queue, failures, &error);
            }
        }
    }
}

/// Takes in what a pop has brought.
async fn take(
    member: &Arc<Member>,
    assigned: &Arc<AssignedQueue>,
    popped: &PoppedQueue,
    began: Instant,
    mut came: Vec<(StoredMessage, Kept)>,
) {
    // Those without room are ours all the same: they are decompressed when their turn comes. A filter of the user's own has to
    // see them all.
    let room = if member.has_filter() { usize::MAX } else { popped.byte_room() };
    decompress_within(&mut came, |(message, _)| message, room, member.config.max_body_bytes).await;
    let is_wanted = |message: &StoredMessage| {
        is_malformed(message)
            || wants(&assigned.subscription, message) && (is_alone(message) || member.passes_filter(message))
    };
    let mut messages = Vec::with_capacity(came.len());
    for (message, kept) in member.pops.keep_wanted(&member.tasks, came, is_wanted).await {
        if popped.enter(&message, kept) {
            messages.push(message);
        }
    }
    assigned.meter.pulled(began, messages.len());
    member.dispatcher.push(assigned.clone(), assigned.window().epoch(), messages);
    if popped.is_to_be_watched() {
        member.spawn(keep_hidden(member.clone(), assigned.clone()));
    }
    if assigned.is_withdrawn() {
        member.give_back_waiting(assigned);
    }
}

/// Sees to it that the messages of a queue stay hidden until they are settled.
async fn keep_hidden(member: Arc<Member>, assigned: Arc<AssignedQueue>) {
    let Some(popped) = &assigned.popped else { return };
    let invisible = member.config.pop_invisible_time;
    let end = async {
        member.stopped.cancelled().await;
        assigned.wait_none_in_hand().await;
    };
    let keep = async {
        while let Some(hidden) = popped.watched() {
            let mut hiding = JoinSet::new();
            for hidden in hidden.into_iter().filter(|hidden| hidden.expires_within(invisible / 2)) {
                let pops = member.pops.clone();
                hiding.spawn(async move { pops.hide_longer(&hidden, invisible).await });
            }
            hiding.join_all().await;
            sleep(invisible / LOOKS).await;
        }
    };
    tokio::select! {
        () = member.given_up.cancelled() => {}
        () = end => {}
        () = keep => {}
    }
}

impl Member {
    /// Messages are done.
    pub(crate) fn finish(self: &Arc<Self>, queue: &Arc<AssignedQueue>, epoch: u32, messages: &[StoredMessage]) {
        if queue.popped.is_none() {
            return queue.finish_all(epoch, messages.iter().map(StoredMessage::queue_offset));
        }
        self.acknowledge_soon(queue, messages);
    }

    /// A popped message was not consumed: it comes again after a time, or is a dead letter. Where the broker cannot be
    /// told it comes again when its invisible time is over.
    pub(crate) async fn give_back_popped(&self, popped: &PoppedQueue, message: &StoredMessage, delay_level: i32) {
        let Some(hidden) = popped.get(message) else { return };
        let kept = hidden.kept.lock().await;
        let is_dead = delay_level == DEAD || message.reconsume_times() >= self.max_reconsume_times();
        let outcome = match is_dead {
            true => self.bury_popped(message, &kept).await,
            false => {
                let delay = delay(delay_level, message.reconsume_times());
                self.pops.hide(&kept, delay).await.map(|_| popped.expect_again(delay))
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(
                group = %self.group, topic = message.topic(), message_id = %message.printable_id(), is_dead,
                error = &error as &dyn std::error::Error, "message not given back: it comes again by itself"
            );
        }
        popped.remove(message);
    }

    async fn bury_popped(&self, message: &StoredMessage, kept: &Kept) -> Result<(), Error> {
        self.pops.bury(message).await?;
        self.pops.ack(kept).await
    }

    /// Nothing of these queues is begun any more; what waits is given back at once. Queues that are pulled are left as
    /// they are: what is not done in them has no offset recorded.
    pub(crate) fn withdraw(self: &Arc<Self>, queues: &[Arc<AssignedQueue>]) {
        for queue in queues.iter().filter(|queue| queue.popped.is_some()) {
            queue.withdraw();
            self.give_back_waiting(queue);
        }
    }

    fn give_back_waiting(self: &Arc<Self>, queue: &Arc<AssignedQueue>) {
        self.give_back_unbegun(queue, self.dispatcher.take_out(queue));
    }

    /// Gives messages back that were to be consumed and are not begun, for others to consume them.
    pub(crate) fn give_back_unbegun(self: &Arc<Self>, queue: &Arc<AssignedQueue>, messages: Vec<StoredMessage>) {
        if queue.popped.is_none() || messages.is_empty() {
            return;
        }
        let (member, queue) = (self.clone(), queue.clone());
        self.spawn(async move {
            let Some(popped) = &queue.popped else { return };
            let giving_back = async {
                for message in &messages {
                    if let Some(hidden) = popped.get(message) {
                        member.pops.show(&hidden).await;
                        popped.remove(message);
                    }
                }
            };
            tokio::select! {
                () = member.given_up.cancelled() => {}
                () = giving_back => {}
            }
        });
    }

    /// Gives back all that is here of popped queues, once nobody works on it any more.
    pub(crate) async fn give_back_unsettled(&self, queues: &[Arc<AssignedQueue>]) {
        let mut giving_back = JoinSet::new();
        for popped in queues.iter().filter_map(|queue| queue.popped.as_ref()) {
            let (pops, unsettled) = (self.pops.clone(), popped.watched().unwrap_or_default());
            giving_back.spawn(async move {
                for hidden in unsettled {
                    pops.show(&hidden).await;
                }
            });
        }
        giving_back.join_all().await;
    }
}

impl PopGroup {
    /// Hides a message for longer, unless somebody settles it just now.
    async fn hide_longer(&self, hidden: &Hidden, invisible: Duration) {
        let Ok(mut kept) = hidden.kept.try_lock() else { return };
        match self.hide(&kept, invisible).await {
            Ok(longer) => *kept = longer,
            Err(error) => tracing::warn!(
                group = %self.group, handle = %*kept, error = &error as &dyn std::error::Error,
                "message not hidden for longer: it may come again"
            ),
        }
    }

    /// Has a message come again at once. It does so by itself, only later, where the broker cannot be told.
    async fn show(&self, hidden: &Hidden) {
        self.make_visible(&*hidden.kept.lock().await).await;
    }
}

/// When a message comes again that failed: after a delay level of brokers as they are by default, from 1 on; without one,
/// later each time.
///
/// # Protocol
/// Java: `MessageStoreConfig.messageDelayLevel`, and `CONSUMER_SEND_MSG_BACK`, which begins at level 3.
/// `popDelayLevel` of Java's push consumer is the same from there on.
pub(crate) fn delay(level: i32, reconsume_times: i32) -> Duration {
    let level = if level > 0 { level } else { reconsume_times.max(0).saturating_add(FIRST_LEVEL) };
    let index = usize::try_from(level).unwrap_or(1).clamp(1, DELAYS.len()) - 1;
    Duration::from_secs(DELAYS[index])
}

const DELAYS: [u64; 18] = [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
const FIRST_LEVEL: i32 = 3;
/// How often one looks, in an invisible time, whether it is half over.
const LOOKS: u32 = 6;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// How long a broker is not asked that spoke of messages in vain.
const IN_VAIN: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_comes_later_each_time_as_when_it_is_pulled() {
        let seconds = |level, times| delay(level, times).as_secs();
        assert_eq!([0, 1, 2, 15, 16, i32::MAX].map(|times| seconds(0, times)), [10, 30, 60, 7200, 7200, 7200]);
        assert_eq!([1, 2, 3, 18, 19, i32::MAX].map(|level| seconds(level, 5)), [1, 5, 10, 7200, 7200, 7200]);
        assert_eq!(seconds(i32::MIN, i32::MIN), 10);
    }
}
