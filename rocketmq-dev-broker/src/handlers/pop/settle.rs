//! Popped messages that are done, or hidden for another time. Java: `AckMessageProcessor`,
//! `ChangeInvisibleTimeProcessor`.

use super::{NOT_SET, no_queue, no_topic};
use crate::{
    broker::Broker,
    handlers::{Outcome, Refusal, done},
    pops::{Delivery, OrderedAck, QueueOfGroup},
};
use rocketmq_common::{
    pop::{PopSource, ReceiptHandle},
    protocol::{AckMessage, BatchAckMessage, ChangeInvisibleTime, Hidden},
};
use rocketmq_remote::{Command, Incoming, Json, ResponseCode};
use std::sync::Arc;

pub(in crate::handlers) fn ack(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: AckMessage = incoming.header()?;
    let (min, max) = bounds(broker, &header.topic, header.queue_id)?;
    if !(min..=max).contains(&header.offset) {
        let AckMessage { topic, queue_id, offset, .. } = &header;
        let remark = format!("offset is illegal, key:{topic}@{queue_id}, commit:{offset}, store:{min}~{max}");
        return Err(Refusal::new(ResponseCode::NO_MESSAGE, remark));
    }
    let handle = parse(&header.extra_info)?;
    let queue = QueueOfGroup { group: header.consumer_group, topic: header.topic, queue_id: header.queue_id };
    let delivery = Delivery { offset: header.offset, pop_time_ms: handle.pop_time_ms };
    if settle(broker, &queue, [delivery], handle.is_ordered()) {
        Ok(done())
    } else {
        Err(Refusal::new(ResponseCode::MESSAGE_ILLEGAL, "the message was not popped in order"))
    }
}

pub(in crate::handlers) fn batch_ack(broker: &Broker, incoming: &Incoming) -> Outcome {
    let Json(body) = incoming.body::<BatchAckMessage>()?;
    if body.acks.is_empty() {
        return Ok(Command::response(0, ResponseCode::NO_MESSAGE));
    }
    for ack in body.acks {
        let source = PopSource::from_flag(&ack.retry).unwrap_or(PopSource::Topic);
        let group: Arc<str> = ack.consumer_group.into();
        let topic = source.real_topic(&ack.topic.into(), &group);
        let queue = QueueOfGroup { group, topic, queue_id: ack.queue_id };
        let Ok((min, max)) = bounds(broker, &queue.topic, queue.queue_id) else { continue };
        let offset = |distance| ack.start_offset.saturating_add(i64::try_from(distance).unwrap_or(i64::MAX));
        let offsets = ack.offsets.iter().map(offset).filter(|offset| (min..=max).contains(offset));
        let deliveries = offsets.map(|offset| Delivery { offset, pop_time_ms: ack.pop_time_ms });
        settle(broker, &queue, deliveries, ack.revive_queue_id == ReceiptHandle::ORDERED);
    }
    Ok(done())
}

pub(in crate::handlers) fn change(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: ChangeInvisibleTime = incoming.header()?;
    let (min, max) = bounds(broker, &header.topic, header.queue_id)?;
    if !(min..max).contains(&header.offset) {
        let head = Hidden { pop_time_ms: 0, invisible_time_ms: 0, revive_queue_id: 0 };
        return Ok(Command::response(0, ResponseCode::NO_MESSAGE).with_header(&head).with_remark(NOT_SET));
    }
    let handle = parse(&header.extra_info)?;
    let queue = QueueOfGroup { group: header.consumer_group, topic: header.topic, queue_id: header.queue_id };
    let delivery = Delivery { offset: header.offset, pop_time_ms: handle.pop_time_ms };
    let now_ms = broker.clock.now_ms();
    let until_ms = now_ms.saturating_add(header.invisible_time_ms);
    let pops = &mut broker.store().pops;
    let (pop_time_ms, invisible_time_ms) = if handle.is_ordered() {
        match pops.hide_in_order(&queue, delivery, until_ms) {
            true => (delivery.pop_time_ms, until_ms.saturating_sub(delivery.pop_time_ms)),
            false => (0, 0),
        }
    } else {
        // The pop time tells deliveries apart: also one that is changed within the millisecond of its pop.
        let pop_time_ms = now_ms.max(delivery.pop_time_ms.saturating_add(1));
        if !pops.hide_again(&queue, delivery, pop_time_ms, until_ms) {
            return Err(Refusal::new(ResponseCode::SYSTEM_BUSY, "too many messages are hidden"));
        }
        (pop_time_ms, header.invisible_time_ms)
    };
    broker.wake_timer();
    let revive_queue_id = if pop_time_ms == 0 { 0 } else { handle.revive_queue_id };
    Ok(done().with_header(&Hidden { pop_time_ms, invisible_time_ms, revive_queue_id }).with_remark(NOT_SET))
}

/// Settles deliveries of a queue; one of long ago is no error. False where an ordered message was not popped.
fn settle(
    broker: &Broker,
    queue: &QueueOfGroup,
    deliveries: impl IntoIterator<Item = Delivery>,
    is_ordered: bool,
) -> bool {
    let mut store = broker.store();
    let (mut were_popped, mut came_to) = (true, None);
    for delivery in deliveries {
        if !is_ordered {
            store.pops.ack(queue, delivery);
            continue;
        }
        match store.pops.ack_in_order(queue, delivery) {
            OrderedAck::Stale => {}
            OrderedAck::Unknown => were_popped = false,
            OrderedAck::Next(offset) => came_to = Some(offset),
        }
    }
    if let Some(offset) = came_to {
        // Under the lock: of two at once the one that comes further records last.
        broker.offsets().set(&queue.group, &queue.topic, queue.queue_id, offset);
        let woken = store.wake_pops(&queue.topic);
        drop(store);
        broker.settle(woken);
    }
    were_popped
}

fn bounds(broker: &Broker, topic: &str, queue_id: i32) -> Result<(i64, i64), Refusal> {
    let store = broker.store();
    let Some(config) = store.log.topic(topic) else { return Err(no_topic(topic)) };
    let bounds = store.log.bounds(topic, queue_id).filter(|_| queue_id < config.read_queues);
    bounds.ok_or_else(|| Refusal::new(ResponseCode::MESSAGE_ILLEGAL, no_queue(topic, queue_id, config)))
}

/// Java throws where a handle does not read.
fn parse(handle: &str) -> Result<ReceiptHandle, Refusal> {
    handle.parse().map_err(|_| Refusal::new(ResponseCode::SYSTEM_ERROR, format!("the handle {handle:?} is illegal")))
}
