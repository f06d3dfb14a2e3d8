use std::{io, net::SocketAddr};

/// Why a cluster, or one of its servers, does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No port could be opened.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address; port 0 is any free one.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The cluster has no broker of that name.
    #[error("there is no broker {name:?}")]
    NoBroker {
        /// The name.
        name: String,
    },
}
