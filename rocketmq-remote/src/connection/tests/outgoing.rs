//! What goes out, and how.

use super::{
    probe::{Probe, over},
    *,
};

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
            Err(Error::DeadlinePassed { .. }) => -3,
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

/// A connection whose writes are counted.
fn probed() -> (Connection, Peer<DuplexStream>, Arc<AtomicUsize>) {
    let (ours, theirs) = duplex(1024 * 1024);
    let (reader, writer) = split(ours);
    let probe = Probe::new(writer);
    let writes = probe.writes.clone();
    (over(reader, probe), Peer::new(theirs), writes)
}

#[tokio::test(start_paused = true)]
async fn frames_that_wait_together_go_out_in_one_write() {
    let (connection, mut peer, writes) = probed();
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
    let (connection, mut peer, writes) = probed();
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
