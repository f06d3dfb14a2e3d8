//! Any bytes, cut into any pieces: no panic, no buffer larger than the frame limit allows, and the same commands
//! however the bytes are cut.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use rocketmq_remote::{Command, CommandCodec};
use tokio_util::codec::Decoder;

const LIMIT: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let (whole, whole_ends) = read(bytes, bytes.len().max(1));
    let (pieces, pieces_end) = read(bytes, usize::from(*piece).max(1));
    assert_eq!(whole, pieces);
    assert_eq!(whole_ends, pieces_end);
});

/// The commands, and whether what follows them is an error.
fn read(bytes: &[u8], piece: usize) -> (Vec<Command>, bool) {
    let mut codec = CommandCodec::new(LIMIT);
    let mut buffer = BytesMut::new();
    let mut commands = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(_) => return (commands, true),
            }
        }
        assert!(buffer.capacity() <= 2 * LIMIT.max(bytes.len()));
    }
    (commands, false)
}
