//! The real clusters of a run: started when first needed, shared, and ended with the run.

use crate::{cluster::Cluster, replicas};
use anyhow::{Context, Error, Result, anyhow};
use rocketmq_common::Message;
use rocketmq_integration_tests::real::{self, RealCluster, RealOptions, Source};
use rocketmq_producer::{Producer, ProducerConfig};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};

/// What a scenario does with the real cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Has it together with others.
    Shared,
    /// Stops its servers, and so has one to itself.
    Alone,
    /// Needs two brokers, and a name server that knows order topics; has them together with others.
    Pair,
    /// Needs a broker that names pop retry topics in the newer way; has it together with others.
    RetryV2,
    /// Needs a broker that soon removes what it has stored, and has it to itself: what others store drives its own out.
    Forgetful,
    /// Stops one of two brokers, and so has them to itself.
    Changing,
    /// Needs two brokers that create no topics by themselves and have no timer wheel, and stops one of them.
    NoAutoCreate,
    /// Needs two brokers that create no consumer groups by themselves; has them together with others.
    Strict,
    /// Needs a broker with a replica that is to be read from as soon as a consumer is behind, and stops the broker.
    Replicated,
}

impl Use {
    /// Lines for `broker.conf` beside the usual ones.
    fn broker_properties(self) -> Vec<(String, String)> {
        let patient = [("waitTimeMillsInSendQueue", "10000"), ("osPageCacheBusyTimeOutMills", "10000")];
        // Requests of one connection are stored in order only by a broker that handles sends one after the other.
        let orderly = [("sendMessageThreadPoolNums", "1")];
        let no_auto_create = [("autoCreateTopicEnable", "false"), ("timerWheelEnable", "false")];
        let newer_names = [("enableRetryTopicV2", "true")];
        // The broker suggests its replica to who is any message behind, not to who is 40 % of the memory behind.
        let replicated = [("slaveReadEnable", "true"), ("accessMessageInMemoryMaxRatio", "0")];
        // Nothing is kept that does not lie in the last file, at any hour of the day.
        let hours: Vec<_> = (0..24).map(|hour| format!("{hour:02}")).collect();
        let hours = hours.join(";");
        let forgetful = [
            ("mappedFileSizeCommitLog", "1048576"),
            ("fileReservedTime", "0"),
            ("deleteWhen", hours.as_str()),
            ("cleanResourceInterval", "1000"),
        ];
        let strict = [("autoCreateSubscriptionGroup", "false")];
        let own = match self {
            Self::Alone => &orderly[..],
            Self::RetryV2 => &newer_names,
            Self::Forgetful => &forgetful,
            Self::NoAutoCreate => &no_auto_create,
            Self::Replicated => &replicated,
            Self::Strict => &strict,
            Self::Shared | Self::Pair | Self::Changing => &[],
        };
        patient.iter().chain(own).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }
}

/// The real clusters of a run.
#[derive(Default)]
pub(crate) struct RealClusters {
    shared: Slot,
    stoppable: Slot,
    pair: Slot,
    retry_v2: Slot,
    forgetful: Slot,
    changing: Slot,
    no_auto_create: Slot,
    replicated: Slot,
    strict: Slot,
    /// Held by the one scenario that has the second cluster to itself.
    alone: Mutex<()>,
    /// Held by the one scenario that has the broker to itself which removes things.
    forgetting: Mutex<()>,
    /// Held by the one scenario that has a cluster of several brokers or replicas to itself.
    one_of_several: Mutex<()>,
}

type Real = Arc<tokio::sync::Mutex<RealCluster>>;

/// A cluster, or why there is none: found out once.
#[derive(Default)]
struct Slot(Mutex<Option<Result<Real, Arc<Error>>>>);

impl RealClusters {
    /// Runs a scenario on a real cluster.
    pub(crate) fn with(&self, real: Use, runtime: &Runtime, run: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
        let _alone = match real {
            Use::Shared | Use::Pair | Use::RetryV2 | Use::Strict => None,
            Use::Alone => Some(locked(&self.alone)),
            Use::Forgetful => Some(locked(&self.forgetting)),
            Use::Changing | Use::NoAutoCreate | Use::Replicated => Some(locked(&self.one_of_several)),
        };
        let slot = match real {
            Use::Shared => &self.shared,
            Use::Alone => &self.stoppable,
            Use::Pair => &self.pair,
            Use::RetryV2 => &self.retry_v2,
            Use::Forgetful => &self.forgetful,
            Use::Changing => &self.changing,
            Use::NoAutoCreate => &self.no_auto_create,
            Use::Replicated => &self.replicated,
            Use::Strict => &self.strict,
        };
        let servers = slot.get(real, runtime)?;
        let result = run(&runtime.block_on(Cluster::real(servers.clone())));
        result.map_err(|error| match runtime.block_on(state(&servers)) {
            state if state.is_empty() => error,
            state => anyhow!("{error:#}\n{state}"),
        })
    }

    /// Ends the servers.
    pub(crate) fn end(&self) {
        let Self { shared, stoppable, pair, retry_v2, forgetful, changing, no_auto_create, replicated, strict, .. } =
            self;
        for slot in [shared, stoppable, pair, retry_v2, forgetful, changing, no_auto_create, replicated, strict] {
            drop(locked(&slot.0).take());
        }
    }
}

impl Slot {
    fn get(&self, real: Use, runtime: &Runtime) -> Result<Real> {
        let mut slot = locked(&self.0);
        let found = slot.get_or_insert_with(|| runtime.block_on(start(real)).map_err(Arc::new));
        found.clone().map_err(|error| anyhow!("no real cluster: {error:#}"))
    }
}

/// What may have made a scenario fail without showing in it.
async fn state(servers: &Real) -> String {
    // Another scenario may be stopping a server at this moment.
    match timeout(STATE_LIMIT, servers.lock()).await {
        Ok(mut cluster) => cluster.state(),
        Err(_) => format!("the state of the cluster cannot be had in {STATE_LIMIT:?}"),
    }
}

async fn start(real: Use) -> Result<Real> {
    let is_given = matches!(real::source(), Source::Given(_));
    let broker_properties = if is_given { Vec::new() } else { real.broker_properties() };
    let mut options = RealOptions { broker_properties, ..RealOptions::default() };
    options.replicas = real == Use::Replicated;
    if matches!(real, Use::Pair | Use::Changing | Use::NoAutoCreate | Use::Strict) {
        options.brokers = 2;
    }
    if real == Use::Pair {
        options.name_server_properties.push(("orderMessageEnable".to_owned(), "true".to_owned()));
    }
    let cluster = RealCluster::start(options).await?;
    let name_server = cluster.name_server().to_owned();
    let cluster = Arc::new(tokio::sync::Mutex::new(cluster));
    if real == Use::NoAutoCreate {
        Cluster::real(cluster.clone()).await.create_topic(WARM_UP_TOPIC, usize::MAX, 4).await?;
    }
    warm_up(&name_server).await.context("the broker does not warm up")?;
    if real == Use::Replicated {
        let with_topics = Cluster::real(cluster.clone()).await;
        for topic in replicas::TOPICS {
            with_topics.create_topic(topic, 1, 4).await?;
        }
    }
    Ok(cluster)
}

/// A broker that has just come up is slow until its code is compiled and its files are mapped, and would answer
/// SYSTEM_BUSY under load.
async fn warm_up(name_server: &str) -> Result<()> {
    let config = ProducerConfig { retries: 50, send_timeout: Duration::from_secs(30), ..Default::default() };
    let producer = Producer::builder("warm-up").name_servers([name_server]).config(config).start().await?;
    let mut senders = JoinSet::new();
    for _ in 0..WARM_UP_CALLERS {
        let producer = producer.clone();
        senders.spawn(async move {
            for _ in 0..WARM_UP_MESSAGES / WARM_UP_CALLERS {
                producer.send(Message::new(WARM_UP_TOPIC, vec![0; 1024])).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(producer.shutdown().await?)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const STATE_LIMIT: Duration = Duration::from_secs(5);
const WARM_UP_TOPIC: &str = "warm-up";
const WARM_UP_CALLERS: usize = 16;
const WARM_UP_MESSAGES: usize = 3000;
