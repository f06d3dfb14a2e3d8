//! Servers as Java processes on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    Role, Server, Signal, place,
    server::{Kind, add_property},
    supervise::{Supervised, TempFolder},
};

/// What RocketMQ reaches inside Java, closed since Java 17.
const OPENED: [&str; 5] = [
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
];
const NAME_SERVER_MEMORY: [&str; 2] = ["-Xmx256m", "-XX:+UseSerialGC"];
const BROKER_MEMORY: [&str; 3] = ["-Xms1g", "-Xmx1536m", "-XX:MaxDirectMemorySize=1g"];
/// When a disk is so full that a broker stores no more, and when it removes what it has stored. 5.x takes 0.90 and 0.85
/// at most.
const FULL_DISK: [&str; 2] =
    ["-Drocketmq.broker.diskSpaceWarningLevelRatio=0.98", "-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.97"];

/// Warnings to standard output, for the time when a server does not come up. `PACKAGE` is where the log library lives.
const LOGBACK: &str = r#"<configuration>
  <statusListener class="PACKAGE.core.status.NopStatusListener"/>
  <appender name="out" class="PACKAGE.core.ConsoleAppender">
    <encoder><pattern>%d %p %t %c - %m%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"#;

/// Prepares the servers in a new folder that holds all they write.
pub(super) fn servers(roles: Vec<Role>, java: &Path, lib: &Path) -> Result<(TempFolder, Vec<Box<dyn Server>>)> {
    let folder = TempFolder::new(&place::of_data(), |_| Vec::new())?;
    let servers = roles
        .into_iter()
        .map(|role| {
            let server = JavaServer::new(&role, folder.path().join(&role.name), java, lib);
            server.map(|server| Box::new(server) as Box<dyn Server>)
        })
        .collect::<Result<_>>()
        .context("cannot write the servers' configuration")?;
    Ok((folder, servers))
}

#[derive(Debug)]
struct JavaServer {
    name: String,
    command: Command,
    config: PathBuf,
    log: PathBuf,
    process: Option<Supervised>,
}

impl JavaServer {
    fn new(role: &Role, folder: PathBuf, java: &Path, lib: &Path) -> Result<Self> {
        let (conf, temporary) = (folder.join("conf"), folder.join("tmp"));
        fs::create_dir_all(&conf)?;
        fs::create_dir(&temporary)?;
        // 4.x servers do not start without these.
        for name in ["logback_namesrv.xml", "logback_broker.xml"] {
            fs::write(conf.join(name), LOGBACK.replace("PACKAGE", "ch.qos.logback"))?;
        }
        // 5.x ones bring a copy of the library under another name, and a configuration that says a lot about itself.
        let logback = conf.join("logback.xml");
        fs::write(&logback, LOGBACK.replace("PACKAGE", "org.apache.rocketmq.logging.ch.qos.logback"))?;
        let store = folder.join("store");
        let placed = match role.kind {
            Kind::NameServer => Vec::new(),
            Kind::Broker => vec![
                ("storePathRootDir", store.display().to_string()),
                ("storePathCommitLog", store.join("commitlog").display().to_string()),
            ],
        };
        let config = folder.join("server.conf");
        fs::write(&config, role.config(&placed))?;

        let mut command = Command::new(java);
        match role.kind {
            Kind::NameServer => command.args(NAME_SERVER_MEMORY),
            Kind::Broker => command.args(BROKER_MEMORY).args(FULL_DISK),
        };
        command
            .args(OPENED)
            .arg(format!("-Duser.home={}", folder.display()))
            // Each start unpacks a native library and makes certificates, which a killed server leaves behind.
            .arg(format!("-Djava.io.tmpdir={}", temporary.display()))
            .arg(format!("-Drmq.logback.configurationFile={}", logback.display()))
            .arg("-cp")
            .arg(lib.join("*"))
            .arg(match role.kind {
                Kind::NameServer => "org.apache.rocketmq.namesrv.NamesrvStartup",
                Kind::Broker => "org.apache.rocketmq.broker.BrokerStartup",
            })
            .arg("-c")
            .arg(&config)
            .env("ROCKETMQ_HOME", &folder)
            // It would go before the configuration file.
            .env_remove("NAMESRV_ADDR")
            .current_dir(&folder);
        let log = folder.join("output.log");
        Ok(Self { name: role.name.clone(), command, config, log, process: None })
    }
}

impl Server for JavaServer {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running()?, "{} already runs", self.name);
        self.process = Some(Supervised::start(&self.command, &self.log)?);
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().with_context(|| format!("{} was never started", self.name))?.signal(signal)
    }

    fn is_running(&mut self) -> Result<bool> {
        self.process.as_mut().map_or(Ok(false), Supervised::is_running)
    }

    fn set_property(&self, name: &str, value: &str) -> Result<()> {
        add_property(&self.config, name, value)
    }

    fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}
