mod calls;
mod health;
mod hedge;
mod locks;
mod look_up;
mod members;
mod membership;
mod operators;
mod pop;
mod processors;
mod replies;
mod routes;

use crate::{
    ClientConfig, ConditionKind, Error, Namespace, TopicRoute,
    identity::client_id,
    internal::Conditions,
    message::names::AUTO_CREATE_TOPIC,
    name_server::{self, NameServerSource, NameServers},
    pool::Pool,
    random::random_below,
    tasks::ClientTasks,
    ticks,
};
use members::Members;
pub use members::TransactionCheck;
use operators::Questions;
pub use operators::{ConsumingDirectly, Operated, Refusal};
use processors::processors;
pub use replies::ExpectedReply;
use replies::Replies;
use rocketmq_remote::{Connection, Deadline, Error as RemoteError, Request, ResponseCode};
use routes::RouteTable;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};
use tokio::{
    runtime::Handle as Runtime,
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

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
        self.shared.tasks.stop();
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
    /// What fails at the moment, as far as it concerns all groups of this client.
    conditions: Conditions,
    /// When a broker last accepted a heartbeat.
    last_heartbeat: Mutex<Option<Instant>>,
    /// Which broker last told of the members of a group.
    last_good: Mutex<HashMap<Arc<str>, Arc<str>>>,
    replies: Arc<Replies>,
    /// Topics whose route has failed somebody, with the generation that did.
    stale: Mutex<HashMap<Arc<str>, u64>>,
    stale_noted: Notify,
    heartbeat_wanted: Notify,
    /// Questions of operators that are being answered.
    questions: Questions,
    tasks: ClientTasks,
}

impl Client {
    /// Makes a client and asks a name server something, to be sure that there is one.
    ///
    /// `name_servers` are addresses of the form `host:port`, or a [resolver](NameServerSource::resolver) that finds
    /// them; see [`NameServerSource`].
    ///
    /// # Errors
    /// [`Error::Config`] for an option that cannot work or an empty list, [`Error::NameServerAddress`] for a list without
    /// an address, [`Error::NameServersUnknown`] where a resolver
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
        let (options, tasks) = (config.connection_options(), ClientTasks::new(Runtime::current()));
        let shared = Arc::new(Shared {
            id: client_id(config.instance_name.as_deref(), config.unit_name.as_deref()).into(),
            namespace,
            name_servers: NameServers::new(&addrs, random_below(1024))?,
            name_servers_wanted: Notify::new(),
            pool: Pool::new(options.clone(), tasks.clone()),
            vip_pool: Pool::new(options, tasks.clone()),
            routes: RouteTable::default(),
            members: Members::default(),
            unregistering: watch::Sender::default(),
            conditions: Conditions::default(),
            last_heartbeat: Mutex::default(),
            last_good: Mutex::default(),
            replies: Arc::default(),
            stale: Mutex::default(),
            stale_noted: Notify::new(),
            heartbeat_wanted: Notify::new(),
            questions: Questions::default(),
            tasks,
            config,
        });
        let client = Self(Arc::new(Handle { shared: shared.clone() }));
        // The template of new topics: a producer will want it, and any answer tells that a name server is there.
        match client.route(&AUTO_CREATE_TOPIC.into()).await {
            Ok(_) | Err(Error::TopicNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        drop(shared.tasks.spawn(look_up::refresh_routes(shared.clone())));
        if let Some(resolver) = resolver {
            drop(shared.tasks.spawn(look_up::refresh_name_servers(shared.clone(), resolver)));
        }
        drop(shared.tasks.spawn(beat(shared.clone())));
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
    /// it will have, with `queues` queues a broker at most. That a topic does not exist is believed for 1 s.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub async fn publish_route(&self, topic: &Arc<str>, queues: i32) -> Result<Arc<TopicRoute>, Error> {
        match self.shared().routes.known(topic) {
            Some(route) => Ok(route),
            None => self.shared().publish_route(topic, queues).await,
        }
    }

    /// Notes that a route has failed its user; it is looked up anew in the background. That of a topic which did not
    /// exist when it was looked up is forgotten: the next [`publish_route`](Self::publish_route) makes another one.
    pub fn note_stale(&self, route: &TopicRoute) {
        let shared = self.shared();
        shared.routes.expire(route);
        let mut stale = shared.stale.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        stale.insert(route.topic().clone(), route.generation());
        drop(stale);
        shared.stale_noted.notify_one();
    }

    /// The connection to a broker's address; a fresh one has been told who we are before anybody uses it. Connecting is
    /// a task of the client with time-outs of its own: the connect timeout, and the request timeout for the heartbeat that
    /// is the first request. All callers share the outcome, and wait for it until their own deadlines.
    ///
    /// # Errors
    /// [`RemoteError::Connect`] where no connection is made, [`RemoteError::NotReady`] where the broker does not answer
    /// the first heartbeat; either also at once while the address rests after such a failure.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing; a connection that is being made is there for the next caller.
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
        self.shared().tasks.are_stopped()
    }

    /// Writes what is queued, ends all connections and tasks, and waits for them until the deadline at the latest.
    pub async fn shutdown(&self, deadline: Deadline) {
        let shared = self.shared();
        shared.tasks.stop();
        shared.replies.close();
        let mut closing = JoinSet::new();
        for connection in shared.pool.close().into_iter().chain(shared.vip_pool.close()) {
            closing.spawn(async move { connection.close(deadline).await });
        }
        while closing.join_next().await.is_some() {}
        let _ = timeout_at(deadline.instant(), shared.tasks.wait()).await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
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
        shared.conditions.retain(|kind, subject| match kind {
            ConditionKind::Heartbeat => brokers.contains(subject),
            _ => true,
        });
        shared.heartbeat().await;
    }
}

impl Shared {
    async fn broker(self: &Arc<Self>, addr: &Arc<str>, deadline: Deadline) -> Result<Connection, RemoteError> {
        let prepare = || {
            let shared = self.clone();
            // A broker forgets its clients with their connections: without this heartbeat, pulls would be refused until
            // the next one.
            let introduce = async move |connection: Connection| shared.introduce(&connection).await;
            (processors(Arc::downgrade(self)), introduce)
        };
        self.pool.get(addr, deadline, prepare).await
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
        let prepare = || {
            let (shared, addr) = (self.clone(), addr.clone());
            // The broker knows its clients by the other connection: by that it asks about transactions.
            let connect_other = async move |_: Connection| {
                if let Err(error) = shared.broker(&addr, Deadline::after(shared.config.request_timeout)).await {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "reached by the VIP channel only");
                }
                Ok(())
            };
            (processors(Arc::downgrade(self)), connect_other)
        };
        self.vip_pool.get(&vip_addr, deadline, prepare).await
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
