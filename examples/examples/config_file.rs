//! Options from a TOML file: a producer's and a consumer's, with durations such as `"5s"`.
//!
//! `cargo run --example config_file [-- --name-server HOST:PORT --topic TOPIC --config FILE]`

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer, ProducerConfig};
use serde::Deserialize;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// Sends and consumes with the options of a file.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleConfigFile")]
    topic: String,
    /// The file.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/config/orders.toml"))]
    config: PathBuf,
}

/// The application's own configuration holds those of its clients. A name that no option has is an error.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Config {
    producer: ProducerConfig,
    consumer: PushConfig,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let text = std::fs::read_to_string(&options.config).with_context(|| format!("{}", options.config.display()))?;
    let config: Config = toml::from_str(&text)?;
    println!(
        "a send may take {:?}, a request {:?}",
        config.producer.send_timeout, config.consumer.client.request_timeout
    );

    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let builder = Producer::builder("example-config-file").name_servers([&name_server]);
    let producer = builder.config(config.producer).start().await?;
    let receipt = producer.send(Message::new(&options.topic, "configured")).await?;

    let (consumed, mut messages) = mpsc::channel(10);
    let consumer = PushConsumer::builder("example-config-file")
        .name_servers([&name_server])
        .config(config.consumer)
        .subscribe(&options.topic, Filter::all())
        .listener(move |message: StoredMessage| {
            let consumed = consumed.clone();
            async move { consumed.send(message).await }
        })
        .start()
        .await?;
    loop {
        let message = timeout(Duration::from_secs(30), messages.recv()).await.context("no message came in 30 s")?;
        let message = message.context("the consumer has ended")?;
        println!("consumed {}", message.message_id());
        if message.message_id() == receipt.message_id {
            break;
        }
    }
    drop(messages);
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
