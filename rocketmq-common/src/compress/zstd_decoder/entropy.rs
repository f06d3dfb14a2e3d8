//! The two entropy codes: FSE (finite state entropy), and Huffman for literals.

use super::{
    Decoded, ZstdError,
    bits::{BackwardBits, ForwardBits},
    take, take_slice,
};

/// A table of finite state entropy.
#[derive(Clone, Debug)]
pub(super) struct Fse {
    states: Vec<State>,
    accuracy: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    symbol: u8,
    bits: u8,
    /// The next state before its bits are added.
    base: u16,
}

impl Fse {
    /// A table with one symbol, which costs no bits.
    pub(super) fn of_one(symbol: u8) -> Self {
        Self { states: vec![State { symbol, ..State::default() }], accuracy: 0 }
    }

    /// Reads a table: how probable each symbol is, up to `max_symbol`.
    pub(super) fn read(input: &mut &[u8], max_accuracy: u32, max_symbol: u8) -> Decoded<Self> {
        let mut bits = ForwardBits::new(input);
        let accuracy = bits.read(4)? + 5;
        if accuracy > max_accuracy {
            return Err(ZstdError::Corrupt("accuracy of a table"));
        }
        let mut left: i32 = 1 << accuracy;
        let mut probabilities: Vec<i16> = Vec::new();
        while left > 0 {
            if probabilities.len() > max_symbol.into() {
                return Err(ZstdError::Corrupt("too many symbols in a table"));
            }
            let width = (left + 1).ilog2() + 1;
            let value = i32::try_from(bits.read(usize::try_from(width).unwrap_or(0))?).unwrap_or(0);
            let low_mask = (1 << (width - 1)) - 1;
            let threshold = (1 << width) - 1 - (left + 1);
            let low = value & low_mask;
            let value = if low < threshold {
                // It fits one bit less.
                bits.unread();
                low
            } else if value > low_mask {
                value - threshold
            } else {
                value
            };
            let probability = value - 1;
            left -= probability.abs();
            probabilities.push(i16::try_from(probability).unwrap_or(0));
            if probability == 0 {
                loop {
                    let zeros = bits.read(2)?;
                    probabilities.extend((0..zeros).map(|_| 0));
                    if zeros != 3 {
                        break;
                    }
                }
            }
        }
        if left < 0 || probabilities.len() > usize::from(max_symbol) + 1 {
            return Err(ZstdError::Corrupt("probabilities of a table"));
        }
        *input = bits.rest();
        Self::of(accuracy, &probabilities)
    }

    /// Makes a table of probabilities, where -1 stands for less than one.
    pub(super) fn of(accuracy: u32, probabilities: &[i16]) -> Decoded<Self> {
        let corrupt = ZstdError::Corrupt("probabilities of a table");
        let size = 1_usize << accuracy;
        let mut states = vec![State::default(); size];
        let mut high = size;
        let symbols = || (0..=u8::MAX).zip(probabilities);
        for (symbol, _) in symbols().filter(|(_, probability)| **probability == -1) {
            high = high.checked_sub(1).ok_or(corrupt)?;
            states[high].symbol = symbol;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut at = 0;
        for (symbol, probability) in symbols() {
            for _ in 0..*probability {
                if at >= high {
                    return Err(corrupt);
                }
                states[at].symbol = symbol;
                // Ends: the step and the size have no factor in common, and the first place is below `high`.
                loop {
                    at = (at + step) & (size - 1);
                    if at < high || at == 0 {
                        break;
                    }
                }
            }
        }
        if at != 0 {
            return Err(corrupt);
        }
        let mut next: Vec<u32> = probabilities.iter().map(|count| u32::from(count.unsigned_abs())).collect();
        for state in &mut states {
            let next = next.get_mut(usize::from(state.symbol)).ok_or(corrupt)?;
            let bits = accuracy.checked_sub(next.checked_ilog2().ok_or(corrupt)?).ok_or(corrupt)?;
            let base = usize::try_from(*next << bits).ok().and_then(|base| base.checked_sub(size)).ok_or(corrupt)?;
            state.bits = u8::try_from(bits).map_err(|_| corrupt)?;
            state.base = u16::try_from(base).map_err(|_| corrupt)?;
            *next += 1;
        }
        Ok(Self { states, accuracy })
    }

    pub(super) fn start(&self, bits: &mut BackwardBits<'_>) -> usize {
        usize::try_from(bits.read(self.accuracy)).unwrap_or(0)
    }

    pub(super) fn symbol(&self, state: usize) -> u8 {
        self.states[state].symbol
    }

    pub(super) fn next(&self, state: usize, bits: &mut BackwardBits<'_>) -> usize {
        let State { bits: count, base, .. } = self.states[state];
        usize::from(base) + usize::try_from(bits.read(count.into())).unwrap_or(0)
    }
}

/// A Huffman code of literals.
#[derive(Clone, Debug)]
pub(super) struct Huffman {
    /// By the next `width` bits: the symbol, and the bits it takes.
    entries: Vec<(u8, u8)>,
    width: u32,
}

impl Huffman {
    /// Reads the weights of the symbols; that of the last is what the others leave.
    pub(super) fn read(input: &mut &[u8]) -> Decoded<Self> {
        let [header] = *take(input, "Huffman table")?;
        let weights = match header.checked_sub(127) {
            Some(count) if count > 0 => {
                let bytes = take_slice(input, usize::from(count).div_ceil(2), "Huffman weights")?;
                let both = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                both.take(count.into()).collect()
            }
            _ => compressed_weights(take_slice(input, header.into(), "Huffman weights")?)?,
        };
        Self::of(weights)
    }

    fn of(mut weights: Vec<u8>) -> Decoded<Self> {
        let corrupt = ZstdError::Corrupt("Huffman weights");
        if weights.len() > 255 || weights.iter().any(|weight| u32::from(*weight) > MAX_WIDTH) {
            return Err(corrupt);
        }
        let sum: u32 = weights.iter().filter(|weight| **weight > 0).map(|weight| 1 << (weight - 1)).sum();
        let width = sum.checked_ilog2().ok_or(corrupt)? + 1;
        let left = (1 << width) - sum;
        if width > MAX_WIDTH || !left.is_power_of_two() {
            return Err(corrupt);
        }
        weights.push(u8::try_from(left.ilog2() + 1).map_err(|_| corrupt)?);
        let mut entries = Vec::with_capacity(1 << width);
        for weight in 1..=u8::try_from(width).map_err(|_| corrupt)? {
            for (symbol, _) in (0..=u8::MAX).zip(&weights).filter(|(_, of_symbol)| **of_symbol == weight) {
                let bits = u8::try_from(width + 1).map_err(|_| corrupt)? - weight;
                entries.resize(entries.len() + (1 << (weight - 1)), (symbol, bits));
            }
        }
        if entries.len() != 1 << width { Err(corrupt) } else { Ok(Self { entries, width }) }
    }

    /// Decodes a stream of so many literals.
    pub(super) fn decode(&self, stream: &[u8], count: usize, literals: &mut Vec<u8>) -> Decoded<()> {
        let mut bits = BackwardBits::new(stream)?;
        for _ in 0..count {
            let (symbol, length) = self.entries[usize::try_from(bits.peek(self.width)).unwrap_or(0)];
            bits.skip(length.into());
            literals.push(symbol);
        }
        bits.end()
    }
}

/// Weights that are themselves coded, by two states in turn.
fn compressed_weights(mut input: &[u8]) -> Decoded<Vec<u8>> {
    let fse = Fse::read(&mut input, 6, 12)?;
    let mut bits = BackwardBits::new(input)?;
    let (mut state, mut other) = (fse.start(&mut bits), fse.start(&mut bits));
    let mut weights = Vec::new();
    if bits.is_overrun() {
        return Err(ZstdError::Corrupt("Huffman weights"));
    }
    loop {
        weights.push(fse.symbol(state));
        state = fse.next(state, &mut bits);
        if bits.is_overrun() {
            // The other state holds the last symbol.
            weights.push(fse.symbol(other));
            return Ok(weights);
        }
        // A table of one symbol costs no bits, and would go on without end.
        if weights.len() > 255 {
            return Err(ZstdError::Corrupt("Huffman weights"));
        }
        std::mem::swap(&mut state, &mut other);
    }
}

/// Most bits of a Huffman code.
const MAX_WIDTH: u32 = 11;
