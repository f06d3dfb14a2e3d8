//! Several messages a call, an outcome that says which of them failed, and a consumer that is changed while it runs.
//!
//! `cargo run --example consume_batches [-- --name-server HOST:PORT --topic TOPIC]`

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, Outcome, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};
use tokio::sync::mpsc;

/// Consumes in batches.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleBatches")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let embedded = DevCluster::builder().delay_levels(vec![Duration::from_millis(200); 18]);
    let (name_server, _cluster) = options.target.reach(embedded).await?;
    let producer = Producer::builder("example-batches").name_servers([&name_server]).start().await?;
    let messages = (0..20).map(|number| Message::new(&options.topic, number.to_string())).collect();
    producer.send_batch(messages).await?;

    let (done, mut finished) = mpsc::channel(32);
    let consumer = PushConsumer::builder("example-batches")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .config(PushConfig { start_at: StartAt::First, consume_batch: 8, ..PushConfig::default() })
        .batch_listener(move |messages: Vec<StoredMessage>| {
            let done = done.clone();
            async move {
                let fails = |message: &StoredMessage| message.body() == "7" && message.reconsume_times() == 0;
                let failed: Vec<_> = (0..messages.len()).filter(|index| fails(&messages[*index])).collect();
                println!("{} messages, {} failed", messages.len(), failed.len());
                done.send(messages.len() - failed.len()).await?;
                // Level 1 of a broker is a second.
                anyhow::Ok(Outcome::failed_at(failed, "seven is difficult").delay_level(1))
            }
        })
        .start()
        .await?;

    consumer.set_concurrency(2)?;
    consumer.suspend();
    consumer.resume();
    let mut rest = 20;
    while rest > 0 {
        rest -= finished.recv().await.context("the consumer has ended")?;
    }
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
