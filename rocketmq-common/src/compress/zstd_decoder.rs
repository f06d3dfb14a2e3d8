//! A decoder of Zstandard frames (RFC 8878) in safe Rust, which never writes more than it may.
//!
//! A consumer meets what producers choose to send, so this decoder is always built in and needs no C compiler. The output
//! is limited while a block is decoded and not between blocks: a block of 128 KiB can be made to claim gigabytes.
//!
//! No library is used because none meets all of this. `zstd` needs a C compiler. `ruzstd` before 0.9 does not bound what one
//! block writes, so that its 128 KiB may become gigabytes before the limit is checked, and asserts on some damaged input;
//! 0.9 needs Rust 1.87.
//!
//! Dictionaries are not supported. A content checksum is skipped and not verified: Java clients write neither. The content is
//! checked by its size where the frame tells it, and by nothing else unless [`DecodeLimits::verify_crc`] is set: then the body
//! CRC of the record covers the compressed bytes. It is not set by default, as in Java.
//!
//! [`DecodeLimits::verify_crc`]: crate::message::DecodeLimits::verify_crc

mod bits;
mod entropy;
mod sequences;

use entropy::Huffman;
use sequences::Sequences;

/// Why a stream cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZstdError {
    /// The content is larger than allowed.
    TooLarge,
    /// The stream is damaged, ends early, or is none.
    Corrupt(&'static str),
}

type Decoded<T> = Result<T, ZstdError>;

/// Decodes all frames of a stream into at most `max_bytes`.
pub(super) fn decode(mut input: &[u8], max_bytes: usize) -> Decoded<Vec<u8>> {
    let mut output = Output { bytes: Vec::new(), max_bytes, frame_start: 0, block_start: 0 };
    loop {
        let magic = u32::from_le_bytes(*take(&mut input, "magic")?);
        if magic & !0xF == SKIPPABLE {
            let length = u32::from_le_bytes(*take(&mut input, "skippable frame")?);
            take_slice(&mut input, usize::try_from(length).unwrap_or(usize::MAX), "skippable frame")?;
        } else if magic == MAGIC {
            decode_frame(&mut input, &mut output)?;
        } else {
            return Err(ZstdError::Corrupt("not a Zstandard frame"));
        }
        if input.is_empty() {
            return Ok(output.bytes);
        }
    }
}

fn decode_frame(input: &mut &[u8], output: &mut Output) -> Decoded<()> {
    let [descriptor] = *take(input, "frame header")?;
    if descriptor & 0x08 != 0 {
        return Err(ZstdError::Corrupt("reserved bit of the frame header"));
    }
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        // The window only limits how far back matches reach. All output is kept, so it does not matter here.
        take::<1>(input, "window descriptor")?;
    }
    let dictionary = little_endian(take_slice(input, [0, 1, 2, 4][usize::from(descriptor & 3)], "dictionary id")?);
    if dictionary != 0 {
        return Err(ZstdError::Corrupt("the frame needs a dictionary"));
    }
    let content_size = match descriptor >> 6 {
        0 if !is_single_segment => None,
        0 => Some(little_endian(take_slice(input, 1, "content size")?)),
        1 => Some(little_endian(take_slice(input, 2, "content size")?) + 256),
        2 => Some(little_endian(take_slice(input, 4, "content size")?)),
        _ => Some(little_endian(take_slice(input, 8, "content size")?)),
    };
    output.frame_start = output.bytes.len();
    if content_size.is_some_and(|size| usize::try_from(size).map_or(true, |size| size > output.room())) {
        return Err(ZstdError::TooLarge);
    }
    let mut tables = Tables { huffman: None, sequences: Sequences::default() };
    loop {
        let [a, b, c] = *take(input, "block header")?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let size = usize::try_from(header >> 3).unwrap_or(usize::MAX);
        if size > MAX_BLOCK_BYTES {
            return Err(ZstdError::Corrupt("block size"));
        }
        output.block_start = output.bytes.len();
        match header >> 1 & 3 {
            0 => output.push(take_slice(input, size, "block")?)?,
            1 => {
                let [byte] = *take(input, "block")?;
                output.push_repeated(byte, size)?;
            }
            2 => decode_block(take_slice(input, size, "block")?, &mut tables, output)?,
            _ => return Err(ZstdError::Corrupt("block type")),
        }
        if header & 1 != 0 {
            break;
        }
    }
    if descriptor & 0x04 != 0 {
        take::<4>(input, "content checksum")?;
    }
    let written = u64::try_from(output.bytes.len() - output.frame_start).unwrap_or(u64::MAX);
    if content_size.is_some_and(|size| size != written) {
        return Err(ZstdError::Corrupt("content size"));
    }
    Ok(())
}

/// What a block may take over from the blocks of its frame before it.
struct Tables {
    huffman: Option<Huffman>,
    sequences: Sequences,
}

fn decode_block(mut input: &[u8], tables: &mut Tables, output: &mut Output) -> Decoded<()> {
    let literals = decode_literals(&mut input, &mut tables.huffman)?;
    tables.sequences.execute(input, &literals, output)
}

fn decode_literals(input: &mut &[u8], known: &mut Option<Huffman>) -> Decoded<Vec<u8>> {
    let first = *input.first().ok_or(ZstdError::Corrupt("literals header"))?;
    let size_format = first >> 2 & 3;
    let to_size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    if first & 2 == 0 {
        let (header_bytes, shift) = match size_format {
            0 | 2 => (1, 3),
            1 => (2, 4),
            _ => (3, 4),
        };
        let size = to_size(little_endian(take_slice(input, header_bytes, "literals header")?) >> shift);
        check_literals(size)?;
        return Ok(match first & 1 {
            0 => take_slice(input, size, "literals")?.to_vec(),
            _ => vec![take::<1>(input, "literals")?[0]; size],
        });
    }
    let (header_bytes, size_bits, is_single_stream) = match size_format {
        0 => (3, 10, true),
        1 => (3, 10, false),
        2 => (4, 14, false),
        _ => (5, 18, false),
    };
    let header = little_endian(take_slice(input, header_bytes, "literals header")?);
    let size_of = |shift: u32| to_size(header >> shift & ((1 << size_bits) - 1));
    let (size, compressed) = (size_of(4), size_of(4 + size_bits));
    check_literals(size)?;
    let mut streams = take_slice(input, compressed, "literals")?;
    if first & 1 == 0 {
        *known = Some(Huffman::read(&mut streams)?);
    }
    let huffman = known.as_ref().ok_or(ZstdError::Corrupt("literals without a Huffman table"))?;
    let mut literals = Vec::with_capacity(size);
    if is_single_stream {
        huffman.decode(streams, size, &mut literals)?;
        return Ok(literals);
    }
    let [a0, a1, b0, b1, c0, c1] = *take(&mut streams, "jump table")?;
    let each = size.div_ceil(4);
    for stream in [[a0, a1], [b0, b1], [c0, c1]] {
        let stream = take_slice(&mut streams, u16::from_le_bytes(stream).into(), "literals stream")?;
        huffman.decode(stream, each, &mut literals)?;
    }
    let rest = size.checked_sub(literals.len()).ok_or(ZstdError::Corrupt("literals size"))?;
    huffman.decode(streams, rest, &mut literals)?;
    Ok(literals)
}

fn check_literals(size: usize) -> Decoded<()> {
    if size > MAX_BLOCK_BYTES { Err(ZstdError::Corrupt("literals size")) } else { Ok(()) }
}

/// The decoded bytes, and how many there may be.
struct Output {
    bytes: Vec<u8>,
    max_bytes: usize,
    /// Matches do not reach back beyond this.
    frame_start: usize,
    block_start: usize,
}

impl Output {
    fn room(&self) -> usize {
        self.max_bytes - self.bytes.len()
    }

    fn check(&self, count: usize) -> Decoded<()> {
        if self.bytes.len() - self.block_start + count > MAX_BLOCK_BYTES {
            return Err(ZstdError::Corrupt("block size"));
        }
        if count > self.room() { Err(ZstdError::TooLarge) } else { Ok(()) }
    }

    fn push(&mut self, bytes: &[u8]) -> Decoded<()> {
        self.check(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn push_repeated(&mut self, byte: u8, count: usize) -> Decoded<()> {
        self.check(count)?;
        self.bytes.resize(self.bytes.len() + count, byte);
        Ok(())
    }

    /// Copies what stands `offset` bytes back; the copy may overlap itself.
    fn push_match(&mut self, offset: usize, length: usize) -> Decoded<()> {
        self.check(length)?;
        if offset == 0 || offset > self.bytes.len() - self.frame_start {
            return Err(ZstdError::Corrupt("match offset"));
        }
        let start = self.bytes.len() - offset;
        let mut left = length;
        while left > 0 {
            // Doubles with each turn, since what was copied repeats what stands before it.
            let chunk = left.min(self.bytes.len() - start);
            self.bytes.extend_from_within(start..start + chunk);
            left -= chunk;
        }
        Ok(())
    }
}

fn take<'a, const N: usize>(input: &mut &'a [u8], what: &'static str) -> Decoded<&'a [u8; N]> {
    let (taken, rest) = input.split_first_chunk().ok_or(ZstdError::Corrupt(what))?;
    *input = rest;
    Ok(taken)
}

fn take_slice<'a>(input: &mut &'a [u8], count: usize, what: &'static str) -> Decoded<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count).ok_or(ZstdError::Corrupt(what))?;
    *input = rest;
    Ok(taken)
}

/// Up to eight bytes as a number.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE: u32 = 0x184D_2A50;
const MAX_BLOCK_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests;
