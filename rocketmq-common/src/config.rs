use crate::{Error, Namespace};
use rocketmq_remote::ConnectionOptions;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a producer's and a consumer's [`Client`](crate::Client) have in common to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Longest time for one request that is not a send or a pull: routes, offsets, members, heartbeats. At least
    /// 1 ms; default 3 s.
    #[serde(with = "rocketmq_remote::duration")]
    pub request_timeout: Duration,
    /// How often the routes in use are fetched anew, at least 10 ms. Default 30 s.
    #[serde(with = "rocketmq_remote::duration")]
    pub route_refresh_interval: Duration,
    /// How often brokers are told that this client lives, at least 10 ms. Default 30 s; they forget a client after 120 s.
    #[serde(with = "rocketmq_remote::duration")]
    pub heartbeat_interval: Duration,
    /// How long a name server may leave a look-up unanswered before the next one is asked too; and how long the others
    /// get to contradict one that does not know a topic. At least 1 ms; default 500 ms.
    #[serde(with = "rocketmq_remote::duration")]
    pub name_server_patience: Duration,
    /// How often a [resolver](crate::resolver) is asked for the addresses of the name servers anew; the first time
    /// after 10 s at the latest. At least 10 ms; default 120 s, as in Java.
    #[serde(with = "rocketmq_remote::duration")]
    pub name_server_refresh_interval: Duration,
    /// The part of the client id after the `@`. Default: one that is unique in the world, made of the process id and a
    /// random number. Two clients with the same id in a group lose messages, so set it only with care. This and the other
    /// names have 1 to 255 bytes, and no control characters.
    pub instance_name: Option<String>,
    /// The unit this client belongs to: the last part of the client id, `<ip>@<instance>@<unit>`. Default none. The
    /// unit of an [`HttpEndpoint`](crate::resolver::HttpEndpoint) is told to that.
    pub unit_name: Option<String>,
    /// Whether sends and subscriptions say that they come from a unit. Default false.
    pub unit_mode: bool,
    /// Whether sends, offsets and lists of members go to a second port of the brokers, two below their own, where they
    /// do not stand in one line with pulls. Everything else goes to the brokers' own port. Default false.
    pub vip_channel: bool,
    /// The namespace of the first kind: a text before the names of topics and groups on the wire, where users of
    /// producers and consumers see plain names; see [`Namespace`]. Default none, or the one that the first of the name
    /// servers' addresses has in it, as `http://MQ_INST_1_a.example:80` has `MQ_INST_1_a`.
    pub namespace: Option<String>,
    /// The namespace of the second kind: it leaves names as they are, and every request carries it (`nsd=true`,
    /// `ns=<namespace>`). Open source brokers do not look at it. Default none.
    pub namespace_v2: Option<String>,
    /// What each connection allows itself and its peer.
    pub connection: ConnectionOptions,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(3),
            route_refresh_interval: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(30),
            name_server_patience: Duration::from_millis(500),
            name_server_refresh_interval: Duration::from_secs(120),
            instance_name: None,
            unit_name: None,
            unit_mode: false,
            vip_channel: false,
            namespace: None,
            namespace_v2: None,
            connection: ConnectionOptions::default(),
        }
    }
}

impl ClientConfig {
    /// Whether every value can work.
    ///
    /// # Errors
    /// [`Error::Config`] names the first one that cannot.
    pub fn check(&self) -> Result<(), Error> {
        let at_least = |option, value: Duration, least: Duration| {
            let message = "is too short";
            if value < least { Err(Error::Config { option, message }) } else { Ok(()) }
        };
        at_least("request_timeout", self.request_timeout, Duration::from_millis(1))?;
        at_least("route_refresh_interval", self.route_refresh_interval, Duration::from_millis(10))?;
        at_least("heartbeat_interval", self.heartbeat_interval, Duration::from_millis(10))?;
        at_least("connection.connect_timeout", self.connection.connect_timeout, Duration::from_millis(1))?;
        at_least("name_server_patience", self.name_server_patience, Duration::from_millis(1))?;
        at_least("name_server_refresh_interval", self.name_server_refresh_interval, Duration::from_millis(10))?;
        let fits = |name: &str| !name.is_empty() && name.len() <= 255 && !name.contains(char::is_control);
        let names = [
            ("instance_name", &self.instance_name),
            ("unit_name", &self.unit_name),
            ("namespace_v2", &self.namespace_v2),
        ];
        for (option, name) in names {
            if name.as_deref().is_some_and(|name| !fits(name)) {
                return Err(Error::Config { option, message: "is empty, too long or not printable" });
            }
        }
        // An empty value is read as none by peers.
        let travels = |(name, value): (&String, &String)| fits(name) && !value.is_empty() && value.len() <= 32_767;
        if !self.connection.request_fields.iter().all(travels) {
            let option = "connection.request_fields";
            return Err(Error::Config { option, message: "holds a name or a value that is empty or too long" });
        }
        Namespace::new(self.namespace.as_deref().unwrap_or_default()).map(drop)
    }

    /// What goes for each connection.
    pub(crate) fn connection_options(&self) -> ConnectionOptions {
        let mut options = self.connection.clone();
        if let Some(namespace) = &self.namespace_v2 {
            options.request_fields.insert("nsd".to_owned(), "true".to_owned());
            options.request_fields.insert("ns".to_owned(), namespace.clone());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_work_are_refused() {
        let refused = |config: ClientConfig| match config.check() {
            Err(Error::Config { option, .. }) => option,
            other => panic!("{other:?}"),
        };
        let default = ClientConfig::default;
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(refused(ClientConfig { instance_name: name(""), ..default() }), "instance_name");
        assert_eq!(refused(ClientConfig { unit_name: name("a\nb"), ..default() }), "unit_name");
        assert_eq!(refused(ClientConfig { namespace: name("a%b"), ..default() }), "namespace");
        assert_eq!(refused(ClientConfig { namespace_v2: name(""), ..default() }), "namespace_v2");
        let too_often = ClientConfig { name_server_refresh_interval: Duration::ZERO, ..default() };
        assert_eq!(refused(too_often), "name_server_refresh_interval");
        let hasty = ClientConfig { name_server_patience: Duration::ZERO, ..default() };
        assert_eq!(refused(hasty.clone()), "name_server_patience");
        assert_eq!(hasty.check().unwrap_err().to_string(), "option name_server_patience is too short");
        let mut fields = default();
        fields.connection.request_fields.insert("zone".to_owned(), String::new());
        assert_eq!(refused(fields), "connection.request_fields");
        assert!(ClientConfig { namespace: name(""), ..default() }.check().is_ok());
    }

    #[test]
    fn a_namespace_of_the_second_kind_goes_along_with_every_request() {
        let config = ClientConfig { namespace_v2: Some("tenant".to_owned()), ..Default::default() };
        let fields = config.connection_options().request_fields;
        assert_eq!(fields, [("ns".to_owned(), "tenant".to_owned()), ("nsd".to_owned(), "true".to_owned())].into());
        assert!(ClientConfig::default().connection_options().request_fields.is_empty());
    }
}
