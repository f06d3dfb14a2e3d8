//! Offsets in a store of the user's own.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::MessageQueue;
use rocketmq_consumer::{Filter, OffsetStore, PullConfig, PullConsumer, StartAt, Storing};
use std::{
    collections::BTreeMap,
    future::{pending, ready},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Keeps offsets in memory; a number of calls fail before others succeed, each in another way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    offsets: Arc<Mutex<BTreeMap<MessageQueue, i64>>>,
    group: Arc<Mutex<String>>,
    bad_loads: Arc<AtomicUsize>,
    bad_saves: Arc<AtomicUsize>,
    saves: Arc<AtomicUsize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How the next of some bad calls fails; `None` when there are none left.
fn next_failure(left: &AtomicUsize) -> Option<usize> {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()
}

async fn fail(how: usize) -> Result<(), rocketmq_consumer::StoreError> {
    match how % 3 {
        0 => Err("the database is away".into()),
        1 => panic!("{}", crate::trials::ON_PURPOSE),
        _ => pending().await,
    }
}

impl OffsetStore for Memory {
    fn load<'a>(&'a self, group: &'a str, queue: &'a MessageQueue) -> Storing<'a, Option<i64>> {
        Box::pin(async move {
            if let Some(how) = next_failure(&self.bad_loads) {
                fail(how).await?;
            }
            group.clone_into(&mut lock(&self.group));
            Ok(lock(&self.offsets).get(queue).copied())
        })
    }

    fn save<'a>(&'a self, _group: &'a str, offsets: &'a [(MessageQueue, i64)]) -> Storing<'a, ()> {
        Box::pin(async move {
            self.saves.fetch_add(1, Ordering::SeqCst);
            if let Some(how) = next_failure(&self.bad_saves) {
                fail(how).await?;
            }
            lock(&self.offsets).extend(offsets.iter().cloned());
            Ok(())
        })
    }
}

impl Memory {
    /// Waits until the offsets of a topic add up.
    async fn has(&self, topic: &str, sum: usize) -> Result<()> {
        eventually(SOON, async || {
            let offsets = lock(&self.offsets).clone();
            let there: i64 = offsets.iter().filter(|(queue, _)| *queue.topic == *topic).map(|(_, offset)| offset).sum();
            ensure!(there == i64::try_from(sum)?, "the offsets of {topic} add up to {there}, expected {sum}");
            Ok(())
        })
        .await
    }
}

pub(crate) async fn a_store_of_ones_own_takes_the_place_of_the_brokers(cluster: &Cluster) -> Result<()> {
    let producer = cluster.producer().await?;
    for ordered in [false, true] {
        let (topic, group, store) = (cluster.topic(4).await?, random_name("group"), Memory::default());
        let start = async |inbox: &Inbox| {
            let builder = cluster.consumer(&group).subscribe(&topic, Filter::all()).offset_store(store.clone());
            let listener = inbox.listener();
            let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
            builder.start().await
        };
        let (first, second) = (Inbox::new(), Inbox::new());
        let of_topic = topic.clone();
        let before = send_from(4, &producer, 80, move |index| varied(&of_topic, index)).await?;
        let consumer = start(&first).await?;
        first.has_each_once(before.keys(), SOON).await?;
        store.has(&topic, before.len()).await?;
        consumer.shutdown().await?;
        ensure!(*lock(&store.group) == group, "the store was asked about another group");
        ensure!(cluster.recorded(&group, &topic).await? == 0, "the brokers have offsets as well");
        cluster.at("goes on from there");
        let of_topic = topic.clone();
        let after = send_from(4, &producer, 40, move |index| varied(&of_topic, 100 + index)).await?;
        let consumer = start(&second).await?;
        second.has_each_once(after.keys(), SOON).await?;
        consumer.shutdown().await?;
        store.has(&topic, before.len() + after.len()).await?;
    }
    cluster.at("polled");
    let (topic, group, store, inbox) = (cluster.topic(2).await?, random_name("group"), Memory::default(), Inbox::new());
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 40, move |index| varied(&of_topic, index)).await?;
    let config = PullConfig { start_at: StartAt::First, auto_commit: false, ..Default::default() };
    let puller = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let puller = puller.subscribe(&topic, Filter::all()).offset_store(store.clone()).start().await?;
    eventually(SOON, async || {
        puller.poll(Duration::from_millis(200)).await?.into_iter().for_each(|message| inbox.keep(message));
        ensure!(inbox.len() == sent.len(), "{} messages polled", inbox.len());
        Ok(())
    })
    .await?;
    let saves = store.saves.load(Ordering::SeqCst);
    puller.commit().await?;
    store.has(&topic, sent.len()).await?;
    let calls = store.saves.load(Ordering::SeqCst) - saves;
    ensure!(calls == 1, "two queues were saved in {calls} calls");
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_store_that_fails_is_asked_again(cluster: &Cluster) -> Result<()> {
    crate::trials::quiet_panics();
    let (topic, group, store, inbox) = (cluster.topic(2).await?, random_name("group"), Memory::default(), Inbox::new());
    let producer = cluster.producer().await?;
    store.bad_loads.store(6, Ordering::SeqCst);
    store.bad_saves.store(6, Ordering::SeqCst);
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 40, move |index| varied(&of_topic, index)).await?;
    let client = rocketmq_common::ClientConfig { request_timeout: Duration::from_secs(1), ..Default::default() };
    let config = rocketmq_consumer::PushConfig { start_at: StartAt::First, client, ..Default::default() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.offset_store(store.clone()).listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    store.has(&topic, sent.len()).await?;
    ensure!(store.bad_loads.load(Ordering::SeqCst) == 0, "not all bad loads were tried");
    ensure!(store.bad_saves.load(Ordering::SeqCst) == 0, "not all bad saves were tried");
    cluster.at("a store that stays away");
    store.bad_saves.store(usize::MAX, Ordering::SeqCst);
    let of_topic = topic.clone();
    send_from(1, &producer, 10, move |index| varied(&of_topic, 100 + index)).await?;
    inbox.has(sent.len() + 10, SOON).await?;
    let end = consumer.shutdown().await;
    ensure!(
        matches!(end, Err(rocketmq_consumer::Error::Unfinished { messages: 0, queues: 1.., cause: Some(_) })),
        "offsets that were not saved are not reported: {end:?}"
    );
    Ok(producer.shutdown().await?)
}

/// As in a loop that selects between a commit and something else, and is long about that.
pub(crate) async fn a_commit_nobody_goes_on_with_holds_no_other_up(cluster: &Cluster) -> Result<()> {
    crate::trials::quiet_panics();
    let (topic, group, store) = (cluster.topic(1).await?, random_name("group"), Memory::default());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(1, &producer, 3, move |index| varied(&of_topic, index)).await?;
    let config = PullConfig { start_at: StartAt::First, auto_commit: false, ..Default::default() };
    let builder = PullConsumer::builder(&group).name_servers([cluster.name_server()]).config(config);
    let puller = builder.offset_store(store.clone()).subscribe(&topic, Filter::all()).start().await?;
    let mut polled = 0;
    while polled < sent.len() {
        polled += puller.poll(SOON).await?.len();
    }
    // The first does not end by itself.
    store.bad_saves.store(2, Ordering::SeqCst);
    let mut commit = pin!(puller.commit());
    tokio::select! {
        biased;
        committed = &mut commit => bail!("the commit came to {committed:?}"),
        () = ready(()) => {}
    }
    store.has(&topic, sent.len()).await?;
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}
