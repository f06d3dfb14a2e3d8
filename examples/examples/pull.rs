//! Messages fetched when their user asks for them: polled, polled again after a seek, and offsets committed by hand.
//!
//! `cargo run --example pull [-- --name-server HOST:PORT --topic TOPIC]`

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, Position, PullConfig, PullConsumer, StartAt};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};

/// Pulls messages.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExamplePull")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-pull").name_servers([&name_server]).start().await?;
    for number in 0..5 {
        producer.send(Message::new(&options.topic, number.to_string())).await?;
    }

    let puller = PullConsumer::builder("example-pull")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .config(PullConfig { auto_commit: false, start_at: StartAt::First, ..PullConfig::default() })
        .start()
        .await?;
    let mut last = None;
    let mut rest = 5_usize;
    while rest > 0 {
        for message in puller.poll(Duration::from_secs(5)).await? {
            println!("{} from {}", String::from_utf8_lossy(message.body()), message.queue());
            last = Some(message);
            rest = rest.saturating_sub(1);
        }
    }
    puller.commit().await?;

    let last = last.context("nothing came")?;
    puller.seek(&last.queue(), Position::Offset(last.queue_offset())).await?;
    for message in puller.poll(Duration::from_secs(5)).await? {
        println!("once more {}", String::from_utf8_lossy(message.body()));
    }
    let committed = puller.committed(&last.queue()).await?;
    println!("committed in {}: {committed:?}", last.queue());
    puller.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
