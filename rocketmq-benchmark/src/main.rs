//! Measures Apache RocketMQ producers and consumers: rate, latency, CPU per message, memory.

mod cluster;
mod consume;
mod floor;
mod idle;
mod latency;
mod process;
mod produce;
mod progress;
mod report;
mod window;

use anyhow::Context;
use clap::{
    CommandFactory, Parser, Subcommand, ValueEnum,
    builder::{RangedU64ValueParser, TypedValueParser},
    error::ErrorKind,
};
use report::Report;
use std::{process::ExitCode, time::Duration};

/// Measures what sending and consuming messages costs: rate, latency, CPU per message, memory.
///
/// CPU is user and system time of this process, over the measured span alone: after the start and 20 warm-up messages.
/// With `--name-server embedded` the name server and broker run in this process, and their CPU and memory count as well.
///
/// Exits with 0 only if all messages went well.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends messages.
    Produce(ProduceArgs),
    /// Consumes messages that are in a topic already, from the first on, in a consumer group of its own.
    ///
    /// The listener does nothing. The first 20 messages are the warm-up.
    Consume(ConsumeArgs),
    /// Talks to a broker with as little work as can be: what no client can beat, to read the others' figures against.
    ///
    /// One blocking thread and one connection, frames that were encoded before, and answers that are only counted.
    Floor(FloorArgs),
    /// Consumes from many queues in which nothing happens: what a consumer costs that has nothing to do.
    ///
    /// Creates the topics, puts a message into each queue, starts one consumer of all of them, waits until a message of
    /// every queue has come, and measures from 6 s later on.
    Idle(IdleArgs),
}

/// What all subcommands take.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Name server, HOST:PORT; several with `;` between them; `embedded` for one in this process.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9876", value_parser = name_server)]
    name_server: String,
    /// Topic; created by the first message, where the cluster allows it.
    #[arg(long, default_value = "Benchmark", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    topic: String,
    /// How many messages.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = RangedU64ValueParser::<u64>::new().range(1..=MAX_MESSAGES))]
    messages: u64,
    /// Bytes of a message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = number(1, MAX_BODY_BYTES))]
    size: usize,
    /// Stops after so many seconds, reports what there is, and exits with 1.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds())]
    timeout: Duration,
    /// Prints one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct ProduceArgs {
    #[command(flatten)]
    common: Common,
    /// Callers that send at once; with `--mode async` the messages one caller has in flight.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = number(1, 65_535))]
    concurrency: usize,
    /// How to send.
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    mode: Mode,
    /// Messages of a batch, with `--mode batch`.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = number(1, 10_000))]
    batch: usize,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Debug, clap::Args)]
struct ConsumeArgs {
    #[command(flatten)]
    common: Common,
    /// Listener calls at once.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number(1, 100_000))]
    concurrency: usize,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Debug, clap::Args)]
struct FloorArgs {
    #[command(flatten)]
    common: Common,
    /// Messages in flight. Pulls have one in flight a queue instead.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = number(1, 65_535))]
    concurrency: usize,
    /// Pulls messages that are in the topic already instead of sending them.
    #[arg(long)]
    consume: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct IdleArgs {
    /// Name server, HOST:PORT; several with `;` between them; `embedded` for one in this process.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9876", value_parser = name_server)]
    name_server: String,
    /// Topics. They stay, and are used again by the next run.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = number(1, 1000))]
    topics: usize,
    /// Queues of a topic on each broker.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number(1, 1000))]
    queues: usize,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds())]
    seconds: Duration,
    /// Stops if not all queues have been pulled after so many seconds, reports what there is, and exits with 1.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds())]
    timeout: Duration,
    /// Prints one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Threads {
    /// Threads that run the client: 1 is tokio's current-thread runtime, more are its multi-thread runtime with so many
    /// workers. 1 is the default since it costs the least CPU: no message wakes another thread.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(1, 1024))]
    threads: usize,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Every caller awaits the broker's answer before it sends the next message.
    Sync,
    /// One caller queues messages and keeps so many of their receipts open.
    Async,
    /// No answer is asked for; counted are messages written to the connection.
    Oneway,
    /// Every caller awaits the answer to a batch of messages.
    Batch,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Oneway => "oneway",
            Self::Batch => "batch",
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    check_together(&cli.command).unwrap_or_else(|error| error.exit());
    match run(&cli.command) {
        Ok(Outcome { figures, trouble }) => {
            println!("{figures}");
            match trouble {
                None => ExitCode::SUCCESS,
                Some(trouble) => {
                    eprintln!("error: {trouble}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a run came to.
#[derive(Debug)]
struct Outcome {
    /// As they are printed.
    figures: String,
    /// Why not all went well.
    trouble: Option<String>,
}

fn run(command: &Command) -> anyhow::Result<Outcome> {
    let printed = |common: &Common, (report, trouble): (Report, _)| {
        (if common.json { report.to_json() } else { report.to_table() }, trouble)
    };
    let (figures, trouble) = match command {
        Command::Produce(args) => printed(&args.common, runtime(args.threads.threads)?.block_on(produce::run(args))?),
        Command::Consume(args) => printed(&args.common, runtime(args.threads.threads)?.block_on(consume::run(args))?),
        Command::Floor(args) => printed(&args.common, floor::run(args)?),
        Command::Idle(args) => {
            let (report, trouble) = runtime(args.threads.threads)?.block_on(idle::run(args))?;
            (if args.json { report.to_json() } else { report.to_table() }, trouble)
        }
    };
    Ok(Outcome { figures, trouble })
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("cannot start the tokio runtime")
}

/// What no value says by itself.
fn check_together(command: &Command) -> Result<(), clap::Error> {
    let error = |text: String| Err(Cli::command().error(ErrorKind::ValueValidation, text));
    match command {
        Command::Produce(ProduceArgs { common, mode: Mode::Batch, batch, .. }) => {
            let bytes = common.size.saturating_mul(*batch);
            if bytes > MAX_BODY_BYTES {
                return error(format!(
                    "a batch of {batch} messages of {} bytes has {bytes} bytes; brokers take {MAX_BODY_BYTES} at most",
                    common.size
                ));
            }
            Ok(())
        }
        Command::Floor(FloorArgs { common, .. }) if common.name_server == EMBEDDED => {
            error("the floor is measured against a broker in another process: give --name-server HOST:PORT".to_owned())
        }
        _ => Ok(()),
    }
}

fn number(least: usize, most: usize) -> impl TypedValueParser<Value = usize> {
    let range = u64::try_from(least).unwrap_or(u64::MAX)..=u64::try_from(most).unwrap_or(u64::MAX);
    RangedU64ValueParser::<usize>::new().range(range)
}

fn seconds() -> impl TypedValueParser<Value = Duration> {
    RangedU64ValueParser::<u64>::new().range(1..=MAX_TIMEOUT_S).map(Duration::from_secs)
}

fn name_server(text: &str) -> Result<String, String> {
    let is_address =
        |part: &str| part.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    match text == EMBEDDED || text.split([';', ',']).all(|part| is_address(part.trim())) {
        true => Ok(text.to_owned()),
        false => Err(format!("it is neither HOST:PORT nor {EMBEDDED}")),
    }
}

/// The name of a name server and broker in this process.
const EMBEDDED: &str = "embedded";
/// What brokers take by default.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
const MAX_MESSAGES: u64 = 1_000_000_000_000;
const MAX_TIMEOUT_S: u64 = 7 * 24 * 3600;
/// Messages before the measured span.
const WARM_UP: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let cli = Cli::try_parse_from(["rocketmq-benchmark"].iter().chain(arguments));
        let error = cli.and_then(|cli| check_together(&cli.command)).expect_err("is to be refused");
        error.to_string()
    }

    #[test]
    fn every_option_has_a_default() {
        for command in ["produce", "consume", "floor", "idle"] {
            let cli = Cli::try_parse_from(["rocketmq-benchmark", command]).unwrap();
            assert!(check_together(&cli.command).is_ok());
        }
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for arguments in [
            ["produce", "--messages", "0"],
            ["produce", "--size", "0"],
            ["produce", "--size", "4194305"],
            ["produce", "--concurrency", "0"],
            ["produce", "--batch", "0"],
            ["produce", "--mode", "quick"],
            ["produce", "--timeout", "0"],
            ["produce", "--threads", "0"],
            ["consume", "--concurrency", "0"],
            ["consume", "--topic", ""],
            ["floor", "--name-server", "here"],
            ["idle", "--topics", "0"],
            ["idle", "--queues", "1001"],
            ["idle", "--seconds", "0"],
        ] {
            let text = refused(&arguments);
            assert!(text.contains(arguments[1]), "{text}");
        }
    }

    #[test]
    fn a_batch_must_fit_into_a_message() {
        let text = refused(&["produce", "--mode", "batch", "--batch", "100", "--size", "100000"]);
        assert!(text.contains("10000000 bytes"), "{text}");
    }

    #[test]
    fn the_floor_is_not_measured_in_the_process() {
        assert!(refused(&["floor", "--name-server", "embedded"]).contains("another process"));
    }

    #[test]
    fn several_name_servers_may_be_given() {
        assert!(name_server("a:1;b:2").is_ok());
        assert!(name_server("embedded").is_ok());
        assert!(name_server("a:1;b").is_err());
        assert!(name_server("").is_err());
    }
}
