use crate::{
    Error, Filter,
    subscriptions::{Subscriptions, check_filter, parse, supersede_known, wrapped},
};
use rocketmq_common::{
    Client, ClientConfig, NameServerSource,
    message::names::{check_group, retry_topic},
};
use std::sync::Arc;

/// What every consumer of a group is given before it starts.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) group: String,
    pub(crate) name_servers: NameServerSource,
    pub(crate) client: Option<Client>,
    pub(crate) subscriptions: Vec<(String, Filter)>,
    /// Whether there has to be a subscription: a user who chooses queues may begin without any.
    pub(crate) needs_subscription: bool,
}

/// What came of it: a client that runs, and names as the wire knows them.
#[derive(Debug)]
pub(crate) struct Wired {
    pub(crate) client: Client,
    pub(crate) owns_client: bool,
    pub(crate) group: Arc<str>,
    pub(crate) subscriptions: Subscriptions,
}

impl Wiring {
    pub(crate) fn new(group: String) -> Self {
        Self {
            group,
            name_servers: NameServerSource::default(),
            client: None,
            subscriptions: Vec::new(),
            needs_subscription: true,
        }
    }

    /// Checks everything, starts a client unless there is one, and has a broker look at the filters. The group's retry
    /// topic is subscribed to as well where messages come again by it.
    pub(crate) async fn wire(self, config: &ClientConfig, with_retry_topic: bool) -> Result<Wired, Error> {
        check_group(&self.group).map_err(rocketmq_common::Error::from)?;
        if self.needs_subscription && self.subscriptions.is_empty() {
            return Err(Error::NoSubscription);
        }
        let mut subscriptions = parse(&self.group, self.subscriptions)?;
        if !with_retry_topic {
            subscriptions.remove(retry_topic(&self.group).as_str());
        }
        let owns_client = self.client.is_none();
        let client = match self.client {
            Some(client) => client,
            None => Client::start(self.name_servers, config.clone()).await?,
        };
        let group = client.namespace().wrap(&self.group).into_owned();
        check_group(&group).map_err(rocketmq_common::Error::from)?;
        let mut subscriptions = wrapped(client.namespace(), subscriptions)?;
        for data in subscriptions.values() {
            check_filter(&client, &group, data).await?;
        }
        let group = group.into();
        supersede_known(&client, &group, &mut subscriptions).await;
        Ok(Wired { client, owns_client, group, subscriptions })
    }
}

/// The setters of a builder with a [`Wiring`] in its field `wiring`.
macro_rules! wiring_setters {
    () => {
        /// The name servers, of the form `host:port`; one text may hold several, separated by `;`. Where neither they nor
        /// a resolver are given, the environment variable `NAMESRV_ADDR` holds them.
        pub fn name_servers(mut self, addrs: impl IntoIterator<Item = impl Into<String>>) -> Self {
            self.wiring.name_servers = addrs.into();
            self
        }

        /// Who finds the name servers, now and later: one of [`resolver`](crate::resolver), or your own. It takes the
        /// place of a list.
        pub fn name_server_resolver(
            mut self,
            resolver: impl rocketmq_common::resolver::NameServerResolver + 'static,
        ) -> Self {
            self.wiring.name_servers = rocketmq_common::NameServerSource::resolver(resolver);
            self
        }

        /// Adds a topic. All members of a group must subscribe to the same topics with the same filters.
        pub fn subscribe(mut self, topic: impl Into<String>, filter: crate::Filter) -> Self {
            self.wiring.subscriptions.push((topic.into(), filter));
            self
        }

        /// Shares the connections of a client that is there already, which its owner shuts down; the name servers given
        /// here then do not count. Options of the client in the configuration are an error at the start: the client
        /// has its own.
        pub fn client(mut self, client: rocketmq_common::Client) -> Self {
            self.wiring.client = Some(client);
            self
        }
    };
}

pub(crate) use wiring_setters;

/// The setters of a builder of a member, with a [`Manner`](crate::member::Manner) in its field `manner`.
macro_rules! manner_setters {
    () => {
        /// A filter of one's own, behind that of the subscription: a message for which it answers `false` counts as done,
        /// and nobody gets it. It runs where messages come in, so it must not block. If it panics the message passes.
        ///
        /// # Protocol
        /// Java: `FilterMessageHook`.
        pub fn filter(mut self, filter: impl Fn(&StoredMessage) -> bool + Send + Sync + 'static) -> Self {
            self.manner.filter = Some(crate::listener::FilterHook(std::sync::Arc::new(filter)));
            self
        }

        /// Where the group's offsets are kept, instead of at the brokers, or in a local file.
        pub fn offset_store(mut self, store: impl crate::OffsetStore) -> Self {
            self.manner.offset_store = Some(std::sync::Arc::new(store));
            self
        }
    };
}

pub(crate) use manner_setters;
