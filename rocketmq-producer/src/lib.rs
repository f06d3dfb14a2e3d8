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
//! # Ways to send
//!
//! | way | entry point |
//! |---|---|
//! | await the broker's answer | [`Producer::send`] |
//! | queue the message, and get a future of the answer | [`Producer::send_async`], [`PendingReceipt`], [`Producer::flush`] |
//! | without an answer | [`Producer::send_oneway`] |
//! | many messages in one request | [`Producer::send_batch`], [`send_batch_async`](Producer::send_batch_async), [`split_batch`](Producer::split_batch); [`ProducerConfig::linger`] gathers single sends |
//! | to a queue of one's choice, or in order | [`Producer::send_to`] and the like, [`Select`], [`Message::sharding_key`] |
//! | later, and called off | [`Message::delay_level`], [`Message::deliver_after`], [`Message::deliver_at`], [`Producer::recall`] |
//! | in a transaction | [`ProducerBuilder::transaction_checker`], [`Producer::send_in_transaction`] |
//! | a request that is replied to | [`Producer::request`], [`request_async`](Producer::request_async), [`StoredMessage::reply`] |
//!
//! # What goes with them
//!
//! - Options: [`ProducerConfig`], with a [`ClientConfig`]. They are read by serde, with durations such as `"5s"`.
//!   [`FaultTolerance`] avoids slow brokers.
//! - Errors: [`Error::is_retryable`] and [`Error::may_have_happened`] tell what to do; [`NotSent`] names every attempt.
//! - [`StoredMessage::to_message`] makes a message to send of a received one.
//! - [`Producer::health`] is for a health check; [`Producer::shutdown_on`] shuts down on a signal.
//! - [`SendInterceptor`] sees each send. Where name servers are: a list, or a [`resolver`].
//!
//! # Features
//!
//! `zlib` and `lz4`, both on by default, and `zstd`, which builds a C library: the codecs of
//! [`ProducerConfig::compression`]. `json` writes bodies in JSON: `Message::json`.
//!
//! # Examples
//!
//! Programs under `examples/` of the repository, run by `cargo run --example NAME`: `quickstart`, `send`, `bulk`, `ordered`,
//! `delayed`, `transaction`, `request`, `interceptor`, `names`, `config_file`, `service`. They need no
//! cluster: the `rocketmq-dev-broker` runs in their process.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod answers;
mod attempt;
mod batch;
mod builder;
mod config;
mod detached;
mod detect;
mod error;
mod fault;
mod feature;
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
