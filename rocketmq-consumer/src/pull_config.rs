use crate::{PushConfig, StartAt};
use rocketmq_common::ClientConfig;
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// Where to go on in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At an offset, from the first the queue still holds up to the next to be written.
    Offset(i64),
    /// At the first message the queue still holds.
    Begin,
    /// At the end: only messages that come from now on.
    End,
    /// At the first message stored at or after a moment; at the end where all are older. Brokers of 4.9 tell the message
    /// that is closest instead.
    Timestamp(SystemTime),
}

/// How a pull consumer fetches.
///
/// ```
/// use rocketmq_consumer::{PullConfig, StartAt};
///
/// let config = PullConfig { auto_commit: false, start_at: StartAt::First, ..Default::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullConfig {
    /// Whether a poll says that what the polls before it answered is done. Else
    /// [`commit`](crate::PullConsumer::commit) says so. Default true.
    pub auto_commit: bool,
    /// How often offsets that follow from polls are recorded. Above 0; default 1 s. They are also recorded when a queue goes to
    /// another member, and at the end.
    #[serde(with = "rocketmq_common::duration")]
    pub commit_interval: Duration,
    /// Where a group without a recorded offset begins. Default [`StartAt::Last`].
    pub start_at: StartAt,
    /// Most messages of one queue fetched ahead, 1 or more; the last pull may go beyond. Default 1000.
    pub max_messages_per_queue: usize,
    /// Most body bytes of one queue fetched ahead. Default 100 MiB.
    pub max_bytes_per_queue: usize,
    /// Most bytes of a body after it is decompressed, 1 or more: a message with a larger one cannot be decoded, and is
    /// [`Error::Undecodable`](crate::Error::Undecodable). Default 64 MiB.
    pub max_body_bytes: usize,
    /// Most messages of one topic fetched ahead, 1 or more: its queues share the number. Default: no such limit.
    pub max_messages_per_topic: Option<usize>,
    /// Most body bytes of one topic fetched ahead, 1 or more. Default: no such limit.
    pub max_bytes_per_topic: Option<usize>,
    /// Most messages asked for in one pull, and so answered by one poll, 1 to 1024; brokers give 32 at most by default.
    /// Default 32.
    pub pull_batch: i32,
    /// How long a broker may hold a pull while there is no message, 1 ms to 10 min. Default 15 s.
    #[serde(with = "rocketmq_common::duration")]
    pub long_poll: Duration,
    /// How often the queues are shared out anew even if nothing was heard. Above 0; default 20 s.
    #[serde(with = "rocketmq_common::duration")]
    pub rebalance_interval: Duration,
    /// How long a queue that goes to another member waits for the next poll to say that the last one's messages are
    /// done. All members need the same: a member that is given a queue waits as long, and half a second more, before
    /// it fetches from it, unless it is alone. Default 1 s.
    #[serde(with = "rocketmq_common::duration")]
    pub revoke_timeout: Duration,
    /// How long [`shutdown`](crate::PullConsumer::shutdown) may take. Default 10 s.
    #[serde(with = "rocketmq_common::duration")]
    pub shutdown_timeout: Duration,
    /// Where a [broadcast](crate::PullConsumerBuilder::broadcast) consumer keeps its offsets, in
    /// `<client id>/<group>/offsets.json`. Default: `.rocketmq_offsets` in the home directory, as in Java.
    pub offset_dir: Option<PathBuf>,
    /// What goes for any client.
    pub client: ClientConfig,
}

impl Default for PullConfig {
    fn default() -> Self {
        let PushConfig {
            commit_interval,
            start_at,
            max_messages_per_queue,
            max_bytes_per_queue,
            max_body_bytes,
            max_messages_per_topic,
            max_bytes_per_topic,
            pull_batch,
            long_poll,
            rebalance_interval,
            revoke_timeout,
            shutdown_timeout,
            offset_dir,
            client,
            ..
        } = PushConfig::default();
        Self {
            auto_commit: true,
            commit_interval,
            start_at,
            max_messages_per_queue,
            max_bytes_per_queue,
            max_body_bytes,
            max_messages_per_topic,
            max_bytes_per_topic,
            pull_batch,
            long_poll,
            rebalance_interval,
            revoke_timeout,
            shutdown_timeout,
            offset_dir,
            client,
        }
    }
}

impl PullConfig {
    /// As a member of a group takes it. Messages leave the window one after the other, so it cannot grow wide.
    pub(crate) fn into_member(self) -> PushConfig {
        PushConfig {
            commit_interval: self.commit_interval,
            start_at: self.start_at,
            max_messages_per_queue: self.max_messages_per_queue,
            max_bytes_per_queue: self.max_bytes_per_queue,
            max_body_bytes: self.max_body_bytes,
            max_span_per_queue: i64::MAX,
            max_messages_per_topic: self.max_messages_per_topic,
            max_bytes_per_topic: self.max_bytes_per_topic,
            pull_batch: self.pull_batch,
            long_poll: self.long_poll,
            rebalance_interval: self.rebalance_interval,
            revoke_timeout: self.revoke_timeout,
            shutdown_timeout: self.shutdown_timeout,
            offset_dir: self.offset_dir,
            client: self.client,
            ..PushConfig::default()
        }
    }
}
