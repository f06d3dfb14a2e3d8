//! How transactions end. Java: `EndTransactionProcessor`, `TransactionalMessageServiceImpl`.

use super::{
    Asked, Outcome, Refusal, done,
    send::{NewMessage, store},
    send_back::ensure_topic,
};
use crate::{
    broker::{Broker, Woken, without_target},
    clock::millis,
    halves::Half,
    log::NewRecord,
    record::Stored,
    server::Service,
};
use bytes::{Bytes, BytesMut};
use rocketmq_common::{
    message::{
        OffsetId, Record,
        names::HALF_TOPIC,
        properties::{Properties, lookup, property},
    },
    protocol::{CheckTransactionState, EndTransaction, sys_flag},
};
use rocketmq_remote::ResponseCode;

pub(super) fn end(broker: &Broker, asked: Asked) {
    let header: EndTransaction = match asked.incoming.header() {
        Ok(header) => header,
        Err(error) => return asked.answer(Err(error.into())),
    };
    // To an end that is none Java answers nothing.
    let is_commit = match header.commit_or_rollback {
        sys_flag::TRANSACTION_COMMIT => true,
        sys_flag::TRANSACTION_ROLLBACK => false,
        _ => return,
    };
    let mut woken = Woken::default();
    let outcome = end_as(broker, &header, is_commit, &mut woken);
    asked.answer(outcome);
    broker.settle(woken);
}

fn end_as(broker: &Broker, header: &EndTransaction, is_commit: bool, woken: &mut Woken) -> Outcome {
    let wrong = |remark: &'static str| Refusal::new(ResponseCode::SYSTEM_ERROR, remark);
    let not_found = || wrong("Find prepared transaction message failed");
    let record = {
        let mut store = broker.store();
        let (half, offset) = store.halves.find(header.commit_log_offset).ok_or_else(not_found)?;
        if *half.group != *header.producer_group {
            return Err(wrong("The producer group wrong"));
        }
        if offset != header.tran_state_table_offset {
            return Err(wrong("The transaction state table offset wrong"));
        }
        let half = store.halves.take(header.commit_log_offset).ok_or_else(not_found)?;
        let record = store.log.record_at(half.place());
        forget_ended(&mut store);
        record.ok_or_else(not_found)?
    };
    if is_commit {
        let half = Stored::read(&record).ok_or_else(not_found)?;
        let topic = lookup(half.properties, property::REAL_TOPIC).ok_or_else(not_found)?;
        let queue_id = lookup(half.properties, property::REAL_QID).and_then(|id| id.parse().ok());
        let mut properties = without_target(half.properties);
        properties.remove(property::TRAN_MSG);
        let message = NewMessage {
            topic,
            queue_id: queue_id.ok_or_else(not_found)?,
            flag: half.flag,
            sys_flag: half.sys_flag & !sys_flag::TRANSACTION_ROLLBACK | sys_flag::TRANSACTION_COMMIT,
            born_ms: half.born_ms,
            born_host: half.born_host,
            reconsume_times: half.reconsume_times,
            prepared_offset: header.commit_log_offset,
            body: half.body,
            properties: properties.into_string(),
        };
        store(broker, message, woken)?;
    }
    Ok(done())
}

/// Frees what half messages took that have ended.
fn forget_ended(store: &mut crate::broker::Store) {
    let min_offset = store.halves.min_offset().or(store.log.bounds(HALF_TOPIC, 0).map(|(_, max)| max));
    store.log.trim(HALF_TOPIC, 0, min_offset.unwrap_or(0));
}

/// Asks one producer each what became of the half messages that have been there for long.
pub(crate) fn check(broker: &Broker) {
    let stored_until = broker.clock.now_ms().saturating_sub(millis(broker.config.transaction_check));
    let places = broker.store().halves.stored_until(stored_until);
    for place in places {
        // It may have ended meanwhile.
        let Some((half, check, message)) = put_back(broker, place) else { continue };
        let producer = broker.groups().producer(&half.group, half.checks);
        let asked = producer.is_some_and(|connection| broker.peers().check(connection, check, message));
        if !asked {
            tracing::debug!(group = %half.group, "no producer to ask what became of a half message");
        }
    }
}

/// Appends a half message anew, as a real broker does at each check; the one that has been checked often enough goes
/// where an operator may look for it. Answers what to ask.
fn put_back(broker: &Broker, place: i64) -> Option<(Half, CheckTransactionState, Bytes)> {
    let now_ms = broker.clock.now_ms();
    ensure_topic(broker, CHECKED_OFTEN_TOPIC);
    let mut store = broker.store();
    let mut half = store.halves.take(place)?;
    let record = store.log.record_at(place)?;
    let stored = Stored::read(&record)?;
    half.checks += 1;
    let is_over = half.checks > MAX_CHECKS;
    let mut properties = Properties::from(stored.properties.to_owned());
    properties.set(property::TRANSACTION_CHECK_TIMES, &half.checks.to_string());
    let properties = properties.into_string();
    let encode = |topic: &str, queue_id| {
        let mut bytes = BytesMut::new();
        let record = Record {
            topic,
            queue_id,
            store_timestamp_ms: now_ms,
            store_host: broker.addr,
            properties: &properties,
            ..stored.anew()
        };
        record.encode(&mut bytes).ok().map(|_| bytes)
    };
    let topic = if is_over { CHECKED_OFTEN_TOPIC } else { HALF_TOPIC };
    let again = NewRecord { bytes: encode(topic, 0)?, tag_hash: 0 };
    let at = store.log.append_anyway(topic, 0, again, now_ms).ok()?;
    half.moved(at);
    if !is_over {
        store.halves.insert(half.clone());
    }
    forget_ended(&mut store);
    drop(store);
    if is_over {
        return None;
    }
    let target = lookup(stored.properties, property::REAL_TOPIC)?;
    let queue_id = lookup(stored.properties, property::REAL_QID)?.parse().ok()?;
    let mut message = encode(target, queue_id)?;
    crate::record::set_position(&mut message, at.queue_offset, at.place, now_ms);
    let unique_id = lookup(&properties, property::UNIQ_KEY).map(ToOwned::to_owned);
    let check = CheckTransactionState {
        topic: Some(HALF_TOPIC.into()),
        tran_state_table_offset: at.queue_offset,
        commit_log_offset: at.place,
        message_id: unique_id.clone(),
        transaction_id: unique_id,
        offset_message_id: Some(OffsetId { host: broker.addr, commit_log_offset: at.place }.to_string()),
        broker_name: Some(broker.name.clone()),
    };
    Some((half, check, message.freeze()))
}

/// Java: `transactionCheckMax`.
const MAX_CHECKS: usize = 15;
/// Java: `TopicValidator.RMQ_SYS_TRANS_CHECK_MAX_TIME_TOPIC`.
const CHECKED_OFTEN_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
