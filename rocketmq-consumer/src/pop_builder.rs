use crate::{
    Error, PopConfig, PopConsumer,
    wiring::{Wiring, wiring_setters},
};

/// Wires a pop consumer up; made by [`PopConsumer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until start"]
pub struct PopConsumerBuilder {
    wiring: Wiring,
    config: PopConfig,
}

impl PopConsumerBuilder {
    pub(crate) fn new(group: String) -> Self {
        Self { wiring: Wiring::new(group), config: PopConfig::default() }
    }

    wiring_setters!();

    /// How to consume.
    pub fn config(mut self, config: PopConfig) -> Self {
        self.config = config;
        self
    }

    /// Joins the group. Brokers hear of it before this returns: one does not give messages to a group it does not know.
    ///
    /// # Errors
    /// [`Error::NoSubscription`], [`Error::Clash`], [`Error::Filter`], [`Error::FilterRefused`] for what is missing or
    /// wrong; [`Error::Client`] for a bad name or option, and where no name server answers within the request timeout. A
    /// topic that does not exist yet is no error: it is consumed once it does. Nor is an old broker, before
    /// [`receive`](PopConsumer::receive) asks it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<PopConsumer, Error> {
        PopConsumer::start(self.wiring, self.config).await
    }
}
