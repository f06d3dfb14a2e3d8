//! A real Apache RocketMQ for your own experiments, gone without a trace when you end it.
//!
//! ```text
//! cargo run -p rocketmq-integration-tests --example real_cluster -- --brokers 2 brokerRole=SYNC_MASTER
//! ```
//! Arguments: `--brokers N` (default 1), and `name=value` lines for `broker.conf`. `ROCKETMQ_VERSION` picks the version
//! (default 5.5.0). The first run fetches it from Maven Central; Java 17+ and Maven, or else Docker, must be there.
//!
//! It runs until Ctrl-C or until standard input ends. Type a line to see how your client takes a failure:
//! `kill 0` (SIGKILL), `stop 0` (SIGTERM) and `start 0` for a broker by number, `kill` and `start` for the name server.

use std::{io::BufRead, time::Instant};

use anyhow::{Context, Result, bail};
use rocketmq_integration_tests::real::{RealCluster, RealOptions};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<()> {
    let began = Instant::now();
    let mut cluster = RealCluster::start(options()?).await?;
    println!("name server: {}", cluster.name_server());
    eprintln!("ready after {:.1?}", began.elapsed());

    let mut lines = lines_typed();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line else { return Ok(()) };
        let began = Instant::now();
        match obey(&mut cluster, &line).await {
            Ok(()) => println!("done: {line}"),
            Err(error) => println!("failed: {line}: {error:#}"),
        }
        eprintln!("after {:.1?}", began.elapsed());
    }
}

fn options() -> Result<RealOptions> {
    let mut options = RealOptions::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--brokers" {
            let count = arguments.next().context("--brokers wants a number")?;
            options.brokers = count.parse().with_context(|| format!("--brokers {count}"))?;
        } else if let Some((name, value)) = argument.split_once('=') {
            options.broker_properties.push((name.to_owned(), value.to_owned()));
        } else {
            bail!("unknown argument {argument}: give --brokers N, or name=value for broker.conf");
        }
    }
    Ok(options)
}

/// Lines of standard input. A thread reads them: nothing can end a blocked read, and this one ends with the process.
fn lines_typed() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn obey(cluster: &mut RealCluster, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["kill"] => cluster.kill_name_server().await,
        ["start"] => cluster.start_name_server().await,
        ["kill", broker] => cluster.kill_broker(broker.parse()?).await,
        ["stop", broker] => cluster.stop_broker(broker.parse()?).await,
        ["start", broker] => cluster.start_broker(broker.parse()?).await,
        _ => bail!("say kill, stop or start, and a broker's number or nothing for the name server"),
    }
}
