//! What the programs under `examples/` have in common: where they go, and how they end.

use clap::Args;
use rocketmq_dev_broker::{DevCluster, DevClusterBuilder};
use std::process::ExitCode;

/// The cluster an example goes to.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The name server of a running cluster, HOST:PORT. Default: one that is started in this process.
    #[arg(long)]
    name_server: Option<String>,
}

impl Target {
    /// The name server of the cluster that was named; else that of one started in this process, which lives as long as
    /// the second value.
    ///
    /// # Errors
    /// Where no cluster can be started.
    pub async fn reach(self, embedded: DevClusterBuilder) -> anyhow::Result<(String, Option<DevCluster>)> {
        match self.name_server {
            Some(name_server) => Ok((name_server, None)),
            None => {
                let cluster = embedded.start().await?;
                Ok((cluster.name_server(), Some(cluster)))
            }
        }
    }
}

/// Ends a program: with success, or with one readable error and a failure.
pub fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's README, so that its code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
