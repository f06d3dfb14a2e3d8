use super::*;

/// A frame of one window descriptor and one block that is the last.
fn frame(block_type: u32, size: u32, content: &[u8]) -> Vec<u8> {
    let header = (size << 3 | block_type << 1 | 1).to_le_bytes();
    [&MAGIC.to_le_bytes()[..], &[0x00, 0x58], &header[..3], content].concat()
}

#[test]
fn raw_and_repeated_blocks_and_skippable_frames_are_read() {
    let skippable = [&SKIPPABLE.to_le_bytes()[..], &[2, 0, 0, 0, 9, 9]].concat();
    let stream = [frame(0, 3, b"abc"), skippable, frame(1, 5, b"z")].concat();
    assert_eq!(decode(&stream, 8).unwrap(), b"abczzzzz");
    assert_eq!(decode(&stream, 7), Err(ZstdError::TooLarge));
}

/// 64 sequences of two bytes each that repeat one literal 131,074 times.
#[test]
fn a_block_cannot_write_more_than_a_block_holds() {
    let mut block = vec![0x08, b'x', 64, 0b0101_0100, 1, 0, 52];
    block.extend([0xFF; 128]);
    block.push(1);
    let stream = frame(2, u32::try_from(block.len()).unwrap(), &block);
    assert_eq!(decode(&stream, 64 << 20), Err(ZstdError::Corrupt("block size")));
}

#[test]
fn a_content_size_over_the_limit_is_refused_before_anything_is_decoded() {
    let stream = [&MAGIC.to_le_bytes()[..], &[0xE0], &u64::MAX.to_le_bytes()].concat();
    assert_eq!(decode(&stream, 1 << 20), Err(ZstdError::TooLarge));
}

#[cfg(feature = "zstd")]
mod beside_the_library {
    use super::*;
    use proptest::prelude::*;

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..2000),
            ("[a-f]{1,40}", 1..3000_usize).prop_map(|(text, times)| text.repeat(times).into_bytes()),
            prop::collection::vec(0..6_u8, 0..20_000),
            prop::collection::vec("[a-z ]{1,9}", 0..3000).prop_map(|words| words.concat().into_bytes()),
        ];
        prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_the_library_writes_is_read(body in texts(), level in 1..20_i32, whole in any::<bool>()) {
            let stream = match whole {
                // Tells the content's size.
                true => zstd::bulk::compress(&body, level).unwrap(),
                false => zstd::stream::encode_all(&body[..], level).unwrap(),
            };
            prop_assert_eq!(decode(&stream, body.len()).unwrap(), body.clone());
            if let Some(less) = body.len().checked_sub(1) {
                prop_assert_eq!(decode(&stream, less), Err(ZstdError::TooLarge));
            }
        }

        #[test]
        fn a_damaged_stream_reads_as_the_library_reads_it(
            body in texts(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..4),
        ) {
            let mut stream = zstd::stream::encode_all(&body[..], 3).unwrap();
            for (at, bit) in flips {
                let at = at.index(stream.len());
                stream[at] ^= 1 << bit;
            }
            let ours = decode(&stream, 4 << 20);
            if let (Ok(ours), Ok(theirs)) = (ours, zstd::stream::decode_all(&stream[..])) {
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
