//! What a client knows of its own state.

use super::Client;
use crate::{Health, internal::Conditions};
use std::sync::Arc;

impl Client {
    /// The state of this client: its connections to brokers, its heartbeats, and what fails at the moment. The `health`
    /// of a producer or a consumer contains this and adds its own.
    pub fn health(&self) -> Health {
        let shared = self.shared();
        let open = shared.pool.open();
        let brokers =
            open.iter().map(|connection| connection.addr()).filter(|addr| !shared.name_servers.contains(addr));
        let mut connected_brokers: Vec<Arc<str>> = brokers.cloned().collect();
        connected_brokers.sort();
        let last_heartbeat = *shared.last_heartbeat.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Health {
            connected_brokers,
            last_heartbeat: last_heartbeat.map(|accepted| accepted.elapsed()),
            assigned_queues: None,
            conditions: shared.conditions.current(),
        }
    }

    /// The conditions of this client, for those who log.
    #[doc(hidden)]
    pub fn conditions(&self) -> &Conditions {
        &self.shared().conditions
    }
}
