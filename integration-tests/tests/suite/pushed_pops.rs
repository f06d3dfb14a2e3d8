//! What becomes of the messages of push consumers that pop.
//!
//! Nobody can wait for a message not to come. Where one must not come again, another one that is given back serves as a
//! clock: when that one is back, the first would be, too.

use crate::{
    allocation::owned,
    cluster::{Cluster, random_name},
    inbox::Inbox,
    operators::running_info,
    popping::send,
    set_to_pop::{
        BRIEF, LATE, all_settled, builder, config, expect_back, gated, popping, set_mode, until_popped, until_unsettled,
    },
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{
    Message, StoredMessage,
    message::names::dlq_topic,
    protocol::RequestMode,
    remote::{RequestCode, ResponseCode},
};
use rocketmq_consumer::{Filter, IntoOutcome, Outcome, PushConfig};
use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

pub(crate) async fn what_fails_comes_again_and_is_a_dead_letter_in_the_end(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(2).await?, random_name("group"), Inbox::new());
    let kept = inbox.clone();
    let config = PushConfig { max_reconsume_times: Some(1), pop_invisible_time: BRIEF * 2, ..config() };
    let consumer = popping(cluster, (&topic, &group), config, move |message| {
        kept.keep(message.clone());
        let outcome = match &message.body()[..] {
            b"fails" => Outcome::failed("not today").delay_level(1),
            b"once" if message.reconsume_times() == 0 => Outcome::failed("not yet").delay_level(1),
            b"dead" => Outcome::failed("never").dead_letter(),
            // As long as those are hidden that were popped before.
            b"clock" if message.reconsume_times() == 0 => Outcome::failed("not yet").delay_level(3),
            _ => Outcome::done(),
        };
        async move { outcome }
    })
    .await?;
    let producer = cluster.producer().await?;
    for body in ["done", "fails", "once", "dead"] {
        producer.send(Message::new(&topic, body).tag("eu").key("o-17")).await?;
    }
    inbox.has(6, LATE).await?;
    eventually(LATE, async || {
        let dead = cluster.stored(&dlq_topic(&group)).await?;
        ensure!(dead.len() == 2, "{} dead letters, expected 2", dead.len());
        Ok(())
    })
    .await?;
    cluster.at("the clock");
    producer.send(Message::new(&topic, "clock").tag("eu")).await?;
    inbox.has(8, LATE).await?;
    let mut came: Vec<_> = inbox
        .messages()
        .iter()
        .map(|message| (String::from_utf8_lossy(message.body()).into_owned(), message.reconsume_times()))
        .collect();
    came.sort();
    let expected =
        [("clock", 0), ("clock", 1), ("dead", 0), ("done", 0), ("fails", 0), ("fails", 1), ("once", 0), ("once", 1)];
    ensure!(came.iter().map(|(body, times)| (&**body, *times)).eq(expected), "{came:?} came");
    for message in inbox.messages() {
        ensure!(message.topic() == topic && message.tag() == Some("eu"), "{message:?} is not as it was sent");
    }
    let mut bodies: Vec<_> =
        cluster.stored(&dlq_topic(&group)).await?.iter().map(|message| message.body().clone()).collect();
    bodies.sort();
    ensure!(bodies == ["dead", "fails"], "dead letters are {bodies:?}");
    all_settled(cluster, &topic, &group, &consumer).await?;
    expect_back(cluster, &topic, &group, 3).await?;
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn what_takes_longer_than_it_is_hidden_comes_once(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let (kept, gate) = (inbox.clone(), Arc::new(Semaphore::new(0)));
    let at_the_gate = gate.clone();
    // One call at a time: the other messages wait as long as the first call takes.
    let config = PushConfig { pop_invisible_time: BRIEF, concurrency: 1, ..config() };
    let consumer = popping(cluster, (&topic, &group), config, move |message| {
        let is_clock = message.body() == "clock" && message.reconsume_times() == 0;
        kept.keep(message);
        let gate = at_the_gate.clone();
        async move {
            match is_clock {
                true => Outcome::failed("comes again").delay_level(2),
                false => gate.acquire().await.map(|leave| leave.forget()).into_outcome(),
            }
        }
    })
    .await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 4).await?;
    inbox.has(1, SOON).await?;
    // What is to be seen is time itself.
    sleep(BRIEF * 3).await;
    gate.add_permits(ids.len());
    inbox.has_each_once(&ids, SOON).await?;
    cluster.at("the clock");
    gate.add_permits(1);
    producer.send(Message::new(&topic, "clock")).await?;
    inbox.has(ids.len() + 2, LATE).await?;
    let came: Vec<_> = inbox.messages().iter().map(StoredMessage::reconsume_times).collect();
    ensure!(came == [0, 0, 0, 0, 0, 1], "messages came again: {came:?}");
    // The clock alone.
    expect_back(cluster, &topic, &group, 1).await?;
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn a_member_that_ends_gives_back_what_it_has_not_begun(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(2).await?, random_name("group"));
    let (first, second, gate) = (Inbox::new(), Inbox::new(), Arc::new(Semaphore::new(0)));
    let leaving =
        popping(cluster, (&topic, &group), PushConfig { concurrency: 1, ..config() }, gated(&first, &gate)).await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 10).await?;
    first.has(1, SOON).await?;
    until_unsettled(cluster, &topic, &group, &leaving, 10).await?;
    let mut ending = pin!(leaving.shutdown());
    // Begun, so that nothing more is.
    let begun = timeout(Duration::ZERO, &mut ending).await;
    ensure!(begun.is_err(), "it does not wait for the call");
    gate.add_permits(1);
    ending.await?;
    cluster.at("the other one");
    let staying = popping(cluster, (&topic, &group), config(), second.listener()).await?;
    // By themselves they would come after minutes.
    second.has(9, LATE).await?;
    let both: BTreeSet<String> = first.ids().union(&second.ids()).cloned().collect();
    ensure!(both == ids.into_iter().collect(), "not all came");
    ensure!(first.len() == 1 && second.len() == 9, "{} and {} messages came", first.len(), second.len());
    producer.shutdown().await?;
    Ok(staying.shutdown().await?)
}

pub(crate) async fn what_waits_of_a_topic_that_is_unsubscribed_from_is_given_back(cluster: &Cluster) -> Result<()> {
    let (topic, other, group) = (cluster.topic(1).await?, cluster.topic(1).await?, random_name("group"));
    let (inbox, gate) = (Inbox::new(), Arc::new(Semaphore::new(0)));
    let config = PushConfig { concurrency: 1, ..config() };
    let builder = builder(cluster, &group, &topic, config).subscribe(&other, Filter::all());
    let consumer = builder.listener(gated(&inbox, &gate)).start().await?;
    set_mode(cluster, &topic, &group, RequestMode::Pop, 0).await?;
    until_popped(&consumer, &topic).await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 5).await?;
    until_unsettled(cluster, &topic, &group, &consumer, 5).await?;
    consumer.unsubscribe(&topic).await?;
    gate.add_permits(5);
    consumer.subscribe(&topic, Filter::all()).await?;
    // By themselves they would come after minutes.
    inbox.has_each_once(&ids, LATE).await?;
    let mut came: Vec<_> = inbox.messages().iter().map(StoredMessage::reconsume_times).collect();
    came.sort_unstable();
    ensure!(came == [0, 1, 1, 1, 1], "messages came {came:?} times before");
    until_popped(&consumer, &topic).await?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn streams_and_batches_pop_as_well(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let producer = cluster.producer().await?;
    let mut stream = builder(cluster, &group, &topic, config()).stream().await?;
    set_mode(cluster, &topic, &group, RequestMode::Pop, 0).await?;
    until_popped(stream.consumer(), &topic).await?;
    let next = async |stream: &mut rocketmq_consumer::MessageStream| {
        let next = timeout(LATE, stream.next());
        next.await.context("nothing comes")?.context("the stream has ended")
    };
    send(&producer, &topic, 3).await?;
    let mut came = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut stream).await?;
        came.push(String::from_utf8_lossy(delivery.body()).into_owned());
        match came.len() {
            1 => delivery.ack(),
            2 => delivery.nack_with_level(1),
            _ => delivery.dead_letter(),
        }
    }
    let again = next(&mut stream).await?;
    ensure!(*again.body() == came[1] && again.reconsume_times() == 1, "{again:?} came, after {came:?}");
    again.ack();
    eventually(LATE, async || {
        let dead = cluster.stored(&dlq_topic(&group)).await?;
        ensure!(dead.iter().map(StoredMessage::body).eq([&came[2]]), "dead letters are {dead:?}");
        Ok(())
    })
    .await?;
    all_settled(cluster, &topic, &group, stream.consumer()).await?;
    stream.consumer().shutdown().await?;

    cluster.at("batches");
    let kept = inbox.clone();
    let config = PushConfig { consume_batch: 8, concurrency: 1, ..config() };
    let sizes = Arc::new(AtomicUsize::new(0));
    let largest = sizes.clone();
    let consumer = builder(cluster, &group, &topic, config)
        .batch_listener(move |messages: Vec<StoredMessage>| {
            largest.fetch_max(messages.len(), Ordering::SeqCst);
            let fails = |message: &StoredMessage| message.body() == "3" && message.reconsume_times() == 0;
            let failed: Vec<_> = (0..messages.len()).filter(|index| fails(&messages[*index])).collect();
            messages.into_iter().for_each(|message| kept.keep(message));
            async move { Outcome::failed_at(failed, "not yet").delay_level(1) }
        })
        .start()
        .await?;
    until_popped(&consumer, &topic).await?;
    consumer.suspend();
    let ids = send(&producer, &topic, 20).await?;
    consumer.resume();
    inbox.has(21, LATE).await?;
    inbox.has_all(&ids, SOON).await?;
    ensure!(sizes.load(Ordering::SeqCst) > 1, "each call got one message");
    all_settled(cluster, &topic, &group, &consumer).await?;
    let again: Vec<_> = inbox.messages().into_iter().filter(|message| message.reconsume_times() > 0).collect();
    ensure!(again.iter().map(StoredMessage::body).eq(["3"]), "{again:?} came again");
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn popping_keeps_filters_and_stops_at_its_limit(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let other = cluster.topic(1).await?;
    let gate = Arc::new(Semaphore::new(0));
    let config = PushConfig { concurrency: 2, ..config() };
    let consumer = cluster.consumer(&group).config(config).allocate_by_broker();
    // "BB" and "Aa" have one hash, which is all that brokers look at.
    let consumer = consumer.subscribe(&topic, Filter::tags("Aa || eu")).subscribe(&other, Filter::all());
    let consumer = consumer
        .filter(|message: &StoredMessage| message.keys().all(|key| key != "unwanted"))
        .listener(gated(&inbox, &gate))
        .start()
        .await?;
    for topic in [&topic, &other] {
        set_mode(cluster, topic, &group, RequestMode::Pop, 0).await?;
        until_popped(&consumer, topic).await?;
    }
    let producer = cluster.producer().await?;
    for (tag, key) in [("us", "k"), ("BB", "k"), ("Aa", "unwanted"), ("Aa", "k")] {
        producer.send(Message::new(&topic, tag).tag(tag).key(key)).await?;
    }
    let many: Vec<_> = (0..300).map(|index| Message::new(&topic, index.to_string()).tag("eu")).collect();
    producer.send_batch(many).await?;
    let unsettled = async || -> Result<i32> {
        let info = running_info(cluster, &topic, &group, &consumer).await?;
        ensure!(info.mq_table.0.keys().all(|queue| *queue.topic != *topic), "it is pulled as well: {info:?}");
        let queue = info.mq_pop_table.0.iter().find(|(queue, _)| *queue.topic == *topic);
        let (queue, info) = queue.context("no popped queue")?;
        ensure!(queue.queue_id == -1 && !info.is_dropped && info.last_pop_timestamp > 0, "{queue}: {info:?}");
        Ok(info.wait_ack_count)
    };
    eventually(SOON, async || {
        let unsettled = unsettled().await?;
        ensure!(unsettled >= 96, "{unsettled} messages are unsettled");
        Ok(())
    })
    .await?;
    // The limit may be passed by one pop.
    let unsettled = unsettled().await?;
    ensure!(unsettled < 96 + 32, "{unsettled} messages are unsettled");
    let statistics = consumer.statistics();
    let in_flight: usize = statistics.topics[&topic].queues.iter().map(|queue| queue.in_flight).sum();
    ensure!((96..96 + 32).contains(&in_flight), "{in_flight} messages are in flight");
    gate.add_permits(500);
    inbox.has(301, SOON).await?;
    let tags: BTreeSet<_> = inbox.messages().iter().map(|message| message.tag().unwrap_or("").to_owned()).collect();
    ensure!(tags == ["Aa", "eu"].map(str::to_owned).into(), "messages with the tags {tags:?} came");
    inbox.expect_no_repetition()?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    ensure!(inbox.len() == 301, "{} messages came", inbox.len());
    cluster.at("unsubscribed");
    consumer.unsubscribe(&topic).await?;
    let queues = owned(&consumer, &topic);
    ensure!(queues.is_empty(), "it still has {queues:?}");
    let came = inbox.len();
    producer.send(Message::new(&topic, "late").tag("eu")).await?;
    producer.send(Message::new(&other, "other")).await?;
    inbox.has(came + 1, SOON).await?;
    let last = inbox.messages().pop().context("nothing came")?;
    ensure!(last.topic() == other, "{last:?} came after all");
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

pub(crate) async fn acknowledgements_travel_together(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let gate = Arc::new(Semaphore::new(0));
    let config = PushConfig { concurrency: 96, ..config() };
    let consumer = popping(cluster, (&topic, &group), config, gated(&inbox, &gate)).await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 96).await?;
    inbox.has(96, SOON).await?;
    gate.add_permits(96);
    all_settled(cluster, &topic, &group, &consumer).await?;
    if !cluster.is_real() {
        let (single, batches) = (received(cluster, RequestCode::ACK_MESSAGE), received(cluster, BATCH_ACK));
        ensure!(
            batches > 0 && single + batches <= 24,
            "{single} single requests and {batches} batches for 96 messages"
        );
    }
    cluster.at("one more");
    gate.add_permits(1);
    let last = producer.send(Message::new(&topic, "last")).await?.message_id;
    inbox.has_each_once(ids.iter().chain([&last]), SOON).await?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    cluster.expect_recorded(&group, &topic, 97).await?;
    producer.shutdown().await?;
    consumer.shutdown().await?;
    expect_back(cluster, &topic, &group, 0).await
}

pub(crate) async fn a_broker_without_batches_gets_single_acknowledgements(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let gate = Arc::new(Semaphore::new(0));
    cluster.dev().on(BATCH_ACK).answer(ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    let config = PushConfig { concurrency: 64, ..config() };
    let consumer = popping(cluster, (&topic, &group), config, gated(&inbox, &gate)).await?;
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 64).await?;
    inbox.has(32, SOON).await?;
    gate.add_permits(64);
    inbox.has_each_once(&ids, SOON).await?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    let (single, batches) = (received(cluster, RequestCode::ACK_MESSAGE), received(cluster, BATCH_ACK));
    // It is asked once, unless two requests were on their way.
    ensure!(single == 64 && batches <= 2, "{single} single requests and {batches} batches for 64 messages");
    expect_back(cluster, &topic, &group, 0).await?;
    producer.shutdown().await?;
    Ok(consumer.shutdown().await?)
}

fn received(cluster: &Cluster, code: RequestCode) -> u64 {
    cluster.dev().received(code)
}

const BATCH_ACK: RequestCode = RequestCode::BATCH_ACK_MESSAGE;

pub(crate) async fn an_acknowledgement_that_fails_is_made_again(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
    let consumer =
        popping(cluster, (&topic, &group), PushConfig { pop_invisible_time: BRIEF, ..config() }, inbox.listener());
    let consumer = consumer.await?;
    cluster.dev().on(RequestCode::ACK_MESSAGE).answer(ResponseCode::SYSTEM_BUSY).times(2);
    let producer = cluster.producer().await?;
    let ids = send(&producer, &topic, 1).await?;
    inbox.has_each_once(&ids, SOON).await?;
    all_settled(cluster, &topic, &group, &consumer).await?;
    let told = cluster.dev().received(RequestCode::ACK_MESSAGE);
    ensure!(told == 3, "the broker was told {told} times");
    expect_back(cluster, &topic, &group, 0).await?;
    cluster.at("a dead letter that is not stored");
    let other = random_name("group");
    let never = |_| async { Outcome::failed("never").dead_letter() };
    let failing = popping(cluster, (&topic, &other), config(), never).await?;
    cluster.dev().on(RequestCode::CONSUMER_SEND_MSG_BACK).answer(ResponseCode::SYSTEM_ERROR).times(1);
    producer.send(Message::new(&topic, "dead")).await?;
    let dead = dlq_topic(failing.group());
    eventually(LATE, async || {
        let dead = cluster.stored(&dead).await?;
        ensure!(dead.iter().any(|message| message.body() == "dead"), "{dead:?} are dead letters");
        Ok(())
    })
    .await?;
    producer.shutdown().await?;
    failing.shutdown().await?;
    Ok(consumer.shutdown().await?)
}
