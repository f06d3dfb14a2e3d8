//! Replies, handed on to whom asked. Java: `ReplyMessageProcessor`.

use super::{
    Asked, Refusal, done,
    send::{self, NewMessage, REGION},
};
use crate::{
    broker::{Broker, Woken},
    clock::millis,
    protocol::SendMessageV1,
    server::Service,
};
use rocketmq_common::{
    message::{
        OffsetId,
        properties::{Properties, property},
    },
    protocol::{PushReply, SendMessage, SendReply, Stored},
};
use rocketmq_remote::{Incoming, RequestCode, ResponseCode};
use std::time::{SystemTime, UNIX_EPOCH};

/// Stores a reply, hands it on, and answers when the client has taken it.
pub(super) fn reply(broker: &Broker, asked: Asked) {
    let header = match read(broker, &asked.incoming) {
        Ok(header) => header,
        Err(refusal) => return asked.answer(Err(refusal)),
    };
    let mut properties = Properties::from(header.properties.clone().unwrap_or_default());
    properties.set(property::MSG_REGION, REGION);
    properties.set(property::TRACE_ON, "true");
    let client = properties.get(property::REPLY_TO_CLIENT).map(str::to_owned);
    let stored = store(broker, &asked.incoming, &header, properties.as_str());
    let answer = move |asked: Asked, failure: Option<String>| {
        let mut command = done();
        if let Some(remark) = failure {
            command = Refusal::new(ResponseCode::SYSTEM_ERROR, remark).into_command();
        }
        if let Some(stored) = &stored {
            command = command.with_header(stored);
        }
        asked.answer(Ok(command));
    };
    let Some(client) = client else {
        return answer(asked, Some("reply message properties[REPLY_TO_CLIENT] is null".to_owned()));
    };
    let not_found = format!("push reply message fail, channel of <{client}> not found.");
    let Some(connection) = broker.groups().connection_of(&client) else { return answer(asked, Some(not_found)) };
    let now_ms = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    properties.set(property::PUSH_REPLY_TIME, &now_ms.to_string());
    let push = PushReply {
        producer_group: Some(header.producer_group),
        topic: header.topic,
        default_topic: Some(header.default_topic),
        default_topic_queue_nums: Some(header.default_topic_queue_nums),
        queue_id: header.queue_id,
        sys_flag: header.sys_flag,
        born_timestamp_ms: header.born_timestamp_ms,
        flag: header.flag,
        properties: Some(properties.into_string()),
        reconsume_times: header.reconsume_times,
        unit_mode: header.unit_mode,
        born_host: asked.incoming.peer().map(|peer| peer.to_string()),
        store_host: Some(broker.addr.to_string()),
        store_timestamp_ms: Some(now_ms),
    };
    let body = asked.incoming.command().body.clone();
    let answer_pushed =
        move |taken| answer(asked, if taken { None } else { Some(format!("push reply message to {client}fail.")) });
    broker.peers().push_reply(connection, push, body, answer_pushed);
}

fn read(broker: &Broker, incoming: &Incoming) -> Result<SendMessage, Refusal> {
    let mut header: SendMessage = match incoming.command().request_code() {
        RequestCode::SEND_REPLY_MESSAGE => incoming.header::<SendMessageV1>()?.into(),
        _ => incoming.header::<SendReply>()?.0,
    };
    let config = send::find_topic(broker, &header)?;
    if header.queue_id < 0 {
        header.queue_id = broker.any_queue(config.write_queues);
    }
    Ok(header)
}

/// Where the reply lies, if it could be stored: that has no bearing on whether it is handed on.
fn store(broker: &Broker, incoming: &Incoming, header: &SendMessage, properties: &str) -> Option<Stored> {
    let message = NewMessage {
        topic: &header.topic,
        queue_id: header.queue_id,
        flag: header.flag,
        // Java leaves it out here, also for a body that is compressed.
        sys_flag: 0,
        born_ms: header.born_timestamp_ms,
        born_host: incoming.peer().unwrap_or(broker.addr),
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_offset: 0,
        body: &incoming.command().body,
        properties: properties.to_owned(),
    };
    let mut woken = Woken::default();
    let (appended, _) = send::store(broker, message, &mut woken).ok()?;
    broker.settle(woken);
    let offset_id = OffsetId { host: broker.addr, commit_log_offset: appended.place }.to_string();
    Some(Stored {
        offset_id: Some(offset_id),
        queue_id: header.queue_id,
        queue_offset: appended.queue_offset,
        transaction_id: None,
        batch_unique_id: None,
        recall_handle: None,
        region_id: Some(REGION.to_owned()),
        trace_on: Some("true".to_owned()),
    })
}
