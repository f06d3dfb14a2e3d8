//! Calls and answers.

use super::*;

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
    assert!(matches!(error, Error::DeadlinePassed { .. }) && !error.may_have_happened(), "{error}");
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
async fn the_words_of_a_refusal_cannot_forge_log_lines() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    let request = peer.next().await.unwrap();
    let remark = format!("a\nERROR b\u{1b}[2J{}", "c".repeat(100_000));
    peer.send(Command::response(request.opaque, ResponseCode::GO_AWAY).with_remark(remark)).await;
    let text = reply.await.unwrap_err().to_string();
    assert!(text.contains(r"a\nERROR b\u{1b}[2Jccc") && !text.contains(char::is_control), "{text}");
    assert!(text.len() < 1000, "{} bytes", text.len());
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

#[tokio::test(start_paused = true)]
async fn answers_tell_the_version_of_the_peer() {
    let (connection, mut peer) = pair();
    assert_eq!(connection.peer_version(), None);
    for (reported, known) in [(0, None), (407, Some(407)), (0, Some(407)), (513, Some(513))] {
        let reply = queue(&connection, 1).await;
        let request = peer.next().await.unwrap();
        peer.send(Command { version: reported, ..echo_of(&request) }).await;
        reply.await.unwrap();
        assert_eq!(connection.peer_version(), known);
    }
}
