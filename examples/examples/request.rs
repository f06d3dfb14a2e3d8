//! A question, and the answer of whoever consumes the topic: request and reply by way of messages.
//!
//! `cargo run --example request [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Error, Message, Producer};
use std::{process::ExitCode, time::Duration};

/// Asks, and answers.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleRequest")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-asking").name_servers([&name_server]).start().await?;

    // Nobody consumes the topic yet: the question is stored, and that is all.
    let question = Message::new(&options.topic, "is anybody there?");
    match producer.request(question, Duration::from_millis(300)).await {
        Err(error @ Error::NoReply { .. }) => println!("{error}"),
        other => println!("somebody else consumes {}: {other:?}", options.topic),
    }

    // Who answers needs a producer to send the answer by.
    let answers = Producer::builder("example-answering").name_servers([&name_server]).start().await?;
    let by = answers.clone();
    let consumer = PushConsumer::builder("example-answering")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .listener(move |question: StoredMessage| {
            let by = by.clone();
            async move {
                if question.wants_reply() {
                    by.send(question.reply(format!("{} bytes", question.body().len()))?).await?;
                }
                Ok::<_, Error>(())
            }
        })
        .start()
        .await?;

    let question = Message::new(&options.topic, "how long is this?");
    let answer = producer.request(question, Duration::from_secs(10)).await?;
    println!("{}", String::from_utf8_lossy(answer.body()));

    consumer.shutdown().await?;
    answers.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
