//! An HTTP service that publishes what it is sent, and ends as Kubernetes wants it to.
//!
//! `cargo run --example service -- --name-server HOST:PORT [--listen 0.0.0.0:8080]` runs until SIGTERM or Ctrl-C;
//! `curl -d 'a new order' http://localhost:8080/` publishes. Without a name server it starts one in this process, sends
//! itself a few requests, and ends by itself.
//!
//! On SIGTERM the service accepts no further connection, answers the requests it has, and shuts its producer down, which
//! sends what is pending. Each step has its time, and together they stay below `terminationGracePeriodSeconds`, 30 s by
//! default: what is not done by then is killed. A `preStop` hook that sleeps for some seconds lets Kubernetes send new
//! requests elsewhere before; its time counts as well.

use anyhow::{Context, ensure};
use clap::Parser;
use rocketmq_dev_broker::DevCluster;
use rocketmq_examples::{Target, end};
use rocketmq_producer::{Message, Producer, ProducerConfig};
use std::{future::Future, net::SocketAddr, process::ExitCode, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    signal,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Publishes the body of each POST.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    target: Target,
    /// The topic.
    #[arg(long, default_value = "Orders")]
    topic: String,
    /// Where to listen; port 0 is any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    end(run().await)
}

async fn run() -> anyhow::Result<()> {
    let options = Options::parse();
    let (name_server, cluster) = options.target.reach(DevCluster::builder()).await?;
    let config = ProducerConfig { shutdown_timeout: PRODUCER_TIME, ..ProducerConfig::default() };
    let producer = Producer::builder("order-service").name_servers([&name_server]).config(config).start().await?;
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    // Before anybody is told that the service is there.
    let terminated = terminated()?;
    println!("listening on http://{address}");
    let served = match cluster {
        // Without a name server this is a demonstration: it sends its own requests and needs no signal.
        Some(_) => serve(listener, &producer, &options.topic, try_out(address)).await,
        None => serve(listener, &producer, &options.topic, terminated).await,
    };
    // Requests are answered by now, so nothing is sent any more.
    producer.shutdown().await?;
    println!("ended");
    served
}

/// Answers requests until `signal`, and then those that have been accepted. Answers what the signal does.
async fn serve<T>(listener: TcpListener, producer: &Producer, topic: &str, signal: impl Future<Output = T>) -> T {
    let mut requests = JoinSet::new();
    let mut signal = std::pin::pin!(signal);
    let signalled = loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // Too many connections are open: some of them end, and others can be accepted then.
                    sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                };
                let (producer, topic) = (producer.clone(), topic.to_owned());
                requests.spawn(async move {
                    // A client that goes away is no error of the service.
                    let _ = timeout(REQUEST_TIME, answer(stream, &producer, &topic)).await;
                });
            }
            Some(_) = requests.join_next() => {}
            signalled = &mut signal => break signalled,
        }
    };
    println!("ending, with {} requests under way", requests.len());
    drop(listener);
    // Each of them ends within its time.
    while requests.join_next().await.is_some() {}
    signalled
}

/// Reads one request, publishes its body, and answers once the broker has stored it.
async fn answer(stream: TcpStream, producer: &Producer, topic: &str) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let (status, text) = match read_body(&mut stream).await {
        Err(error) => ("400 Bad Request", error.to_string()),
        Ok(body) => match producer.send(Message::new(topic, body)).await {
            Ok(receipt) => ("202 Accepted", receipt.message_id),
            // The client may try again; after a time-out the message may have been stored, and comes twice then.
            Err(error) if error.is_retryable() => ("503 Service Unavailable", error.to_string()),
            Err(error) => ("500 Internal Server Error", error.to_string()),
        },
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
    Ok(stream.write_all(answer.as_bytes()).await?)
}

/// As much of HTTP as this example needs: use a framework.
async fn read_body(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Vec<u8>> {
    let (mut head, mut length) = (stream.take(MAX_HEAD), None);
    let mut line = String::new();
    head.read_line(&mut line).await?;
    ensure!(line.starts_with("POST "), "only POST is served");
    loop {
        line.clear();
        ensure!(head.read_line(&mut line).await? > 0, "the head of the request is cut off or too long");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = Some(value.trim().parse()?),
            Some(_) => {}
            None => break,
        }
    }
    // Without one the body may be sent in chunks, which would be taken for none.
    let length = length.context("a content length is needed")?;
    ensure!(length <= MAX_BODY, "the body is too large");
    let mut body = vec![0; length];
    head.into_inner().read_exact(&mut body).await?;
    Ok(body)
}

/// Until SIGTERM, as Kubernetes sends it, or Ctrl-C. SIGTERM counts from now on, also before this is awaited.
fn terminated() -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    #[cfg(unix)]
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            interrupted = signal::ctrl_c() => Ok(interrupted?),
        }
        #[cfg(not(unix))]
        Ok(signal::ctrl_c().await?)
    })
}

/// Sends the service some requests.
async fn try_out(address: SocketAddr) -> anyhow::Result<()> {
    for number in 1..=3 {
        let body = format!("order {number}");
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        timeout(REQUEST_TIME, stream.read_to_string(&mut answer)).await??;
        ensure!(answer.starts_with("HTTP/1.1 202 "), "the service answered {answer}");
        println!("published {body} as {}", answer.lines().last().unwrap_or_default());
    }
    Ok(())
}

/// Longest time for a request, from when it is accepted until it is answered. Above `send_timeout`, 3 s by default, which
/// is for all attempts of a send together.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Longest time for the producer's shutdown: with that for requests below the grace period of 30 s.
const PRODUCER_TIME: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
const MAX_HEAD: u64 = 16 * 1024;
const MAX_BODY: usize = 1024 * 1024;
