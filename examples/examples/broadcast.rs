//! Every member of a group gets all messages, and keeps in a file how far it is.
//!
//! `cargo run --example broadcast [-- --name-server HOST:PORT --topic TOPIC --offsets DIRECTORY]`

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{ClientConfig, Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// How long a message may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two members of one group in one process.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleBroadcast")]
    topic: String,
    /// Where the offsets are kept. Default: a directory of this run's own, which goes when the run ends.
    #[arg(long)]
    offsets: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    // Offsets belong to one cluster: those of another may lie behind this one's messages, and hide them.
    let own = tempfile::tempdir()?;
    let offsets = options.offsets.unwrap_or_else(|| own.path().to_owned());
    let producer = Producer::builder("example-broadcast").name_servers([&name_server]).start().await?;
    producer.send(Message::new(&options.topic, "prices have changed")).await?;

    let (done, mut finished) = mpsc::channel(1);
    let mut members = Vec::new();
    for name in ["one", "two"] {
        let done = done.clone();
        // Two on one machine need names of their own: their files are found by them.
        let client = ClientConfig { instance_name: Some(name.to_owned()), ..ClientConfig::default() };
        let consumer = PushConsumer::builder("example-caches")
            .name_servers([&name_server])
            .subscribe(&options.topic, Filter::all())
            .config(PushConfig {
                start_at: StartAt::First,
                offset_dir: Some(offsets.clone()),
                client,
                ..PushConfig::default()
            })
            .broadcast()
            .listener(move |message: StoredMessage| {
                let done = done.clone();
                async move {
                    println!("member {name}: {}", String::from_utf8_lossy(message.body()));
                    done.send(name).await
                }
            })
            .start()
            .await?;
        members.push(consumer);
    }
    // On a cluster that lives on, a member may have had the message already in an earlier run.
    producer.send(Message::new(&options.topic, "and again")).await?;
    let mut heard = std::collections::BTreeSet::new();
    while heard.len() < members.len() {
        let next = timeout(PATIENCE, finished.recv())
            .await
            .context("a member got no message: are the offsets of another cluster?")?;
        heard.insert(next.context("the consumers have ended")?);
    }
    let drain = async { while finished.recv().await.is_some() {} };
    let shut_down = async {
        let mut ended = Ok(());
        // Whatever becomes of one, the other ends as well.
        for consumer in members {
            ended = ended.and(consumer.shutdown().await);
        }
        drop(done);
        ended
    };
    let ((), ended) = tokio::join!(drain, shut_down);
    ended?;
    producer.shutdown().await?;
    Ok(())
}
