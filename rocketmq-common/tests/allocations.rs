//! What a message allocates on its way, counted; more than it has to is a failure.

mod work;

use allocation_counter::measure;
use rocketmq_common::remote::HeadEncoding;

/// The allocations of one round of work, once everything is warm.
fn count<T>(mut work: impl FnMut() -> T) -> u64 {
    drop(work());
    measure(|| drop(work())).count_total
}

#[test]
fn a_send_allocates_for_its_fields_and_for_nothing_else() {
    for encoding in [HeadEncoding::Json, HeadEncoding::Binary] {
        let mut send = work::Send::new(encoding);
        let count = count(|| send.encode());
        assert!(count <= 3, "{count} allocations for a {encoding:?} head");
    }
}

#[test]
fn a_batch_is_one_allocation() {
    let batch = work::batch_of_32();
    assert_eq!(count(|| work::encode_batch(&batch)), 1);
}

#[test]
fn a_send_reply_allocates_for_what_it_keeps() {
    let mut reply = work::Reply::new();
    // The fields' one buffer, then the texts that are kept: offset id, region, trace switch.
    let count = count(|| reply.decode());
    assert!(count <= 4, "{count} allocations for a reply");
}

#[test]
fn pulled_messages_allocate_nothing_each() {
    let pulled = work::pulled_32();
    let mut messages = 0;
    // The list itself; bodies and properties are slices of the frame.
    assert_eq!(count(|| messages = work::decode_pulled(&pulled)), 1);
    assert_eq!(messages, 32);
}
