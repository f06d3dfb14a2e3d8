//! Asking how many messages a group has still to consume, as a health check or an autoscaler does.
//!
//! `cargo run --example lag [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{convert::Infallible, process::ExitCode, time::Duration};
use tokio::time::sleep;

/// Consumes messages slowly, and tells how many are left.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleLag")]
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
    let producer = Producer::builder("example-lag").name_servers([name_server.clone()]).start().await?;
    for number in 0..40 {
        producer.send(Message::new(topic, format!("{number}"))).await?;
    }
    let config = PushConfig { start_at: StartAt::First, concurrency: 2, ..PushConfig::default() };
    let builder = PushConsumer::builder("example-lag").name_servers([name_server]).config(config);
    let consumer = builder
        .subscribe(topic, Filter::all())
        .listener(|_: StoredMessage| async {
            sleep(Duration::from_millis(50)).await;
            Ok::<_, Infallible>(())
        })
        .start()
        .await?;
    loop {
        let lag = consumer.lag().await?;
        println!("{} messages behind", lag.total);
        for queue in lag.queues.iter().filter(|queue| queue.lag > 0) {
            println!("  {}: at {} of {}", queue.queue, queue.offset, queue.max_offset);
        }
        if lag.total == 0 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
