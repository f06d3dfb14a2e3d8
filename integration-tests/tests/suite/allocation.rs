//! By which strategy the members of a group share queues, who shares them out, and what is told of it.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    send::send_from,
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    ClientConfig, Message, MessageQueue,
    message::names::retry_topic,
    remote::{RequestCode, ResponseCode},
};
use rocketmq_consumer::{
    Allocate, AllocateError, AllocateStrategy, AssignmentChange, Filter, Members, PullConsumer, PushConfig,
    PushConsumer, StartAt, StoredMessage,
};
use rocketmq_integration_tests::real;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// The queues a member has of a topic, by their numbers.
pub(crate) fn owned(consumer: &PushConsumer, topic: &str) -> BTreeSet<i32> {
    consumer.assigned_queues().iter().filter(|queue| *queue.topic == *topic).map(|queue| queue.queue_id).collect()
}

/// The queues of each member that a strategy gives it, in the order of the ids.
pub(crate) fn by_strategy(
    strategy: &impl AllocateStrategy,
    ids: &[String],
    queues: &[MessageQueue],
) -> Result<Vec<BTreeSet<i32>>> {
    let mut sorted = ids.to_vec();
    sorted.sort_by(|one, other| one.encode_utf16().cmp(other.encode_utf16()));
    let share = |id: &String| {
        let share = strategy.allocate(&Members::new("group", id, &sorted), queues)?;
        Ok(share.iter().map(|queue| queue.queue_id).collect())
    };
    ids.iter().map(share).collect()
}

/// Waits until each member has the queues that a strategy gives it.
async fn are_shared_by(
    strategy: &impl AllocateStrategy,
    members: &[&PushConsumer],
    queues: &[MessageQueue],
) -> Result<()> {
    let ids: Vec<_> = members.iter().map(|member| member.client().id().to_string()).collect();
    let expected = by_strategy(strategy, &ids, queues)?;
    eventually(SOON, async || {
        let shares: Vec<_> = members.iter().map(|member| owned(member, &queues[0].topic)).collect();
        ensure!(shares == expected, "the shares are {shares:?}, expected {expected:?}");
        Ok(())
    })
    .await
}

/// Sends messages, which come exactly once, and, if it is told, to one of the inboxes alone.
async fn come_once(cluster: &Cluster, topic: &str, inboxes: &[&Inbox], whose: Option<usize>) -> Result<()> {
    let of_topic = topic.to_owned();
    let producer = cluster.producer().await?;
    let sent = send_from(4, &producer, 80, move |index| Message::new(&of_topic, index.to_string())).await?;
    producer.shutdown().await?;
    let came = |inbox: &Inbox| -> Vec<String> {
        let ids = inbox.messages().into_iter().map(|message| message.message_id().into_owned());
        ids.filter(|id| sent.contains_key(id)).collect()
    };
    eventually(SOON, async || {
        let count = inboxes.iter().map(|inbox| came(inbox).len()).sum::<usize>();
        ensure!(count >= sent.len(), "{count} of {} messages came", sent.len());
        Ok(())
    })
    .await?;
    let by_inbox: Vec<_> = inboxes.iter().map(|inbox| came(inbox).len()).collect();
    ensure!(by_inbox.iter().sum::<usize>() == sent.len(), "{} messages came {by_inbox:?} times", sent.len());
    if let Some(whose) = whose {
        ensure!(by_inbox[whose] == sent.len(), "the messages came to others, too: {by_inbox:?}");
    }
    Ok(())
}

/// The first queue belongs to the member that comes first, the others to the one that comes last.
struct Uneven;

impl AllocateStrategy for Uneven {
    fn name(&self) -> &str {
        "UNEVEN"
    }

    fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError> {
        let (first, others) = queues.split_at(queues.len().min(1));
        let mut own = Vec::new();
        if members.index() == Some(0) {
            own.extend_from_slice(first);
        }
        if members.ids().last().is_some_and(|id| id == members.own_id()) {
            own.extend_from_slice(others);
        }
        Ok(own)
    }
}

pub(crate) async fn a_strategy_of_ones_own_decides(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let queues = cluster.queues(&topic).await?;
    let (mut members, mut inboxes) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let inbox = Inbox::new();
        let member = cluster.consumer(&group).subscribe(&topic, Filter::all()).allocate(Uneven);
        members.push(member.listener(inbox.listener()).start().await?);
        inboxes.push(inbox);
    }
    // No other strategy comes to these shares, not even while the members do not know each other yet.
    are_shared_by(&Uneven, &[&members[0], &members[1]], &queues).await?;
    come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]], None).await?;
    cluster.at("the first one leaves");
    let first = usize::from(members[0].client().id() > members[1].client().id());
    members[first].shutdown().await?;
    let other = &members[1 - first];
    are_shared_by(&Uneven, &[other], &queues).await?;
    come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]], Some(1 - first)).await?;
    Ok(other.shutdown().await?)
}

/// The average one, until it is told to do something else.
#[derive(Clone, Default)]
struct Moody(Arc<Mood>);

#[derive(Default)]
struct Mood {
    now: Mutex<&'static str>,
    /// How often it was asked for the share of each member, since the mood changed.
    asked: Mutex<BTreeMap<String, usize>>,
}

impl Moody {
    fn change(&self, mood: &'static str) {
        *locked(&self.0.now) = mood;
        locked(&self.0.asked).clear();
    }

    /// Waits until it was asked for every topic of two members, twice.
    async fn was_asked(&self, members: usize) -> Result<()> {
        eventually(SOON, async || {
            let asked = locked(&self.0.asked);
            ensure!(asked.len() == members && asked.values().all(|times| *times >= 4), "it was asked {asked:?}");
            Ok(())
        })
        .await
    }
}

impl AllocateStrategy for Moody {
    fn name(&self) -> &str {
        "MOODY"
    }

    fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError> {
        *locked(&self.0.asked).entry(members.own_id().to_owned()).or_default() += 1;
        let mood = *locked(&self.0.now);
        match mood {
            "fails" => Err(AllocateError::Failed("on purpose".to_owned())),
            "panics" => panic!("{ON_PURPOSE}"),
            "invents" => Ok(vec![queues[0].clone(), MessageQueue { queue_id: 99, ..queues[0].clone() }]),
            _ => Allocate::average().allocate(members, queues),
        }
    }
}

pub(crate) async fn a_strategy_that_fails_changes_nothing(cluster: &Cluster) -> Result<()> {
    let (topic, group, strategy) = (cluster.topic(4).await?, random_name("group"), Moody::default());
    let queues = cluster.queues(&topic).await?;
    let (of_one, of_two) = (Inbox::new(), Inbox::new());
    let member = |inbox: &Inbox| {
        let builder = cluster.consumer(&group).subscribe(&topic, Filter::all()).allocate(strategy.clone());
        builder.listener(inbox.listener()).start()
    };
    let one = member(&of_one).await?;
    are_shared_by(&Allocate::average(), &[&one], &queues).await?;
    let mut two = None;
    for mood in ["fails", "panics", "invents"] {
        cluster.at(mood);
        strategy.change(mood);
        let two = match &two {
            Some(two) => two,
            None => two.insert(member(&of_two).await?),
        };
        strategy.was_asked(2).await?;
        let shares = [owned(&one, &topic), owned(two, &topic)];
        ensure!(shares == [(0..4).collect(), BTreeSet::new()], "it {mood}, and the shares are {shares:?}");
        come_once(cluster, &topic, &[&of_one, &of_two], Some(0)).await?;
    }
    cluster.at("it is well again");
    strategy.change("");
    let two = two.context("no second member")?;
    are_shared_by(&Allocate::average(), &[&one, &two], &queues).await?;
    come_once(cluster, &topic, &[&of_one, &of_two], None).await?;
    two.shutdown().await?;
    Ok(one.shutdown().await?)
}

pub(crate) async fn fixed_queues_belong_to_who_names_them(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let queues = cluster.queues(&topic).await?;
    let failed = Arc::new(Mutex::new(BTreeSet::new()));
    let (mut members, mut inboxes) = (Vec::new(), Vec::new());
    for own in [&queues[..3], &queues[3..]] {
        let inbox = Inbox::new();
        let (kept, failed) = (inbox.clone(), failed.clone());
        let listener = move |message: StoredMessage| {
            let fails = locked(&failed).insert(message.body().clone());
            if !fails {
                kept.keep(message);
            }
            std::future::ready(if fails { Err("the first time") } else { Ok(()) })
        };
        let strategy = Allocate::fixed(own.iter().cloned());
        let builder = cluster.consumer(&group).subscribe(&topic, Filter::all()).allocate(strategy);
        members.push(builder.listener(listener).start().await?);
        inboxes.push(inbox);
    }
    eventually(SOON, async || {
        let shares: Vec<_> = members.iter().map(|member| owned(member, &topic)).collect();
        ensure!(shares == [BTreeSet::from([0, 1, 2]), BTreeSet::from([3])], "the shares are {shares:?}");
        let retries: usize = members.iter().map(|member| owned(member, &retry_topic(&group)).len()).sum();
        ensure!(retries == 1, "{retries} queues of the retry topic have an owner");
        Ok(())
    })
    .await?;
    cluster.at("messages that fail once");
    let of_topic = topic.clone();
    let producer = cluster.producer().await?;
    let sent = send_from(1, &producer, 8, move |index| Message::new(&of_topic, index.to_string())).await?;
    eventually(SOON * 2, async || {
        let done: BTreeSet<_> = inboxes.iter().flat_map(Inbox::ids).collect();
        ensure!(done.len() == sent.len(), "{} of {} messages came again", done.len(), sent.len());
        Ok(())
    })
    .await?;
    for member in members {
        member.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn three_members_share_by_circle(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(8).await?, random_name("group"));
    let queues = cluster.queues(&topic).await?;
    let (mut members, mut inboxes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let inbox = Inbox::new();
        let builder = cluster.consumer(&group).subscribe(&topic, Filter::all()).allocate(Allocate::by_circle());
        members.push(builder.listener(inbox.listener()).start().await?);
        inboxes.push(inbox);
    }
    are_shared_by(&Allocate::by_circle(), &members.iter().collect::<Vec<_>>(), &queues).await?;
    let mut shares: Vec<_> = members.iter().map(|member| owned(member, &topic)).collect();
    shares.sort();
    ensure!(shares == [[0, 3, 6].into(), [1, 4, 7].into(), BTreeSet::from([2, 5])], "the shares are {shares:?}");
    come_once(cluster, &topic, &inboxes.iter().collect::<Vec<_>>(), None).await?;
    for member in members {
        member.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn pullers_share_by_a_strategy_too(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(5).await?, random_name("group"));
    let told: Arc<Mutex<Vec<AssignmentChange>>> = Arc::default();
    let mut pullers = Vec::new();
    for _ in 0..2 {
        let told = told.clone();
        let builder = PullConsumer::builder(&group).name_servers([cluster.name_server()]);
        let builder = builder.subscribe(&topic, Filter::all()).allocate(Allocate::by_circle());
        pullers.push(builder.on_assignment(move |change| locked(&told).push(change.clone())).start().await?);
    }
    eventually(SOON, async || {
        let numbers = |puller: &PullConsumer| -> BTreeSet<i32> {
            let own = puller.assigned_queues().into_iter().filter(|queue| *queue.topic == *topic);
            own.map(|queue| queue.queue_id).collect()
        };
        let mut shares: Vec<_> = pullers.iter().map(numbers).collect();
        shares.sort();
        ensure!(shares == [BTreeSet::from([0, 2, 4]), BTreeSet::from([1, 3])], "the shares are {shares:?}");
        let last: Vec<_> = locked(&told).iter().map(|change| change.own.len()).collect();
        ensure!(last.contains(&2) && last.contains(&3), "they were told of {last:?} queues");
        Ok(())
    })
    .await?;
    for puller in pullers {
        puller.shutdown().await?;
    }
    Ok(())
}

/// What members have been told, and whether it adds up.
fn expect_whole(changes: &[AssignmentChange], queues: &BTreeSet<MessageQueue>, topic: &str) -> Result<()> {
    let mut own = BTreeSet::new();
    let of_topic: Vec<_> = changes.iter().filter(|change| *change.topic == *topic).collect();
    ensure!(!of_topic.is_empty(), "nothing was told of {topic}, but {changes:?}");
    for change in of_topic {
        ensure!(change.all.iter().eq(queues), "all queues are {queues:?}, told were {:?}", change.all);
        for queue in &change.given_up {
            ensure!(own.remove(queue), "given up, and was not there: {queue}; {changes:?}");
        }
        for queue in &change.taken {
            ensure!(own.insert(queue.clone()), "taken, and was there: {queue}; {changes:?}");
        }
        ensure!(change.own.iter().eq(&own), "the queues should be {own:?}: {change:?}");
    }
    Ok(())
}

pub(crate) async fn changes_of_assignments_are_told(cluster: &Cluster) -> Result<()> {
    // As the user names them, whatever the wire does.
    let (namespace, topic, group) = (random_name("tenant"), random_name("topic"), random_name("group"));
    cluster.create_topic(&format!("{namespace}%{topic}"), 1, 4).await?;
    let client = ClientConfig { namespace: Some(namespace), ..Default::default() };
    let config = PushConfig { start_at: StartAt::First, client, ..Default::default() };
    let told: [Arc<Mutex<Vec<AssignmentChange>>>; 2] = Default::default();
    let member = |told: &Arc<Mutex<Vec<AssignmentChange>>>, other: &str| {
        let told = told.clone();
        let builder = cluster.consumer(&group).config(config.clone()).subscribe(&topic, Filter::all());
        let builder = builder.subscribe(other, Filter::all()).on_assignment(move |change| {
            locked(&told).push(change.clone());
            panic!("{ON_PURPOSE}");
        });
        builder.listener(Inbox::new().listener()).start()
    };
    let has = async |member: &PushConsumer, count: usize| {
        eventually(SOON, async || match owned(member, &topic).len() {
            len if len == count => Ok(()),
            len => bail!("{len} queues, expected {count}"),
        })
        .await
    };
    let other = random_name("other");
    let one = member(&told[0], &other).await?;
    has(&one, 4).await?;
    let queues: BTreeSet<_> = one.assigned_queues().into_iter().filter(|queue| *queue.topic == *topic).collect();
    cluster.at("a second member");
    let two = member(&told[1], &other).await?;
    has(&one, 2).await?;
    has(&two, 2).await?;
    cluster.at("the second one leaves");
    two.shutdown().await?;
    has(&one, 4).await?;
    cluster.at("unsubscribed");
    one.unsubscribe(&topic).await?;
    eventually(SOON, async || {
        for told in &told {
            expect_whole(&locked(told), &queues, &topic)?;
        }
        let of_one = locked(&told[0]).clone();
        let last = of_one.iter().rev().find(|change| *change.topic == *topic).context("nothing was told")?;
        ensure!(last.own.is_empty() && last.given_up.len() == 4, "the last was {last:?}");
        let of_retry_topic = of_one.iter().filter(|change| *change.topic == *retry_topic(&group));
        ensure!(of_retry_topic.clone().count() > 0, "nothing was told of the retry topic: {of_one:?}");
        Ok(())
    })
    .await?;
    Ok(one.shutdown().await?)
}

/// A strategy by the name of another one, which counts how often it is asked.
#[derive(Clone)]
struct Counted {
    like: Allocate,
    asked: Arc<AtomicUsize>,
}

impl Counted {
    fn like(like: Allocate) -> Self {
        Self { like, asked: Arc::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl AllocateStrategy for Counted {
    fn name(&self) -> &str {
        self.like.name()
    }

    fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.like.allocate(members, queues)
    }
}

/// Two members that have brokers share the queues out, and look often.
async fn two_by_broker(
    cluster: &Cluster,
    (topic, group): (&str, &str),
    strategy: &Counted,
    ordered: bool,
) -> Result<([PushConsumer; 2], [Inbox; 2])> {
    let inboxes = [Inbox::new(), Inbox::new()];
    let member = |inbox: &Inbox| {
        let rebalance_interval = Duration::from_millis(200);
        let config = PushConfig { start_at: StartAt::First, rebalance_interval, ..Default::default() };
        let builder = cluster.consumer(group).config(config).subscribe(topic, Filter::all());
        let builder = builder.allocate(strategy.clone()).allocate_by_broker();
        match ordered {
            true => builder.ordered_listener(inbox.listener()).start(),
            false => builder.listener(inbox.listener()).start(),
        }
    };
    Ok(([member(&inboxes[0]).await?, member(&inboxes[1]).await?], inboxes))
}

pub(crate) async fn brokers_share_queues_out(cluster: &Cluster) -> Result<()> {
    for like in [Allocate::by_circle(), Allocate::average()] {
        let (topic, group) = (cluster.topic(5).await?, random_name("group"));
        let (queues, strategy) = (cluster.queues(&topic).await?, Counted::like(like.clone()));
        let ([one, two], inboxes) = two_by_broker(cluster, (&topic, &group), &strategy, false).await?;
        are_shared_by(&like, &[&one, &two], &queues).await?;
        come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]], None).await?;
        cluster.at("one leaves");
        one.shutdown().await?;
        are_shared_by(&like, &[&two], &queues).await?;
        come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]], Some(1)).await?;
        // Only the broker can have shared them out.
        ensure!(strategy.asked() == 0, "the strategy of the members was asked {} times", strategy.asked());
        two.shutdown().await?;
    }
    if !cluster.is_real() {
        ensure!(cluster.dev().received(RequestCode::QUERY_ASSIGNMENT) > 0, "no broker was asked");
        let asked = cluster.dev().received(RequestCode::GET_CONSUMER_LIST_BY_GROUP);
        ensure!(asked == 0, "the members were asked for {asked} times");
    }
    Ok(())
}

pub(crate) async fn what_brokers_cannot_share_out_the_members_do(cluster: &Cluster) -> Result<()> {
    let mut strategies = vec![(Allocate::consistent_hash(10), false), (Allocate::average(), true)];
    if !cluster.is_real() {
        let rule = cluster.dev().on(RequestCode::QUERY_ASSIGNMENT);
        rule.answer(ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    }
    if !cluster.is_real() || real::version().starts_with("4.") {
        strategies.push((Allocate::average(), false));
    }
    for (like, ordered) in strategies {
        let (topic, group) = (cluster.topic(6).await?, random_name("group"));
        let (queues, strategy) = (cluster.queues(&topic).await?, Counted::like(like.clone()));
        let ([one, two], inboxes) = two_by_broker(cluster, (&topic, &group), &strategy, ordered).await?;
        are_shared_by(&like, &[&one, &two], &queues).await?;
        come_once(cluster, &topic, &[&inboxes[0], &inboxes[1]], None).await?;
        ensure!(strategy.asked() > 0, "the strategy of the members was never asked");
        one.shutdown().await?;
        two.shutdown().await?;
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
