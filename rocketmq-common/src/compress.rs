//! Compression of bodies, in the streams which Java clients write and read.

mod zstd_decoder;

use std::fmt;
use std::io;
#[cfg(any(feature = "zlib", feature = "lz4"))]
use std::io::Read;

use bytes::Bytes;
use zstd_decoder::ZstdError;

/// Bit of the system flag of a message whose body is compressed.
const COMPRESSED: i32 = 0x1;
/// Bits of the system flag that say how the body is compressed.
const TYPE_MASK: i32 = 0x700;

/// How a body is compressed.
///
/// # Protocol
/// Java `CompressionType`, `MessageSysFlag`. Brokers never look inside; a consumer has to know the type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Compression {
    /// One zlib stream (RFC 1950). The default; every consumer reads it.
    #[default]
    Zlib,
    /// One LZ4 frame of independent blocks.
    Lz4,
    /// One Zstandard frame without the size of its content.
    Zstd,
}

/// The system flag of a message names a compression nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is compressed in a way that is not known (type {kind})")]
pub struct UnknownCompression {
    /// Number of the type.
    pub kind: u8,
}

/// Why a body could not be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// This program was built without that compression.
    #[error("{compression} is not built in, enable the feature {feature:?}")]
    NotBuilt {
        /// The compression asked for.
        compression: Compression,
        /// Cargo feature that brings it.
        feature: &'static str,
    },
    /// The body grows past what the caller allows.
    #[error("the body decompresses ({compression}) to more than {max_bytes} bytes")]
    TooLarge {
        /// How the body is compressed.
        compression: Compression,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// The bytes are no complete stream of that compression.
    #[error("the body is no {compression} stream")]
    Corrupt {
        /// How the body is said to be compressed.
        compression: Compression,
        /// What the decoder says.
        source: std::io::Error,
    },
    /// The encoder failed.
    #[error("cannot compress with {compression}")]
    Encode {
        /// The compression asked for.
        compression: Compression,
        /// What the encoder says.
        source: std::io::Error,
    },
}

impl Compression {
    /// Returns the bits of the system flag that say a body is compressed this way.
    pub fn sys_flag_bits(self) -> i32 {
        COMPRESSED
            | match self {
                Self::Lz4 => 0x100,
                Self::Zstd => 0x200,
                Self::Zlib => 0x300,
            }
    }

    /// Reads from the system flag of a message how its body is compressed: `None` where it is not.
    pub fn from_sys_flag(sys_flag: i32) -> Option<Result<Self, UnknownCompression>> {
        if sys_flag & COMPRESSED == 0 {
            return None;
        }
        Some(match (sys_flag & TYPE_MASK) >> 8 {
            // Old clients know one compression and set no type.
            0 | 3 => Ok(Self::Zlib),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            kind => Err(UnknownCompression { kind: u8::try_from(kind).unwrap_or(u8::MAX) }),
        })
    }

    /// Compresses a body. `level` is 0 to 9 for zlib and 1 to 22 for Zstandard, more is taken as the most; LZ4 has
    /// one level. Java's default is 5.
    ///
    /// # Errors
    /// [`CompressError::NotBuilt`] where the feature is off; else the encoder failed.
    ///
    /// # Protocol
    /// Java `ZlibCompressor`, `Lz4Compressor`, `ZstdCompressor`.
    /// Witness: goldens `send_v2_request_{zlib,lz4,zstd}_550.hex`, test `streams_of_java_are_read`.
    pub fn compress(self, level: u32, body: &[u8]) -> Result<Bytes, CompressError> {
        match self {
            Self::Zlib => zlib_compress(level, body),
            Self::Lz4 => lz4_compress(body),
            Self::Zstd => zstd_compress(level, body),
        }
    }

    /// Decompresses a body of at most `max_bytes`.
    ///
    /// # Errors
    /// [`CompressError::TooLarge`] as soon as there is more, whatever the stream claims; [`CompressError::Corrupt`]
    /// where the stream is damaged or ends early; [`CompressError::NotBuilt`] where the feature is off, which Zstandard
    /// does not need: the feature `zstd` adds its encoder only.
    pub fn decompress(self, body: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
        match self {
            Self::Zlib => zlib_decompress(body, max_bytes),
            Self::Lz4 => lz4_decompress(body, max_bytes),
            Self::Zstd => zstd_decompress(body, max_bytes),
        }
    }

    #[cfg(any(feature = "zlib", feature = "lz4", feature = "zstd"))]
    fn encode_error(self, source: io::Error) -> CompressError {
        CompressError::Encode { compression: self, source }
    }

    /// Reads a decoder to its end. What it claims of its size is not asked: the output grows with what is there.
    #[cfg(any(feature = "zlib", feature = "lz4"))]
    fn read_to_end(self, decoder: impl Read, compressed: usize, max_bytes: usize) -> Result<Bytes, CompressError> {
        let mut out = Vec::with_capacity(compressed.saturating_mul(4).min(max_bytes));
        let one_more = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
        decoder
            .take(one_more)
            .read_to_end(&mut out)
            .map_err(|source| CompressError::Corrupt { compression: self, source })?;
        if out.len() > max_bytes {
            return Err(CompressError::TooLarge { compression: self, max_bytes });
        }
        // A message may be kept for long; the slack of a growing vector is not kept with it.
        out.shrink_to_fit();
        Ok(out.into())
    }

    #[cfg(not(all(feature = "zlib", feature = "lz4", feature = "zstd")))]
    fn not_built(self) -> CompressError {
        let feature = match self {
            Self::Zlib => "zlib",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        };
        CompressError::NotBuilt { compression: self, feature }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zlib => "zlib",
            Self::Lz4 => "LZ4",
            Self::Zstd => "Zstandard",
        })
    }
}

#[cfg(feature = "zlib")]
fn zlib_compress(level: u32, body: &[u8]) -> Result<Bytes, CompressError> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(level.min(9)));
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .map(Bytes::from)
        .map_err(|e| Compression::Zlib.encode_error(e))
}

#[cfg(feature = "zlib")]
fn zlib_decompress(body: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    Compression::Zlib.read_to_end(flate2::bufread::ZlibDecoder::new(body), body.len(), max_bytes)
}

#[cfg(feature = "lz4")]
fn lz4_compress(body: &[u8]) -> Result<Bytes, CompressError> {
    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    // The header of Java: version 1, independent blocks of up to 4 MiB, no checksums, no size.
    let info = FrameInfo::new().block_size(BlockSize::Max4MB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(body).map_err(|e| Compression::Lz4.encode_error(e))?;
    encoder.finish().map(Bytes::from).map_err(|e| Compression::Lz4.encode_error(e.into()))
}

/// What every frame of Java begins with, and of ours: magic, version 1, independent blocks of up to 4 MiB, no checksums
/// but the header's own.
#[cfg(feature = "lz4")]
const LZ4_HEADER: [u8; 7] = [0x04, 0x22, 0x4D, 0x18, 0x60, 0x70, 0x73];
#[cfg(feature = "lz4")]
const LZ4_BLOCK_BYTES: usize = 4 << 20;
/// Bit in the size of a block which is stored as it was.
#[cfg(feature = "lz4")]
const LZ4_STORED: u32 = 1 << 31;

#[cfg(feature = "lz4")]
fn lz4_decompress(body: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    use lz4_flex::frame::FrameDecoder;
    match body.strip_prefix(&LZ4_HEADER) {
        // The library's reader of frames clears 4 MiB for each, which takes longer than all the rest of a small body.
        Some(blocks) => lz4_blocks(blocks, max_bytes),
        // Nor does it mind a frame that ends between two blocks.
        None if lz4_end(body).is_none() => Err(lz4_corrupt(io::ErrorKind::UnexpectedEof.into())),
        None => Compression::Lz4.read_to_end(FrameDecoder::new(body), body.len(), max_bytes),
    }
}

#[cfg(feature = "lz4")]
fn lz4_corrupt(source: io::Error) -> CompressError {
    CompressError::Corrupt { compression: Compression::Lz4, source }
}

/// Steps over the blocks of a frame to its end: what is behind it, or nothing where the frame ends early.
#[cfg(feature = "lz4")]
fn lz4_end(frame: &[u8]) -> Option<&[u8]> {
    let [_, _, _, _, flags, ..] = frame else { return None };
    let bytes_if = |bit: u8, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
    let (content_size, dictionary) = (bytes_if(0x08, 8), bytes_if(0x01, 4));
    let (content_checksum, block_checksum) = (bytes_if(0x04, 4), bytes_if(0x10, 4));
    let mut rest = frame.get(LZ4_HEADER.len() + content_size + dictionary..)?;
    loop {
        let (size, blocks) = rest.split_first_chunk()?;
        match usize::try_from(u32::from_le_bytes(*size) & !LZ4_STORED).ok()? {
            0 => return blocks.get(content_checksum..),
            length => rest = blocks.get(length.checked_add(block_checksum)?..)?,
        }
    }
}

/// Reads blocks, each behind its size, up to the end mark.
#[cfg(feature = "lz4")]
fn lz4_blocks(mut rest: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    let ends_early = || lz4_corrupt(io::ErrorKind::UnexpectedEof.into());
    let mut out = Vec::new();
    loop {
        let (size, blocks) = rest.split_first_chunk().ok_or_else(ends_early)?;
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            out.shrink_to_fit();
            return Ok(out.into());
        }
        let length = usize::try_from(size & !LZ4_STORED).unwrap_or(usize::MAX);
        let (block, after) = blocks.split_at_checked(length).ok_or_else(ends_early)?;
        if size & LZ4_STORED == 0 {
            lz4_block(block, max_bytes, &mut out)?;
        } else if length <= max_bytes - out.len() {
            out.extend_from_slice(block);
        } else {
            return Err(CompressError::TooLarge { compression: Compression::Lz4, max_bytes });
        }
        rest = after;
    }
}

/// Decompresses one block. Nothing tells how large it becomes: what text needs is tried first, then more.
#[cfg(feature = "lz4")]
fn lz4_block(block: &[u8], max_bytes: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    use lz4_flex::block::{DecompressError, decompress_into};
    let start = out.len();
    let room = max_bytes - start;
    // A byte of the format stands for at most 255.
    let most = block.len().saturating_mul(255).min(LZ4_BLOCK_BYTES).min(room);
    let mut size = block.len().saturating_mul(4).min(most);
    loop {
        out.resize(start + size, 0);
        match decompress_into(block, &mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(DecompressError::OutputTooSmall { .. }) if size < most => size = size.saturating_mul(8).min(most),
            Err(DecompressError::OutputTooSmall { .. }) if size == room => {
                return Err(CompressError::TooLarge { compression: Compression::Lz4, max_bytes });
            }
            Err(error) => return Err(lz4_corrupt(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
    }
}

#[cfg(feature = "zstd")]
fn zstd_compress(level: u32, body: &[u8]) -> Result<Bytes, CompressError> {
    use std::io::Write;
    let level = i32::try_from(level).unwrap_or(i32::MAX).clamp(1, 22);
    // The streaming encoder, as in Java: the frame does not tell the size of its content.
    let encode = || {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
        encoder.write_all(body)?;
        encoder.finish()
    };
    encode().map(Bytes::from).map_err(|e| Compression::Zstd.encode_error(e))
}

fn zstd_decompress(body: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    let compression = Compression::Zstd;
    match zstd_decoder::decode(body, max_bytes) {
        Ok(mut out) => {
            out.shrink_to_fit();
            Ok(out.into())
        }
        Err(ZstdError::TooLarge) => Err(CompressError::TooLarge { compression, max_bytes }),
        Err(ZstdError::Corrupt(what)) => {
            let source = io::Error::new(io::ErrorKind::InvalidData, what);
            Err(CompressError::Corrupt { compression, source })
        }
    }
}

#[cfg(not(feature = "zlib"))]
fn zlib_compress(_: u32, _: &[u8]) -> Result<Bytes, CompressError> {
    Err(Compression::Zlib.not_built())
}

#[cfg(not(feature = "zlib"))]
fn zlib_decompress(_: &[u8], _: usize) -> Result<Bytes, CompressError> {
    Err(Compression::Zlib.not_built())
}

#[cfg(not(feature = "lz4"))]
fn lz4_compress(_: &[u8]) -> Result<Bytes, CompressError> {
    Err(Compression::Lz4.not_built())
}

#[cfg(not(feature = "lz4"))]
fn lz4_decompress(_: &[u8], _: usize) -> Result<Bytes, CompressError> {
    Err(Compression::Lz4.not_built())
}

#[cfg(not(feature = "zstd"))]
fn zstd_compress(_: u32, _: &[u8]) -> Result<Bytes, CompressError> {
    Err(Compression::Zstd.not_built())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 3] = [Compression::Zlib, Compression::Lz4, Compression::Zstd];

    #[test]
    fn the_system_flag_tells_the_compression() {
        assert_eq!(ALL.map(Compression::sys_flag_bits), [0x301, 0x101, 0x201]);
        for compression in ALL {
            assert_eq!(Compression::from_sys_flag(compression.sys_flag_bits() | 0xC), Some(Ok(compression)));
        }
        assert_eq!(Compression::from_sys_flag(0x300), None);
        assert_eq!(Compression::from_sys_flag(0x001), Some(Ok(Compression::Zlib)));
        assert_eq!(Compression::from_sys_flag(0x401), Some(Err(UnknownCompression { kind: 4 })));
        assert_eq!(Compression::from_sys_flag(-1), Some(Err(UnknownCompression { kind: 7 })));
    }

    #[cfg(not(any(feature = "zlib", feature = "lz4", feature = "zstd")))]
    #[test]
    fn what_is_not_built_in_says_so() {
        for (compression, name) in ALL.into_iter().zip(["zlib", "lz4", "zstd"]) {
            let error = compression.compress(5, b"x").unwrap_err();
            assert!(matches!(error, CompressError::NotBuilt { feature, .. } if feature == name));
            let is_built = matches!(compression.decompress(b"x", 9), Err(CompressError::Corrupt { .. }));
            assert_eq!(is_built, compression == Compression::Zstd, "{error}");
        }
    }

    #[cfg(all(feature = "zlib", feature = "lz4", feature = "zstd"))]
    mod built {
        use proptest::prelude::*;

        use super::*;
        use crate::message::goldens;

        const MAX: usize = 1 << 20;

        #[test]
        fn streams_of_java_are_read() {
            for (golden, compression) in [
                (goldens::SEND_ZLIB, Compression::Zlib),
                (goldens::SEND_LZ4, Compression::Lz4),
                (goldens::SEND_ZSTD, Compression::Zstd),
            ] {
                let sys_flag = goldens::head(golden)["extFields"]["f"].as_str().unwrap().parse().unwrap();
                assert_eq!(Compression::from_sys_flag(sys_flag), Some(Ok(compression)));
                let text = compression.decompress(&goldens::body(golden), MAX).unwrap();
                let text = std::str::from_utf8(&text).unwrap();
                assert!(text.starts_with("word360 word448 word29 word447 word15"), "{text}");
                assert!(text.ends_with(" word473 "), "{text}");
            }
        }

        #[test]
        fn streams_begin_as_those_of_java() {
            let body = b"word360 word448 ".repeat(400);
            let begins = |compression: Compression, bytes: &[u8]| {
                let stream = compression.compress(5, &body).unwrap();
                assert!(stream.starts_with(bytes), "{:02X?}", &stream[..8]);
            };
            begins(Compression::Zlib, &[0x78, 0x5E]);
            begins(Compression::Lz4, &[0x04, 0x22, 0x4D, 0x18, 0x60, 0x70, 0x73]);
            begins(Compression::Zstd, &[0x28, 0xB5, 0x2F, 0xFD, 0x00]);
        }

        #[test]
        fn a_bomb_is_stopped_at_the_limit() {
            for compression in ALL {
                let bomb = compression.compress(9, &vec![0; 8 << 20]).unwrap();
                assert!(bomb.len() < 64 << 10);
                assert!(matches!(
                    compression.decompress(&bomb, MAX),
                    Err(CompressError::TooLarge { max_bytes: MAX, .. })
                ));
                assert_eq!(compression.decompress(&bomb, 8 << 20).unwrap().len(), 8 << 20);
            }
        }

        #[test]
        fn a_stream_that_ends_early_or_is_none_is_corrupt() {
            for compression in ALL {
                let stream = compression.compress(5, &b"some text ".repeat(50)).unwrap();
                for length in 0..stream.len() {
                    let read = compression.decompress(&stream[..length], MAX);
                    assert!(matches!(read, Err(CompressError::Corrupt { .. })), "{compression} {length}: {read:?}");
                }
                assert!(matches!(compression.decompress(b"plain text", MAX), Err(CompressError::Corrupt { .. })));
            }
        }

        /// Other clients ask the LZ4 library for checksums, linked blocks or small ones.
        fn lz4_of_others(body: &[u8], mode: lz4_flex::frame::BlockMode) -> Vec<u8> {
            use std::io::Write;
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(mode)
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(body.len().try_into().unwrap()));
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }

        #[test]
        fn lz4_frames_with_other_options_are_read() {
            let body = b"some text ".repeat(20_000);
            for mode in [lz4_flex::frame::BlockMode::Independent, lz4_flex::frame::BlockMode::Linked] {
                let stream = lz4_of_others(&body, mode);
                assert_eq!(Compression::Lz4.decompress(&stream, body.len()).unwrap(), body);
                let limited = Compression::Lz4.decompress(&stream, body.len() - 1);
                assert!(matches!(limited, Err(CompressError::TooLarge { .. })));
                for length in (0..stream.len()).step_by(3).chain([15]) {
                    assert!(Compression::Lz4.decompress(&stream[..length], MAX).is_err(), "{length}");
                }
            }
        }

        #[test]
        fn lz4_frames_of_several_and_of_stored_blocks_are_read() {
            let text = b"some text ".repeat(900_000);
            let noise: Vec<u8> = (0..100_u32).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
            for body in [text, noise] {
                let stream = Compression::Lz4.compress(5, &body).unwrap();
                assert_eq!(Compression::Lz4.decompress(&stream, body.len()).unwrap(), body);
                let limited = Compression::Lz4.decompress(&stream, body.len() - 1);
                assert!(matches!(limited, Err(CompressError::TooLarge { .. })), "{limited:?}");
            }
        }

        #[test]
        fn any_level_is_taken() {
            for compression in ALL {
                for level in [0, 1, 9, 22, u32::MAX] {
                    let stream = compression.compress(level, b"text").unwrap();
                    assert_eq!(compression.decompress(&stream, 4).unwrap().as_ref(), b"text");
                }
            }
        }

        proptest! {
            // Each case builds an encoder of Zstandard, which is slow.
            #![proptest_config(ProptestConfig::with_cases(64))]

            #[test]
            fn a_body_reads_as_it_was_compressed(body in prop::collection::vec(prop_oneof![any::<u8>(), Just(0)], 0..3000)) {
                for compression in ALL {
                    let stream = compression.compress(5, &body).unwrap();
                    prop_assert_eq!(compression.decompress(&stream, body.len()).unwrap(), body.clone());
                    if let Some(less) = body.len().checked_sub(1) {
                        prop_assert!(compression.decompress(&stream, less).is_err());
                    }
                }
            }

            #[test]
            fn any_bytes_are_survived(
                body in prop::collection::vec(any::<u8>(), 0..64),
                flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..4),
            ) {
                for compression in ALL {
                    let _ = compression.decompress(&body, MAX);
                    let mut stream = compression.compress(5, &body).unwrap().to_vec();
                    for (at, bit) in &flips {
                        let at = at.index(stream.len());
                        stream[at] ^= 1 << bit;
                    }
                    let _ = compression.decompress(&stream, MAX);
                }
            }
        }
    }
}
