use crate::Error;
use rocketmq_common::{ClientConfig, protocol::ConsumeFrom};
use serde::{Deserialize, Serialize, Serializer};
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// Where a group begins in a queue in which it has recorded no offset yet. The offset is recorded as soon as it is
/// chosen. In its retry topic a group begins with the first message, whichever of these it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartAt {
    /// At the end: only messages that come from now on. A queue that appears while a consumer runs, or after a broadcast
    /// consumer has recorded offsets of its topic, begins with its first message, and so does a topic that did not exist
    /// when the consumer started. A broker still gives a new group the whole of a queue whose first message it holds in
    /// memory, as it does with Java consumers.
    #[default]
    Last,
    /// At the first message the queue still holds.
    First,
    /// At the first message stored at or after a moment. One before 1970 is as good as 1970, and is written down as that.
    Timestamp(#[serde(serialize_with = "since_epoch")] SystemTime),
}

/// Serializes a moment; serde refuses those before 1970, when no message was stored.
fn since_epoch<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    (*time).max(SystemTime::UNIX_EPOCH).serialize(serializer)
}

impl StartAt {
    pub(crate) fn on_the_wire(self) -> ConsumeFrom {
        match self {
            Self::Last => ConsumeFrom::LastOffset,
            Self::First => ConsumeFrom::FirstOffset,
            Self::Timestamp(_) => ConsumeFrom::Timestamp,
        }
    }

    /// Java: `ConsumeFromWhere`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Last => "CONSUME_FROM_LAST_OFFSET",
            Self::First => "CONSUME_FROM_FIRST_OFFSET",
            Self::Timestamp(_) => "CONSUME_FROM_TIMESTAMP",
        }
    }
}

/// How a push consumer consumes.
///
/// ```
/// use rocketmq_consumer::{PushConfig, StartAt};
///
/// let config = PushConfig { concurrency: 64, start_at: StartAt::First, ..Default::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// Most listener calls at once, 1 to 100000. Default 20.
    /// [`set_concurrency`](crate::PushConsumer::set_concurrency) changes it later.
    pub concurrency: usize,
    /// Most messages a call of a [`batch_listener`](crate::PushConsumerBuilder::batch_listener), 1 to 1024. They are of
    /// one queue and of one pull. Default 1; more is an error for a listener of single messages.
    pub consume_batch: usize,
    /// How long a call of a concurrent listener may take before its messages are given back, to come again later, and
    /// no longer hold the offset of their queue up. The call itself goes on. Above 0; default 15 min.
    #[serde(with = "rocketmq_common::duration")]
    pub consume_timeout: Duration,
    /// How long a queue that is consumed in order waits after a failure; less than 10 ms counts as 10 ms, more than 30 s
    /// as 30 s. Default 1 s.
    #[serde(with = "rocketmq_common::duration")]
    pub suspend_time: Duration,
    /// Where a group without a recorded offset begins. Default [`StartAt::Last`].
    pub start_at: StartAt,
    /// How often a message that failed comes again before it goes to the dead letter queue, 0 or more; 0 sends it there at
    /// once. Default: 16 times to a concurrent listener, to an ordered one without end.
    pub max_reconsume_times: Option<i32>,
    /// Most messages of one queue fetched and not done, 1 or more; the last pull may go beyond. Default 1000.
    pub max_messages_per_queue: usize,
    /// Most body bytes of one queue fetched and not done, 1 or more; the last pull may go beyond. Compressed bodies are
    /// decompressed as far as there is room for them, and one at least. Default 100 MiB.
    pub max_bytes_per_queue: usize,
    /// Most bytes of a body after it is decompressed, 1 or more: a message with a larger one counts as one that cannot be
    /// decoded, which fails and is sent back to the broker. Default 64 MiB.
    pub max_body_bytes: usize,
    /// Greatest distance between the first and the last offset of one queue fetched and not done: how far the others
    /// may run ahead of one slow message. 1 or more; the last pull may go beyond. Default 2000.
    pub max_span_per_queue: i64,
    /// Most messages of one topic fetched by this member and not done: its queues share the number, so that it stays the
    /// same when queues come and go. Counts beside [`max_messages_per_queue`](Self::max_messages_per_queue). Default: no
    /// such limit.
    pub max_messages_per_topic: Option<usize>,
    /// Most body bytes of one topic fetched by this member and not done, as
    /// [`max_messages_per_topic`](Self::max_messages_per_topic). Default: no such limit.
    pub max_bytes_per_topic: Option<usize>,
    /// Most messages asked for in one pull, 1 to 1024; brokers give 32 at most by default. Default 32.
    pub pull_batch: i32,
    /// How long a popped message is hidden from the group before it has to be hidden anew, which this consumer does by
    /// itself: it comes again after so long if this consumer dies. 5 s to 5 min. Only where brokers have the group
    /// [pop](crate::PushConsumerBuilder::allocate_by_broker). Default 1 min.
    #[serde(with = "rocketmq_common::duration")]
    pub pop_invisible_time: Duration,
    /// Most messages asked for in one pop, 1 to 32; where brokers have the group
    /// [pop](crate::PushConsumerBuilder::allocate_by_broker). Of one queue no more than 96 are then popped ahead. Default 32.
    pub pop_batch: i32,
    /// How long a broker may hold a pull while there is no message, 1 ms to 10 min. Default 15 s.
    #[serde(with = "rocketmq_common::duration")]
    pub long_poll: Duration,
    /// How often offsets are recorded. Above 0; default 1 s. They are also recorded when a queue is given up, and at the end.
    #[serde(with = "rocketmq_common::duration")]
    pub commit_interval: Duration,
    /// How often the queues are shared out anew even if nothing was heard. Above 0; default 20 s.
    #[serde(with = "rocketmq_common::duration")]
    pub rebalance_interval: Duration,
    /// How long a queue that goes to another member waits for the messages in hand, so that they are not consumed
    /// twice. All members need the same: a member that is given a queue waits as long, and half a second more, before
    /// it consumes from it, unless it is alone or consumes in order. Default 1 s.
    #[serde(with = "rocketmq_common::duration")]
    pub revoke_timeout: Duration,
    /// How long [`shutdown`](crate::PushConsumer::shutdown) waits for the messages in hand. Default 10 s.
    #[serde(with = "rocketmq_common::duration")]
    pub shutdown_timeout: Duration,
    /// Where a [broadcast](crate::PushConsumerBuilder::broadcast) consumer keeps its offsets, in
    /// `<client id>/<group>/offsets.json`. Default: `.rocketmq_offsets` in the home directory, as in Java.
    pub offset_dir: Option<PathBuf>,
    /// What goes for any client.
    pub client: ClientConfig,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            concurrency: 20,
            consume_batch: 1,
            consume_timeout: Duration::from_secs(15 * 60),
            suspend_time: Duration::from_secs(1),
            start_at: StartAt::default(),
            max_reconsume_times: None,
            max_messages_per_queue: 1000,
            max_bytes_per_queue: 100 * 1024 * 1024,
            max_body_bytes: 64 * 1024 * 1024,
            max_span_per_queue: 2000,
            max_messages_per_topic: None,
            max_bytes_per_topic: None,
            pull_batch: 32,
            pop_invisible_time: Duration::from_secs(60),
            pop_batch: 32,
            long_poll: Duration::from_secs(15),
            commit_interval: Duration::from_secs(1),
            rebalance_interval: Duration::from_secs(20),
            revoke_timeout: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(10),
            offset_dir: None,
            client: ClientConfig::default(),
        }
    }
}

impl PushConfig {
    /// How often a message that failed comes again.
    ///
    /// # Protocol
    /// Java: `DefaultMQPushConsumerImpl.getMaxReconsumeTimes`.
    pub(crate) fn reconsume_limit(&self, is_ordered: bool) -> i32 {
        self.max_reconsume_times.unwrap_or(if is_ordered { i32::MAX } else { DEFAULT_RECONSUME_TIMES })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let check = |good: bool, option, message| match good {
            true => Ok(()),
            false => Err(Error::Client(rocketmq_common::Error::Config { option, message })),
        };
        check((1..=100_000).contains(&self.concurrency), "concurrency", "is not from 1 to 100000")?;
        check((1..=1024).contains(&self.consume_batch), "consume_batch", "is not from 1 to 1024")?;
        check(!self.consume_timeout.is_zero(), "consume_timeout", "is 0")?;
        check(self.max_reconsume_times.is_none_or(|times| times >= 0), "max_reconsume_times", "is below 0")?;
        check(self.max_messages_per_queue > 0, "max_messages_per_queue", "is 0")?;
        check(self.max_bytes_per_queue > 0, "max_bytes_per_queue", "is 0")?;
        check(self.max_body_bytes > 0, "max_body_bytes", "is 0")?;
        check(self.max_span_per_queue > 0, "max_span_per_queue", "is not above 0")?;
        check(self.max_messages_per_topic != Some(0), "max_messages_per_topic", "is 0")?;
        check(self.max_bytes_per_topic != Some(0), "max_bytes_per_topic", "is 0")?;
        check((1..=1024).contains(&self.pull_batch), "pull_batch", "is not from 1 to 1024")?;
        let invisible = Duration::from_secs(5)..=Duration::from_secs(300);
        check(invisible.contains(&self.pop_invisible_time), "pop_invisible_time", "is not from 5 s to 5 min")?;
        check((1..=32).contains(&self.pop_batch), "pop_batch", "is not from 1 to 32")?;
        let long_poll = Duration::from_millis(1)..=Duration::from_secs(600);
        check(long_poll.contains(&self.long_poll), "long_poll", "is not from 1 ms to 10 min")?;
        check(!self.commit_interval.is_zero(), "commit_interval", "is 0")?;
        check(!self.rebalance_interval.is_zero(), "rebalance_interval", "is 0")
    }
}

const DEFAULT_RECONSUME_TIMES: i32 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PopConfig, PullConfig};
    use serde_json::{Value, json};

    /// The option for which a check refuses.
    fn refused(outcome: Result<(), Error>) -> Option<&'static str> {
        match outcome {
            Ok(()) => None,
            Err(Error::Client(rocketmq_common::Error::Config { option, .. })) => Some(option),
            Err(error) => panic!("{error}"),
        }
    }

    /// A configuration with one option changed.
    fn with<C: Serialize + serde::de::DeserializeOwned + Default>(option: &str, value: &Value) -> C {
        let mut json = serde_json::to_value(C::default()).unwrap();
        assert!(json.get(option).is_some(), "there is no option {option}");
        json[option] = value.clone();
        serde_json::from_value(json).unwrap()
    }

    /// Options with values at their documented limits, and values beyond these.
    const OF_ALL: &[(&str, &[&str], &[&str])] = &[
        ("max_messages_per_queue", &["1"], &["0"]),
        ("max_bytes_per_queue", &["1"], &["0"]),
        ("max_messages_per_topic", &["1", "null"], &["0"]),
        ("max_bytes_per_topic", &["1", "null"], &["0"]),
        ("max_body_bytes", &["1"], &["0"]),
        ("pull_batch", &["1", "1024"], &["0", "1025", "-1"]),
        ("long_poll", &["\"1ms\"", "\"10m\""], &["\"999us\"", "\"10m 1ms\""]),
        ("commit_interval", &["\"1ns\""], &["\"0s\""]),
        ("rebalance_interval", &["\"1ns\""], &["\"0s\""]),
    ];
    const OF_PUSH: &[(&str, &[&str], &[&str])] = &[
        ("concurrency", &["1", "100000"], &["0", "100001"]),
        ("consume_batch", &["1", "1024"], &["0", "1025"]),
        ("consume_timeout", &["\"1ns\""], &["\"0s\""]),
        ("max_reconsume_times", &["0", "null"], &["-1"]),
        ("max_span_per_queue", &["1"], &["0", "-1"]),
        ("pop_invisible_time", &["\"5s\"", "\"5m\""], &["\"4s 999ms\"", "\"5m 1ms\""]),
        ("pop_batch", &["1", "32"], &["0", "33"]),
    ];
    const OF_POP: &[(&str, &[&str], &[&str])] = &[
        ("start_at", &["\"First\"", "\"Last\""], &[r#"{"Timestamp":{"secs_since_epoch":0,"nanos_since_epoch":0}}"#]),
        ("max_reconsume_times", &["0"], &["-1"]),
        ("max_body_bytes", &["1"], &["0"]),
        ("long_poll", &["\"0s\"", "\"10m\""], &["\"10m 1ms\""]),
    ];

    fn check_limits<C: Serialize + serde::de::DeserializeOwned + Default>(
        limits: &[(&'static str, &[&str], &[&str])],
        check: impl Fn(C) -> Result<(), Error>,
    ) {
        for (option, within, beyond) in limits {
            let outcome = |value: &str| refused(check(with(option, &serde_json::from_str(value).unwrap())));
            for value in *within {
                assert_eq!(outcome(value), None, "{option} = {value}");
            }
            for value in *beyond {
                assert_eq!(outcome(value), Some(*option), "{option} = {value}");
            }
        }
    }

    #[test]
    fn values_at_their_documented_limits_are_accepted_and_those_beyond_are_refused() {
        check_limits(OF_ALL, |config: PushConfig| config.check());
        check_limits(OF_PUSH, |config: PushConfig| config.check());
        check_limits(OF_ALL, |config: PullConfig| config.into_member().check());
        check_limits(OF_POP, |config: PopConfig| config.check());
    }

    /// A configuration as JSON, without what goes for any client, once it has been read back.
    fn defaults<C: Serialize + serde::de::DeserializeOwned + Default + PartialEq>() -> Value {
        let mut json = serde_json::to_value(C::default()).unwrap();
        assert!(serde_json::from_value::<C>(json.clone()).unwrap() == C::default());
        assert!(!json.to_string().contains("secs"), "{json}");
        json["client"].take();
        json
    }

    #[test]
    fn defaults_are_as_documented_and_times_are_short_texts() {
        let of_push = json!({
            "concurrency": 20,
            "consume_batch": 1,
            "consume_timeout": "15m",
            "suspend_time": "1s",
            "start_at": "Last",
            "max_reconsume_times": null,
            "max_messages_per_queue": 1000,
            "max_bytes_per_queue": 100 << 20,
            "max_body_bytes": 64 << 20,
            "max_span_per_queue": 2000,
            "max_messages_per_topic": null,
            "max_bytes_per_topic": null,
            "pull_batch": 32,
            "pop_invisible_time": "1m",
            "pop_batch": 32,
            "long_poll": "15s",
            "commit_interval": "1s",
            "rebalance_interval": "20s",
            "revoke_timeout": "1s",
            "shutdown_timeout": "10s",
            "offset_dir": null,
            "client": null,
        });
        assert_eq!(defaults::<PushConfig>(), of_push);
        let of_pull = defaults::<PullConfig>();
        for (option, value) in of_pull.as_object().unwrap() {
            let expected = if option == "auto_commit" { &Value::Bool(true) } else { &of_push[option] };
            assert_eq!(value, expected, "{option}");
        }
        let of_pop = json!({
            "start_at": "Last",
            "is_ordered": false,
            "max_reconsume_times": 16,
            "max_body_bytes": 64 << 20,
            "long_poll": "15s",
            "shutdown_timeout": "10s",
            "client": null,
        });
        assert_eq!(defaults::<PopConfig>(), of_pop);
        assert_eq!(PushConfig::default().reconsume_limit(false), 16);
        assert_eq!(PushConfig::default().reconsume_limit(true), i32::MAX);
    }

    #[test]
    fn a_start_before_1970_is_written_down_as_1970() {
        let hour = Duration::from_secs(3600);
        let written = |time| serde_json::to_string(&StartAt::Timestamp(time)).unwrap();
        assert_eq!(written(SystemTime::UNIX_EPOCH - hour), written(SystemTime::UNIX_EPOCH));
        let later = StartAt::Timestamp(SystemTime::UNIX_EPOCH + hour);
        assert_eq!(serde_json::from_str::<StartAt>(&serde_json::to_string(&later).unwrap()).unwrap(), later);
    }
}
