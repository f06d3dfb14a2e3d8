//! The tasks of a connection: one reads, one writes, one times calls out. Nobody else touches the socket.

use super::{
    Incoming,
    outgoing::Queue,
    pending::{Outcome, Waiting},
    shared::Shared,
    silence::Silence,
};
use crate::{CloseCause, Command, ResponseCode};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::codec::Decoder;

/// Reads until the connection ends.
pub(super) async fn read<R: AsyncRead + Unpin>(shared: Arc<Shared>, mut reader: R) {
    let _end = EndOnDrop(&shared);
    let cause = tokio::select! {
        () = shared.ended.cancelled() => return,
        cause = read_frames(&shared, &mut reader) => cause,
    };
    tracing::debug!(addr = %shared.addr, cause = &cause as &dyn std::error::Error, "connection ended");
    shared.close(cause);
}

async fn read_frames<R: AsyncRead + Unpin>(shared: &Arc<Shared>, reader: &mut R) -> CloseCause {
    let mut codec = shared.codec.clone();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut answers = Vec::new();
    loop {
        // The peer leaves our answers unread: we in turn leave its requests unread.
        while shared.outgoing.answer_bytes() > shared.options.max_queued_bytes {
            shared.outgoing.drained.notified().await;
        }
        // The codec has made room for the rest of a large frame: more would copy what is there of it.
        if buffer.len() < READ_BYTES / 4 && buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
        // That may have brought back the memory of a large frame; it is not kept for ever.
        if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
            buffer = BytesMut::with_capacity(READ_BYTES);
        }
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return CloseCause::Peer,
            Ok(_) => shared.note_read(),
            Err(error) => return CloseCause::Io(error),
        }
        let broken = loop {
            match codec.decode(&mut buffer) {
                Ok(Some(command)) if command.is_response() => answers.push(command),
                Ok(Some(command)) => {
                    shared.processors.dispatch(Incoming::new(command, Arc::downgrade(shared)));
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        deliver(shared, &mut answers);
        if let Some(error) = broken {
            return CloseCause::Frame(error);
        }
    }
}

/// Hands out the answers that one read brought, under one lock.
fn deliver(shared: &Shared, answers: &mut Vec<Command>) {
    if answers.is_empty() {
        return;
    }
    if let Some(answer) = answers.iter().find(|answer| answer.version > 0) {
        shared.peer_version.store(answer.version, Ordering::Relaxed);
    }
    let mut pending = shared.pending();
    let mut waiting: Vec<(Waiting, Command)> = Vec::with_capacity(answers.len());
    for answer in answers.drain(..) {
        if answer.response_code() == ResponseCode::GO_AWAY {
            shared.going_away.store(true, Ordering::Release);
        }
        match pending.remove(answer.opaque) {
            Some(call) => waiting.push((call, answer)),
            // Its caller has gone, or timed out; or the peer invents answers.
            None => tracing::debug!(addr = %shared.addr, opaque = answer.opaque, "answer to no call"),
        }
    }
    drop(pending);
    for (call, answer) in waiting {
        call.completion.complete(Outcome::Answer(answer));
    }
}

/// Writes until the connection ends, or until nothing waits and it is closing.
pub(super) async fn write<W: AsyncWrite + Unpin>(shared: Arc<Shared>, mut writer: W) {
    let _end = EndOnDrop(&shared);
    let cause = tokio::select! {
        () = shared.ended.cancelled() => CloseCause::Local,
        cause = write_frames(&shared, &mut writer) => cause,
    };
    shared.close(cause);
    // The peer sees an orderly end, if the socket still stands and takes it.
    let _ = timeout(SHUTDOWN_TIMEOUT, writer.shutdown()).await;
}

async fn write_frames<W: AsyncWrite + Unpin>(shared: &Shared, writer: &mut W) -> CloseCause {
    let mut spare = Queue::default();
    loop {
        while shared.outgoing.is_empty() {
            if shared.closing.load(Ordering::Acquire) {
                return CloseCause::Local;
            }
            shared.outgoing.filled.notified().await;
        }
        // The callers that were woken together have not all queued their next request yet: let them.
        if shared.options.max_calls - shared.calls.available_permits().min(shared.options.max_calls) > 1 {
            let_others_run().await;
        }
        let mut queue = shared.outgoing.take(spare);
        if let Err(error) = write_queue(writer, &mut queue).await {
            return CloseCause::Io(error);
        }
        shared.bytes.add_permits(queue.permits);
        if queue.answer_bytes > 0 {
            shared.outgoing.drained.notify_one();
        }
        queue.segments.clear();
        queue.tail.clear();
        spare = Queue { segments: queue.segments, tail: shrunk(queue.tail), answer_bytes: 0, permits: 0 };
    }
}

/// Lets the tasks that are ready run first. Tokio's own `yield_now` also goes through the I/O driver, which costs a system
/// call for each write.
async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A buffer that once was large is not kept for ever.
fn shrunk(buffer: BytesMut) -> BytesMut {
    if buffer.capacity() > KEEP_BYTES { BytesMut::new() } else { buffer }
}

async fn write_queue<W: AsyncWrite + Unpin>(writer: &mut W, queue: &mut Queue) -> io::Result<()> {
    if queue.segments.is_empty() {
        writer.write_all(&queue.tail).await?;
        return writer.flush().await;
    }
    if !queue.tail.is_empty() {
        queue.segments.push(queue.tail.split().freeze());
    }
    let mut next = 0;
    while next < queue.segments.len() {
        let rest = &mut queue.segments[next..];
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, segment) in slices.iter_mut().zip(rest.iter()) {
            *slice = IoSlice::new(segment);
        }
        let filled = rest.len().min(SLICES);
        let mut written = writer.write_vectored(&slices[..filled]).await?;
        if written == 0 && rest.iter().take(filled).any(|segment| !segment.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        for segment in rest.iter_mut().take(filled) {
            let part = written.min(segment.len());
            segment.advance(part);
            written -= part;
            if !segment.is_empty() {
                break;
            }
            *segment = Bytes::new(); // written: let go of the body
            next += 1;
        }
    }
    writer.flush().await
}

/// Fails the calls whose deadline passes: one timer for the connection, not one a call.
pub(super) async fn time_out(shared: Arc<Shared>) {
    let _end = EndOnDrop(&shared);
    let mut silence = Silence::new(shared.options.silence);
    let mut not_before = Instant::now();
    loop {
        let sweep_at = shared.pending().sweep_at().map(|at| at.max(not_before));
        tokio::select! {
            () = shared.ended.cancelled() => return,
            () = shared.earlier_deadline.notified() => {}
            () = sleep_until(sweep_at.unwrap_or_else(Instant::now)), if sweep_at.is_some() => {
                if let Some(cause) = sweep(&shared, &mut silence) {
                    tracing::warn!(addr = %shared.addr, cause = &cause as &dyn std::error::Error, "connection given up");
                    shared.close(cause);
                }
                let calls = u32::try_from(shared.pending().len()).unwrap_or(u32::MAX);
                not_before = Instant::now() + SWEEP_PAUSE_PER_CALL * calls;
            }
        }
    }
}

fn sweep(shared: &Shared, silence: &mut Silence) -> Option<CloseCause> {
    let now = Instant::now();
    let expired = shared.pending().take_expired(now);
    let first_sent = expired.iter().map(|call| call.sent).min()?;
    for call in expired {
        call.completion.complete(Outcome::TimedOut);
    }
    let silent = silence.expired(first_sent, shared.last_read(), now);
    shared.unresponsive.store(silence.has_begun(), Ordering::Relaxed);
    silent.map(CloseCause::Silent)
}

/// However a task ends, by a panic or with its runtime too, no caller is left waiting.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close(CloseCause::Local);
    }
}

const READ_BYTES: usize = 64 * 1024;
const KEEP_BYTES: usize = 1024 * 1024;
const SLICES: usize = 64;
/// A sweep looks at every call that waits: with very many of them, expired ones are collected for a few milliseconds.
const SWEEP_PAUSE_PER_CALL: Duration = Duration::from_nanos(100);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
