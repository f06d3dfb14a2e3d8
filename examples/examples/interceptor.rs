//! Seeing every send, adding properties to it, and staying away from brokers that do badly.
//!
//! `cargo run --example interceptor [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Error, FaultTolerance, Message, Producer, ProducerConfig, SendInterceptor, SendReceipt};
use std::{process::ExitCode, time::Duration};

/// Sends messages under observation.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleInterceptor")]
    topic: String,
}

/// Marks every message with where it came from, and prints what became of it.
struct Origin;

impl SendInterceptor for Origin {
    fn before_send(&self, _: &Message) -> Vec<(String, String)> {
        vec![("origin".into(), "example".into())]
    }

    fn after_send(&self, message: &Message, took: Duration, result: Result<Option<&SendReceipt>, &Error>) {
        match result {
            Ok(Some(receipt)) => println!("{} is in {} after {took:?}", receipt.message_id, receipt.queue),
            Ok(None) => println!("a message to {} was handed over", message.topic()),
            Err(error) => println!("a message to {} failed after {took:?}: {error}", message.topic()),
        }
    }
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
        // Brokers that are slow or fail are avoided for a while, and probed until they answer again.
        fault_tolerance: Some(FaultTolerance { detector: true, ..FaultTolerance::default() }),
        attempt_timeout: Some(Duration::from_secs(1)),
        ..ProducerConfig::default()
    };
    let builder = Producer::builder("example-interceptor").name_servers([name_server]).config(config);
    let producer = builder.interceptor(Origin).start().await?;

    producer.send(Message::new(topic, "one")).await?;
    producer.send_async(Message::new(topic, "two")).await?.await?;
    producer.send_batch(vec![Message::new(topic, "three"), Message::new(topic, "four")]).await?;
    producer.send_oneway(Message::new(topic, "five")).await?;

    producer.shutdown().await?;
    Ok(())
}
