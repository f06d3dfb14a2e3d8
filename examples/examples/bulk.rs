//! Many messages, cheaply: queued without waiting, gathered into batches by the producer, or divided into batches.
//!
//! `cargo run --example bulk [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Compression, Message, Producer, ProducerConfig};
use std::{process::ExitCode, time::Duration};

/// Sends many messages.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleBulk")]
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
    let config = ProducerConfig {
        // Single sends wait up to 5 ms for others to travel with.
        linger: Duration::from_millis(5),
        // What waits for the broker's word is bounded; further sends wait for room.
        max_pending: 2_000,
        max_pending_bytes: 8 * 1024 * 1024,
        compression: Some(Compression::Zlib),
        ..ProducerConfig::default()
    };
    let producer = Producer::builder("example-bulk").name_servers([name_server]).config(config).start().await?;

    let mut pending = Vec::new();
    for number in 0..10_000 {
        pending.push(producer.send_async(Message::new(topic, format!("gathered {number}"))).await?);
    }
    // Nothing lingers any longer; every receipt is there.
    producer.flush().await;
    for receipt in pending {
        receipt.await?;
    }
    println!("sent 10,000 messages in batches that the producer made");

    // A list of one's own, of any length: as many requests as it takes, each all or none.
    let list = (0..2_000).map(|number| Message::new(topic, format!("{number} ").repeat(1_000))).collect();
    let parts = producer.split_batch(list);
    println!("2,000 messages of 4 kB and more go in {} batches", parts.len());
    for part in parts {
        let receipt = producer.send_batch(part).await?;
        println!("{} messages in {} from offset {}", receipt.message_ids.len(), receipt.queue, receipt.queue_offset);
    }

    producer.shutdown().await?;
    Ok(())
}
