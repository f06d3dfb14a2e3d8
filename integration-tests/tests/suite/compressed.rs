//! Large bodies travel and lie compressed, and come as they were sent.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::{Sent, body, expect_all_same},
    wait::{SOON, eventually},
};
use anyhow::{Context, Result, ensure};
use rocketmq_common::{Message, random::random_u64};
use rocketmq_consumer::Filter;
use rocketmq_producer::{Compression, ProducerConfig};
use std::{collections::BTreeMap, time::Duration};

pub(crate) async fn zlib_bodies_lie_compressed_and_arrive_whole(cluster: &Cluster) -> Result<()> {
    lies_compressed_and_arrives_whole(cluster, Compression::Zlib, 0x301).await
}

pub(crate) async fn lz4_bodies_lie_compressed_and_arrive_whole(cluster: &Cluster) -> Result<()> {
    lies_compressed_and_arrives_whole(cluster, Compression::Lz4, 0x101).await
}

pub(crate) async fn zstd_bodies_lie_compressed_and_arrive_whole(cluster: &Cluster) -> Result<()> {
    lies_compressed_and_arrives_whole(cluster, Compression::Zstd, 0x201).await
}

/// Whether a body gets smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Repetitive,
    Random,
}

async fn lies_compressed_and_arrives_whole(cluster: &Cluster, compression: Compression, bits: i32) -> Result<()> {
    const FROM: usize = 4096;
    let topic = cluster.topic(2).await?;
    let config = ProducerConfig {
        retries: 20,
        send_timeout: Duration::from_secs(20),
        compression: Some(compression),
        ..Default::default()
    };
    ensure!(config.compress_from_bytes == FROM, "bodies are compressed from {} on", config.compress_from_bytes);
    let producer = cluster.producer_with(config).await?;
    let (mut sent, mut kinds) = (Sent::new(), BTreeMap::new());
    let sizes = [1, 100, FROM - 1, FROM, FROM + 1, 65 * 1024, 200 * 1024];
    for (index, size) in sizes.into_iter().enumerate() {
        for kind in [Kind::Repetitive, Kind::Random] {
            let body = match kind {
                Kind::Repetitive => body(index, 64).repeat(size / 64 + 1),
                Kind::Random => (0..=size / 8).flat_map(|_| random_u64().to_be_bytes()).collect(),
            };
            let message = Message::new(&topic, body[..size].to_vec()).tag("tag").property("kind", format!("{kind:?}"));
            let id = producer.send(message.clone()).await?.message_id;
            kinds.insert(id.clone(), (kind, size));
            sent.insert(id, message);
        }
    }
    cluster.at("reading what is stored");
    let records = eventually(SOON, async || {
        let pulled = cluster.stored_records(&topic).await?;
        let records: Vec<Raw> = pulled.iter().map(|(_, body)| split(body)).collect::<Result<Vec<_>>>()?.concat();
        ensure!(records.len() == sent.len(), "{} of {} messages stored", records.len(), sent.len());
        Ok(records)
    })
    .await?;
    for Raw { properties, sys_flag, body_bytes } in records {
        let id = properties.split('\u{2}').find_map(|pair| pair.strip_prefix("UNIQ_KEY\u{1}")).context("no id")?;
        let (kind, size) = *kinds.get(id).context("a message nobody sent")?;
        if size < FROM {
            ensure!((sys_flag & 0x701, body_bytes) == (0, size), "{kind:?} {size}: {sys_flag:#x}, {body_bytes} bytes");
            continue;
        }
        ensure!(sys_flag & 0x701 == bits, "{kind:?} {size}: the system flag is {sys_flag:#x}");
        let most = if kind == Kind::Repetitive { size / 10 } else { size + size / 100 + 64 };
        ensure!(body_bytes <= most && body_bytes != size, "{kind:?} {size}: {body_bytes} bytes are stored");
    }
    expect_all_same(&sent, &cluster.stored(&topic).await?)?;
    cluster.at("consuming");
    let inbox = Inbox::new();
    let consumer = cluster.consumer(&random_name("group")).subscribe(&topic, Filter::all());
    let consumer = consumer.listener(inbox.listener()).start().await?;
    inbox.has_each_once(sent.keys(), SOON).await?;
    expect_all_same(&sent, &inbox.messages())?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

/// What a broker has stored of a message.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) sys_flag: i32,
    pub(crate) body_bytes: usize,
    pub(crate) properties: String,
}

/// The records of a pull's body, which lie one after the other, read without the decoder that is under test.
pub(crate) fn split(mut pulled: &[u8]) -> Result<Vec<Raw>> {
    let mut records = Vec::new();
    while !pulled.is_empty() {
        let size = usize::try_from(int(pulled, 0)?)?;
        let (record, rest) = pulled.split_at_checked(size).context("a record is cut")?;
        let sys_flag = int(record, 36)?;
        let host = |bit| if sys_flag & bit == 0 { 8 } else { 20 };
        // Born host, store time and store host, retries and the offset of a half message.
        let body_at = 48 + host(0x10) + 8 + host(0x20) + 4 + 8;
        let body_bytes = usize::try_from(int(record, body_at)?)?;
        let topic_at = body_at + 4 + body_bytes;
        let topic_bytes = usize::from(*record.get(topic_at).context("a record without a topic")?);
        let properties = record.get(topic_at + 1 + topic_bytes + 2..).context("a record without properties")?;
        records.push(Raw { sys_flag, body_bytes, properties: String::from_utf8(properties.to_vec())? });
        pulled = rest;
    }
    Ok(records)
}

fn int(record: &[u8], at: usize) -> Result<i32> {
    let bytes = record.get(at..).and_then(|rest| rest.first_chunk()).context("a record is cut")?;
    Ok(i32::from_be_bytes(*bytes))
}
