//! Servers as containers of the official image, on the host's network.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Role, Server, Signal,
    server::{Kind, add_property},
    supervise::TempFolder,
};

const CONFIG: &str = "/tmp/server.conf";

/// Prepares the servers. Their containers go with the folder.
pub(super) fn servers(roles: Vec<Role>, version: &str) -> Result<(TempFolder, Vec<Box<dyn Server>>)> {
    let container = |folder: &Path, role: &Role| {
        let unique = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{unique}-{}", role.name)
    };
    let folder = TempFolder::new(&std::env::temp_dir(), |folder| {
        let remove = ["docker", "rm", "--force", "--volumes"].map(str::to_owned);
        remove.into_iter().chain(roles.iter().map(|role| container(folder, role))).collect()
    })?;
    let mut servers: Vec<Box<dyn Server>> = Vec::new();
    for role in &roles {
        let config = folder.path().join(format!("{}.conf", role.name));
        // No paths: the store stays inside the container, whose user may not write into a folder of ours.
        fs::write(&config, role.config(&[])).with_context(|| format!("cannot write {}", config.display()))?;
        servers.push(Box::new(Container {
            name: container(folder.path(), role),
            kind: role.kind,
            image: format!("apache/rocketmq:{version}"),
            config,
            is_made: false,
        }));
    }
    Ok((folder, servers))
}

#[derive(Debug)]
struct Container {
    name: String,
    kind: Kind,
    image: String,
    config: PathBuf,
    is_made: bool,
}

impl Server for Container {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} already runs", self.name);
        if self.is_made {
            return docker(&["start", &self.name]).map(drop);
        }
        let (program, memory) = match self.kind {
            Kind::NameServer => ("mqnamesrv", "-Xms256m -Xmx256m -Xmn128m"),
            Kind::Broker => ("mqbroker", "-Xms1g -Xmx1536m -Drocketmq.broker.diskSpaceWarningLevelRatio=0.98"),
        };
        let mount = format!("{}:{CONFIG}:ro", self.config.display());
        let memory = format!("JAVA_OPT_EXT={memory}");
        docker(&[
            "run",
            "--detach",
            "--network",
            "host",
            "--name",
            &self.name,
            "--volume",
            &mount,
            "--env",
            &memory,
            &self.image,
            "sh",
            program,
            "-c",
            CONFIG,
        ])?;
        self.is_made = true;
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        match signal {
            Signal::Kill => docker(&["kill", &self.name]),
            Signal::Freeze => docker(&["pause", &self.name]),
            Signal::Thaw => docker(&["unpause", &self.name]),
            // A script is the container's first process and would ignore the signal; the image's own script finds Java.
            Signal::Terminate => docker(&[
                "exec",
                &self.name,
                "sh",
                "mqshutdown",
                match self.kind {
                    Kind::NameServer => "namesrv",
                    Kind::Broker => "broker",
                },
            ]),
        }
        .map(drop)
    }

    fn is_running(&mut self) -> Result<bool> {
        Ok(self.is_made && docker(&["inspect", "--format", "{{.State.Running}}", &self.name])?.trim() == "true")
    }

    fn set_property(&self, name: &str, value: &str) -> Result<()> {
        add_property(&self.config, name, value)
    }

    fn output(&self) -> String {
        docker(&["logs", &self.name]).unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// What docker says on both outputs.
fn docker(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("docker").args(arguments).stdin(Stdio::null()).output().context("docker does not start")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("docker {} fails: {text}", arguments.join(" "));
    }
    Ok(text)
}
