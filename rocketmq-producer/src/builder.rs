use crate::{
    Error, Producer, ProducerConfig, SendInterceptor, TransactionState, interceptor::Interceptors, transaction::Checker,
};
use rocketmq_common::{Client, NameServerSource, StoredMessage, resolver::NameServerResolver};
use std::{future::Future, sync::Arc};

/// Wires a producer up; made by [`Producer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until start"]
pub struct ProducerBuilder {
    pub(crate) group: String,
    pub(crate) name_servers: NameServerSource,
    pub(crate) client: Option<Client>,
    pub(crate) checker: Option<Checker>,
    pub(crate) interceptors: Interceptors,
    pub(crate) config: ProducerConfig,
}

impl ProducerBuilder {
    /// The name servers, of the form `host:port`; one text may hold several, separated by `;`. Where neither they nor a
    /// resolver are given, the environment variable `NAMESRV_ADDR` holds them.
    pub fn name_servers(mut self, addrs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.name_servers = addrs.into();
        self
    }

    /// Who finds the name servers, now and later: one of [`resolver`](crate::resolver), or your own. It takes the place
    /// of a list.
    ///
    /// ```no_run
    /// use rocketmq_producer::{Producer, resolver::DnsHost};
    ///
    /// # async fn run() -> Result<(), rocketmq_producer::Error> {
    /// let name_servers = DnsHost::new("name-servers.example:9876");
    /// let producer = Producer::builder("orders").name_server_resolver(name_servers).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn name_server_resolver(mut self, resolver: impl NameServerResolver + 'static) -> Self {
        self.name_servers = NameServerSource::resolver(resolver);
        self
    }

    /// How to send. Default: [`ProducerConfig::default`].
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.config = config;
        self
    }

    /// Answers brokers that ask what became of a half message of this group, sent by this producer or by another one,
    /// also before a restart: with a checker, the producer registers with every broker the name server knows, and with
    /// those that come later.
    ///
    /// A check that panics, or takes longer than
    /// [`transaction_check_timeout`](ProducerConfig::transaction_check_timeout), counts as
    /// [`TransactionState::Unknown`]: the broker asks again. Eight run at once. A checker that blocks its thread cannot be
    /// timed out.
    ///
    /// A check may concern a message whose transaction has been committed or rolled back already: the word of that may be
    /// under way, or lost. The answer must be the same. And it must be that of *this* transaction: identify it by the
    /// message's [`message_id`](StoredMessage::message_id) or by an id of the transaction in a property, recorded together
    /// with the local step. A business key will not do: a second attempt for the same order is another transaction, and its
    /// success would commit the message of the first one as well.
    pub fn transaction_checker<F, C>(mut self, checker: F) -> Self
    where
        F: Fn(StoredMessage) -> C + Send + Sync + 'static,
        C: Future<Output = TransactionState> + Send + 'static,
    {
        self.checker = Some(Checker::new(checker));
        self
    }

    /// Adds an interceptor, behind those that are there.
    pub fn interceptor(mut self, interceptor: impl SendInterceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Shares the connections of a client that is there already, which its owner shuts down; name servers then do not
    /// count. [`ProducerConfig::client`] is an error at the start: the client has its own options.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Starts the producer.
    ///
    /// # Errors
    /// [`Error::Client`] for a bad group name or option, where nothing tells the addresses of name servers, and where
    /// none of them answers within the request timeout.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<Producer, Error> {
        Producer::start(self).await
    }
}
