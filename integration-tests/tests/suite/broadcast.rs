//! Every member gets all messages, and keeps its own offsets.

use crate::{
    allocation::owned,
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Client, Message};
use rocketmq_consumer::{
    ClientConfig, ClientError, Error, Filter, PushConfig, PushConsumerBuilder, StartAt, StoredMessage,
};
use std::{collections::BTreeSet, path::Path, time::Duration};
use tempfile::TempDir;

/// A member by its name, which its offsets are kept under.
fn member(cluster: &Cluster, group: &str, topic: &str, name: &str, folder: &Path) -> PushConsumerBuilder {
    let client = ClientConfig { instance_name: Some(name.to_owned()), ..Default::default() };
    let config = PushConfig {
        start_at: StartAt::First,
        offset_dir: Some(folder.to_owned()),
        commit_interval: Duration::from_millis(200),
        client,
        ..Default::default()
    };
    cluster.consumer(group).config(config).broadcast().subscribe(topic, Filter::all())
}

pub(crate) async fn every_member_gets_every_message(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, folder) = (cluster.topic(4).await?, random_name("group"), TempDir::new()?);
        let producer = cluster.producer().await?;
        let mut members = Vec::new();
        for name in ["one", "two"] {
            let inbox = Inbox::new();
            let builder = member(cluster, &group, &topic, name, folder.path());
            let listener = inbox.listener();
            let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
            members.push((builder.start().await?, inbox));
        }
        let of_topic = topic.clone();
        let sent = send_from(4, &producer, 200, move |index| varied(&of_topic, index)).await?;
        // All together: one that is alone would have all queues even if they were shared out.
        for (consumer, inbox) in &members {
            inbox.has_each_once(sent.keys(), SOON / 2).await?;
            let queues = owned(consumer, &topic);
            ensure!(queues == (0..4).collect(), "a member has queues {queues:?}");
        }
        for (consumer, _) in &members {
            consumer.shutdown().await?;
        }
        // Nothing is recorded with the broker: there is no such thing as the group's offset. A broker that holds the
        // first message of a queue in memory has any group begin there.
        ensure!(
            cluster.recorded(&group, &topic).await? == 0,
            "{:?} is recorded",
            cluster.recorded(&group, &topic).await
        );
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_member_goes_on_from_its_file(cluster: &Cluster) -> Result<()> {
    let (topic, group, folder) = (cluster.topic(4).await?, random_name("group"), TempDir::new()?);
    let producer = cluster.producer().await?;
    let send = async |from: usize| {
        let of_topic = topic.clone();
        send_from(4, &producer, 100, move |index| varied(&of_topic, from + index)).await
    };
    let start = async |inbox: &Inbox| {
        let builder = member(cluster, &group, &topic, "one", folder.path());
        builder.listener(inbox.listener()).start().await
    };
    let (sent, inbox) = (send(0).await?, Inbox::new());
    let consumer = start(&inbox).await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    let file = folder.path().join(&**consumer.client().id()).join(&group).join("offsets.json");
    consumer.shutdown().await?;
    let text = std::fs::read_to_string(&file).context("no offset file")?;
    ensure!(text.contains(&format!(r#""topic":"{topic}"}}"#)), "the offset file is {text}");

    cluster.at("a second run");
    let (more, next) = (send(100).await?, Inbox::new());
    let consumer = start(&next).await?;
    next.has_each_once(more.keys(), SOON).await?;
    // Also without an end in order: offsets are written all the time.
    eventually(SOON, async || {
        let text = std::fs::read_to_string(&file)?;
        let sum: i64 = text.split("}:").skip(1).filter_map(leading_number).sum();
        ensure!(sum == 200, "the offsets in the file add up to {sum}");
        Ok(())
    })
    .await?;
    drop(consumer);

    cluster.at("a third run, of a file that is corrupt");
    ensure!(file.with_extension("json.bak").exists(), "no backup");
    std::fs::write(&file, "{\"offsetTable\":{{")?;
    let (last, again) = (send(200).await?, Inbox::new());
    let consumer = start(&again).await?;
    again.has_all(last.keys(), SOON).await?;
    // The backup is older by one write.
    let all: BTreeSet<_> = again.ids();
    ensure!(sent.keys().all(|id| !all.contains(id)), "it began from the beginning");
    consumer.shutdown().await?;

    cluster.at("a fourth run, of nothing that can be read");
    std::fs::write(&file, "{")?;
    std::fs::write(file.with_extension("json.bak"), "{")?;
    let refused = start(&Inbox::new()).await;
    ensure!(matches!(refused, Err(Error::OffsetFile(_))), "starting came to {refused:?}");
    Ok(producer.shutdown().await?)
}

fn leading_number(text: &str) -> Option<i64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

pub(crate) async fn what_fails_in_a_broadcast_does_not_hold_the_queue_up(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        let (topic, group, folder) = (cluster.topic(1).await?, random_name("group"), TempDir::new()?);
        let (producer, inbox) = (cluster.producer().await?, Inbox::new());
        let of_topic = topic.clone();
        let sent = send_from(1, &producer, 300, move |index| varied(&of_topic, index)).await?;
        let kept = inbox.clone();
        let listener = move |message: StoredMessage| {
            let fails = message.queue_offset() % 2 == 0;
            kept.keep(message);
            async move { if fails { Err("never") } else { Ok(()) } }
        };
        let builder = member(cluster, &group, &topic, "one", folder.path());
        let builder = builder.config(PushConfig {
            start_at: StartAt::First,
            // Less than fail: were they kept, the queue would stand still.
            max_messages_per_queue: 64,
            offset_dir: Some(folder.path().to_owned()),
            ..Default::default()
        });
        let builder = if ordered { builder.ordered_listener(listener) } else { builder.listener(listener) };
        let consumer = builder.start().await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        ensure!(
            consumer.client().id().ends_with("@DEFAULT"),
            "the client id {} is not a lasting one",
            consumer.client().id()
        );
        consumer.shutdown().await?;
        inbox.expect_no_repetition()?;
        producer.shutdown().await?;
    }
    Ok(())
}

pub(crate) async fn a_member_on_a_shared_client_needs_a_lasting_name(cluster: &Cluster) -> Result<()> {
    let (topic, group, folder) = (cluster.topic(2).await?, random_name("group"), TempDir::new()?);
    let producer = cluster.producer().await?;
    let client = async |instance_name: Option<&str>| {
        let config = ClientConfig { instance_name: instance_name.map(str::to_owned), ..Default::default() };
        Client::start([cluster.name_server()], config).await
    };
    let config = || {
        let offset_dir = Some(folder.path().to_owned());
        PushConfig { start_at: StartAt::First, offset_dir, ..Default::default() }
    };
    let start = async |client: Option<&Client>, inbox: &Inbox| {
        let builder = cluster.consumer(&group).config(config()).broadcast().subscribe(&topic, Filter::all());
        let builder = match client {
            Some(client) => builder.client(client.clone()),
            None => builder,
        };
        builder.listener(inbox.listener()).start().await
    };
    let of_topic = topic.clone();
    let sent = send_from(2, &producer, 20, move |index| varied(&of_topic, index)).await?;
    let nameless = client(None).await?;
    let refused = start(Some(&nameless), &Inbox::new()).await;
    let is_told = |error: &Error| matches!(error, Error::Client(ClientError::Config { option: "instance_name", .. }));
    ensure!(refused.as_ref().is_err_and(is_told), "starting came to {:?}", refused.err());
    cluster.at("with a store of its own, which asks for no name");
    let (stored, store) = (Inbox::new(), crate::offset_stores::Memory::default());
    let consumer = cluster.consumer(&group).broadcast().offset_store(store).client(nameless.clone());
    let consumer = consumer.subscribe(&topic, Filter::all()).listener(stored.listener()).start().await?;
    stored.has_each_once(sent.keys(), SOON).await?;
    consumer.shutdown().await?;
    nameless.shutdown(nameless.request_deadline()).await;

    let mut all: BTreeSet<String> = sent.into_keys().collect();
    // Without a shared client the name is a lasting one by default.
    for name in [Some("lasting"), None] {
        cluster.at(format!("started twice, {name:?}"));
        let first = Inbox::new();
        let shared = match name {
            Some(_) => Some(client(name).await?),
            None => None,
        };
        let consumer = start(shared.as_ref(), &first).await?;
        // The second name has a file of its own: to it all is new.
        first.has_all(&all, SOON).await?;
        consumer.shutdown().await?;
        if let Some(shared) = shared {
            shared.shutdown(shared.request_deadline()).await;
        }
        let shared = match name {
            Some(_) => Some(client(name).await?),
            None => None,
        };
        let again = Inbox::new();
        let consumer = start(shared.as_ref(), &again).await?;
        let more = producer.send(Message::new(&topic, "more")).await?;
        again.has_all([&more.message_id], SOON).await?;
        consumer.shutdown().await?;
        ensure!(again.ids() == [more.message_id.clone()].into(), "{} messages came, 1 was new", again.len());
        if let Some(shared) = shared {
            shared.shutdown(shared.request_deadline()).await;
        }
        all.insert(more.message_id);
    }
    Ok(producer.shutdown().await?)
}
