use crate::{Error, StartAt};
use rocketmq_common::ClientConfig;
use serde::{Deserialize, Serialize};
use std::{ops::RangeInclusive, time::Duration};

/// How a pop consumer consumes.
///
/// ```
/// use rocketmq_consumer::{PopConfig, StartAt};
///
/// let config = PopConfig { start_at: StartAt::First, is_ordered: true, ..Default::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PopConfig {
    /// Where a new group begins: [`StartAt::First`] or [`StartAt::Last`], which is the default. A moment is refused: a
    /// pop has no word for it. "Last" brings the last message that is there already, and where a broker holds the first
    /// message of a queue in memory the whole queue.
    pub start_at: StartAt,
    /// Whether messages come in the order of their queue: it gives nothing before all that was popped from it is
    /// acknowledged, or comes again. All members of a group say the same. Default false.
    pub is_ordered: bool,
    /// How often a message that was not acknowledged comes again before it goes to the dead letter queue, 0 or more; 0
    /// sends it there when it would come the second time. Default 16.
    pub max_reconsume_times: i32,
    /// Most bytes of a body after it is decompressed, 1 or more: a message with a larger one counts as one that cannot be
    /// decoded, and comes again until it is a dead letter. Default 64 MiB.
    pub max_body_bytes: usize,
    /// How long [`receive`](crate::PopConsumer::receive) waits while there is no message, up to 10 min; 0 not at all.
    /// Default 15 s.
    #[serde(with = "rocketmq_common::duration")]
    pub long_poll: Duration,
    /// How long [`shutdown`](crate::PopConsumer::shutdown) waits for dead letters that are under way. Default 10 s.
    #[serde(with = "rocketmq_common::duration")]
    pub shutdown_timeout: Duration,
    /// What goes for any client.
    pub client: ClientConfig,
}

impl Default for PopConfig {
    fn default() -> Self {
        Self {
            start_at: StartAt::default(),
            is_ordered: false,
            max_reconsume_times: 16,
            max_body_bytes: 64 * 1024 * 1024,
            long_poll: Duration::from_secs(15),
            shutdown_timeout: Duration::from_secs(10),
            client: ClientConfig::default(),
        }
    }
}

impl PopConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let moment = matches!(self.start_at, StartAt::Timestamp(_));
        check(!moment, "start_at", "is a moment, and a pop begins with the first or the last message")?;
        check(self.max_reconsume_times >= 0, "max_reconsume_times", "is below 0")?;
        check(self.max_body_bytes > 0, "max_body_bytes", "is 0")?;
        check(self.long_poll <= LONGEST_POLL, "long_poll", "is above 10 min")
    }
}

/// Most messages a broker gives at once.
pub(crate) fn check_max(max: usize) -> Result<i32, Error> {
    check((1..=MOST_MESSAGES).contains(&max), "max", "is not from 1 to 32")?;
    Ok(i32::try_from(max).unwrap_or(i32::MAX))
}

/// How long messages may be hidden when they are popped.
pub(crate) fn check_invisible(time: Duration) -> Result<i64, Error> {
    check(INVISIBLE.contains(&time), "invisible time", "is not from 1 s to 12 h")?;
    Ok(millis(time))
}

/// How long messages may be hidden from now on.
pub(crate) fn check_hidden(time: Duration) -> Result<i64, Error> {
    check(time <= *INVISIBLE.end(), "invisible time", "is above 12 h")?;
    Ok(millis(time))
}

pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn check(good: bool, option: &'static str, message: &'static str) -> Result<(), Error> {
    match good {
        true => Ok(()),
        false => Err(Error::Client(rocketmq_common::Error::Config { option, message })),
    }
}

/// Java: `PopMessageProcessor` refuses more.
const MOST_MESSAGES: usize = 32;
/// Brokers count the time in seconds, roughly. Java: `maxInvisibleTimeMills` of its proxy.
const INVISIBLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(12 * 3600);
const LONGEST_POLL: Duration = Duration::from_secs(600);
