//! A consumer that runs until Ctrl-C or SIGTERM, retries what fails, and finishes what is in hand before it ends.
//!
//! `cargo run --example consume -- --name-server HOST:PORT --topic TOPIC [--tags "a || b" | --sql "a > 1"]`. Without a name server it
//! starts one in this process, sends itself a few messages, one of which fails at first, and ends when all are consumed.

use anyhow::Context;
use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};
use tokio::sync::mpsc;

/// Consumes a topic.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic.
    #[arg(long, default_value = "Example")]
    topic: String,
    /// The consumer group.
    #[arg(long, default_value = "example-consumer")]
    group: String,
    /// The tags: one, or several separated by `||`; `*` for all.
    #[arg(long, default_value = "*")]
    tags: String,
    /// An SQL92 expression over properties, instead of tags; for brokers with `enablePropertyFilter=true`.
    #[arg(long)]
    sql: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN).init();
    let options = Options::parse();
    let embedded = DevCluster::builder().delay_levels(vec![Duration::from_millis(200); 18]);
    let (name_server, cluster) = options.target.reach(embedded).await?;

    let filter = options.sql.map_or_else(|| Filter::tags(options.tags), Filter::sql);
    let (done, mut finished) = mpsc::channel(1);
    let consumer = PushConsumer::builder(options.group)
        .name_servers([&name_server])
        .subscribe(&options.topic, filter)
        .config(PushConfig {
            concurrency: 8,
            start_at: StartAt::First,
            max_reconsume_times: Some(3),
            ..PushConfig::default()
        })
        .listener(move |message: StoredMessage| {
            let done = done.clone();
            async move {
                let attempt = message.reconsume_times() + 1;
                let body = String::from_utf8_lossy(message.body());
                if body.starts_with("difficult") && attempt == 1 {
                    anyhow::bail!("{body} failed at first");
                }
                println!("{} at {}: {body} (attempt {attempt})", message.queue(), message.queue_offset());
                done.send(()).await?;
                Ok(())
            }
        })
        .start()
        .await?;

    if cluster.is_some() {
        let producer = Producer::builder("example-producer").name_servers([&name_server]).start().await?;
        for body in ["easy 1", "difficult 2", "easy 3"] {
            producer.send(Message::new(&options.topic, body)).await?;
        }
        for _ in 0..3 {
            finished.recv().await.context("the consumer has ended")?;
        }
        producer.shutdown().await?;
    } else {
        let drain = async { while finished.recv().await.is_some() {} };
        tokio::select! {
            () = drain => {}
            signal = end_signal() => signal?,
        }
    }

    // Finishes the calls in hand and records the offsets; whatever was not finished comes again.
    drop(finished);
    consumer.shutdown().await?;
    println!("consumer ended");
    Ok(())
}

#[cfg(unix)]
async fn end_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => interrupt,
    }
}

#[cfg(not(unix))]
async fn end_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
