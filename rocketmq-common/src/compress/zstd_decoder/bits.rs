//! Bit streams: forward for tables, backward for what they code.

use super::{Decoded, ZstdError};

/// Reads from the last bit of a stream to its first. Before the first bit there are zeros.
pub(super) struct BackwardBits<'a> {
    bytes: &'a [u8],
    /// Bits that are left; below 0 once more were read than there are.
    left: isize,
}

impl<'a> BackwardBits<'a> {
    /// The highest bit that is set in the last byte marks the end of the stream.
    pub(super) fn new(bytes: &'a [u8]) -> Decoded<Self> {
        let last = bytes.last().copied().filter(|last| *last != 0).ok_or(ZstdError::Corrupt("end of a bit stream"))?;
        let bits = bytes.len() * 8 - 1 - usize::try_from(last.leading_zeros()).unwrap_or(0);
        Ok(Self { bytes, left: isize::try_from(bits).map_err(|_| ZstdError::Corrupt("bit stream"))? })
    }

    /// The next bits, up to 32, without passing them.
    pub(super) fn peek(&self, count: u32) -> u32 {
        let count = count.min(32);
        let from = self.left - isize::try_from(count).unwrap_or(0);
        let mask = (1_u64 << count) - 1;
        let window = match usize::try_from(from) {
            Ok(from) => self.load(from / 8) >> (from % 8),
            // The zeros stand for the bits that are missing.
            Err(_) if self.left > 0 => self.load(0) << from.unsigned_abs(),
            Err(_) => 0,
        };
        u32::try_from(window & mask).unwrap_or(0)
    }

    pub(super) fn skip(&mut self, count: u32) {
        self.left -= isize::try_from(count).unwrap_or(0);
    }

    pub(super) fn read(&mut self, count: u32) -> u32 {
        let value = self.peek(count);
        self.skip(count);
        value
    }

    /// Whether more bits were read than there are.
    pub(super) fn is_overrun(&self) -> bool {
        self.left < 0
    }

    /// Checks that all bits were read and no more.
    pub(super) fn end(&self) -> Decoded<()> {
        if self.left == 0 { Ok(()) } else { Err(ZstdError::Corrupt("length of a bit stream")) }
    }

    fn load(&self, at: usize) -> u64 {
        let rest = self.bytes.get(at..).unwrap_or_default();
        match rest.first_chunk() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => super::little_endian(rest),
        }
    }
}

/// Reads from the first bit of a stream on.
pub(super) struct ForwardBits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ForwardBits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads up to 16 bits.
    pub(super) fn read(&mut self, count: usize) -> Decoded<u32> {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let window = super::little_endian(rest.get(..4).unwrap_or(rest));
        if self.at + count > self.bytes.len() * 8 {
            return Err(ZstdError::Corrupt("table ends early"));
        }
        let value = window >> (self.at % 8) & ((1 << count) - 1);
        self.at += count;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Puts the last bit back.
    pub(super) fn unread(&mut self) {
        self.at -= 1;
    }

    /// What begins with the next whole byte.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at.div_ceil(8)..).unwrap_or_default()
    }
}
