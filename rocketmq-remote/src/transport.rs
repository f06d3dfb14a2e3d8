//! TCP: from an address text to a connected socket with the options a connection wants.

use crate::{Deadline, Error};
use socket2::{SockRef, TcpKeepalive};
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpStream, lookup_host};

/// Connects to `host:port` within `timeout`, trying the addresses of the name one after the other. Each has its share
/// of the time that is left, so that one which swallows packets does not use up the time of the next.
pub(crate) async fn dial(addr: &Arc<str>, timeout: Duration) -> Result<TcpStream, Error> {
    let (host, port) = split(addr).ok_or_else(|| Error::Address { addr: addr.clone() })?;
    let connected = match tokio::time::timeout(timeout, connect(host, port, Deadline::after(timeout))).await {
        Ok(connected) => connected,
        Err(_) => Err(not_in_time()),
    };
    connected
        .and_then(|stream| tune(&stream).map(|()| stream))
        .map_err(|source| Error::Connect { addr: addr.clone(), source: Arc::new(source) })
}

async fn connect(host: &str, port: u16, deadline: Deadline) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    first_to_connect(&addresses, deadline, TcpStream::connect).await
}

async fn first_to_connect<S, F: Future<Output = io::Result<S>>>(
    addresses: &[SocketAddr],
    deadline: Deadline,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> io::Result<S> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (address, left) in addresses.iter().zip((1..=u32::try_from(addresses.len()).unwrap_or(u32::MAX)).rev()) {
        match tokio::time::timeout(deadline.remaining() / left, connect(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = not_in_time(),
        }
    }
    Err(failure)
}

fn not_in_time() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no connection in time")
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
    use std::future::pending;
    use tokio::time::Instant;

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

    fn addresses() -> [SocketAddr; 2] {
        [SocketAddr::from(([192, 0, 2, 1], 1)), SocketAddr::from(([192, 0, 2, 2], 1))]
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_packets_leaves_time_for_the_next() {
        let start = Instant::now();
        let [swallows, connects] = addresses();
        let addresses = [swallows, connects];
        let connected = first_to_connect(&addresses, Deadline::after(Duration::from_secs(3)), async |address| {
            if address == swallows {
                pending::<()>().await;
            }
            Ok(address)
        });
        assert_eq!(connected.await.unwrap(), connects);
        assert_eq!(start.elapsed().as_millis(), 1500);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_addresses_swallow_packets_the_timeout_ends_it() {
        let start = Instant::now();
        let nobody = async |_| pending::<io::Result<()>>().await;
        let error = first_to_connect(&addresses(), Deadline::after(Duration::from_secs(3)), nobody).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_costs_no_time_and_the_last_refusal_is_told() {
        let start = Instant::now();
        let refuses = async |_| Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused));
        let error = first_to_connect(&addresses(), Deadline::after(Duration::from_secs(3)), refuses).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
