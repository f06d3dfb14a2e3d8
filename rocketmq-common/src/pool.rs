use crate::{random::random_u64, retry::Backoff};
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

/// One connection an address, dialled when it is needed.
#[derive(Debug)]
pub(crate) struct Pool {
    options: ConnectionOptions,
    slots: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    /// Set once and for all: no more is dialled.
    closed: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    addr: Arc<str>,
    state: Mutex<State>,
    /// Held by the one who dials; the others of this address wait for what comes of it.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    failures: u32,
    /// Until when nobody dials again, and what the last dial came to.
    resting: Option<(Instant, Error)>,
}

impl Pool {
    pub(crate) fn new(options: ConnectionOptions) -> Self {
        Self { options, slots: Mutex::default(), closed: AtomicBool::new(false) }
    }

    /// The connection to `addr`: the one there is, or a fresh one, `greeted` before anybody else gets it.
    ///
    /// After a failed dial the address rests for a while, longer each time, and callers get the failure at once. After
    /// [`close`](Self::close) there are no more connections.
    pub(crate) async fn get<F: Future<Output = ()>>(
        &self,
        addr: &Arc<str>,
        deadline: Deadline,
        processors: impl FnOnce() -> Processors,
        greet: impl FnOnce(Connection) -> F,
    ) -> Result<Connection, Error> {
        let slot = self.slot(addr);
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        let timed_out = || Error::Connect { addr: addr.clone(), source: Arc::new(std::io::ErrorKind::TimedOut.into()) };
        self.check_open(addr)?;
        let _dialling = timeout_at(deadline.instant(), slot.dialling.lock()).await.map_err(|_| timed_out())?;
        if let Some(connection) = slot.usable() {
            return Ok(connection);
        }
        if let Some((until, error)) = &slot.state().resting {
            if Instant::now() < *until {
                return Err(error.clone());
            }
        }
        let connect_timeout = self.options.connect_timeout.min(deadline.remaining());
        let options = ConnectionOptions { connect_timeout, ..self.options.clone() };
        match Connection::dial(addr, options, processors()).await {
            Ok(connection) => {
                greet(connection.clone()).await;
                *slot.state() = State { connection: Some(connection.clone()), ..State::default() };
                // A close that came in between may have missed this one.
                self.check_open(addr).inspect_err(|_| slot.state().connection = None)?;
                Ok(connection)
            }
            Err(error) => {
                let mut state = slot.state();
                state.failures = state.failures.saturating_add(1);
                let rest = BACKOFF.wait(state.failures, random_u64());
                state.resting = Some((Instant::now() + rest, error.clone()));
                tracing::warn!(%addr, failures = state.failures, error = &error as &dyn std::error::Error, "cannot connect");
                Err(error)
            }
        }
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

    fn check_open(&self, addr: &Arc<str>) -> Result<(), Error> {
        let closed = || Error::Closed { addr: addr.clone(), cause: Arc::new(CloseCause::Local), sent: false };
        if self.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    fn slot(&self, addr: &Arc<str>) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(addr) {
            return slot.clone();
        }
        let slot =
            Arc::new(Slot { addr: addr.clone(), state: Mutex::default(), dialling: tokio::sync::Mutex::default() });
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(3));
