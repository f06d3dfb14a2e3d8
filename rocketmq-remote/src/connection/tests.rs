//! A connection whose other end is played by hand.

mod answers;
mod cancelling;
mod end;
mod incoming;
mod limits;
mod outgoing;
mod probe;
mod sockets;

use super::*;
use crate::{Answer, CommandCodec, ResponseCode, header, request};
use bytes::{Bytes, BytesMut};
use std::{io, sync::atomic::AtomicUsize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, duplex, split},
    net::TcpListener,
    sync::mpsc,
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};
use tokio_util::codec::{Decoder, Encoder};

header! {
    struct Number { number: i64 = "number" }
}
request! {
    GET_MAX_OFFSET(Bytes) -> Answer<Number>, also on [FLUSH_DISK_TIMEOUT];
    struct Ask { number: i64 = "number" }
}
request! {
    HEART_BEAT(Bytes) -> ();
    struct Bare {}
}
request! {
    POP_MESSAGE(Bytes) -> ();
    struct Wide { number: i64 = "number" }
}

/// The other end, played by hand.
struct Peer<S> {
    stream: S,
    buffer: BytesMut,
    codec: CommandCodec,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), codec: CommandCodec::default() }
    }

    /// The next frame; none at the end of the stream.
    async fn next(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.codec.decode(&mut self.buffer).unwrap() {
                return Some(command);
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                assert!(self.buffer.is_empty(), "the stream ends within a frame");
                return None;
            }
        }
    }

    async fn send(&mut self, command: Command) {
        let mut bytes = BytesMut::new();
        self.codec.encode(command, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Answers with the number and the body of the request.
    async fn echo(&mut self, request: &Command) {
        self.send(echo_of(request)).await;
    }

    /// Reads one request and answers it.
    async fn serve_one(&mut self) -> Command {
        let request = self.next().await.expect("a request");
        self.echo(&request).await;
        request
    }

    async fn ask(&mut self, code: RequestCode, opaque: i32) {
        self.send(asked(code, opaque)).await;
    }
}

fn echo_of(request: &Command) -> Command {
    let mut answer = Command::response(request.opaque, ResponseCode::SUCCESS).with_body(request.body.clone());
    answer.fields = request.fields.clone();
    answer
}

fn asked(code: RequestCode, opaque: i32) -> Command {
    let mut request = Command::request(&Bare {});
    request.code = code.0;
    request.opaque = opaque;
    request
}

fn number_of(command: &Command) -> i64 {
    command.fields.get("number").unwrap().parse().unwrap()
}

fn pair() -> (Connection, Peer<DuplexStream>) {
    pair_with(ConnectionOptions::default(), Processors::new(), 64 * 1024)
}

fn pair_with(options: ConnectionOptions, processors: Processors, buffer: usize) -> (Connection, Peer<DuplexStream>) {
    let (ours, theirs) = duplex(buffer);
    let (reader, writer) = split(ours);
    let connection = Connection::start("peer:1".into(), None, reader, writer, options, processors);
    (connection, Peer::new(theirs))
}

const SECOND: Duration = Duration::from_secs(1);

fn within(timeout: Duration) -> Deadline {
    Deadline::after(timeout)
}

async fn ask(connection: &Connection, number: i64) -> Result<i64, Error> {
    let answer = connection.call(&Ask { number }, Bytes::new(), within(5 * SECOND)).await?;
    Ok(answer.header.number)
}

async fn queue(connection: &Connection, number: i64) -> PendingReply<Ask> {
    connection.call_async(&Ask { number }, Bytes::new(), within(5 * SECOND)).await.unwrap()
}

fn cause_of(error: Error) -> Arc<CloseCause> {
    match error {
        Error::Closed { cause, .. } => cause,
        other => panic!("not closed: {other:?}"),
    }
}

/// All permits are back: nothing in flight has been forgotten.
fn assert_at_rest(connection: &Connection) {
    let shared = &connection.0.shared;
    assert_eq!(connection.in_flight(), 0);
    assert_eq!(shared.calls.available_permits(), shared.options.max_calls);
    assert_eq!(shared.bytes.available_permits(), shared.options.max_queued_bytes);
}
