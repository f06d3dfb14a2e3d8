//! One connection an address, dialled when it is needed.

use crate::{
    Backoff,
    random::random_u64,
    tasks::{ClientTasks, SharedWork},
};
use rocketmq_remote::{CloseCause, Connection, ConnectionOptions, Deadline, Error, Processors};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// The connections of a client, one an address.
///
/// A connection is dialled and prepared by a task of the client, within time-outs of its own. Callers share the outcome
/// and wait for it until their own deadlines: none of them can break it off, hold it up, or make it fail for the others.
#[derive(Debug)]
pub(crate) struct Pool {
    options: ConnectionOptions,
    tasks: ClientTasks,
    slots: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    /// Set once and for all: no more is dialled.
    closed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Slot {
    addr: Arc<str>,
    state: Mutex<State>,
}

type Dial = SharedWork<Result<Connection, Error>>;

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// The dial under way.
    dial: Option<Dial>,
    /// Whether that dial has got as far as a connection, which is being prepared.
    is_connected: bool,
    failures: u32,
    /// Until when the address is not dialled again, and the outcome of the last dial.
    resting: Option<(Instant, Error)>,
}

impl Pool {
    pub(crate) fn new(options: ConnectionOptions, tasks: ClientTasks) -> Self {
        Self { options, tasks, slots: Mutex::default(), closed: Arc::default() }
    }

    /// The connection to `addr`: the one there is, or a fresh one. Of a fresh one, `prepare` gives what answers the
    /// peer's requests, and a function that is awaited before any caller gets the connection; where it fails, so does
    /// the dial.
    ///
    /// After a failed dial the address rests for a while, longer each time, and callers get the failure at once. After
    /// [`close`](Self::close) there are no more connections.
    ///
    /// # Cancel safety
    /// A dial that has begun goes on for the other callers, whether or not this future is dropped or polled.
    pub(crate) async fn get<G, F>(
        &self,
        addr: &Arc<str>,
        deadline: Deadline,
        prepare: impl FnOnce() -> (Processors, G),
    ) -> Result<Connection, Error>
    where
        G: FnOnce(Connection) -> F + Send + 'static,
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let slot = self.slot(addr);
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(closed(addr, CloseCause::Local));
        }
        let dial = {
            let mut state = slot.state();
            if let Some(connection) = &state.connection {
                return Ok(connection.clone());
            }
            match state.dial.as_ref().filter(|dial| !dial.is_lost()) {
                Some(dial) => dial.clone(),
                None => {
                    if let Some((_, error)) = state.resting.as_ref().filter(|(until, _)| Instant::now() < *until) {
                        return Err(error.clone());
                    }
                    let (processors, greet) = prepare();
                    state.is_connected = false;
                    state.dial.insert(self.dial(slot.clone(), processors, greet)).clone()
                }
            }
        };
        match timeout_at(deadline.instant(), dial.outcome()).await {
            Ok(Some(result)) => result,
            Ok(None) if self.tasks.are_stopped() => Err(closed(addr, CloseCause::Local)),
            Ok(None) => Err(closed(addr, CloseCause::RuntimeEnded)),
            Err(_) if slot.state().is_connected => Err(Error::NotReady { addr: addr.clone() }),
            Err(_) => Err(Error::Connect { addr: addr.clone(), source: Arc::new(no_connection_in_time()) }),
        }
    }

    fn dial<G, F>(&self, slot: Arc<Slot>, processors: Processors, greet: G) -> Dial
    where
        G: FnOnce(Connection) -> F + Send + 'static,
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (options, is_closed) = (self.options.clone(), self.closed.clone());
        SharedWork::start(&self.tasks, async move {
            let dialled = match Connection::dial(&slot.addr, options, processors).await {
                Ok(connection) => {
                    slot.state().is_connected = true;
                    greet(connection.clone()).await.map(|()| connection)
                }
                Err(error) => Err(error),
            };
            slot.finish(dialled.clone());
            // A close that came in between may have missed this one.
            if is_closed.load(Ordering::SeqCst) {
                slot.state().connection = None;
                return Err(closed(&slot.addr, CloseCause::Local));
            }
            dialled
        })
    }

    /// The connections that stand now.
    pub(crate) fn open(&self) -> Vec<Connection> {
        self.slots().values().filter_map(|slot| slot.usable()).collect()
    }

    /// Forgets the addresses that are not wanted any more. Calls in flight on them finish.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.slots().retain(|addr, _| wanted(addr));
    }

    /// Takes all connections out, and allows no more.
    pub(crate) fn close(&self) -> Vec<Connection> {
        self.closed.store(true, Ordering::SeqCst);
        let slots: Vec<_> = self.slots().drain().map(|(_, slot)| slot).collect();
        slots.iter().filter_map(|slot| slot.state().connection.take()).collect()
    }

    fn slot(&self, addr: &Arc<str>) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(addr) {
            return slot.clone();
        }
        let slot = Arc::new(Slot { addr: addr.clone(), state: Mutex::default() });
        slots.insert(addr.clone(), slot.clone());
        slot
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Slot {
    /// The connection, unless it has ended or the peer wants new calls elsewhere. A spent one is let go: it ends when
    /// the last of its calls does.
    fn usable(&self) -> Option<Connection> {
        let mut state = self.state();
        if state.connection.as_ref().is_some_and(Connection::is_spent) {
            tracing::debug!(addr = %self.addr, "connection is spent");
            state.connection = None;
        }
        state.connection.clone()
    }

    /// Enters the outcome of the dial under way. A warning says that an address cannot be reached, and an
    /// information that it can be again; what is between the two is for debugging.
    fn finish(&self, dialled: Result<Connection, Error>) {
        let mut state = self.state();
        state.dial = None;
        match dialled {
            Ok(connection) => {
                if state.failures > 0 {
                    tracing::info!(addr = %self.addr, failures = state.failures, "connected again");
                }
                *state = State { connection: Some(connection), ..State::default() };
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let rest = BACKOFF.wait(state.failures, random_u64());
                let (addr, failures, shown) = (&self.addr, state.failures, &error as &dyn std::error::Error);
                if failures == 1 {
                    tracing::warn!(%addr, error = shown, "cannot connect, backing off");
                } else {
                    tracing::debug!(%addr, failures, error = shown, "still cannot connect");
                }
                state.resting = Some((Instant::now() + rest, error));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn closed(addr: &Arc<str>, cause: CloseCause) -> Error {
    Error::Closed { addr: addr.clone(), cause: Arc::new(cause), sent: false }
}

fn no_connection_in_time() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection before the deadline of the call")
}

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(3));

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::{pending, ready},
        pin::pin,
        task::Poll,
    };
    use tokio::{
        net::TcpListener,
        runtime::Handle as Runtime,
        sync::Semaphore,
        time::{sleep, timeout},
    };

    fn pool() -> Pool {
        Pool::new(ConnectionOptions::default(), ClientTasks::new(Runtime::current()))
    }

    async fn listener() -> (TcpListener, Arc<str>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string().into();
        (listener, addr)
    }

    /// Polls a future once.
    async fn poll_once<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }

    const SOON: Duration = Duration::from_secs(30);

    fn soon() -> Deadline {
        Deadline::after(SOON)
    }

    fn at_once() -> (Processors, impl FnOnce(Connection) -> std::future::Ready<Result<(), Error>> + Send + 'static) {
        (Processors::new(), |_| ready(Ok(())))
    }

    #[tokio::test]
    async fn a_caller_that_is_not_polled_holds_up_no_other() {
        let ((_listener, addr), pool, gate) = (listener().await, pool(), Arc::new(Semaphore::new(0)));
        let of_task = gate.clone();
        let behind_the_gate = || {
            (Processors::new(), |_| async move {
                of_task.acquire().await.unwrap().forget();
                Ok(())
            })
        };
        let mut kept = pin!(pool.get(&addr, soon(), behind_the_gate));
        assert!(poll_once(kept.as_mut()).await.is_pending());
        gate.add_permits(1);
        // The one that began the dial is kept, and not polled.
        let other = timeout(SOON, pool.get(&addr, soon(), at_once)).await.expect("held up").unwrap();
        assert_eq!(kept.await.unwrap().id(), other.id(), "one dial for both");
    }

    #[tokio::test]
    async fn a_caller_without_time_puts_the_address_to_rest_for_nobody() {
        let ((_listener, addr), pool) = (listener().await, pool());
        // It may still be lucky.
        if let Err(error) = pool.get(&addr, Deadline::after(Duration::ZERO), at_once).await {
            assert!(error.is_retryable() && !error.may_have_happened(), "{error:?}");
        }
        pool.get(&addr, soon(), at_once).await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_caller_breaks_no_dial_off() {
        let ((_listener, addr), pool) = (listener().await, pool());
        {
            let mut dropped = pin!(pool.get(&addr, soon(), at_once));
            assert!(poll_once(dropped.as_mut()).await.is_pending());
        }
        timeout(SOON, async {
            while pool.open().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the dial goes on");
    }

    #[tokio::test]
    async fn a_connection_that_is_not_ready_in_time_is_told_as_such() {
        let ((_listener, addr), pool) = (listener().await, pool());
        let never = || (Processors::new(), |_| pending());
        timeout(SOON, async {
            // The first callers may find that there is no connection yet.
            loop {
                match pool.get(&addr, Deadline::after(Duration::from_millis(20)), never).await {
                    Err(Error::NotReady { addr: of }) => break assert_eq!(of, addr),
                    Err(Error::Connect { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
        .await
        .expect("callers end by their own deadlines");
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_prepared_is_given_to_nobody_and_its_address_rests() {
        let ((_listener, addr), pool) = (listener().await, pool());
        let fails = |of: &Arc<str>| {
            let error = Error::NotReady { addr: of.clone() };
            (Processors::new(), |_| ready(Err(error)))
        };
        for _ in 0..2 {
            let got = pool.get(&addr, soon(), || fails(&addr)).await;
            assert!(matches!(got, Err(Error::NotReady { .. })), "{got:?}");
        }
        assert!(pool.open().is_empty());
    }

    #[tokio::test]
    async fn a_pool_that_is_closed_gives_no_connection() {
        let ((_listener, addr), pool) = (listener().await, pool());
        let never = || (Processors::new(), |_| pending());
        let mut waiting = pin!(pool.get(&addr, soon(), never));
        assert!(poll_once(waiting.as_mut()).await.is_pending());
        assert!(pool.close().is_empty());
        pool.tasks.stop();
        for got in [timeout(SOON, waiting).await.expect("ends"), pool.get(&addr, soon(), at_once).await] {
            assert!(matches!(got, Err(Error::Closed { sent: false, .. })), "{got:?}");
        }
    }

    #[tokio::test]
    async fn a_client_whose_runtime_has_ended_says_so() {
        let (_listener, addr) = listener().await;
        let elsewhere = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            ClientTasks::new(runtime.handle().clone())
        };
        let tasks = std::thread::spawn(elsewhere).join().unwrap();
        let pool = Pool::new(ConnectionOptions::default(), tasks);
        match pool.get(&addr, soon(), at_once).await {
            Err(Error::Closed { cause, .. }) => assert!(matches!(*cause, CloseCause::RuntimeEnded)),
            other => panic!("{other:?}"),
        }
    }
}
