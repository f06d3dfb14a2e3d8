//! What every member of a group does that pops, whoever consumes the messages.

use crate::{Error, StartAt, pop_handle::Kept, popping::delay, undecodable::reason};
use rocketmq_common::{
    Client, Error as ClientError, MessageQueue, StoredMessage,
    message::{CorruptRecord, DecodeLimits, decode_records},
    pop::receipts,
    protocol::{Notification, PopHead, PopMessage, Popped, SubscriptionData},
    random::random_u64,
    remote::{Deadline, ResponseCode},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::task::TaskTracker;

/// A group that pops.
#[derive(Clone, Debug)]
pub(crate) struct PopGroup {
    pub(crate) client: Client,
    pub(crate) group: Arc<str>,
    pub(crate) start_at: StartAt,
    pub(crate) is_ordered: bool,
    pub(crate) max_reconsume_times: i32,
    /// The brokers that do not know `BATCH_ACK_MESSAGE`.
    pub(crate) without_batches: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

impl PopGroup {
    /// Takes messages of a queue, without waiting for any. A queue that has the number [`ALL_QUEUES`] stands for all that
    /// its broker has of the topic.
    pub(crate) async fn pop(
        &self,
        queue: &MessageQueue,
        subscription: &SubscriptionData,
        max: i32,
        invisible_ms: i64,
    ) -> Result<Vec<(StoredMessage, Kept)>, Error> {
        let request = PopMessage {
            consumer_group: self.group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            max_messages: max,
            invisible_time_ms: invisible_ms,
            poll_time_ms: 0,
            born_time_ms: 0,
            init_mode: i32::from(self.start_at != StartAt::First),
            expression_type: Some(subscription.expression_type.name().into()),
            expression: Some(subscription.sub_string.as_str().into()),
            order: Some(self.is_ordered),
            attempt_id: self.is_ordered.then(|| format!("{}-{:016x}", self.client.id(), random_u64())),
            broker_name: Some(queue.broker_name.clone()),
        };
        let ask = || self.client.pop_message(&queue.broker_name, &request, Deadline::after(POP_TIMEOUT));
        let mut popped = ask().await;
        if self.is_ordered && popped.as_ref().is_err_and(ClientError::may_have_happened) {
            // The queues may be held up by messages nobody got: asked by the same id, the broker gives them again.
            popped = ask().await;
        }
        match popped {
            Ok(Popped::Found(head, body)) => self.read(queue, &head, body),
            Ok(Popped::Nothing(_)) => Ok(Vec::new()),
            Err(error) => Err(self.judge(queue, error)),
        }
    }

    /// What a pop brought, each message with its handle, under the topic it was popped from.
    fn read(
        &self,
        queue: &MessageQueue,
        head: &PopHead,
        body: bytes::Bytes,
    ) -> Result<Vec<(StoredMessage, Kept)>, Error> {
        let mut came = Vec::new();
        let records = decode_records(body, &queue.topic, &queue.broker_name, DecodeLimits::default());
        for record in records.compressed() {
            came.extend(record.map_or_else(CorruptRecord::into_message, Some));
        }
        let receipts = receipts(head, &queue.broker_name, &came)?;
        let with_handle = came.into_iter().zip(receipts).filter_map(|(message, receipt)| {
            let receipt = match receipt {
                Ok(receipt) => receipt,
                Err(error) => {
                    // Without a handle it cannot be settled.
                    tracing::error!(
                        group = %self.group, topic = %queue.topic, broker = %queue.broker_name,
                        offset = message.queue_offset(), error = &error as &dyn std::error::Error,
                        undecodable = message.decode_error().map(|error| &**error as &dyn std::error::Error),
                        "popped message without a handle: it comes again"
                    );
                    return None;
                }
            };
            let message = message.with_topic(queue.topic.clone());
            let message = match receipt.order_count {
                Some(count) if count > 0 => message.with_reconsume_times(count),
                _ => message,
            };
            Some((message, Kept::fresh(queue.topic.clone(), receipt.handle)))
        });
        Ok(with_handle.collect())
    }

    /// Has messages that cannot be decoded come again later, or makes dead letters of them if they came too often.
    pub(crate) async fn fail(&self, tasks: &TaskTracker, messages: Vec<(StoredMessage, Kept)>) {
        let mut failing = JoinSet::new();
        for (message, kept) in messages {
            let pops = self.clone();
            failing.spawn(async move {
                let is_dead = message.reconsume_times() >= pops.max_reconsume_times;
                let reason = message.decode_error().map(|error| reason(error)).unwrap_or_default();
                tracing::warn!(
                    group = %pops.group, topic = message.topic(), queue_id = message.queue_id(),
                    offset = message.queue_offset(), message_id = %message.printable_id(),
                    reconsume_times = message.reconsume_times(), is_dead, failure = reason, "message not consumed"
                );
                if is_dead {
                    return pops.put_aside(message, kept, true).await;
                }
                if let Err(error) = pops.hide(&kept, delay(0, message.reconsume_times())).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(handle = %kept, error, "message not given back: it comes again by itself");
                }
            });
        }
        if !failing.is_empty() {
            let _ = tasks.spawn(failing.join_all()).await;
        }
    }

    /// What a failure means, and what it calls for.
    fn judge(&self, queue: &MessageQueue, error: ClientError) -> Error {
        match error.response_code() {
            Some(ResponseCode::REQUEST_CODE_NOT_SUPPORTED) => {
                return Error::PopNotSupported { broker_name: queue.broker_name.to_string() };
            }
            Some(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST) => self.client.heartbeat_soon(),
            Some(ResponseCode::TOPIC_NOT_EXIST) | None => {
                if let Some(route) = self.client.known_route(&queue.topic) {
                    self.client.note_stale(&route);
                }
            }
            Some(_) => {}
        }
        error.into()
    }

    /// Waits until there is something to pop, without taking it: nothing is lost if the future is dropped. The answer is
    /// whether the broker has said so.
    pub(crate) async fn wait_for_messages(
        &self,
        queue: &MessageQueue,
        subscription: &SubscriptionData,
        long_poll: Duration,
    ) -> bool {
        let request = Notification {
            consumer_group: self.group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            poll_time_ms: i64::try_from(long_poll.as_millis()).unwrap_or(i64::MAX),
            born_time_ms: 0,
            order: Some(self.is_ordered),
            attempt_id: None,
            expression_type: Some(subscription.expression_type.name().into()),
            expression: Some(subscription.sub_string.as_str().into()),
            broker_name: Some(queue.broker_name.clone()),
        };
        match self.client.pop_notification(&queue.broker_name, &request, Deadline::after(long_poll + GRACE)).await {
            Ok(notice) => {
                if notice.is_full == Some(true) {
                    sleep(FULL).await;
                }
                notice.has_messages == Some(true)
            }
            Err(error) => {
                tracing::debug!(
                    broker = %queue.broker_name, error = &error as &dyn std::error::Error, "not notified of messages"
                );
                sleep(FULL).await;
                false
            }
        }
    }

    /// Those of some messages that are to be consumed. The others are settled when this returns: as dead letters if they
    /// came too often, else as messages that nobody wants.
    pub(crate) async fn keep_wanted(
        &self,
        tasks: &TaskTracker,
        came: Vec<(StoredMessage, Kept)>,
        is_wanted: impl Fn(&StoredMessage) -> bool,
    ) -> Vec<(StoredMessage, Kept)> {
        let mut settling = JoinSet::new();
        let mut wanted = Vec::with_capacity(came.len());
        for (message, kept) in came {
            match (is_wanted(&message), message.reconsume_times() > self.max_reconsume_times) {
                (true, false) => wanted.push((message, kept)),
                (is_dead, _) => _ = settling.spawn(self.clone().put_aside(message, kept, is_dead)),
            }
        }
        // Tracked, so that a caller who is dropped does not leave a dead letter that is not acknowledged.
        if !settling.is_empty() {
            let _ = tasks.spawn(settling.join_all()).await;
        }
        wanted
    }

    async fn put_aside(self, message: StoredMessage, kept: Kept, is_dead: bool) {
        let settled = async {
            if is_dead {
                self.bury(&message).await?;
            }
            self.ack(&kept).await
        };
        if let Err(error) = settled.await {
            tracing::warn!(
                group = %self.group, topic = message.topic(), message_id = %message.printable_id(), is_dead,
                error = &error as &dyn std::error::Error, "message not put aside: it comes again"
            );
        }
    }
}

/// Whether a failure may pass by itself.
pub(crate) fn is_passing(error: &Error) -> bool {
    let Error::Client(error) = error else { return false };
    let passes = |code| {
        matches!(
            code,
            ResponseCode::SYSTEM_ERROR
                | ResponseCode::SYSTEM_BUSY
                | ResponseCode::SERVICE_NOT_AVAILABLE
                | ResponseCode::TOPIC_NOT_EXIST
                | ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST
                | ResponseCode::FLOW_CONTROL
        )
    };
    error.is_retryable() || error.response_code().is_some_and(passes)
}

/// All queues of a broker.
pub(crate) const ALL_QUEUES: i32 = -1;
const POP_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than the long poll an answer may take.
const GRACE: Duration = Duration::from_secs(15);
/// How soon a broker is asked again that has no room for those who wait, or does not answer.
const FULL: Duration = Duration::from_secs(1);
