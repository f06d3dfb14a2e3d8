//! Where the addresses of the name servers come from.

use crate::{
    child::this_program,
    cluster::{Cluster, random_name},
    inbox::Inbox,
    wait::{SOON, eventually},
};
use anyhow::{Result, bail, ensure};
use rocketmq_common::{
    Client, ClientConfig, Message, NameServerSource,
    remote::Deadline,
    resolver::{DnsHost, HttpEndpoint, NameServerResolver, ResolveError, Resolving},
};
use rocketmq_consumer::{Filter, PushConfig, PushConsumer, StartAt};
use rocketmq_producer::{ClientError, Error, Producer, ProducerConfig};
use std::{
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

/// A producer and a consumer that find the cluster by `resolver` send and consume.
async fn reaches(cluster: &Cluster, resolver: impl NameServerResolver + Clone + 'static) -> Result<()> {
    let (topic, inbox) = (cluster.topic(1).await?, Inbox::new());
    let config = ProducerConfig { retries: 20, send_timeout: SOON, ..Default::default() };
    let producer = Producer::builder("p").name_server_resolver(resolver.clone()).config(config).start().await?;
    let consumer = PushConsumer::builder(random_name("group"))
        .name_server_resolver(resolver)
        .config(PushConfig { start_at: StartAt::First, ..Default::default() })
        .subscribe(&topic, Filter::all())
        .listener(inbox.listener())
        .start()
        .await?;
    let receipt = producer.send(Message::new(&topic, "body")).await?;
    inbox.has_all([&receipt.message_id], SOON).await?;
    consumer.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn the_environment_tells_the_name_servers(cluster: &Cluster) -> Result<()> {
    let topic = cluster.topic(1).await?;
    let run = async |addrs: Option<&str>| -> Result<(bool, String)> {
        let mut command = this_program(&["send-by-environment", &topic])?;
        match addrs {
            Some(addrs) => command.env("NAMESRV_ADDR", addrs),
            None => command.env_remove("NAMESRV_ADDR"),
        };
        let child = command.stderr(Stdio::piped()).spawn()?;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (sent, words) = run(Some(&format!(";{} ", cluster.name_server()))).await?;
    ensure!(sent, "{words}");
    for nothing in [None, Some(" ")] {
        let (sent, words) = run(nothing).await?;
        ensure!(!sent && words.contains("option name_servers is empty"), "without an address: {words}");
    }
    let stored = cluster.stored(&topic).await?.len();
    ensure!(stored == 1, "{stored} messages are stored");
    Ok(())
}

/// The child's part.
pub(crate) async fn send_by_environment(topic: &str) -> Result<()> {
    let config = ProducerConfig { retries: 20, send_timeout: SOON, ..Default::default() };
    let producer = Producer::builder("p").config(config).start().await?;
    producer.send(Message::new(topic, "body")).await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn dns_tells_the_name_servers(cluster: &Cluster) -> Result<()> {
    let port = cluster.name_server().rsplit(':').next().unwrap_or_default();
    reaches(cluster, DnsHost::new(format!("localhost:{port}"))).await?;
    let nowhere = Producer::builder("p").name_server_resolver(DnsHost::new("no-such-host.invalid:9876"));
    match nowhere.start().await {
        Err(Error::Client(ClientError::NameServersUnknown { source: ResolveError::Lookup { .. } })) => Ok(()),
        other => bail!("a host that is not there came to {other:?}"),
    }
}

/// An HTTP endpoint that answers what it is told to.
struct Endpoint {
    address: String,
    answer: Arc<Mutex<Answer>>,
    /// The first lines of the requests.
    asked: Arc<Mutex<Vec<String>>>,
    _accepting: JoinSet<()>,
}

#[derive(Clone)]
enum Answer {
    /// These bytes, then the end of the connection.
    Whole(Vec<u8>),
    /// A good head, and then bytes for ever.
    Endless,
    /// A byte now and then, for ever.
    Slow,
    /// Nothing.
    Silence,
}

impl Answer {
    fn ok(body: &str) -> Self {
        let length = body.len();
        Self::Whole(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
    }
}

impl Endpoint {
    async fn open(answer: Answer) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(Vec::new())));
        let (answers, asks, mut accepting) = (answer.clone(), asked.clone(), JoinSet::new());
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = lock(&answers).clone();
                serving.spawn(serve(stream, answer, asks.clone()));
            }
        });
        Ok(Self { address, answer, asked, _accepting: accepting })
    }

    fn at(&self, path: &str) -> HttpEndpoint {
        HttpEndpoint::new(format!("http://{}{path}", self.address)).timeout(PATIENCE)
    }

    fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

/// Answers one request; ends when the asking side has gone.
async fn serve(mut stream: TcpStream, answer: Answer, asked: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    lock(&asked).push(request.lines().next().unwrap_or_default().to_owned());
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    match answer {
        Answer::Whole(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Answer::Endless => {
            let _ = stream.write_all(head).await;
            while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
        }
        Answer::Slow => {
            let _ = stream.write_all(head).await;
            while stream.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Answer::Silence => {
            let _ = stream.read_u8().await;
        }
    }
}

pub(crate) async fn an_http_endpoint_tells_the_name_servers(cluster: &Cluster) -> Result<()> {
    let answer = Answer::ok(&format!("127.0.0.1:1;{}\nthe rest does not count: 127.0.0.1:2", cluster.name_server()));
    let endpoint = Endpoint::open(answer).await?;
    reaches(cluster, endpoint.at("/rocketmq/nsaddr").unit_name("east")).await?;
    let asked = endpoint.asked();
    let expected = "GET /rocketmq/nsaddr-east?nofix=1 HTTP/1.0";
    ensure!(asked.len() >= 2 && asked.iter().all(|line| line == expected), "asked was {asked:?}");
    Ok(())
}

pub(crate) async fn a_hostile_http_endpoint_is_a_typed_error_in_time(cluster: &Cluster) -> Result<()> {
    type Check = fn(&ResolveError) -> bool;
    let whole = |answer: &str| Answer::Whole(answer.as_bytes().to_vec());
    let cases: [(&str, Answer, Check); 8] = [
        ("no end", Answer::Endless, |error| matches!(error, ResolveError::Answer { .. })),
        ("a drip", Answer::Slow, |error| matches!(error, ResolveError::Http { .. })),
        ("silence", Answer::Silence, |error| matches!(error, ResolveError::Http { .. })),
        ("nothing", whole(""), |error| matches!(error, ResolveError::Http { .. })),
        ("no HTTP", whole("\u{0}\u{1}garbage\r\n\r\n"), |error| matches!(error, ResolveError::Answer { .. })),
        ("a refusal", whole("HTTP/1.1 503 Busy\r\n\r\n127.0.0.1:1"), |error| {
            matches!(error, ResolveError::Status { status: 503, .. })
        }),
        ("a page", Answer::ok("<html><body>It works!</body></html>"), |error| matches!(error, ResolveError::Empty)),
        ("an empty page", Answer::ok("\r\n"), |error| matches!(error, ResolveError::Empty)),
    ];
    let good = Answer::ok(cluster.name_server());
    let endpoint = Endpoint::open(good.clone()).await?;
    let config = ClientConfig { name_server_refresh_interval: Duration::from_millis(100), ..Default::default() };
    let client = Client::start(NameServerSource::resolver(endpoint.at("/")), config).await?;
    let known = client.name_servers();
    for (what, answer, check) in cases {
        *lock(&endpoint.answer) = answer;
        let began = Instant::now();
        let started = Producer::builder("p").name_server_resolver(endpoint.at("/")).start().await;
        let refused =
            matches!(&started, Err(Error::Client(ClientError::NameServersUnknown { source })) if check(source));
        ensure!(refused, "{what}: {started:?}");
        ensure!(began.elapsed() < 3 * PATIENCE, "{what} took {:?}", began.elapsed());
        // A client that runs asks as well, and stays where it was.
        let asked = endpoint.asked().len();
        eventually(SOON, async || {
            ensure!(endpoint.asked().len() > asked + 1, "{what}: the client does not ask again");
            Ok(())
        })
        .await?;
        ensure!(client.name_servers() == known, "{what} moved the client to {:?}", client.name_servers());
    }
    let https = Producer::builder("p").name_server_resolver(HttpEndpoint::new("https://127.0.0.1/")).start().await;
    let refused =
        matches!(https, Err(Error::Client(ClientError::NameServersUnknown { source: ResolveError::Url { .. } })));
    ensure!(refused, "https came to {https:?}");
    client.route(&cluster.topic(1).await?.into()).await?;
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}

/// A name server's other address: passes everything on.
struct Relay {
    address: String,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl Relay {
    async fn open(to: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, to) = (listener.local_addr()?.to_string(), to.to_owned());
        let (accepted, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counts, opens, mut accepting) = (accepted.clone(), open.clone(), JoinSet::new());
        accepting.spawn(async move {
            let mut relaying = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                counts.fetch_add(1, Ordering::SeqCst);
                opens.fetch_add(1, Ordering::SeqCst);
                let (to, opens) = (to.clone(), opens.clone());
                relaying.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        let _ = copy_bidirectional(&mut stream, &mut server).await;
                    }
                    opens.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, accepted, open, _accepting: accepting })
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// A resolver of the user's own, which fails where it has no answer.
#[derive(Clone, Debug, Default)]
struct Registry {
    answer: Arc<Mutex<Option<Vec<String>>>>,
    asked: Arc<AtomicUsize>,
}

impl Registry {
    fn say(&self, addrs: &[&str]) {
        *lock(&self.answer) = Some(addrs.iter().map(|addr| (*addr).to_owned()).collect());
    }

    /// Waits until an answer that is given from now on has been dealt with: until the second question after it.
    async fn is_asked_twice(&self) -> Result<()> {
        let before = self.asked.load(Ordering::SeqCst);
        eventually(SOON, async || {
            let asked = self.asked.load(Ordering::SeqCst) - before;
            ensure!(asked >= 2, "the registry was asked {asked} times");
            Ok(())
        })
        .await
    }
}

impl NameServerResolver for Registry {
    fn resolve(&self) -> Resolving<'_> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { lock(&self.answer).clone().ok_or_else(|| ResolveError::other("the registry is away")) })
    }
}

pub(crate) async fn a_list_that_changes_moves_the_client(cluster: &Cluster) -> Result<()> {
    let (one, other) = (Relay::open(cluster.name_server()).await?, Relay::open(cluster.name_server()).await?);
    let registry = Registry::default();
    registry.say(&[&one.address]);
    let topics = [cluster.topic(1).await?, cluster.topic(1).await?, cluster.topic(1).await?];
    let config = ClientConfig {
        name_server_refresh_interval: Duration::from_millis(100),
        // Heartbeats sweep forgotten connections up, too: none comes while the scenario looks.
        heartbeat_interval: Duration::from_secs(3600),
        ..Default::default()
    };
    let client = Client::start(NameServerSource::resolver(registry.clone()), config).await?;
    client.route(&topics[0].as_str().into()).await?;
    ensure!((one.accepted(), other.accepted()) == (1, 0), "asked: {} and {}", one.accepted(), other.accepted());
    for answer in [None, Some(Vec::new()), Some(vec!["nonsense".to_owned()])] {
        *lock(&registry.answer) = answer;
        registry.is_asked_twice().await?;
        ensure!(client.name_servers() == [one.address.as_str().into()], "moved to {:?}", client.name_servers());
    }
    registry.say(&[&other.address]);
    eventually(SOON, async || {
        let servers = client.name_servers();
        ensure!(servers == [other.address.as_str().into()], "the client is still at {servers:?}");
        let open = one.open.load(Ordering::SeqCst);
        ensure!(open == 0, "{open} connections to the address that left");
        Ok(())
    })
    .await?;
    client.route(&topics[1].as_str().into()).await?;
    client.newer_route(&topics[0].as_str().into(), u64::MAX - 1).await?;
    ensure!((one.accepted(), other.accepted()) == (1, 1), "asked: {} and {}", one.accepted(), other.accepted());
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}

pub(crate) async fn where_no_name_server_answers_the_resolver_is_asked_at_once(cluster: &Cluster) -> Result<()> {
    let (one, registry, topic) =
        (Relay::open(cluster.name_server()).await?, Registry::default(), cluster.topic(1).await?);
    registry.say(&[&one.address]);
    // The next time by the clock comes after the scenario.
    let config = ClientConfig { name_server_refresh_interval: Duration::from_secs(3600), ..Default::default() };
    let client = Client::start(NameServerSource::resolver(registry.clone()), config).await?;
    registry.say(&[cluster.name_server()]);
    drop(one);
    let began = Instant::now();
    eventually(SOON, async || Ok(client.newer_route(&topic.as_str().into(), 0).await?)).await?;
    ensure!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    client.shutdown(Deadline::after(SOON)).await;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How long an endpoint may take.
const PATIENCE: Duration = Duration::from_secs(1);
