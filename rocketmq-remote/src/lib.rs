//! The Apache RocketMQ remoting layer: frames, connections, and the three ways to ask.
//!
//! A [`Connection`] carries many calls at once to one name server or broker. It offers three ways to ask and nothing
//! else: [`Connection::call`] awaits the answer, [`Connection::call_async`] queues the request and hands back a future
//! of the answer, [`Connection::call_oneway`] expects none. What the peer asks of us reaches the [`Processors`].
//!
//! A request is declared once, with the [`header!`] and [`request!`] macros, beside its reply:
//!
//! ```
//! rocketmq_remote::header! {
//!     /// The next offset to be written in a queue.
//!     pub struct MaxOffset { /** The offset. */ offset: i64 = "offset" }
//! }
//! rocketmq_remote::request! {
//!     GET_MAX_OFFSET(()) -> MaxOffset;
//!     /// Asks a broker for the end of one queue.
//!     pub struct GetMaxOffset { /** The topic. */ topic: String = "topic", /** The queue. */ queue_id: i32 = "queueId" }
//! }
//! # fn main() {}
//! ```
//!
//! [`CommandCodec`] has the frames alone, [`duration`] reads and writes the times of configurations. There are no
//! features.
//!
//! This crate knows commands and no topics: messages, routes and clients live in `rocketmq-common`.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod code;
mod codec;
mod command;
mod connection;
mod deadline;
pub mod duration;
mod error;
mod fields;
mod printable;
mod request;
mod transport;

pub use code::{LanguageCode, RequestCode, ResponseCode};
pub use codec::{CommandCodec, HeadEncoding, MAX_FRAME_BYTES};
pub use command::{Command, VERSION};
pub use connection::{Connection, ConnectionOptions, Incoming, PendingReply, Processors, ReservedCall};
pub use deadline::Deadline;
pub use error::{CloseCause, DecodeError, EncodeError, Error, FieldError, JsonError};
pub use fields::{ExtFields, Field, RawValue};
pub use printable::printable;
pub use request::{Answer, Body, Header, Json, Reply, Request};
