//! What it costs to write and read the head of one sent message, in both encodings.
#![expect(missing_docs, reason = "criterion's macros make public functions")]

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use rocketmq_remote::{Command, CommandCodec, HeadEncoding};
use std::{fs, hint::black_box, path::Path};
use tokio_util::codec::{Decoder, Encoder};

/// A frame that a real peer wrote.
fn golden(file: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/5.5.0").join(file);
    let text = fs::read_to_string(path).expect("the golden file is there");
    let digits: Vec<u8> = text.lines().skip(1).flat_map(str::bytes).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).expect("hex");
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn decoded(frame: &Bytes) -> Command {
    let command = CommandCodec::default().decode(&mut BytesMut::from(&frame[..]));
    command.expect("the frame reads").expect("the frame is whole")
}

fn encoded(command: Command) -> Bytes {
    let mut frame = BytesMut::new();
    CommandCodec::default().encode(command, &mut frame).expect("the frame can be written");
    frame.freeze()
}

fn encode(criterion: &mut Criterion, name: &str, command: &Command) {
    let codec = CommandCodec::default();
    let mut out = BytesMut::with_capacity(64 * 1024);
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            out.clear();
            codec.encode_head(black_box(command), &mut out).expect("the head can be written");
            black_box(out.len())
        });
    });
}

/// Reads a buffer of many frames, as they come off a socket; the figure is for all of them.
fn decode(criterion: &mut Criterion, name: &str, frame: &Bytes) {
    let mut codec = CommandCodec::default();
    let stream = frame.repeat(FRAMES);
    let mut buffer = BytesMut::with_capacity(2 * stream.len());
    criterion.bench_function(&format!("{name} x {FRAMES}"), |bencher| {
        bencher.iter(|| {
            buffer.extend_from_slice(&stream);
            while let Some(command) = codec.decode(&mut buffer).expect("the frame reads") {
                black_box(command);
            }
        });
    });
}

fn heads(criterion: &mut Criterion) {
    let json = golden("000310_send_v2_request_topic.hex");
    let command = decoded(&json);
    let binary = Command { encoding: HeadEncoding::Binary, ..command.clone() };
    encode(criterion, "encode send JSON", &command);
    encode(criterion, "encode send binary", &binary);
    decode(criterion, "decode send JSON", &json);
    decode(criterion, "decode send binary", &encoded(binary));
    decode(criterion, "decode send reply JSON", &golden("000310_send_v2_reply_topic.hex"));
}

const FRAMES: usize = 100;

criterion_group!(benches, heads);
criterion_main!(benches);
