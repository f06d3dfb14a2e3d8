//! A native, async Apache RocketMQ consumer.
//!
//! ```no_run
//! use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
//!
//! # async fn run() -> Result<(), rocketmq_consumer::Error> {
//! let consumer = PushConsumer::builder("billing")
//!     .name_servers(["127.0.0.1:9876"])
//!     .subscribe("order-created", Filter::tags("eu || us"))
//!     .listener(|message: StoredMessage| async move { bill(&message).await })
//!     .start().await?;
//! # consumer.shutdown().await?;
//! # Ok(())
//! # }
//! # async fn bill(_: &StoredMessage) -> Result<(), std::io::Error> { Ok(()) }
//! ```
//!
//! A message is done when the listener returns `Ok`. `Err` and a panic bring it again later, and after
//! [`max_reconsume_times`](PushConfig::max_reconsume_times) it goes to the group's dead letter queue. The offset that is
//! recorded never passes a message that is not done: every message is consumed at least once.

mod allocate;
#[cfg(test)]
mod alone;
mod assigned;
mod builder;
mod config;
mod dispatch;
mod error;
mod fetch;
mod give_back;
mod hold;
mod limit;
mod listener;
mod locks;
mod member;
mod offset;
mod offset_file;
mod ordered;
mod outcome;
mod process_queue;
mod push;
mod rebalance;
mod stream;
mod subscription;
mod subscriptions;
mod suspension;
mod wiring;

pub use builder::PushConsumerBuilder;
pub use config::{PushConfig, StartAt};
pub use error::Error;
pub use offset_file::OffsetFileError;
pub use outcome::{IntoOutcome, Outcome};
pub use push::PushConsumer;
pub use rocketmq_common::{ClientConfig, Error as ClientError, MessageQueue, StoredMessage, resolver};
pub use stream::{Delivery, MessageStream};
pub use subscription::{Filter, FilterError};

/// The README, so that its code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
