use crate::Error;
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
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProducerConfig {
    /// The time for one send, all its attempts together. Default 3 s.
    pub send_timeout: Duration,
    /// How many more attempts a failed send gets. Default 2. While another broker could take the message, an attempt
    /// gets half of the time that is left, so that a silent broker leaves time for the next one.
    pub retries: u32,
    /// The broker's answers that are worth another attempt. Default, as in Java: SYSTEM_ERROR, SYSTEM_BUSY,
    /// SERVICE_NOT_AVAILABLE, NO_PERMISSION, TOPIC_NOT_EXIST, NO_BUYER_ID, NOT_IN_CURRENT_UNIT, GO_AWAY.
    pub retry_on: Vec<i32>,
    /// Whether a message that is stored, but not as safely as asked for (see [`SendStatus`](crate::SendStatus)), is
    /// sent to another broker as well. Default false.
    pub retry_when_not_stored_safely: bool,
    /// Largest body, or batch of bodies. Default 4 MiB, as brokers have it.
    pub max_message_bytes: usize,
    /// How large bodies are compressed; `None`, the default, sends every body as it is. The codec's feature has to be
    /// on. Consumers decompress by themselves: Java's know LZ4 and Zstandard from 4.9.7 and 5.0 on, zlib always.
    pub compression: Option<Compression>,
    /// The body size from which on bodies are compressed. Default 4 KiB.
    pub compress_from_bytes: usize,
    /// How hard to compress: 1 to 9 for zlib, 1 to 22 for Zstandard, nothing to LZ4. Default 5.
    pub compression_level: u32,
    /// The queues a topic gets on each broker when this producer's first message creates it. Default 4.
    pub new_topic_queues: i32,
    /// How long [`shutdown`](crate::Producer::shutdown) waits for sends under way. Default 10 s.
    pub shutdown_timeout: Duration,
    /// What goes for any client.
    pub client: ClientConfig,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            send_timeout: Duration::from_secs(3),
            retries: 2,
            retry_on: RETRY_ON.iter().map(|code| code.0).collect(),
            retry_when_not_stored_safely: false,
            max_message_bytes: 4 * 1024 * 1024,
            compression: None,
            compress_from_bytes: 4096,
            compression_level: 5,
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
        if self.max_message_bytes == 0 || self.max_message_bytes > MAX_FRAME_BYTES {
            return error("max_message_bytes", "is 0 or more than a frame can hold (16 MiB)");
        }
        if let Some(compression) = self.compression {
            // Finds out at start, not with the first large message, that the feature is off or the level impossible.
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

const RETRY_ON: [ResponseCode; 8] = [
    ResponseCode::SYSTEM_ERROR,
    ResponseCode::SYSTEM_BUSY,
    ResponseCode::SERVICE_NOT_AVAILABLE,
    ResponseCode::NO_PERMISSION,
    ResponseCode::TOPIC_NOT_EXIST,
    ResponseCode::NO_BUYER_ID,
    ResponseCode::NOT_IN_CURRENT_UNIT,
    ResponseCode::GO_AWAY,
];
