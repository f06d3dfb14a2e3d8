use crate::{fault::FaultTable, producer::Shared};
use rocketmq_common::{Error as ClientError, MessageQueue, ticks};
use std::sync::Arc;
use tokio::time::timeout;

/// Probes the brokers that could not be reached, until they answer or leave the cluster. Runs until it is dropped.
///
/// # Protocol
/// `GET_MAX_OFFSET` (30), as in Java: `LatencyFaultToleranceImpl.detectByOneRound`.
pub(crate) async fn detect(producer: Arc<Shared>, faults: Arc<FaultTable>) {
    let mut ticks = ticks(faults.tolerance().detect_interval);
    loop {
        ticks.tick().await;
        for (broker, topic) in faults.unreachable() {
            let topic = producer.client.namespace().wrap_shared(topic);
            let queue = MessageQueue { topic, broker_name: broker.clone(), queue_id: 0 };
            match timeout(faults.tolerance().detect_timeout, producer.client.max_offset(&queue)).await {
                // Any answer will do: a refusal comes from a broker that is there.
                Ok(Ok(_)) => faults.note_reachable(&broker),
                Ok(Err(error)) if error.response_code().is_some() => faults.note_reachable(&broker),
                Ok(Err(ClientError::BrokerNotFound { .. })) => faults.forget(&broker),
                Ok(Err(_)) | Err(_) => tracing::debug!(%broker, "still not reachable"),
            }
        }
    }
}
