//! A member without a cluster, for tests of what becomes of messages once they are here: its name server knows no topic,
//! and no broker is ever asked.

use crate::{
    Error, Filter, PushConfig,
    assigned::{AssignedQueue, Beside},
    handle::Handle,
    listener::Listener,
    member::{Manner, Member},
    process_queue::{Limits, ProcessQueue},
    statistics::QueueMeter,
    wiring::Wiring,
};
use bytes::{Bytes, BytesMut};
use rocketmq_common::{
    MessageQueue,
    message::Record,
    remote::{Connection, ConnectionOptions, Incoming, Processors, RequestCode, ResponseCode},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

pub(crate) const TOPIC: &str = "order-created";

/// A member and its name server, which ends with it.
pub(crate) struct Alone {
    pub(crate) member: Handle<Member>,
    _name_server: JoinSet<()>,
}

impl Alone {
    pub(crate) async fn start(listener: Listener, is_broadcast: bool, config: PushConfig) -> Result<Self, Error> {
        let (address, name_server) = name_server().await;
        let mut wiring = Wiring::new("billing".to_owned());
        wiring.name_servers = [address].into();
        wiring.subscriptions.push((TOPIC.to_owned(), Filter::all()));
        let manner = Manner { listener: Some(listener), is_broadcast, ..Manner::new(config) };
        Ok(Self { member: Member::start(wiring, manner).await?, _name_server: name_server })
    }

    /// A queue as if it had been assigned, begun at offset 0.
    pub(crate) fn queue(&self) -> Arc<AssignedQueue> {
        let subscription = self.member.subscriptions().get(TOPIC).cloned().expect("it is subscribed to");
        let mut window = ProcessQueue::new(Limits { messages: 1000, bytes: 1_000_000, span: 2000 });
        window.start_at(0);
        let meter = QueueMeter::new(self.member.meters.of(&TOPIC.into()));
        let (queue, ended) = (MessageQueue::new(TOPIC, "broker-a", 0), self.member.stopped.child_token());
        Arc::new(AssignedQueue::new(queue, subscription, window, ended, Beside::Nothing, meter))
    }
}

async fn name_server() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("some port is free");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    let no_route = |asked: Incoming| asked.refuse(ResponseCode::TOPIC_NOT_EXIST, "no topic is known");
    let processors = Processors::new().on(RequestCode::GET_ROUTEINFO_BY_TOPIC, no_route);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut accepted = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            accepted.extend(Connection::accept(stream, ConnectionOptions::default(), processors.clone()));
        }
    });
    (address, serving)
}

/// The body of a pull's answer: messages of 128 bytes with a tag and a key, from an offset on.
pub(crate) fn pulled(from: i64, count: i64) -> Bytes {
    let host = SocketAddr::from(([127, 0, 0, 1], 10911));
    let mut records = BytesMut::new();
    for offset in from..from + count {
        let record = Record {
            topic: TOPIC,
            queue_id: 0,
            queue_offset: offset,
            commit_log_offset: offset * 1000,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1_700_000_000_000,
            born_host: host,
            store_timestamp_ms: 1_700_000_000_001,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &[b'x'; 128],
            properties: "TAGS\u{1}eu\u{2}KEYS\u{1}o-17\u{2}",
        };
        record.encode(&mut records).expect("the record is small");
    }
    // As the reader of a connection takes a frame out of what it has read.
    records.split().freeze()
}
