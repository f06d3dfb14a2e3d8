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
//! A [`PopConsumer`] takes messages for a while instead, and settles them one by one.

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
