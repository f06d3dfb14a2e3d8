use crate::{
    Error,
    broker::{Broker, BrokerConfig, Brokers, StaticTopic, VipChannel},
    faults::{FaultRule, Faults},
    filter::{TagFilter, tag_hash},
    handlers::NameServer,
    log::{NewRecord, TopicConfig},
    record,
    server::{Peers, Server},
};
use bytes::BytesMut;
use rocketmq_common::{
    message::{
        DecodeLimits, MessageQueue, StoredMessage, decode_records,
        properties::{lookup, property},
    },
    protocol::{Permission, RequestMode, RequestModeOfGroup},
};
use rocketmq_remote::RequestCode;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A name server and one or more brokers in this process. Dropping it ends all its tasks and connections.
#[derive(Debug)]
pub struct DevCluster {
    name_server: (Arc<NameServer>, Server),
    brokers: Arc<Brokers>,
    /// Those of the brokers, in the same order.
    vip_channels: Vec<(Arc<VipChannel>, Server)>,
    faults: Arc<Faults>,
    tasks: TaskTracker,
    stop_all: CancellationToken,
}

/// How a [`DevCluster`] is to be.
#[derive(Clone, Debug)]
pub struct DevClusterBuilder {
    brokers: usize,
    order_topics: bool,
    config: BrokerConfig,
}

impl DevClusterBuilder {
    /// The number of brokers: `broker-a`, `broker-b` and so on. Default 1, at most 26.
    #[must_use]
    pub fn brokers(mut self, brokers: usize) -> Self {
        self.brokers = brokers.clamp(1, BROKER_LETTERS.len());
        self
    }

    /// Whether the name server tells the order of an order topic's queues, which it is given as a value of the
    /// namespace `ORDER_TOPIC_CONFIG`. Default false, as `orderMessageEnable` of a real one.
    #[must_use]
    pub fn order_topics(mut self, enabled: bool) -> Self {
        self.order_topics = enabled;
        self
    }

    /// The queues of `TBW102`, the topic after which others are created: the most queues such a topic gets. Default 8.
    #[must_use]
    pub fn default_queues(mut self, queues: i32) -> Self {
        self.config.default_queues = queues.max(1);
        self
    }

    /// How long a message of each delay level waits; short ones make retries quick. Default the 18 levels of a real
    /// broker, 1 s to 2 h.
    #[must_use]
    pub fn delay_levels(mut self, levels: impl IntoIterator<Item = Duration>) -> Self {
        self.config.delay_levels = levels.into_iter().collect();
        if self.config.delay_levels.is_empty() {
            self.config.delay_levels.push(Duration::ZERO);
        }
        self
    }

    /// How often producers are asked what became of half messages, and how old these have to be. Default 30 s.
    #[must_use]
    pub fn transaction_check(mut self, interval: Duration) -> Self {
        self.config.transaction_check = interval.max(Duration::from_millis(1));
        self
    }

    /// Largest body of a message, or of a batch. Default 4 MiB.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.config.max_message_bytes = bytes;
        self
    }

    /// Most bytes each broker stores; beyond that it answers sends with `SERVICE_NOT_AVAILABLE`. Default 1 GiB.
    #[must_use]
    pub fn max_store_bytes(mut self, bytes: usize) -> Self {
        self.config.max_store_bytes = bytes;
        self
    }

    /// Whether what was popped and not acknowledged goes to a retry topic whose name is of the second generation,
    /// `%RETRY%group+topic`. Default false, as `enableRetryTopicV2` of a real one.
    #[must_use]
    pub fn retry_topics_v2(mut self, enabled: bool) -> Self {
        self.config.retry_topics_v2 = enabled;
        self
    }

    /// Starts the cluster, on free ports of the loopback address.
    ///
    /// # Errors
    /// Where a port cannot be opened.
    pub async fn start(self) -> Result<DevCluster, Error> {
        let (stop_all, tasks, faults) = (CancellationToken::new(), TaskTracker::new(), Arc::<Faults>::default());
        let mut brokers = Vec::with_capacity(self.brokers);
        let mut vip_channels = Vec::with_capacity(self.brokers);
        for letter in BROKER_LETTERS.chars().take(self.brokers) {
            let (server, vip_server) = Server::bind_with_vip(&stop_all)?;
            let broker = Arc::new(Broker::new(
                format!("broker-{letter}").into(),
                server.addr,
                self.config.clone(),
                faults.clone(),
                tasks.clone(),
                stop_all.clone(),
            ));
            vip_channels.push((Arc::new(VipChannel(broker.clone())), vip_server));
            brokers.push((broker, Arc::new(server)));
        }
        let brokers: Arc<[_]> = brokers.into();
        Broker::join(&brokers);
        let name_server = NameServer {
            brokers: brokers.clone(),
            faults: faults.clone(),
            tasks: tasks.clone(),
            stop_all: stop_all.clone(),
            peers: Peers::default(),
            order_topics: self.order_topics,
            values: Mutex::default(),
        };
        let name_server = (Arc::new(name_server), Server::bind(&stop_all)?);
        let cluster = DevCluster { name_server, brokers, vip_channels, faults, tasks, stop_all };
        for (broker, server) in cluster.brokers.iter() {
            server.start(broker)?;
        }
        for (channel, server) in &cluster.vip_channels {
            server.start(channel)?;
        }
        cluster.name_server.1.start(&cluster.name_server.0)?;
        Ok(cluster)
    }
}

impl DevCluster {
    /// Starts a name server and one broker, `broker-a`.
    ///
    /// # Errors
    /// Where a port cannot be opened.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Builds a cluster that is not the default one.
    pub fn builder() -> DevClusterBuilder {
        let config = BrokerConfig {
            default_queues: 8,
            delay_levels: DELAY_LEVELS_S.map(Duration::from_secs).to_vec(),
            max_message_bytes: 4 << 20,
            max_store_bytes: 1 << 30,
            transaction_check: Duration::from_secs(30),
            retry_topics_v2: false,
        };
        DevClusterBuilder { brokers: 1, order_topics: false, config }
    }

    /// The address of the name server, `127.0.0.1:PORT`.
    pub fn name_server(&self) -> String {
        self.name_server.1.addr.to_string()
    }

    /// The address of a broker, whether it runs or not.
    pub fn broker_addr(&self, broker_name: &str) -> Option<String> {
        self.find(broker_name).map(|(broker, _)| broker.addr.to_string())
    }

    /// Creates a topic on every broker, with so many queues on each; or changes the number of its queues.
    pub fn create_topic(&self, topic: &str, queues: i32) {
        for (broker, _) in self.brokers.iter() {
            broker.store().log.set_topic(topic, TopicConfig::new(queues));
        }
    }

    /// Creates a static topic: its queues are shared out among the brokers, and numbered over all of them.
    pub fn create_static_topic(&self, topic: &str, queues: i32) {
        self.create_topic(topic, queues);
        let brokers = i32::try_from(self.brokers.len()).unwrap_or(1);
        for (index, (broker, _)) in (0..).zip(self.brokers.iter()) {
            let own = (0..queues).filter(|queue_id| queue_id % brokers == index).collect();
            broker.statics().insert(topic.to_owned(), StaticTopic { total: queues, queues: own, epoch: 1 });
        }
    }

    /// Moves all queues of a static topic to one broker, with the messages in them and the groups' offsets.
    pub fn move_static_topic(&self, topic: &str, broker_name: &str) {
        let Some((target, _)) = self.find(broker_name) else { return };
        for (broker, _) in self.brokers.iter().filter(|(broker, _)| broker.name != target.name) {
            let Some(mut moved) = broker.statics().get(topic).cloned() else { continue };
            let queues = std::mem::take(&mut moved.queues);
            broker.statics().insert(topic.to_owned(), moved);
            for &queue_id in &queues {
                let offsets = broker.offsets().of_queue(topic, queue_id);
                for (group, offset) in offsets {
                    target.offsets().set(&group, &topic.into(), queue_id, offset);
                }
                // What it had before is still there.
                let from = target.store().log.bounds(topic, queue_id).map_or(0, |(_, max)| max);
                let read = broker.store().log.read(topic, queue_id, from, i32::MAX, &TagFilter::All);
                for record in record::split(&read.body) {
                    let tags =
                        record::Stored::read(&record).map(|stored| tag_hash(lookup(stored.properties, property::TAGS)));
                    let new = NewRecord { bytes: BytesMut::from(&record[..]), tag_hash: tags.unwrap_or_default() };
                    let _ = target.store().log.append_anyway(topic, queue_id, new, target.clock.now_ms());
                }
            }
            if let Some(own) = target.statics().get_mut(topic) {
                own.queues.extend(queues);
                own.epoch += 1;
            }
        }
    }

    /// Makes a topic readable, writable, both or neither, on every broker that has it.
    pub fn set_permission(&self, topic: &str, readable: bool, writable: bool) {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let perm = bit(readable, Permission::READ) | bit(writable, Permission::WRITE);
        for (broker, _) in self.brokers.iter() {
            let mut store = broker.store();
            if let Some(config) = store.log.topic(topic) {
                store.log.set_topic(topic, TopicConfig { perm, ..config });
            }
        }
    }

    /// Has a group pop a topic from now on, or pull it again, as far as its members have brokers share the queues out. An
    /// operator of a real cluster does so with `mqadmin setConsumeMode`.
    pub fn set_to_pop(&self, topic: &str, group: &str, pops: bool) {
        let set = RequestModeOfGroup {
            consumer_group: group.to_owned(),
            mode: if pops { RequestMode::Pop } else { RequestMode::Pull },
            pop_share_queue_num: 0,
            topic: topic.to_owned(),
        };
        for (broker, _) in self.brokers.iter() {
            broker.request_modes().insert((set.topic.clone(), set.consumer_group.clone()), set.clone());
        }
    }

    /// Removes a topic and its messages from one broker.
    pub fn remove_topic(&self, topic: &str, broker_name: &str) {
        if let Some((broker, _)) = self.find(broker_name) {
            broker.store().log.remove_topic(topic);
        }
    }

    /// Begins a rule for what is to happen to the requests of one code.
    ///
    /// ```no_run
    /// # use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
    /// # fn with(cluster: DevCluster) {
    /// cluster.on(RequestCode::SEND_MESSAGE_V2).answer(ResponseCode::SYSTEM_BUSY).times(2);
    /// # }
    /// ```
    pub fn on(&self, code: RequestCode) -> FaultRule<'_> {
        self.faults.rule(code)
    }

    /// Ends all fault rules.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// How many requests of a code have reached the cluster, those that a fault rule made fail included.
    pub fn received(&self, code: RequestCode) -> u64 {
        self.faults.received(code)
    }

    /// How many requests of a code have reached the VIP channel of a broker, the port two below its own; they are among
    /// those that [`received`](Self::received) counts.
    pub fn received_by_vip_channel(&self, code: RequestCode) -> u64 {
        self.faults.received_by_vip(code)
    }

    /// The value of a field of the last request of a code.
    pub fn last_field(&self, code: RequestCode, name: &str) -> Option<String> {
        self.faults.last_fields(code)?.get(name).map(str::to_owned)
    }

    /// Stops a broker: its port and its connections close, and the name server forgets it. Messages, offsets and topics
    /// stay.
    pub async fn stop_broker(&self, broker_name: &str) {
        if let Some((_, server)) = self.find(broker_name) {
            server.stop().await;
        }
        if let Some((_, server)) = self.find_vip_channel(broker_name) {
            server.stop().await;
        }
    }

    /// Starts a stopped broker at its old port, with all it has stored.
    ///
    /// # Errors
    /// Where there is no such broker, or its port cannot be opened.
    pub async fn start_broker(&self, broker_name: &str) -> Result<(), Error> {
        let (broker, server) =
            self.find(broker_name).ok_or_else(|| Error::NoBroker { name: broker_name.to_owned() })?;
        server.start(broker)?;
        self.find_vip_channel(broker_name).map_or(Ok(()), |(channel, server)| server.start(channel))
    }

    /// Stops the name server: its port and its connections close.
    pub async fn stop_name_server(&self) {
        self.name_server.1.stop().await;
    }

    /// Starts a stopped name server at its old port.
    ///
    /// # Errors
    /// Where the port cannot be opened.
    pub async fn start_name_server(&self) -> Result<(), Error> {
        self.name_server.1.start(&self.name_server.0)
    }

    /// All messages stored under a topic: by broker, queue and offset.
    ///
    /// A body that cannot be decompressed, for want of a feature of `rocketmq-common`, is shown as it was sent.
    pub fn messages(&self, topic: &str) -> Vec<StoredMessage> {
        let name: Arc<str> = topic.into();
        let mut messages = Vec::new();
        for (broker, _) in self.brokers.iter() {
            let records: Vec<_> = broker.store().log.records(topic).collect();
            for record in records {
                let decode = |record| decode_records(record, &name, &broker.name, DecodeLimits::default());
                let decoded: Result<Vec<_>, _> = decode(record.clone()).collect();
                let decoded = decoded.unwrap_or_else(|_| decode(record::as_is(&record)).flatten().collect());
                messages.extend(decoded);
            }
        }
        messages
    }

    /// How many records are stored under a topic, whether or not they can be read.
    pub fn record_count(&self, topic: &str) -> usize {
        self.brokers.iter().map(|(broker, _)| broker.store().log.records(topic).count()).sum()
    }

    /// Changes the stored record of a message, in the layout in which brokers store and answer it: to see what a client does
    /// with a message that is damaged, or that another client wrote. Returns whether there is a message at that offset.
    ///
    /// ```
    /// # async fn run(cluster: rocketmq_dev_broker::DevCluster) {
    /// let queue = rocketmq_dev_broker::MessageQueue::new("orders", "broker-a", 0);
    /// // A record begins with its size.
    /// cluster.change_record(&queue, 3, |record| record[..4].fill(0xFF));
    /// # }
    /// ```
    pub fn change_record(&self, queue: &MessageQueue, offset: i64, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some((broker, _)) = self.find(&queue.broker_name) else { return false };
        broker.store().log.change(&queue.topic, queue.queue_id, offset, change)
    }

    /// The offset a consumer group has recorded in a queue.
    pub fn committed_offset(&self, group: &str, queue: &MessageQueue) -> Option<i64> {
        let (broker, _) = self.find(&queue.broker_name)?;
        broker.offsets().get(group, &queue.topic, queue.queue_id)
    }

    /// The client ids of a consumer group, over all brokers.
    pub fn consumer_ids(&self, group: &str) -> Vec<String> {
        let mut ids: Vec<_> = self.brokers.iter().flat_map(|(broker, _)| broker.groups().client_ids(group)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Drops the oldest messages of a queue, on every broker: those below `min_offset` are gone, as after their time to
    /// live.
    pub fn trim(&self, topic: &str, queue_id: i32, min_offset: i64) {
        for (broker, _) in self.brokers.iter() {
            broker.store().log.trim(topic, queue_id, min_offset);
        }
    }

    /// Stops all servers and waits until their tasks have ended.
    pub async fn shutdown(self) {
        self.stop_all.cancel();
        for (_, server) in self.brokers.iter() {
            server.stop().await;
        }
        for (_, server) in &self.vip_channels {
            server.stop().await;
        }
        self.name_server.1.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn find_vip_channel(&self, broker_name: &str) -> Option<&(Arc<VipChannel>, Server)> {
        self.vip_channels.iter().find(|(channel, _)| *channel.0.name == *broker_name)
    }

    fn find(&self, broker_name: &str) -> Option<&(Arc<Broker>, Arc<Server>)> {
        self.brokers.iter().find(|(broker, _)| *broker.name == *broker_name)
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        self.stop_all.cancel();
    }
}

const BROKER_LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
/// Java: `messageDelayLevel`.
const DELAY_LEVELS_S: [u64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200];
