use super::{NameServerResolver, ResolveError, Resolving};
use std::sync::Arc;
use tokio::net::lookup_host;

/// Every address that DNS has for a host, with one port: `name-servers.example:9876`.
#[derive(Clone, Debug)]
pub struct DnsHost {
    host: Arc<str>,
}

impl DnsHost {
    /// The host and its port, `host:port`.
    pub fn new(host: impl Into<Arc<str>>) -> Self {
        Self { host: host.into() }
    }
}

impl NameServerResolver for DnsHost {
    fn resolve(&self) -> Resolving<'_> {
        Box::pin(async {
            let found = lookup_host(&*self.host).await;
            let found =
                found.map_err(|error| ResolveError::Lookup { host: self.host.clone(), source: error.into() })?;
            Ok(found.map(|addr| addr.to_string()).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_becomes_its_addresses() {
        let addrs = DnsHost::new("localhost:9876").resolve().await.unwrap();
        assert!(addrs.iter().any(|addr| addr == "127.0.0.1:9876" || addr == "[::1]:9876"), "{addrs:?}");
        assert_eq!(DnsHost::new("192.0.2.7:1").resolve().await.unwrap(), ["192.0.2.7:1"]);
    }

    #[tokio::test]
    async fn a_host_without_a_port_is_an_error() {
        assert!(matches!(DnsHost::new("localhost").resolve().await, Err(ResolveError::Lookup { .. })));
    }
}
