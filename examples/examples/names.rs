//! Two tenants with the same names on one cluster, each in a namespace of its own; and a resolver of one's own that
//! finds the name servers.
//!
//! `cargo run --example names [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{
    ClientConfig, Message, Producer, ProducerConfig,
    resolver::{NameServerResolver, Resolving},
};
use std::{process::ExitCode, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// Sends and consumes in two namespaces.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created in each namespace by its first message if the cluster allows it.
    #[arg(long, default_value = "ExampleNames")]
    topic: String,
}

/// Stands for whatever knows where the name servers are. It is asked at the start, and every two minutes.
#[derive(Clone, Debug)]
struct Registry {
    name_server: String,
}

impl NameServerResolver for Registry {
    fn resolve(&self) -> Resolving<'_> {
        Box::pin(async { Ok(vec![self.name_server.clone()]) })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;
    let registry = Registry { name_server };
    for tenant in ["north", "south"] {
        let client = ClientConfig { namespace: Some(tenant.to_owned()), ..Default::default() };
        let config = ProducerConfig { client: client.clone(), ..Default::default() };
        let producer =
            Producer::builder("orders").name_server_resolver(registry.clone()).config(config).start().await?;
        let (bodies, mut received) = mpsc::channel(64);
        let consumer = PushConsumer::builder("billing")
            .name_server_resolver(registry.clone())
            .config(PushConfig { start_at: StartAt::First, client, ..Default::default() })
            .subscribe(&options.topic, Filter::all())
            .listener(move |message| {
                let bodies = bodies.clone();
                async move { bodies.send((message.topic().to_owned(), message.into_body())).await }
            })
            .start()
            .await?;
        let receipt = producer.send(Message::new(&options.topic, format!("for the {tenant}"))).await?;
        println!("{tenant}: sent to {}", receipt.queue);
        let (topic, body) = timeout(PATIENCE, received.recv()).await?.unwrap_or_default();
        println!("{tenant}: got {:?} from {topic}", String::from_utf8_lossy(&body));
        anyhow::ensure!(body == format!("for the {tenant}"), "this message is another tenant's");
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}

/// A topic that is new is found by its consumer when it looks the next time.
const PATIENCE: Duration = Duration::from_secs(60);
