//! Messages for later: by a delay level, after a while, at a time; and one that is taken back before it comes.
//!
//! `cargo run --example delayed [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

/// Sends delayed messages.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleDelayed")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let topic = &options.topic;
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-delayed").name_servers([name_server]).start().await?;

    // Level 3 is 10 s by default; every broker knows levels.
    let receipt = producer.send(Message::new(topic, "in about 10 s").delay_level(3)).await?;
    println!("{} comes by its delay level", receipt.message_id);

    // Brokers from 5.0 on hold a message for any time up to three days.
    let hour = Duration::from_secs(3600);
    producer.send(Message::new(topic, "in an hour").deliver_after(hour)).await?;
    let receipt = producer.send(Message::new(topic, "at a time").deliver_at(SystemTime::now() + 2 * hour)).await?;
    println!("{} comes at its time", receipt.message_id);

    // Brokers from 5.3.2 on can be asked to take it back, where `recallMessageEnable` is set.
    match producer.recall(&receipt).await {
        Ok(()) => println!("{} does not come after all", receipt.message_id),
        Err(error) => println!("{} comes all the same: {:#}", receipt.message_id, anyhow::Error::from(error)),
    }

    producer.shutdown().await?;
    Ok(())
}
