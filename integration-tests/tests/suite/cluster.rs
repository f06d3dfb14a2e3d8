//! A cluster to test against, whichever it is.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rocketmq_common::{
    Client, ClientConfig, MessageQueue, StoredMessage,
    message::{DecodeLimits, decode_records},
    protocol::{Permission, PullMessage, PullSysFlag},
    remote::{Connection, ConnectionOptions, Deadline, Json, Processors, ResponseCode},
};
use rocketmq_consumer::{PushConfig, PushConsumer, PushConsumerBuilder, StartAt};
use rocketmq_dev_broker::{DevCluster, RequestCode};
use rocketmq_integration_tests::real::{JavaProgram, RealCluster};
use rocketmq_producer::{Producer, ProducerConfig};
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    real_clusters::Use,
    wait::{SOON, eventually},
};

rocketmq_remote::request! {
    UPDATE_AND_CREATE_TOPIC(()) -> ();
    /// Creates a topic on one broker. Java: `CreateTopicRequestHeader`.
    struct CreateTopic {
        topic: String = "topic",
        default_topic: String = "defaultTopic",
        read_queues: i32 = "readQueueNums",
        write_queues: i32 = "writeQueueNums",
        perm: i32 = "perm",
        topic_filter_type: String = "topicFilterType",
        topic_sys_flag: i32 = "topicSysFlag",
        order: bool = "order",
        attributes: Option<String> = "attributes",
    }
}

rocketmq_remote::request! {
    DELETE_TOPIC_IN_BROKER(()) -> ();
    /// Deletes a topic on one broker. Java: `DeleteTopicRequestHeader`.
    struct DeleteTopic {
        topic: String = "topic",
    }
}

rocketmq_remote::request! {
    UPDATE_AND_CREATE_SUBSCRIPTIONGROUP(Json<serde_json::Value>) -> ();
    /// Creates a consumer group on one broker, or changes it. Java: `SubscriptionGroupConfig`.
    struct CreateGroup {}
}

rocketmq_remote::request! {
    PUT_KV_CONFIG(()) -> ();
    /// Java: `PutKVConfigRequestHeader`.
    struct PutKv {
        namespace: String = "namespace",
        key: String = "key",
        value: String = "value",
    }
}

/// A name server and a broker.
pub(crate) struct Cluster {
    name_server: String,
    servers: Servers,
    stage: Mutex<String>,
}

enum Servers {
    Embedded(DevCluster),
    Real { cluster: Arc<tokio::sync::Mutex<RealCluster>>, broker_addresses: Vec<String> },
}

impl Cluster {
    /// Dev brokers of one's own, set up as real ones are for that use, whose delay levels are short.
    pub(crate) async fn embedded(real: Option<Use>) -> Result<Self> {
        let is_pair = matches!(real, Some(Use::Pair | Use::Changing | Use::NoAutoCreate));
        let builder = DevCluster::builder().brokers(if is_pair { 2 } else { 1 }).order_topics(is_pair);
        let builder = builder.retry_topics_v2(real == Some(Use::RetryV2));
        let cluster = Self::of(builder.delay_levels([DEV_DELAY; 18]).transaction_check(DEV_CHECK).start().await?);
        if real == Some(Use::NoAutoCreate) {
            for index in 0..2 {
                cluster.dev().remove_topic("TBW102", &broker_name(index));
            }
        }
        Ok(cluster)
    }

    /// Around a dev broker.
    pub(crate) fn of(dev: DevCluster) -> Self {
        Self { name_server: dev.name_server(), servers: Servers::Embedded(dev), stage: Mutex::default() }
    }

    /// A real one.
    pub(crate) async fn real(cluster: Arc<tokio::sync::Mutex<RealCluster>>) -> Self {
        let (name_server, broker_addresses) = {
            let cluster = cluster.lock().await;
            (cluster.name_server().to_owned(), cluster.broker_addresses().to_vec())
        };
        Self { name_server, servers: Servers::Real { cluster, broker_addresses }, stage: Mutex::default() }
    }

    pub(crate) fn is_real(&self) -> bool {
        matches!(self.servers, Servers::Real { .. })
    }

    /// The dev broker, for its faults and its insight.
    pub(crate) fn dev(&self) -> &DevCluster {
        match &self.servers {
            Servers::Embedded(dev) => dev,
            Servers::Real { .. } => panic!("this scenario is for the dev broker"),
        }
    }

    pub(crate) fn name_server(&self) -> &str {
        &self.name_server
    }

    /// Notes where the scenario is, for the case that it gets no further.
    pub(crate) fn at(&self, stage: impl Into<String>) {
        *self.stage.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = stage.into();
    }

    pub(crate) fn stage(&self) -> String {
        self.stage.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// A producer with more patience than usual: real brokers answer SYSTEM_BUSY when the machine is.
    pub(crate) async fn producer(&self) -> Result<Producer> {
        let config = ProducerConfig { retries: 20, send_timeout: Duration::from_secs(20), ..Default::default() };
        self.producer_with(config).await
    }

    pub(crate) async fn producer_with(&self, config: ProducerConfig) -> Result<Producer> {
        let builder = Producer::builder(random_name("producers")).name_servers([&self.name_server]).config(config);
        builder.start().await.context("the producer does not start")
    }

    /// A consumer that begins at the first message, to be wired up further.
    pub(crate) fn consumer(&self, group: &str) -> PushConsumerBuilder {
        let config = PushConfig { start_at: StartAt::First, ..Default::default() };
        PushConsumer::builder(group).name_servers([&self.name_server]).config(config)
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(Client::start([&self.name_server], ClientConfig::default()).await?)
    }

    /// A new topic of so many queues on every broker, once the name server knows it.
    pub(crate) async fn topic(&self, queues: i32) -> Result<String> {
        self.topic_on(usize::MAX, queues).await
    }

    /// A new topic of so many queues on each of the first brokers, once the name server knows it there.
    pub(crate) async fn topic_on(&self, brokers: usize, queues: i32) -> Result<String> {
        let topic = random_name("topic");
        self.create_topic(&topic, brokers, queues).await.with_context(|| format!("topic {topic} is not created"))?;
        Ok(topic)
    }

    /// A new static topic, its queues shared out among two brokers.
    pub(crate) async fn static_topic(&self, queues: i32) -> Result<String> {
        let topic = random_name("static");
        match &self.servers {
            Servers::Embedded(dev) => dev.create_static_topic(&topic, queues),
            Servers::Real { .. } => {
                let count = queues.to_string();
                let mqadmin = JavaProgram::prepare().await?;
                let of_topic = ["updateStaticTopic", "-n", &self.name_server, "-t", &topic];
                mqadmin.admin(&[&of_topic, &["-qn", &count, "-c", "DefaultCluster"][..]].concat()).await?;
            }
        }
        Ok(topic)
    }

    /// Moves all queues of a static topic to one broker.
    pub(crate) async fn move_static_topic(&self, topic: &str, broker_name: &str) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.move_static_topic(topic, broker_name),
            Servers::Real { .. } => {
                let mqadmin = JavaProgram::prepare().await?;
                let arguments = ["remappingStaticTopic", "-n", &self.name_server, "-t", topic, "-b", broker_name];
                mqadmin.admin(&arguments).await?;
            }
        }
        Ok(())
    }

    /// Sets a value that the name server keeps.
    pub(crate) async fn put_kv(&self, namespace: &str, key: &str, value: &str) -> Result<()> {
        let options = ConnectionOptions::default();
        let connection = Connection::dial(&self.name_server, options, Processors::new()).await?;
        let [namespace, key, value] = [namespace, key, value].map(str::to_owned);
        Ok(connection.call(&PutKv { namespace, key, value }, (), Deadline::after(SOON)).await?)
    }

    /// Creates a topic of a given name, on the first brokers.
    pub(crate) async fn create_topic(&self, topic: &str, brokers: usize, queues: i32) -> Result<()> {
        self.create_topic_with(topic, brokers, queues, None).await
    }

    /// A new topic for messages with priorities.
    pub(crate) async fn priority_topic(&self, queues: i32) -> Result<String> {
        let topic = random_name("priorities");
        self.create_topic_with(&topic, usize::MAX, queues, Some("+message.type=PRIORITY")).await?;
        Ok(topic)
    }

    async fn create_topic_with(
        &self,
        topic: &str,
        brokers: usize,
        queues: i32,
        attributes: Option<&str>,
    ) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => {
                dev.create_topic(topic, queues);
                for letter in ('a'..='z').skip(brokers) {
                    dev.remove_topic(topic, &format!("broker-{letter}"));
                }
            }
            Servers::Real { broker_addresses, .. } => {
                let brokers = brokers.min(broker_addresses.len());
                let request = CreateTopic {
                    topic: topic.to_owned(),
                    default_topic: "TBW102".to_owned(),
                    read_queues: queues,
                    write_queues: queues,
                    perm: Permission::READ | Permission::WRITE,
                    topic_filter_type: "SINGLE_TAG".to_owned(),
                    topic_sys_flag: 0,
                    order: false,
                    attributes: attributes.map(str::to_owned),
                };
                for address in broker_addresses.iter().take(brokers) {
                    let options = ConnectionOptions::default();
                    let connection = Connection::dial(address, options, Processors::new()).await?;
                    connection.call(&request, (), Deadline::after(SOON)).await?;
                }
                let (client, topic) = (self.client().await?, Arc::from(topic));
                eventually(SOON, async || {
                    let seen = client.known_route(&topic).map_or(0, |route| route.generation());
                    let known = client.newer_route(&topic, seen).await?.brokers().count();
                    ensure!(known == brokers, "on {known} of {brokers} brokers");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Deletes a topic, and all that is stored under it, on every broker.
    pub(crate) async fn delete_topic(&self, topic: &str) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => {
                ('a'..='z').for_each(|letter| dev.remove_topic(topic, &format!("broker-{letter}")));
            }
            Servers::Real { broker_addresses, .. } => {
                for address in broker_addresses {
                    let options = ConnectionOptions::default();
                    let connection = Connection::dial(address, options, Processors::new()).await?;
                    let request = DeleteTopic { topic: topic.to_owned() };
                    connection.call(&request, (), Deadline::after(SOON)).await?;
                }
            }
        }
        Ok(())
    }

    /// Creates a consumer group on the first of the real brokers, or changes it.
    pub(crate) async fn create_group(&self, group: &str, brokers: usize, is_enabled: bool) -> Result<()> {
        let Servers::Real { broker_addresses, .. } = &self.servers else { bail!("the dev broker needs no groups") };
        for index in 0..brokers.min(broker_addresses.len()) {
            self.create_group_at(group, index, is_enabled).await?;
        }
        Ok(())
    }

    /// As [`create_group`](Self::create_group), on one real broker.
    pub(crate) async fn create_group_at(&self, group: &str, index: usize, is_enabled: bool) -> Result<()> {
        let Servers::Real { broker_addresses, .. } = &self.servers else { bail!("the dev broker needs no groups") };
        let address = broker_addresses.get(index).context("no such broker")?;
        let config = serde_json::json!({
            "groupName": group,
            "consumeEnable": is_enabled,
            "consumeFromMinEnable": true,
            "consumeBroadcastEnable": true,
            "retryQueueNums": 1,
            "retryMaxTimes": 16,
            "brokerId": 0,
            "whichBrokerWhenConsumeSlowly": 1,
            "notifyConsumerIdsChangedEnable": true,
        });
        let connection = Connection::dial(address, ConnectionOptions::default(), Processors::new()).await?;
        Ok(connection.call(&CreateGroup {}, Json(config), Deadline::after(SOON)).await?)
    }

    /// The queues of a topic.
    pub(crate) async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>> {
        Ok(self.client().await?.route(&topic.into()).await?.read_queues().to_vec())
    }

    /// All that is stored under a topic, pulled without a group; nothing where there is no such topic.
    pub(crate) async fn stored(&self, topic: &str) -> Result<Vec<StoredMessage>> {
        let mut messages = Vec::new();
        for (queue, records) in self.stored_records(topic).await? {
            for message in decode_records(records, &queue.topic, &queue.broker_name, DecodeLimits::default()) {
                messages.push(message?);
            }
        }
        Ok(messages)
    }

    /// As [`stored`](Self::stored), as brokers send it: records one after the other, bodies compressed as they were
    /// sent.
    pub(crate) async fn stored_records(&self, topic: &str) -> Result<Vec<(MessageQueue, Bytes)>> {
        let client = self.client().await?;
        let topic: Arc<str> = topic.into();
        let route = match client.route(&topic).await {
            Err(rocketmq_common::Error::TopicNotFound { .. }) => return Ok(Vec::new()),
            route => route?,
        };
        let mut records = Vec::new();
        for queue in route.read_queues() {
            let addr = client.master(&queue.broker_name)?;
            let (mut next, end) = (client.min_offset(queue).await?, client.max_offset(queue).await?);
            while next < end {
                let request = pull_everything(queue, next);
                let answer = client.pull_message(&addr, &request, Deadline::after(SOON)).await?;
                if answer.code == ResponseCode::SUCCESS {
                    records.push((queue.clone(), answer.body));
                }
                ensure!(answer.header.next_begin_offset > next, "{queue} does not get beyond {next} of {end}");
                next = answer.header.next_begin_offset;
            }
        }
        Ok(records)
    }

    /// Ends the broker without a warning, if it is a real one.
    pub(crate) async fn kill_broker(&self) -> Result<()> {
        self.kill_broker_at(0).await
    }

    /// As [`kill_broker`](Self::kill_broker), one of several.
    pub(crate) async fn kill_broker_at(&self, index: usize) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.stop_broker(&broker_name(index)).await,
            Servers::Real { cluster, .. } => cluster.lock().await.kill_broker(index).await?,
        }
        Ok(())
    }

    pub(crate) async fn start_broker(&self) -> Result<()> {
        self.start_broker_at(0).await
    }

    /// Has one of several brokers end in order: offsets that it was told are there when it comes back.
    pub(crate) async fn stop_broker_at(&self, index: usize) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.stop_broker(&broker_name(index)).await,
            Servers::Real { cluster, .. } => cluster.lock().await.stop_broker(index).await?,
        }
        Ok(())
    }

    pub(crate) async fn start_broker_at(&self, index: usize) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.start_broker(&broker_name(index)).await?,
            Servers::Real { cluster, .. } => cluster.lock().await.start_broker(index).await?,
        }
        Ok(())
    }

    /// Freezes one of several brokers: connections to it are made, but nothing is answered. A dev broker answers the
    /// requests of a producer no more.
    pub(crate) async fn freeze_broker_at(&self, index: usize) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => {
                for code in [RequestCode::HEART_BEAT, RequestCode::SEND_MESSAGE_V2, RequestCode::UNREGISTER_CLIENT] {
                    dev.on(code).at_broker(&broker_name(index)).forget();
                }
            }
            Servers::Real { cluster, .. } => cluster.lock().await.freeze_broker(index)?,
        }
        Ok(())
    }

    /// Lets a frozen broker run again.
    pub(crate) async fn thaw_broker_at(&self, index: usize) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.clear_faults(),
            Servers::Real { cluster, .. } => cluster.lock().await.thaw_broker(index)?,
        }
        Ok(())
    }

    /// Has a real broker that was ended start at another port.
    pub(crate) async fn move_broker(&self, index: usize) -> Result<()> {
        match &self.servers {
            Servers::Embedded(_) => bail!("a dev broker stays where it is"),
            Servers::Real { cluster, .. } => cluster.lock().await.move_broker(index),
        }
    }

    /// The address of the replica of a real cluster's only broker.
    pub(crate) async fn replica_address(&self) -> Result<Arc<str>> {
        match &self.servers {
            Servers::Embedded(_) => bail!("dev brokers have no replicas"),
            Servers::Real { cluster, .. } => Ok(cluster.lock().await.replica_address(0).into()),
        }
    }

    pub(crate) async fn kill_name_server(&self) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.stop_name_server().await,
            Servers::Real { cluster, .. } => cluster.lock().await.kill_name_server().await?,
        }
        Ok(())
    }

    pub(crate) async fn start_name_server(&self) -> Result<()> {
        match &self.servers {
            Servers::Embedded(dev) => dev.start_name_server().await?,
            Servers::Real { cluster, .. } => cluster.lock().await.start_name_server().await?,
        }
        Ok(())
    }

    /// What a group has recorded, over all queues of a topic.
    pub(crate) async fn recorded(&self, group: &str, topic: &str) -> Result<i64> {
        let client = self.client().await?;
        let route = client.route(&topic.into()).await?;
        let mut sum = 0;
        for queue in route.read_queues() {
            sum += client.consumer_offset(&group.into(), queue).await?.unwrap_or(0);
        }
        Ok(sum)
    }

    /// Fails unless exactly `expected` is recorded in the end: the sum over all queues of a topic that began empty.
    pub(crate) async fn expect_recorded(&self, group: &str, topic: &str, expected: usize) -> Result<()> {
        let expected = i64::try_from(expected)?;
        eventually(SOON, async || match self.recorded(group, topic).await? {
            recorded if recorded == expected => Ok(()),
            recorded => bail!("offsets of {group} in {topic} add up to {recorded}, expected {expected}"),
        })
        .await
    }
}

/// A pull from an offset on, without a group's filter.
pub(crate) fn pull_everything(queue: &MessageQueue, offset: i64) -> PullMessage {
    PullMessage {
        consumer_group: "readers".into(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        queue_offset: offset,
        max_messages: 32,
        sys_flag: PullSysFlag::SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_ms: 0,
        subscription: Some("*".into()),
        sub_version: 0,
        expression_type: Some("TAG".into()),
        max_bytes: None,
        broker_name: Some(queue.broker_name.clone()),
    }
}

fn broker_name(index: usize) -> String {
    ('a'..='z').nth(index).map_or_else(String::new, |letter| format!("broker-{letter}"))
}

/// A name nobody else uses, also on a cluster that has been used before.
pub(crate) fn random_name(start: &str) -> String {
    format!("{start}-{:016x}", RandomState::new().build_hasher().finish())
}

/// How often the dev broker asks what became of half messages.
pub(crate) const DEV_CHECK: Duration = Duration::from_millis(200);
/// How long the dev broker delays what comes back to a group.
pub(crate) const DEV_DELAY: Duration = Duration::from_millis(100);
