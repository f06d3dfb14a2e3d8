//! One port: its listener and the connections it accepted.

use crate::Error;
use bytes::Bytes;
use rocketmq_common::protocol::{CheckTransactionState, NotifyConsumerIdsChanged, PushReply};
use rocketmq_remote::{Connection, ConnectionOptions, Deadline, Processors};
use std::{
    collections::HashMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A server at one port, which stays its own while it is stopped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    state: Mutex<State>,
    stop_all: CancellationToken,
}

#[derive(Debug)]
enum State {
    Running {
        stop: CancellationToken,
        tasks: TaskTracker,
    },
    /// The socket is bound and does not listen: nobody else gets the port.
    Stopped(Option<TcpSocket>),
}

/// The connections of a running server, by their ids: where to send what the broker has to say.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<HashMap<u64, Peer>>);

#[derive(Debug)]
struct Peer {
    connection: Connection,
    notices: mpsc::Sender<Tell>,
}

/// What a broker tells a client unasked.
#[derive(Debug)]
enum Tell {
    /// The members of this consumer group have changed.
    Changed(Arc<str>),
    /// What became of this half message?
    Check(Box<CheckTransactionState>, Bytes),
    /// The reply to one of its requests; and what to do when it has taken it, or has not.
    Reply(Box<PushReply>, Bytes, Taken),
}

/// Called with whether a client has taken a reply; in any case once.
struct Taken(Option<Box<dyn FnOnce(bool) + Send>>);

impl Taken {
    fn tell(mut self, taken: bool) {
        if let Some(told) = self.0.take() {
            told(taken);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told(false);
        }
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Taken")
    }
}

impl Peers {
    /// Tells clients that the members of a group have changed. A client that has many such notices before it gets no
    /// further one: it will look at the group anyway.
    pub(crate) fn notify(&self, group: &Arc<str>, connections: &[u64]) {
        let peers = self.lock();
        for peer in connections.iter().filter_map(|connection| peers.get(connection)) {
            let _ = peer.notices.try_send(Tell::Changed(group.clone()));
        }
    }

    /// Asks a client what became of a half message; answers whether it is still there to be asked.
    pub(crate) fn check(&self, connection: u64, check: CheckTransactionState, message: Bytes) -> bool {
        let peers = self.lock();
        peers.get(&connection).is_some_and(|peer| peer.notices.try_send(Tell::Check(Box::new(check), message)).is_ok())
    }

    /// Hands a reply to a client; `taken` is called with whether it took it.
    pub(crate) fn push_reply(
        &self,
        connection: u64,
        reply: PushReply,
        body: Bytes,
        taken: impl FnOnce(bool) + Send + 'static,
    ) {
        let tell = Tell::Reply(Box::new(reply), body, Taken(Some(Box::new(taken))));
        let peer = self.lock().get(&connection).map(|peer| peer.notices.clone());
        // What is not sent is dropped, and so told.
        let _ = peer.map(|peer| peer.try_send(tell));
    }

    /// A connection that still stands: to ask its client something.
    pub(crate) fn connection(&self, connection: u64) -> Option<Connection> {
        self.lock().get(&connection).map(|peer| peer.connection.clone())
    }

    /// Whether a connection still stands.
    pub(crate) fn has(&self, connection: u64) -> bool {
        self.lock().contains_key(&connection)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Peer>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a server does with its connections.
pub(crate) trait Service: Send + Sync + 'static {
    fn processors(self: &Arc<Self>) -> Processors;

    fn peers(&self) -> &Peers;

    /// A connection has ended.
    fn ended(&self, connection: u64);

    /// Work beside the connections; runs until `stop` is cancelled.
    fn start_tasks(self: &Arc<Self>, stop: &CancellationToken, tasks: &TaskTracker);
}

impl Server {
    /// Takes a free port of the loopback address, and does not listen yet.
    pub(crate) fn bind(stop_all: &CancellationToken) -> Result<Self, Error> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = bind(any).map_err(|source| Error::Listen { addr: any, source })?;
        let addr = socket.local_addr().map_err(|source| Error::Listen { addr: any, source })?;
        Ok(Self { addr, state: Mutex::new(State::Stopped(Some(socket))), stop_all: stop_all.clone() })
    }

    /// As [`bind`](Self::bind), and the port two below as well.
    pub(crate) fn bind_with_vip(stop_all: &CancellationToken) -> Result<(Self, Self), Error> {
        let mut taken = None;
        for _ in 0..BIND_ATTEMPTS {
            let own = Self::bind(stop_all)?;
            let addr = SocketAddr::new(own.addr.ip(), own.addr.port().saturating_sub(2));
            match bind_alone(addr) {
                Ok(socket) => {
                    let state = Mutex::new(State::Stopped(Some(socket)));
                    return Ok((own, Self { addr, state, stop_all: stop_all.clone() }));
                }
                Err(source) => taken = Some(Error::Listen { addr, source }),
            }
        }
        Err(taken.expect("there is at least one attempt, and it failed"))
    }

    /// Listens. A server that runs goes on.
    pub(crate) fn start<S: Service>(&self, service: &Arc<S>) -> Result<(), Error> {
        let mut state = self.lock();
        let socket = match &mut *state {
            State::Running { .. } => return Ok(()),
            State::Stopped(socket) => socket.take(),
        };
        let socket = socket.map_or_else(|| bind(self.addr), Ok);
        let listener = socket.and_then(|socket| socket.listen(BACKLOG));
        let listener = listener.map_err(|source| Error::Listen { addr: self.addr, source })?;
        let (stop, tasks) = (self.stop_all.child_token(), TaskTracker::new());
        tasks.spawn(accept(listener, service.clone(), service.processors(), stop.clone(), tasks.clone()));
        service.start_tasks(&stop, &tasks);
        *state = State::Running { stop, tasks };
        Ok(())
    }

    /// Closes the port and all connections, and waits until they are gone.
    pub(crate) async fn stop(&self) {
        let running = {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Stopped(None)) {
                State::Running { stop, tasks } => Some((stop, tasks)),
                stopped @ State::Stopped(_) => {
                    *state = stopped;
                    None
                }
            }
        };
        let Some((stop, tasks)) = running else { return };
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        let reserved = bind(self.addr).ok();
        if let State::Stopped(socket @ None) = &mut *self.lock() {
            *socket = reserved;
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.lock(), State::Running { .. })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn bind(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections that were closed a moment ago must not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// As [`bind`], but fails where another server holds the port and does not listen yet.
fn bind_alone(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(addr)?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

async fn accept<S: Service>(
    listener: TcpListener,
    service: Arc<S>,
    processors: Processors,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => serve(stream, &service, &processors, &stop, &tasks),
            Err(error) => {
                // Out of file descriptors, as a rule: some may come back.
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve<S: Service>(
    stream: TcpStream,
    service: &Arc<S>,
    processors: &Processors,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let (sender, notices) = mpsc::channel(MAX_NOTICES);
    // The peers stay locked until the connection is among them: its first request may come at once.
    let mut peers = service.peers().lock();
    match Connection::accept(stream, ConnectionOptions::default(), processors.clone()) {
        Ok(connection) => {
            peers.insert(connection.id(), Peer { connection: connection.clone(), notices: sender });
            drop(peers);
            tasks.spawn(keep(connection, notices, service.clone(), stop.clone()));
        }
        Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended at once"),
    }
}

/// Owns a connection until it ends or the server stops.
async fn keep<S: Service>(
    connection: Connection,
    mut notices: mpsc::Receiver<Tell>,
    service: Arc<S>,
    stop: CancellationToken,
) {
    let mut replies = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break connection.close(Deadline::after(CLOSE_TIME)).await,
            () = connection.ended() => break,
            Some(_) = replies.join_next() => {}
            Some(tell) = notices.recv() => {
                let deadline = Deadline::after(NOTICE_TIME);
                let told = match tell {
                    Tell::Changed(consumer_group) => {
                        connection.call_oneway(&NotifyConsumerIdsChanged { consumer_group }, (), deadline).await
                    }
                    Tell::Check(check, message) => connection.call_oneway(&*check, message, deadline).await,
                    Tell::Reply(reply, body, taken) => {
                        let connection = connection.clone();
                        replies.spawn(async move {
                            let answer = connection.call(&*reply, body, Deadline::after(REPLY_TIME)).await;
                            taken.tell(answer.is_ok());
                        });
                        Ok(())
                    }
                };
                if let Err(error) = told {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a notice was not sent");
                }
            }
        }
    }
    service.peers().lock().remove(&connection.id());
    service.ended(connection.id());
}

const BACKLOG: u32 = 1024;
/// How often a pair of free ports is looked for.
const BIND_ATTEMPTS: usize = 32;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_NOTICES: usize = 64;
/// Java: `Broker2Client.callClient`.
const REPLY_TIME: Duration = Duration::from_secs(10);
const NOTICE_TIME: Duration = Duration::from_secs(1);
/// How long a stopping server waits for a client to take the answers that are on their way.
const CLOSE_TIME: Duration = Duration::from_millis(200);
