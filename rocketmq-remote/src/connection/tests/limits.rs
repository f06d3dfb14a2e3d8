//! What may be in flight, and queued.

use super::*;

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

/// Polls a future once.
async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_room_and_is_not_polled_holds_up_no_other() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let first = queue(&connection, 1).await;
    let mut kept = std::pin::pin!(ask(&connection, 2));
    assert!(poll_once(kept.as_mut()).await.is_pending());
    peer.serve_one().await;
    first.await.unwrap();
    // It is the turn of the one that is kept now.
    assert_eq!(tokio::join!(ask(&connection, 3), peer.serve_one()).0.unwrap(), 3);
    assert_eq!(tokio::join!(kept, peer.serve_one()).0.unwrap(), 2);
    yield_now().await;
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_bytes_and_is_not_polled_holds_up_no_other() {
    let options = ConnectionOptions { max_queued_bytes: 4096, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 1024);
    let body = Bytes::from(vec![1; 8192]);
    let call = |number| {
        let (connection, body) = (&connection, body.clone());
        async move { connection.call(&Ask { number }, body, within(5 * SECOND)).await }
    };
    // Each takes all the room there is.
    let (mut first, mut kept) = (Box::pin(call(1)), Box::pin(call(2)));
    assert!(poll_once(first.as_mut()).await.is_pending() && poll_once(kept.as_mut()).await.is_pending());
    assert_eq!(tokio::join!(first, peer.serve_one()).0.unwrap().header.number, 1);
    assert_eq!(tokio::join!(call(3), peer.serve_one()).0.unwrap().header.number, 3);
    assert_eq!(tokio::join!(kept, peer.serve_one()).0.unwrap().header.number, 2);
    yield_now().await;
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_kept_beyond_its_deadline_fails_and_holds_nothing() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let first = queue(&connection, 1).await;
    let request = Ask { number: 2 };
    let mut kept = Box::pin(connection.call(&request, Bytes::new(), within(SECOND)));
    assert!(poll_once(kept.as_mut()).await.is_pending());
    peer.serve_one().await;
    first.await.unwrap();
    sleep(2 * SECOND).await;
    assert!(matches!(kept.await, Err(Error::NoRoom { .. })));
    yield_now().await;
    assert_at_rest(&connection);
}
