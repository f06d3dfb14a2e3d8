mod limits;

use crate::{
    MessageQueue,
    protocol::{MASTER_ID, Permission, QueueData, QueueMapping, TopicRouteData},
};
use limits::{Limits, MAX_BROKERS, MAX_QUEUES_OF_TOPIC, MAX_REPLICAS, QueueList};
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
    /// Of a provisional route: the generation of the route that it was made after.
    template_generation: Option<u64>,
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
        let limits = Limits::new(&topic);
        let brokers: BTreeMap<Arc<str>, BTreeMap<i64, Arc<str>>> = data
            .broker_datas
            .iter()
            .filter(|broker| limits.is_name(&broker.broker_name))
            .take(limits.at_most(data.broker_datas.len(), MAX_BROKERS))
            .map(|broker| {
                let replicas = limits.at_most(broker.broker_addrs.len(), MAX_REPLICAS);
                let addrs = broker.broker_addrs.iter().filter(|(_, addr)| limits.is_name(addr)).take(replicas);
                let addrs = addrs.map(|(id, addr)| (*id, Arc::from(addr.as_str()))).collect();
                (Arc::from(broker.broker_name.as_str()), addrs)
            })
            .collect();
        let has_master = |name: &str| brokers.get(name).is_some_and(|addrs| addrs.contains_key(&MASTER_ID));
        let mut sorted: Vec<&QueueData> = data.queue_datas.iter().collect();
        sorted.retain(|queue| limits.is_name(&queue.broker_name));
        sorted.sort_by(|one, other| one.broker_name.encode_utf16().cmp(other.broker_name.encode_utf16()));
        let queues = |count: fn(&QueueData) -> i32, usable: &dyn Fn(&QueueData) -> bool| {
            let mut queues = QueueList::new(&topic, &limits);
            for queue in sorted.iter().filter(|queue| usable(queue)) {
                queues.add(&queue.broker_name, count(queue));
            }
            queues.into_queues()
        };
        let owners = owners(&data, &limits);
        let mut logical: Vec<MessageQueue> = Vec::new();
        for (broker_name, owners) in &owners {
            let queue = |queue_id| MessageQueue { topic: topic.clone(), broker_name: broker_name.clone(), queue_id };
            logical.extend((0..).zip(owners).map(|(queue_id, _)| queue(queue_id)));
        }
        // By their numbers, as in Java, whatever the scope.
        logical.sort_by_key(|queue| queue.queue_id);
        let write_queues = match ordered_queues(&topic, data.order_topic_conf.as_deref(), &limits) {
            Some(ordered) => ordered,
            None if !logical.is_empty() => logical.clone(),
            None => queues(|queue| queue.write_queue_nums, &|queue| {
                Permission::is_writable(queue.perm) && has_master(&queue.broker_name)
            }),
        };
        let read_queues = if logical.is_empty() {
            queues(|queue| queue.read_queue_nums, &|queue| Permission::is_readable(queue.perm))
        } else {
            logical
        };
        limits.warn();
        Self { topic, generation, write_queues, read_queues, brokers, owners, template_generation: None, data }
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
        Self { template_generation: Some(self.generation), ..Self::new(topic, generation, data) }
    }

    /// Of a provisional route, of a topic that does not exist yet: the generation of the route that it was made after.
    pub(crate) fn template_generation(&self) -> Option<u64> {
        self.template_generation
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
fn owners(data: &TopicRouteData, limits: &Limits<'_>) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let mut scopes: BTreeMap<&str, Vec<&QueueMapping>> = BTreeMap::new();
    for mapping in data.topic_queue_mapping_by_broker.iter().flat_map(BTreeMap::values) {
        if limits.is_name(&mapping.scope) && limits.is_name(&mapping.broker_name) {
            let scope = if mapping.scope.is_empty() { GLOBAL_SCOPE } else { &mapping.scope };
            scopes.entry(scope).or_default().push(mapping);
        }
    }
    let (mut left, nobody) = (MAX_QUEUES_OF_TOPIC, Arc::<str>::from(NOBODY));
    let mut owners = BTreeMap::new();
    for (scope, mappings) in scopes {
        let claimed = mappings.iter().map(|mapping| mapping.total_queues).max().unwrap_or(0);
        let total = limits.queues(claimed, &mut left);
        // By queue: the epoch of the claim that counts so far, and who makes it.
        let mut claims: Vec<Option<(i64, Arc<str>)>> = vec![None; total];
        for mapping in mappings {
            let broker_name: Arc<str> = mapping.broker_name.as_str().into();
            for queue_id in mapping.curr_id_map.keys() {
                let claim = usize::try_from(*queue_id).ok().and_then(|queue_id| claims.get_mut(queue_id));
                let Some(claim) = claim else { continue };
                if claim.as_ref().is_none_or(|(epoch, _)| mapping.epoch >= *epoch) {
                    *claim = Some((mapping.epoch, broker_name.clone()));
                }
            }
        }
        let name = if scope == GLOBAL_SCOPE { "__syslo__global__".to_owned() } else { format!("__syslo__{scope}") };
        let of_queue = |claim: Option<(i64, Arc<str>)>| claim.map_or_else(|| nobody.clone(), |(_, owner)| owner);
        owners.insert(name.into(), claims.into_iter().map(of_queue).collect());
    }
    owners
}

/// `broker-a:4;broker-b:4`: the queues of an order topic, in the order the operator gave.
fn ordered_queues(topic: &Arc<str>, conf: Option<&str>, limits: &Limits<'_>) -> Option<Vec<MessageQueue>> {
    let conf = conf.filter(|conf| !conf.is_empty())?;
    let mut queues = QueueList::new(topic, limits);
    for (broker_name, count) in conf.split(';').filter_map(|item| item.split_once(':')) {
        if limits.is_name(broker_name) {
            queues.add(broker_name, count.trim().parse().unwrap_or(0));
        }
    }
    Some(queues.into_queues())
}

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

    #[test]
    fn absurd_queue_counts_are_not_believed_in_total() {
        let one = data();
        let many = |number: usize| QueueData {
            broker_name: format!("b{number}"),
            read_queue_nums: i32::MAX,
            write_queue_nums: i32::MAX,
            ..one.queue_datas[0].clone()
        };
        let broker = |number: usize| BrokerData {
            broker_name: format!("b{number}"),
            broker_addrs: [(MASTER_ID, "b:1".to_owned())].into(),
            ..BrokerData::default()
        };
        let queue_datas: Vec<_> = (0..10_000).map(many).collect();
        let broker_datas: Vec<_> = (0..10_000).map(broker).collect();
        let order_topic_conf = Some("b1:2147483647;".repeat(10_000));
        let data = TopicRouteData { queue_datas, broker_datas, ..TopicRouteData::default() };
        let route = TopicRoute::new("t".into(), 1, data.clone());
        assert_eq!([route.write_queues().len(), route.read_queues().len()], [MAX_QUEUES_OF_TOPIC; 2]);
        assert_eq!(route.brokers().count(), MAX_BROKERS);
        let route = TopicRoute::new("t".into(), 1, TopicRouteData { order_topic_conf, ..data });
        assert_eq!(route.write_queues().len(), MAX_QUEUES_OF_TOPIC);
    }

    #[test]
    fn absurd_static_topics_take_time_and_memory_within_limits() {
        // With a search per queue over all mappings, this would take hours.
        let mapping = |number: usize| QueueMapping {
            scope: format!("s{}", number % 1000),
            total_queues: i32::MAX,
            broker_name: format!("b{number}"),
            curr_id_map: [(i32::MAX, 0), (-1, 0), (0, 0)].into(),
            ..QueueMapping::default()
        };
        let mappings = (0..100_000).map(|number| (format!("b{number}"), mapping(number))).collect();
        let data = TopicRouteData { topic_queue_mapping_by_broker: Some(mappings), ..data() };
        let route = TopicRoute::new("t".into(), 1, data);
        assert_eq!(route.read_queues().len(), MAX_QUEUES_OF_TOPIC);
    }

    #[test]
    fn names_and_addresses_that_cannot_be_are_left_out() {
        let mut data = data();
        data.queue_datas[0].broker_name = "c\nERROR".into();
        data.broker_datas[0].broker_addrs.insert(1, "a:1\u{1b}[2J".into());
        data.broker_datas[1].broker_name = "b".repeat(300);
        data.order_topic_conf = Some("a:1;x\r:1".into());
        let route = TopicRoute::new("t".into(), 1, data);
        assert_eq!(names(route.write_queues()), ["a0"]);
        assert_eq!(names(route.read_queues()), ["a0", "a1", "b0", "b1", "d0", "d1"]);
        assert_eq!(route.broker_addrs("a").unwrap().keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!(route.brokers().map(|(name, _)| &**name).collect::<Vec<_>>(), ["a", "c", "d"]);
    }
}
