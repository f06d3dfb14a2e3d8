//! A native, async Apache RocketMQ producer.
//!
//! ```no_run
//! use rocketmq_producer::{Message, Producer};
//!
//! # async fn run() -> Result<(), rocketmq_producer::Error> {
//! let producer = Producer::builder("orders").name_servers(["127.0.0.1:9876"]).start().await?;
//! let receipt = producer.send(Message::new("order-created", "o-17").tag("eu").key("o-17")).await?;
//! println!("{} is in {} at {}", receipt.message_id, receipt.queue, receipt.queue_offset);
//! producer.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Three ways to send: [`Producer::send`] awaits the broker's answer, [`Producer::send_async`] queues the message and
//! hands back a future of the answer, [`Producer::send_oneway`] expects none. [`Producer::send_batch`] sends many
//! messages in one request.

mod attempt;
mod batch;
mod builder;
mod config;
mod detached;
mod detect;
mod error;
mod fault;
mod in_flight;
mod interceptor;
mod launch;
mod linger;
mod pending;
mod prepare;
mod producer;
mod queued;
mod recall;
mod receipt;
mod refresh;
mod registration;
mod request;
mod room;
mod select;
mod transaction;

pub use builder::ProducerBuilder;
pub use config::ProducerConfig;
pub use error::{Error, FailedAttempt, NotSent};
pub use fault::FaultTolerance;
pub use interceptor::SendInterceptor;
pub use pending::{Pending, PendingBatchReceipt, PendingReceipt};
pub use producer::Producer;
pub use receipt::{BatchReceipt, SendReceipt, SendStatus};
pub use request::PendingReply;
pub use rocketmq_common::{
    ClientConfig, Error as ClientError, Message, MessageError, MessageQueue, StoredMessage, compress::Compression,
    resolver,
};
pub use select::Select;
pub use transaction::{TransactionReceipt, TransactionState};

/// The README, so that its code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
