//! Programs of Apache RocketMQ's own, and ones that use its Java client.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::{find_java, find_maven, jars, last_lines, version};

/// A Java with the jars of the [`version`] under test.
#[derive(Debug)]
pub struct JavaProgram {
    java: PathBuf,
    lib: PathBuf,
    folder: TempDir,
}

impl JavaProgram {
    /// Whether programs can be run here: the reason where they cannot. Those that come as source want a compiler.
    pub fn unavailable(from_source: bool) -> Option<String> {
        let (java, _) = match (find_java(), find_maven()) {
            (Ok(java), Ok(mvn)) => (java, mvn),
            (Err(reason), _) | (_, Err(reason)) => return Some(reason),
        };
        let modules = std::process::Command::new(&java).arg("--list-modules").stdin(Stdio::null()).output();
        let compiles = modules.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("jdk.compiler"));
        (from_source && !compiles).then(|| format!("{} cannot compile (no JDK)", java.display()))
    }

    /// Finds Java and fetches the jars unless that was done before.
    ///
    /// # Errors
    /// Without Java 17 and Maven, or where the jars cannot be fetched.
    pub async fn prepare() -> Result<Self> {
        let (java, mvn) = (find_java().map_err(anyhow::Error::msg)?, find_maven().map_err(anyhow::Error::msg)?);
        let lib = jars::fetched(&version(), &mvn).await?;
        Ok(Self { java, lib, folder: TempDir::new()? })
    }

    /// A command that runs a main class, or a source file, quietly, and leaves nothing behind.
    pub fn command(&self, main: impl AsRef<Path>, arguments: &[&str]) -> Result<Command> {
        let quiet = self.folder.path().join("logback.xml");
        std::fs::write(&quiet, QUIET)?;
        // Where the tools of 4.9 look.
        let conf = self.folder.path().join("conf");
        std::fs::create_dir_all(&conf)?;
        std::fs::write(conf.join("logback_tools.xml"), QUIET)?;
        let folder = self.folder.path().display();
        let mut command = Command::new(&self.java);
        command
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"])
            .arg(format!("-Duser.home={folder}"))
            .arg(format!("-Djava.io.tmpdir={folder}"))
            .arg(format!("-Drmq.logback.configurationFile={}", quiet.display()))
            .arg("-Drocketmq.client.logUseSlf4j=true")
            .arg("-cp")
            .arg(self.lib.join("*"))
            .arg(main.as_ref())
            .args(arguments)
            .env("ROCKETMQ_HOME", self.folder.path())
            .env_remove("NAMESRV_ADDR")
            .current_dir(self.folder.path())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Runs the administration tool, and answers what it printed.
    ///
    /// # Errors
    /// Where it fails; it does not always say so by its exit code.
    pub async fn admin(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("org.apache.rocketmq.tools.command.MQAdminStartup", arguments)?;
        let output = command.stdin(Stdio::null()).output().await.context("mqadmin does not run")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mqadmin {arguments:?}:\n{}", last_lines(&text, 30));
        if text.contains("Exception") {
            bail!("mqadmin {arguments:?}:\n{}", last_lines(&text, 30));
        }
        Ok(text)
    }
}

const QUIET: &str = r#"<configuration><root level="OFF"/></configuration>"#;
