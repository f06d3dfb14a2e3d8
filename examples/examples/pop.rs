//! Jobs that are taken for a while: acknowledged when they are done, given back, or kept longer.
//!
//! `cargo run --example pop [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_consumer::{Filter, PopConfig, PopConsumer, StartAt};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer};
use std::{process::ExitCode, time::Duration};

/// Pops messages.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExamplePop")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let producer = Producer::builder("example-pop").name_servers([&name_server]).start().await?;
    for job in ["quick", "slow", "later"] {
        producer.send(Message::new(&options.topic, job)).await?;
    }

    let popper = PopConsumer::builder("example-pop")
        .name_servers([&name_server])
        .subscribe(&options.topic, Filter::all())
        .config(PopConfig { start_at: StartAt::First, ..PopConfig::default() })
        .start()
        .await?;
    let mut rest = 3;
    while rest > 0 {
        // Whatever is not acknowledged within 10 s comes again, to this consumer or another one of the group.
        for mut job in popper.receive(32, Duration::from_secs(10)).await? {
            println!("{} for the {}. time", String::from_utf8_lossy(job.body()), job.reconsume_times() + 1);
            if job.body() == "slow" {
                job.extend(Duration::from_secs(60)).await?;
            }
            if job.body() == "later" && job.reconsume_times() == 0 {
                job.give_back(Duration::from_secs(1)).await?;
                continue;
            }
            job.ack().await?;
            rest -= 1;
        }
    }
    popper.shutdown().await?;
    producer.shutdown().await?;
    Ok(())
}
