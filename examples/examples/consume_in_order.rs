//! Messages of one key consumed in the order in which they were sent, also when one of them fails.
//!
//! `cargo run --example consume_in_order [-- --name-server HOST:PORT --topic TOPIC]`. Start it twice with a name server:
//! each queue has one owner at a time.

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};
use tokio::sync::mpsc;

/// Consumes in order.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleLedger")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-ledger").name_servers([&name_server]).start().await?;
    for step in 1..=4 {
        for account in ["account-1", "account-2"] {
            let message = Message::new(&options.topic, format!("{account} booking {step}")).sharding_key(account);
            producer.send(message).await?;
        }
    }

    let (done, mut finished) = mpsc::channel(8);
    let consumer = PushConsumer::builder("example-ledger")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .config(PushConfig {
            start_at: StartAt::First,
            suspend_time: Duration::from_millis(200),
            ..PushConfig::default()
        })
        .ordered_listener(move |message: StoredMessage| {
            let done = done.clone();
            async move {
                let body = String::from_utf8_lossy(message.body()).into_owned();
                if body.ends_with('2') && message.reconsume_times() == 0 {
                    println!("{}: {body} fails; the queue waits", message.queue());
                    anyhow::bail!("not this time");
                }
                println!("{}: {body}", message.queue());
                done.send(()).await?;
                Ok(())
            }
        })
        .start()
        .await?;
    for _ in 0..8 {
        finished.recv().await.context("the consumer has ended")?;
    }
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
