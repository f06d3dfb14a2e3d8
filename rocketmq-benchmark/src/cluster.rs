//! The cluster to measure against: one that is there, or one in this process.

use crate::EMBEDDED;
use anyhow::Context;
use rocketmq_dev_broker::DevCluster;

/// A name server's address, and what it lives by.
#[derive(Debug)]
pub(crate) struct Cluster {
    name_server: String,
    embedded: Option<DevCluster>,
}

impl Cluster {
    pub(crate) async fn open(name_server: &str) -> anyhow::Result<Self> {
        if name_server != EMBEDDED {
            return Ok(Self { name_server: name_server.to_owned(), embedded: None });
        }
        let cluster = DevCluster::start().await.context("cannot start a broker in this process")?;
        Ok(Self { name_server: cluster.name_server(), embedded: Some(cluster) })
    }

    pub(crate) fn name_server(&self) -> &str {
        &self.name_server
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Creates a topic, if the broker is in this process.
    pub(crate) fn create_topic(&self, topic: &str, queues: usize) {
        if let Some(cluster) = &self.embedded {
            cluster.create_topic(topic, i32::try_from(queues).unwrap_or(i32::MAX));
        }
    }

    pub(crate) async fn close(self) {
        if let Some(cluster) = self.embedded {
            cluster.shutdown().await;
        }
    }
}
