use crate::Error;
use rocketmq_remote::ConnectionOptions;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a producer's and a consumer's [`Client`](crate::Client) have in common to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Longest time for one request that is not a send or a pull: routes, offsets, members, heartbeats. Default 3 s.
    pub request_timeout: Duration,
    /// How often the routes in use are fetched anew. Default 30 s.
    pub route_refresh_interval: Duration,
    /// How often brokers are told that this client lives. Default 30 s; they forget a client after 120 s.
    pub heartbeat_interval: Duration,
    /// How long a name server may leave a look-up unanswered before the next one is asked too. Default 500 ms.
    pub name_server_patience: Duration,
    /// The part of the client id after the `@`. Default: one that is unique in the world, made of the process id and a
    /// random number. Two clients with the same id in a group lose messages, so set it only with care.
    pub instance_name: Option<String>,
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
            instance_name: None,
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
        let fits = |name: &String| !name.is_empty() && name.len() <= 255 && !name.contains(char::is_control);
        if self.instance_name.as_ref().is_some_and(|name| !fits(name)) {
            return Err(Error::Config { option: "instance_name", message: "is empty, too long or not printable" });
        }
        Ok(())
    }
}
