//! Messages taken from a stream at one's own pace, and acknowledged one by one.
//!
//! `cargo run --example stream [-- --name-server HOST:PORT --topic TOPIC]`

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};

/// Consumes a stream.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleStream")]
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
    let producer = Producer::builder("example-stream").name_servers([&name_server]).start().await?;
    for number in 0..5 {
        producer.send(Message::new(&options.topic, number.to_string())).await?;
    }

    let mut messages = PushConsumer::builder("example-stream")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .config(PushConfig { start_at: StartAt::First, ..PushConfig::default() })
        .stream()
        .await?;
    let mut rest = 5;
    while rest > 0 {
        let message = messages.next().await.context("the stream has ended")?;
        if message.body() == "3" && message.reconsume_times() == 0 {
            println!("3 is for later");
            // Dropping it would do the same.
            message.nack_with_level(1);
            continue;
        }
        println!("{} from {}", String::from_utf8_lossy(message.body()), message.queue());
        message.ack();
        rest -= 1;
    }
    messages.consumer().shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
