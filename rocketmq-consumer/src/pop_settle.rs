//! How popped messages are settled.

use crate::{Error, pop_config::check_hidden, pop_group::PopGroup, pop_handle::Kept};
use futures_util::future::join_all;
use rocketmq_common::{
    Error as ClientError, StoredMessage,
    pop::ReceiptHandle,
    protocol::{AckMessage, BatchAck, BatchAcks, ChangeInvisibleTime, OffsetBits, SendBack},
    remote::ResponseCode,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard},
    time::Duration,
};

impl PopGroup {
    /// Says that a message is done.
    pub(crate) async fn ack(&self, kept: &Kept) -> Result<(), Error> {
        // Too late for sure, but the broker may be late as well: it is told all the same.
        let expired = kept.has_expired();
        let handle = &kept.handle;
        let request = AckMessage {
            consumer_group: self.group.clone(),
            topic: handle.source.real_topic(&kept.topic, &self.group),
            queue_id: handle.queue_id,
            extra_info: handle.to_string(),
            offset: handle.offset,
            broker_name: Some(handle.broker_name.clone()),
        };
        self.client
            .ack_message(&handle.broker_name, &request, self.client.request_deadline())
            .await
            .map_err(refused)?;
        if expired { Err(Error::Expired) } else { Ok(()) }
    }

    /// Says that messages are done, broker by broker.
    pub(crate) async fn ack_all(&self, messages: &[&Kept]) -> Result<(), Error> {
        let mut outcome = Ok(());
        let mut brokers: BTreeMap<&Arc<str>, Vec<&Kept>> = BTreeMap::new();
        for kept in messages {
            brokers.entry(&kept.handle.broker_name).or_default().push(kept);
        }
        for (broker_name, messages) in brokers {
            outcome = outcome.and(self.ack_of_broker(broker_name, &messages).await);
        }
        outcome
    }

    /// Says that messages of one broker are done, in one request where the broker can read it.
    pub(crate) async fn ack_of_broker(&self, broker_name: &Arc<str>, messages: &[&Kept]) -> Result<(), Error> {
        if self.without_batches().contains(broker_name) {
            return self.ack_each(messages).await;
        }
        let (acks, alone) = batch(&self.group, messages);
        let expired = messages.iter().any(|kept| kept.has_expired());
        let mut outcome = Ok(());
        if !acks.is_empty() {
            let acks = BatchAcks { broker_name: broker_name.to_string(), acks };
            match self.client.batch_ack(acks, self.client.request_deadline()).await {
                // The first brokers that knew pops did not know this.
                Err(error) if error.response_code() == Some(ResponseCode::REQUEST_CODE_NOT_SUPPORTED) => {
                    self.without_batches().insert(broker_name.clone());
                    return self.ack_each(messages).await;
                }
                told => outcome = told.map_err(refused),
            }
        }
        outcome = outcome.and(self.ack_each(&alone).await);
        outcome.and(if expired { Err(Error::Expired) } else { Ok(()) })
    }

    /// Says that messages are done, each by a request of its own; the first error counts.
    async fn ack_each(&self, messages: &[&Kept]) -> Result<(), Error> {
        let outcomes = join_all(messages.iter().map(|kept| self.ack(kept))).await;
        outcomes.into_iter().collect()
    }

    fn without_batches(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.without_batches.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Hides a message for another time, from now on.
    ///
    /// # Protocol
    /// Java: `ChangeInvisibleTimeProcessor`. The message has a check point of its own from then on; one that was popped in
    /// order keeps its pop time.
    pub(crate) async fn hide(&self, kept: &Kept, invisible: Duration) -> Result<Kept, Error> {
        let invisible_time_ms = check_hidden(invisible)?;
        // It may be somebody else's by now, and to hide it would bring it once more.
        if kept.has_expired() {
            return Err(Error::Expired);
        }
        let handle = &kept.handle;
        let request = ChangeInvisibleTime {
            consumer_group: self.group.clone(),
            topic: handle.source.real_topic(&kept.topic, &self.group),
            queue_id: handle.queue_id,
            extra_info: handle.to_string(),
            offset: handle.offset,
            invisible_time_ms,
            broker_name: Some(handle.broker_name.clone()),
        };
        let changed =
            self.client.change_invisible_time(&handle.broker_name, &request, self.client.request_deadline()).await;
        let hidden = changed.map_err(refused)?;
        if hidden.pop_time_ms == 0 {
            return Err(Error::Expired);
        }
        let handle = ReceiptHandle {
            start_offset: handle.offset,
            pop_time_ms: hidden.pop_time_ms,
            invisible_time_ms: hidden.invisible_time_ms,
            revive_queue_id: hidden.revive_queue_id,
            ..handle.clone()
        };
        Ok(Kept { expires: tokio::time::Instant::now() + invisible, ..Kept::fresh(kept.topic.clone(), handle) })
    }

    /// Makes a message visible again within a second or two, for any member. Where the broker cannot be told, that happens
    /// at the end of its invisible time.
    pub(crate) async fn make_visible(&self, kept: &Kept) {
        if let Err(error) = self.hide(kept, VISIBLE_SOON).await {
            tracing::debug!(handle = %kept, error = &error as &dyn std::error::Error, "message not made visible again");
        }
    }

    /// Puts a message into the group's dead letter queue. It is still to be acknowledged.
    ///
    /// # Protocol
    /// `CONSUMER_SEND_MSG_BACK` (36) with a delay level below 0, as Java's proxy does.
    pub(crate) async fn bury(&self, message: &StoredMessage) -> Result<(), Error> {
        let broker_name = message.broker_name();
        let request = SendBack {
            commit_log_offset: message.commit_log_offset(),
            group: self.group.clone(),
            delay_level: DEAD,
            origin_message_id: Some(message.message_id().into_owned()),
            origin_topic: Some(message.shared_topic().clone()),
            unit_mode: Some(false),
            max_reconsume_times: Some(self.max_reconsume_times),
            broker_name: Some(broker_name.clone()),
        };
        Ok(self.client.send_back(broker_name, &request, self.client.request_deadline()).await?)
    }
}

/// One entry for each check point, and the messages that fit into none: too far from where theirs begins.
fn batch<'a>(group: &str, messages: &[&'a Kept]) -> (Vec<BatchAck>, Vec<&'a Kept>) {
    let mut alone = Vec::new();
    let mut batch: BTreeMap<_, BatchAck> = BTreeMap::new();
    for kept in messages {
        let handle = &kept.handle;
        let distance = handle.offset.checked_sub(handle.start_offset).and_then(|distance| u16::try_from(distance).ok());
        let Some(distance) = distance else {
            alone.push(*kept);
            continue;
        };
        let check_point = (
            kept.topic.clone(),
            handle.source,
            (handle.queue_id, handle.start_offset, handle.pop_time_ms),
            (handle.invisible_time_ms, handle.revive_queue_id),
        );
        let ack = batch.entry(check_point).or_insert_with(|| BatchAck {
            consumer_group: group.to_owned(),
            topic: kept.topic.to_string(),
            retry: handle.source.flag().to_owned(),
            start_offset: handle.start_offset,
            queue_id: handle.queue_id,
            revive_queue_id: handle.revive_queue_id,
            pop_time_ms: handle.pop_time_ms,
            invisible_time_ms: handle.invisible_time_ms,
            offsets: OffsetBits::default(),
        });
        ack.offsets.insert(distance);
    }
    (batch.into_values().collect(), alone)
}

/// What a broker says that knows of no such delivery.
fn refused(error: ClientError) -> Error {
    match error.response_code() {
        Some(ResponseCode::MESSAGE_ILLEGAL | ResponseCode::NO_MESSAGE) => Error::HandleRefused { source: error },
        _ => error.into(),
    }
}

/// Brokers look in steps of a second.
const VISIBLE_SOON: Duration = Duration::from_secs(1);
/// Below any delay level: the message does not come again.
const DEAD: i32 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(handle: &str) -> Kept {
        Kept::parse(handle).unwrap()
    }

    #[test]
    fn messages_of_a_check_point_share_an_entry() {
        let all = [
            "10 9000 60000 3 0 b 1 10 t",
            "10 9000 60000 3 0 b 1 12 t",
            "10 9000 60000 3 0 b 2 10 t",
            "10 9000 60000 3 1 b 1 10 t",
            "10 9000 60000 3 0 b 1 10 u",
            "10 9001 60000 3 0 b 1 10 t",
            "12 9000 60000 3 0 b 1 12 t",
        ]
        .map(kept);
        let (acks, alone) = batch("g", &all.iter().collect::<Vec<_>>());
        assert_eq!((acks.len(), alone.len()), (6, 0));
        let of_first = acks.iter().find(|ack| ack.offsets.iter().count() == 2).unwrap();
        assert_eq!(of_first.offsets.iter().collect::<Vec<_>>(), [0, 2]);
        assert_eq!((of_first.topic.as_str(), of_first.retry.as_str(), of_first.queue_id), ("t", "0", 1));
    }

    #[test]
    fn what_fits_into_no_entry_goes_alone() {
        let all = [
            "10 9000 60000 3 0 b 1 9 t",
            "0 9000 60000 3 0 b 1 65536 t",
            "0 9000 60000 3 0 b 1 9223372036854775807 t",
            "0 9000 60000 3 0 b 1 65535 t",
        ]
        .map(kept);
        let (acks, alone) = batch("g", &all.iter().collect::<Vec<_>>());
        assert_eq!((acks.len(), alone.len()), (1, 3));
    }
}
