//! Registers a transactional producer with every broker, since each asks about its half messages only the producers it
//! knows.

use crate::producer::Shared;
use rocketmq_common::{Backoff, TopicRoute, message::names::SELF_TEST_TOPIC, random::random_u64};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Sends a heartbeat to all brokers the name server knows, and again whenever there are other brokers, until the producer
/// stops. Without this a producer that was restarted would not be known to any broker before its first send.
///
/// # Protocol
/// Java's producers register with the brokers of `TBW102` at their start, which are none where
/// `autoCreateTopicEnable=false`. `SELF_TEST_TOPIC` is on every broker, and its route is kept up to date with all others
/// of the client. Witness: test `transaction::a_restarted_producer_is_checked_before_it_sends`.
pub(crate) async fn keep_registered(producer: Arc<Shared>) {
    let topic: Arc<str> = SELF_TEST_TOPIC.into();
    let interval = producer.client.config().route_refresh_interval;
    let mut registered: Option<Arc<TopicRoute>> = None;
    let mut failures = 0;
    loop {
        let seen = registered.as_ref().map_or(0, |route| route.generation());
        let wait = match producer.client.newer_route(&topic, seen).await {
            Ok(route) => {
                failures = 0;
                let is_known = registered.as_ref().is_some_and(|registered| registered.is_same_as(&route));
                registered = Some(route);
                if !is_known {
                    producer.client.heartbeat().await;
                }
                interval
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(
                    group = %producer.group, error = &error as &dyn std::error::Error,
                    "route of all brokers not found, registered only with the brokers of topics in use"
                );
                BACKOFF.wait(failures, random_u64()).min(interval)
            }
        };
        sleep(wait).await;
    }
}

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
