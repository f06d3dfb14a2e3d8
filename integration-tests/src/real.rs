//! Real Apache RocketMQ for the tests: where it comes from, and a cluster of it that ends with its owner.
//!
//! Needed on the machine: Java 17 or newer and Maven, which bring everything from Maven Central on first use. Without
//! them a Docker engine serves, and a cluster that already runs (`ROCKETMQ_NAMESRV`) goes before both.

mod docker;
mod jars;
mod java;
mod java_program;
mod leftovers;
mod machine;
mod place;
mod probe;
mod server;
mod supervise;
mod symptoms;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

pub use self::java_program::JavaProgram;
use self::{
    server::{Role, Server, Signal},
    supervise::TempFolder,
};

const DEFAULT_VERSION: &str = "5.5.0";
const OLDEST_JAVA: u32 = 17;

/// How long one server may take until it serves: about 12 s on two idle cores, more when several boot at once.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How long a server may take to end once told to. A broker flushes its store first: 20 s for 5.5.0, 7 s for 4.9.7.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What a server prints when it has opened its ports.
const BOOTED: &str = "boot success";

/// Another program may take a port between our look and the server's `bind`, so new ports get a second and third go.
const PORT_ATTEMPTS: u32 = 3;

/// The version of Apache RocketMQ to run: `ROCKETMQ_VERSION`, default 5.5.0.
pub fn version() -> String {
    given("ROCKETMQ_VERSION").unwrap_or_else(|| DEFAULT_VERSION.to_owned())
}

/// Where a real cluster comes from, or why none can be had here.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The user runs one: the name server addresses in `ROCKETMQ_NAMESRV`. It is used, never started or stopped.
    Given(String),
    /// Maven Central, run by the Java on this machine.
    Maven {
        /// The `java` program, version 17 or newer.
        java: PathBuf,
        /// The `mvn` program.
        mvn: PathBuf,
    },
    /// The official image, run by the Docker engine on this machine.
    Docker,
    /// Nowhere; the reason, in one line.
    Unavailable(String),
}

/// Finds where a real cluster would come from. Asks the machine once and remembers.
pub fn source() -> Source {
    static FOUND: OnceLock<Source> = OnceLock::new();
    FOUND.get_or_init(find_source).clone()
}

fn find_source() -> Source {
    if let Some(addresses) = given("ROCKETMQ_NAMESRV") {
        return Source::Given(addresses);
    }
    if !cfg!(unix) {
        return Source::Unavailable("servers are started on Unix only; set ROCKETMQ_NAMESRV".to_owned());
    }
    let no_maven = match (find_java(), find_maven()) {
        (Ok(java), Ok(mvn)) => return Source::Maven { java, mvn },
        (Err(reason), _) | (_, Err(reason)) => reason,
    };
    if output_of(Path::new("docker"), "info").is_ok() {
        return Source::Docker;
    }
    Source::Unavailable(format!("{no_maven}, no Docker engine answers, and ROCKETMQ_NAMESRV is not set"))
}

fn find_java() -> Result<PathBuf, String> {
    let java = given("JAVA_HOME").map_or_else(|| PathBuf::from("java"), |home| Path::new(&home).join("bin/java"));
    let text =
        output_of(&java, "-version").map_err(|()| format!("no Java {OLDEST_JAVA}+ ({} fails)", java.display()))?;
    match java_major_version(&text) {
        Some(major) if major >= OLDEST_JAVA => Ok(java),
        Some(major) => Err(format!("{} is Java {major}, not {OLDEST_JAVA}+", java.display())),
        None => Err(format!("{} does not tell its version", java.display())),
    }
}

fn find_maven() -> Result<PathBuf, String> {
    let mvn = PathBuf::from("mvn");
    output_of(&mvn, "-v").map(|_| mvn).map_err(|()| "no Maven (mvn fails)".to_owned())
}

/// What `program argument` says on both outputs, if it runs and succeeds.
fn output_of(program: &Path, argument: &str) -> Result<String, ()> {
    match Command::new(program).arg(argument).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
        }
        _ => Err(()),
    }
}

/// Reads `openjdk version "17.0.15" 2025-04-15`, and the `"1.8.0_392"` of old.
fn java_major_version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once(" version \"")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        major => Some(major),
    }
}

fn given(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok()?.trim().to_owned();
    (!value.is_empty()).then_some(value)
}

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct RealOptions {
    /// Lines for every `broker.conf`, after ours and so stronger.
    pub broker_properties: Vec<(String, String)>,
    /// Lines for the name server's configuration, after ours and so stronger.
    pub name_server_properties: Vec<(String, String)>,
    /// How many brokers, named `broker-a`, `broker-b`, ... in one cluster. Default 1.
    pub brokers: usize,
    /// Whether each broker has a replica, which copies its messages, and every 10 s its topics and offsets. Default
    /// false.
    pub replicas: bool,
}

impl Default for RealOptions {
    fn default() -> Self {
        Self { broker_properties: Vec::new(), name_server_properties: Vec::new(), brokers: 1, replicas: false }
    }
}

/// A running name server and its brokers. Dropping it ends them and removes their data; so does the end of this
/// process, however it comes.
#[derive(Debug)]
pub struct RealCluster {
    name_server: String,
    brokers: Vec<String>,
    /// In the order of their brokers; empty in a cluster without replicas.
    replicas: Vec<String>,
    /// `None` when the user runs the cluster.
    ours: Option<Ours>,
}

/// The parts of a cluster we started. Fields drop in this order: the data goes when nothing writes it any more.
#[derive(Debug)]
struct Ours {
    name_server: Box<dyn Server>,
    brokers: Vec<Box<dyn Server>>,
    replicas: Vec<Box<dyn Server>>,
    folder: TempFolder,
}

impl RealCluster {
    /// Starts a cluster from [`source`] and waits until it serves.
    ///
    /// # Errors
    /// There is no source; a download failed; a server did not come up in 90 s. The last two hold the tail of the log.
    pub async fn start(options: RealOptions) -> Result<Self> {
        ensure!((1..=26).contains(&options.brokers), "a cluster has 1 to 26 brokers, not {}", options.brokers);
        let jars = match source() {
            Source::Given(addresses) => return Self::given(addresses, &options).await,
            Source::Maven { java, mvn } => Some((java, jars::fetched(&version(), &mvn).await?)),
            Source::Docker => None,
            Source::Unavailable(reason) => bail!("no real RocketMQ here: {reason}"),
        };
        let mut attempt = 1;
        loop {
            match Self::start_once(&options, jars.as_ref()).await {
                Err(error) if attempt < PORT_ATTEMPTS && is_taken_port(&error) => attempt += 1,
                result => return result.with_context(|| machine::state(&std::env::temp_dir())),
            }
        }
    }

    /// A cluster of the user's own, which must already be as `options` want it.
    async fn given(addresses: String, options: &RealOptions) -> Result<Self> {
        ensure!(
            options.broker_properties.is_empty() && options.name_server_properties.is_empty(),
            "the cluster given by ROCKETMQ_NAMESRV is not ours to set up with {:?} and {:?}",
            options.broker_properties,
            options.name_server_properties
        );
        ensure!(!options.replicas, "the cluster given by ROCKETMQ_NAMESRV is not ours to give replicas");
        let first = addresses.split(';').next().unwrap_or(&addresses);
        let brokers = probe::brokers(first).await.context("cannot use the cluster given by ROCKETMQ_NAMESRV")?;
        ensure!(
            brokers.len() >= options.brokers,
            "the cluster given by ROCKETMQ_NAMESRV has {} brokers, {} are wanted",
            brokers.len(),
            options.brokers
        );
        Ok(Self { name_server: addresses, brokers, replicas: Vec::new(), ours: None })
    }

    /// Starts the servers on new ports, from the jars in the folder beside `java` or, without them, in containers.
    async fn start_once(options: &RealOptions, jars: Option<&(PathBuf, PathBuf)>) -> Result<Self> {
        let count = if options.replicas { 2 * options.brokers } else { options.brokers };
        let (name_server_port, ports) = server::free_ports(count)?;
        let (of_name_server, of_brokers) = (&options.name_server_properties, &options.broker_properties);
        let roles = server::roles(name_server_port, ports.split_at(options.brokers), of_name_server, of_brokers);
        let (folder, mut servers) = match jars {
            Some((java, lib)) => java::servers(roles, java, lib)?,
            None => docker::servers(roles, &version())?,
        };
        let name_server = servers.remove(0);
        let replicas = servers.split_off(options.brokers);
        let mut addresses: Vec<_> = ports.iter().map(address).collect();
        let mut cluster = Self {
            name_server: address(&name_server_port),
            replicas: addresses.split_off(options.brokers),
            brokers: addresses,
            ours: Some(Ours { name_server, brokers: servers, replicas, folder }),
        };
        cluster.start_name_server().await?;
        // All boot at once: most of a boot is waiting.
        for index in 0..cluster.brokers.len() {
            cluster.broker(index)?.start()?;
        }
        for index in 0..cluster.brokers.len() {
            cluster.wait_for_broker(index).await?;
        }
        // A replica hears where its broker is when it starts, and then every 10 s.
        for replica in &mut cluster.ours()?.replicas {
            replica.start()?;
        }
        for index in 0..cluster.replicas.len() {
            let (name_server, of_replica) = (cluster.name_server.clone(), cluster.replicas[index].clone());
            wait_until_known(cluster.ours()?.replicas[index].as_mut(), &name_server, &of_replica).await?;
        }
        Ok(cluster)
    }

    /// The name server's address, as a client is configured with it.
    pub fn name_server(&self) -> &str {
        &self.name_server
    }

    /// The addresses of the brokers, in the order of names.
    pub fn broker_addresses(&self) -> &[String] {
        &self.brokers
    }

    /// The address of one broker, counted from 0 in the order of names.
    ///
    /// # Panics
    /// There is no such broker.
    pub fn broker_address(&self, index: usize) -> String {
        self.brokers[index].clone()
    }

    /// The address of a broker's replica, counted as the broker is.
    ///
    /// # Panics
    /// There is no such broker, or the cluster has no replicas.
    pub fn replica_address(&self, index: usize) -> String {
        self.replicas[index].clone()
    }

    /// Gives a broker that was ended another port, which [`start_broker`](Self::start_broker) then opens.
    pub fn move_broker(&mut self, index: usize) -> Result<()> {
        let (_, ports) = server::free_ports(1)?;
        let port = ports.first().context("no free port")?;
        let broker = self.broker(index)?;
        ensure!(!broker.is_running()?, "{} still runs", broker.name());
        broker.set_property("listenPort", &port.to_string())?;
        self.brokers[index] = address(port);
        Ok(())
    }

    /// Ends a broker by SIGKILL and waits until it is gone. Its store stays.
    pub async fn kill_broker(&mut self, index: usize) -> Result<()> {
        end(self.broker(index)?, Signal::Kill).await
    }

    /// Ends a broker by SIGTERM and waits until it is gone: it flushes, and leaves the name server,
    /// which takes 10 to 20 s. Its store stays.
    pub async fn stop_broker(&mut self, index: usize) -> Result<()> {
        end(self.broker(index)?, Signal::Terminate).await
    }

    /// Starts a broker that was ended, on the same store and port, and waits until the name server routes to it.
    pub async fn start_broker(&mut self, index: usize) -> Result<()> {
        self.broker(index)?.start()?;
        self.wait_for_broker(index).await
    }

    /// Freezes a broker by SIGSTOP: it does nothing, while the kernel accepts connections to it.
    pub fn freeze_broker(&mut self, index: usize) -> Result<()> {
        self.broker(index)?.signal(Signal::Freeze)
    }

    /// Lets a frozen broker run again.
    pub fn thaw_broker(&mut self, index: usize) -> Result<()> {
        self.broker(index)?.signal(Signal::Thaw)
    }

    /// Ends the name server by SIGKILL and waits until it is gone.
    pub async fn kill_name_server(&mut self) -> Result<()> {
        end(self.ours()?.name_server.as_mut(), Signal::Kill).await
    }

    /// Starts the name server again on the same port and waits until every running broker has registered with it,
    /// which a broker does every 10 s.
    pub async fn start_name_server(&mut self) -> Result<()> {
        let address = self.name_server.clone();
        let server = self.ours()?.name_server.as_mut();
        server.start()?;
        let began = Instant::now();
        // Were the port taken, somebody else would accept on it.
        while !(server.output().contains(BOOTED) && probe::accepts(&address).await) {
            check_boot(server, began)?;
            tokio::time::sleep(POLL).await;
        }
        for index in 0..self.brokers.len() {
            if self.broker(index)?.is_running()? {
                self.wait_for_broker(index).await?;
            }
        }
        Ok(())
    }

    /// What may have made a scenario fail without showing in it, in five lines at most: how full the disk and the
    /// memory are, whether the brokers run, and whether their logs tell of a full disk. Empty for a cluster of the
    /// user's own, which may be on another machine.
    pub fn state(&mut self) -> String {
        let Some(Ours { brokers, replicas, folder, .. }) = &mut self.ours else { return String::new() };
        let of_broker = |broker: &mut Box<dyn Server>| {
            let runs = if broker.is_running().unwrap_or(false) { "runs" } else { "does not run" };
            format!("{} {runs}; {}", broker.name(), symptoms::of_full_disk(&broker.output()))
        };
        let lines = brokers.iter_mut().chain(replicas).take(4).map(of_broker);
        std::iter::once(machine::state(folder.path())).chain(lines).collect::<Vec<_>>().join("\n")
    }

    async fn wait_for_broker(&mut self, index: usize) -> Result<()> {
        let (name_server, address) = (self.name_server.clone(), self.broker_address(index));
        wait_until_known(self.broker(index)?, &name_server, &address).await
    }

    fn broker(&mut self, index: usize) -> Result<&mut dyn Server> {
        let broker = self.ours()?.brokers.get_mut(index).with_context(|| format!("there is no broker {index}"))?;
        Ok(broker.as_mut())
    }

    fn ours(&mut self) -> Result<&mut Ours> {
        self.ours.as_mut().context("the cluster given by ROCKETMQ_NAMESRV is not ours to start or stop")
    }
}

async fn wait_until_known(server: &mut dyn Server, name_server: &str, address: &str) -> Result<()> {
    let began = Instant::now();
    // Booted alone does not mean that the name server knows the broker, and a route alone may be one that the name
    // server still keeps from before a restart.
    while !(server.output().contains(BOOTED) && probe::knows(name_server, address).await.unwrap_or(false)) {
        check_boot(server, began)?;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn address(port: &u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn end(server: &mut dyn Server, signal: Signal) -> Result<()> {
    ensure!(server.is_running()?, "{} does not run", server.name());
    server.signal(signal)?;
    let began = Instant::now();
    while server.is_running()? {
        ensure!(began.elapsed() < STOP_LIMIT, "{} did not end in {STOP_LIMIT:?}:\n{}", server.name(), tail(server));
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn check_boot(server: &mut dyn Server, began: Instant) -> Result<()> {
    ensure!(server.is_running()?, "{} ended while it booted:\n{}", server.name(), tail(server));
    ensure!(began.elapsed() < BOOT_LIMIT, "{} is not ready after {BOOT_LIMIT:?}:\n{}", server.name(), tail(server));
    Ok(())
}

fn is_taken_port(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["BindException", "Address already in use", "Failed to bind"].iter().any(|sign| text.contains(sign))
}

fn tail(server: &dyn Server) -> String {
    last_lines(&server.output(), 40)
}

/// Leaves out Java's stack frames: they would push out what went wrong.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("at ")).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_tells_its_major_version_in_two_ways() {
        assert_eq!(java_major_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK ..."), Some(17));
        assert_eq!(java_major_version("Picked up JAVA_TOOL_OPTIONS: -Da=\"b\"\njava version \"1.8.0_392\""), Some(8));
        assert_eq!(java_major_version("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(java_major_version("openjdk version \"26-ea\" 2026-03-17"), Some(26));
        assert_eq!(java_major_version("no such thing"), None);
    }

    #[test]
    fn the_last_lines_are_all_when_there_are_few() {
        assert_eq!(last_lines("a\nb\n\tat java.lang.Thread.run(Thread.java:840)\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 2), "a");
    }
}
