//! What a message costs on its way: as a send, as one of a batch, as a reply, and out of a pull.
#![expect(missing_docs, reason = "criterion's macros make public functions")]

#[path = "../tests/work/mod.rs"]
mod work;

use criterion::{Criterion, criterion_group, criterion_main};
use rocketmq_common::remote::HeadEncoding;
use std::hint::black_box;

fn messages(criterion: &mut Criterion) {
    for encoding in [HeadEncoding::Json, HeadEncoding::Binary] {
        let mut send = work::Send::new(encoding);
        criterion.bench_function(&format!("send of 128 B, {encoding:?}"), |b| b.iter(|| black_box(send.encode())));
    }
    let batch = work::batch_of_32();
    criterion.bench_function("batch of 32 x 128 B", |b| b.iter(|| black_box(work::encode_batch(&batch))));
    let mut reply = work::Reply::new();
    criterion.bench_function("send reply, JSON", |b| b.iter(|| black_box(reply.decode())));
    let pulled = work::pulled_32();
    criterion.bench_function("pulled batch of 32 x 128 B", |b| b.iter(|| black_box(work::decode_pulled(&pulled))));
}

criterion_group!(benches, messages);
criterion_main!(benches);
