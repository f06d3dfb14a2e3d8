//! What operators ask of the members of a group, handed on to them. Java: `AdminBrokerProcessor`, `Broker2Client`.

use super::{Asked, Outcome, Refusal, done};
use crate::{broker::Broker, pops::QueueOfGroup, server::Service};
use bytes::Bytes;
use rocketmq_common::{
    MessageQueue,
    message::OffsetId,
    protocol::{
        ClientStatus, ConsumeDirectly, GetClientStatus, GetGroupStatus, GetRunningInfo, OffsetTable, QueueTable,
        RequestMode, ResetClientOffset, ResetOffset,
    },
};
use rocketmq_remote::{Connection, Deadline, Error, Reply, Request, ResponseCode};
use std::{str::FromStr, sync::Arc, time::Duration};

/// Asks a member how it does.
pub(super) fn running_info(broker: &Broker, asked: Asked) {
    let request: GetRunningInfo = match asked.incoming.header() {
        Ok(request) => request,
        Err(error) => return asked.answer(Err(error.into())),
    };
    match member(broker, &request.consumer_group, &request.client_id) {
        Ok(connection) => hand_on(broker, asked, connection, request, ()),
        Err(refusal) => asked.answer(Err(refusal)),
    }
}

/// Has a member consume a message, which the operator names by its place.
pub(super) fn consume_directly(broker: &Broker, asked: Asked) {
    let found = || -> Result<(Connection, ConsumeDirectly, Bytes), Refusal> {
        let mut request: ConsumeDirectly = asked.incoming.header()?;
        let client_id = request.client_id.clone().unwrap_or_default();
        let connection = member(broker, &request.consumer_group, &client_id)?;
        let id = request.message_id.as_deref().and_then(|id| OffsetId::from_str(id).ok());
        let id = id.ok_or_else(|| Refusal::new(ResponseCode::SYSTEM_ERROR, "the message id is no offset id"))?;
        let record = broker.store().log.record_at(id.commit_log_offset);
        let record = record.ok_or_else(|| Refusal::new(ResponseCode::SYSTEM_ERROR, "no message is stored there"))?;
        request.broker_name = Some(broker.name.clone());
        (request.topic_sys_flag, request.group_sys_flag) = (Some(0), Some(0));
        Ok((connection, request, record))
    };
    match found() {
        Ok((connection, request, record)) => hand_on(broker, asked, connection, request, record),
        Err(refusal) => asked.answer(Err(refusal)),
    }
}

/// Asks members how far they are in their queues of a topic.
pub(super) fn status(broker: &Broker, asked: Asked) {
    let request: GetGroupStatus = match asked.incoming.header() {
        Ok(request) => request,
        Err(error) => return asked.answer(Err(error.into())),
    };
    let mut members = broker.groups().connections(&request.group);
    if members.is_empty() {
        return asked.answer(Err(Refusal::new(
            ResponseCode::SYSTEM_ERROR,
            format!("No Any Consumer online in the consumer group: [{}]", request.group),
        )));
    }
    if let Some(wanted) = request.client_id.filter(|id| !id.is_empty()) {
        members.retain(|(client_id, _)| *client_id == wanted);
    }
    let connections: Vec<_> = members
        .into_iter()
        .filter_map(|(client_id, connection)| Some((client_id, broker.peers().connection(connection)?)))
        .collect();
    let (topic, group) = (request.topic, request.group);
    in_the_background(broker, asked, async move {
        let mut status = ClientStatus::default();
        for (client_id, connection) in connections {
            let request =
                GetClientStatus { topic: topic.clone(), group: group.clone(), client_id: Some(client_id.clone()) };
            match connection.call(&request, (), Deadline::after(STATUS_TIME)).await {
                Ok(of_client) => _ = status.consumer_table.insert(client_id.to_string(), of_client.message_queue_table),
                Err(error) => tracing::warn!(%client_id, error = &error as &dyn std::error::Error, "no status"),
            }
        }
        let mut command = done();
        status.write_to(&mut command)?;
        Ok(command)
    });
}

/// Tells the members of a group to go on from somewhere else, as brokers do that leave it to them.
pub(super) fn reset(broker: &Broker, asked: Asked) {
    let targets = || -> Result<(Vec<Connection>, ResetOffset, OffsetTable), Refusal> {
        let request: ResetOffset = asked.incoming.header()?;
        let table = targets(broker, &request)?;
        let members = broker.groups().connections(&request.group);
        if members.is_empty() {
            let remark = format!("Consumer not online, so can not reset offset, Group: {}", request.group);
            return Err(Refusal::new(ResponseCode::CONSUMER_NOT_ONLINE, remark));
        }
        if pops(broker, &request) {
            move_pops(broker, &request.group, &table);
        }
        let connections = members.iter().filter_map(|(_, connection)| broker.peers().connection(*connection)).collect();
        Ok((connections, request, table))
    };
    let (connections, request, table) = match targets() {
        Ok(targets) => targets,
        Err(refusal) => return asked.answer(Err(refusal)),
    };
    let notice = ResetClientOffset {
        topic: request.topic,
        group: request.group,
        timestamp_ms: Some(request.timestamp_ms),
        is_force: Some(request.is_force),
        queue_id: request.queue_id,
        offset: request.offset,
    };
    in_the_background(broker, asked, async move {
        for connection in connections {
            let told = connection.call_oneway(&notice, table.clone(), Deadline::after(STATUS_TIME)).await;
            if let Err(error) = told {
                tracing::warn!(error = &error as &dyn std::error::Error, "a member is not told to move");
            }
        }
        let mut command = done();
        table.write_to(&mut command)?;
        Ok(command)
    });
}

/// Whether the group is set to pop the topic: it is the broker that knows how far it is then.
fn pops(broker: &Broker, request: &ResetOffset) -> bool {
    let of_group = (request.topic.to_string(), request.group.to_string());
    broker.request_modes().get(&of_group).is_some_and(|set| set.mode == RequestMode::Pop)
}

fn move_pops(broker: &Broker, group: &Arc<str>, table: &OffsetTable) {
    for (MessageQueue { topic, queue_id, .. }, offset) in &table.offset_table.0 {
        let queue = QueueOfGroup { group: group.clone(), topic: topic.clone(), queue_id: *queue_id };
        let mut store = broker.store();
        store.pops.advance(&queue, *offset);
        // Under the lock, as pops do it.
        broker.offsets().set(group, topic, *queue_id, *offset);
    }
}

/// Where a group is to go on in each queue.
fn targets(broker: &Broker, request: &ResetOffset) -> Result<OffsetTable, Refusal> {
    let not_found = || {
        let remark = format!("[reset-offset] reset offset failed, no topic in this broker. topic={}", request.topic);
        Refusal::new(ResponseCode::SYSTEM_ERROR, remark)
    };
    let queues = broker.store().log.topic(&request.topic).ok_or_else(not_found)?.read_queues;
    let wanted = request.queue_id.filter(|queue_id| *queue_id >= 0);
    let mut offset_table = QueueTable::default();
    for queue_id in (0..queues).filter(|queue_id| wanted.is_none_or(|wanted| wanted == *queue_id)) {
        let recorded = broker.offsets().get(&request.group, &request.topic, queue_id);
        let store = broker.store();
        let log = &store.log;
        let (_, max) = log.bounds(&request.topic, queue_id).unwrap_or((0, 0));
        let found = match request.offset.filter(|offset| wanted.is_some() && *offset >= 0) {
            Some(offset) => offset,
            None if request.timestamp_ms < 0 => max,
            None => log.search(&request.topic, queue_id, request.timestamp_ms, crate::log::Boundary::Lower),
        };
        // Without force a group does not move forward.
        let target = if request.is_force { found } else { recorded.map_or(found, |recorded| recorded.min(found)) };
        let queue = MessageQueue::new(request.topic.clone(), broker.name.clone(), queue_id);
        offset_table.0.insert(queue, target);
    }
    Ok(OffsetTable { offset_table })
}

/// The connection of a member of a group.
fn member(broker: &Broker, group: &str, client_id: &str) -> Result<Connection, Refusal> {
    let members = broker.groups().connections(group);
    let member = members.into_iter().find(|(known, _)| **known == *client_id);
    let connection = member.and_then(|(_, connection)| broker.peers().connection(connection));
    connection.ok_or_else(|| {
        Refusal::new(ResponseCode::SYSTEM_ERROR, format!("The Consumer <{group}> <{client_id}> not online"))
    })
}

/// Asks a member what an operator has asked, and answers what it answers.
fn hand_on<R>(broker: &Broker, asked: Asked, connection: Connection, request: R, body: R::Body)
where
    R: Request<Body: Send, Reply: Send> + Send + Sync + 'static,
{
    in_the_background(broker, asked, async move {
        match connection.call(&request, body, Deadline::after(CLIENT_TIME)).await {
            Ok(reply) => {
                let mut command = done();
                reply.write_to(&mut command)?;
                Ok(command)
            }
            Err(Error::Refused { code, remark, .. }) => Err(Refusal::new(code, remark.to_string())),
            Err(Error::TimedOut { .. }) => {
                Err(Refusal::new(ResponseCode::CONSUME_MSG_TIMEOUT, "the consumer did not answer in time"))
            }
            Err(error) => Err(Refusal::new(ResponseCode::SYSTEM_ERROR, error.to_string())),
        }
    });
}

fn in_the_background(broker: &Broker, asked: Asked, work: impl Future<Output = Outcome> + Send + 'static) {
    let stop = broker.stop_all.clone();
    broker.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            outcome = work => asked.answer(outcome),
        }
    });
}

/// Java: `AdminBrokerProcessor.callConsumer`.
const CLIENT_TIME: Duration = Duration::from_secs(10);
/// Java: `Broker2Client.getConsumeStatus`.
const STATUS_TIME: Duration = Duration::from_secs(5);
