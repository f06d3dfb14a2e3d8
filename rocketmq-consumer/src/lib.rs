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
//!
//! # Ways to consume
//!
//! | way | entry point |
//! |---|---|
//! | a function called for each message, or for several | [`PushConsumerBuilder::listener`], [`batch_listener`](PushConsumerBuilder::batch_listener) |
//! | the same, in the order of each queue | [`ordered_listener`](PushConsumerBuilder::ordered_listener), [`ordered_batch_listener`](PushConsumerBuilder::ordered_batch_listener) |
//! | the same, with code that blocks its thread | [`blocking_listener`](PushConsumerBuilder::blocking_listener), [`blocking_batch_listener`](PushConsumerBuilder::blocking_batch_listener), [`ordered_blocking_listener`](PushConsumerBuilder::ordered_blocking_listener), [`ordered_blocking_batch_listener`](PushConsumerBuilder::ordered_blocking_batch_listener) |
//! | a stream of messages to acknowledge one by one | [`PushConsumerBuilder::stream`], [`MessageStream`], [`Delivery`] |
//! | every member of the group gets all messages | [`PushConsumerBuilder::broadcast`], [`PullConsumerBuilder::broadcast`] |
//! | polled: a topic shared out in a group | [`PullConsumer`], [`PullConsumerBuilder::subscribe`] |
//! | polled: queues of one's choice, or all of a topic | [`PullConsumerBuilder::assign`], [`assign_all`](PullConsumerBuilder::assign_all) |
//! | single pulls from an offset on | [`PullConsumer::pull`] |
//! | taken for a while and acknowledged, without queues (5.0) | [`PopConsumer`], [`PoppedMessage`] |
//!
//! # What goes with them
//!
//! - Options: [`PushConfig`], [`PullConfig`], [`PopConfig`], each with a [`ClientConfig`]. They are read by serde, with
//!   durations such as `"5s"`. [`StartAt`] says where a new group begins.
//! - Which messages: [`Filter`] by tags or SQL92, and [`PushConsumerBuilder::filter`] for one of your own.
//! - What became of a message: `Ok`, `Err`, or an [`Outcome`]. [`dead_letter_topic`] names where messages end that failed.
//! - Messages that cannot be decoded ([`StoredMessage::decode_error`]) fail like others, and end among the dead letters. A poll
//!   fails with [`Error::Undecodable`] instead; [`PullConsumer::skip`] goes on behind the message.
//! - A message that is sent on: [`StoredMessage::to_message`].
//! - Who has which queue: [`Allocate`], [`AllocateStrategy`], [`AssignmentChange`].
//! - Where offsets are: at the brokers, or in an [`OffsetStore`].
//! - How it is doing: [`PushConsumer::health`] for a health check, [`PushConsumer::lag`] for how far the group is behind,
//!   [`Statistics`], a [`ConsumeInterceptor`] around each call.
//! - The end: [`PushConsumer::shutdown`], or [`PushConsumer::shutdown_on`] a signal.
//! - Where name servers are: a list, or a [`resolver`].
//!
//! # Features
//!
//! Bodies compressed with Zstandard are always read. `zlib` and `lz4`, both on by default, read and write those codecs;
//! `zstd` writes Zstandard, which a consumer has no use for. `json` reads bodies in JSON: `StoredMessage::json`.
//!
//! # Examples
//!
//! Programs under `examples/` of the repository, run by `cargo run --example NAME`: `quickstart`, `consume`,
//! `consume_in_order`, `consume_batches`, `stream`, `broadcast`, `pull`, `pop`, `set_to_pop`, `offset_store`, `allocate`,
//! `interceptor`, `statistics`, `lag`, `names`, `config_file`, `drain_dead_letters`. They need no cluster: the
//! `rocketmq-dev-broker` runs in their process.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod ack_queue;
mod allocate;
#[cfg(test)]
mod alone;
mod assigned;
mod assignment_change;
mod builder;
mod call;
mod commit_gate;
mod config;
mod dead_letters;
mod decode;
mod dispatch;
mod error;
mod fetch;
mod give_back;
mod handle;
mod hold;
mod interceptor;
mod lag;
mod limit;
mod listener;
mod listener_threads;
mod locks;
mod member;
mod missing_topics;
mod offset;
mod offset_file;
mod offset_store;
mod operator;
mod option_conflicts;
mod ordered;
mod outcome;
mod polled_queue;
mod polling;
mod pop;
mod pop_builder;
mod pop_config;
mod pop_group;
mod pop_handle;
mod pop_settle;
mod pop_watch;
mod popped;
mod popped_queue;
mod popper;
mod popping;
mod process_queue;
mod pull;
mod pull_builder;
mod pull_config;
mod pull_from;
mod pull_once;
mod pull_size;
mod push;
mod rebalance;
mod recreated;
mod report;
mod send_again;
mod share;
mod shutdown;
mod source;
mod stall;
mod start_offset;
mod statistics;
mod stream;
mod subscription;
mod subscriptions;
mod suspension;
mod topic_watch;
mod unclaimed;
mod undecodable;
mod unequal;
mod unrecorded;
mod wiring;

pub use allocate::{Allocate, AllocateError, AllocateStrategy, Members, RoomResolver};
pub use assignment_change::AssignmentChange;
pub use builder::PushConsumerBuilder;
pub use config::{PushConfig, StartAt};
pub use dead_letters::dead_letter_topic;
pub use error::Error;
pub use interceptor::{ConsumeCall, ConsumeEnd, ConsumeInterceptor, Consumed};
pub use lag::{Lag, QueueLag};
pub use offset_file::OffsetFileError;
pub use offset_store::{OffsetStore, StoreError, Storing};
pub use outcome::{IntoOutcome, Outcome};
pub use pop::PopConsumer;
pub use pop_builder::PopConsumerBuilder;
pub use pop_config::PopConfig;
pub use popped::PoppedMessage;
pub use pull::PullConsumer;
pub use pull_builder::PullConsumerBuilder;
pub use pull_config::{Position, PullConfig};
pub use pull_once::{PullStatus, Pulled};
pub use push::PushConsumer;
pub use rocketmq_common::{
    ClientConfig, Condition, ConditionKind, Error as ClientError, Health, MessageQueue, StoredMessage,
    message::{CorruptCause, CorruptRecord},
    pop::{HandleError, PopInfoError},
    resolver,
};
pub use statistics::{QueueStatistics, Statistics, TopicStatistics};
pub use stream::{Delivery, MessageStream};
pub use subscription::{Filter, FilterError};

/// The README, so that its code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
