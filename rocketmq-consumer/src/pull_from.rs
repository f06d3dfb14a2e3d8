use crate::source::Source;
use rocketmq_common::{
    Client, Error, MessageQueue, TopicRoute,
    protocol::{PullMessage, PullResult},
    remote::{Answer, Deadline, ResponseCode},
};
use tokio::time::Instant;

/// Pulls from the replica that `source` picks, and has it know what came of that.
pub(crate) async fn pull_from(
    source: &mut Source,
    client: &Client,
    route: &TopicRoute,
    queue: &MessageQueue,
    request: &PullMessage,
    deadline: Deadline,
) -> Result<Answer<PullResult>, Error> {
    let broker_name = route.broker_of(queue);
    let addrs = route.broker_addrs(broker_name);
    let replica = addrs.and_then(|addrs| source.pick(addrs, Instant::now()));
    let replica = replica.ok_or_else(|| Error::BrokerNotFound { broker_name: broker_name.clone() })?;
    match client.pull_message(&replica.addr, request, deadline).await {
        Ok(mut answer) => {
            if answer.code == ResponseCode::PULL_OFFSET_MOVED && !replica.is_master {
                // It may hold less than the master: what is missing here is not gone.
                tracing::debug!(
                    %queue, offset = request.queue_offset, addr = %replica.addr, "outside of what a replica holds"
                );
                source.failed(replica, true, Instant::now());
                answer.code = ResponseCode::PULL_RETRY_IMMEDIATELY;
                answer.header.next_begin_offset = request.queue_offset;
            } else {
                source.follow(answer.header.suggested_broker_id);
            }
            Ok(answer)
        }
        Err(error) => {
            let code = error.response_code();
            source.failed(replica, code.is_some(), Instant::now());
            if code == Some(ResponseCode::NOT_LEADER_FOR_QUEUE) {
                // A queue of a static topic is on another broker by now: on which, is known before the next pull.
                let _ = client.newer_route(&queue.topic, route.generation()).await;
            } else if code.is_none() {
                client.note_stale(route);
            }
            Err(error)
        }
    }
}
