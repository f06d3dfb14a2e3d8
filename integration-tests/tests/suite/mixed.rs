//! Groups of Java members and ours: `integration-tests/java/Members.java` beside us.

use crate::{
    allocation::{by_strategy, owned},
    cluster::{Cluster, random_name},
    inbox::Inbox,
    java::Java,
    ordered::{keep_sending, quick},
    send::send_from,
    set_to_pop,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::Message;
use rocketmq_consumer::{Allocate, AllocateStrategy, Filter, Outcome, PushConsumer, StoredMessage};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const GOLDENS: &str = include_str!("../../../rocketmq-consumer/tests/goldens/allocations.txt");

/// Those that a Java program has printed of one of its groups.
fn of_group(java: &Java, event: &str, group: &str) -> Result<Vec<Value>> {
    Ok(java.events(event)?.into_iter().filter(|line| line["group"] == group).collect())
}

/// The queues that the Java member of a group has now.
fn owned_by_java(java: &Java, group: &str) -> Result<BTreeSet<i32>> {
    let queues = of_group(java, "queues", group)?;
    Ok(match queues.last() {
        Some(line) => serde_json::from_value(line["queues"].clone())?,
        None => BTreeSet::new(),
    })
}

pub(crate) async fn java_allocates_as_the_goldens_say(_: &Cluster) -> Result<()> {
    let mut java = Java::run("Allocations.java", &[]).await?;
    java.end().await?;
    // Older ones log between the cases.
    let lines = java.lines();
    let cases: Vec<_> = lines.iter().map(String::as_str).filter(|line| line.contains('\t')).collect();
    let expected: Vec<_> = GOLDENS.lines().skip(1).collect();
    for (java, golden) in cases.iter().zip(&expected) {
        ensure!(java == golden, "Java says\n{java}\nthe golden is\n{golden}");
    }
    ensure!(cases.len() == expected.len(), "{} cases, {} goldens", cases.len(), expected.len());
    Ok(())
}

pub(crate) async fn java_members_and_ours_share_queues_exactly(cluster: &Cluster) -> Result<()> {
    // So many that a ring which is not quite Java's gives one of them to another member.
    let (topic, name) = (cluster.topic(64).await?, random_name("group"));
    let queues = cluster.queues(&topic).await?;
    let java = Java::run("Members.java", &["shares", cluster.name_server(), &topic, &name]).await?;
    let mut groups = Vec::new();
    for strategy in [Allocate::average(), Allocate::by_circle(), Allocate::consistent_hash(10)] {
        let group = format!("{name}-{}", strategy.name());
        let inboxes = [Inbox::new(), Inbox::new()];
        let member = |inbox: &Inbox| {
            let builder = cluster.consumer(&group).subscribe(&topic, Filter::all()).allocate(strategy.clone());
            builder.listener(inbox.listener()).start()
        };
        let members = [member(&inboxes[0]).await?, member(&inboxes[1]).await?];
        groups.push((strategy, group, members, inboxes));
    }
    cluster.at("waiting for the Java members");
    java.has("member", 3).await?;
    for (strategy, group, members, _) in &groups {
        let of_java = of_group(&java, "member", group)?;
        let id = of_java.first().and_then(|line| line["id"].as_str()).context("no Java member")?;
        let mut ids = vec![id.to_owned()];
        ids.extend(members.iter().map(|member| member.client().id().to_string()));
        let expected = by_strategy(strategy, &ids, &queues)?;
        cluster.at(format!("sharing by {}", strategy.name()));
        eventually(SOON, async || {
            let shares = [owned_by_java(&java, group)?, owned(&members[0], &topic), owned(&members[1], &topic)];
            ensure!(shares[..] == expected, "{ids:?} have {shares:?}, expected {expected:?}");
            Ok(())
        })
        .await?;
        let all: Vec<i32> = expected.into_iter().flatten().collect();
        ensure!(all.len() == queues.len(), "not every queue has one owner: {all:?}");
    }
    cluster.at("messages");
    let producer = cluster.producer().await?;
    let of_topic = topic.clone();
    let sent = send_from(4, &producer, 120, move |index| Message::new(&of_topic, index.to_string())).await?;
    for (strategy, group, members, inboxes) in &groups {
        let came = || -> Result<Vec<String>> {
            let of_java = of_group(&java, "message", group)?;
            let of_java = of_java.iter().filter_map(|line| line["id"].as_str().map(str::to_owned));
            let ours = inboxes.iter().flat_map(Inbox::messages).map(|message| message.message_id().into_owned());
            Ok(of_java.chain(ours).collect())
        };
        eventually(SOON, async || {
            let there: BTreeSet<_> = came()?.into_iter().collect();
            ensure!(sent.keys().all(|id| there.contains(id)), "{} of {} came", there.len(), sent.len());
            Ok(())
        })
        .await?;
        ensure!(came()?.len() == sent.len(), "by {}: {} came, not {}", strategy.name(), came()?.len(), sent.len());
        for member in members {
            member.shutdown().await?;
        }
    }
    Ok(producer.shutdown().await?)
}

pub(crate) async fn a_java_member_and_ours_pop_together(cluster: &Cluster) -> Result<()> {
    let (topic, group, inbox) = (cluster.topic(4).await?, random_name("group"), Inbox::new());
    let kept = inbox.clone();
    let ours = set_to_pop::popping(cluster, (&topic, &group), set_to_pop::config(), move |message: StoredMessage| {
        let fails = message.body().starts_with(b"rust fails") && message.reconsume_times() == 0;
        kept.keep(message);
        async move { if fails { Outcome::failed("not yet").delay_level(1) } else { Outcome::done() } }
    })
    .await?;
    let mut java = Java::run("PoppingMember.java", &[cluster.name_server(), &topic, &group]).await?;
    cluster.at("waiting for the Java member");
    java.has("pops", 1).await?;
    let (producer, of_topic) = (cluster.producer().await?, topic.clone());
    let body = |index: usize| match index % 20 {
        0 => format!("rust fails {index}"),
        10 => format!("java fails {index}"),
        _ => index.to_string(),
    };
    let sent = send_from(4, &producer, 200, move |index| Message::new(&of_topic, body(index))).await?;
    // What failed at one may come again to the other.
    let came = || -> Result<Vec<(bool, String, i64)>> {
        let ours = inbox
            .messages()
            .into_iter()
            .map(|message| (false, message.message_id().into_owned(), i64::from(message.reconsume_times())));
        let text = |line: &Value| line["id"].as_str().map(str::to_owned).context("no id");
        let of_java = java.events("message")?;
        let of_java = of_java.iter().map(|line| Ok((true, text(line)?, line["times"].as_i64().context("no times")?)));
        ours.map(Ok).chain(of_java).collect()
    };
    let failed = || -> Result<usize> {
        let fails =
            |message: &StoredMessage| message.body().starts_with(b"rust fails") && message.reconsume_times() == 0;
        let at_java = java.events("message")?.into_iter().filter(|line| {
            line["times"] == 0 && line["body"].as_str().is_some_and(|body| body.starts_with("java fails"))
        });
        Ok(inbox.messages().iter().filter(|message| fails(message)).count() + at_java.count())
    };
    eventually(SOON * 3, async || {
        let (came, failed) = (came()?, failed()?);
        let there: BTreeSet<_> = came.iter().map(|(_, id, _)| id).collect();
        ensure!(there.len() == sent.len(), "{} of {} messages came", there.len(), sent.len());
        ensure!(came.len() == sent.len() + failed, "{} came, of {} sent and {failed} failed", came.len(), sent.len());
        Ok(())
    })
    .await?;
    for is_java in [false, true] {
        let count = came()?.iter().filter(|(of_java, ..)| *of_java == is_java).count();
        ensure!(count > 0, "nothing came to {}", if is_java { "the Java member" } else { "ours" });
    }
    let again = came()?.iter().filter(|(.., times)| *times == 1).count();
    ensure!(again == failed()? && again > 0, "{again} came again, {} failed", failed()?);
    java.end().await?;
    cluster.at("the Java member has left");
    let more = producer.send(Message::new(&topic, "the last")).await?.message_id;
    inbox.has_all([&more], SOON).await?;
    producer.shutdown().await?;
    Ok(ours.shutdown().await?)
}

/// One listener call, of Java's or ours, by the clock of this machine.
#[derive(Clone, Copy, Debug)]
struct Call {
    is_java: bool,
    queue: i32,
    number: usize,
    began_ms: u64,
    ended_ms: u64,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The calls of the Java member, as it has told them.
fn calls_of_java(java: &Java) -> Result<Vec<Call>> {
    let call = |line: &Value| {
        let number = line["number"].as_str().context("no number")?.parse()?;
        let at = |name: &str| line[name].as_u64().context("no time");
        let queue = i32::try_from(line["queue"].as_i64().context("no queue")?)?;
        Ok(Call { is_java: true, queue, number, began_ms: at("began")?, ended_ms: at("ended")? })
    };
    java.events("message")?.iter().map(call).collect()
}

/// No two calls for one queue at a time, and no message before all before it in its queue are done. One that is done may
/// come again: a Java member that loses a queue drops what its last call says.
fn expect_order(mut calls: Vec<Call>) -> Result<()> {
    calls.sort_by_key(|call| (call.began_ms, call.number));
    let mut by_queue: BTreeMap<i32, Vec<Call>> = BTreeMap::new();
    for call in calls {
        by_queue.entry(call.queue).or_default().push(call);
    }
    for (queue, calls) in by_queue {
        let mut next = 0;
        for (index, call) in calls.iter().enumerate() {
            ensure!(call.number <= next, "queue {queue}: {} came before {next} was done", call.number);
            next = next.max(call.number + 1);
            let before = index.checked_sub(1).map(|before| calls[before]);
            let at_once = before.filter(|before| before.ended_ms > call.began_ms);
            ensure!(at_once.is_none(), "two at once in queue {queue}: {at_once:?}, {call:?}");
        }
    }
    Ok(())
}

/// Waits until the queues are shared out evenly between us and a Java member.
async fn are_halved(java: &Java, group: &str, ours: &PushConsumer, topic: &str) -> Result<()> {
    eventually(SOON * 2, async || {
        let shares = [owned_by_java(java, group)?, owned(ours, topic)];
        let all: BTreeSet<_> = shares.iter().flatten().collect();
        ensure!(all.len() == 4 && shares.iter().all(|share| share.len() == 2), "the shares are {shares:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn order_holds_while_queues_move_between_java_and_us(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(4).await?, random_name("group"));
    let (producer, queues) = (cluster.producer().await?, cluster.queues(&topic).await?);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let kept = calls.clone();
    let listener = move |message: StoredMessage| {
        let calls = kept.clone();
        async move {
            let (queue, began_ms) = (message.queue_id(), now_ms());
            let number = std::str::from_utf8(message.body())?.parse::<usize>()?;
            sleep(Duration::from_millis(15)).await;
            let call = Call { is_java: false, queue, number, began_ms, ended_ms: now_ms() };
            calls.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(call);
            Ok::<_, anyhow::Error>(())
        }
    };
    let ours = || calls.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    // It happens that a broker has not the newest subscription of a Java member, and answers its pulls 25 until that sends
    // its next heartbeat, 30 s later.
    let more_come = async |whose: &str, count: &dyn Fn() -> Result<usize>| {
        let before = count()?;
        eventually(SOON * 2, async || {
            let now = count()?;
            ensure!(now >= before + 40, "{} more messages came to {whose}", now - before);
            Ok(())
        })
        .await
    };
    let member = cluster.consumer(&group).config(quick()).subscribe(&topic, Filter::all());
    let member = member.ordered_listener(listener).start().await?;
    let stop = CancellationToken::new();
    let sending = keep_sending(producer.clone(), queues, stop.clone());
    more_come("us", &|| Ok(ours().len())).await?;
    cluster.at("a Java member joins");
    let mut java = Java::run("Members.java", &["ordered", cluster.name_server(), &topic, &group]).await?;
    java.has("member", 1).await?;
    are_halved(&java, &group, &member, &topic).await?;
    more_come("us", &|| Ok(ours().len())).await?;
    more_come("the Java member", &|| Ok(java.events("message")?.len())).await?;
    cluster.at("the Java member leaves");
    java.end().await?;
    eventually(SOON * 2, async || {
        ensure!(owned(&member, &topic).len() == 4, "ours are {:?}", owned(&member, &topic));
        Ok(())
    })
    .await?;
    more_come("us", &|| Ok(ours().len())).await?;
    stop.cancel();
    let sent = sending.await?? * 4;
    cluster.at("the rest");
    let all = || -> Result<Vec<Call>> { Ok(calls_of_java(&java)?.into_iter().chain(ours()).collect()) };
    eventually(SOON, async || {
        let done: BTreeSet<_> = all()?.iter().map(|call| (call.queue, call.number)).collect();
        ensure!(done.len() == sent, "{} of {sent} messages came", done.len());
        Ok(())
    })
    .await?;
    expect_order(all()?)?;
    ensure!(all()?.iter().any(|call| call.is_java), "the Java member was given nothing");
    member.shutdown().await?;
    cluster.expect_recorded(&group, &topic, sent).await?;
    Ok(producer.shutdown().await?)
}
