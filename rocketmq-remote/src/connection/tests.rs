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

// Calls and answers.

#[tokio::test(start_paused = true)]
async fn a_call_gets_its_answer() {
    let (connection, mut peer) = pair();
    let body = Bytes::from_static(b"body");
    let (answer, request) =
        tokio::join!(connection.call(&Ask { number: 7 }, body.clone(), within(SECOND)), peer.serve_one());
    assert_eq!(answer.unwrap(), Answer { code: ResponseCode::SUCCESS, header: Number { number: 7 }, body });
    assert_eq!((request.request_code(), request.flag), (RequestCode::GET_MAX_OFFSET, 0));
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn answers_out_of_order_reach_their_callers() {
    let (connection, mut peer) = pair();
    let mut replies = Vec::new();
    for number in 0..50 {
        replies.push(queue(&connection, number).await);
    }
    let mut requests = Vec::new();
    for _ in 0..50 {
        requests.push(peer.next().await.unwrap());
    }
    for request in requests.iter().rev() {
        peer.echo(request).await;
    }
    for (number, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply.await.unwrap().header.number, i64::try_from(number).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_dropped_and_harms_nobody() {
    let (connection, mut peer) = pair();
    let error = connection.call(&Ask { number: 1 }, Bytes::new(), within(SECOND)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { code: RequestCode::GET_MAX_OFFSET, .. }));
    let late = peer.next().await.unwrap();
    peer.echo(&late).await;
    let (answer, request) = tokio::join!(ask(&connection, 2), peer.serve_one());
    assert_eq!(answer.unwrap(), 2);
    assert_ne!(request.opaque, late.opaque);
}

#[tokio::test(start_paused = true)]
async fn a_missing_answer_fails_its_own_call_alone_at_its_deadline() {
    let (connection, mut peer) = pair();
    let start = Instant::now();
    let forgotten = connection.call_async(&Ask { number: 1 }, Bytes::new(), within(2 * SECOND)).await.unwrap();
    let kept = queue(&connection, 2).await;
    let requests = [peer.next().await.unwrap(), peer.next().await.unwrap()];
    assert!(matches!(forgotten.await, Err(Error::TimedOut { .. })));
    let late = start.elapsed() - 2 * SECOND;
    assert!(late < Duration::from_millis(5), "{late:?} after the deadline");
    peer.echo(&requests[1]).await;
    assert_eq!(kept.await.unwrap().header.number, 2);
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_than_the_ones_before_is_kept() {
    let (connection, _peer) = pair();
    let start = Instant::now();
    let long = connection.call_async(&Ask { number: 1 }, Bytes::new(), within(100 * SECOND)).await.unwrap();
    yield_now().await; // the timer sleeps for the long one by now
    let short = connection.call(&Ask { number: 2 }, Bytes::new(), within(SECOND)).await;
    assert!(matches!(short, Err(Error::TimedOut { .. })));
    assert!(start.elapsed() < 2 * SECOND);
    drop(long);
}

/// A look for expired calls passes over all that wait.
#[tokio::test(start_paused = true)]
async fn with_very_many_calls_in_flight_expired_ones_are_collected_for_some_milliseconds() {
    let options = ConnectionOptions { max_queued_bytes: 32 * 1024 * 1024, ..Default::default() };
    let (connection, _peer) = pair_with(options, Processors::new(), 64 * 1024);
    let mut held = Vec::new();
    for number in 0..30_000 {
        held.push(connection.call_async(&Ask { number }, Bytes::new(), within(60 * SECOND)).await.unwrap());
    }
    let start = Instant::now();
    let mut moments = Vec::new();
    let mut callers = JoinSet::new();
    for number in 1..=30 {
        let (connection, limit) = (connection.clone(), within(Duration::from_millis(number)));
        callers.spawn(async move {
            let _ = connection.call(&Ask { number: 0 }, Bytes::new(), limit).await.unwrap_err();
            start.elapsed() - Duration::from_millis(number)
        });
    }
    while let Some(late) = callers.join_next().await {
        assert!(late.unwrap() <= Duration::from_millis(5));
        moments.push(start.elapsed());
    }
    moments.dedup();
    assert!(moments.len() <= 12, "{} looks", moments.len());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_all_time_works() {
    let (connection, mut peer) = pair();
    let call = connection.call(&Ask { number: 1 }, Bytes::new(), within(Duration::MAX));
    assert!(tokio::join!(call, peer.serve_one()).0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_has_passed_is_not_sent() {
    let (connection, mut peer) = pair();
    let error = connection.call(&Ask { number: 1 }, Bytes::new(), within(Duration::ZERO)).await.unwrap_err();
    assert!(!error.may_have_happened());
    assert_at_rest(&connection);
    assert_eq!(tokio::join!(ask(&connection, 2), peer.serve_one()).1.fields.get("number"), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_to_the_same_call_is_dropped() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    let request = peer.next().await.unwrap();
    peer.echo(&request).await;
    peer.echo(&request).await;
    assert_eq!(reply.await.unwrap().header.number, 1);
    peer.echo(&request).await;
    assert_eq!(tokio::join!(ask(&connection, 2), peer.serve_one()).0.unwrap(), 2);
    assert!(connection.close_cause().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_marked_one_way_is_an_answer() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    let request = peer.next().await.unwrap();
    peer.send(echo_of(&request).one_way()).await;
    assert!(reply.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_code_the_request_does_not_know_is_a_refusal() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    let request = peer.next().await.unwrap();
    peer.send(Command::response(request.opaque, ResponseCode::TOPIC_NOT_EXIST).with_remark("none such")).await;
    let error = reply.await.unwrap_err();
    assert_eq!(error.response_code(), Some(ResponseCode::TOPIC_NOT_EXIST));
    assert_eq!(error.to_string(), "peer:1 answered TOPIC_NOT_EXIST (17): none such");
}

#[tokio::test(start_paused = true)]
async fn a_code_the_request_was_declared_with_carries_the_reply() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    let mut answer = echo_of(&peer.next().await.unwrap());
    answer.code = ResponseCode::FLUSH_DISK_TIMEOUT.0;
    peer.send(answer).await;
    assert_eq!(reply.await.unwrap().code, ResponseCode::FLUSH_DISK_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_read_fails_its_own_call_only() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    let other = queue(&connection, 2).await;
    let request = peer.next().await.unwrap();
    peer.send(Command::response(request.opaque, ResponseCode::SUCCESS)).await;
    peer.serve_one().await;
    assert!(matches!(reply.await, Err(Error::Decode { .. })));
    assert_eq!(other.await.unwrap().header.number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_frame_too_large_fails_its_own_call_only() {
    let options = ConnectionOptions { max_frame_bytes: 1024, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let large = Bytes::from(vec![0; 1024]);
    let error = connection.call(&Ask { number: 1 }, large.clone(), within(SECOND)).await.unwrap_err();
    assert!(matches!(&error, Error::Encode { source, .. } if matches!(**source, crate::EncodeError::TooLarge { .. })));
    let error = connection.call_oneway(&Ask { number: 1 }, large, within(SECOND)).await.unwrap_err();
    assert!(matches!(error, Error::Encode { .. }));
    assert_at_rest(&connection);
    assert_eq!(tokio::join!(ask(&connection, 2), peer.serve_one()).0.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn heads_are_binary_where_asked_for_and_the_code_fits() {
    let options = ConnectionOptions { binary_head: true, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let narrow = queue(&connection, 1).await;
    let wide = connection.call_async(&Wide { number: 2 }, Bytes::new(), within(SECOND)).await.unwrap();
    let request = peer.next().await.unwrap();
    assert_eq!((request.encoding, number_of(&request)), (HeadEncoding::Binary, 1));
    let request = peer.next().await.unwrap();
    assert_eq!((request.encoding, request.request_code()), (HeadEncoding::Json, RequestCode::POP_MESSAGE));
    drop((narrow, wide));
}

#[tokio::test(start_paused = true)]
async fn every_request_carries_the_fields_of_its_connection() {
    for binary_head in [false, true] {
        let request_fields = [("nsd".to_owned(), "true".to_owned()), ("ns".to_owned(), "n\"1".to_owned())].into();
        let options = ConnectionOptions { binary_head, request_fields, ..Default::default() };
        let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
        let waiting = queue(&connection, 7).await;
        connection.call_oneway(&Ask { number: 8 }, Bytes::new(), within(SECOND)).await.unwrap();
        for number in [7, 8] {
            let request = peer.next().await.unwrap();
            let encoding = if binary_head { HeadEncoding::Binary } else { HeadEncoding::Json };
            assert_eq!((request.encoding, number_of(&request)), (encoding, number));
            let fields: Vec<_> = request.fields.iter().skip(1).collect();
            assert_eq!(fields, [("ns", "n\"1"), ("nsd", "true")]);
        }
        drop(waiting);
    }
}

// Cancelling.

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_table_and_its_answer_is_dropped() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    assert_eq!(connection.in_flight(), 1);
    drop(reply);
    assert_eq!(connection.in_flight(), 0);
    peer.serve_one().await;
    assert_eq!(tokio::join!(ask(&connection, 2), peer.serve_one()).0.unwrap(), 2);
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_is_written_leaves_no_half_frame() {
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), Processors::new(), 16);
    let body = Bytes::from(vec![1; 100_000]);
    let call = connection.call(&Ask { number: 1 }, body.clone(), within(SECOND));
    assert!(timeout(SECOND / 10, call).await.is_err());
    let next = queue(&connection, 2).await;
    assert_eq!(peer.serve_one().await.body, body);
    assert_eq!(number_of(&peer.serve_one().await), 2);
    assert_eq!(next.await.unwrap().header.number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_for_room_sends_nothing() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let first = queue(&connection, 1).await;
    assert!(timeout(SECOND, ask(&connection, 2)).await.is_err());
    assert_eq!(number_of(&peer.serve_one().await), 1);
    first.await.unwrap();
    assert_eq!(tokio::join!(ask(&connection, 3), peer.serve_one()).0.unwrap(), 3);
    assert_at_rest(&connection);
}

// Limits.

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_limit_fails_at_its_deadline_and_is_not_sent() {
    let options = ConnectionOptions { max_calls: 2, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let held = [queue(&connection, 1).await, queue(&connection, 2).await];
    let start = Instant::now();
    let error = connection.call(&Ask { number: 3 }, Bytes::new(), within(SECOND)).await.unwrap_err();
    assert!(matches!(error, Error::NoRoom { .. }) && error.is_retryable() && !error.may_have_happened());
    assert_eq!(start.elapsed().as_secs(), 1);
    for reply in held {
        peer.serve_one().await;
        reply.await.unwrap();
    }
    assert_eq!(number_of(&tokio::join!(ask(&connection, 4), peer.serve_one()).1), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_limit_goes_on_when_there_is_room() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let (one, two, three, _) = tokio::join!(ask(&connection, 1), ask(&connection, 2), ask(&connection, 3), async {
        for _ in 0..3 {
            let request = peer.next().await.unwrap();
            sleep(SECOND / 10).await;
            peer.echo(&request).await;
        }
    });
    assert_eq!((one.unwrap(), two.unwrap(), three.unwrap()), (1, 2, 3));
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_makes_room_for_the_next() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let first = queue(&connection, 1).await;
    let (second, _) = tokio::join!(queue(&connection, 2), async { drop(first) });
    peer.serve_one().await;
    peer.serve_one().await;
    assert_eq!(second.await.unwrap().header.number, 2);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_while_the_peer_does_not_read_and_go_on_when_it_does() {
    let options = ConnectionOptions { max_queued_bytes: 4096, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 1024);
    let body = Bytes::from(vec![1; 2000]);
    let mut queued = Vec::new();
    let error = loop {
        match connection.call_async(&Ask { number: 1 }, body.clone(), within(SECOND)).await {
            Ok(reply) => queued.push(reply),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoRoom { .. }));
    assert!((1..=3).contains(&queued.len()), "{} calls queued", queued.len());
    let one_way = connection.call_oneway(&Ask { number: 1 }, body.clone(), within(SECOND)).await;
    assert!(matches!(one_way, Err(Error::NoRoom { .. })));
    let more = connection.call(&Ask { number: 2 }, body.clone(), within(SECOND));
    let (more, _) = tokio::join!(more, async {
        for _ in 0..=queued.len() {
            peer.serve_one().await;
        }
    });
    assert_eq!(more.unwrap().header.number, 2);
    drop(queued);
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn a_frame_larger_than_the_queue_goes_when_it_is_alone() {
    let options = ConnectionOptions { max_queued_bytes: 1000, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let body = Bytes::from(vec![1; 100_000]);
    let call = connection.call(&Ask { number: 1 }, body.clone(), within(SECOND));
    assert_eq!(tokio::join!(call, peer.serve_one()).0.unwrap().body, body);
    assert_at_rest(&connection);
}

/// Empty requests are the hard case: almost all of their bytes are the head's.
#[tokio::test(start_paused = true)]
async fn calls_that_time_out_and_are_tried_again_do_not_pile_up_when_the_peer_does_not_read() {
    let options = ConnectionOptions { max_queued_bytes: 16 * 1024, silence: Duration::MAX, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 1024);
    for _ in 0..5_000 {
        let _ = connection.call(&Bare {}, Bytes::new(), within(Duration::from_millis(10))).await;
    }
    let (bytes, ()) = tokio::join!(
        async {
            let mut waited = Vec::new();
            peer.stream.read_to_end(&mut waited).await.unwrap();
            waited.len()
        },
        connection.close(within(SECOND))
    );
    assert!(bytes <= 20 * 1024, "{bytes} bytes were waiting");
    assert_eq!(connection.in_flight(), 0);
}

// What goes out, and how.

#[tokio::test(start_paused = true)]
async fn a_one_way_request_says_so_and_waits_for_nothing() {
    let (connection, mut peer) = pair();
    connection.call_oneway(&Ask { number: 1 }, Bytes::from_static(b"x"), within(SECOND)).await.unwrap();
    assert_eq!(connection.in_flight(), 0);
    let request = peer.next().await.unwrap();
    assert_eq!((request.flag, number_of(&request), &request.body[..]), (2, 1, &b"x"[..]));
    yield_now().await;
    assert_at_rest(&connection);
}

type Asked = Result<Answer<Number>, Error>;

/// What became of calls that were started with a function, in the order in which it was called.
fn outcomes() -> (impl Fn(Asked) + Clone + Send + 'static, mpsc::Receiver<i64>) {
    let (sender, receiver) = mpsc::channel(8);
    let note = move |result: Asked| {
        let number = match result {
            Ok(answer) => answer.header.number,
            Err(Error::TimedOut { .. }) => -1,
            Err(Error::Closed { .. }) => -2,
            Err(Error::NoRoom { .. }) => -3,
            Err(Error::Encode { .. }) => -4,
            Err(other) => panic!("unexpected: {other:?}"),
        };
        sender.try_send(number).unwrap();
    };
    (note, receiver)
}

#[tokio::test(start_paused = true)]
async fn a_function_is_told_every_end_of_a_call_once() {
    let (connection, mut peer) = pair();
    let (note, mut noted) = outcomes();
    let reserve = async |number, body| connection.reserve(&Ask { number }, body, within(SECOND)).await.unwrap();
    reserve(7, Bytes::new()).await.start_then(within(SECOND), note.clone());
    peer.serve_one().await;
    assert_eq!(noted.recv().await, Some(7));
    reserve(8, Bytes::new()).await.start_then(within(SECOND), note.clone());
    assert_eq!(noted.recv().await, Some(-1));
    // The late answer finds nobody.
    peer.serve_one().await;
    reserve(9, Bytes::new()).await.start_then(within(Duration::ZERO), note.clone());
    assert_eq!(noted.recv().await, Some(-3));
    reserve(10, Bytes::from(vec![0; 17 << 20])).await.start_then(within(SECOND), note.clone());
    assert_eq!(noted.recv().await, Some(-4));
    drop(reserve(11, Bytes::new()).await);
    assert_at_rest(&connection);
    let (early, late) = (reserve(12, Bytes::new()).await, reserve(13, Bytes::new()).await);
    early.start_then(within(SECOND), note.clone());
    assert_eq!(peer.next().await.map(|request| number_of(&request)), Some(12));
    drop(peer);
    assert_eq!(noted.recv().await, Some(-2));
    late.start_then(within(SECOND), note);
    assert_eq!(noted.recv().await, Some(-2));
    assert_eq!(noted.recv().await, None, "nobody is told twice");
}

#[tokio::test(start_paused = true)]
async fn a_function_that_panics_harms_no_other_call() {
    let (connection, mut peer) = pair();
    let call = connection.reserve(&Ask { number: 1 }, Bytes::new(), within(SECOND)).await.unwrap();
    call.start_then(within(SECOND), |_| panic!("in a function"));
    peer.serve_one().await;
    let (answer, _) = tokio::join!(ask(&connection, 2), peer.serve_one());
    assert_eq!(answer.unwrap(), 2);
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn requests_are_sent_in_the_order_in_which_they_were_queued() {
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), Processors::new(), 512);
    let mut replies = Vec::new();
    for number in 0..200 {
        let body = Bytes::from(vec![1; if number % 7 == 0 { 20_000 } else { 10 }]);
        if number % 3 == 0 {
            connection.call_oneway(&Ask { number }, body, within(SECOND)).await.unwrap();
        } else {
            replies.push(connection.call_async(&Ask { number }, body, within(SECOND)).await.unwrap());
        }
        if number % 10 == 0 {
            yield_now().await;
        }
    }
    for number in 0..200 {
        assert_eq!(number_of(&peer.next().await.unwrap()), number);
    }
}

/// A writer that counts its writes and may take few bytes at a time, or only one slice.
struct Probe<W> {
    writer: W,
    writes: Arc<AtomicUsize>,
    most: usize,
    vectored: bool,
    shuts_down: bool,
}

impl<W> Probe<W> {
    fn new(writer: W) -> Self {
        Self { writer, writes: Arc::default(), most: usize::MAX, vectored: true, shuts_down: true }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Probe<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(self.most)];
        let written = ready!(Pin::new(&mut self.writer).poll_write(context, bytes));
        self.writes.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.vectored {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(context, first);
        }
        let mut together = Vec::new();
        for slice in slices {
            together.extend_from_slice(&slice[..slice.len().min(self.most - together.len())]);
        }
        self.poll_write(context, &together)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shuts_down {
            true => Pin::new(&mut self.writer).poll_shutdown(context),
            false => Poll::Pending,
        }
    }
}

fn over<W: AsyncWrite + Unpin + Send + 'static>(reader: ReadHalf<DuplexStream>, writer: W) -> Connection {
    Connection::start("peer:1".into(), None, reader, writer, ConnectionOptions::default(), Processors::new())
}

#[tokio::test(start_paused = true)]
async fn frames_that_wait_together_go_out_in_one_write() {
    let (ours, theirs) = duplex(1024 * 1024);
    let mut peer = Peer::new(theirs);
    let (reader, writer) = split(ours);
    let probe = Probe::new(writer);
    let writes = probe.writes.clone();
    let connection = over(reader, probe);
    let mut replies = Vec::new();
    for number in 0..100 {
        replies.push(queue(&connection, number).await);
    }
    for _ in 0..100 {
        peer.next().await.unwrap();
    }
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn large_bodies_that_wait_together_go_out_in_one_vectored_write() {
    let (ours, theirs) = duplex(1024 * 1024);
    let mut peer = Peer::new(theirs);
    let (reader, writer) = split(ours);
    let probe = Probe::new(writer);
    let writes = probe.writes.clone();
    let connection = over(reader, probe);
    for number in 0..20 {
        let body = Bytes::from(vec![1; 10_000]);
        connection.call_oneway(&Ask { number }, body, within(SECOND)).await.unwrap();
    }
    for number in 0..20 {
        assert_eq!(number_of(&peer.next().await.unwrap()), number);
    }
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}

/// Sends bodies of many sizes through a writer of some kind and expects them whole at the other end.
async fn bodies_arrive_whole(most: usize, vectored: bool) {
    let (ours, theirs) = duplex(100_000);
    let mut peer = Peer::new(theirs);
    let (reader, writer) = split(ours);
    let connection = over(reader, Probe { most, vectored, ..Probe::new(writer) });
    let sizes = [0, 1, 100, 8191, 8192, 8193, 30_000, 0, 70_000, 8192, 5];
    // More large bodies than one vectored write takes.
    let sizes: Vec<usize> = sizes.iter().copied().chain([8192; 80]).collect();
    let body = |number: usize| Bytes::from(vec![u8::try_from(number % 251).unwrap(); sizes[number]]);
    let mut tasks = JoinSet::new();
    for number in 0..sizes.len() {
        let (connection, body) = (connection.clone(), body(number));
        tasks.spawn(async move {
            let request = Ask { number: i64::try_from(number).unwrap() };
            let answer = connection.call(&request, body.clone(), within(3600 * SECOND)).await.unwrap();
            assert_eq!((answer.header.number, answer.body), (request.number, body));
        });
    }
    for _ in 0..sizes.len() {
        let request = peer.serve_one().await;
        assert_eq!(request.body, body(usize::try_from(number_of(&request)).unwrap()));
    }
    tasks.join_all().await;
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn bodies_arrive_whole_through_a_vectored_writer() {
    bodies_arrive_whole(usize::MAX, true).await;
}

#[tokio::test(start_paused = true)]
async fn bodies_arrive_whole_through_a_writer_that_takes_a_few_bytes_at_a_time() {
    bodies_arrive_whole(7, true).await;
    bodies_arrive_whole(997, true).await;
}

#[tokio::test(start_paused = true)]
async fn bodies_arrive_whole_through_a_writer_of_single_slices() {
    bodies_arrive_whole(usize::MAX, false).await;
    bodies_arrive_whole(997, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_many_megabytes_arrives_whole_and_small_ones_after_it() {
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), Processors::new(), 1024 * 1024);
    for size in [12_000_000, 10, 3_000_000, 0, 65_536] {
        let body = Bytes::from(vec![9; size]);
        let call = connection.call(&Ask { number: 1 }, body.clone(), within(SECOND));
        assert_eq!(tokio::join!(call, peer.serve_one()).0.unwrap().body, body);
    }
    assert_at_rest(&connection);
}

// What the peer asks.

#[tokio::test(start_paused = true)]
async fn a_request_of_the_peer_reaches_its_processor() {
    let processors = Processors::new().on(RequestCode::GET_MAX_OFFSET, |incoming| {
        let asked = incoming.header::<Ask>().unwrap();
        let body = incoming.body::<Ask>().unwrap();
        let header = Number { number: asked.number + 1 };
        incoming.answer::<Ask>(Answer { code: ResponseCode::SUCCESS, header, body }).unwrap();
    });
    let (_connection, mut peer) = pair_with(ConnectionOptions::default(), processors, 64 * 1024);
    let mut request = Command::request(&Ask { number: 41 }).with_body(Bytes::from_static(b"body"));
    request.opaque = 77;
    peer.send(request).await;
    let answer = peer.next().await.unwrap();
    assert!(answer.is_response());
    assert_eq!((answer.opaque, answer.response_code(), number_of(&answer)), (77, ResponseCode::SUCCESS, 42));
    assert_eq!(answer.body, "body");
}

#[tokio::test(start_paused = true)]
async fn a_processor_may_answer_later_and_in_any_order() {
    let (sender, mut requests) = mpsc::channel(8);
    let processors = Processors::new().on(RequestCode::HEART_BEAT, move |incoming| sender.try_send(incoming).unwrap());
    let (_connection, mut peer) = pair_with(ConnectionOptions::default(), processors, 64 * 1024);
    peer.ask(RequestCode::HEART_BEAT, 1).await;
    peer.ask(RequestCode::HEART_BEAT, 2).await;
    let (first, second) = (requests.recv().await.unwrap(), requests.recv().await.unwrap());
    second.answer::<Bare>(()).unwrap();
    assert_eq!(peer.next().await.unwrap().opaque, 2);
    first.refuse(ResponseCode::SYSTEM_BUSY, "later");
    let answer = peer.next().await.unwrap();
    assert_eq!((answer.opaque, answer.remark.as_deref()), (1, Some("later")));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_an_unknown_code_is_refused_with_3() {
    let (_connection, mut peer) = pair();
    peer.ask(RequestCode(4711), 5).await;
    let answer = peer.next().await.unwrap();
    assert_eq!((answer.opaque, answer.code), (5, 3));
    assert_eq!(answer.remark.as_deref(), Some(" request type 4711 not supported"));
}

#[tokio::test(start_paused = true)]
async fn a_one_way_request_is_never_answered() {
    let processors = Processors::new()
        .on(RequestCode::HEART_BEAT, |incoming| incoming.answer::<Bare>(()).unwrap())
        .on(RequestCode::SEND_MESSAGE, |_| panic!("on purpose"));
    let (_connection, mut peer) = pair_with(ConnectionOptions::default(), processors, 64 * 1024);
    peer.send(asked(RequestCode(4711), 1).one_way()).await;
    peer.send(asked(RequestCode::HEART_BEAT, 2).one_way()).await;
    peer.send(asked(RequestCode::SEND_MESSAGE, 3).one_way()).await;
    peer.ask(RequestCode::HEART_BEAT, 4).await;
    assert_eq!(peer.next().await.unwrap().opaque, 4);
}

#[tokio::test(start_paused = true)]
async fn a_processor_that_panics_answers_with_an_error_and_the_connection_lives() {
    let processors = Processors::new().on(RequestCode::HEART_BEAT, |_| panic!("on purpose"));
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), processors, 64 * 1024);
    peer.ask(RequestCode::HEART_BEAT, 9).await;
    let answer = peer.next().await.unwrap();
    assert_eq!((answer.opaque, answer.response_code()), (9, ResponseCode::SYSTEM_ERROR));
    assert_eq!(tokio::join!(ask(&connection, 1), peer.serve_one()).0.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_the_peer_with_the_opaque_of_a_call_disturbs_nobody() {
    let processors = Processors::new().on(RequestCode::HEART_BEAT, |incoming| incoming.answer::<Bare>(()).unwrap());
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), processors, 64 * 1024);
    let reply = queue(&connection, 1).await;
    let request = peer.next().await.unwrap();
    peer.ask(RequestCode::HEART_BEAT, request.opaque).await;
    let answer = peer.next().await.unwrap();
    assert!(answer.is_response() && answer.opaque == request.opaque);
    assert_eq!(connection.in_flight(), 1);
    peer.echo(&request).await;
    assert_eq!(reply.await.unwrap().header.number, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_encoded_is_an_error_to_both_sides() {
    let (sender, mut results) = mpsc::channel(1);
    let processors = Processors::new().on(RequestCode::GET_MAX_OFFSET, move |incoming| {
        let header = Number { number: 1 };
        let body = Bytes::from(vec![0; 2000]);
        let result = incoming.answer::<Ask>(Answer { code: ResponseCode::SUCCESS, header, body });
        sender.try_send(result).unwrap();
    });
    let options = ConnectionOptions { max_frame_bytes: 1024, ..Default::default() };
    let (_connection, mut peer) = pair_with(options, processors, 64 * 1024);
    peer.ask(RequestCode::GET_MAX_OFFSET, 1).await;
    assert_eq!(peer.next().await.unwrap().response_code(), ResponseCode::SYSTEM_ERROR);
    assert!(matches!(results.recv().await.unwrap(), Err(Error::Encode { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_our_answers_unread_is_not_read_either() {
    let options = ConnectionOptions { max_queued_bytes: 4096, ..Default::default() };
    let (connection, peer) = pair_with(options, Processors::new(), 4096);
    let (mut reader, mut writer) = split(peer.stream);
    let mut request = BytesMut::new();
    CommandCodec::default().encode(asked(RequestCode(4711), 1), &mut request).unwrap();
    let mut sent = 0;
    while timeout(SECOND, writer.write_all(&request)).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "the flood is taken in without a bound");
    }
    // Once it reads, all goes on: the request that was cut off is sent again from its start on a line of its own.
    let mut answers = Peer::new(tokio::io::join(&mut reader, tokio::io::sink()));
    for _ in 0..sent {
        assert_eq!(timeout(SECOND, answers.next()).await.unwrap().unwrap().code, 3);
    }
    assert!(connection.close_cause().is_none());
}

#[tokio::test(start_paused = true)]
async fn go_away_spends_the_connection_and_the_other_calls_finish() {
    let (connection, mut peer) = pair();
    let turned_away = queue(&connection, 1).await;
    let kept = queue(&connection, 2).await;
    let (first, second) = (peer.next().await.unwrap(), peer.next().await.unwrap());
    assert!(!connection.is_spent());
    peer.send(Command::response(first.opaque, ResponseCode::GO_AWAY)).await;
    let error = turned_away.await.unwrap_err();
    assert!(error.is_retryable() && !error.may_have_happened());
    assert!(connection.is_spent() && connection.close_cause().is_none());
    peer.echo(&second).await;
    assert_eq!(kept.await.unwrap().header.number, 2);
}

// How it ends.

#[tokio::test(start_paused = true)]
async fn all_who_wait_are_told_the_same_cause() {
    let (connection, mut peer) = pair();
    let mut replies = Vec::new();
    for number in 0..10 {
        replies.push(queue(&connection, number).await);
    }
    for _ in 0..10 {
        peer.next().await.unwrap();
    }
    drop(peer);
    connection.ended().await;
    let cause = connection.close_cause().unwrap();
    assert!(matches!(*cause, CloseCause::Peer));
    for reply in replies {
        let error = reply.await.unwrap_err();
        assert!(error.may_have_happened() && error.is_retryable());
        assert!(Arc::ptr_eq(&cause, &cause_of(error)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_after_the_end_fails_at_once_with_the_cause() {
    let (connection, peer) = pair();
    drop(peer);
    connection.ended().await;
    let cause = connection.close_cause().unwrap();
    let start = Instant::now();
    let error = ask(&connection, 1).await.unwrap_err();
    assert!(!error.may_have_happened());
    assert!(Arc::ptr_eq(&cause, &cause_of(error)));
    let error = connection.call_oneway(&Bare {}, Bytes::new(), within(SECOND)).await.unwrap_err();
    assert!(Arc::ptr_eq(&cause, &cause_of(error)));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(connection.is_spent());
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_room_are_told_the_cause_too() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, peer) = pair_with(options, Processors::new(), 64 * 1024);
    let held = queue(&connection, 1).await;
    let (waiting, ()) = tokio::join!(ask(&connection, 2), async {
        yield_now().await;
        drop(peer);
    });
    let error = waiting.unwrap_err();
    assert!(!error.may_have_happened());
    assert!(Arc::ptr_eq(&cause_of(error), &cause_of(held.await.unwrap_err())));
}

#[tokio::test(start_paused = true)]
async fn one_way_requests_that_wait_for_room_are_told_the_cause_too() {
    let options = ConnectionOptions { max_queued_bytes: 1000, ..Default::default() };
    let (connection, peer) = pair_with(options, Processors::new(), 16);
    let body = Bytes::from(vec![1; 1000]);
    connection.call_oneway(&Bare {}, body.clone(), within(SECOND)).await.unwrap();
    let start = Instant::now();
    let (waiting, ()) = tokio::join!(connection.call_oneway(&Bare {}, body, within(SECOND)), async {
        yield_now().await;
        drop(peer);
    });
    assert!(matches!(waiting, Err(Error::Closed { sent: false, .. })));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn garbage_closes_the_connection_and_everybody_is_told() {
    let (connection, mut peer) = pair();
    let answered = queue(&connection, 1).await;
    let waiting = queue(&connection, 2).await;
    let request = peer.next().await.unwrap();
    let mut bytes = BytesMut::new();
    CommandCodec::default().encode(echo_of(&request), &mut bytes).unwrap();
    bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    peer.stream.write_all(&bytes).await.unwrap();
    assert_eq!(answered.await.unwrap().header.number, 1, "the answer before the garbage counts");
    assert!(matches!(*cause_of(waiting.await.unwrap_err()), CloseCause::Frame(_)));
    peer.next().await.unwrap();
    assert!(peer.next().await.is_none());
}

/// A writer that fails.
struct Broken;

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_error_ends_the_connection() {
    let (ours, _theirs) = duplex(64);
    let connection = over(split(ours).0, Broken);
    let error = ask(&connection, 1).await.unwrap_err();
    assert!(matches!(&*cause_of(error), CloseCause::Io(error) if error.kind() == io::ErrorKind::BrokenPipe));
    connection.close(within(SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_after_a_second_round_of_missing_answers() {
    let (connection, mut peer) = pair();
    let start = Instant::now();
    for _ in 0..2 {
        assert!(connection.close_cause().is_none());
        let error = connection.call(&Ask { number: 1 }, Bytes::new(), within(3 * SECOND)).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }));
    }
    connection.ended().await;
    assert_eq!(start.elapsed().as_secs(), 6);
    assert!(matches!(*connection.close_cause().unwrap(), CloseCause::Silent(_)));
    assert!(peer.next().await.is_some() && peer.next().await.is_some());
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_some_calls_unanswered_and_answers_others_is_kept() {
    let (connection, mut peer) = pair();
    for round in 0..30 {
        let forgotten = connection.call_async(&Ask { number: -1 }, Bytes::new(), within(SECOND)).await.unwrap();
        peer.next().await.unwrap();
        assert_eq!(tokio::join!(ask(&connection, round), peer.serve_one()).0.unwrap(), round);
        assert!(matches!(forgotten.await, Err(Error::TimedOut { .. })));
    }
    assert!(connection.close_cause().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_is_never_silent() {
    let (connection, mut peer) = pair();
    sleep(3600 * SECOND).await;
    assert_eq!(tokio::join!(ask(&connection, 1), peer.serve_one()).0.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn close_writes_what_is_queued_before_it_ends() {
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), Processors::new(), 256);
    for number in 0..50 {
        connection.call_oneway(&Ask { number }, Bytes::from(vec![1; 9000]), within(SECOND)).await.unwrap();
    }
    let waiting = queue(&connection, 50).await;
    let ((), ()) = tokio::join!(connection.close(within(SECOND)), async {
        for number in 0..=50 {
            assert_eq!(number_of(&peer.next().await.unwrap()), number);
        }
        assert!(peer.next().await.is_none());
    });
    assert!(matches!(*cause_of(waiting.await.unwrap_err()), CloseCause::Local));
}

#[tokio::test(start_paused = true)]
async fn close_of_an_idle_connection_is_immediate() {
    let (connection, mut peer) = pair();
    yield_now().await;
    let start = Instant::now();
    connection.close(within(3600 * SECOND)).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(peer.next().await.is_none());
    connection.close(within(SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_beyond_its_deadline_for_a_peer_that_does_not_read() {
    let (connection, _peer) = pair_with(ConnectionOptions::default(), Processors::new(), 16);
    let reply = queue(&connection, 1).await;
    let start = Instant::now();
    connection.close(within(SECOND)).await;
    assert_eq!(start.elapsed().as_secs(), 1);
    assert!(matches!(*cause_of(reply.await.unwrap_err()), CloseCause::Local));
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_ever_for_a_writer_that_does_not_shut_down() {
    let (ours, _theirs) = duplex(64);
    let (reader, writer) = split(ours);
    let connection = over(reader, Probe { shuts_down: false, ..Probe::new(writer) });
    timeout(10 * SECOND, connection.close(within(SECOND))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_while_closing_fails_at_once_and_does_not_hold_the_end_up() {
    let (connection, peer) = pair_with(ConnectionOptions::default(), Processors::new(), 16);
    let queued = queue(&connection, 1).await;
    let (other, mut tasks) = (connection.clone(), JoinSet::new());
    tasks.spawn(async move { other.close(within(SECOND)).await });
    yield_now().await;
    assert!(connection.is_spent() && connection.close_cause().is_none());
    let error = ask(&connection, 2).await.unwrap_err();
    assert!(!error.may_have_happened() && matches!(*cause_of(error), CloseCause::Local));
    let error = connection.call_oneway(&Bare {}, Bytes::new(), within(SECOND)).await.unwrap_err();
    assert!(matches!(error, Error::Closed { sent: false, .. }));
    drop((queued, peer));
    tasks.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_connection() {
    let (connection, mut peer) = pair();
    let other = connection.clone();
    drop(connection);
    assert_eq!(tokio::join!(ask(&other, 1), peer.serve_one()).0.unwrap(), 1);
    drop(other);
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_keeps_its_connection() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    drop(connection);
    peer.serve_one().await;
    assert_eq!(reply.await.unwrap().header.number, 1);
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_kept_by_a_processor_does_not_keep_the_connection() {
    let (sender, mut requests) = mpsc::channel(1);
    let processors = Processors::new().on(RequestCode::HEART_BEAT, move |incoming| sender.try_send(incoming).unwrap());
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), processors, 64 * 1024);
    peer.ask(RequestCode::HEART_BEAT, 1).await;
    let incoming = requests.recv().await.unwrap();
    drop(connection);
    assert!(peer.next().await.is_none());
    incoming.answer::<Bare>(()).unwrap();
}

#[test]
fn calls_fail_when_the_runtime_of_their_connection_ends() {
    let theirs = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ours = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, mut peer) = theirs.block_on(async { pair() });
    ours.block_on(async {
        let reply = queue(&connection, 1).await;
        peer.next().await.unwrap();
        theirs.shutdown_background();
        assert!(matches!(*cause_of(reply.await.unwrap_err()), CloseCause::Local));
        assert!(matches!(ask(&connection, 2).await, Err(Error::Closed { sent: false, .. })));
    });
}

// Over real sockets.

/// Echoes on loopback, in any order, for as long as the set lives; one request in `lost` is never answered.
async fn server(addr: &str, lost: i64) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((addr, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let processors = Processors::new().on(RequestCode::GET_MAX_OFFSET, move |incoming| {
        let request = incoming.command();
        if number_of(request) % lost != lost - 1 {
            incoming.answer_with(echo_of(request)).unwrap();
        }
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.push(Connection::accept(stream, ConnectionOptions::default(), processors.clone()).unwrap());
        }
    });
    (port, tasks)
}

async fn dial(addr: &str) -> Result<Connection, Error> {
    Connection::dial(addr, ConnectionOptions::default(), Processors::new()).await
}

#[tokio::test]
async fn an_ipv4_address_is_dialled() {
    let (port, _server) = server("127.0.0.1", i64::MAX).await;
    assert_eq!(ask(&dial(&format!("127.0.0.1:{port}")).await.unwrap(), 1).await.unwrap(), 1);
}

#[tokio::test]
async fn an_ipv6_address_is_dialled_with_and_without_brackets() {
    let (port, _server) = server("::1", i64::MAX).await;
    assert_eq!(ask(&dial(&format!("[::1]:{port}")).await.unwrap(), 1).await.unwrap(), 1);
    assert_eq!(ask(&dial(&format!("::1:{port}")).await.unwrap(), 2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_host_name_is_dialled_whichever_of_its_addresses_listens() {
    let (port, _server) = server("127.0.0.1", i64::MAX).await;
    let connection = dial(&format!("localhost:{port}")).await.unwrap();
    assert_eq!(&**connection.addr(), format!("localhost:{port}"));
    assert_eq!(ask(&connection, 1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_an_error_with_the_address() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let addr = format!("127.0.0.1:{port}");
    let error = dial(&addr).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {addr}"));
    assert!(matches!(error, Error::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn what_is_no_address_is_a_typed_error() {
    for addr in ["", "host", "host:", ":1", "host:0", "host:65536", "host:port"] {
        assert!(matches!(dial(addr).await, Err(Error::Address { .. })), "{addr}");
    }
}

#[tokio::test]
async fn the_end_of_a_dialled_connection_is_noticed_by_the_one_who_accepted_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (client, accepted) = tokio::join!(dial(&addr), listener.accept());
    let accepted = Connection::accept(accepted.unwrap().0, ConnectionOptions::default(), Processors::new()).unwrap();
    let waiting = queue(&accepted, 1).await;
    client.unwrap().close(within(5 * SECOND)).await;
    assert!(matches!(waiting.await, Err(Error::Refused { .. } | Error::Closed { .. })));
    accepted.ended().await;
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// 64 callers, 20,000 calls and one-way requests of all sizes; some are dropped at any moment, some never answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_stress_every_caller_gets_its_own_answer_and_nothing_is_left_over() {
    let (port, _server) = server("127.0.0.1", 997).await;
    let options = ConnectionOptions { max_calls: 40, max_queued_bytes: 64 * 1024, ..Default::default() };
    let connection = Connection::dial(&format!("127.0.0.1:{port}"), options, Processors::new()).await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let connection = connection.clone();
        callers.spawn(async move {
            let (mut seed, mut answered) = (0x9e37_79b9_7f4a_7c15_u64 + caller, 0);
            for _ in 0..313 {
                let number = i64::try_from(random(&mut seed) >> 1).unwrap();
                let size = usize::try_from(random(&mut seed) % 200).unwrap();
                let body = Bytes::from(vec![7; if size == 0 { 100_000 } else { size }]);
                let lost = number % 997 == 996;
                let limit = if lost { Duration::from_millis(20) } else { 20 * SECOND };
                let request = Ask { number };
                let call = connection.call(&request, body.clone(), within(limit));
                match random(&mut seed) % 8 {
                    0 => drop(timeout(Duration::from_micros(random(&mut seed) % 500), call).await),
                    1 => drop(connection.call_async(&request, body, within(limit)).await),
                    2 => connection.call_oneway(&request, body, within(20 * SECOND)).await.unwrap(),
                    _ => match call.await {
                        Ok(answer) => {
                            assert_eq!((answer.header.number, answer.body), (number, body));
                            answered += 1;
                        }
                        Err(error) => assert!(lost, "{error:?}"),
                    },
                }
            }
            answered
        });
    }
    let answered: i32 = callers.join_all().await.into_iter().sum();
    assert!(answered > 10_000, "{answered} answers");
    // A last round trip: all that was queued before it has been written.
    ask(&connection, 1).await.unwrap();
    timeout(5 * SECOND, async {
        while connection.0.shared.bytes.available_permits() < 64 * 1024 {
            yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_at_rest(&connection);
    connection.close(within(5 * SECOND)).await;
}
