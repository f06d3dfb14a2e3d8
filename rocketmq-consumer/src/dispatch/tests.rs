use super::*;
use crate::{
    PushConfig,
    alone::{self, Alone},
    listener::Listener,
};
use rocketmq_common::message::{DecodeLimits, decode_records};
use std::{convert::Infallible, sync::mpsc};
use tokio::{
    sync::Semaphore,
    task,
    time::{self, Instant},
};

const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);

/// How a call went that takes five minutes: how long its message held the offset of the queue up, and how many calls
/// there have been an hour later. In a broadcast, where a message that is given up is done at once.
async fn five_minutes(config: PushConfig) -> (Duration, usize) {
    let folder = tempfile::tempdir().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let listener = Listener::one(false, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            sleep(FIVE_MINUTES).await;
            Ok::<_, Infallible>(())
        }
    });
    let config = PushConfig { offset_dir: Some(folder.path().to_owned()), ..config };
    let alone = Alone::start(listener, true, config).await.unwrap();
    let queue = alone.queue();
    // Only now: connecting to the name server takes real time.
    time::pause();
    let began = Instant::now();
    let records =
        decode_records(alone::pulled(0, 1), &alone::TOPIC.into(), &"broker-a".into(), DecodeLimits::default());
    let messages: Vec<_> = records.map(Result::unwrap).collect();
    let epoch = {
        let mut window = queue.window();
        window.insert(0, 128);
        window.advance(1);
        window.epoch()
    };
    alone.member.dispatcher.push(queue.clone(), epoch, messages);
    while queue.window().commit_offset() == Some(0) {
        sleep(Duration::from_secs(1)).await;
    }
    let held_up = began.elapsed();
    sleep(Duration::from_secs(3600)).await;
    (held_up, calls.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_call_of_five_minutes_is_within_the_default_limit_and_runs_once() {
    let (held_up, calls) = five_minutes(PushConfig::default()).await;
    assert_eq!(calls, 1);
    assert!((FIVE_MINUTES..FIVE_MINUTES + Duration::from_secs(2)).contains(&held_up), "{held_up:?}");
}

#[tokio::test]
async fn a_call_beyond_the_limit_lets_the_queue_go_on() {
    let limit = Duration::from_secs(60);
    let (held_up, calls) = five_minutes(PushConfig { consume_timeout: limit, ..PushConfig::default() }).await;
    assert_eq!(calls, 1);
    assert!((limit..limit + Duration::from_secs(2)).contains(&held_up), "{held_up:?}");
}

#[tokio::test]
async fn a_call_beyond_the_limit_goes_on_while_its_messages_are_given_back() {
    let limit = Duration::from_secs(60);
    let over = Arc::new(Semaphore::new(0));
    let end = over.clone();
    let listener = Listener::one(false, move |_| {
        let end = end.clone();
        async move {
            sleep(2 * limit).await;
            end.add_permits(1);
            Ok::<_, Infallible>(())
        }
    });
    let config = PushConfig { consume_timeout: limit, ..PushConfig::default() };
    let alone = Alone::start(listener, false, config).await.unwrap();
    let queue = alone.queue();
    time::pause();
    let records =
        decode_records(alone::pulled(0, 1), &alone::TOPIC.into(), &"broker-a".into(), DecodeLimits::default());
    let messages: Vec<_> = records.map(Result::unwrap).collect();
    // A broker that is slower than the call.
    let giving_back = async { over.acquire().await.is_ok() };
    let mut turn = Turn::default();
    let call = alone.member.call_within_time(&mut turn, &queue, &messages, giving_back);
    let called = time::timeout(10 * limit, call).await;
    assert!(matches!(called, Ok(Called::GivenBack)), "{called:?}");
}

#[tokio::test]
async fn what_waits_of_a_queue_that_is_given_up_is_let_go() {
    let listener = Listener::one(false, |_| std::future::pending::<Result<(), Infallible>>());
    let config = PushConfig { concurrency: 1, revoke_timeout: Duration::ZERO, ..PushConfig::default() };
    let alone = Alone::start(listener, false, config).await.unwrap();
    let (queue, other) = (alone.queue(), alone.queue());
    let records =
        decode_records(alone::pulled(0, 3), &alone::TOPIC.into(), &"broker-a".into(), DecodeLimits::default());
    let messages: Vec<_> = records.map(Result::unwrap).collect();
    for queue in [&queue, &other] {
        alone.member.dispatcher.push(queue.clone(), 1, messages.clone());
    }
    while queue.in_hand() == 0 {
        task::yield_now().await;
    }
    // The listener is busy, so nobody takes what waits.
    alone.member.revoke_all(vec![queue.clone()]).await;
    assert_eq!(alone.member.dispatcher.take_out(&queue).len(), 0);
    assert_eq!(alone.member.dispatcher.take_out(&other).len(), 3, "that queue stays");
}

fn messages(count: i64) -> Vec<StoredMessage> {
    let records =
        decode_records(alone::pulled(0, count), &alone::TOPIC.into(), &"broker-a".into(), DecodeLimits::default());
    records.map(Result::unwrap).collect()
}

/// Blocks the thread until a message comes, for half a minute at most.
fn block(gate: &Mutex<mpsc::Receiver<()>>) -> Result<(), mpsc::RecvTimeoutError> {
    gate.lock().unwrap().recv_timeout(Duration::from_secs(30))
}

#[tokio::test]
async fn other_tasks_run_between_calls_of_a_listener_that_never_awaits() {
    let (ticks, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (now, kept) = (ticks.clone(), seen.clone());
    let listener = Listener::one(false, move |_| {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_micros(300) {
            std::hint::spin_loop();
        }
        kept.lock().unwrap().push(now.load(Ordering::SeqCst));
        async { Ok::<_, Infallible>(()) }
    });
    let config = PushConfig { concurrency: 1, ..PushConfig::default() };
    let alone = Alone::start(listener, false, config).await.unwrap();
    alone.member.dispatcher.push(alone.queue(), 1, messages(100));
    while seen.lock().unwrap().len() < 100 {
        ticks.fetch_add(1, Ordering::SeqCst);
        task::yield_now().await;
    }
    let mut seen = seen.lock().unwrap().clone();
    seen.dedup();
    assert!(seen.len() > 50, "100 calls ran in {} turns", seen.len());
}

#[test]
fn tasks_run_while_a_listener_blocks_the_only_thread_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let (call, mut calls) = tokio::sync::mpsc::channel(10);
        let (open, gate) = mpsc::channel();
        let gate = Mutex::new(gate);
        let listener = Listener::one(false, move |message: StoredMessage| {
            // The first call blocks until the stall is noticed; the second one, until a task has run.
            if message.queue_offset() == 0 {
                let _ = gate.lock().unwrap().recv_timeout(Duration::from_millis(1100));
            } else {
                call.try_send(()).unwrap();
                block(&gate).expect("a task runs while this call blocks");
                call.try_send(()).unwrap();
            }
            async { Ok::<_, Infallible>(()) }
        });
        let config = PushConfig { concurrency: 1, ..PushConfig::default() };
        let alone = Alone::start(listener, false, config).await.unwrap();
        alone.member.dispatcher.push(alone.queue(), 1, messages(2));
        let opening = alone.member.spawn(async move {
            calls.recv().await.unwrap();
            open.send(()).unwrap();
            calls.recv().await.unwrap();
        });
        opening.await.unwrap();
    });
}

#[tokio::test]
async fn a_blocking_listener_runs_outside_of_the_runtime() {
    let (open, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let (begin, mut begun) = tokio::sync::mpsc::channel(10);
    let listener = Listener::blocking_one(false, move |_| {
        begin.try_send(()).unwrap();
        block(&gate)
    });
    let alone = Alone::start(listener, false, PushConfig::default()).await.unwrap();
    let queue = alone.queue();
    let call = async { alone.member.call(&mut Turn::default(), &queue, &messages(1)).await };
    let opening = async {
        begun.recv().await.unwrap();
        assert_eq!(queue.calls_on_threads.count(), 1);
        open.send(()).unwrap();
    };
    let (called, ()) = tokio::join!(call, opening);
    assert!(matches!(called, Called::Done), "{called:?}");
    assert_eq!(queue.calls_on_threads.count(), 0);
}

#[tokio::test]
async fn a_blocking_listener_fails_as_an_async_one_does() {
    let listener = Listener::blocking_many(false, |messages: Vec<StoredMessage>| match messages.len() {
        1 => panic!("on purpose"),
        _ => Err::<(), _>("not today"),
    });
    let config = PushConfig { consume_batch: 2, ..PushConfig::default() };
    let alone = Alone::start(listener, false, config).await.unwrap();
    let queue = alone.queue();
    for (count, reason) in [(1, "panic: on purpose"), (2, "not today")] {
        match alone.member.call(&mut Turn::default(), &queue, &messages(count)).await {
            Called::Failed(failed) => assert_eq!(failed.reason, reason),
            other => panic!("{other:?} for {count} messages"),
        }
    }
}
