//! Heartbeats as clients of other languages write them: what brokers read of them.

use crate::{
    cluster::{Cluster, pull_everything, random_name},
    wait::SOON,
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rocketmq_common::{
    Message,
    message::{DecodeLimits, decode_records},
    protocol::{ConsumerIds, GetConsumerList, PullMessage},
    remote::{Connection, ConnectionOptions, Deadline, Error, Json, Processors, ResponseCode},
};
use rocketmq_producer::Select;

rocketmq_remote::request! {
    HEART_BEAT(Bytes) -> ();
    /// A heartbeat whose body need not be of our making.
    struct RawHeartbeat {}
}

/// As rocketmq-client-go 2.1.2 writes it, but for the names.
const OF_GO: &str = concat!(
    r#"{"clientID":"CLIENT","producerDataSet":[],"consumerDataSet":[{"groupName":"GROUP","#,
    r#""consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","#,
    r#""subscriptionDataSet":[{"classFilterMode":false,"topic":"TOPIC","subString":"TagA || TagB","#,
    r#""tagsSet":["TagA","TagB"],"codeSet":["2598919","2598920"],"subVersion":1796005250701597427,"#,
    r#""expressionType":"TAG"}],"unitMode":false}]}"#,
);

/// Pieces of that text, and others in their place that brokers read to the same effect.
const READ_ALIKE: &[(&str, &[&str])] = &[
    ("", &[""]),
    (r#"["2598919","2598920"]"#, &["[2598919,2598920]", r#"[2598919,"2598920"]"#, "[2598919.0,2598920.0]"]),
    (r#"["TagA","TagB"]"#, &["null", "[]", "[1,null]"]),
    (r#""tagsSet":["TagA","TagB"],"#, &[""]),
    ("1796005250701597427", &[r#""1796005250701597427""#, "null", r#""""#]),
    (r#""subVersion":1796005250701597427,"#, &[""]),
    (r#","expressionType":"TAG""#, &["", r#","expressionType":null"#, r#","expressionType":"""#]),
    (r#""classFilterMode":false"#, &[r#""classFilterMode":null"#, r#""classFilterMode":"false""#]),
    (r#""CONSUME_FROM_FIRST_OFFSET""#, &[r#""UNKNOWN""#, "null", "4"]),
    (r#""consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","#, &[""]),
    (r#""CLUSTERING""#, &[r#""UNKNOWN""#, r#""Clustering""#, "null", "1"]),
    (r#""messageModel":"CLUSTERING","#, &[""]),
    (r#""CONSUME_PASSIVELY""#, &[r#""PUSH""#, "null", "1"]),
    (r#""consumeType":"CONSUME_PASSIVELY","#, &[""]),
    (r#","unitMode":false"#, &["", r#","unitMode":null"#, r#","unitMode":"false""#, r#","unitMode":0"#]),
    (r#","unitMode":false"#, &[r#","unitMode":false,"zone":{"a":[1]}"#]),
    (r#""producerDataSet":[],"#, &["", r#""heartbeatFingerprint":"0","withoutSub":"false","#]),
    (r#""producerDataSet":[],"#, &[r#""heartbeatFingerprint":null,"withoutSub":null,"#]),
];

/// What a member that sends a heartbeat finds out.
struct Seen {
    heartbeat: Result<(), Error>,
    members: Result<Vec<String>, Error>,
    /// The tags of the messages that its subscription selects.
    pulled: Result<Vec<String>, Error>,
}

/// A topic that holds a message of each of three tags.
struct Tagged {
    addr: String,
    pull: PullMessage,
}

impl Tagged {
    async fn new(cluster: &Cluster) -> Result<Self> {
        let topic = cluster.topic(1).await?;
        let producer = cluster.producer().await?;
        let queue = cluster.queues(&topic).await?.remove(0);
        for tag in ["TagA", "TagB", "TagC"] {
            producer.send_to(Select::queue(&queue), Message::new(&topic, tag).tag(tag)).await?;
        }
        producer.shutdown().await?;
        let client = cluster.client().await?;
        client.route(&queue.topic).await?;
        let addr = client.master(&queue.broker_name)?.to_string();
        // Without a subscription of its own: that of the heartbeat counts.
        Ok(Self { addr, pull: PullMessage { sys_flag: 0, subscription: None, ..pull_everything(&queue, 0) } })
    }

    /// Sends a heartbeat from a connection of its own, with `CLIENT`, `GROUP` and `TOPIC` replaced.
    async fn heartbeat(&self, body: &str, client_id: &str) -> Result<Seen> {
        let group = random_name("group");
        let names = [("CLIENT\"", format!("{client_id}\"")), ("GROUP", group.clone())];
        let mut body = body.replace("TOPIC", &self.pull.topic);
        for (name, value) in names {
            body = body.replace(name, &value);
        }
        let connection = Connection::dial(&self.addr, ConnectionOptions::default(), Processors::new()).await?;
        let deadline = || Deadline::after(SOON);
        let heartbeat = connection.call(&RawHeartbeat {}, Bytes::from(body), deadline()).await;
        let list = GetConsumerList { consumer_group: group.as_str().into() };
        let members = connection.call(&list, (), deadline()).await;
        let members = members.map(|Json(ConsumerIds { consumer_id_list })| consumer_id_list);
        let pull = PullMessage { consumer_group: group.into(), ..self.pull.clone() };
        let pulled = match connection.call(&pull, (), deadline()).await {
            Ok(answer) => {
                let broker_name = pull.broker_name.as_ref().context("the pull names its broker")?;
                let records = decode_records(answer.body, &pull.topic, broker_name, DecodeLimits::default());
                let tags = records.map(|message| Ok(message?.tag().unwrap_or_default().to_owned()));
                Ok(tags.collect::<Result<_>>()?)
            }
            Err(error) => Err(error),
        };
        Ok(Seen { heartbeat, members, pulled })
    }
}

pub(crate) async fn of_other_languages_are_read(cluster: &Cluster) -> Result<()> {
    let topic = Tagged::new(cluster).await?;
    for (piece, others) in READ_ALIKE {
        ensure!(OF_GO.contains(piece), "no {piece} in the heartbeat");
        for other in *others {
            let seen = topic.heartbeat(&OF_GO.replacen(piece, other, 1), "c1").await?;
            let told = || format!("{other} in place of {piece}");
            seen.heartbeat.with_context(told)?;
            ensure!(seen.members.with_context(told)? == ["c1"], "{}", told());
            let pulled = seen.pulled.with_context(told)?;
            ensure!(pulled == ["TagA", "TagB"], "{}: pulled {pulled:?}", told());
        }
    }
    for missing in ["null", r#""""#] {
        let seen = topic.heartbeat(&OF_GO.replace(r#""2598919""#, missing), "c1").await?;
        ensure!(seen.pulled? == ["TagB"], "{missing} counts as the code of a tag");
    }
    let seen = topic.heartbeat(&OF_GO.replace(r#""CLIENT""#, "17"), "").await?;
    ensure!(seen.members? == ["17"], "a client id may be a number");
    Ok(())
}

pub(crate) async fn that_make_no_sense_are_refused(cluster: &Cluster) -> Result<()> {
    let topic = Tagged::new(cluster).await?;
    for code in [r#""x""#, "4297566215", "[]"] {
        let seen = topic.heartbeat(&OF_GO.replace(r#""2598919""#, code), "c1").await?;
        let refusal = seen.heartbeat.err().and_then(|error| error.response_code());
        ensure!(refusal == Some(ResponseCode::SYSTEM_ERROR), "{code} as the code of a tag: {refusal:?}");
        ensure!(seen.members.is_err(), "{code} as the code of a tag makes a member");
    }
    for name in [r#""GROUP""#, r#""TOPIC""#] {
        let seen = topic.heartbeat(&OF_GO.replace(name, "null"), "c1").await?;
        let refusal = seen.heartbeat.err().and_then(|error| error.response_code());
        ensure!(refusal == Some(ResponseCode::SYSTEM_ERROR), "null in place of {name}: {refusal:?}");
    }
    // An unknown language is refused where it is used; a member without an id leaves the list readable.
    let seen = topic.heartbeat(&OF_GO.replace(r#""TAG""#, r#""OTHER""#), "c1").await?;
    seen.heartbeat?;
    ensure!(seen.members? == ["c1"] && seen.pulled.is_err(), "an unknown language selects messages");
    let seen = topic.heartbeat(&OF_GO.replace(r#""CLIENT""#, "null"), "").await?;
    seen.heartbeat?;
    let members = seen.members?;
    ensure!(members.iter().all(String::is_empty), "a member without an id has one: {members:?}");
    Ok(())
}
