//! How the members of a group share queues: dealt out like cards, and by a strategy of one's own, where a second member
//! stands by until the first one leaves.
//!
//! `cargo run --example allocate [-- --name-server HOST:PORT --topic TOPIC]`. The topic needs two queues or more.

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{
    Allocate, AllocateError, AllocateStrategy, AssignmentChange, Filter, Members, MessageQueue, PushConsumer,
    StoredMessage,
};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{collections::BTreeMap, process::ExitCode};
use tokio::sync::mpsc;

/// Shares queues out in two ways.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleShared")]
    topic: String,
}

/// The member that comes first has all queues, the others stand by.
struct First;

impl AllocateStrategy for First {
    fn name(&self) -> &str {
        "FIRST"
    }

    fn allocate(&self, members: &Members<'_>, queues: &[MessageQueue]) -> Result<Vec<MessageQueue>, AllocateError> {
        Ok(if members.index() == Some(0) { queues.to_vec() } else { Vec::new() })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-shared").name_servers([&name_server]).start().await?;
    producer.send(Message::new(&options.topic, "creates the topic")).await?;
    producer.shutdown().await?;

    println!("by circle:");
    let (told, mut shares) = Shares::watch(&options.topic);
    let one = member(&name_server, &options.topic, "one", Allocate::by_circle(), &told).await?;
    let two = member(&name_server, &options.topic, "two", Allocate::by_circle(), &told).await?;
    shares.until(|of, all| of("one") > 0 && of("two") > 0 && of("one") + of("two") == all).await?;
    two.shutdown().await?;
    one.shutdown().await?;

    println!("by a strategy of one's own:");
    let (told, mut shares) = Shares::watch(&options.topic);
    let one = member(&name_server, &options.topic, "one", First, &told).await?;
    shares.until(|of, all| of("one") == all).await?;
    let two = member(&name_server, &options.topic, "two", First, &told).await?;
    println!("  member one leaves");
    one.shutdown().await?;
    shares.until(|of, all| of("two") == all).await?;
    two.shutdown().await?;
    Ok(())
}

type Told = mpsc::Sender<(&'static str, AssignmentChange)>;

async fn member(
    name_server: &str,
    topic: &str,
    name: &'static str,
    strategy: impl AllocateStrategy + 'static,
    told: &Told,
) -> anyhow::Result<PushConsumer> {
    let told = told.clone();
    let consumer = PushConsumer::builder(format!("example-shared-{}", strategy.name()))
        .name_servers([name_server])
        .subscribe(topic, Filter::all())
        .allocate(strategy)
        // It must not wait.
        .on_assignment(move |change| _ = told.try_send((name, change.clone())))
        .listener(|_: StoredMessage| async { Ok::<_, String>(()) });
    Ok(consumer.start().await?)
}

/// How many queues of a topic each member has, as far as it was told.
struct Shares {
    topic: String,
    changes: mpsc::Receiver<(&'static str, AssignmentChange)>,
    sizes: BTreeMap<&'static str, usize>,
}

impl Shares {
    fn watch(topic: &str) -> (Told, Self) {
        let (told, changes) = mpsc::channel(64);
        (told, Self { topic: topic.to_owned(), changes, sizes: BTreeMap::new() })
    }

    /// Prints changes until the sizes of the shares, and the number of all queues, are as wanted.
    async fn until(&mut self, wanted: impl Fn(&dyn Fn(&str) -> usize, usize) -> bool) -> anyhow::Result<()> {
        let ids = |queues: &[MessageQueue]| queues.iter().map(|queue| queue.queue_id).collect::<Vec<_>>();
        loop {
            let (name, change) = self.changes.recv().await.context("the members have ended")?;
            // The group's retry topic is shared out, too.
            if *change.topic != *self.topic {
                continue;
            }
            println!("  member {name} took {:?}, gave up {:?}", ids(&change.taken), ids(&change.given_up));
            self.sizes.insert(name, change.own.len());
            if wanted(&|name| self.sizes.get(name).copied().unwrap_or(0), change.all.len()) {
                return Ok(());
            }
        }
    }
}
