mod calls;
mod hedge;
mod locks;
mod members;
mod membership;
mod operators;
mod pop;
mod processors;
mod replies;
mod routes;

use crate::{
    ClientConfig, Error, Namespace, TopicRoute,
    identity::client_id,
    message::names::AUTO_CREATE_TOPIC,
    name_server::{self, NameServerSource, NameServers},
    pool::Pool,
    protocol::{GetRoute, LenientJson, TopicRouteData},
    random::random_below,
    resolver::NameServerResolver,
    ticks,
};
use members::Members;
pub use members::TransactionCheck;
use operators::Questions;
pub use operators::{ConsumingDirectly, Operated, Refusal};
use processors::processors;
pub use replies::ExpectedReply;
use replies::Replies;
use rocketmq_remote::{Connection, Deadline, Error as RemoteError, Processors, Request, ResponseCode};
use routes::RouteTable;
use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    runtime::Handle as Runtime,
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One client of one cluster: its connections, its routes, its heartbeats. A cheap handle.
///
/// A producer and a consumer make one each, or share one. Several clients, also of several clusters, live side by side
/// in a process and have nothing in common. Dropping the last handle stops everything at once;
/// [`shutdown`](Self::shutdown) does it in order.
///
/// Its calls name topics and groups as the wire does; [`namespace`](Self::namespace) makes such names of plain ones.
/// Producers and consumers do that by themselves.
#[derive(Clone, Debug)]
pub struct Client(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
        self.shared.replies.close();
    }
}

#[derive(Debug)]
struct Shared {
    id: Arc<str>,
    config: ClientConfig,
    namespace: Namespace,
    name_servers: NameServers,
    /// No name server answered: its address may have changed.
    name_servers_wanted: Notify,
    pool: Pool,
    /// The connections to the VIP channel: no heartbeat goes there, and nobody unregisters there.
    vip_pool: Pool,
    routes: RouteTable,
    members: Members,
    /// The addresses being told that groups were left, with the number of tasks that do so: a heartbeat there waits.
    unregistering: watch::Sender<HashMap<Arc<str>, usize>>,
    /// Which broker last told of the members of a group.
    last_good: Mutex<HashMap<Arc<str>, Arc<str>>>,
    replies: Arc<Replies>,
    /// Topics whose route has failed somebody, with the generation that did.
    stale: Mutex<HashMap<Arc<str>, u64>>,
    stale_noted: Notify,
    heartbeat_wanted: Notify,
    /// Questions of operators that are being answered.
    questions: Questions,
    tasks: TaskTracker,
    runtime: Runtime,
    stopped: CancellationToken,
}

impl Client {
    /// Makes a client and asks a name server something, to be sure that there is one.
    ///
    /// `name_servers` are addresses of the form `host:port`, or a [resolver](NameServerSource::resolver) that finds
    /// them; see [`NameServerSource`].
    ///
    /// # Errors
    /// [`Error::Config`] for an option that cannot work or an empty list, [`Error::NameServersUnknown`] where a resolver
    /// fails, [`Error::NoNameServer`] where none answers within the request timeout.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(name_servers: impl Into<NameServerSource>, config: ClientConfig) -> Result<Self, Error> {
        config.check()?;
        let (addrs, resolver) = name_servers.into().begin(config.request_timeout).await?;
        let namespace = match &config.namespace {
            Some(namespace) => Namespace::new(namespace)?,
            None => name_server::namespace_of(&addrs),
        };
        let options = config.connection_options();
        let shared = Arc::new(Shared {
            id: client_id(config.instance_name.as_deref(), config.unit_name.as_deref()).into(),
            namespace,
            name_servers: NameServers::new(&addrs, random_below(1024))?,
            name_servers_wanted: Notify::new(),
            pool: Pool::new(options.clone()),
            vip_pool: Pool::new(options),
            routes: RouteTable::default(),
            members: Members::default(),
            unregistering: watch::Sender::default(),
            last_good: Mutex::default(),
            replies: Arc::default(),
            stale: Mutex::default(),
            stale_noted: Notify::new(),
            heartbeat_wanted: Notify::new(),
            questions: Questions::default(),
            tasks: TaskTracker::new(),
            runtime: Runtime::current(),
            stopped: CancellationToken::new(),
            config,
        });
        let client = Self(Arc::new(Handle { shared: shared.clone() }));
        // The template of new topics: a producer will want it, and any answer tells that a name server is there.
        match client.route(&AUTO_CREATE_TOPIC.into()).await {
            Ok(_) | Err(Error::TopicNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        shared.tasks.spawn(until_stopped(shared.stopped.clone(), refresh_routes(shared.clone())));
        if let Some(resolver) = resolver {
            shared.tasks.spawn(until_stopped(shared.stopped.clone(), refresh_name_servers(shared.clone(), resolver)));
        }
        shared.tasks.spawn(until_stopped(shared.stopped.clone(), beat(shared.clone())));
        Ok(client)
    }

    /// The id by which brokers know this client.
    pub fn id(&self) -> &Arc<str> {
        &self.shared().id
    }

    /// What this client was made with.
    pub fn config(&self) -> &ClientConfig {
        &self.shared().config
    }

    /// The namespace by which topics and groups are named on the wire; none as a rule.
    pub fn namespace(&self) -> &Namespace {
        &self.shared().namespace
    }

    /// The addresses of the name servers, the one that is asked first before the others.
    pub fn name_servers(&self) -> Vec<Arc<str>> {
        self.shared().name_servers.in_order()
    }

    /// A deadline one request timeout from now.
    pub fn request_deadline(&self) -> Deadline {
        Deadline::after(self.config().request_timeout)
    }

    /// The route of a topic: the one that is known, else the one a name server answers.
    ///
    /// # Errors
    /// [`Error::TopicNotFound`], [`Error::NoNameServer`].
    pub async fn route(&self, topic: &Arc<str>) -> Result<Arc<TopicRoute>, Error> {
        match self.shared().routes.known(topic) {
            Some(route) => Ok(route),
            None => self.newer_route(topic, 0).await,
        }
    }

    /// The route of a topic as it is known, without a look-up.
    pub fn known_route(&self, topic: &str) -> Option<Arc<TopicRoute>> {
        self.shared().routes.known(topic)
    }

    /// The route of a topic, looked up unless one newer than generation `seen` is known already.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub async fn newer_route(&self, topic: &Arc<str>, seen: u64) -> Result<Arc<TopicRoute>, Error> {
        self.shared().newer_route(topic, seen).await
    }

    /// The route by which to send to a topic: its own, or, where it does not exist and new topics are allowed, the one
    /// it will have, with `queues` queues a broker at most.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub async fn publish_route(&self, topic: &Arc<str>, queues: i32) -> Result<Arc<TopicRoute>, Error> {
        match self.route(topic).await {
            Err(Error::TopicNotFound { topic }) => match self.route(&AUTO_CREATE_TOPIC.into()).await {
                Ok(template) => Ok(self.shared().routes.assume(&topic, &template, queues)),
                Err(Error::TopicNotFound { .. }) => Err(Error::TopicNotFound { topic }),
                Err(error) => Err(error),
            },
            other => other,
        }
    }

    /// Notes that a route has failed its user; it is looked up anew in the background.
    pub fn note_stale(&self, route: &TopicRoute) {
        let shared = self.shared();
        let mut stale = shared.stale.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        stale.insert(route.topic().clone(), route.generation());
        drop(stale);
        shared.stale_noted.notify_one();
    }

    /// The connection to a broker's address; a fresh one has been told who we are before anybody uses it.
    ///
    /// # Errors
    /// [`RemoteError::Connect`], also at once while the address rests after a failed dial.
    pub async fn broker(&self, addr: &Arc<str>, deadline: Deadline) -> Result<Connection, RemoteError> {
        self.shared().broker(addr, deadline).await
    }

    /// As [`broker`](Self::broker), for what goes by the VIP channel where that is
    /// [on](ClientConfig::vip_channel): sends, offsets, lists of members.
    ///
    /// # Errors
    /// As [`broker`](Self::broker).
    pub async fn vip_broker(&self, addr: &Arc<str>, deadline: Deadline) -> Result<Connection, RemoteError> {
        self.shared().reach(addr, self.config().vip_channel, deadline).await
    }

    /// Asks a broker and awaits the answer. A broker that answers GO_AWAY did not do it and is asked once more, on a
    /// fresh connection.
    ///
    /// # Errors
    /// As [`Connection::call`] and [`broker`](Self::broker).
    pub async fn call<R: Request>(
        &self,
        addr: &Arc<str>,
        request: &R,
        body: R::Body,
        deadline: Deadline,
    ) -> Result<R::Reply, RemoteError>
    where
        R::Body: Clone,
    {
        self.shared().call(addr, false, request, body, deadline).await
    }

    /// As [`call`](Self::call), by the VIP channel where that is [on](ClientConfig::vip_channel).
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn vip_call<R: Request>(
        &self,
        addr: &Arc<str>,
        request: &R,
        body: R::Body,
        deadline: Deadline,
    ) -> Result<R::Reply, RemoteError>
    where
        R::Body: Clone,
    {
        self.shared().call(addr, self.config().vip_channel, request, body, deadline).await
    }

    /// Whether the client has been shut down.
    pub fn is_shut_down(&self) -> bool {
        self.shared().stopped.is_cancelled()
    }

    /// Writes what is queued, ends all connections and tasks, and waits for them until the deadline at the latest.
    pub async fn shutdown(&self, deadline: Deadline) {
        let shared = self.shared();
        shared.stopped.cancel();
        shared.replies.close();
        let mut closing = JoinSet::new();
        for connection in shared.pool.close().into_iter().chain(shared.vip_pool.close()) {
            closing.spawn(async move { connection.close(deadline).await });
        }
        while closing.join_next().await.is_some() {}
        shared.tasks.close();
        let _ = timeout_at(deadline.instant(), shared.tasks.wait()).await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }
}

async fn until_stopped(stopped: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stopped.cancelled() => {}
        () = work => {}
    }
}

/// Looks the routes in use up anew, all of them now and then, and those that failed somebody at once.
async fn refresh_routes(shared: Arc<Shared>) {
    let mut ticks = ticks(shared.config.route_refresh_interval);
    // Not at once.
    ticks.reset();
    loop {
        let stale: Vec<(Arc<str>, u64)> = tokio::select! {
            _ = ticks.tick() => {
                let generation = |topic: &str| shared.routes.known(topic).map_or(0, |route| route.generation());
                shared.routes.topics_in_use().into_iter().map(|topic| (topic.clone(), generation(&topic))).collect()
            }
            () = shared.stale_noted.notified() => {
                let mut stale = shared.stale.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                mem::take(&mut *stale).into_iter().collect()
            }
        };
        for (topic, seen) in stale {
            if let Err(error) = shared.newer_route(&topic, seen).await {
                // The old route stays: sending and consuming go on without a name server.
                tracing::debug!(%topic, error = &error as &dyn std::error::Error, "route not refreshed");
            }
        }
        // While a broker is away its routes fail all the time: name servers are not to suffer for it.
        sleep(SHORTEST_REFRESH_PAUSE).await;
    }
}

/// Asks a resolver now and then where the name servers are, and when none of them answers.
///
/// # Protocol
/// Java: `MQClientInstance.startScheduledTask`, after 10 s and then every 120 s.
async fn refresh_name_servers(shared: Arc<Shared>, resolver: Arc<dyn NameServerResolver>) {
    let interval = shared.config.name_server_refresh_interval;
    let mut pause = interval.min(FIRST_NAME_SERVER_REFRESH);
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.name_servers_wanted.notified() => {}
        }
        pause = interval;
        match name_server::ask(&*resolver, shared.config.request_timeout).await {
            Ok(texts) => shared.replace_name_servers(&texts),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the name servers stay as they were known");
            }
        }
        sleep(SHORTEST_REFRESH_PAUSE).await;
    }
}

/// Tells the brokers that this client lives.
async fn beat(shared: Arc<Shared>) {
    let mut ticks = ticks(shared.config.heartbeat_interval);
    // Not at once.
    ticks.reset();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.heartbeat_wanted.notified() => {}
        }
        let brokers = shared.routes.addresses(true);
        shared.pool.retain(|addr| brokers.contains(addr) || shared.name_servers.contains(addr));
        let vip: HashSet<Arc<str>> = brokers.iter().filter_map(vip_addr).collect();
        shared.vip_pool.retain(|addr| vip.contains(addr));
        shared.heartbeat().await;
    }
}

impl Shared {
    async fn newer_route(self: &Arc<Self>, topic: &Arc<str>, seen: u64) -> Result<Arc<TopicRoute>, Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        self.routes.newer_than(topic, seen, || self.look_up(topic)).await
    }

    /// Asks the name servers, beginning with the one that answered last. One that fails, or is silent for a while, has
    /// the next one asked as well; the first answer counts.
    async fn look_up(self: &Arc<Self>, topic: &Arc<str>) -> Result<TopicRouteData, Error> {
        let deadline = Deadline::after(self.config.request_timeout);
        let mut waiting = self.name_servers.in_order();
        let asked = waiting.clone();
        waiting.reverse();
        let mut asking = JoinSet::new();
        let mut last_error = None;
        loop {
            if let Some(addr) = waiting.pop() {
                let (shared, topic) = (self.clone(), topic.clone());
                asking.spawn(async move {
                    let result = shared.ask_name_server(&addr, topic, deadline).await;
                    (addr, result)
                });
            }
            let answer = tokio::select! {
                answer = asking.join_next() => answer,
                () = sleep(self.config.name_server_patience), if !waiting.is_empty() => continue,
            };
            match answer {
                Some(Ok((addr, Ok(data)))) => {
                    self.name_servers.answered(&addr);
                    return data.ok_or_else(|| Error::TopicNotFound { topic: topic.clone() });
                }
                Some(Ok((addr, Err(error)))) => {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "name server did not answer");
                    last_error = Some(error);
                }
                // A task ends early only when the runtime shuts down.
                Some(Err(_)) => {}
                None if waiting.is_empty() => break,
                None => {}
            }
        }
        self.name_servers_wanted.notify_one();
        Err(last_error.map_or(Error::ShutDown, |source| Error::NoNameServer { asked, source }))
    }

    /// Goes by these name servers from now on. Those that are gone are not asked any more.
    fn replace_name_servers(&self, texts: &[String]) {
        let gone = self.name_servers.replace(texts, random_below(1024));
        if !gone.is_empty() {
            tracing::info!(?gone, now = ?self.name_servers.in_order(), "the name servers have changed");
            self.pool.retain(|addr| !gone.iter().any(|gone| **gone == *addr));
        }
    }

    /// The route one name server answers; `None` where it does not know the topic.
    async fn ask_name_server(
        &self,
        addr: &Arc<str>,
        topic: Arc<str>,
        deadline: Deadline,
    ) -> Result<Option<TopicRouteData>, RemoteError> {
        let connection = self.pool.get(addr, deadline, Processors::new, |_| async {}).await?;
        let request = GetRoute { topic, accept_standard_json_only: Some(true) };
        match connection.call(&request, (), deadline).await {
            Ok(LenientJson(data)) => Ok(Some(data)),
            Err(RemoteError::Refused { code: ResponseCode::TOPIC_NOT_EXIST, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn broker(self: &Arc<Self>, addr: &Arc<str>, deadline: Deadline) -> Result<Connection, RemoteError> {
        let processors = || processors(Arc::downgrade(self));
        // A broker forgets its clients with their connections: without this greeting, pulls would be refused until the
        // next heartbeat.
        let greet = |connection| async move { self.introduce(&connection).await };
        self.pool.get(addr, deadline, processors, greet).await
    }

    /// The connection to a broker, by the VIP channel or not.
    async fn reach(
        self: &Arc<Self>,
        addr: &Arc<str>,
        vip: bool,
        deadline: Deadline,
    ) -> Result<Connection, RemoteError> {
        if vip { self.vip_broker(addr, deadline).await } else { self.broker(addr, deadline).await }
    }

    /// Asks a broker, and once more on a fresh connection where it is going away and did not do it.
    async fn call<R: Request<Body: Clone>>(
        self: &Arc<Self>,
        addr: &Arc<str>,
        vip: bool,
        request: &R,
        body: R::Body,
        deadline: Deadline,
    ) -> Result<R::Reply, RemoteError> {
        let connection = self.reach(addr, vip, deadline).await?;
        match connection.call(request, body.clone(), deadline).await {
            Err(RemoteError::Refused { code: ResponseCode::GO_AWAY, .. }) => {
                let fresh = self.reach(addr, vip, deadline).await?;
                fresh.call(request, body, deadline).await
            }
            other => other,
        }
    }

    async fn vip_broker(self: &Arc<Self>, addr: &Arc<str>, deadline: Deadline) -> Result<Connection, RemoteError> {
        let Some(vip_addr) = vip_addr(addr) else { return self.broker(addr, deadline).await };
        // The broker knows its clients by the other connection: by that it asks about transactions.
        let greet = |_| async {
            if let Err(error) = self.broker(addr, deadline).await {
                tracing::debug!(%addr, error = &error as &dyn std::error::Error, "reached by the VIP channel only");
            }
        };
        self.vip_pool.get(&vip_addr, deadline, || processors(Arc::downgrade(self)), greet).await
    }
}

/// The address of a broker's VIP channel.
///
/// # Protocol
/// Two ports below its own. Java: `MixAll.brokerVIPChannel`; of the broker, `fastListenPort`.
fn vip_addr(addr: &Arc<str>) -> Option<Arc<str>> {
    let (host, port) = addr.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_sub(2).filter(|port| *port > 0)?;
    Some(format!("{host}:{port}").into())
}

const SHORTEST_REFRESH_PAUSE: Duration = Duration::from_millis(500);
const FIRST_NAME_SERVER_REFRESH: Duration = Duration::from_secs(10);
