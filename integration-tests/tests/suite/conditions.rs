//! What fails for a long time is logged once when it begins and once when it ends, and a health check lists it meanwhile.

use crate::{
    captured::lines,
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::{ClientConfig, ConditionKind, Health, Message, MessageQueue, remote::ResponseCode};
use rocketmq_consumer::{Filter, OffsetStore, PopConfig, PopConsumer, PushConfig, StartAt, StoreError, Storing};
use rocketmq_dev_broker::RequestCode;
use rocketmq_producer::Select;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tracing::Level;

fn has(health: &Health, kind: ConditionKind) -> bool {
    health.conditions.iter().any(|condition| condition.kind == kind)
}

async fn logged(level: Level, texts: &[&str]) -> Result<()> {
    eventually(SOON, async || {
        ensure!(!lines(level, texts).is_empty(), "no {level} with {texts:?}");
        Ok(())
    })
    .await
}

/// A condition was logged once at WARN, whatever else was.
fn logged_once(texts: &[&str]) -> Result<()> {
    let warned = lines(Level::WARN, texts);
    ensure!(warned.len() == 1, "{} times at WARN: {warned:?}", warned.len());
    Ok(())
}

async fn asked(cluster: &Cluster, code: RequestCode, more: u64) -> Result<()> {
    let before = cluster.dev().received(code);
    eventually(SOON, async || {
        let received = cluster.dev().received(code) - before;
        ensure!(received >= more, "{received} of {more} requests {code}");
        Ok(())
    })
    .await
}

pub(crate) async fn refused_pulls_are_one_warning(cluster: &Cluster) -> Result<()> {
    const PULL: RequestCode = RequestCode::PULL_MESSAGE;
    let (topic, group, inbox) = (cluster.topic(8).await?, random_name("group"), Inbox::new());
    cluster.dev().on(PULL).answer(ResponseCode::NO_PERMISSION);
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let of_topic = [&*group, &*topic, "pull fails"];
    logged(Level::WARN, &of_topic).await?;
    asked(cluster, PULL, 40).await?;
    logged_once(&of_topic)?;
    logged_once(&[&group, &topic, "consumeEnable", &cluster.dev().broker_addr("broker-a").unwrap_or_default()])?;
    let health = consumer.health();
    ensure!(has(&health, ConditionKind::Pull) && !health.is_ok(), "{health:?}");
    cluster.dev().clear_faults();
    logged(Level::INFO, &[&group, &topic, "pull succeeds again"]).await?;
    eventually(SOON, async || {
        let health = consumer.health();
        ensure!(health.is_ok(), "{health:?}");
        ensure!(health.assigned_queues == Some(9) && health.connected_brokers.len() == 1, "{health:?}");
        ensure!(health.last_heartbeat.is_some(), "{health:?}");
        Ok(())
    })
    .await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_missing_topic_is_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (random_name("topic"), random_name("group"), Inbox::new());
    let interval = Duration::from_millis(300);
    let config = PushConfig { start_at: StartAt::First, rebalance_interval: interval, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let missing = [&*group, &*topic, "does not exist"];
    logged(Level::WARN, &missing).await?;
    ensure!(has(&consumer.health(), ConditionKind::Topic), "{:?}", consumer.health());
    cluster.create_topic(&topic, usize::MAX, 2).await?;
    logged(Level::INFO, &[&group, &topic, "has queues to consume from"]).await?;
    logged_once(&missing)?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_topic_that_may_not_be_read_is_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    cluster.dev().set_permission(&topic, false, true);
    let interval = Duration::from_millis(300);
    let config = PushConfig { rebalance_interval: interval, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let unreadable = [&*group, &*topic, "no queue that may be read"];
    logged(Level::WARN, &unreadable).await?;
    asked(cluster, RequestCode::GET_CONSUMER_LIST_BY_GROUP, 8).await?;
    logged_once(&unreadable)?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_group_without_members_is_one_warning(cluster: &Cluster) -> Result<()> {
    const MEMBERS: RequestCode = RequestCode::GET_CONSUMER_LIST_BY_GROUP;
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    cluster.dev().on(MEMBERS).answer(ResponseCode::SYSTEM_ERROR);
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let unlisted = [&*group, "no broker lists this consumer"];
    logged(Level::WARN, &unlisted).await?;
    asked(cluster, MEMBERS, 4).await?;
    logged_once(&unlisted)?;
    let health = consumer.health();
    ensure!(has(&health, ConditionKind::Membership) && health.assigned_queues == Some(0), "{health:?}");
    cluster.dev().clear_faults();
    logged(Level::INFO, &[&group, "queues can be assigned again"]).await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn failing_commits_are_one_warning(cluster: &Cluster) -> Result<()> {
    const COMMIT: RequestCode = RequestCode::UPDATE_CONSUMER_OFFSET;
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    cluster.dev().on(COMMIT).answer(ResponseCode::SYSTEM_ERROR);
    let config = PushConfig {
        start_at: StartAt::First,
        commit_interval: Duration::from_millis(100),
        shutdown_timeout: Duration::from_secs(5),
        ..Default::default()
    };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    for index in 0..4 {
        let queue = MessageQueue::new(topic.as_str(), "broker-a", index);
        producer.send_to(Select::queue(&queue), Message::new(&topic, "body")).await?;
    }
    inbox.has(4, SOON).await?;
    let failing = [&*group, &*topic, "commit fails"];
    logged(Level::WARN, &failing).await?;
    asked(cluster, COMMIT, 20).await?;
    logged_once(&failing)?;
    ensure!(has(&consumer.health(), ConditionKind::Commit), "{:?}", consumer.health());
    cluster.dev().clear_faults();
    logged(Level::INFO, &[&group, &topic, "commit succeeds again"]).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// A store that is down for a while.
#[derive(Clone, Debug, Default)]
struct Down {
    is_up: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Down {
    async fn answer<T>(&self, value: T) -> Result<T, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.is_up.load(Ordering::SeqCst) { Ok(value) } else { Err("the database is down".into()) }
    }
}

impl OffsetStore for Down {
    fn load<'a>(&'a self, _: &'a str, _: &'a MessageQueue) -> Storing<'a, Option<i64>> {
        Box::pin(self.answer(None))
    }

    fn save<'a>(&'a self, _: &'a str, _: &'a [(MessageQueue, i64)]) -> Storing<'a, ()> {
        Box::pin(self.answer(()))
    }
}

pub(crate) async fn an_offset_store_that_is_down_is_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let store = Down::default();
    let consumer = cluster.consumer(&group).offset_store(store.clone()).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let failing = [&*group, &*topic, "start offset fails"];
    logged(Level::WARN, &failing).await?;
    eventually(SOON, async || {
        ensure!(store.calls.load(Ordering::SeqCst) > 20, "asked {:?} times", store.calls);
        Ok(())
    })
    .await?;
    logged_once(&failing)?;
    logged_once(&[&group, &topic, "check the offset store"])?;
    store.is_up.store(true, Ordering::SeqCst);
    logged(Level::INFO, &[&group, &topic, "start offset succeeds again"]).await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn refused_heartbeats_are_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    cluster.dev().on(RequestCode::HEART_BEAT).answer(ResponseCode::SYSTEM_ERROR);
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let addr = cluster.dev().broker_addr("broker-a").unwrap_or_default();
    let failing = [&*addr, "heartbeat failed"];
    logged(Level::WARN, &failing).await?;
    asked(cluster, RequestCode::HEART_BEAT, 4).await?;
    logged_once(&failing)?;
    ensure!(has(&consumer.health(), ConditionKind::Heartbeat), "{:?}", consumer.health());
    cluster.dev().clear_faults();
    logged(Level::INFO, &[&addr, "accepts heartbeats again"]).await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn refused_pops_are_one_warning(cluster: &Cluster) -> Result<()> {
    const POP: RequestCode = RequestCode::POP_MESSAGE;
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    cluster.dev().on(POP).answer(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
    let config = PopConfig { long_poll: Duration::from_secs(1), ..Default::default() };
    let consumer = PopConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let consumer = consumer.subscribe(&topic, Filter::all()).start().await?;
    let receive = async || consumer.receive(1, Duration::from_secs(30)).await;
    for _ in 0..3 {
        ensure!(receive().await.is_err(), "no error");
    }
    logged_once(&[&group, &topic, "pop fails", "autoCreateSubscriptionGroup"])?;
    ensure!(has(&consumer.health(), ConditionKind::Pop), "{:?}", consumer.health());
    cluster.dev().clear_faults();
    ensure!(receive().await?.is_empty(), "messages from nowhere");
    logged(Level::INFO, &[&group, &topic, "pop succeeds again"]).await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn locks_that_fail_are_one_warning(cluster: &Cluster) -> Result<()> {
    const LOCK: RequestCode = RequestCode::LOCK_BATCH_MQ;
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    cluster.dev().on(LOCK).answer(ResponseCode::SYSTEM_ERROR);
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all());
    let consumer = consumer.ordered_listener(inbox.listener()).start().await?;
    let failing = [&*group, "broker-a", "queues cannot be locked"];
    logged(Level::WARN, &failing).await?;
    asked(cluster, LOCK, 6).await?;
    logged_once(&failing)?;
    ensure!(has(&consumer.health(), ConditionKind::Lock), "{:?}", consumer.health());
    cluster.dev().clear_faults();
    logged(Level::INFO, &[&group, "queues can be locked again"]).await?;
    Ok(consumer.shutdown().await?)
}

/// The broker creates no group by itself.
pub(crate) async fn a_group_that_does_not_exist_is_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let missing = [&*group, &*topic, "autoCreateSubscriptionGroup"];
    logged(Level::WARN, &missing).await?;
    ensure!(!consumer.health().is_ok(), "{:?}", consumer.health());
    cluster.create_group(&group, usize::MAX, true).await?;
    let producer = cluster.producer().await?;
    let receipt = producer.send(Message::new(&topic, "body")).await?;
    inbox.has_each_once([&receipt.message_id], SOON).await?;
    logged(Level::INFO, &[&group, &topic, "again"]).await?;
    // Brokers before 5.0 list members of groups they do not know, and refuse each pull: a warning for each broker.
    let warned = lines(Level::WARN, &missing);
    ensure!(warned.len() <= 2, "{warned:?}");
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_group_that_may_not_consume_is_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic_on(1, 4).await?, random_name("group"), Inbox::new());
    cluster.create_group(&group, usize::MAX, false).await?;
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let refused = [&*group, &*topic, "pull fails", "consumeEnable"];
    logged(Level::WARN, &refused).await?;
    cluster.create_group(&group, usize::MAX, true).await?;
    logged(Level::INFO, &[&group, &topic, "pull succeeds again"]).await?;
    logged_once(&refused)?;
    Ok(consumer.shutdown().await?)
}

/// The broker that sorts first does not know the group, and creates none by itself.
pub(crate) async fn a_group_that_one_broker_knows_is_consumed_there(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    cluster.create_group_at(&group, 1, true).await?;
    let consumer = cluster.consumer(&group).subscribe(&topic, Filter::all()).listener(inbox.listener()).start().await?;
    let producer = cluster.producer().await?;
    let queues = cluster.queues(&topic).await?;
    let last = queues.iter().map(|queue| queue.broker_name.clone()).max();
    let mut ids = BTreeSet::new();
    for queue in queues.iter().filter(|queue| Some(&queue.broker_name) == last.as_ref()) {
        for _ in 0..10 {
            ids.insert(producer.send_to(Select::queue(queue), Message::new(&topic, "body")).await?.message_id);
        }
    }
    inbox.has_each_once(&ids, SOON).await?;
    ensure!(ids.len() == 20, "{} messages", ids.len());
    logged(Level::WARN, &[&group, &topic, "pull fails", "autoCreateSubscriptionGroup"]).await?;
    match consumer.shutdown().await {
        // Nor does the first broker keep an offset of the group.
        Ok(()) | Err(rocketmq_consumer::Error::Unfinished { messages: 0, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(producer.shutdown().await?)
}

/// One member wants a tag that another one does not.
pub(crate) async fn unequal_subscriptions_are_one_warning(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let interval = Duration::from_millis(500);
    let config = PushConfig { rebalance_interval: interval, ..Default::default() };
    let join = |filter: &str| {
        let builder = cluster.consumer(&group).config(config.clone()).subscribe(&topic, Filter::tags(filter));
        builder.listener(inbox.listener()).start()
    };
    let first = join("eu").await?;
    let second = join("us || asia").await?;
    let unequal = [&*group, &*topic, "another member of the group has another filter"];
    logged(Level::WARN, &unequal).await?;
    logged_once(&[&group, &topic, "us || asia", "own=\"eu\"", second.client().id()])?;
    ensure!(has(&first.health(), ConditionKind::Subscription), "{:?}", first.health());
    ensure!(!has(&second.health(), ConditionKind::Subscription), "{:?}", second.health());
    first.subscribe(&topic, Filter::tags("asia || us")).await?;
    logged(Level::INFO, &[&group, &topic, "have the same filter"]).await?;
    logged_once(&unequal)?;
    first.shutdown().await?;
    Ok(second.shutdown().await?)
}

/// How many lines a client has logged since the scenario began: the addresses of a real cluster outlive a scenario.
fn logged_since(before: usize, level: Level, texts: &[&str]) -> Result<()> {
    let logged = lines(level, texts);
    ensure!(logged.len() == before + 1, "{} times at {level}, {before} before: {logged:?}", logged.len());
    Ok(())
}

/// A broker, and then the name server as well, cannot be reached for a while.
pub(crate) async fn servers_that_are_down_are_one_warning_each(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let client = ClientConfig { route_refresh_interval: Duration::from_millis(300), ..Default::default() };
    let config = PushConfig { start_at: StartAt::First, client, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    let queue = cluster.queues(&topic).await?.remove(0);
    let broker = consumer.client().master(&queue.broker_name)?;
    let name_server = cluster.name_server();
    let is_listed = |kind: ConditionKind, subject: &str| {
        let mut conditions = consumer.health().conditions.into_iter();
        conditions.any(|condition| condition.kind == kind && condition.subject.contains(subject))
    };
    eventually(SOON, async || {
        let health = consumer.health();
        ensure!(health.is_ok() && health.connected_brokers.contains(&broker), "{health:?}");
        Ok(())
    })
    .await?;
    let cannot_connect = [&*broker, "cannot connect, backing off"];
    let connected = [&*broker, "connected again"];
    let unanswered = [name_server, "no name server answers"];
    let answered = [name_server, "a name server answers again"];
    let warned = lines(Level::WARN, &cannot_connect).len();
    let warned_of_name_server = lines(Level::WARN, &unanswered).len();
    let told = lines(Level::INFO, &connected).len();
    let told_of_name_server = lines(Level::INFO, &answered).len();

    cluster.at("the broker is down");
    cluster.kill_broker().await?;
    eventually(SOON, async || {
        ensure!(is_listed(ConditionKind::Connect, &broker), "{:?}", consumer.health());
        logged_since(warned, Level::WARN, &cannot_connect)
    })
    .await?;
    ensure!(!consumer.health().connected_brokers.contains(&broker), "{:?}", consumer.health());

    cluster.at("the name server is down, too");
    cluster.kill_name_server().await?;
    eventually(SOON, async || {
        ensure!(is_listed(ConditionKind::NameServers, ""), "{:?}", consumer.health());
        ensure!(is_listed(ConditionKind::Connect, name_server), "{:?}", consumer.health());
        logged_since(warned_of_name_server, Level::WARN, &unanswered)
    })
    .await?;
    ensure!(is_listed(ConditionKind::Connect, &broker), "{:?}", consumer.health());

    cluster.at("both are back");
    cluster.start_name_server().await?;
    eventually(SOON, async || {
        ensure!(!is_listed(ConditionKind::NameServers, ""), "{:?}", consumer.health());
        logged_since(told_of_name_server, Level::INFO, &answered)
    })
    .await?;
    ensure!(is_listed(ConditionKind::Connect, &broker), "{:?}", consumer.health());
    cluster.start_broker().await?;
    eventually(SOON, async || {
        let health = consumer.health();
        ensure!(health.is_ok() && health.connected_brokers.contains(&broker), "{health:?}");
        logged_since(told, Level::INFO, &connected)
    })
    .await?;
    // Not again in all that time.
    logged_since(warned, Level::WARN, &cannot_connect)?;
    logged_since(warned_of_name_server, Level::WARN, &unanswered)?;
    Ok(consumer.shutdown().await?)
}
