//! Apache RocketMQ from Maven Central.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::Mutex;

use super::{
    POLL, last_lines, leftovers,
    supervise::{Supervised, TempFolder},
};

/// Fetches this version unless that was done before; the answer is the folder that holds the jars.
///
/// Kept as `target/rocketmq/<version>/lib` in the workspace, so that builds into other target folders share it.
pub(super) async fn fetched(version: &str, mvn: &Path) -> Result<PathBuf> {
    ensure!(
        version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')),
        "ROCKETMQ_VERSION is no version: {version}"
    );
    // Tests of one process ask at the same time.
    static FETCHING: Mutex<()> = Mutex::const_new(());
    let _one_at_a_time = FETCHING.lock().await;

    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/rocketmq");
    let wanted = all.join(version);
    if !wanted.exists() {
        fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
        fetch(version, mvn, &all, &wanted).await?;
    }
    Ok(wanted.join("lib"))
}

/// Fetches into a folder of its own, which takes its name only once whole: an interrupted fetch is never used, and of
/// two processes that fetch the same, the first to finish wins.
async fn fetch(version: &str, mvn: &Path, all: &Path, wanted: &Path) -> Result<()> {
    leftovers::remove_from(all);
    let folder = TempFolder::new(all, |_| Vec::new())?;
    let fetched = folder.path().join("fetched");
    fs::create_dir(&fetched)?;
    fs::write(fetched.join("pom.xml"), pom(version))?;

    let log = folder.path().join("maven.log");
    let mut command = Command::new(mvn);
    command.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]).current_dir(&fetched);
    let mut maven = Supervised::start(&command, &log)?;
    while maven.is_running()? {
        tokio::time::sleep(POLL).await;
    }
    if !maven.has_succeeded()? {
        let output = fs::read_to_string(&log).unwrap_or_default();
        bail!("Maven cannot fetch Apache RocketMQ {version}:\n{}", last_lines(&output, 30));
    }
    match fs::rename(&fetched, wanted) {
        Err(error) if !wanted.exists() => Err(error).with_context(|| format!("cannot make {}", wanted.display())),
        _ => Ok(()),
    }
}

/// Asks for the servers, and for the administration tool that goes with them.
fn pom(version: &str) -> String {
    let dependency = |module: &str| {
        format!(
            "    <dependency>\n      <groupId>org.apache.rocketmq</groupId>\n      \
             <artifactId>rocketmq-{module}</artifactId>\n      <version>{version}</version>\n    </dependency>\n"
        )
    };
    let dependencies: String = ["namesrv", "broker", "tools"].map(dependency).concat();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>rocketmq.integration.tests</groupId>
  <artifactId>servers</artifactId>
  <version>{version}</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
</project>
"#
    )
}
