//! What is done with a message that its broker does not take back: it is sent to the group's retry topic as a new one.

use crate::member::Member;
use rocketmq_common::{
    Error, MessageQueue, StoredMessage,
    message::{
        names::{AUTO_CREATE_TOPIC, retry_topic},
        properties::{Properties, property},
    },
    protocol::SendMessage,
    random::random_below,
    remote::Deadline,
};
use std::{collections::HashSet, sync::Arc, time::Duration};

impl Member {
    /// Sends a message to the retry topic of the group, to come again later, or to be a dead letter. Brokers other than
    /// its own, which has just refused it, go first.
    ///
    /// # Errors
    /// What the last broker asked had to say.
    ///
    /// # Protocol
    /// Java: `DefaultMQPushConsumerImpl.sendMessageBackAsNormalMessage`.
    pub(crate) async fn send_again(&self, message: &StoredMessage, delay_level: i32) -> Result<(), Error> {
        let topic: Arc<str> = retry_topic(&self.group).into();
        let route = self.client.route(&topic).await?;
        let refused_by = self.client.broker_of(&message.queue());
        let mut request = new_message(message, topic, self.max_reconsume_times(), delay_level);
        request.unit_mode = Some(self.client.config().unit_mode);
        let mut failure = Error::BrokerNotFound { broker_name: refused_by.clone() };
        let first = random_below(route.write_queues().len());
        for queue in in_turn(route.write_queues(), &refused_by, first) {
            (request.queue_id, request.broker_name) = (queue.queue_id, Some(queue.broker_name.clone()));
            let (body, deadline) = (message.body().clone(), Deadline::after(TIMEOUT));
            match self.client.send_message(&queue.broker_name, &request, body, deadline).await {
                Ok(_) => {
                    tracing::info!(
                        group = %self.group, topic = message.topic(), message_id = %message.printable_id(), to = %queue,
                        "message sent to the retry topic"
                    );
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(to = %queue, error = &error as &dyn std::error::Error, "not sent");
                    failure = error;
                }
            }
        }
        Err(failure)
    }
}

/// One queue of each broker, beginning at `first`; that of `last` comes last.
fn in_turn<'a>(queues: &'a [MessageQueue], last: &str, first: usize) -> Vec<&'a MessageQueue> {
    let (before, after) = queues.split_at(first.min(queues.len()));
    let mut met = HashSet::new();
    let mut turns: Vec<_> = after.iter().chain(before).filter(|queue| met.insert(&queue.broker_name)).collect();
    // Stable: the others stay as they are.
    turns.sort_by_key(|queue| *queue.broker_name == *last);
    turns.truncate(MOST_BROKERS);
    turns
}

/// The message as one of the retry topic.
///
/// # Protocol
/// The broker makes a dead letter of a message that has been consumed in vain more often than it may be (4.9.7: as often
/// as), and of any while the group holds locks there (since 5.2). It finds both numbers in the header.
fn new_message(message: &StoredMessage, topic: Arc<str>, limit: i32, delay_level: i32) -> SendMessage {
    let times = message.reconsume_times();
    let is_dead = delay_level < 0 || times >= limit;
    let mut properties = Properties::from(message.properties_text().to_owned());
    properties.remove(property::TRAN_MSG);
    if properties.get(property::RETRY_TOPIC).is_none() {
        properties.set(property::RETRY_TOPIC, message.topic());
    }
    if properties.get(property::ORIGIN_MESSAGE_ID).is_none() {
        properties.set(property::ORIGIN_MESSAGE_ID, &message.offset_id());
    }
    match is_dead {
        true => _ = properties.remove(property::DELAY),
        false => {
            let level = if delay_level == 0 { times.saturating_add(FIRST_LEVEL) } else { delay_level };
            properties.set(property::DELAY, &level.to_string());
        }
    }
    SendMessage {
        producer_group: PRODUCER_GROUP.into(),
        topic,
        default_topic: AUTO_CREATE_TOPIC.into(),
        default_topic_queue_nums: 1,
        queue_id: 0,
        // Other members may be able to decompress what this one is not.
        sys_flag: if message.is_compressed() { message.sys_flag() & COMPRESSION_BITS } else { 0 },
        born_timestamp_ms: message.born_timestamp_ms(),
        flag: message.flag(),
        properties: Some(properties.into_string()),
        reconsume_times: Some(times.saturating_add(1)),
        unit_mode: None,
        // Dead before its time, it is over the limit all the same. One that is not dead stays below that of 4.9.7.
        max_reconsume_times: Some(if is_dead { times.min(limit) } else { limit.max(times.saturating_add(2)) }),
        batch: Some(false),
        broker_name: None,
    }
}

/// Bits of the system flag that say whether and how a body is compressed.
const COMPRESSION_BITS: i32 = 0x701;
/// Under which Java's consumers send. Java: `MixAll.CLIENT_INNER_PRODUCER_GROUP`.
const PRODUCER_GROUP: &str = "CLIENT_INNER_PRODUCER";
/// The delay level of the first retry.
const FIRST_LEVEL: i32 = 3;
/// How long one broker may take. Java: `DefaultMQProducer.sendMsgTimeout`.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Java: `DefaultMQProducer.retryTimesWhenSendFailed`, and one.
const MOST_BROKERS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use rocketmq_common::message::{DecodeLimits, Record, decode_records};

    fn stored(reconsume_times: i32, properties: &str) -> StoredMessage {
        let host = "127.0.0.1:10911".parse().unwrap();
        let record = Record {
            topic: "t",
            queue_id: 1,
            queue_offset: 2,
            commit_log_offset: 3,
            flag: 7,
            sys_flag: 0x8,
            born_timestamp_ms: 4,
            born_host: host,
            store_timestamp_ms: 5,
            store_host: host,
            reconsume_times,
            prepared_transaction_offset: 0,
            body: b"body",
            properties,
        };
        let mut bytes = BytesMut::new();
        record.encode(&mut bytes).unwrap();
        let limits = DecodeLimits::default();
        decode_records(bytes.freeze(), &"t".into(), &"a".into(), limits).next().unwrap().unwrap()
    }

    fn properties(request: &SendMessage) -> Properties {
        Properties::from(request.properties.clone().unwrap())
    }

    #[test]
    fn a_message_goes_on_as_one_that_has_been_consumed_once_more() {
        let message = stored(2, "UNIQ_KEY\u{1}id\u{2}TRAN_MSG\u{1}true\u{2}colour\u{1}blue\u{2}");
        let request = new_message(&message, "%RETRY%g".into(), 16, 0);
        assert_eq!((request.reconsume_times, request.max_reconsume_times), (Some(3), Some(16)));
        assert_eq!((request.flag, request.sys_flag, request.born_timestamp_ms), (7, 0, 4));
        let properties = properties(&request);
        let get = |name| properties.get(name);
        assert_eq!((get("UNIQ_KEY"), get("colour"), get("TRAN_MSG")), (Some("id"), Some("blue"), None));
        assert_eq!((get("DELAY"), get("RETRY_TOPIC")), (Some("5"), Some("t")));
        assert_eq!(get("ORIGIN_MESSAGE_ID"), Some(message.offset_id().as_str()));
        assert_eq!((get("RECONSUME_TIME"), get("MAX_RECONSUME_TIMES")), (None, None), "they travel in the header");
    }

    #[test]
    fn where_it_came_from_first_is_kept_and_a_level_of_ones_choice_counts() {
        let text = "RETRY_TOPIC\u{1}first\u{2}ORIGIN_MESSAGE_ID\u{1}origin\u{2}DELAY\u{1}9\u{2}";
        let properties = properties(&new_message(&stored(1, text), "%RETRY%g".into(), 16, 4));
        let get = |name| properties.get(name);
        assert_eq!(
            (get("RETRY_TOPIC"), get("ORIGIN_MESSAGE_ID"), get("DELAY")),
            (Some("first"), Some("origin"), Some("4"))
        );
    }

    /// Whether a broker makes a dead letter of it: of 5.x, and of 4.9.7.
    fn dies(message: &StoredMessage, limit: i32, delay_level: i32) -> (bool, bool) {
        let request = new_message(message, "%RETRY%g".into(), limit, delay_level);
        let (times, limit) = (request.reconsume_times.unwrap(), request.max_reconsume_times.unwrap());
        (times > limit, times >= limit)
    }

    #[test]
    fn brokers_of_all_versions_find_the_same_messages_dead() {
        for (times, limit, level, is_dead) in [
            (0, 16, 0, false),
            (14, 16, 0, false),
            (15, 16, 0, false),
            (16, 16, 0, true),
            (17, 16, 0, true),
            (0, 0, 0, true),
            (0, 16, -1, true),
            (3, i32::MAX, -1, true),
            (3, i32::MAX, 0, false),
        ] {
            let message = stored(times, "DELAY\u{1}9\u{2}");
            assert_eq!(dies(&message, limit, level), (is_dead, is_dead), "{times} of {limit}, level {level}");
            let delay = properties(&new_message(&message, "t".into(), limit, level)).get("DELAY").map(str::to_owned);
            assert_eq!(delay.is_none(), is_dead, "{times} of {limit}, level {level}");
        }
    }

    #[test]
    fn each_broker_has_one_turn_and_the_one_that_refused_the_last() {
        let queue = |(name, id): (&str, i32)| MessageQueue::new("t", name, id);
        let queues: Vec<_> = [("a", 0), ("a", 1), ("b", 0), ("c", 0)].map(queue).into();
        let turns = |last, first| {
            let turns = in_turn(&queues, last, first).into_iter();
            turns.map(|queue| format!("{}{}", queue.broker_name, queue.queue_id)).collect::<Vec<_>>()
        };
        assert_eq!(turns("a", 0), ["b0", "c0", "a0"]);
        assert_eq!(turns("b", 1), ["a1", "c0", "b0"]);
        assert_eq!(turns("elsewhere", 3), ["c0", "a0", "b0"]);
        assert!(in_turn(&[], "a", 0).is_empty());
    }
}
