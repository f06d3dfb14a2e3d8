//! One consumer, two ways to get messages: it pulls, until an operator has its group pop. Then all members take messages from
//! all queues at once, and a slow one holds nobody up.
//!
//! `cargo run --example set_to_pop [-- --name-server HOST:PORT --topic TOPIC]`. On a cluster of your own, set the mode meanwhile:
//! `mqadmin setConsumeMode -c CLUSTER -t TOPIC -g example-modes -m POP -q 0`; the program ends once it pops.

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{AssignmentChange, Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};
use tokio::sync::mpsc;

/// Consumes by pulling or by popping, as an operator says.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleModes")]
    topic: String,
}

const GROUP: &str = "example-modes";

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-modes").name_servers([&name_server]).start().await?;
    producer.send(Message::new(&options.topic, "before")).await?;

    let (told, mut taken) = mpsc::channel(64);
    let (consumed, mut bodies) = mpsc::channel(64);
    let (topic, rebalance_interval) = (options.topic.clone(), Duration::from_millis(500));
    let consumer = PushConsumer::builder(GROUP)
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .config(PushConfig { start_at: StartAt::First, rebalance_interval, ..PushConfig::default() })
        .allocate_by_broker()
        // It must not wait.
        .on_assignment(move |change: &AssignmentChange| {
            if *change.topic == *topic {
                let _ = told.try_send(change.own.clone());
            }
        })
        .listener(move |message: StoredMessage| {
            let consumed = consumed.clone();
            async move { consumed.send(message.body().clone()).await }
        })
        .start()
        .await?;
    let own = taken.recv().await.context("the consumer has ended")?;
    println!("pulls from queues {:?}", own.iter().map(|queue| queue.queue_id).collect::<Vec<_>>());
    println!("  consumed {:?}", bodies.recv().await.context("the consumer has ended")?);

    if let Some(cluster) = &cluster {
        cluster.set_to_pop(&options.topic, GROUP, true);
    }
    // All queues of a broker together have the number -1.
    while !taken.recv().await.context("the consumer has ended")?.iter().any(|queue| queue.queue_id < 0) {}
    println!("pops from all queues");
    producer.send(Message::new(&options.topic, "after")).await?;
    while bodies.recv().await.context("the consumer has ended")? != "after" {}
    println!("  consumed \"after\"");
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
