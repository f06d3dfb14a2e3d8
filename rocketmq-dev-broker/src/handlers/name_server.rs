//! The name server: what the brokers' topics are and where. Java: `ClientRequestProcessor`.

use super::{Outcome, Refusal, Tasks, done, named_codes, not_supported, receive};
use crate::{
    broker::{Broker, Brokers, CLUSTER},
    faults::{Faults, Place},
    protocol::{GetValue, PutValue, Value},
    server::{Peers, Service},
};
use rocketmq_common::protocol::{
    BrokerData, GetRoute, LenientJson, MASTER_ID, QueueData, QueueMapping, TopicRouteData,
};
use rocketmq_remote::{Incoming, Processors, Reply, RequestCode, ResponseCode};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A name server that knows the brokers of its cluster, as long as they run.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) brokers: Arc<Brokers>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop_all: CancellationToken,
    pub(crate) peers: Peers,
    /// Whether routes tell the order of order topics' queues.
    pub(crate) order_topics: bool,
    /// Values by namespace and key.
    pub(crate) values: Mutex<BTreeMap<(String, String), String>>,
}

impl NameServer {
    fn running(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.iter().filter(|(_, server)| server.is_running()).map(|(broker, _)| &**broker)
    }

    fn route(&self, incoming: &Incoming) -> Outcome {
        let header: GetRoute = incoming.header()?;
        let mut route = TopicRouteData::default();
        for broker in self.running() {
            let Some(config) = broker.store().log.topic(&header.topic) else { continue };
            route.queue_datas.push(QueueData {
                broker_name: broker.name.to_string(),
                read_queue_nums: config.read_queues,
                write_queue_nums: config.write_queues,
                perm: config.perm,
                topic_sys_flag: config.sys_flag,
            });
            if let Some(part) = broker.statics().get(&*header.topic) {
                let mapping = QueueMapping {
                    topic: header.topic.to_string(),
                    scope: GLOBAL_SCOPE.to_owned(),
                    total_queues: part.total,
                    broker_name: broker.name.to_string(),
                    epoch: part.epoch,
                    curr_id_map: part.queues.iter().map(|queue_id| (*queue_id, *queue_id)).collect(),
                };
                let mappings = route.topic_queue_mapping_by_broker.get_or_insert_default();
                mappings.insert(broker.name.to_string(), mapping);
            }
            route.broker_datas.push(BrokerData {
                cluster: CLUSTER.to_owned(),
                broker_name: broker.name.to_string(),
                broker_addrs: BTreeMap::from([(MASTER_ID, broker.addr.to_string())]),
                enable_acting_master: false,
            });
        }
        if route.queue_datas.is_empty() {
            let remark = format!(
                "No topic route info in name server for the topic: {}\nSee \
                 https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
                header.topic
            );
            return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
        }
        if self.order_topics {
            route.order_topic_conf = self.value(ORDER_TOPIC_CONFIG, &header.topic);
        }
        let mut command = done();
        LenientJson(route).write_to(&mut command)?;
        Ok(command)
    }

    fn put(&self, incoming: &Incoming) -> Outcome {
        let PutValue { namespace, key, value } = incoming.header()?;
        let mut values = self.values.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if values.len() >= MAX_VALUES {
            return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "the dev broker has no room for more values"));
        }
        values.insert((namespace, key), value);
        Ok(done())
    }

    fn get(&self, incoming: &Incoming) -> Outcome {
        let GetValue { namespace, key } = incoming.header()?;
        let not_found = || {
            let remark = format!("No config item, Namespace: {namespace} Key: {key}");
            Refusal::new(ResponseCode::QUERY_NOT_FOUND, remark)
        };
        let value = self.value(&namespace, &key).ok_or_else(not_found)?;
        Ok(done().with_header(&Value { value }))
    }

    fn value(&self, namespace: &str, key: &str) -> Option<String> {
        let values = self.values.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        values.get(&(namespace.to_owned(), key.to_owned())).cloned()
    }

    fn handle(&self, incoming: &Incoming) -> Outcome {
        match incoming.command().request_code() {
            RequestCode::GET_ROUTEINFO_BY_TOPIC => self.route(incoming),
            RequestCode::PUT_KV_CONFIG => self.put(incoming),
            RequestCode::GET_KV_CONFIG => self.get(incoming),
            _ => Err(not_supported(incoming)),
        }
    }
}

impl Service for NameServer {
    fn processors(self: &Arc<Self>) -> Processors {
        let mut processors = Processors::new();
        for code in named_codes() {
            let server = self.clone();
            processors = processors.on(code, move |incoming| {
                let tasks = || Tasks { tracker: server.tasks.clone(), stop: server.stop_all.clone() };
                let handling = server.clone();
                receive(incoming, &server.faults, &Place::NameServer, false, tasks, move |asked| {
                    let outcome = handling.handle(&asked.incoming);
                    asked.answer(outcome);
                });
            });
        }
        processors
    }

    fn peers(&self) -> &Peers {
        &self.peers
    }

    fn ended(&self, _: u64) {}

    fn start_tasks(self: &Arc<Self>, _: &CancellationToken, _: &TaskTracker) {}
}

/// Java: `NamesrvUtil.NAMESPACE_ORDER_TOPIC_CONFIG`.
const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";
const MAX_VALUES: usize = 1 << 16;
/// Java: `MixAll.METADATA_SCOPE_GLOBAL`.
const GLOBAL_SCOPE: &str = "__global__";
