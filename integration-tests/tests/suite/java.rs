//! Java clients beside ours: the programs of `integration-tests/java`, each in a process of its own.

use crate::{cluster::Cluster, wait::eventually};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_common::{Message, StoredMessage};
use rocketmq_integration_tests::real::JavaProgram;
use serde_json::Value;
use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Child,
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::timeout,
};

/// The running program. Dropping it ends it.
pub(crate) struct Java {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
    reading: JoinSet<()>,
    _program: JavaProgram,
    _turn: SemaphorePermit<'static>,
}

impl Java {
    /// Starts `Interop.java` in one of its modes, on a topic.
    pub(crate) async fn start(cluster: &Cluster, mode: &str, topic: &str, name: &str) -> Result<Self> {
        Self::run("Interop.java", &[mode, cluster.name_server(), topic, name]).await
    }

    /// Starts a program.
    pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<Self> {
        // A Java that starts has a busy machine for itself, as far as that is in our hands.
        static TURNS: Semaphore = Semaphore::const_new(1);
        let turn = TURNS.acquire().await?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java").join(program);
        let program = JavaProgram::prepare().await?;
        let mut command = program.command(source, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("no Java client")?;
        let (lines, errors) = (Arc::default(), Arc::default());
        let mut reading = JoinSet::new();
        reading.spawn(keep(process.stdout.take().context("no output")?, Arc::clone(&lines)));
        reading.spawn(keep(process.stderr.take().context("no output")?, Arc::clone(&errors)));
        Ok(Self { process, lines, errors, reading, _program: program, _turn: turn })
    }

    /// What it has printed of one kind.
    pub(crate) fn events(&self, event: &str) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        for line in locked(&self.lines).iter().filter(|line| line.starts_with('{')) {
            let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            if line["event"] == "failed" {
                bail!("the Java client failed: {}", line["error"]);
            }
            if line["event"] == event {
                events.push(line);
            }
        }
        Ok(events)
    }

    /// What it has printed, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        locked(&self.lines).clone()
    }

    /// Has it end, and waits until it has.
    pub(crate) async fn end(&mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = timeout(PATIENCE, self.process.wait()).await.context("it does not end")??;
        let errors = locked(&self.errors).join("\n");
        ensure!(status.success(), "the Java client ended with {status}: {errors}");
        while self.reading.join_next().await.is_some() {}
        Ok(())
    }

    /// Waits for so many events of one kind.
    pub(crate) async fn has(&self, event: &str, count: usize) -> Result<Vec<Value>> {
        eventually(PATIENCE, async || {
            let events = self.events(event)?;
            let errors = locked(&self.errors).join("\n");
            ensure!(events.len() >= count, "{} of {count} times {event}; it says: {errors}", events.len());
            Ok(events)
        })
        .await
    }
}

async fn keep(output: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<String>>>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        locked(&lines).push(line);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Fails unless Java has a message as it was sent.
pub(crate) fn expect_same_in_java(sent: &Message, java: &Value) -> Result<()> {
    let id = &java["id"];
    ensure!(java["topic"] == sent.topic(), "{id} is of topic {}", java["topic"]);
    ensure!(java["flag"] == sent.flag_bits(), "{id} has flag {}", java["flag"]);
    ensure!(java["body"] == hex(sent.body()), "{id}: another body than {:?}", sent.body().get(..40));
    for (name, value) in sent.properties().iter() {
        ensure!(java["properties"][name] == value, "{id}: {name} is {}, not {value:?}", java["properties"][name]);
    }
    let own = |name: &str| name.chars().any(char::is_lowercase) && !name.starts_with("__");
    let of_java = java["properties"].as_object().context("no properties")?;
    let added: Vec<_> = of_java.keys().filter(|name| own(name) && sent.properties().get(name).is_none()).collect();
    ensure!(added.is_empty(), "{id} has more properties: {added:?}");
    ensure!(java["tags"].as_str() == sent.properties().tag(), "{id} has tag {}", java["tags"]);
    ensure!(java["keys"].as_str() == sent.properties().get("KEYS"), "{id} has keys {}", java["keys"]);
    Ok(())
}

/// Fails unless a message came as Java sent it.
pub(crate) fn expect_as_java_sent(java: &Value, stored: &StoredMessage) -> Result<()> {
    let id = stored.message_id();
    ensure!(java["topic"] == stored.topic(), "{id} came as of {}", stored.topic());
    ensure!(java["flag"] == stored.flag(), "{id} came with flag {}", stored.flag());
    ensure!(java["body"] == hex(stored.body()), "{id} came with another body, {:?}", stored.body().get(..40));
    for (name, value) in java["properties"].as_object().context("no properties")? {
        // A message of a transaction loses the mark when it is committed, and brokers of 4.9 do not store a WAIT that
        // says what goes without saying.
        let is_dropped =
            ["TRAN_MSG", "__transactionId__"].contains(&name.as_str()) || name == "WAIT" && value == "true";
        if is_dropped {
            continue;
        }
        ensure!(stored.property(name) == value.as_str(), "{id}: {name} is {:?}, not {value}", stored.property(name));
    }
    ensure!(java["tags"].as_str() == stored.tag(), "{id} came with tag {:?}", stored.tag());
    Ok(())
}

/// A Java that starts and compiles takes seconds of a processor.
const PATIENCE: Duration = Duration::from_secs(90);

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}
