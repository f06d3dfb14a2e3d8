//! What operators ask of a consumer: how it does, to consume a message now, to go on from somewhere else.

use crate::{assigned::AssignedQueue, member::Member, outcome::Failed, statistics::millis, subscriptions::now_ms};
use rocketmq_common::{
    ConsumingDirectly, MessageQueue, Operated, Refusal, StoredMessage,
    protocol::{ConsumeStatus, ConsumedDirectly, DirectResult, PopQueueInfo, QueueInfo, QueueTable, RunningInfo, prop},
    remote::ResponseCode,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// What a consumer keeps for operators.
#[derive(Debug)]
pub(crate) struct Operators {
    started_ms: i64,
    /// How many messages may be consumed directly at once.
    direct_calls: Arc<Semaphore>,
    /// Where queues are to go on, by those who said so last, as long as that has not begun.
    resets: Mutex<BTreeMap<MessageQueue, i64>>,
}

impl Default for Operators {
    fn default() -> Self {
        Self {
            started_ms: now_ms(),
            direct_calls: Arc::new(Semaphore::new(MAX_DIRECT_CALLS)),
            resets: Mutex::default(),
        }
    }
}

impl Operators {
    fn resets(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, i64>> {
        self.resets.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Operated for Member {
    /// Java: `DefaultMQPushConsumerImpl.consumerRunningInfo`.
    fn running_info(&self) -> RunningInfo {
        let queues: Vec<_> = self.queues().values().cloned().collect();
        let (popped, pulled): (Vec<_>, Vec<_>) = queues.iter().partition(|assigned| assigned.popped.is_some());
        let pulled = pulled.into_iter().map(|assigned| (assigned.queue.clone(), queue_info(assigned)));
        let popped = popped.into_iter().map(|assigned| (assigned.queue.clone(), popped_info(assigned)));
        let now = Instant::now();
        let status = self.meters.all().into_iter().map(|(topic, meter)| {
            let (_, rates) = meter.rates(now);
            let status = ConsumeStatus {
                pull_ms: millis(rates.pull_average),
                pulled_per_second: rates.pulled_per_second,
                consume_ms: millis(rates.consume_average_lately),
                done_per_second: rates.done_per_second,
                failed_per_second: rates.failed_per_second,
                failed_messages: i64::try_from(rates.failed_in_an_hour).unwrap_or(i64::MAX),
            };
            (topic.to_string(), status)
        });
        RunningInfo {
            properties: self.properties(),
            subscription_set: self.subscriptions().values().map(|data| data.as_ref().clone()).collect(),
            mq_table: pulled.collect(),
            mq_pop_table: popped.collect(),
            status_table: status.collect(),
            ..RunningInfo::default()
        }
    }

    /// Java: `MQClientInstance.getConsumerStatus`.
    fn status(&self, topic: &str) -> QueueTable<i64> {
        let queues = self.queues();
        let wanted = queues.values().filter(|assigned| topic.is_empty() || *assigned.queue.topic == *topic);
        wanted.filter_map(|assigned| Some((assigned.queue.clone(), assigned.window().commit_offset()?))).collect()
    }

    /// Java: `MQClientInstance.resetOffset`.
    fn reset(self: Arc<Self>, mut offsets: BTreeMap<MessageQueue, i64>) {
        // Of queues that nobody knows there may be any number.
        offsets.retain(|queue, _| {
            let route = self.client.known_route(&queue.topic);
            route.is_some_and(|route| route.read_queues().contains(queue))
        });
        let mut waiting = self.operators.resets();
        let is_first = waiting.is_empty();
        waiting.extend(offsets);
        if !is_first || waiting.is_empty() {
            return;
        }
        drop(waiting);
        let member = self.clone();
        self.spawn(async move {
            tokio::select! {
                () = member.given_up.cancelled() => {}
                () = member.go_on_as_told() => {}
            }
        });
    }

    /// Java: `ConsumeMessageConcurrentlyService.consumeMessageDirectly`.
    fn consume_directly(self: Arc<Self>, message: StoredMessage) -> ConsumingDirectly {
        Box::pin(async move {
            if self.listener.is_none() {
                return Err(Refusal::new(format!("group {} has a stream here and no listener to call", self.group)));
            }
            if self.stopped.is_cancelled() {
                return Err(Refusal::new(format!("the consumer of group {} shuts down", self.group)));
            }
            let Ok(leave) = self.operators.direct_calls.clone().try_acquire_owned() else {
                let remark = format!("{MAX_DIRECT_CALLS} messages are being consumed directly already");
                return Err(Refusal { code: ResponseCode::SYSTEM_BUSY, remark });
            };
            let (sender, result) = oneshot::channel();
            let member = self.clone();
            // The call goes on even if nobody waits for it any more.
            self.spawn(async move {
                let _leave = leave;
                tokio::select! {
                    () = member.given_up.cancelled() => {}
                    (failed, took) = member.call_directly(&message) => {
                        let _ = sender.send(member.direct_result(failed, took));
                    }
                }
            });
            result.await.map_err(|_| Refusal::new("the consumer was shut down meanwhile"))
        })
    }
}

impl Member {
    pub(crate) fn answer_operators(self: &Arc<Self>) {
        let member: Arc<dyn Operated> = self.clone();
        let member: Weak<dyn Operated> = Arc::downgrade(&member);
        self.client.answer_operators(&self.group, member);
    }

    fn direct_result(&self, failed: Option<Box<Failed>>, took: Duration) -> ConsumedDirectly {
        ConsumedDirectly {
            order: self.is_ordered(),
            auto_commit: true,
            consume_result: match &failed {
                None => DirectResult::Done,
                Some(failed) if failed.is_panic => DirectResult::Panicked,
                Some(failed) if failed.is_failed(0) => DirectResult::Later,
                Some(_) => DirectResult::Done,
            },
            remark: failed.map(|failed| failed.reason),
            spent_time_mills: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Moves those of our queues that are named, all together: what is fetched is dropped, what is in hand gets a moment
    /// and does not count any more, the new offsets are recorded, and fetching begins there.
    async fn go_on_as_told(self: &Arc<Self>) {
        let _changing = self.changing_queues.write().await;
        let offsets = std::mem::take(&mut *self.operators.resets());
        let ours: Vec<(Arc<AssignedQueue>, i64)> = {
            let queues = self.queues();
            let ours = offsets.into_iter().filter_map(|(queue, offset)| Some((queues.get(&queue)?.clone(), offset)));
            // Where a group pops, brokers move it by themselves.
            ours.filter(|(assigned, _)| !assigned.is_revoked() && assigned.popped.is_none()).collect()
        };
        let moving: Vec<_> = ours.into_iter().map(|(assigned, offset)| Moving::begin(assigned, offset)).collect();
        for Moving(assigned) in &moving {
            let epoch = assigned.window().epoch();
            self.dispatcher.keep_only(assigned, epoch);
        }
        let none_in_hand = async {
            for Moving(assigned) in &moving {
                assigned.wait_none_in_hand().await;
            }
        };
        let finished = timeout(self.config.revoke_timeout, none_in_hand).await.is_ok();
        let queues = moving.iter().map(|Moving(assigned)| assigned.clone()).collect();
        let unrecorded = self.record_all_anew(queues).await.queues;
        // What could not be recorded is tried again with the next offsets.
        tracing::info!(group = %self.group, queues = moving.len(), finished, unrecorded, "an operator moved the group");
    }

    /// What this consumer was set up with, under the names of Java's options.
    fn properties(&self) -> BTreeMap<String, String> {
        let config = &self.config;
        let concurrency = match self.is_ordered() {
            true => self.ordered_calls.limit(),
            false => self.workers.wanted(),
        };
        let name_servers: String = self.client.name_servers().iter().map(|addr| format!("{addr};")).collect();
        let number = |value: Option<usize>| value.map_or_else(|| "-1".to_owned(), |value| value.to_string());
        let mib = |bytes: usize| (bytes / MIB).to_string();
        let properties = [
            (prop::CONSUME_TYPE, "CONSUME_PASSIVELY".to_owned()),
            (prop::START_TIMESTAMP, self.operators.started_ms.to_string()),
            (prop::IS_ORDERED, self.is_ordered().to_string()),
            (prop::CONCURRENCY, concurrency.to_string()),
            (prop::NAME_SERVERS, name_servers),
            (prop::CLIENT_VERSION, concat!("rust ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("language", "RUST".to_owned()),
            ("consumerGroup", self.group.to_string()),
            ("messageModel", if self.is_broadcast { "BROADCASTING" } else { "CLUSTERING" }.to_owned()),
            ("consumeFromWhere", config.start_at.name().to_owned()),
            ("consumeThreadMin", concurrency.to_string()),
            ("consumeThreadMax", concurrency.to_string()),
            ("consumeMessageBatchMaxSize", self.calls_worth().to_string()),
            ("consumeTimeout", (config.consume_timeout.as_secs() / 60).to_string()),
            ("suspendCurrentQueueTimeMillis", config.suspend_time.as_millis().to_string()),
            ("maxReconsumeTimes", self.max_reconsume_times().to_string()),
            ("pullBatchSize", config.pull_batch.to_string()),
            ("pullThresholdForQueue", config.max_messages_per_queue.to_string()),
            ("pullThresholdSizeForQueue", mib(config.max_bytes_per_queue)),
            ("consumeConcurrentlyMaxSpan", config.max_span_per_queue.to_string()),
            ("pullThresholdForTopic", number(config.max_messages_per_topic)),
            ("pullThresholdSizeForTopic", config.max_bytes_per_topic.map_or_else(|| "-1".to_owned(), mib)),
            ("persistConsumerOffsetInterval", config.commit_interval.as_millis().to_string()),
            ("unitMode", self.client.config().unit_mode.to_string()),
            ("vipChannelEnabled", self.client.config().vip_channel.to_string()),
            ("suspended", self.is_suspended().to_string()),
        ];
        properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A queue that an operator moves: nothing is fetched until this is dropped.
struct Moving(Arc<AssignedQueue>);

impl Moving {
    fn begin(assigned: Arc<AssignedQueue>, offset: i64) -> Self {
        assigned.moving.set(true);
        assigned.go_on_as_told(offset);
        Self(assigned)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.0.moving.set(false);
    }
}

/// Java: `ProcessQueue.fillProcessQueueInfo`.
fn queue_info(assigned: &AssignedQueue) -> QueueInfo {
    let window = assigned.window();
    let commit_offset = window.commit_offset().unwrap_or(-1);
    let bytes = window.bytes();
    let unfinished: Vec<i64> = window.unfinished().collect();
    drop(window);
    // Of a queue that is consumed in order, what does not wait is in the listener's hands.
    let begun = assigned.order.as_ref().map_or(0, |order| unfinished.len().saturating_sub(order.count_waiting()));
    let (in_hand, cached) = unfinished.split_at(begun);
    let first = |offsets: &[i64]| offsets.first().copied().unwrap_or(0);
    let last = |offsets: &[i64]| offsets.last().copied().unwrap_or(0);
    let count = |offsets: &[i64]| i32::try_from(offsets.len()).unwrap_or(i32::MAX);
    let lock = assigned.order.as_ref().map(|order| order.hold());
    let now = tokio::time::Instant::now();
    let locked_ms = lock.and_then(|hold| hold.since()).map_or(0, |since| {
        let ago = now.saturating_duration_since(since).as_millis();
        now_ms().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
    });
    QueueInfo {
        commit_offset,
        cached_msg_min_offset: first(cached),
        cached_msg_max_offset: last(cached),
        cached_msg_count: count(cached),
        cached_mib: i32::try_from(bytes / MIB).unwrap_or(i32::MAX),
        transaction_msg_min_offset: first(in_hand),
        transaction_msg_max_offset: last(in_hand),
        transaction_msg_count: count(in_hand),
        locked: lock.is_some_and(|hold| hold.is_held(now)),
        try_unlock_times: 0,
        last_lock_timestamp: locked_ms,
        is_dropped: assigned.is_revoked(),
        last_pull_timestamp: assigned.meter.pulled_ms(),
        last_consume_timestamp: assigned.meter.consumed_ms(),
    }
}

/// Java: `PopProcessQueue.fillPopProcessQueueInfo`.
fn popped_info(assigned: &AssignedQueue) -> PopQueueInfo {
    let unsettled = assigned.popped.as_ref().map_or(0, |popped| popped.count());
    PopQueueInfo {
        wait_ack_count: i32::try_from(unsettled).unwrap_or(i32::MAX),
        is_dropped: assigned.is_revoked(),
        last_pop_timestamp: assigned.meter.pulled_ms(),
    }
}

const MIB: usize = 1024 * 1024;
const MAX_DIRECT_CALLS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PushConfig,
        alone::{Alone, TOPIC, pulled},
        listener::Listener,
    };
    use rocketmq_common::message::{DecodeLimits, decode_records};
    use std::convert::Infallible;

    #[tokio::test]
    async fn what_waits_is_let_go_where_the_group_is_moved() {
        let listener = Listener::one(false, |_| std::future::pending::<Result<(), Infallible>>());
        let config = PushConfig { concurrency: 1, revoke_timeout: Duration::ZERO, ..PushConfig::default() };
        let alone = Alone::start(listener, false, config).await.unwrap();
        let (member, queue) = (&alone.member, alone.queue());
        let records = decode_records(pulled(0, 3), &TOPIC.into(), &"broker-a".into(), DecodeLimits::default());
        let messages: Vec<_> = records.map(Result::unwrap).collect();
        member.queues().insert(queue.queue.clone(), queue.clone());
        member.dispatcher.push(queue.clone(), 1, messages);
        while queue.in_hand() == 0 {
            tokio::task::yield_now().await;
        }
        // The listener is busy, so nobody takes what waits.
        member.operators.resets().insert(queue.queue.clone(), 7);
        member.go_on_as_told().await;
        assert_eq!(queue.window().commit_offset(), Some(7));
        assert_eq!(member.dispatcher.take_out(&queue).len(), 0);
    }
}
