//! What brokers may ask of a client.

use super::{Shared, TransactionCheck, operators};
use crate::{
    message::{DecodeLimits, decode_records, property},
    protocol::{CheckTransactionState, NotifyConsumerIdsChanged},
};
use rocketmq_remote::{Incoming, Processors, RequestCode};
use std::sync::{Arc, Weak};

pub(super) fn processors(shared: Weak<Shared>) -> Processors {
    let on = |handle: fn(&Arc<Shared>, Incoming)| {
        let shared = shared.clone();
        move |incoming: Incoming| {
            if let Some(shared) = shared.upgrade() {
                handle(&shared, incoming);
            }
        }
    };
    Processors::new()
        .on(RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT, on(|shared, incoming| shared.replies.receive(incoming)))
        .on(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED, on(members_changed))
        .on(RequestCode::CHECK_TRANSACTION_STATE, on(check_transaction))
        .on(RequestCode::GET_CONSUMER_RUNNING_INFO, on(operators::running_info))
        .on(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT, on(operators::status))
        .on(RequestCode::CONSUME_MESSAGE_DIRECTLY, on(operators::consume_directly))
        .on(RequestCode::RESET_CONSUMER_CLIENT_OFFSET, on(operators::reset))
}

fn members_changed(shared: &Arc<Shared>, incoming: Incoming) {
    match incoming.header::<NotifyConsumerIdsChanged>() {
        Ok(notice) => shared.members.note_change(&notice.consumer_group),
        Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "notice without a group"),
    }
}

fn check_transaction(shared: &Arc<Shared>, incoming: Incoming) {
    match read_check(&incoming) {
        Some((group, check)) => shared.members.check(&group, check),
        None => tracing::warn!(addr = %incoming.addr(), "unreadable transaction check"),
    }
}

/// The check and the producer group it is for.
fn read_check(incoming: &Incoming) -> Option<(String, TransactionCheck)> {
    let request: CheckTransactionState = incoming.header().ok()?;
    let broker_name = request.broker_name.clone().unwrap_or_else(|| "".into());
    let body = incoming.command().body.clone();
    // The body is left to whoever decides: this is the task that reads all answers of the connection.
    let mut records = decode_records(body, &"".into(), &broker_name, DecodeLimits::default()).compressed();
    let message = records.next()?.ok()?;
    let group = message.property(property::PGROUP)?.to_owned();
    Some((group, TransactionCheck { message, request, addr: incoming.addr() }))
}
