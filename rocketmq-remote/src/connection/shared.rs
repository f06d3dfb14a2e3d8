use super::{
    ConnectionOptions, Processors,
    outgoing::{Frame, Outgoing},
    pending::{Outcome, Pending, Waiting},
};
use crate::{CloseCause, Command, CommandCodec, EncodeError};
use bytes::BytesMut;
use std::{
    mem,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// What the handle and the tasks of one connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) addr: Arc<str>,
    pub(crate) peer: Option<SocketAddr>,
    pub(super) options: ConnectionOptions,
    pub(super) codec: CommandCodec,
    pub(super) processors: Processors,
    pending: Mutex<Pending>,
    pub(super) outgoing: Outgoing,
    /// One permit a call that waits for its answer.
    pub(super) calls: Arc<Semaphore>,
    /// One permit a byte that waits to be written.
    pub(super) bytes: Arc<Semaphore>,
    /// Wakes the task that times calls out: there is an earlier deadline.
    pub(super) earlier_deadline: Notify,
    pub(super) going_away: AtomicBool,
    /// Set by `close`: the writer ends once nothing waits any more.
    pub(super) closing: AtomicBool,
    /// Calls have expired since the last byte came.
    pub(super) unresponsive: AtomicBool,
    /// What the peer reports of itself in its answers; 0 before the first one.
    pub(super) peer_version: AtomicI32,
    started: Instant,
    last_read_ms: AtomicU64,
    pub(super) ended: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        addr: Arc<str>,
        peer: Option<SocketAddr>,
        options: ConnectionOptions,
        processors: Processors,
    ) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            addr,
            peer,
            codec: CommandCodec::new(options.max_frame_bytes),
            processors,
            pending: Mutex::default(),
            outgoing: Outgoing::default(),
            calls: Arc::new(Semaphore::new(options.max_calls.clamp(1, Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(options.max_queued_bytes.clamp(1, MAX_BYTE_PERMITS))),
            earlier_deadline: Notify::new(),
            going_away: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            unresponsive: AtomicBool::new(false),
            peer_version: AtomicI32::new(0),
            started: Instant::now(),
            last_read_ms: AtomicU64::new(0),
            ended: CancellationToken::new(),
            options,
        }
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Enters a call and returns its opaque.
    pub(super) fn enter(&self, waiting: Waiting) -> Result<i32, (Arc<CloseCause>, Waiting)> {
        let (opaque, earliest) = self.pending().insert(waiting)?;
        if earliest {
            self.earlier_deadline.notify_one();
        }
        Ok(opaque)
    }

    /// The frame of a command.
    pub(super) fn encode(&self, command: &mut Command) -> Result<Frame, EncodeError> {
        let mut head = BytesMut::with_capacity(HEAD_CAPACITY + command.fields.as_bytes().len());
        self.codec.encode_head(command, &mut head)?;
        Ok(Frame { head, body: mem::take(&mut command.body), answer: false, permits: 0 })
    }

    /// Queues an answer. Answers do not wait for room: the reader stops reading while too many of them wait.
    pub(super) fn send_answer(&self, mut command: Command) -> Result<(), EncodeError> {
        if self.pending().closed().is_some() {
            return Ok(());
        }
        let mut frame = self.encode(&mut command)?;
        frame.answer = true;
        self.outgoing.push(frame);
        Ok(())
    }

    /// The byte permits a frame needs; one larger than all there are takes them all.
    pub(super) fn byte_permits(&self, bytes: usize) -> u32 {
        let most = self.options.max_queued_bytes.clamp(1, MAX_BYTE_PERMITS);
        u32::try_from(bytes.min(most)).unwrap_or(u32::MAX)
    }

    /// One death, told to all: every waiting call fails with `cause`, and so does every later one.
    pub(crate) fn close(&self, cause: CloseCause) {
        let cause = Arc::new(cause);
        let waiting = self.pending().close(&cause);
        for call in waiting {
            call.completion.complete(Outcome::Closed(cause.clone()));
        }
        self.calls.close();
        self.bytes.close();
        self.ended.cancel();
    }

    pub(super) fn closed(&self) -> Option<Arc<CloseCause>> {
        self.pending().closed().cloned()
    }

    pub(super) fn note_read(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_read_ms.store(elapsed, Ordering::Relaxed);
        if self.unresponsive.load(Ordering::Relaxed) {
            self.unresponsive.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn last_read(&self) -> Instant {
        self.started + Duration::from_millis(self.last_read_ms.load(Ordering::Relaxed))
    }
}

const HEAD_CAPACITY: usize = 384;
/// What `Semaphore::acquire_many` can take at once.
const MAX_BYTE_PERMITS: usize = (u32::MAX >> 3) as usize;
