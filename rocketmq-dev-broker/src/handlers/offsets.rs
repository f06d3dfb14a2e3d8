//! Positions in queues, and how far groups have come. Java: `ConsumerManageProcessor`, `AdminBrokerProcessor`.

use super::{Outcome, Refusal, done, send_back::check_group};
use crate::{
    broker::Broker,
    log::Boundary,
    protocol::{EarliestStoreTime, StoreTime},
};
use rocketmq_common::protocol::{
    GetMaxOffset, GetMinOffset, Offset, QueryConsumerOffset, SearchOffset, UpdateConsumerOffset,
};
use rocketmq_remote::{Incoming, ResponseCode};

pub(super) fn query(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: QueryConsumerOffset = incoming.header()?;
    check_place(broker, &header.topic, header.queue_id)?;
    let recorded = broker.offsets().get(&header.consumer_group, &header.topic, header.queue_id);
    // A negative offset can be recorded and is as good as none.
    if let Some(offset) = recorded.filter(|offset| *offset >= 0) {
        return Ok(done().with_header(&Offset { offset }));
    }
    if header.set_zero_if_not_found == Some(false) {
        let remark = "Not found, do not set to zero, maybe this group boot first";
        return Err(Refusal::new(ResponseCode::QUERY_NOT_FOUND, remark));
    }
    // A new group begins at the start of a queue that still holds its first message.
    match broker.store().log.bounds(&header.topic, header.queue_id) {
        Some((min, max)) if min <= 0 && max > 0 => Ok(done().with_header(&Offset { offset: 0 })),
        _ => {
            let remark = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
            Err(Refusal::new(ResponseCode::QUERY_NOT_FOUND, remark))
        }
    }
}

pub(super) fn update(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: UpdateConsumerOffset = incoming.header()?;
    check_group(&header.consumer_group)?;
    check_place(broker, &header.topic, header.queue_id)?;
    if broker.store().log.topic(&header.topic).is_none() {
        let remark = format!("Topic {} not exist!", header.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    }
    broker.offsets().set(&header.consumer_group, &header.topic, header.queue_id, header.commit_offset);
    Ok(done())
}

pub(super) fn max(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: GetMaxOffset = incoming.header()?;
    check_place(broker, &header.topic, header.queue_id)?;
    let offset = broker.store().log.bounds(&header.topic, header.queue_id).map_or(0, |(_, max)| max);
    Ok(done().with_header(&Offset { offset }))
}

pub(super) fn min(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: GetMinOffset = incoming.header()?;
    check_place(broker, &header.topic, header.queue_id)?;
    let offset = broker.store().log.bounds(&header.topic, header.queue_id).map_or(0, |(min, _)| min);
    Ok(done().with_header(&Offset { offset }))
}

pub(super) fn search(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: SearchOffset = incoming.header()?;
    check_place(broker, &header.topic, header.queue_id)?;
    let boundary = match incoming.command().fields.get("boundaryType") {
        Some(boundary) if boundary.eq_ignore_ascii_case("UPPER") => Boundary::Upper,
        _ => Boundary::Lower,
    };
    let offset = broker.store().log.search(&header.topic, header.queue_id, header.timestamp_ms, boundary);
    Ok(done().with_header(&Offset { offset }))
}

pub(super) fn earliest(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: EarliestStoreTime = incoming.header()?;
    let timestamp_ms = broker.store().log.earliest_ms(&header.topic, header.queue_id).unwrap_or(-1);
    Ok(done().with_header(&StoreTime { timestamp_ms }))
}

/// Refuses a queue of a static topic that is on another broker.
fn check_place(broker: &Broker, topic: &str, queue_id: i32) -> Result<(), Refusal> {
    match broker.has_moved(topic, queue_id) {
        true => Err(Refusal::moved(topic, queue_id, &broker.name)),
        false => Ok(()),
    }
}
