use super::*;
use crate::{PushConfig, alone, alone::Alone, listener::Listener};
use std::{
    convert::Infallible,
    future::ready,
    sync::atomic::{AtomicI64, Ordering},
};
use tokio::{runtime, sync::Notify};

const PULLED: i64 = 32;

/// Counts what has been consumed, and says when a pull's worth is.
#[derive(Default)]
struct Consumed {
    count: AtomicI64,
    whole_pull: Notify,
}

impl Consumed {
    fn add(&self, messages: i64) {
        let before = self.count.fetch_add(messages, Ordering::Relaxed);
        if before / PULLED != (before + messages) / PULLED {
            self.whole_pull.notify_one();
        }
    }
}

fn answer(from: i64, body: bytes::Bytes) -> Answer<PullResult> {
    let end = from + PULLED;
    Answer {
        code: ResponseCode::SUCCESS,
        header: PullResult {
            suggested_broker_id: rocketmq_common::protocol::MASTER_ID,
            next_begin_offset: end,
            min_offset: 0,
            max_offset: end,
            offset_delta: None,
        },
        body,
    }
}

/// The allocations of the way of one pull's messages from the broker's answer through the listener, once all is warm.
fn allocations(listener: impl FnOnce(Arc<Consumed>) -> Listener, config: PushConfig) -> u64 {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let consumed = Arc::new(Consumed::default());
    let alone = runtime.block_on(Alone::start(listener(consumed.clone()), false, config)).unwrap();
    let assigned = alone.queue();
    let mut one_pull = |round: i64| {
        let body = alone::pulled(round * PULLED, PULLED);
        let count = allocation_counter::measure(|| {
            runtime.block_on(async {
                let place = Place { epoch: assigned.window().epoch(), next: round * PULLED };
                let (queue, subscription) = (&assigned.queue, &assigned.subscription);
                let answer = answer(place.next, body);
                let records = PulledRecords::read(queue, subscription, place.next, 32, &answer);
                deliver(&alone.member, &assigned, place, records).await;
                consumed.whole_pull.notified().await;
            });
        });
        // What the last message leaves to do after the listener has returned.
        runtime.block_on(assigned.wait_none_in_hand());
        count.count_total
    };
    let least = (0..10).map(&mut one_pull).min().unwrap();
    assert_eq!(assigned.window().commit_offset(), Some(10 * PULLED), "all are done");
    least
}

#[test]
fn a_message_allocates_the_future_of_its_listener_call_and_nothing_else() {
    let listener = |consumed: Arc<Consumed>| {
        Listener::one(false, move |_| {
            consumed.add(1);
            ready(Ok::<_, Infallible>(()))
        })
    };
    // One more for the list of the pull.
    assert_eq!(allocations(listener, PushConfig::default()), 1 + 32);
}

#[test]
fn messages_of_one_call_share_its_allocations() {
    let listener = |consumed: Arc<Consumed>| {
        Listener::many(false, move |messages: Vec<_>| {
            consumed.add(i64::try_from(messages.len()).unwrap());
            ready(Ok::<_, Infallible>(()))
        })
    };
    // The list of the pull; that of the call, in our hands and in the listener's; the future of the call.
    assert_eq!(allocations(listener, PushConfig { consume_batch: 32, ..PushConfig::default() }), 4);
}
