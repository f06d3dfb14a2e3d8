//! Counts what the codec allocates; no fuzzing, but a counting allocator needs unsafe code, which has no place in the
//! crates themselves. Fails where a head costs more than it should.

// The counters of the other targets want libFuzzer at hand, which nothing here calls.
use libfuzzer_sys as _;

use bytes::{Bytes, BytesMut};
use rocketmq_remote::{Command, CommandCodec, HeadEncoding, ResponseCode};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio_util::codec::{Decoder, Encoder};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = COUNT.load(Ordering::Relaxed);
    let result = work();
    (result, COUNT.load(Ordering::Relaxed) - before)
}

fn main() {
    let mut command = Command::response(7, ResponseCode::SUCCESS).with_body(Bytes::from(vec![1; 1024 * 1024]));
    for field in 0..32 {
        command.fields.push(&format!("field{field}"), "a value\u{1}of some length");
    }
    for (encoding, most) in [(HeadEncoding::Json, 1), (HeadEncoding::Binary, 0)] {
        command.encoding = encoding;
        let mut codec = CommandCodec::default();
        let mut head = BytesMut::with_capacity(16 * 1024);
        let ((), count) = counted(|| codec.encode_head(&command, &mut head).expect("the head can be written"));
        println!("{encoding:?}: {count} allocations to write a head of 32 fields into a buffer with room");
        assert_eq!(count, 0);

        let mut stream = BytesMut::with_capacity(4 * 1024 * 1024);
        codec.encode(command.clone(), &mut stream).expect("the frame can be written");
        codec.encode(command.clone(), &mut stream).expect("the frame can be written");
        // The first frame turns the buffer into a shared one.
        drop(codec.decode(&mut stream));
        let (read, count) = counted(|| codec.decode(&mut stream).expect("the frame reads").expect("it is whole"));
        println!("{encoding:?}: {count} allocations to read it, with a body of 1 MiB");
        assert_eq!(read, command);
        assert!(count <= most, "{count} allocations");
    }
}
