//! Offsets kept where the results are, so that both are saved in one step: here in a map, in earnest in a database.
//!
//! `cargo run --example offset_store [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_consumer::{Filter, MessageQueue, OffsetStore, PushConfig, PushConsumer, StartAt, StoredMessage, Storing};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{Arc, Mutex},
};
use tokio::sync::Semaphore;

/// Keeps offsets elsewhere.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleOffsets")]
    topic: String,
}

/// Stands for a database.
#[derive(Clone, Debug, Default)]
struct Database(Arc<Mutex<HashMap<MessageQueue, i64>>>);

impl OffsetStore for Database {
    fn load<'a>(&'a self, _group: &'a str, queue: &'a MessageQueue) -> Storing<'a, Option<i64>> {
        Box::pin(async { Ok(self.0.lock().map_err(|_| "the database is broken")?.get(queue).copied()) })
    }

    fn save<'a>(&'a self, _group: &'a str, offsets: &'a [(MessageQueue, i64)]) -> Storing<'a, ()> {
        Box::pin(async {
            self.0.lock().map_err(|_| "the database is broken")?.extend(offsets.iter().cloned());
            Ok(())
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-offsets").name_servers([&name_server]).start().await?;
    for number in 0..5 {
        producer.send(Message::new(&options.topic, number.to_string())).await?;
    }

    let (database, done) = (Database::default(), Arc::new(Semaphore::new(0)));
    let finished = done.clone();
    let listener = move |message: StoredMessage| {
        let finished = finished.clone();
        async move {
            println!("{}", String::from_utf8_lossy(message.body()));
            finished.add_permits(1);
            Ok::<_, String>(())
        }
    };
    let consumer = PushConsumer::builder("example-offsets")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .offset_store(database.clone())
        .config(PushConfig { start_at: StartAt::First, ..PushConfig::default() })
        .listener(listener)
        .start()
        .await?;
    done.acquire_many(5).await?.forget();
    consumer.shutdown().await?;
    producer.shutdown().await?;
    let mut offsets: Vec<_> =
        database.0.lock().map(|offsets| offsets.clone()).unwrap_or_default().into_iter().collect();
    offsets.sort();
    for (queue, offset) in offsets {
        println!("{queue} is done up to {offset}");
    }
    Ok(())
}
