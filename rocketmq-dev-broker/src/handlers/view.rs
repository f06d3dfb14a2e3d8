//! Messages by where they are stored. Java: `QueryMessageProcessor`.

use super::{Outcome, Refusal, done};
use crate::{broker::Broker, protocol::ViewMessage};
use rocketmq_remote::{Incoming, ResponseCode};

pub(super) fn by_place(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: ViewMessage = incoming.header()?;
    let record = broker.store().log.record_at(header.place);
    match record {
        Some(record) => Ok(done().with_body(record)),
        None => {
            let remark = format!("can not find message by the offset, {}", header.place);
            Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark))
        }
    }
}
