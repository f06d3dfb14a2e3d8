use crate::{Error, Producer, ProducerConfig};
use rocketmq_common::Client;

/// Wires a producer up; made by [`Producer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until start"]
pub struct ProducerBuilder {
    pub(crate) group: String,
    pub(crate) name_servers: Vec<String>,
    pub(crate) client: Option<Client>,
    pub(crate) config: ProducerConfig,
}

impl ProducerBuilder {
    /// The name servers, of the form `host:port`; one text may hold several, separated by `;`.
    pub fn name_servers(mut self, addrs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.name_servers = addrs.into_iter().map(Into::into).collect();
        self
    }

    /// How to send. Default: [`ProducerConfig::default`].
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.config = config;
        self
    }

    /// Shares the connections of a client that is there already, which its owner shuts down; name servers and
    /// [`ProducerConfig::client`] then do not count.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Starts the producer.
    ///
    /// # Errors
    /// [`Error::Client`] for a bad group name or option, for an empty list of name servers, and where none of them
    /// answers within the request timeout.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<Producer, Error> {
        Producer::start(self).await
    }
}
