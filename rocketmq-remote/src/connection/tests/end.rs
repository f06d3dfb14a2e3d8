//! How a connection ends.

use super::{
    probe::{Probe, over},
    *,
};

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
async fn a_peer_is_unresponsive_from_the_first_missing_answer_until_it_sends_something() {
    let (connection, mut peer) = pair();
    assert_eq!(tokio::join!(ask(&connection, 1), peer.serve_one()).0.unwrap(), 1);
    sleep(SECOND).await;
    assert!(!connection.is_unresponsive());
    let late = connection.call_async(&Ask { number: 2 }, Bytes::new(), within(SECOND)).await.unwrap();
    assert!(matches!(late.await, Err(Error::TimedOut { .. })));
    assert!(connection.is_unresponsive());
    peer.serve_one().await;
    assert_eq!(tokio::join!(ask(&connection, 3), peer.serve_one()).0.unwrap(), 3);
    assert!(!connection.is_unresponsive());
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
