//! Sequences: how many literals are copied, and what is repeated after them.

use super::{Decoded, Output, ZstdError, bits::BackwardBits, entropy::Fse, take};

/// The tables of the last block, and the offsets of the last matches.
#[derive(Debug)]
pub(super) struct Sequences {
    literal_lengths: Option<Fse>,
    offsets: Option<Fse>,
    match_lengths: Option<Fse>,
    last_offsets: [usize; 3],
}

impl Default for Sequences {
    fn default() -> Self {
        Self { literal_lengths: None, offsets: None, match_lengths: None, last_offsets: [1, 4, 8] }
    }
}

impl Sequences {
    /// Decodes the sequences section of a block and writes the block.
    pub(super) fn execute(&mut self, mut input: &[u8], mut literals: &[u8], output: &mut Output) -> Decoded<()> {
        let count = read_count(&mut input)?;
        if count == 0 {
            return match input {
                [] => output.push(literals),
                _ => Err(ZstdError::Corrupt("bytes after a block")),
            };
        }
        let [modes] = *take(&mut input, "modes of sequences")?;
        if modes & 3 != 0 {
            return Err(ZstdError::Corrupt("modes of sequences"));
        }
        read_table(&mut self.literal_lengths, modes >> 6, &LITERAL_LENGTHS, &mut input)?;
        read_table(&mut self.offsets, modes >> 4 & 3, &OFFSETS, &mut input)?;
        read_table(&mut self.match_lengths, modes >> 2 & 3, &MATCH_LENGTHS, &mut input)?;
        let (Some(literal_lengths), Some(offsets), Some(match_lengths)) =
            (&self.literal_lengths, &self.offsets, &self.match_lengths)
        else {
            return Err(ZstdError::Corrupt("no table of sequences"));
        };
        let mut bits = BackwardBits::new(input)?;
        let mut literal_state = literal_lengths.start(&mut bits);
        let mut offset_state = offsets.start(&mut bits);
        let mut match_state = match_lengths.start(&mut bits);
        for left in (0..count).rev() {
            let offset_code = u32::from(offsets.symbol(offset_state));
            let offset_value = (1_u64 << offset_code) + u64::from(bits.read(offset_code));
            let match_length = read_length(&MATCH_CODES, match_lengths.symbol(match_state), &mut bits)?;
            let literal_length = read_length(&LITERAL_CODES, literal_lengths.symbol(literal_state), &mut bits)?;
            if left > 0 {
                literal_state = literal_lengths.next(literal_state, &mut bits);
                match_state = match_lengths.next(match_state, &mut bits);
                offset_state = offsets.next(offset_state, &mut bits);
            }
            if bits.is_overrun() {
                return Err(ZstdError::Corrupt("sequences end early"));
            }
            let (copied, rest) =
                literals.split_at_checked(literal_length).ok_or(ZstdError::Corrupt("length of literals"))?;
            literals = rest;
            output.push(copied)?;
            let offset = next_offset(&mut self.last_offsets, offset_value, literal_length == 0)?;
            output.push_match(offset, match_length)?;
        }
        bits.end()?;
        output.push(literals)
    }
}

fn read_count(input: &mut &[u8]) -> Decoded<usize> {
    let what = "count of sequences";
    Ok(match *take(input, what)? {
        [low @ 0..128] => low.into(),
        [255] => usize::from(u16::from_le_bytes(*take(input, what)?)) + 0x7F00,
        [high] => usize::from(high - 128) * 256 + usize::from(take::<1>(input, what)?[0]),
    })
}

fn read_table(table: &mut Option<Fse>, mode: u8, kind: &Kind, input: &mut &[u8]) -> Decoded<()> {
    *table = Some(match mode {
        0 => Fse::of(kind.default_accuracy, kind.defaults)?,
        1 => {
            let [symbol] = *take(input, "symbol of sequences")?;
            if symbol > kind.max_symbol {
                return Err(ZstdError::Corrupt("symbol of sequences"));
            }
            Fse::of_one(symbol)
        }
        2 => Fse::read(input, kind.max_accuracy, kind.max_symbol)?,
        // As in the block before.
        _ => return Ok(()),
    });
    Ok(())
}

fn read_length(codes: &[(u32, u8)], code: u8, bits: &mut BackwardBits<'_>) -> Decoded<usize> {
    let (base, extra) = *codes.get(usize::from(code)).ok_or(ZstdError::Corrupt("length code"))?;
    usize::try_from(base + bits.read(extra.into())).map_err(|_| ZstdError::Corrupt("length code"))
}

/// The first three values stand for the last offsets; without literals they are one further on.
fn next_offset(last: &mut [usize; 3], value: u64, no_literals: bool) -> Decoded<usize> {
    let value = usize::try_from(value).map_err(|_| ZstdError::Corrupt("match offset"))?;
    let [first, second, third] = *last;
    match (value, no_literals) {
        (1, false) => return Ok(first),
        (2, false) | (1, true) => *last = [second, first, third],
        (3, false) | (2, true) => *last = [third, first, second],
        (3, true) => *last = [first - 1, first, second],
        _ => *last = [value - 3, first, second],
    }
    // Never 0 twice: a match without an offset ends the stream as corrupt.
    if last[0] == 0 { Err(ZstdError::Corrupt("match offset")) } else { Ok(last[0]) }
}

/// What is fixed for the tables of one kind.
struct Kind {
    max_accuracy: u32,
    max_symbol: u8,
    default_accuracy: u32,
    defaults: &'static [i16],
}

const LITERAL_LENGTHS: Kind = Kind {
    max_accuracy: 9,
    max_symbol: 35,
    default_accuracy: 6,
    defaults: &[
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1,
    ],
};
const OFFSETS: Kind = Kind {
    max_accuracy: 8,
    max_symbol: 31,
    default_accuracy: 5,
    defaults: &[1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1],
};
const MATCH_LENGTHS: Kind = Kind {
    max_accuracy: 9,
    max_symbol: 52,
    default_accuracy: 6,
    defaults: &[
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
};

/// By code: the least length, and the bits that are added to it.
const LITERAL_CODES: [(u32, u8); 36] = codes(
    0,
    16,
    [
        (16, 1),
        (18, 1),
        (20, 1),
        (22, 1),
        (24, 2),
        (28, 2),
        (32, 3),
        (40, 3),
        (48, 4),
        (64, 6),
        (128, 7),
        (256, 8),
        (512, 9),
        (1024, 10),
        (2048, 11),
        (4096, 12),
        (8192, 13),
        (16384, 14),
        (32768, 15),
        (65536, 16),
        (0, 0),
    ],
);
const MATCH_CODES: [(u32, u8); 53] = codes(
    3,
    32,
    [
        (35, 1),
        (37, 1),
        (39, 1),
        (41, 1),
        (43, 2),
        (47, 2),
        (51, 3),
        (59, 3),
        (67, 4),
        (83, 4),
        (99, 5),
        (131, 7),
        (259, 8),
        (515, 9),
        (1027, 10),
        (2051, 11),
        (4099, 12),
        (8195, 13),
        (16387, 14),
        (32771, 15),
        (65539, 16),
    ],
);

/// The codes below `first` stand for one length each, from `least` on; the others are given.
const fn codes<const N: usize>(least: u32, first: usize, others: [(u32, u8); 21]) -> [(u32, u8); N] {
    let mut codes = [(0, 0); N];
    let (mut code, mut length) = (0, least);
    while code < N {
        codes[code] = if code < first { (length, 0) } else { others[code - first] };
        code += 1;
        length += 1;
    }
    codes
}
