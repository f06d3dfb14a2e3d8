//! Seeing every call of a listener, and what a consumer counts, as JSON.
//!
//! `cargo run --example statistics [-- --name-server HOST:PORT --topic TOPIC]`

use anyhow::ensure;
use clap::Parser;
use rocketmq_consumer::{
    ConsumeCall, ConsumeEnd, ConsumeInterceptor, Consumed, Filter, PushConfig, PushConsumer, StartAt, StoredMessage,
};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};
use tokio::time::{Instant, sleep};

/// Consumes messages under observation.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleStatistics")]
    topic: String,
}

/// Prints what failed.
struct Failures;

impl ConsumeInterceptor for Failures {
    fn after_consume(&self, call: &ConsumeCall<'_>, end: &ConsumeEnd<'_>) {
        if let Consumed::Failed { reason, .. } = end.consumed {
            println!("a call with {} messages failed after {:?}: {reason}", call.messages.len(), end.took);
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
    let producer = Producer::builder("example-statistics").name_servers([name_server.clone()]).start().await?;
    for number in 0..20 {
        producer.send(Message::new(topic, format!("{number}"))).await?;
    }
    // What fails becomes a dead letter at once.
    let config = PushConfig { start_at: StartAt::First, max_reconsume_times: Some(0), ..PushConfig::default() };
    let builder = PushConsumer::builder("example-statistics").name_servers([name_server]).config(config);
    let consumer = builder
        .subscribe(topic, Filter::all())
        .interceptor(Failures)
        .listener(|message: StoredMessage| async move {
            if message.body().ends_with(b"7") { Err("it ends with a seven") } else { Ok(()) }
        })
        .start()
        .await?;

    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let statistics = consumer.statistics();
        if statistics.topics.get(topic).is_some_and(|of_topic| of_topic.done + of_topic.failed >= 20) {
            println!("{}", serde_json::to_string_pretty(&statistics)?);
            break;
        }
        ensure!(Instant::now() < deadline, "not all messages came: {statistics:?}");
        sleep(Duration::from_millis(100)).await;
    }
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
