use crate::{
    MessageQueue,
    protocol::{MASTER_ID, Permission, QueueData, QueueMapping, TopicRouteData},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A topic's queues and the brokers that hold them, as one look-up found them. A snapshot: replaced, never edited.
#[derive(Debug, PartialEq, Eq)]
pub struct TopicRoute {
    topic: Arc<str>,
    generation: u64,
    write_queues: Vec<MessageQueue>,
    read_queues: Vec<MessageQueue>,
    brokers: BTreeMap<Arc<str>, BTreeMap<i64, Arc<str>>>,
    /// The brokers that have the queues of a static topic, by number, under each name that stands for all brokers.
    owners: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    data: TopicRouteData,
}

impl TopicRoute {
    /// The route of `topic`, from what a name server answered.
    ///
    /// The queues to write stand in Java's order (brokers by name, then queue id), since hash selectors depend on it:
    /// those of brokers that have a master and whose permission allows it. The queues to read need no master.
    ///
    /// A static topic has its queues under a broker name that stands for all brokers; [`broker_of`](Self::broker_of)
    /// tells which one has a queue now.
    ///
    /// # Protocol
    /// Java: `MQClientInstance.topicRouteData2TopicPublishInfo`, `topicRouteData2TopicSubscribeInfo`.
    pub fn new(topic: Arc<str>, generation: u64, data: TopicRouteData) -> Self {
        let brokers: BTreeMap<Arc<str>, BTreeMap<i64, Arc<str>>> = data
            .broker_datas
            .iter()
            .map(|broker| {
                let addrs = broker.broker_addrs.iter().map(|(id, addr)| (*id, Arc::from(addr.as_str()))).collect();
                (Arc::from(broker.broker_name.as_str()), addrs)
            })
            .collect();
        let has_master = |name: &str| brokers.get(name).is_some_and(|addrs| addrs.contains_key(&MASTER_ID));
        let mut sorted: Vec<&QueueData> = data.queue_datas.iter().collect();
        sorted.sort_by(|one, other| one.broker_name.encode_utf16().cmp(other.broker_name.encode_utf16()));
        let queues = |count: fn(&QueueData) -> i32, usable: &dyn Fn(&QueueData) -> bool| {
            let queues_of = |queue: &&QueueData| {
                let broker_name: Arc<str> = queue.broker_name.as_str().into();
                let topic = topic.clone();
                // A broker that claims more queues than any can have is not believed.
                let count = count(queue).clamp(0, MAX_QUEUES);
                (0..count).map(move |queue_id| MessageQueue {
                    topic: topic.clone(),
                    broker_name: broker_name.clone(),
                    queue_id,
                })
            };
            sorted.iter().copied().filter(|queue| usable(queue)).flat_map(|queue| queues_of(&queue)).collect()
        };
        let owners = owners(&data);
        let mut logical: Vec<MessageQueue> = Vec::new();
        for (broker_name, owners) in &owners {
            let queue = |queue_id| MessageQueue { topic: topic.clone(), broker_name: broker_name.clone(), queue_id };
            logical.extend((0..).zip(owners).map(|(queue_id, _)| queue(queue_id)));
        }
        // By their numbers, as in Java, whatever the scope.
        logical.sort_by_key(|queue| queue.queue_id);
        let write_queues = match ordered_queues(&topic, data.order_topic_conf.as_deref()) {
            Some(ordered) => ordered,
            None if !logical.is_empty() => logical.clone(),
            None => queues(|queue| queue.write_queue_nums, &|queue| {
                Permission::is_writable(queue.perm) && has_master(&queue.broker_name)
            }),
        };
        let read_queues = match logical.is_empty() {
            true => queues(|queue| queue.read_queue_nums, &|queue| Permission::is_readable(queue.perm)),
            false => logical,
        };
        Self { topic, generation, write_queues, read_queues, brokers, owners, data }
    }

    /// The route a topic that does not exist yet will have once a first send creates it after the template topic.
    #[must_use]
    pub fn for_new_topic(&self, topic: Arc<str>, generation: u64, queues: i32) -> Self {
        let mut data = self.data.clone();
        for queue in &mut data.queue_datas {
            let count = queues.min(queue.read_queue_nums);
            queue.read_queue_nums = count;
            queue.write_queue_nums = count;
        }
        Self::new(topic, generation, data)
    }

    /// The topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Which look-up of this client this is; a later one has a greater number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The queues that may be written.
    pub fn write_queues(&self) -> &[MessageQueue] {
        &self.write_queues
    }

    /// The queues that may be read.
    pub fn read_queues(&self) -> &[MessageQueue] {
        &self.read_queues
    }

    /// The name of the broker that has a queue: the one in the queue's own name, but for a static topic. The queue may
    /// name the topic with or without its namespace.
    pub fn broker_of<'a>(&'a self, queue: &'a MessageQueue) -> &'a Arc<str> {
        let owners = self.owners.get(&queue.broker_name);
        let owner = usize::try_from(queue.queue_id).ok().and_then(|queue_id| owners?.get(queue_id));
        owner.unwrap_or(&queue.broker_name)
    }

    /// The addresses of a broker's replicas by id; 0 is the master.
    pub fn broker_addrs(&self, broker_name: &str) -> Option<&BTreeMap<i64, Arc<str>>> {
        self.brokers.get(broker_name)
    }

    /// The names of the brokers and their replicas' addresses.
    pub fn brokers(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i64, Arc<str>>)> {
        self.brokers.iter()
    }

    /// The names of the clusters the brokers are of, each once.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let names: BTreeSet<&str> = self.data.broker_datas.iter().map(|broker| broker.cluster.as_str()).collect();
        names.into_iter()
    }

    /// Whether another look-up found the same.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

/// Which broker has each queue of a static topic now.
///
/// # Protocol
/// Java: `ClientMetadata.topicRouteData2EndpointsForStaticTopic`.
fn owners(data: &TopicRouteData) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let mut scopes: BTreeMap<&str, Vec<&QueueMapping>> = BTreeMap::new();
    for mapping in data.topic_queue_mapping_by_broker.iter().flat_map(BTreeMap::values) {
        let scope = if mapping.scope.is_empty() { GLOBAL_SCOPE } else { &mapping.scope };
        scopes.entry(scope).or_default().push(mapping);
    }
    let owners_of = |(scope, mappings): (&str, Vec<&QueueMapping>)| {
        let total = mappings.iter().map(|mapping| mapping.total_queues).max().unwrap_or(0);
        let owner = |queue_id| {
            let claims = mappings.iter().filter(|mapping| mapping.curr_id_map.contains_key(&queue_id));
            claims.max_by_key(|mapping| mapping.epoch).map_or(NOBODY, |mapping| &mapping.broker_name).into()
        };
        let name = if scope == GLOBAL_SCOPE { "__syslo__global__".to_owned() } else { format!("__syslo__{scope}") };
        (name.into(), (0..total.clamp(0, MAX_QUEUES)).map(owner).collect())
    };
    scopes.into_iter().map(owners_of).collect()
}

/// `broker-a:4;broker-b:4`: the queues of an order topic, in the order the operator gave.
fn ordered_queues(topic: &Arc<str>, conf: Option<&str>) -> Option<Vec<MessageQueue>> {
    let conf = conf.filter(|conf| !conf.is_empty())?;
    let mut queues = Vec::new();
    for (broker_name, count) in conf.split(';').filter_map(|item| item.split_once(':')) {
        let broker_name: Arc<str> = broker_name.into();
        let count = count.trim().parse().unwrap_or(0).clamp(0, MAX_QUEUES);
        queues.extend((0..count).map(|queue_id| MessageQueue {
            topic: topic.clone(),
            broker_name: broker_name.clone(),
            queue_id,
        }));
    }
    Some(queues)
}

const MAX_QUEUES: i32 = 65_536;
const GLOBAL_SCOPE: &str = "__global__";
/// Has the queues of a static topic that no broker has.
const NOBODY: &str = "__syslo__none__";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::BrokerData;

    fn data() -> TopicRouteData {
        let queue = |name: &str, perm| QueueData {
            broker_name: name.into(),
            read_queue_nums: 2,
            write_queue_nums: 1,
            perm,
            topic_sys_flag: 0,
        };
        let broker = |name: &str, id| BrokerData {
            broker_name: name.into(),
            broker_addrs: [(id, format!("{name}:1"))].into(),
            ..BrokerData::default()
        };
        TopicRouteData {
            order_topic_conf: None,
            queue_datas: vec![queue("c", 6), queue("b", 4), queue("a", 6), queue("d", 6)],
            broker_datas: vec![broker("a", 0), broker("b", 0), broker("c", 0), broker("d", 1)],
            ..TopicRouteData::default()
        }
    }

    fn names(queues: &[MessageQueue]) -> Vec<String> {
        queues.iter().map(|queue| format!("{}{}", queue.broker_name, queue.queue_id)).collect()
    }

    #[test]
    fn queues_to_write_need_the_permission_and_a_master() {
        let route = TopicRoute::new("t".into(), 1, data());
        assert_eq!(names(route.write_queues()), ["a0", "c0"]);
        assert_eq!(names(route.read_queues()), ["a0", "a1", "b0", "b1", "c0", "c1", "d0", "d1"]);
    }

    #[test]
    fn an_order_topic_keeps_the_operators_order() {
        let data = TopicRouteData { order_topic_conf: Some("c:2;a:1;junk".into()), ..data() };
        let route = TopicRoute::new("t".into(), 1, data);
        assert_eq!(names(route.write_queues()), ["c0", "c1", "a0"]);
    }

    #[test]
    fn a_new_topic_gets_as_many_queues_as_template_and_producer_allow() {
        let route = TopicRoute::new("TBW102".into(), 1, data()).for_new_topic("t".into(), 2, 4);
        assert_eq!(names(route.write_queues()), ["a0", "a1", "c0", "c1"]);
        assert!(route.write_queues().iter().all(|queue| &*queue.topic == "t"));
    }

    #[test]
    fn the_queues_of_a_static_topic_are_those_of_no_single_broker() {
        let mapping = |broker_name: &str, epoch, ids: &[i32]| QueueMapping {
            scope: "__global__".into(),
            total_queues: 4,
            broker_name: broker_name.into(),
            epoch,
            curr_id_map: ids.iter().map(|id| (*id, 0)).collect(),
            ..QueueMapping::default()
        };
        // Queue 1 has moved from a to c, and nobody has queue 3.
        let mappings = [("a", mapping("a", 1, &[0, 1])), ("c", mapping("c", 2, &[1, 2]))];
        let mappings = mappings.map(|(name, mapping)| (name.to_owned(), mapping)).into();
        let data = TopicRouteData { topic_queue_mapping_by_broker: Some(mappings), ..data() };
        let route = TopicRoute::new("t".into(), 1, data.clone());
        let global = ["__syslo__global__0", "__syslo__global__1", "__syslo__global__2", "__syslo__global__3"];
        assert_eq!(names(route.write_queues()), global);
        assert_eq!(names(route.read_queues()), global);
        let owners: Vec<_> = route.write_queues().iter().map(|queue| &**route.broker_of(queue)).collect();
        assert_eq!(owners, ["a", "c", "c", "__syslo__none__"]);
        let as_the_user_sees_it = MessageQueue::new("without namespace", "__syslo__global__", 1);
        assert_eq!(&**route.broker_of(&as_the_user_sees_it), "c");
        let ordinary = MessageQueue::new("t", "a", 0);
        assert_eq!(&**route.broker_of(&ordinary), "a");
        let ordered = TopicRoute::new("t".into(), 1, TopicRouteData { order_topic_conf: Some("c:1".into()), ..data });
        assert_eq!(names(ordered.write_queues()), ["c0"]);
    }

    #[test]
    fn absurd_queue_counts_are_not_believed() {
        let mut data = data();
        data.queue_datas.truncate(1);
        data.queue_datas[0].write_queue_nums = i32::MAX;
        data.queue_datas[0].read_queue_nums = -1;
        let route = TopicRoute::new("t".into(), 1, data);
        assert_eq!(route.write_queues().len(), 65_536);
        assert!(route.read_queues().is_empty());
    }
}
