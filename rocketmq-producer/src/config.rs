use crate::{Error, FaultTolerance};
use rocketmq_common::{
    ClientConfig,
    compress::Compression,
    remote::{MAX_FRAME_BYTES, ResponseCode},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a producer sends.
///
/// ```
/// use rocketmq_producer::ProducerConfig;
/// use std::time::Duration;
///
/// let config = ProducerConfig { retries: 4, send_timeout: Duration::from_secs(5), ..Default::default() };
/// // Single sends are gathered into batches, for 5 ms or 64 KiB.
/// let gathering = ProducerConfig { linger: Duration::from_millis(5), linger_bytes: 64 * 1024, ..config };
/// // Bodies of 1 KiB and more are compressed.
/// use rocketmq_producer::Compression;
/// let compressing = ProducerConfig { compression: Some(Compression::Zlib), compress_from_bytes: 1024, ..gathering };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProducerConfig {
    /// The time for one send, all its attempts together. At least 1 ms; default 3 s.
    #[serde(with = "rocketmq_common::duration")]
    pub send_timeout: Duration,
    /// How many more attempts a failed send gets. Default 2. While another broker could take the message, an attempt
    /// gets half of the time that is left, so that a silent broker leaves time for the next one.
    pub retries: u32,
    /// The longest time for one attempt while another one may follow. Default: none but what [`retries`](Self::retries)
    /// says. Java: `sendMsgMaxTimeoutPerRequest`.
    #[serde(with = "rocketmq_common::duration::option")]
    pub attempt_timeout: Option<Duration>,
    /// The broker's answers that are worth another attempt. Default, as in Java: SYSTEM_ERROR, SYSTEM_BUSY,
    /// SERVICE_NOT_AVAILABLE, NO_PERMISSION, TOPIC_NOT_EXIST, NO_BUYER_ID, NOT_IN_CURRENT_UNIT, GO_AWAY; and
    /// FLOW_CONTROL, at which Java gives up. After SYSTEM_BUSY, where no other broker is left to try, and after
    /// FLOW_CONTROL in any case, the next attempt waits: about 100 ms, then twice as long each time, up to 1 s.
    pub retry_on: Vec<i32>,
    /// Whether a message that is stored, but not as safely as asked for (see [`SendStatus`](crate::SendStatus)), is
    /// sent to another broker as well. Default false.
    pub retry_when_not_stored_safely: bool,
    /// Largest body, or batch of bodies, up to 16 MiB. Default 4 MiB, as brokers have it.
    pub max_message_bytes: usize,
    /// How large bodies are compressed; `None`, the default, sends every body as it is. The codec's feature has to be
    /// on. Consumers decompress by themselves: Java's know LZ4 and Zstandard from 4.9.7 and 5.0 on, zlib always.
    pub compression: Option<Compression>,
    /// The body size from which on bodies are compressed. Default 4 KiB.
    pub compress_from_bytes: usize,
    /// How hard to compress: 1 to 9 for zlib, 1 to 22 for Zstandard; LZ4 has one level and ignores it. Default 5.
    pub compression_level: u32,
    /// Most messages of [`send_async`](crate::Producer::send_async) that wait for the broker's word at once; further ones
    /// wait for room. Default 10,000.
    pub max_pending: usize,
    /// Most bytes of bodies and properties of such messages. Default 100 MiB.
    pub max_pending_bytes: usize,
    /// How long a message may wait for others to travel with: those of one topic, and of one queue where it is chosen,
    /// go as one batch, each with its own receipt. Up to 30 s, and less than
    /// [`send_timeout`](Self::send_timeout). Default zero, which sends every message by itself. Delayed messages,
    /// those of transactions and those to be compressed go by themselves in any case. Java: `autoBatch`.
    #[serde(with = "rocketmq_common::duration")]
    pub linger: Duration,
    /// The size from which on such a batch does not wait for more, properties included. Default 32 KiB.
    pub linger_bytes: usize,
    /// How long a [`transaction_checker`](crate::ProducerBuilder::transaction_checker) may take for one message. Then its
    /// future is dropped, and the check counts as [`TransactionState::Unknown`](crate::TransactionState::Unknown).
    /// Default 30 s, after which brokers ask again.
    #[serde(with = "rocketmq_common::duration")]
    pub transaction_check_timeout: Duration,
    /// How far ahead the time of a timer message may be. Default 3 days, as brokers have it (`timerMaxDelaySec`).
    #[serde(with = "rocketmq_common::duration")]
    pub max_timer_delay: Duration,
    /// Whether brokers that are slow or fail are avoided for a while. Default: no, as in Java.
    pub fault_tolerance: Option<FaultTolerance>,
    /// The queues a topic gets on each broker when this producer's first message creates it, 1 to 65536. Default 4.
    pub new_topic_queues: i32,
    /// How long [`shutdown`](crate::Producer::shutdown) waits for sends under way. Default 10 s.
    #[serde(with = "rocketmq_common::duration")]
    pub shutdown_timeout: Duration,
    /// What goes for any client.
    pub client: ClientConfig,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            send_timeout: Duration::from_secs(3),
            retries: 2,
            attempt_timeout: None,
            retry_on: RETRY_ON.iter().map(|code| code.0).collect(),
            retry_when_not_stored_safely: false,
            max_message_bytes: 4 * 1024 * 1024,
            compression: None,
            compress_from_bytes: 4096,
            compression_level: 5,
            max_pending: 10_000,
            max_pending_bytes: 100 * 1024 * 1024,
            linger: Duration::ZERO,
            linger_bytes: 32 * 1024,
            transaction_check_timeout: Duration::from_secs(30),
            max_timer_delay: Duration::from_secs(3 * 24 * 3600),
            fault_tolerance: None,
            new_topic_queues: 4,
            shutdown_timeout: Duration::from_secs(10),
            client: ClientConfig::default(),
        }
    }
}

impl ProducerConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let error = |option, message| Err(rocketmq_common::Error::Config { option, message }.into());
        if self.send_timeout < Duration::from_millis(1) {
            return error("send_timeout", "is too short");
        }
        if self.attempt_timeout.is_some_and(|timeout| timeout < Duration::from_millis(1)) {
            return error("attempt_timeout", "is too short");
        }
        if self.transaction_check_timeout < Duration::from_millis(1) {
            return error("transaction_check_timeout", "is too short");
        }
        if self.max_pending == 0 || self.max_pending_bytes == 0 {
            return error("max_pending", "leaves no room for any message");
        }
        if self.linger > Duration::from_secs(30) {
            return error("linger", "is longer than 30 s");
        }
        if !self.linger.is_zero() && self.linger >= self.send_timeout {
            return error("linger", "leaves no time to send in");
        }
        if self.linger_bytes == 0 || self.linger_bytes > self.max_message_bytes {
            return error("linger_bytes", "is 0 or more than max_message_bytes");
        }
        if let Some(tolerance) = &self.fault_tolerance {
            if tolerance.detect_interval < Duration::from_millis(10) || tolerance.detect_timeout.is_zero() {
                return error("fault_tolerance", "probes too often or without time for an answer");
            }
        }
        if self.max_message_bytes == 0 || self.max_message_bytes > MAX_FRAME_BYTES {
            return error("max_message_bytes", "is 0 or more than a frame can hold (16 MiB)");
        }
        if let Some(compression) = self.compression {
            let message = match compression {
                Compression::Zlib if !(1..=9).contains(&self.compression_level) => {
                    Some("is not from 1 to 9, as zlib has it")
                }
                Compression::Zstd if !(1..=22).contains(&self.compression_level) => {
                    Some("is not from 1 to 22, as Zstandard has it")
                }
                _ => None,
            };
            if let Some(message) = message {
                return error("compression_level", message);
            }
            // Finds out at start, not with the first large message, that the feature is off.
            compression.compress(self.compression_level, b"probe").map_err(|error| Error::Compress(error.into()))?;
        }
        if !(1..=65_536).contains(&self.new_topic_queues) {
            return error("new_topic_queues", "is not from 1 to 65536");
        }
        Ok(())
    }

    pub(crate) fn is_worth_a_retry(&self, code: ResponseCode) -> bool {
        self.retry_on.contains(&code.0)
    }
}

const RETRY_ON: [ResponseCode; 9] = [
    ResponseCode::SYSTEM_ERROR,
    ResponseCode::SYSTEM_BUSY,
    ResponseCode::SERVICE_NOT_AVAILABLE,
    ResponseCode::NO_PERMISSION,
    ResponseCode::TOPIC_NOT_EXIST,
    ResponseCode::NO_BUYER_ID,
    ResponseCode::NOT_IN_CURRENT_UNIT,
    ResponseCode::GO_AWAY,
    ResponseCode::FLOW_CONTROL,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn default() -> ProducerConfig {
        ProducerConfig::default()
    }

    #[test]
    fn values_at_their_documented_limits_are_accepted_and_those_beyond_are_refused() {
        let ms = Duration::from_millis;
        let tolerance = |detect_interval, detect_timeout| {
            Some(FaultTolerance { detect_interval, detect_timeout, ..Default::default() })
        };
        let level = |compression, compression_level| ProducerConfig {
            compression: Some(compression),
            compression_level,
            ..default()
        };
        for (config, refused) in [
            (default(), None),
            (ProducerConfig { send_timeout: ms(1), ..default() }, None),
            (ProducerConfig { send_timeout: Duration::from_micros(999), ..default() }, Some("send_timeout")),
            (ProducerConfig { attempt_timeout: Some(ms(1)), ..default() }, None),
            (ProducerConfig { attempt_timeout: Some(Duration::ZERO), ..default() }, Some("attempt_timeout")),
            (ProducerConfig { max_message_bytes: MAX_FRAME_BYTES, ..default() }, None),
            (ProducerConfig { max_message_bytes: MAX_FRAME_BYTES + 1, ..default() }, Some("max_message_bytes")),
            (ProducerConfig { max_pending: 0, ..default() }, Some("max_pending")),
            (ProducerConfig { max_pending_bytes: 0, ..default() }, Some("max_pending")),
            (ProducerConfig { linger: ms(30_000), send_timeout: ms(30_001), ..default() }, None),
            (ProducerConfig { linger: ms(30_001), send_timeout: ms(60_000), ..default() }, Some("linger")),
            (ProducerConfig { linger: ms(3000), ..default() }, Some("linger")),
            (ProducerConfig { linger_bytes: 4 * 1024 * 1024, ..default() }, None),
            (ProducerConfig { linger_bytes: 4 * 1024 * 1024 + 1, ..default() }, Some("linger_bytes")),
            (ProducerConfig { linger_bytes: 0, ..default() }, Some("linger_bytes")),
            (ProducerConfig { fault_tolerance: tolerance(ms(10), ms(1)), ..default() }, None),
            (ProducerConfig { fault_tolerance: tolerance(ms(9), ms(1)), ..default() }, Some("fault_tolerance")),
            (ProducerConfig { fault_tolerance: tolerance(ms(10), ms(0)), ..default() }, Some("fault_tolerance")),
            (ProducerConfig { new_topic_queues: 1, ..default() }, None),
            (ProducerConfig { new_topic_queues: 65_536, ..default() }, None),
            (ProducerConfig { new_topic_queues: 0, ..default() }, Some("new_topic_queues")),
            (ProducerConfig { new_topic_queues: 65_537, ..default() }, Some("new_topic_queues")),
            (level(Compression::Zlib, 0), Some("compression_level")),
            (level(Compression::Zlib, 10), Some("compression_level")),
            (level(Compression::Zstd, 0), Some("compression_level")),
            (level(Compression::Zstd, 23), Some("compression_level")),
            #[cfg(feature = "zlib")]
            (level(Compression::Zlib, 1), None),
            #[cfg(feature = "zlib")]
            (level(Compression::Zlib, 9), None),
            #[cfg(feature = "lz4")]
            (level(Compression::Lz4, 99), None),
        ] {
            let outcome = match config.check() {
                Ok(()) => None,
                Err(Error::Client(rocketmq_common::Error::Config { option, .. })) => Some(option),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(outcome, refused, "{config:?}");
        }
    }

    #[test]
    fn defaults_are_as_documented_and_times_are_short_texts() {
        let config = ProducerConfig { fault_tolerance: Some(FaultTolerance::default()), ..default() };
        let mut json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<ProducerConfig>(json.clone()).unwrap(), config);
        assert!(!json.to_string().contains("secs"), "{json}");
        for option in ["client", "retry_on"] {
            json[option].take();
        }
        let expected = serde_json::json!({
            "send_timeout": "3s",
            "retries": 2,
            "attempt_timeout": null,
            "retry_on": null,
            "retry_when_not_stored_safely": false,
            "max_message_bytes": 4 << 20,
            "compression": null,
            "compress_from_bytes": 4 << 10,
            "compression_level": 5,
            "max_pending": 10_000,
            "max_pending_bytes": 100 << 20,
            "linger": "0s",
            "linger_bytes": 32 << 10,
            "transaction_check_timeout": "30s",
            "max_timer_delay": "3days",
            "fault_tolerance": {
                "latency_steps": [
                    ["550ms", "2s"], ["1s 800ms", "5s"], ["3s", "6s"], ["5s", "10s"], ["15s", "30s"],
                ],
                "failure_counts_as": "10s",
                "detector": false,
                "detect_interval": "2s",
                "detect_timeout": "200ms",
            },
            "new_topic_queues": 4,
            "shutdown_timeout": "10s",
            "client": null,
        });
        assert_eq!(json, expected);
    }
}
