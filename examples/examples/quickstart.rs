//! The first message: sends ten messages, consumes them, prints each, and shuts down.
//!
//! `cargo run --example quickstart` starts a name server and a broker in this process;
//! `cargo run --example quickstart -- --name-server 127.0.0.1:9876` goes to a cluster that is there already.

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{
    collections::HashSet,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time::timeout};

/// Sends ten messages and consumes them.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "Quickstart")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    println!("name server {name_server}");

    let producer = Producer::builder("quickstart-producer").name_servers([&name_server]).start().await?;
    let mut expected = HashSet::new();
    for number in 1..=10 {
        let body = format!("hello {number}");
        let message = Message::new(&options.topic, body).tag("greeting").key(format!("key-{number}"));
        let receipt = producer.send(message).await?;
        println!("sent     {} to {} offset {}", receipt.message_id, receipt.queue, receipt.queue_offset);
        expected.insert(receipt.message_id);
    }

    // A group of its own, from the first message on: it also gets what earlier runs left in the topic.
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let (consumed, mut messages) = mpsc::channel(10);
    let consumer = PushConsumer::builder(format!("quickstart-consumer-{started}"))
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::tags("greeting"))
        .config(PushConfig { start_at: StartAt::First, ..PushConfig::default() })
        .listener(move |message: StoredMessage| {
            let consumed = consumed.clone();
            async move { consumed.send(message).await }
        })
        .start()
        .await?;
    while !expected.is_empty() {
        let message = timeout(Duration::from_secs(30), messages.recv()).await.context("no message came in 30 s")?;
        let message = message.context("the consumer has ended")?;
        if expected.remove(message.message_id().as_ref()) {
            println!(
                "consumed {} from {} offset {} tag {} body {}",
                message.message_id(),
                message.queue(),
                message.queue_offset(),
                message.tag().unwrap_or("-"),
                String::from_utf8_lossy(message.body()),
            );
        }
    }
    drop(messages);

    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
