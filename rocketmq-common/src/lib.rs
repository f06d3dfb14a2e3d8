//! What Apache RocketMQ producers, consumers and tools share: typed requests, messages, routes, and the client that
//! holds connections.
//!
//! [`Client`] is the way in: one cluster, its routes, its connections, its heartbeats, and the typed calls. [`Message`]
//! is what is sent, [`StoredMessage`] what is received. [`protocol`] has every request beside its reply, [`remote`] the layer
//! below. [`ClientConfig`] has the options, [`duration`] reads and writes those that are times, [`resolver`] finds name
//! servers, [`Namespace`] wraps names, [`compress`] has the codecs, [`pop`] the receipt handles.
//!
//! Features: `zlib` and `lz4`, both on by default, and `zstd`, which builds a C library and is needed to compress only; `json`
//! for `Message::json` and `StoredMessage::json`.
//! Applications want `rocketmq-producer` and `rocketmq-consumer`, which have the examples.

#![cfg_attr(docsrs, feature(doc_cfg))]

// message layer
pub mod compress;
pub mod json;
pub mod message;

mod client;
mod config;
mod ending;
mod error;
mod health;
mod identity;
#[doc(hidden)]
pub mod internal;
mod name_server;
mod namespace;
mod pool;
pub mod pop;
pub mod protocol;
pub mod random;
pub mod resolver;
mod retry;
mod route;
mod tasks;
mod ticks;
mod unwind;

pub use client::{Client, ConsumingDirectly, ExpectedReply, Operated, Refusal, TransactionCheck};
pub use config::ClientConfig;
pub use ending::Ending;
pub use error::{Error, UnreadableReply};
pub use health::{Condition, ConditionKind, Health};
pub use message::{Message, MessageError, MessageQueue, NameError, StoredMessage};
pub use name_server::NameServerSource;
pub use namespace::{Namespace, strip_any_namespace};
pub use retry::Backoff;
pub use rocketmq_remote as remote;
pub use rocketmq_remote::duration;
pub use route::TopicRoute;
pub use ticks::ticks;
pub use unwind::unwinding;
