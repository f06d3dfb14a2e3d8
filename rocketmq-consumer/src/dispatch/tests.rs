use super::*;
use crate::{
    PushConfig,
    alone::{self, Alone},
    listener::Listener,
};
use rocketmq_common::message::{DecodeLimits, decode_records};
use std::convert::Infallible;
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
    let call = alone.member.call_within_time(&queue, &messages, giving_back);
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
