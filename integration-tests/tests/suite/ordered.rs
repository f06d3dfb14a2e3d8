//! Consumption in order: one call at a time for each queue, in the whole group.

use crate::{
    cluster::{Cluster, random_name},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{
    Message, MessageQueue,
    message::names::dlq_topic,
    protocol::{QueuesOfMember, UnlockQueues},
    remote::{Json, RequestCode},
};
use rocketmq_consumer::{Filter, Outcome, PushConfig, PushConsumer, PushConsumerBuilder, StartAt, StoredMessage};
use rocketmq_producer::{Producer, ProducerConfig, Select};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// One listener call.
#[derive(Clone, Debug)]
struct Call {
    member: &'static str,
    queue: i32,
    /// The number in the body: it grows by one a message in each queue.
    number: usize,
    reconsume_times: i32,
    began: Instant,
    ended: Option<Instant>,
    succeeded: bool,
}

/// All listener calls of a scenario, in the order in which they began.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    fn begin(&self, member: &'static str, message: &StoredMessage) -> usize {
        let number = std::str::from_utf8(message.body()).ok().and_then(|body| body.parse().ok());
        let call = Call {
            member,
            queue: message.queue_id(),
            number: number.unwrap_or(usize::MAX),
            reconsume_times: message.reconsume_times(),
            began: Instant::now(),
            ended: None,
            succeeded: false,
        };
        let mut calls = self.lock();
        calls.push(call);
        calls.len() - 1
    }

    fn end(&self, index: usize, succeeded: bool) {
        let call = &mut self.lock()[index];
        (call.ended, call.succeeded) = (Some(Instant::now()), succeeded);
    }

    fn all(&self) -> Vec<Call> {
        self.lock().clone()
    }

    fn of(&self, member: &str) -> Vec<Call> {
        self.all().into_iter().filter(|call| call.member == member).collect()
    }

    fn done(&self) -> BTreeSet<(i32, usize)> {
        self.all().iter().filter(|call| call.succeeded).map(|call| (call.queue, call.number)).collect()
    }

    async fn has_done(&self, count: usize, limit: Duration) -> Result<()> {
        eventually(limit, async || {
            let done = self.done().len();
            ensure!(done >= count, "{done} of {count} messages are done");
            Ok(())
        })
        .await
    }

    /// No two calls for one queue at a time, and no message before all before it in its queue are done. A message that is
    /// done may come again.
    fn expect_order(&self) -> Result<()> {
        let mut by_queue: BTreeMap<i32, Vec<Call>> = BTreeMap::new();
        for call in self.all() {
            by_queue.entry(call.queue).or_default().push(call);
        }
        for (queue, calls) in by_queue {
            for pair in calls.windows(2) {
                let ended = pair[0].ended.with_context(|| format!("two at once in queue {queue}: {pair:?}"))?;
                ensure!(pair[1].began >= ended, "two at once in queue {queue}: {pair:?}");
            }
            let mut next = 0;
            for call in calls {
                ensure!(call.number <= next, "queue {queue}: {} came before {next} was done", call.number);
                if call.succeeded {
                    next = next.max(call.number + 1);
                }
            }
        }
        Ok(())
    }

    fn expect_each_once(&self) -> Result<()> {
        let calls = self.all();
        ensure!(calls.len() == self.done().len(), "{} calls for {} messages", calls.len(), self.done().len());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A consumer whose calls are kept and take `work`, and fail where `fails` says so.
fn member(
    cluster: &Cluster,
    (group, topic): (&str, &str),
    name: &'static str,
    calls: &Calls,
    work: Duration,
    fails: impl Fn(&StoredMessage) -> bool + Send + Sync + 'static,
) -> PushConsumerBuilder {
    let calls = calls.clone();
    let fails = Arc::new(fails);
    let listener = move |message: StoredMessage| {
        let (calls, fails) = (calls.clone(), fails.clone());
        async move {
            let index = calls.begin(name, &message);
            sleep(work).await;
            let failed = fails(&message);
            calls.end(index, !failed);
            if failed { Err("not this time") } else { Ok(()) }
        }
    };
    cluster.consumer(group).subscribe(topic, Filter::all()).ordered_listener(listener)
}

pub(crate) fn quick() -> PushConfig {
    PushConfig { start_at: StartAt::First, suspend_time: Duration::from_millis(50), ..Default::default() }
}

/// Sends `count` messages to each queue, one after the other.
pub(crate) async fn send_numbered(
    producer: &Producer,
    queues: &[MessageQueue],
    from: usize,
    count: usize,
) -> Result<()> {
    for number in from..from + count {
        for queue in queues {
            let message = Message::new(&*queue.topic, number.to_string());
            producer.send_to(Select::queue(queue), message).await?;
        }
    }
    Ok(())
}

/// Sends to each queue until told to stop; answers how many each got.
pub(crate) fn keep_sending(
    producer: Producer,
    queues: Vec<MessageQueue>,
    stop: CancellationToken,
) -> JoinHandle<Result<usize>> {
    #[expect(clippy::disallowed_methods, reason = "the scenario awaits the task")]
    tokio::spawn(async move {
        let mut number = 0;
        while !stop.is_cancelled() {
            send_numbered(&producer, &queues, number, 1).await?;
            number += 1;
            sleep(Duration::from_millis(20)).await;
        }
        Ok(number)
    })
}

fn owned(consumer: &PushConsumer, topic: &str) -> BTreeSet<i32> {
    consumer.assigned_queues().iter().filter(|queue| *queue.topic == *topic).map(|queue| queue.queue_id).collect()
}

/// Waits until each of `count` queues belongs to one of the members, and none has two more than another.
async fn are_shared_out(topic: &str, count: usize, members: &[&PushConsumer]) -> Result<()> {
    eventually(SOON, async || {
        let shares: Vec<_> = members.iter().map(|member| owned(member, topic)).collect();
        let all: BTreeSet<_> = shares.iter().flatten().collect();
        let sizes: Vec<_> = shares.iter().map(BTreeSet::len).collect();
        ensure!(all.len() == count && sizes.iter().sum::<usize>() == count, "the shares are {shares:?}");
        let (least, most) = (sizes.iter().min(), sizes.iter().max());
        ensure!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "the shares are {shares:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn each_queue_is_consumed_in_its_order(cluster: &Cluster) -> Result<()> {
    let (topic, group, calls) = (cluster.topic(4).await?, random_name("group"), Calls::default());
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    send_numbered(&producer, &queues, 0, 20).await?;
    // Every seventh fails twice, and holds its queue up meanwhile.
    let fails = |message: &StoredMessage| message.queue_offset() % 7 == 3 && message.reconsume_times() < 2;
    let work = Duration::from_millis(2);
    let consumer = member(cluster, (&group, &topic), "one", &calls, work, fails).config(quick()).start().await?;
    send_numbered(&producer, &queues, 20, 20).await?;
    calls.has_done(160, SOON).await?;
    calls.expect_order()?;
    let failed: Vec<_> = calls.all().into_iter().filter(|call| call.number % 7 == 3).collect();
    ensure!(failed.len() == 4 * 6 * 3, "{} calls for 24 messages that fail twice", failed.len());
    for three in failed.iter().filter(|call| call.queue == 0).collect::<Vec<_>>().chunks(3) {
        let times: Vec<_> = three.iter().map(|call| call.reconsume_times).collect();
        ensure!(times == [0, 1, 2], "reconsume times were {times:?}");
        let pause = three[0].ended.map_or(Duration::ZERO, |ended| three[1].began - ended);
        ensure!(pause >= Duration::from_millis(50), "the queue waited {pause:?} after a failure");
    }
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 160).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn what_fails_too_often_is_a_dead_letter_and_the_queue_goes_on(cluster: &Cluster) -> Result<()> {
    let (topic, group, calls) = (cluster.topic(1).await?, random_name("group"), Calls::default());
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    send_numbered(&producer, &queues, 0, 6).await?;
    let config = PushConfig { max_reconsume_times: Some(2), ..quick() };
    let builder =
        member(cluster, (&group, &topic), "one", &calls, Duration::ZERO, |message| message.queue_offset() == 2);
    let consumer = builder.config(config).start().await?;
    calls.has_done(5, SOON).await?;
    let numbers: Vec<_> = calls.all().iter().map(|call| call.number).collect();
    ensure!(numbers == [0, 1, 2, 2, 2, 3, 4, 5], "called with {numbers:?}");
    let dead = eventually(SOON, async || match cluster.stored(&dlq_topic(&group)).await? {
        dead if dead.is_empty() => bail!("no dead letter"),
        dead => Ok(dead),
    })
    .await?;
    ensure!(dead.len() == 1 && dead[0].body() == "2", "the dead letters are {dead:?}");
    consumer.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 6).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn order_holds_while_queues_change_hands(cluster: &Cluster) -> Result<()> {
    let (topic, group, calls) = (cluster.topic(4).await?, random_name("group"), Calls::default());
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    let stop = CancellationToken::new();
    let sending = keep_sending(producer.clone(), queues, stop.clone());
    // Some call is always under way when a queue changes hands.
    let join = |name| {
        let fails = |message: &StoredMessage| message.queue_offset() % 11 == 5 && message.reconsume_times() < 1;
        member(cluster, (&group, &topic), name, &calls, Duration::from_millis(15), fails).config(quick()).start()
    };
    cluster.at("one member");
    let one = join("one").await?;
    calls.has_done(40, SOON).await?;
    cluster.at("two members");
    let two = join("two").await?;
    are_shared_out(&topic, 4, &[&one, &two]).await?;
    cluster.at("three members");
    let three = join("three").await?;
    are_shared_out(&topic, 4, &[&one, &two, &three]).await?;
    calls.has_done(calls.done().len() + 40, SOON).await?;
    cluster.at("the second leaves");
    two.shutdown().await?;
    are_shared_out(&topic, 4, &[&one, &three]).await?;
    cluster.at("the third leaves");
    let left = Instant::now();
    three.shutdown().await?;
    are_shared_out(&topic, 4, &[&one]).await?;
    let took = left.elapsed();
    // Had it not given its locks up, they would have lived on for a minute.
    ensure!(took < Duration::from_secs(20), "the last member got the queues after {took:?}");
    stop.cancel();
    let sent = sending.await?? * 4;
    calls.has_done(sent, SOON).await?;
    calls.expect_order()?;
    for name in ["two", "three"] {
        ensure!(!calls.of(name).is_empty(), "member {name} was given nothing");
    }
    // All were well and left in order: no message that was done came again.
    let mut done = BTreeSet::new();
    let is_again = |call: &Call| call.succeeded && !done.insert((call.queue, call.number));
    let again: Vec<_> = calls.all().into_iter().filter(is_again).collect();
    let told = || again.iter().map(|call| (call.member, call.queue, call.number)).collect::<Vec<_>>();
    ensure!(again.is_empty(), "{} messages were done twice, by member, queue and number: {:?}", again.len(), told());
    one.shutdown().await?;
    cluster.expect_recorded(&group, &topic, sent).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_queue_that_moves_waits_for_the_call_under_way(cluster: &Cluster) -> Result<()> {
    let (topic, group, calls) = (cluster.topic(2).await?, random_name("group"), Calls::default());
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    send_numbered(&producer, &queues, 0, 3).await?;
    let gate = Arc::new(Semaphore::new(0));
    let (at_the_gate, kept) = (gate.clone(), calls.clone());
    let listener = move |message: StoredMessage| {
        let (gate, calls) = (at_the_gate.clone(), kept.clone());
        async move {
            let index = calls.begin("one", &message);
            gate.acquire().await.map_err(|error| error.to_string())?.forget();
            calls.end(index, true);
            Ok::<_, String>(())
        }
    };
    // Longer than a member that consumes in no order would wait.
    let config = PushConfig { revoke_timeout: Duration::from_millis(100), ..quick() };
    let one = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let one = one.ordered_listener(listener).start().await?;
    eventually(SOON, async || {
        ensure!(calls.all().len() == 2, "{} calls are under way, expected one a queue", calls.all().len());
        Ok(())
    })
    .await?;
    let two = member(cluster, (&group, &topic), "two", &calls, Duration::ZERO, |_| false).config(quick());
    let two = two.start().await?;
    // That the second one gets nothing shows only in time.
    sleep(Duration::from_secs(5)).await;
    ensure!(calls.all().len() == 2, "consumed while another member had the queue: {:?}", calls.all());
    ensure!(owned(&two, &topic).is_empty(), "owns {:?} while the other member has both", owned(&two, &topic));
    gate.add_permits(1000);
    are_shared_out(&topic, 2, &[&one, &two]).await?;
    calls.has_done(6, SOON).await?;
    calls.expect_order()?;
    calls.expect_each_once()?;
    ensure!(calls.of("two").len() == 2, "the second member got {:?}", calls.of("two"));
    two.shutdown().await?;
    one.shutdown().await?;
    cluster.expect_recorded(&group, &topic, 6).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn nothing_is_consumed_on_a_lost_lock(cluster: &Cluster) -> Result<()> {
    let (topic, group, calls) = (cluster.topic(1).await?, random_name("group"), Calls::default());
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    // Too slow for what is sent: when the lock goes, some messages have been fetched and wait.
    let work = Duration::from_millis(200);
    let consumer = member(cluster, (&group, &topic), "one", &calls, work, |_| false).config(quick());
    let consumer = consumer.start().await?;
    send_numbered(&producer, &queues, 0, 3).await?;
    calls.has_done(3, SOON).await?;
    cluster.expect_recorded(&group, &topic, 3).await?;

    cluster.at("somebody else takes the lock");
    let (thief, broker_name) = (cluster.client().await?, &queues[0].broker_name);
    let addr = thief.master(broker_name)?;
    let body = Json(QueuesOfMember {
        client_id: consumer.client().id().to_string(),
        consumer_group: group.clone(),
        mq_set: queues.iter().map(Into::into).collect(),
        only_this_broker: false,
    });
    thief.call(&addr, &UnlockQueues {}, body, thief.request_deadline()).await?;
    ensure!(thief.lock_queues(&group, broker_name, &queues).await?.0.len() == 1, "the lock is not to be had");
    // The member learns it when it renews its locks, every 20 s.
    let (stolen, mut sent) = (Instant::now(), 3);
    while stolen.elapsed() < Duration::from_secs(25) {
        send_numbered(&producer, &queues, sent, 3).await?;
        sent += 3;
        sleep(Duration::from_millis(500)).await;
    }
    let asked = || if cluster.is_real() { 0 } else { cluster.dev().received(RequestCode::LOCK_BATCH_MQ) };
    let (done, before) = (calls.all().len(), asked());
    ensure!(done < sent, "all {sent} messages were consumed, without a lock");
    send_numbered(&producer, &queues, sent, 4).await?;
    sleep(Duration::from_secs(4)).await;
    ensure!(calls.all().len() == done, "consumed without a lock: {:?}", calls.all().last());
    ensure!(asked() - before <= 3, "asked for the lock {} times in 4 s", asked() - before);
    // The other one gets further; what this member has fetched already is not its to consume.
    thief.update_consumer_offset(&group.as_str().into(), &queues[0], i64::try_from(done + 2)?).await?;

    cluster.at("the lock is to be had again");
    thief.unlock_queues(&group, broker_name, &queues).await?;
    calls.has_done(sent + 4 - 2, SOON).await?;
    let numbers: Vec<_> = calls.all()[done..].iter().map(|call| call.number).collect();
    ensure!(numbers == (done + 2..sent + 4).collect::<Vec<_>>(), "went on with {numbers:?} from {done} on");
    consumer.shutdown().await?;
    thief.shutdown(thief.request_deadline()).await;
    cluster.expect_recorded(&group, &topic, sent + 4).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn order_holds_when_the_broker_dies_and_comes_back(cluster: &Cluster) -> Result<()> {
    let (topic, group, calls) = (cluster.topic(2).await?, random_name("group"), Calls::default());
    let config = ProducerConfig { retries: 20, send_timeout: SOON, ..Default::default() };
    let (producer, queues) = (cluster.producer_with(config).await?, cluster.queues(&topic).await?);
    send_numbered(&producer, &queues, 0, 200).await?;
    let member = |name| member(cluster, (&group, &topic), name, &calls, Duration::from_millis(10), |_| false);
    let one = member("one").config(quick()).start().await?;
    let two = member("two").config(quick()).start().await?;
    are_shared_out(&topic, 2, &[&one, &two]).await?;
    are_shared_out(&topic, 2, &[&one, &two]).await?;
    calls.has_done(60, SOON).await?;
    cluster.at("the broker is killed");
    cluster.kill_broker().await?;
    cluster.start_broker().await?;
    cluster.at("the broker is back");
    send_numbered(&producer, &queues, 200, 20).await?;
    calls.has_done(440, Duration::from_secs(60)).await?;
    calls.expect_order()?;
    for consumer in [one, two] {
        consumer.shutdown().await?;
    }
    cluster.expect_recorded(&group, &topic, 440).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn batches_come_in_order_and_only_what_failed_comes_again(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    send_numbered(&producer, &queues, 0, 40).await?;
    let calls: Arc<Mutex<Vec<Vec<i64>>>> = Arc::default();
    let kept = calls.clone();
    let listener = move |messages: Vec<StoredMessage>| {
        let offsets: Vec<_> = messages.iter().map(StoredMessage::queue_offset).collect();
        let failed = messages.iter().position(|message| message.queue_offset() == 12 && message.reconsume_times() == 0);
        kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(offsets);
        async move {
            let suspend = Duration::from_millis(10);
            failed.map_or(Outcome::done(), |index| Outcome::failed_from(index, "not this time").suspend(suspend))
        }
    };
    let config = PushConfig { consume_batch: 8, ..quick() };
    let consumer = cluster.consumer(&group).config(config).subscribe(&topic, Filter::all());
    let consumer = consumer.ordered_batch_listener(listener).start().await?;
    cluster.expect_recorded(&group, &topic, 40).await?;
    consumer.shutdown().await?;
    let calls = calls.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    let mut done = Vec::new();
    for offsets in &calls {
        ensure!(offsets.len() <= 8, "a call had {} messages", offsets.len());
        let failed = if offsets.contains(&12) && !done.contains(&-1) { Some(12) } else { None };
        done.extend(offsets.iter().take_while(|offset| Some(**offset) != failed));
        if failed.is_some() {
            // Marks the one failure.
            done.push(-1);
        }
    }
    done.retain(|offset| *offset >= 0);
    ensure!(done == (0..40).collect::<Vec<_>>(), "the calls were {calls:?}");
    ensure!(calls.iter().any(|offsets| offsets.len() == 8), "no call had a whole batch: {calls:?}");
    Ok(producer.shutdown().await?)
}
