//! What the peer asks.

use super::*;

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
