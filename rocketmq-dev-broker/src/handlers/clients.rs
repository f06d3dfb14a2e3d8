//! Clients that show themselves, and leave. Java: `ClientManageProcessor`, `ConsumerManageProcessor`.

use super::{Outcome, Refusal, done, pull::no_sql, send_back::ensure_topic_as};
use crate::{
    broker::Broker,
    groups::{Sender, Subscription},
    log::TopicConfig,
    protocol::HeartbeatReply,
    server::Service,
};
use rocketmq_common::{
    message::names::{check_group, retry_topic},
    protocol::{
        CheckClientConfig, ConsumerConnection, ConsumerConnections, ConsumerIds, ExpressionType,
        GetConsumerConnections, GetConsumerList, Heartbeat, KnownSubscription, UnregisterClient,
    },
};
use rocketmq_remote::{Incoming, Json, Reply, ResponseCode};
use tokio::time::Instant;

pub(super) fn heartbeat(broker: &Broker, incoming: &Incoming) -> Outcome {
    let Json(data) = incoming.body::<Heartbeat>()?;
    let sender = Sender { connection: incoming.connection_id(), client_id: data.client_id.into(), now: Instant::now() };
    // Always so for a whole heartbeat.
    let mut subscription_changed = data.heartbeat_fingerprint == 0;
    for consumer in &data.consumer_data_set {
        if check_group(&consumer.group_name).is_err() {
            continue;
        }
        let config = TopicConfig::new(1).of_unit(consumer.unit_mode, true);
        ensure_topic_as(broker, &retry_topic(&consumer.group_name), config);
        let mut groups = broker.groups();
        let notice = groups.consume(&sender, consumer, data.without_sub);
        subscription_changed |= groups.fingerprint(&consumer.group_name, data.heartbeat_fingerprint);
        drop(groups);
        broker.notify(notice);
    }
    for producer in &data.producer_data_set {
        broker.groups().produce(&sender, &producer.group_name);
    }
    // The connection may have ended meanwhile, and have been forgotten before it was known.
    if !broker.peers().has(sender.connection) {
        broker.ended(sender.connection);
    }
    Ok(done().with_header(&HeartbeatReply { supports_v2: true, subscription_changed }))
}

pub(super) fn unregister(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: UnregisterClient = incoming.header()?;
    let connection = incoming.connection_id();
    if let Some(group) = &header.producer_group {
        broker.groups().leave_producers(group, connection);
    }
    if let Some(group) = &header.consumer_group {
        let notice = broker.groups().leave(group, connection);
        broker.notify(notice);
    }
    Ok(done())
}

pub(super) fn list(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: GetConsumerList = incoming.header()?;
    let consumer_id_list = broker.groups().client_ids(&header.consumer_group);
    if consumer_id_list.is_empty() {
        let remark = format!("no consumer for this group, {}", header.consumer_group);
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, remark));
    }
    let mut command = done();
    Json(ConsumerIds { consumer_id_list }).write_to(&mut command)?;
    Ok(command)
}

pub(super) fn connections(broker: &Broker, incoming: &Incoming) -> Outcome {
    let header: GetConsumerConnections = incoming.header()?;
    let groups = broker.groups();
    let Some(subscriptions) = groups.subscriptions(&header.consumer_group) else {
        let remark = format!("the consumer group[{}] not online", header.consumer_group);
        return Err(Refusal::new(ResponseCode::CONSUMER_NOT_ONLINE, remark));
    };
    let known = |(topic, data): (&String, &Subscription)| {
        let known = KnownSubscription {
            sub_string: data.expression.clone(),
            expression_type: Some(data.expression_type.name().to_owned()),
            sub_version: data.version,
        };
        (topic.clone(), known)
    };
    let subscription_table = subscriptions.map(known).collect();
    let members = groups.connections(&header.consumer_group).into_iter();
    let connection_set = members.map(|(client_id, connection)| {
        let addr = broker.peers().connection(connection).map(|connection| connection.addr().to_string());
        ConsumerConnection { client_id: client_id.to_string(), client_addr: addr.unwrap_or_default() }
    });
    let mut command = done();
    Json(ConsumerConnections { connection_set: connection_set.collect(), subscription_table })
        .write_to(&mut command)?;
    Ok(command)
}

pub(super) fn check(_: &Broker, incoming: &Incoming) -> Outcome {
    let Json(body) = incoming.body::<CheckClientConfig>()?;
    match body.subscription_data.expression_type {
        ExpressionType::Tag => Ok(done()),
        other => Err(no_sql(other.name())),
    }
}
