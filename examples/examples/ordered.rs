//! Messages of one key in order: the same key goes to the same queue; and queues of your own choice.
//!
//! `cargo run --example ordered [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Compression, Message, Producer, ProducerConfig, Select};
use std::process::ExitCode;

/// Sends to chosen queues.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleOrdered")]
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
    let config = ProducerConfig { compression: Some(Compression::Zlib), ..ProducerConfig::default() };
    let producer = Producer::builder("example-ordered").name_servers([name_server]).config(config).start().await?;

    // Each is awaited before the next one is sent: that is what keeps the order.
    for step in ["created", "paid", "shipped"] {
        for user in ["user-7", "user-8"] {
            let receipt = producer.send(Message::new(topic, step).sharding_key(user)).await?;
            println!("{user} {step}: {} offset {}", receipt.queue, receipt.queue_offset);
        }
    }

    let by_size = Select::by(|queues, message| message.body().len() % queues.len());
    let receipt = producer.send_to(by_size, Message::new(topic, "x".repeat(10_000))).await?;
    println!("10,000 bytes, sent compressed: {}", receipt.queue);
    let receipt = producer.send_to(Select::queue(&receipt.queue), Message::new(topic, "behind it")).await?;
    println!("behind it: {} offset {}", receipt.queue, receipt.queue_offset);

    producer.shutdown().await?;
    Ok(())
}
