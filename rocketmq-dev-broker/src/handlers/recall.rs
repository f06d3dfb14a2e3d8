//! Timer messages that are taken back. Java: `RecallMessageProcessor`.

use super::{Outcome, Refusal, done};
use crate::{
    broker::Broker,
    timers::{Handle, is_recallable},
};
use rocketmq_common::protocol::{RecallMessage, Recalled};
use rocketmq_remote::{Incoming, ResponseCode};

pub(super) fn recall(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: RecallMessage = incoming.header()?;
    let illegal = |remark: &'static str| Refusal::new(ResponseCode::ILLEGAL_OPERATION, remark);
    let handle: Handle =
        header.recall_handle.parse().map_err(|_| illegal("recall failed, recall handle is invalid"))?;
    if *header.topic != *handle.topic {
        return Err(illegal("recall failed, topic not match"));
    }
    if *broker.name != *handle.broker_name {
        return Err(illegal("recall failed, broker service not available"));
    }
    let mut store = broker.store();
    if store.log.topic(&handle.topic).is_none() {
        let remark = format!("recall failed, the topic[{}] not exist", handle.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    }
    if !is_recallable(handle.deliver_ms, broker.clock.now_ms()) {
        return Err(illegal("recall failed, timestamp invalid"));
    }
    store.timers.remove(handle.deliver_ms - 1, &handle.unique_id);
    drop(store);
    Ok(done().with_header(&Recalled { message_id: handle.unique_id }))
}
