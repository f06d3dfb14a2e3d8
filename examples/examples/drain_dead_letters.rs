//! Dead letters, drained: where each came from, and once more to its topic, without those that are there already coming
//! twice.
//!
//! `cargo run --example drain_dead_letters [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_consumer::{
    Filter, Outcome, PullConfig, PullConsumer, PushConfig, PushConsumer, StartAt, StoredMessage, dead_letter_topic,
};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Sends messages that fail, and drains the dead letters.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleDeadLetters")]
    topic: String,
}

/// The property that says which message one was made of.
const MADE_OF: &str = "made-of";

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-dead-letters").name_servers([&name_server]).start().await?;
    let mut sent = BTreeSet::new();
    for number in 0..3 {
        let message =
            Message::new(&options.topic, number.to_string()).tag("example").property("number", number.to_string());
        sent.insert(producer.send(message).await?.message_id);
    }

    // A group that fails for good. Those whose listener returns `Err` die after `max_reconsume_times` retries.
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let group = format!("example-dead-letters-{started}");
    let consumer = PushConsumer::builder(&group)
        .name_servers([&name_server])
        .config(PushConfig { start_at: StartAt::First, ..Default::default() })
        .subscribe(&options.topic, Filter::tags("example"))
        .listener(|message: StoredMessage| async move {
            if message.property(MADE_OF).is_some() { Outcome::done() } else { Outcome::failed("never").dead_letter() }
        })
        .start()
        .await?;

    // The drain has its own group and commits after the new messages are stored. If it is stopped in between, the same
    // dead letters are delivered again.
    let drain = PullConsumer::builder(format!("{group}-drain"))
        .name_servers([&name_server])
        .config(PullConfig { auto_commit: false, start_at: StartAt::First, ..Default::default() })
        .subscribe(dead_letter_topic(&group), Filter::all())
        .start()
        .await?;
    while !sent.is_empty() {
        for letter in drain.poll(Duration::from_secs(5)).await? {
            let id = letter.message_id().into_owned();
            let topic = letter.origin_topic().unwrap_or(&options.topic);
            println!("{id} of {topic} failed {} times, sent once more", letter.reconsume_times());
            producer.send(again(topic, &letter)).await?;
            sent.remove(&id);
        }
        drain.commit().await?;
    }
    drain.shutdown().await?;
    consumer.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}

/// A new message with the same content. It gets an id of its own, and says whose place it takes.
fn again(topic: &str, letter: &StoredMessage) -> Message {
    let mut message =
        Message::new(topic, letter.body().clone()).keys(letter.keys()).property(MADE_OF, letter.message_id());
    if let Some(tag) = letter.tag() {
        message = message.tag(tag);
    }
    // The application's own properties; a message refuses those that brokers and clients set for themselves.
    for name in ["number"] {
        if let Some(value) = letter.property(name) {
            message = message.property(name, value);
        }
    }
    message
}
