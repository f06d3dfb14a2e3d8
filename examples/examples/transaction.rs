//! A message that is delivered only if a local step succeeds, however the process fares in between.
//!
//! `cargo run --example transaction [-- --name-server HOST:PORT --topic TOPIC]`

use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer, TransactionState};
use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{Arc, Mutex},
};

/// Sends in transactions.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic; created by the first message if the cluster allows it.
    #[arg(long, default_value = "ExampleTransaction")]
    topic: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, _cluster) = options.target.reach(DevCluster::builder()).await?;

    // Stands for the database that the local step writes to, and that a checker looks into.
    let orders = Arc::new(Mutex::new(HashMap::new()));
    let for_checks = orders.clone();
    let producer = Producer::builder("example-orders")
        .name_servers([name_server])
        .transaction_checker(move |message| {
            let order = message.keys().next().unwrap_or_default().to_owned();
            let known = for_checks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&order).copied();
            async move {
                match known {
                    Some(true) => TransactionState::Commit,
                    Some(false) => TransactionState::Rollback,
                    None => TransactionState::Unknown,
                }
            }
        })
        .start()
        .await?;

    for (order, paid) in [("o-1", true), ("o-2", false)] {
        let orders = orders.clone();
        let message = Message::new(&options.topic, format!("order {order} is paid")).key(order);
        let pay = |_message| async move {
            orders.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(order.to_owned(), paid);
            if paid { TransactionState::Commit } else { TransactionState::Rollback }
        };
        let transaction = producer.send_in_transaction(message, pay).await?;
        println!("{order}: {:?}, message {}", transaction.state, transaction.receipt.message_id);
    }
    producer.shutdown().await?;
    Ok(())
}
