//! Pull consumers.

use crate::{
    cluster::{Cluster, random_name},
    control::dropped_half_way,
    inbox::Inbox,
    operators,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{ClientConfig, Message, MessageQueue, StoredMessage};
use rocketmq_consumer::{Error, Filter, Position, PullConfig, PullConsumer, PullConsumerBuilder, PullStatus, StartAt};
use rocketmq_producer::{Producer, Select};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    pin::pin,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, sleep, timeout};

pub(crate) fn first() -> PullConfig {
    PullConfig { start_at: StartAt::First, ..Default::default() }
}

/// One whose user says how far the group is.
pub(crate) fn by_hand() -> PullConfig {
    PullConfig { auto_commit: false, ..first() }
}

pub(crate) fn puller(cluster: &Cluster, group: &str, config: PullConfig) -> PullConsumerBuilder {
    PullConsumer::builder(group).name_servers([cluster.name_server()]).config(config)
}

/// Polls until so many messages have come.
pub(crate) async fn take(puller: &PullConsumer, count: usize) -> Result<Vec<StoredMessage>> {
    let mut taken = Vec::new();
    let deadline = Instant::now() + SOON;
    while taken.len() < count {
        ensure!(Instant::now() < deadline, "{} of {count} messages polled", taken.len());
        taken.extend(puller.poll(Duration::from_millis(500)).await?);
    }
    Ok(taken)
}

/// Fails if anything more comes.
pub(crate) async fn expect_nothing(puller: &PullConsumer) -> Result<()> {
    let more = puller.poll(Duration::from_secs(1)).await?;
    let bodies: Vec<_> = more.iter().map(|message| message.body().clone()).collect();
    ensure!(more.is_empty(), "{} messages came, none was expected: {bodies:?}", more.len());
    Ok(())
}

/// Sends numbered messages to one queue.
pub(crate) async fn send_numbers(
    producer: &Producer,
    queue: &MessageQueue,
    numbers: std::ops::Range<usize>,
) -> Result<()> {
    for number in numbers {
        let message = Message::new(&*queue.topic, format!("{number}"));
        producer.send_to(Select::queue(queue), message).await?;
    }
    Ok(())
}

pub(crate) fn numbers(messages: &[StoredMessage]) -> Result<Vec<usize>> {
    messages.iter().map(|message| Ok(std::str::from_utf8(message.body())?.parse()?)).collect()
}

/// The numbers in a row.
pub(crate) fn row(numbers: std::ops::Range<usize>) -> Vec<usize> {
    numbers.collect()
}

async fn expect_assigned(puller: &PullConsumer, count: usize) -> Result<()> {
    eventually(SOON, async || {
        let assigned = puller.assigned_queues().len();
        ensure!(assigned == count, "{assigned} of {count} queues assigned");
        Ok(())
    })
    .await
}

pub(crate) async fn polls_share_a_topic_out_and_bring_each_message_once(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 300, move |index| varied(&of_topic, index)).await?;
    let subscribed = || puller(cluster, &group, first()).subscribe(&topic, Filter::all());
    let (one, other) = (subscribed().start().await?, subscribed().start().await?);
    let two = [&one, &other];
    cluster.at("shared out");
    eventually(SOON, async || {
        let counts = two.map(|puller| puller.assigned_queues().len());
        ensure!(counts == [2, 2], "the members have {counts:?} queues");
        Ok(())
    })
    .await?;
    let shared: BTreeSet<_> = two.iter().flat_map(|puller| puller.assigned_queues()).collect();
    ensure!(shared.len() == 4 && shared.iter().all(|queue| *queue.topic == *topic), "they share {shared:?}");
    cluster.at("polled");
    let mut last: BTreeMap<MessageQueue, i64> = BTreeMap::new();
    let deadline = Instant::now() + SOON;
    while inbox.len() < sent.len() && Instant::now() < deadline {
        for puller in two {
            let polled = puller.poll(Duration::from_millis(100)).await?;
            ensure!(polled.len() <= 32, "{} messages in one poll", polled.len());
            for message in polled {
                let before = last.insert(message.queue(), message.queue_offset());
                ensure!(before.is_none_or(|before| before < message.queue_offset()), "not in the order of the queue");
                inbox.keep(message);
            }
        }
    }
    inbox.has_each_once(sent.keys(), Duration::ZERO).await?;
    crate::parcel::expect_all_same(&sent, &inbox.messages())?;
    // What the last polls answered is done with the next ones.
    for puller in two {
        expect_nothing(puller).await?;
    }
    cluster.expect_recorded(&group, &topic, sent.len()).await?;
    cluster.at("one goes");
    one.shutdown().await?;
    ensure!(matches!(one.poll(SOON).await, Err(Error::ShutDown)), "polled after the end");
    expect_assigned(&other, 4).await?;
    other.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_the_last_poll_answered_is_done_with_the_next_one(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queue = cluster.queues(&topic).await?.pop().context("no queue")?;
    send_numbers(&producer, &queue, 0..20).await?;
    let start = async || {
        let config = PullConfig { pull_batch: 5, ..first() };
        puller(cluster, &group, config).subscribe(&topic, Filter::all()).start().await
    };
    let one = start().await?;
    let mut polled = Vec::new();
    while polled.len() < 10 {
        polled.extend(numbers(&one.poll(SOON).await?)?);
    }
    let last = numbers(&one.poll(SOON).await?)?;
    let next = last.last().context("nothing polled")? + 1;
    ensure!(one.position(&queue)? == Some(i64::try_from(next)?), "the position is not behind the last poll");
    one.shutdown().await?;
    let begun = polled.len();
    cluster.expect_recorded(&group, &topic, begun).await?;
    cluster.at("it comes again");
    let other = start().await?;
    let again = numbers(&take(&other, 20 - begun).await?)?;
    ensure!(again == row(begun..20), "after {polled:?} and {last:?} without an end there came {again:?}");
    // A commit says so without a next poll.
    other.commit().await?;
    cluster.expect_recorded(&group, &topic, 20).await?;
    other.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn who_commits_by_hand_says_how_far_the_group_is(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queue = cluster.queues(&topic).await?.pop().context("no queue")?;
    send_numbers(&producer, &queue, 0..30).await?;
    let start = async || puller(cluster, &group, by_hand()).subscribe(&topic, Filter::all()).start().await;
    let one = start().await?;
    let polled = numbers(&take(&one, 30).await?)?;
    ensure!(polled == row(0..30), "polled {polled:?}");
    // Several times as long as offsets take to be recorded by themselves.
    sleep(Duration::from_secs(3)).await;
    expect_nothing(&one).await?;
    let recorded = cluster.recorded(&group, &topic).await?;
    ensure!(recorded == 0, "{recorded} is recorded, and nobody said so");
    cluster.at("offsets of one's choice");
    one.commit_offsets([(queue.clone(), 12)]).await?;
    ensure!(one.committed(&queue).await? == Some(12), "12 is not committed");
    ensure!(one.position(&queue)? == Some(30), "a commit moved the position");
    ensure!(
        matches!(one.commit_offsets([(queue.clone(), -1)]).await, Err(Error::OffsetOutOfRange { .. })),
        "an offset below 0 is committed"
    );
    one.shutdown().await?;
    cluster.at("again from there");
    let other = start().await?;
    let again = numbers(&take(&other, 18).await?)?;
    ensure!(again == row(12..30), "there came {again:?}");
    other.commit().await?;
    ensure!(other.committed(&queue).await? == Some(30), "30 is not committed");
    other.shutdown().await?;
    cluster.at("all done");
    let last = start().await?;
    expect_assigned(&last, 1).await?;
    expect_nothing(&last).await?;
    let automatic = puller(cluster, &group, first()).subscribe(&topic, Filter::all()).start().await?;
    ensure!(
        matches!(automatic.commit_offsets([(queue, 1)]).await, Err(Error::Client(_))),
        "offsets of one's choice beside those of the polls"
    );
    automatic.shutdown().await?;
    last.shutdown().await?;
    ensure!(matches!(last.commit().await, Err(Error::ShutDown)), "committed after the end");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_operator_moves_who_commits_by_hand(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queue = cluster.queues(&topic).await?.pop().context("no queue")?;
    send_numbers(&producer, &queue, 0..10).await?;
    let config = PullConfig { long_poll: Duration::from_secs(1), ..by_hand() };
    let consumer = puller(cluster, &group, config).subscribe(&topic, Filter::all()).start().await?;
    take(&consumer, 10).await?;
    consumer.commit().await?;
    ensure!(consumer.committed(&queue).await? == Some(10), "10 is not committed");
    operators::reset(cluster, &topic, &group, 0).await?;
    let again = numbers(&take(&consumer, 10).await?)?;
    ensure!(again == row(0..10), "there came {again:?}");
    eventually(SOON, async || {
        let committed = consumer.committed(&queue).await?;
        ensure!(committed == Some(0), "{committed:?} is committed");
        Ok(())
    })
    .await?;
    // What it records then is what it was told.
    consumer.shutdown().await?;
    let recorded = cluster.recorded(&group, &topic).await?;
    ensure!(recorded == 0, "{recorded} is recorded");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_seek_goes_on_where_it_is_told(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queue = cluster.queues(&topic).await?.pop().context("no queue")?;
    send_numbers(&producer, &queue, 0..40).await?;
    let config = PullConfig { pull_batch: 8, ..by_hand() };
    let puller = puller(cluster, &group, config).subscribe(&topic, Filter::all()).start().await?;
    let polled = take(&puller, 16).await?;
    ensure!(numbers(&polled)? == row(0..16), "polled {:?}", numbers(&polled)?);
    // More has been fetched ahead than was polled.
    puller.commit().await?;
    ensure!(puller.committed(&queue).await? == Some(16), "{:?} is committed", puller.committed(&queue).await?);
    let seek = async |to: Position, from: usize| {
        // More has been fetched ahead, which must not be answered.
        puller.seek(&queue, to).await?;
        let polled = numbers(&take(&puller, 40 - from).await?)?;
        ensure!(polled == row(from..40), "after {to:?} there came {polled:?}");
        expect_nothing(&puller).await
    };
    cluster.at("to an offset");
    seek(Position::Offset(33), 33).await?;
    cluster.at("back");
    seek(Position::Offset(3), 3).await?;
    cluster.at("to the begin");
    seek(Position::Begin, 0).await?;
    cluster.at("to the end");
    seek(Position::End, 40).await?;
    ensure!(puller.position(&queue)? == Some(40), "the position is {:?}", puller.position(&queue)?);
    cluster.at("to a moment");
    let moment = polled.get(10).context("nothing polled")?.store_timestamp();
    // Others may have been stored in the same millisecond, and 4.9.7 answers the one that is closest.
    let expected = usize::try_from(puller.offset_at(&queue, moment).await?)?;
    ensure!((1..=10).contains(&expected) || cluster.is_real(), "the moment of message 10 leads to {expected}");
    seek(Position::Timestamp(moment), expected).await?;
    let later = SystemTime::now() + Duration::from_secs(3600);
    let expected = usize::try_from(puller.offset_at(&queue, later).await?)?;
    ensure!(expected == 40 || (cluster.is_real() && expected == 39), "a moment to come leads to {expected}");
    seek(Position::Timestamp(later), expected).await?;
    cluster.at("a commit after it");
    puller.seek(&queue, Position::Offset(7)).await?;
    puller.commit().await?;
    ensure!(puller.committed(&queue).await? == Some(7), "{:?} is committed", puller.committed(&queue).await?);
    cluster.at("nowhere");
    for offset in [-1, 41, i64::MAX] {
        match puller.seek(&queue, Position::Offset(offset)).await {
            Err(Error::OffsetOutOfRange { offset: told, min: 0, max: 40, .. }) => {
                ensure!(told == offset, "told is {told}");
            }
            other => anyhow::bail!("a seek to {offset} ends with {other:?}"),
        }
    }
    let stranger = MessageQueue::new(&*topic, &*queue.broker_name, 1);
    let elsewhere = puller.seek(&stranger, Position::Begin).await;
    ensure!(matches!(&elsewhere, Err(Error::NotAssigned { queue }) if *queue == stranger), "{elsewhere:?}");
    let polled = numbers(&take(&puller, 33).await?)?;
    ensure!(polled == row(7..40), "after seeks to nowhere there came {polled:?}");
    puller.shutdown().await?;
    ensure!(matches!(puller.seek(&queue, Position::Begin).await, Err(Error::ShutDown)), "sought after the end");
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_paused_queue_waits_while_the_others_go_on(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queues = cluster.queues(&topic).await?;
    let [paused, other] = &queues[..] else { anyhow::bail!("{} queues", queues.len()) };
    let puller = puller(cluster, &group, first()).subscribe(&topic, Filter::all()).start().await?;
    expect_assigned(&puller, 2).await?;
    send_numbers(&producer, paused, 0..10).await?;
    ensure!(numbers(&take(&puller, 10).await?)? == row(0..10), "the first messages");
    cluster.at("paused");
    // Fetched before, answered by no poll yet.
    send_numbers(&producer, paused, 10..20).await?;
    send_numbers(&producer, other, 0..1).await?;
    puller.pause(std::slice::from_ref(paused))?;
    send_numbers(&producer, paused, 20..30).await?;
    send_numbers(&producer, other, 1..30).await?;
    let polled = take(&puller, 30).await?;
    ensure!(polled.iter().all(|message| message.queue() == *other), "a paused queue was polled");
    ensure!(numbers(&polled)? == row(0..30), "polled {:?}", numbers(&polled)?);
    expect_nothing(&puller).await?;
    cluster.at("resumed");
    puller.resume(std::slice::from_ref(paused))?;
    let polled = numbers(&take(&puller, 20).await?)?;
    ensure!(polled == row(10..30), "after the pause there came {polled:?}");
    let stranger = MessageQueue::new(&*topic, &*paused.broker_name, 9);
    let refused = puller.pause(&[paused.clone(), stranger]);
    ensure!(matches!(refused, Err(Error::NotAssigned { .. })), "paused: {refused:?}");
    send_numbers(&producer, paused, 30..31).await?;
    ensure!(numbers(&take(&puller, 1).await?)? == [30], "a pause that was refused holds");
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn queues_of_ones_choice_are_shared_with_nobody(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queues = cluster.queues(&topic).await?;
    let [zero, one] = &queues[..] else { anyhow::bail!("{} queues", queues.len()) };
    send_numbers(&producer, zero, 0..10).await?;
    send_numbers(&producer, one, 100..110).await?;
    let assigned = || puller(cluster, &group, by_hand()).assign([zero.clone()]);
    let (a, b) = (assigned().start().await?, assigned().start().await?);
    for puller in [&a, &b] {
        ensure!(numbers(&take(puller, 10).await?)? == row(0..10), "not the messages of the one queue");
        expect_nothing(puller).await?;
    }
    let members = cluster.client().await?.consumer_list(&group.as_str().into(), &topic.as_str().into()).await?;
    ensure!(members.is_empty(), "{members:?} are in the group");
    ensure!(a.topic_queues(&topic).await? == queues, "the queues to choose from are others");
    cluster.at("others");
    a.assign([one.clone()]).await?;
    ensure!(a.assigned_queues() == [one.clone()], "assigned are {:?}", a.assigned_queues());
    ensure!(numbers(&take(&a, 10).await?)? == row(100..110), "not the messages of the other queue");
    a.assign(queues.clone()).await?;
    a.seek(zero, Position::Offset(8)).await?;
    ensure!(numbers(&take(&a, 2).await?)? == [8, 9], "not the messages sought");
    // The one that stayed goes on where it was.
    expect_nothing(&a).await?;
    a.commit().await?;
    cluster.expect_recorded(&group, &topic, 20).await?;
    ensure!(matches!(a.subscribe(&topic, Filter::all()).await, Err(Error::SubscribedAndAssigned)), "subscribed, too");
    ensure!(matches!(a.unsubscribe(&topic).await, Err(Error::SubscribedAndAssigned)), "unsubscribed");
    cluster.at("with a filter");
    let tagged = Message::new(&topic, "200").tag("eu");
    producer.send_to(Select::queue(one), tagged).await?;
    let filtered = puller(cluster, &group, by_hand()).assign([one.clone()]).assign_filter(&topic, Filter::tags("eu"));
    let filtered = filtered.start().await?;
    filtered.seek(one, Position::Begin).await?;
    ensure!(numbers(&take(&filtered, 1).await?)? == [200], "not the message with the tag");
    expect_nothing(&filtered).await?;
    cluster.at("refused");
    let both = puller(cluster, &group, first()).subscribe(&topic, Filter::all()).assign([zero.clone()]).start().await;
    ensure!(matches!(both, Err(Error::SubscribedAndAssigned)), "{both:?}");
    let neither = puller(cluster, &group, first()).start().await;
    ensure!(matches!(neither, Err(Error::NoSubscription)), "{neither:?}");
    let shared = puller(cluster, &random_name("group"), first()).subscribe(&topic, Filter::all()).start().await?;
    ensure!(matches!(shared.assign([zero.clone()]).await, Err(Error::SubscribedAndAssigned)), "assigned, too");
    for puller in [a, b, filtered, shared] {
        puller.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn an_assignment_that_is_dropped_half_way_holds(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queues = cluster.queues(&topic).await?;
    let [zero, one] = &queues[..] else { anyhow::bail!("{} queues", queues.len()) };
    send_numbers(&producer, zero, 0..10).await?;
    send_numbers(&producer, one, 100..110).await?;
    let puller = puller(cluster, &group, first()).assign([one.clone()]).start().await?;
    ensure!(numbers(&take(&puller, 10).await?)? == row(100..110), "not the messages of the one queue");

    cluster.at("a queue comes");
    dropped_half_way(puller.assign(queues.clone())).await?;
    ensure!(numbers(&take(&puller, 10).await?)? == row(0..10), "not the messages of the other queue");

    cluster.at("a queue goes");
    dropped_half_way(puller.assign([one.clone()])).await?;
    // What was polled last is done with this poll.
    expect_nothing(&puller).await?;
    eventually(SOON, async || {
        let assigned = puller.assigned_queues();
        ensure!(assigned == [one.clone()], "assigned are {assigned:?}");
        Ok(())
    })
    .await?;

    cluster.at("it is back");
    send_numbers(&producer, zero, 10..20).await?;
    puller.assign(queues.clone()).await?;
    ensure!(numbers(&take(&puller, 10).await?)? == row(10..20), "not the next messages of the queue");
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_single_pull_changes_nothing(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let queue = cluster.queues(&topic).await?.pop().context("no queue")?;
    for number in 0..10 {
        let message = Message::new(&topic, format!("{number}")).tag(if number < 5 { "low" } else { "high" });
        producer.send(message).await?;
    }
    let puller = puller(cluster, &group, by_hand()).subscribe(&topic, Filter::tags("high")).start().await?;
    eventually(SOON, async || {
        let max = puller.max_offset(&queue).await?;
        ensure!(max == 10, "the queue ends at {max}");
        Ok(())
    })
    .await?;
    ensure!(puller.min_offset(&queue).await? == 0, "the queue does not begin at 0");
    let found = puller.pull(&queue, 6, 2, Duration::ZERO).await?;
    ensure!(found.status == PullStatus::Found, "{:?}", found.status);
    ensure!(numbers(&found.messages)? == [6, 7], "pulled {:?}", numbers(&found.messages)?);
    ensure!((found.next_offset, found.min_offset, found.max_offset) == (8, 0, 10), "{found:?}");
    let other = puller.pull(&queue, 0, 2, Duration::ZERO).await?;
    // A broker looks on behind what it was asked for, until it has found as many, or has looked at enough.
    ensure!(matches!(other.status, PullStatus::Found | PullStatus::NoMatchedMessage), "{:?}", other.status);
    ensure!(numbers(&other.messages)?.iter().all(|number| *number >= 5), "the filter lets all pass");
    let none = puller.pull(&queue, 10, 32, Duration::ZERO).await?;
    ensure!(none.status == PullStatus::NoNewMessage && none.next_offset == 10, "{none:?}");
    let outside = puller.pull(&queue, 99, 32, Duration::ZERO).await?;
    ensure!(outside.status == PullStatus::OffsetIllegal && outside.next_offset == 10, "{outside:?}");
    cluster.at("waits");
    let (waiting, sending) = tokio::join!(puller.pull(&queue, 10, 32, SOON), async {
        sleep(Duration::from_millis(300)).await;
        producer.send(Message::new(&topic, "10").tag("high")).await
    });
    sending?;
    ensure!(numbers(&waiting?.messages)? == [10], "the pull that waited did not get the message");
    let began = Instant::now();
    let in_vain = puller.pull(&queue, 11, 32, Duration::from_secs(1)).await?;
    ensure!(in_vain.status == PullStatus::NoNewMessage, "{in_vain:?}");
    ensure!(began.elapsed() >= Duration::from_millis(900), "it did not wait: {:?}", began.elapsed());
    cluster.at("nothing has changed");
    ensure!(numbers(&take(&puller, 6).await?)? == row(5..11), "the polls were disturbed");
    ensure!(cluster.recorded(&group, &topic).await? == 0, "something was recorded");
    for (offset, max) in [(-1, 1), (0, 0), (0, 1025)] {
        let refused = puller.pull(&queue, offset, max, Duration::ZERO).await;
        ensure!(matches!(refused, Err(Error::Client(rocketmq_common::Error::Config { .. }))), "{refused:?}");
    }
    let nowhere = puller.pull(&MessageQueue::new(random_name("topic"), "broker-a", 0), 0, 1, Duration::ZERO).await;
    ensure!(
        matches!(nowhere, Err(Error::Client(rocketmq_common::Error::TopicNotFound { .. }))),
        "a topic that is not there: {nowhere:?}"
    );
    let (waiting, ended) = tokio::join!(puller.pull(&queue, 11, 32, SOON), puller.shutdown());
    ensure!(matches!(waiting, Err(Error::ShutDown)), "a pull under way came to {waiting:?}");
    ended?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn polls_get_what_the_filter_lets_pass(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    // `AaAa` and `BBBB` have the same hash: brokers take one for the other.
    let tag = |index: usize| ["AaAa", "BBBB", "cc"][index % 3];
    send_from(1, &producer, 60, move |index| Message::new(&of_topic, format!("{index}")).tag(tag(index))).await?;
    let puller = puller(cluster, &group, first()).subscribe(&topic, Filter::tags("AaAa || dd")).start().await?;
    let polled = numbers(&take(&puller, 20).await?)?;
    ensure!(polled == (0..60).step_by(3).collect::<Vec<_>>(), "polled {polled:?}");
    expect_nothing(&puller).await?;
    // The group is past what nobody wants.
    cluster.expect_recorded(&group, &topic, 60).await?;
    cluster.at("another filter");
    puller.subscribe(&topic, Filter::tags("cc")).await?;
    let of_topic = topic.clone();
    send_from(1, &producer, 30, move |index| Message::new(&of_topic, format!("{}", 60 + index)).tag(tag(index)))
        .await?;
    let polled = numbers(&take(&puller, 10).await?)?;
    ensure!(polled == (62..90).step_by(3).collect::<Vec<_>>(), "polled {polled:?}");
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_poll_that_is_dropped_loses_nothing(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let config = PullConfig { pull_batch: 2, ..first() };
    let puller = puller(cluster, &group, config).subscribe(&topic, Filter::all()).start().await?;
    let of_topic = topic.clone();
    let sending = send_from(4, &producer, 200, move |index| varied(&of_topic, index));
    let polling = async {
        let deadline = Instant::now() + SOON;
        for round in 0_u64.. {
            let dropped = timeout(Duration::from_micros(round % 7 * 300), puller.poll(SOON)).await;
            for message in dropped.unwrap_or_else(|_| Ok(Vec::new()))? {
                inbox.keep(message);
            }
            if inbox.len() >= 200 || Instant::now() > deadline {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    let (sent, polled) = tokio::join!(sending, polling);
    polled?;
    inbox.has_each_once(sent?.keys(), Duration::ZERO).await?;
    puller.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// As in a loop that selects between a poll and something else, and shuts down at that.
pub(crate) async fn a_poll_nobody_goes_on_with_holds_no_shutdown_up(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let puller = puller(cluster, &group, first()).subscribe(&topic, Filter::all()).start().await?;
    expect_assigned(&puller, 1).await?;
    let mut poll = pin!(puller.poll(2 * SOON));
    tokio::select! {
        biased;
        polled = &mut poll => bail!("{polled:?} polled from an empty queue"),
        () = ready(()) => {}
    }
    timeout(SOON, puller.shutdown()).await.context("the shutdown waits for the poll")??;
    let polled = poll.await;
    ensure!(matches!(polled, Err(Error::ShutDown)), "the poll came to {polled:?}");
    Ok(())
}

pub(crate) async fn a_puller_in_a_namespace_knows_plain_names(cluster: &Cluster) -> Result<()> {
    let (topic, group, namespace) = (random_name("topic"), random_name("group"), random_name("MQ_INST_1"));
    let wire = format!("{namespace}%{topic}");
    cluster.create_topic(&wire, 1, 1).await?;
    let producer = cluster.producer().await?;
    let queue = MessageQueue::new(&*topic, "broker-a", 0);
    send_numbers(&producer, &MessageQueue::new(&*wire, "broker-a", 0), 0..5).await?;
    let client = ClientConfig { namespace: Some(namespace.clone()), ..Default::default() };
    for is_assigned in [false, true] {
        let group = format!("{group}-{is_assigned}");
        let config = PullConfig { client: client.clone(), ..by_hand() };
        let puller = puller(cluster, &group, config);
        let puller = if is_assigned { puller.assign([queue.clone()]) } else { puller.subscribe(&topic, Filter::all()) };
        let puller = puller.start().await?;
        let polled = take(&puller, 5).await?;
        ensure!(polled.iter().all(|message| message.topic() == topic), "a message came under another name");
        ensure!(puller.assigned_queues() == [queue.clone()], "assigned are {:?}", puller.assigned_queues());
        ensure!(puller.topic_queues(&topic).await? == [queue.clone()], "the queues have other names");
        puller.seek(&queue, Position::Offset(4)).await?;
        ensure!(numbers(&take(&puller, 1).await?)? == [4], "not the message sought");
        ensure!(puller.max_offset(&queue).await? == 5, "the queue does not end at 5");
        ensure!(puller.pull(&queue, 0, 1, Duration::ZERO).await?.messages.len() == 1, "nothing pulled");
        puller.commit().await?;
        ensure!(puller.committed(&queue).await? == Some(5), "not committed");
        cluster.expect_recorded(&format!("{namespace}%{group}"), &wire, 5).await?;
        puller.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn every_puller_of_a_broadcast_polls_everything(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let folder = tempfile::tempdir()?;
    let start = async |name: &str| {
        let client = ClientConfig { instance_name: Some(name.to_owned()), ..Default::default() };
        let config = PullConfig { client, offset_dir: Some(folder.path().to_owned()), ..first() };
        puller(cluster, &group, config).subscribe(&topic, Filter::all()).broadcast().start().await
    };
    let of_topic = topic.clone();
    let sent = send_from(2, &producer, 50, move |index| varied(&of_topic, index)).await?;
    let pullers = [("one", start("one").await?), ("other", start("other").await?)];
    for (_, puller) in &pullers {
        expect_assigned(puller, 2).await?;
    }
    for (name, puller) in pullers {
        let inbox = Inbox::new();
        take(&puller, sent.len()).await?.into_iter().for_each(|message| inbox.keep(message));
        inbox.has_each_once(sent.keys(), Duration::ZERO).await?;
        puller.commit().await?;
        puller.shutdown().await?;
        // Its own file says that all is done.
        let again = start(name).await?;
        expect_assigned(&again, 2).await?;
        expect_nothing(&again).await?;
        again.shutdown().await?;
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn new_queues_of_a_topic_are_told(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let (told, seen) = std::sync::mpsc::channel();
    let client = ClientConfig { route_refresh_interval: Duration::from_secs(1), ..Default::default() };
    let config = PullConfig { client, ..first() };
    let puller = puller(cluster, &random_name("group"), config).assign(cluster.queues(&topic).await?);
    let puller = puller.on_topic_change(&topic, move |queues| _ = told.send(queues.to_vec())).start().await?;
    let next = async |count: usize| {
        let queues = eventually(SOON, async || Ok(seen.try_recv()?)).await?;
        ensure!(queues.len() == count, "told are {queues:?}, expected {count} queues");
        Ok(())
    };
    next(1).await?;
    cluster.create_topic(&topic, 1, 3).await?;
    next(3).await?;
    ensure!(puller.assigned_queues().len() == 1, "a queue was taken that nobody assigned");
    Ok(puller.shutdown().await?)
}
