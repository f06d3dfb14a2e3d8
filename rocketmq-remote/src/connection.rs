mod outgoing;
mod pending;
mod processors;
mod reserved;
mod room;
mod shared;
mod silence;
mod tasks;

pub use processors::{Incoming, Processors};
pub use reserved::ReservedCall;

use crate::{
    CloseCause, Command, Deadline, Error, HeadEncoding, MAX_FRAME_BYTES, Reply, Request, RequestCode, printable,
    request::Body as _, transport,
};
use pending::Outcome;
use serde::{Deserialize, Serialize};
use shared::Shared;
use std::{
    collections::BTreeMap,
    future::Future,
    marker::PhantomData,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::oneshot,
    time::timeout_at,
};
use tokio_util::task::TaskTracker;

/// What a connection allows itself and its peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionOptions {
    /// Longest time to connect, name look-up included. Default 3 s.
    #[serde(with = "crate::duration")]
    pub connect_timeout: Duration,
    /// Largest frame in either direction, its length word included. Default and maximum 16 MiB.
    pub max_frame_bytes: usize,
    /// Most calls that wait for an answer at once; a further one waits for room until its deadline. Default 65,535, as
    /// in Java.
    pub max_calls: usize,
    /// Most bytes that wait to be written; a further call waits for room until its deadline. A frame larger than that
    /// waits until it is alone. Default 4 MiB.
    pub max_queued_bytes: usize,
    /// Whether heads are written in the binary layout rather than as JSON. Default false. Codes beyond 16 bits travel
    /// as JSON all the same; either is read.
    pub binary_head: bool,
    /// Fields that go along with every request, one-way ones included, after its own; not with answers. A name that
    /// requests use themselves does not belong here. Default none.
    pub request_fields: BTreeMap<String, String>,
    /// How long a peer may send nothing while calls expire before the connection is given up. Default 5 s.
    #[serde(with = "crate::duration")]
    pub silence: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            max_frame_bytes: MAX_FRAME_BYTES,
            max_calls: 65_535,
            max_queued_bytes: 4 * 1024 * 1024,
            binary_head: false,
            request_fields: BTreeMap::new(),
            silence: Duration::from_secs(5),
        }
    }
}

/// A connection to one peer, over which many calls go at once. A cheap handle; the same type on both sides.
///
/// Dropping the last handle, a [`PendingReply`] being one too, ends the connection and its tasks.
/// [`close`](Self::close) first writes what is queued.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(CloseCause::Local);
    }
}

impl Connection {
    /// Connects to `addr`, of the form `host:port`; the host may be a name, an IPv4 or an IPv6 address.
    ///
    /// # Errors
    /// [`Error::Address`] for another form, [`Error::Connect`] where nobody answers within the connect timeout.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn dial(addr: &str, options: ConnectionOptions, processors: Processors) -> Result<Self, Error> {
        let addr: Arc<str> = addr.into();
        let stream = transport::dial(&addr, options.connect_timeout).await?;
        let peer = stream.peer_addr().ok();
        tracing::debug!(%addr, "connected");
        let (reader, writer) = stream.into_split();
        Ok(Self::start(addr, peer, reader, writer, options, processors))
    }

    /// Serves an accepted socket: the other end of [`dial`](Self::dial).
    ///
    /// # Errors
    /// [`Error::Connect`] where the socket is dead already.
    pub fn accept(stream: TcpStream, options: ConnectionOptions, processors: Processors) -> Result<Self, Error> {
        let peer = stream.peer_addr().and_then(|peer| transport::tune(&stream).map(|()| peer));
        let peer =
            peer.map_err(|source| Error::Connect { addr: "an accepted socket".into(), source: source.into() })?;
        let (reader, writer) = stream.into_split();
        Ok(Self::start(peer.to_string().into(), Some(peer), reader, writer, options, processors))
    }

    /// A connection over any pair of byte streams.
    pub(crate) fn start<R, W>(
        addr: Arc<str>,
        peer: Option<SocketAddr>,
        reader: R,
        writer: W,
        options: ConnectionOptions,
        processors: Processors,
    ) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared::new(addr, peer, options, processors));
        let tasks = TaskTracker::new();
        tasks.spawn(tasks::read(shared.clone(), reader));
        tasks.spawn(tasks::write(shared.clone(), writer));
        tasks.spawn(tasks::time_out(shared.clone()));
        tasks.close();
        Self(Arc::new(Handle { shared, tasks }))
    }

    /// Asks and awaits the answer.
    ///
    /// # Errors
    /// [`Error::Refused`] where the peer answers with a code the request was not declared to be answered with;
    /// [`Error::TimedOut`], [`Error::NoRoom`], [`Error::DeadlinePassed`] where the deadline passes; [`Error::Closed`] where
    /// the connection ends;
    /// [`Error::Encode`], [`Error::Decode`] where the request or the answer cannot be written or read, which harms no
    /// other call.
    ///
    /// # Cancel safety
    /// Dropping the future gives the call up; a late answer is dropped. The request may have been sent, always whole.
    pub async fn call<R: Request>(&self, request: &R, body: R::Body, deadline: Deadline) -> Result<R::Reply, Error> {
        self.call_async(request, body, deadline).await?.await
    }

    /// Queues the request, waiting only for room, and returns a future of the answer. Requests queued one after the
    /// other are sent in that order.
    ///
    /// # Errors
    /// As [`call`](Self::call), as far as they come up before the request is queued.
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready sends nothing.
    pub async fn call_async<R: Request>(
        &self,
        request: &R,
        body: R::Body,
        deadline: Deadline,
    ) -> Result<PendingReply<R>, Error> {
        self.reserve(request, body, deadline).await?.start(deadline)
    }

    /// Waits for room for a call, and returns the call, which is yet to be started. What room there is goes to those who
    /// wait in the order in which they came; a future that is not polled for 100 ms when it is its turn waits again.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where the deadline passes, [`Error::Closed`], [`Error::Encode`].
    ///
    /// # Cancel safety
    /// Dropping the future, or the call, sends nothing and gives the room back.
    pub async fn reserve<R: Request>(
        &self,
        request: &R,
        body: R::Body,
        deadline: Deadline,
    ) -> Result<ReservedCall<R>, Error> {
        let shared = &self.0.shared;
        let command = self.command(request, body)?;
        let size = HEAD_BYTES + command.body.len() + command.fields.as_bytes().len();
        let call = match shared.calls.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let calls = shared.calls.clone();
                self.room(R::CODE, deadline, move || calls.clone().acquire_owned()).await?
            }
        };
        let bytes = self.byte_room(R::CODE, size, deadline).await?.forget();
        Ok(ReservedCall::new(command, call, self.clone(), bytes))
    }

    /// Queues a request that is not answered, waiting only for room. It is written unless the connection fails;
    /// nobody tells whether the peer did what was asked.
    ///
    /// # Errors
    /// As [`call_async`](Self::call_async).
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready sends nothing.
    pub async fn call_oneway<R: Request>(&self, request: &R, body: R::Body, deadline: Deadline) -> Result<(), Error> {
        let shared = &self.0.shared;
        let mut command = self.command(request, body)?.one_way();
        let mut frame = shared.encode(&mut command).map_err(|source| self.encode_error(R::CODE, source))?;
        let permits = self.byte_room(R::CODE, frame.head.len() + frame.body.len(), deadline).await?;
        self.refuse_while_closing()?;
        if let Some(cause) = shared.closed() {
            return Err(self.closed(cause, false));
        }
        frame.permits = permits.forget();
        shared.outgoing.push(frame);
        Ok(())
    }

    /// Writes what is queued, then ends the connection; calls that still wait fail, and new ones fail at once. Waits
    /// until its tasks are gone, at the latest until the deadline, when they are ended.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing back: the connection ends once what is queued is written.
    pub async fn close(&self, deadline: Deadline) {
        let shared = &self.0.shared;
        shared.closing.store(true, Ordering::Release);
        shared.outgoing.filled.notify_one();
        if timeout_at(deadline.instant(), self.0.tasks.wait()).await.is_err() {
            shared.close(CloseCause::Local);
            self.0.tasks.wait().await;
        }
    }

    /// The address as it was dialled, or the one it was accepted from.
    pub fn addr(&self) -> &Arc<str> {
        &self.0.shared.addr
    }

    /// The version that the peer reports in its answers, as Java numbers its releases: 407 is 4.9.7, 413 is 5.0.0. `None`
    /// before the first answer, and where it reports none.
    pub fn peer_version(&self) -> Option<i32> {
        Some(self.0.shared.peer_version.load(Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// A number that tells this connection from every other one of the process.
    pub fn id(&self) -> u64 {
        self.0.shared.id
    }

    /// Why the connection has ended, if it has.
    pub fn close_cause(&self) -> Option<Arc<CloseCause>> {
        self.0.shared.closed()
    }

    /// Whether new calls belong on a fresh connection: this one has ended or is about to, or the peer has said GO_AWAY.
    /// What is in flight on it goes on.
    pub fn is_spent(&self) -> bool {
        let shared = &self.0.shared;
        shared.going_away.load(Ordering::Acquire)
            || shared.closing.load(Ordering::Acquire)
            || self.close_cause().is_some()
    }

    /// Whether calls have timed out, and the peer has sent nothing since they were made: it may be frozen. What does not
    /// need an answer is not worth waiting for then.
    pub fn is_unresponsive(&self) -> bool {
        self.0.shared.unresponsive.load(Ordering::Relaxed)
    }

    /// Resolves once the connection has ended.
    pub async fn ended(&self) {
        self.0.shared.ended.cancelled().await;
    }

    /// The calls that wait for an answer now.
    pub fn in_flight(&self) -> usize {
        self.0.shared.pending().len()
    }

    fn command<R: Request>(&self, request: &R, body: R::Body) -> Result<Command, Error> {
        let body = body.into_bytes().map_err(|source| self.encode_error(R::CODE, source))?;
        let mut command = Command::request(request).with_body(body);
        for (name, value) in &self.0.shared.options.request_fields {
            command.fields.push(name, value);
        }
        if self.0.shared.options.binary_head {
            command.encoding = HeadEncoding::Binary;
        }
        Ok(command)
    }

    fn refuse_while_closing(&self) -> Result<(), Error> {
        if self.0.shared.closing.load(Ordering::Acquire) {
            let cause = self.close_cause().unwrap_or_else(|| Arc::new(CloseCause::Local));
            return Err(self.closed(cause, false));
        }
        Ok(())
    }

    /// Waits for permits until the deadline.
    async fn room<P, F>(
        &self,
        code: RequestCode,
        deadline: Deadline,
        acquire: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<P, Error>
    where
        P: Send + 'static,
        F: Future<Output = Result<P, tokio::sync::AcquireError>> + Send + 'static,
    {
        room::room(&self.0.tasks, deadline.instant(), acquire).await.map_err(|refused| match refused {
            room::Refused::Late => Error::NoRoom { addr: self.addr().clone(), code },
            room::Refused::Closed => {
                let cause = self.close_cause().unwrap_or_else(|| Arc::new(CloseCause::Local));
                self.closed(cause, false)
            }
        })
    }

    async fn byte_room(&self, code: RequestCode, bytes: usize, deadline: Deadline) -> Result<BytePermits, Error> {
        let shared = &self.0.shared;
        let count = shared.byte_permits(bytes);
        let permit = match shared.bytes.clone().try_acquire_many_owned(count) {
            Ok(permit) => permit,
            Err(_) => {
                let bytes = shared.bytes.clone();
                self.room(code, deadline, move || bytes.clone().acquire_many_owned(count)).await?
            }
        };
        Ok(BytePermits(permit))
    }

    fn read_outcome<R: Request>(&self, outcome: Outcome) -> Result<R::Reply, Error> {
        match outcome {
            Outcome::Answer(command) => read_answer::<R>(self.addr().clone(), command),
            Outcome::TimedOut => Err(Error::TimedOut { addr: self.addr().clone(), code: R::CODE }),
            Outcome::Closed(cause) => Err(self.closed(cause, true)),
            Outcome::Failed(error) => Err(error),
        }
    }

    fn closed(&self, cause: Arc<CloseCause>, sent: bool) -> Error {
        Error::Closed { addr: self.addr().clone(), cause, sent }
    }

    fn encode_error(&self, code: RequestCode, source: crate::EncodeError) -> Error {
        Error::Encode { code, source: Arc::new(source) }
    }
}

/// Permits for bytes that are about to be queued; they go back when the writer has written them.
struct BytePermits(tokio::sync::OwnedSemaphorePermit);

impl BytePermits {
    fn forget(self) -> usize {
        let count = self.0.num_permits();
        self.0.forget();
        count
    }
}

/// The answer to a queued request, as a future.
///
/// Dropping it gives the call up: a late answer is dropped. It resolves at the call's deadline at the latest. It holds
/// its connection: what is in flight is answered even where every other handle has been dropped.
#[must_use = "the answer tells whether the request was done"]
#[derive(Debug)]
pub struct PendingReply<R: Request> {
    connection: Connection,
    opaque: i32,
    receiver: oneshot::Receiver<Outcome>,
    done: bool,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Future for PendingReply<R> {
    type Output = Result<R::Reply, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let outcome = ready!(Pin::new(&mut this.receiver).poll(context));
        this.done = true;
        // The sender lives in the table of calls, which sends before it drops one.
        let outcome = outcome.unwrap_or_else(|_| Outcome::Closed(Arc::new(CloseCause::Local)));
        Poll::Ready(this.connection.read_outcome::<R>(outcome))
    }
}

impl<R: Request> Drop for PendingReply<R> {
    fn drop(&mut self) {
        if !self.done {
            // Dropped after the lock is free: letting go of a sender may wake somebody.
            let waiting = self.connection.0.shared.pending().remove(self.opaque);
            drop(waiting);
        }
    }
}

fn read_answer<R: Request>(addr: Arc<str>, command: Command) -> Result<R::Reply, Error> {
    let code = command.response_code();
    if !R::is_ok(code) {
        let remark = printable(command.remark.as_deref().unwrap_or_default()).into_owned();
        return Err(Error::Refused { addr, code, remark });
    }
    R::Reply::from_command(command).map_err(|source| Error::Decode { addr, code: R::CODE, source: source.into() })
}

/// What a head takes besides its fields, near enough to count the bytes that wait.
const HEAD_BYTES: usize = 128;

#[cfg(test)]
mod tests;
