//! Where the addresses of the name servers come from: a list, the environment, DNS, an HTTP endpoint, or a resolver of
//! your own.
//!
//! ```
//! use rocketmq_common::resolver::{NameServerResolver, Resolving};
//!
//! #[derive(Debug)]
//! struct Registry;
//!
//! impl NameServerResolver for Registry {
//!     fn resolve(&self) -> Resolving<'_> {
//!         Box::pin(async { Ok(vec!["ns-1:9876".to_owned(), "ns-2:9876".to_owned()]) })
//!     }
//! }
//! ```

mod dns;
mod environment;
mod fixed;
mod http;

pub use dns::DnsHost;
pub use environment::Environment;
pub use fixed::FixedList;
pub use http::HttpEndpoint;

use std::{error::Error, fmt, future::Future, io, pin::Pin, sync::Arc};

/// Finds the addresses of the name servers.
///
/// A client asks when it starts, and again every
/// [`name_server_refresh_interval`](crate::ClientConfig::name_server_refresh_interval), or sooner where no name server
/// answers it. An empty answer, a failure, a panic, or no answer within the request timeout leaves it with the
/// addresses it has; at the start it is an error.
pub trait NameServerResolver: fmt::Debug + Send + Sync {
    /// The addresses, `host:port`; one text may hold several, separated by `;` or `,`. What is no address is passed
    /// over.
    ///
    /// # Cancel safety
    /// The future is dropped where it takes too long, or the client stops.
    fn resolve(&self) -> Resolving<'_>;
}

impl<R: NameServerResolver + ?Sized> NameServerResolver for Arc<R> {
    fn resolve(&self) -> Resolving<'_> {
        (**self).resolve()
    }
}

/// The addresses of the name servers, as a future.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, ResolveError>> + Send + 'a>>;

/// Why a resolver does not tell any address.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The environment variable is not set, or is not text.
    #[error("the environment variable {name} is not set")]
    NotSet {
        /// Its name.
        name: Arc<str>,
    },
    /// DNS does not know the host, or does not answer.
    #[error("cannot look {host} up")]
    Lookup {
        /// The host, as it was given.
        host: Arc<str>,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The URL is none that can be asked: not plain `http://`, or without a host.
    #[error("{url} is not of the form http://host[:port]/path")]
    Url {
        /// The URL.
        url: Arc<str>,
    },
    /// The endpoint cannot be reached, or breaks off.
    #[error("cannot ask {url}")]
    Http {
        /// Its URL.
        url: Arc<str>,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The endpoint answers with another status than 200.
    #[error("{url} answered with status {status}")]
    Status {
        /// Its URL.
        url: Arc<str>,
        /// The status.
        status: u16,
    },
    /// The endpoint's answer is no HTTP, too long, or not text.
    #[error("the answer of {url} {problem}")]
    Answer {
        /// Its URL.
        url: Arc<str>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No answer within this time.
    #[error("no answer in time")]
    TimedOut,
    /// The resolver panicked.
    #[error("the resolver panicked: {panic}")]
    Panicked {
        /// The panic's text.
        panic: Arc<str>,
    },
    /// The answer holds no address.
    #[error("there is no address in the answer")]
    Empty,
    /// What a resolver of the user's own came to.
    #[error(transparent)]
    Other(Arc<dyn Error + Send + Sync>),
}

impl ResolveError {
    /// The error of a resolver of your own.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(error.into().into())
    }
}
