//! What a server of a cluster is told, whichever way it runs.

use std::{
    fmt::Debug,
    fs::OpenOptions,
    hash::{BuildHasher, Hasher, RandomState},
    io::Write,
    net::TcpListener,
    path::Path,
};

use anyhow::{Context, Result};

/// One server of a cluster, running or not.
pub(super) trait Server: Debug + Send + Sync {
    fn name(&self) -> &str;
    /// Starts it on the data it left, if any. Does not wait until it serves.
    fn start(&mut self) -> Result<()>;
    fn signal(&mut self, signal: Signal) -> Result<()>;
    fn is_running(&mut self) -> Result<bool>;
    /// What it printed since the last start.
    fn output(&self) -> String;
    /// Changes its configuration; what runs does not notice.
    fn set_property(&self, name: &str, value: &str) -> Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Signal {
    Kill,
    Terminate,
    /// The process stops running; the kernel still accepts connections to it and takes their bytes.
    Freeze,
    /// The end of `Freeze`.
    Thaw,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    NameServer,
    Broker,
}

/// A server's name and the properties for its configuration file, without those that say where its data is.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) kind: Kind,
    pub(super) name: String,
    properties: Vec<(String, String)>,
}

impl Role {
    /// The text of the configuration file. `placed` are the properties that say where the data is; being first, they
    /// lose against what the caller of `roles` wants.
    pub(super) fn config(&self, placed: &[(&str, String)]) -> String {
        let placed = placed.iter().map(|(name, value)| format!("{name}={value}\n"));
        placed.chain(self.properties.iter().map(|(name, value)| format!("{name}={value}\n"))).collect()
    }
}

/// Adds a line to a configuration file: the last one of a name counts.
pub(super) fn add_property(file: &Path, name: &str, value: &str) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(file)?;
    Ok(writeln!(file, "{name}={value}")?)
}

/// The servers of one cluster: the name server, then the brokers, then their replicas, if there are ports for them.
/// What the caller wants of them wins over ours.
pub(super) fn roles(
    name_server_port: u16,
    (broker_ports, replica_ports): (&[u16], &[u16]),
    of_name_server: &[(String, String)],
    of_brokers: &[(String, String)],
) -> Vec<Role> {
    let ours = owned(&[("listenPort", &name_server_port.to_string()), ("bindAddress", "127.0.0.1")]);
    let name_server =
        Role { kind: Kind::NameServer, name: "name-server".to_owned(), properties: [&ours, of_name_server].concat() };
    let of_names = |ports: &[u16], id, role| {
        let letters = ('a'..='z').zip(ports.to_vec());
        letters.map(move |(letter, port)| (format!("broker-{letter}"), port, id, role)).collect::<Vec<_>>()
    };
    let masters = of_names(broker_ports, "0", "ASYNC_MASTER");
    let replicas = of_names(replica_ports, "1", "SLAVE");
    let brokers = masters.into_iter().chain(replicas).map(|(name, port, id, role)| {
        let mut properties = owned(&[
            ("brokerClusterName", "DefaultCluster"),
            ("brokerName", &name),
            ("brokerId", id),
            ("brokerRole", role),
            ("brokerIP1", "127.0.0.1"),
            // Where replicas copy from.
            ("brokerIP2", "127.0.0.1"),
            // Nobody else on the network has business with a test broker.
            ("bindAddress", "127.0.0.1"),
            ("listenPort", &port.to_string()),
            ("namesrvAddr", &format!("127.0.0.1:{name_server_port}")),
            // The shortest that brokers accept. A test that restarts the name server waits this long.
            ("registerNameServerPeriod", "10000"),
            ("autoCreateTopicEnable", "true"),
            ("enablePropertyFilter", "true"),
            ("traceTopicEnable", "true"),
            ("recallMessageEnable", "true"),
            ("transactionCheckInterval", "5000"),
            ("transactionTimeOut", "3000"),
            ("flushDiskType", "ASYNC_FLUSH"),
            ("useReentrantLockWhenPutMessage", "true"),
            // Smaller than usual: a broker makes whole files ahead of need.
            ("mappedFileSizeCommitLog", "134217728"),
            ("mappedFileSizeConsumeQueue", "600000"),
            // Of the whole disk, which others fill: the most that brokers accept.
            ("diskMaxUsedSpaceRatio", "95"),
        ]);
        properties.extend_from_slice(of_brokers);
        let name = if id == "0" { name } else { format!("{name}-replica") };
        Role { kind: Kind::Broker, name, properties }
    });
    std::iter::once(name_server).chain(brokers).collect()
}

fn owned(properties: &[(&str, &str)]) -> Vec<(String, String)> {
    properties.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A port for the name server and one for each broker, all free a moment ago.
///
/// They lie below the range that systems take outgoing ports from. In that range a client that dials a broker which is
/// down could be given the broker's own port to dial from, and the broker would not come up again.
pub(super) fn free_ports(brokers: usize) -> Result<(u16, Vec<u16>)> {
    const LOWEST: u64 = 10_000;
    const COUNT: u64 = 20_000;
    let count = u16::try_from(1 + PORTS_OF_A_BROKER * brokers).context("too many brokers")?;
    let base = (0..100).find_map(|_| {
        let random = RandomState::new().build_hasher().finish();
        let base = u16::try_from(LOWEST + random % COUNT).ok()?;
        // Held until all are bound, so that each is found free by itself.
        let bound: Result<Vec<_>, _> = (base..base + count).map(|port| TcpListener::bind(("0.0.0.0", port))).collect();
        bound.is_ok().then_some(base)
    });
    let base = base.context("no free ports")?;
    // A broker with `listenPort` p also opens p - 2 (the same, for clients that skip the queue) and p + 1 (replicas).
    Ok((base, (base + 1..base + count).step_by(PORTS_OF_A_BROKER).map(|first| first + 2).collect()))
}

const PORTS_OF_A_BROKER: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_leave_room_for_those_a_broker_opens_beside_its_own() {
        let (name_server, brokers) = free_ports(3).unwrap();
        assert_eq!(brokers, [name_server + 3, name_server + 7, name_server + 11]);
    }

    #[test]
    fn what_the_caller_wants_comes_last() {
        let ports = (&[10911, 10921][..], &[10931, 10941][..]);
        let roles = roles(9876, ports, &[], &owned(&[("traceTopicEnable", "false")]));
        let names: Vec<_> = roles.iter().map(|role| role.name.as_str()).collect();
        assert_eq!(names, ["name-server", "broker-a", "broker-b", "broker-a-replica", "broker-b-replica"]);
        let replica = roles[4].config(&[]);
        for line in ["brokerName=broker-b", "brokerId=1", "brokerRole=SLAVE", "listenPort=10941"] {
            assert!(replica.lines().any(|other| other == line), "{replica}");
        }
        let config = roles[2].config(&[("storePathRootDir", "/data".to_owned())]);
        assert!(config.starts_with("storePathRootDir=/data\n"), "{config}");
        assert!(config.contains("\nlistenPort=10921\nnamesrvAddr=127.0.0.1:9876\n"), "{config}");
        assert!(config.ends_with("\ntraceTopicEnable=false\n"), "{config}");
    }
}
