//! This program once more, in a process of its own: to be ended by a signal, and to be measured.

use crate::{lifecycle, resolver, wait::eventually};
use anyhow::{Context, Result, bail, ensure};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt, StoredMessage};
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::NamedTempFile;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// What a child is to do, and with what.
const TASK: &str = "ROCKETMQ_SUITE_CHILD";

/// Does a child's work, if this process is one.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let task = std::env::var(TASK).ok()?;
    let words: Vec<&str> = task.split('\t').collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().ok()?;
    let result = match words[..] {
        ["consume", name_server, topic, group, file, work_ms] => {
            let work = Duration::from_millis(work_ms.parse().ok()?);
            runtime.block_on(consume_until_told(name_server, topic, group, Path::new(file), work))
        }
        ["start-and-stop", name_server, topic] => runtime.block_on(lifecycle::start_and_stop(name_server, topic)),
        ["send-by-environment", topic] => runtime.block_on(resolver::send_by_environment(topic)),
        _ => Err(anyhow::anyhow!("no such task: {task}")),
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Consumes, and writes down the id of every message that is done, until SIGTERM; then shuts down.
async fn consume_until_told(name_server: &str, topic: &str, group: &str, file: &Path, work: Duration) -> Result<()> {
    let mut told = signal(SignalKind::terminate())?;
    let file = Arc::new(Mutex::new(OpenOptions::new().append(true).open(file)?));
    let listener = move |message: StoredMessage| {
        let file = file.clone();
        async move {
            sleep(work).await;
            write_down(&file, &message.message_id())
        }
    };
    let consumer = PushConsumer::builder(group)
        .name_servers([name_server])
        .subscribe(topic, Filter::all())
        .config(PushConfig { start_at: StartAt::First, ..Default::default() })
        .listener(listener)
        .start()
        .await?;
    told.recv().await;
    Ok(consumer.shutdown().await?)
}

fn write_down(file: &Mutex<File>, id: &str) -> std::io::Result<()> {
    let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    file.write_all(format!("{id}\n").as_bytes())
}

/// A child that consumes. Dropping it kills it.
pub(crate) struct ConsumerProcess {
    child: Child,
    done: NamedTempFile,
}

impl ConsumerProcess {
    /// One whose listener takes `work` for each message.
    pub(crate) fn start(name_server: &str, topic: &str, group: &str, work: Duration) -> Result<Self> {
        let done = NamedTempFile::new()?;
        let path = done.path().to_str().context("a path that is text")?;
        let child =
            this_program(&["consume", name_server, topic, group, path, &work.as_millis().to_string()])?.spawn()?;
        Ok(Self { child, done })
    }

    /// The ids of the messages that are done, each line as often as it was written.
    pub(crate) fn done(&self) -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(self.done.path())?.lines().map(str::to_owned).collect())
    }

    pub(crate) fn done_once(&self) -> Result<BTreeSet<String>> {
        Ok(self.done()?.into_iter().collect())
    }

    /// Sends SIGTERM and waits until it has ended well.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> Result<()> {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", r#"kill -15 "$1""#, "sh", &pid]).status()?;
        ensure!(status.success(), "the signal does not reach process {pid}");
        let status = eventually(limit, async || match self.child.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("the consumer process has not ended"),
        })
        .await?;
        ensure!(status.success(), "the consumer process ended with {status}");
        Ok(())
    }

    /// The processor time it has used; `None` where the system does not tell.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // Behind the name, which may hold anything: state, parent and so on; user and system time are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Some(Duration::from_millis(ticks * 10))
    }
}

impl Drop for ConsumerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program with a task.
pub(crate) fn this_program(task: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(TASK, task.join("\t")).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}
