//! TCP: from an address text to a connected socket with the options a connection wants.

use crate::Error;
use socket2::{SockRef, TcpKeepalive};
use std::{io, sync::Arc, time::Duration};
use tokio::net::{TcpStream, lookup_host};

/// Connects to `host:port` within `timeout`, trying the addresses of the name one after the other.
pub(crate) async fn dial(addr: &Arc<str>, timeout: Duration) -> Result<TcpStream, Error> {
    let (host, port) = split(addr).ok_or_else(|| Error::Address { addr: addr.clone() })?;
    let connected = match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
    };
    connected
        .and_then(|stream| tune(&stream).map(|()| stream))
        .map_err(|source| Error::Connect { addr: addr.clone(), source: Arc::new(source) })
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = None;
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

/// Host and port, split at the last colon; an IPv6 address may stand in brackets.
pub(crate) fn split(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

/// No delay for small frames; and a peer that vanished without a word is noticed by the kernel.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged; only one-way traffic depends on it, calls are timed by themselves.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_split_at_its_last_colon() {
        assert_eq!(split("127.0.0.1:9876"), Some(("127.0.0.1", 9876)));
        assert_eq!(split("[::1]:9876"), Some(("::1", 9876)));
        assert_eq!(split("::1:9876"), Some(("::1", 9876)));
        assert_eq!(split("name.example:1"), Some(("name.example", 1)));
        for bad in ["", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "[]:1"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
