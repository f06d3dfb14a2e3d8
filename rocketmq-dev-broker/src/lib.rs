//! An Apache RocketMQ name server and broker in this process, in memory, for tests and first contact.
//!
//! A [`DevCluster`] listens on real TCP, at free ports of the loopback address, and speaks the remoting protocol as a
//! broker of 5.5.0 does. It starts within milliseconds, ends when it is dropped, fails on demand, and shows what it has
//! stored. Where it differs from a real broker, it is wrong.
//!
//! ```
//! use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), rocketmq_dev_broker::Error> {
//! let cluster = DevCluster::start().await?;
//! cluster.create_topic("order-created", 4);
//! cluster.on(RequestCode::SEND_MESSAGE_V2).answer(ResponseCode::SYSTEM_BUSY).times(2);
//!
//! // Here a producer would be given `cluster.name_server()`, and its third attempt would succeed.
//! assert!(cluster.name_server().starts_with("127.0.0.1:"));
//! assert!(cluster.messages("order-created").is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! [`DevCluster::builder`] has several brokers, short delay levels, order topics and the like; [`DevCluster::on`] makes
//! [rules](FaultRule) by which requests fail; [`DevCluster::messages`] and [`DevCluster::received`] show what came. All
//! programs under `examples/` of the repository run against it. There are no features.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod broker;
mod clock;
mod cluster;
mod error;
mod faults;
mod filter;
mod groups;
mod halves;
mod handlers;
mod holds;
mod locks;
mod log;
mod offsets;
mod pops;
mod protocol;
mod record;
mod server;
mod timers;

pub use cluster::{DevCluster, DevClusterBuilder};
pub use error::Error;
pub use faults::FaultRule;
pub use rocketmq_common::message::{MessageQueue, StoredMessage};
pub use rocketmq_remote::{RequestCode, ResponseCode};
