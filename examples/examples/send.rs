//! The ways to send: awaiting the receipt, queueing many and awaiting them later, one-way, and many in one request.
//!
//! `cargo run --example send [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Error, Message, Producer, ProducerConfig};
use std::{process::ExitCode, time::Duration};

/// Sends messages in every way there is.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "Example")]
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
    let config = ProducerConfig { send_timeout: Duration::from_secs(5), retries: 3, ..ProducerConfig::default() };
    let producer = Producer::builder("example-producer").name_servers([name_server]).config(config).start().await?;

    // Await the broker's word, message by message.
    let receipt = producer.send(Message::new(topic, "one").tag("eu").key("o-1").property("colour", "blue")).await?;
    println!("sent {} to {} offset {}: {:?}", receipt.message_id, receipt.queue, receipt.queue_offset, receipt.status);

    // Queue many, then await their receipts.
    let mut pending = Vec::new();
    for number in 0..100 {
        pending.push(producer.send_async(Message::new(topic, format!("async {number}"))).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    println!("sent 100 without waiting for each");

    // No answer asked for, none given.
    producer.send_oneway(Message::new(topic, "lost if the broker is")).await?;
    println!("sent one-way");

    // One request, one queue, all or none.
    let batch = (0..32).map(|number| Message::new(topic, format!("batched {number}"))).collect();
    let receipt = producer.send_batch(batch).await?;
    println!("sent a batch of {} to {} from offset {}", receipt.message_ids.len(), receipt.queue, receipt.queue_offset);

    // What breaks a rule is refused before anything is sent.
    match producer.send(Message::new("no such topic!", "body")).await {
        Err(Error::Message(error)) => println!("refused: {:#}", anyhow::Error::from(error)),
        other => anyhow::bail!("an illegal topic came to {other:?}"),
    }

    producer.shutdown().await?;
    Ok(())
}
