//! Futures of sends that are kept without being polled, or dropped, and user code that does not end: none of them holds up a
//! flush, a shutdown or other sends for longer than its own deadline.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use rocketmq_dev_broker::{DevCluster, RequestCode, ResponseCode};
use rocketmq_producer::{Error, Message, Producer, ProducerConfig, StoredMessage, TransactionState};
use std::{
    future::pending,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    task::yield_now,
    time::{Instant, sleep, timeout},
};

/// Long enough for anything that is not stuck, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

async fn start(config: ProducerConfig) -> (DevCluster, Producer) {
    let cluster = DevCluster::start().await.unwrap();
    let producer = Producer::builder("producers").name_servers([cluster.name_server()]).config(config);
    let producer = producer.start().await.unwrap();
    producer.send(message("the route is known from here on")).await.unwrap();
    (cluster, producer)
}

fn message(body: &'static str) -> Message {
    Message::new("topic", body)
}

/// Polls a future once, which is then kept.
async fn poll_once<T: std::fmt::Debug>(mut future: Pin<&mut impl Future<Output = T>>) {
    tokio::select! {
        biased;
        output = &mut future => panic!("ready at once: {output:?}"),
        () = yield_now() => {}
    }
}

/// Waits until a topic holds that body.
async fn stored(cluster: &DevCluster, topic: &str, body: &str) {
    let is_there = async {
        while !cluster.messages(topic).iter().any(|message| message.body() == body) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, is_there).await.unwrap();
}

#[tokio::test]
async fn a_flush_after_a_request_in_the_same_task_ends() {
    let (_cluster, producer) = start(ProducerConfig::default()).await;
    let reply = producer.request_async(message("question"), SHORT).await.unwrap();
    timeout(SOON, producer.flush()).await.expect("the flush does not end");
    let reply = timeout(Duration::ZERO, reply).await.expect("the flush did not wait for the request");
    assert!(matches!(reply, Err(Error::NoReply { .. })), "{reply:?}");
    // Nor does one hold up the shutdown.
    let _kept = producer.request_async(message("question"), SHORT).await.unwrap();
    timeout(SOON, producer.shutdown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_kept_send_holds_up_no_flush_and_no_shutdown_beyond_its_deadline() {
    let (cluster, producer) =
        start(ProducerConfig { send_timeout: SHORT, shutdown_timeout: SOON, ..Default::default() }).await;
    cluster.on(RequestCode::SEND_MESSAGE_V2).forget();
    let mut send = pin!(producer.send(message("kept")));
    poll_once(send.as_mut()).await;
    let began = Instant::now();
    timeout(SOON, producer.flush()).await.expect("the flush does not end");
    let mut batch = pin!(producer.send_batch(vec![message("kept")]));
    cluster.on(RequestCode::SEND_BATCH_MESSAGE).forget();
    poll_once(batch.as_mut()).await;
    let mut request = pin!(producer.request(message("kept"), SHORT));
    poll_once(request.as_mut()).await;
    let ended = timeout(SOON, producer.shutdown()).await.expect("the shutdown does not end");
    assert!(matches!(ended, Err(Error::Unfinished { sends: 3 })), "{ended:?}");
    assert!(began.elapsed() < SOON / 2, "waited for {:?}", began.elapsed());
    let sent = send.await;
    assert!(sent.as_ref().is_err_and(Error::may_have_happened), "{sent:?}");
}

#[tokio::test]
async fn a_send_that_waits_for_room_and_is_kept_takes_none_from_others() {
    let config = ProducerConfig { max_pending: 1, ..Default::default() };
    let (cluster, producer) = start(config).await;
    cluster.on(RequestCode::SEND_MESSAGE_V2).delay(SHORT).times(1);
    let first = producer.send_async(message("first")).await.unwrap();
    let mut kept = pin!(producer.send_async(message("kept")));
    poll_once(kept.as_mut()).await;
    first.await.unwrap();
    let other =
        timeout(SOON, producer.send_async(message("other"))).await.expect("room is kept by a future nobody polls");
    other.unwrap().await.unwrap();
    // The kept one had its turn.
    stored(&cluster, "topic", "kept").await;
    kept.await.unwrap().await.unwrap();
    producer.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_send_that_is_dropped_while_it_waits_for_room_is_withdrawn() {
    let config = ProducerConfig { max_pending: 1, ..Default::default() };
    let (cluster, producer) = start(config).await;
    cluster.on(RequestCode::SEND_MESSAGE_V2).delay(SHORT).times(1);
    let first = producer.send_async(message("first")).await.unwrap();
    {
        let mut dropped = pin!(producer.send_async(message("dropped")));
        poll_once(dropped.as_mut()).await;
    }
    first.await.unwrap();
    producer.send_async(message("last")).await.unwrap().await.unwrap();
    producer.shutdown().await.unwrap();
    assert!(!cluster.messages("topic").iter().any(|message| message.body() == "dropped"));
}

#[tokio::test]
async fn a_lingering_send_that_is_dropped_is_withdrawn() {
    let config = ProducerConfig { linger: SHORT, ..Default::default() };
    let (cluster, producer) = start(config).await;
    let (kept, dropped) = (producer.clone(), producer.clone());
    let (sent, was_dropped) =
        tokio::join!(kept.send(message("kept")), timeout(SHORT / 3, dropped.send(message("dropped"))));
    assert!(was_dropped.is_err(), "it did not linger");
    sent.unwrap();
    producer.shutdown().await.unwrap();
    // Queue by queue: what `start` has sent may come before or after these.
    let bodies: Vec<_> = cluster.messages("topic").iter().map(|message| message.body().clone()).collect();
    assert_eq!(bodies.iter().filter(|body| **body == "kept").count(), 1, "{bodies:?}");
    assert_eq!(bodies.iter().filter(|body| **body == "dropped").count(), 0, "{bodies:?}");
}

#[tokio::test]
async fn what_may_have_been_stored_when_its_producer_ends_is_told_so() {
    let (cluster, producer) = start(ProducerConfig::default()).await;
    cluster.on(RequestCode::SEND_MESSAGE_V2).answer(ResponseCode::SYSTEM_BUSY).times(1);
    cluster.on(RequestCode::SEND_MESSAGE_V2).forget();
    let before = cluster.received(RequestCode::SEND_MESSAGE_V2);
    let receipt = producer.send_async(message("in a second attempt")).await.unwrap();
    timeout(SOON, async {
        while cluster.received(RequestCode::SEND_MESSAGE_V2) < before + 2 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("no second attempt");
    // The last handle goes, and with it the attempts.
    drop(producer);
    let told = timeout(SOON, receipt).await.unwrap().unwrap_err();
    assert!(told.may_have_happened(), "{told:?}");
}

#[test]
fn a_lingering_send_ends_after_its_runtime() {
    let (first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let config = ProducerConfig { linger: Duration::from_millis(1), ..Default::default() };
    let cluster = second.block_on(DevCluster::start()).unwrap();
    let builder = Producer::builder("producers").name_servers([cluster.name_server()]).config(config);
    let producer = first.block_on(async {
        let producer = builder.start().await.unwrap();
        producer.send(message("a lane is open")).await.unwrap();
        producer
    });
    first.shutdown_background();
    for topic in ["topic", "another"] {
        let send = async { timeout(SOON, producer.send(Message::new(topic, "late"))).await };
        let sent = second.block_on(send).expect("the send does not end");
        let told = sent.unwrap_err();
        assert!(matches!(told, Error::ShutDown) && !told.may_have_happened(), "{told:?}");
    }
}

#[tokio::test]
async fn checkers_that_hang_do_not_end_all_checks() {
    let cluster = DevCluster::builder().transaction_check(Duration::from_millis(500)).start().await.unwrap();
    // Checks time out much faster than new ones come.
    let config = ProducerConfig { transaction_check_timeout: Duration::from_millis(50), ..Default::default() };
    let builder = Producer::builder("producers").name_servers([cluster.name_server()]).config(config);
    let hanging = Arc::new(AtomicUsize::new(0));
    let counted = hanging.clone();
    let checker = move |message: StoredMessage| {
        let hangs = message.body() == "hangs";
        counted.fetch_add(usize::from(hangs), Ordering::SeqCst);
        async move { if hangs { pending().await } else { TransactionState::Commit } }
    };
    let producer = builder.transaction_checker(checker).start().await.unwrap();
    let unknown = async |_| TransactionState::Unknown;
    for _ in 0..10 {
        producer.send_in_transaction(message("hangs"), unknown).await.unwrap();
    }
    // More than run at once hang before the last one is checked.
    timeout(SOON, async {
        while hanging.load(Ordering::SeqCst) < 10 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("not all are checked");
    producer.send_in_transaction(message("is committed"), unknown).await.unwrap();
    stored(&cluster, "topic", "is committed").await;
    producer.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_in_time_though_a_checker_blocks_and_brokers_are_silent() {
    let cluster = DevCluster::builder().transaction_check(Duration::from_millis(50)).start().await.unwrap();
    let config = ProducerConfig { shutdown_timeout: SHORT, ..Default::default() };
    let builder = Producer::builder("producers").name_servers([cluster.name_server()]).config(config);
    let (blocks, is_blocked) = mpsc::channel();
    let (end, until_end) = mpsc::channel::<()>();
    let until_end = Arc::new(Mutex::new(until_end));
    let checker = move |_| {
        let _ = blocks.send(());
        let _ = until_end.lock().unwrap().recv();
        async { TransactionState::Commit }
    };
    let producer = builder.transaction_checker(checker).start().await.unwrap();
    producer.send_in_transaction(message("open"), async |_| TransactionState::Unknown).await.unwrap();
    tokio::task::spawn_blocking(move || is_blocked.recv()).await.unwrap().unwrap();
    cluster.on(RequestCode::UNREGISTER_CLIENT).forget();
    let began = Instant::now();
    timeout(SOON, producer.shutdown()).await.expect("the shutdown does not end").unwrap();
    // Far less than a request to a silent broker takes.
    assert!(began.elapsed() < Duration::from_millis(2500), "took {:?}", began.elapsed());
    drop(end);
}
