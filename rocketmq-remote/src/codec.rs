mod binary;
mod json;
mod scan;

use crate::{Command, DecodeError, EncodeError};
use bytes::{Buf, BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The largest frame RocketMQ peers accept, its length word included: 16 MiB.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// How the head of a frame is written.
///
/// # Protocol
/// The type byte before the head: 0 JSON, 1 binary. A peer may answer in the other encoding than it was asked in, so
/// the decoder goes by the byte of each frame. Java: `SerializeType`. Witness: tests in `codec::golden`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadEncoding {
    /// A JSON object.
    #[default]
    Json,
    /// Java's ROCKETMQ layout: shorter; 16 bits for the code, and no empty values.
    Binary,
}

/// The frame as a tokio-util codec: a length word, the head's type and length, the head, the body.
///
/// A decoded body is a slice of the buffer it was read into; nothing is copied. The encoder writes the head as the
/// command says, except that a code which does not fit the binary head is written as JSON.
#[derive(Clone, Debug)]
pub struct CommandCodec {
    max_frame_bytes: usize,
}

impl Default for CommandCodec {
    fn default() -> Self {
        Self::new(MAX_FRAME_BYTES)
    }
}

impl CommandCodec {
    /// A codec that refuses frames larger than `max_frame_bytes`, in both directions; at most [`MAX_FRAME_BYTES`].
    pub fn new(max_frame_bytes: usize) -> Self {
        Self { max_frame_bytes: max_frame_bytes.min(MAX_FRAME_BYTES) }
    }

    /// Writes all of the frame but its body; the length word counts the body. On an error `out` is as before.
    ///
    /// # Errors
    /// Where the frame would be too large or the head cannot be written.
    pub fn encode_head(&self, command: &Command, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        out.put_u64(0); // the length words, known once the head is written
        let kind = self.put_head(command, out).inspect_err(|_| out.truncate(start))?;
        let head = out.len() - start - LENGTHS;
        let length = LENGTHS + head + command.body.len();
        if length > self.max_frame_bytes {
            out.truncate(start);
            return Err(EncodeError::TooLarge { length, limit: self.max_frame_bytes });
        }
        // Both fit: the frame is at most 16 MiB.
        let after_length_word = u32::try_from(length - 4).unwrap_or(u32::MAX);
        let head = u32::try_from(head).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&after_length_word.to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&(u32::from(kind) << 24 | head).to_be_bytes());
        Ok(())
    }

    fn put_head(&self, command: &Command, out: &mut BytesMut) -> Result<u8, EncodeError> {
        let fits_binary = i16::try_from(command.code).is_ok();
        match command.encoding {
            HeadEncoding::Binary if fits_binary => binary::put(command, out).map(|()| BINARY),
            _ => {
                json::put(command, out);
                Ok(JSON)
            }
        }
    }
}

/// Takes a frame of `length` bytes, which are there, out of `source`. Where nothing of it is kept it is only passed over.
fn read_frame(source: &mut BytesMut, length: usize) -> Result<Command, DecodeError> {
    let word = source.get(4..LENGTHS).ok_or(DecodeError::BinaryHead)?;
    let (kind, head) = (word[0], usize::from(word[1]) << 16 | usize::from(word[2]) << 8 | usize::from(word[3]));
    let body_at = LENGTHS + head;
    if body_at > length {
        return Err(DecodeError::HeadLength { head, frame: length });
    }
    let mut command = match kind {
        JSON => {
            let command = json::read(&source[LENGTHS..body_at])?;
            source.advance(body_at);
            command
        }
        BINARY => binary::read(source.split_to(body_at).freeze().slice(LENGTHS..))?,
        other => return Err(DecodeError::HeadEncoding(other)),
    };
    if body_at < length {
        command.body = source.split_to(length - body_at).freeze();
    }
    Ok(command)
}

impl Decoder for CommandCodec {
    type Item = Command;
    type Error = DecodeError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Command>, DecodeError> {
        let Some(word) = source.first_chunk::<4>() else { return Ok(None) };
        let word = i32::from_be_bytes(*word);
        let length = match usize::try_from(word) {
            Ok(length) if length >= 4 => length + 4,
            _ => return Err(DecodeError::Length(word)),
        };
        if length > self.max_frame_bytes {
            return Err(DecodeError::TooLarge { length, limit: self.max_frame_bytes });
        }
        if source.len() < length {
            source.reserve(length - source.len());
            return Ok(None);
        }
        read_frame(source, length).map(Some)
    }
}

impl Encoder<Command> for CommandCodec {
    type Error = EncodeError;

    fn encode(&mut self, command: Command, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_head(&command, out)?;
        out.extend_from_slice(&command.body);
        Ok(())
    }
}

const LENGTHS: usize = 8;
const JSON: u8 = 0;
const BINARY: u8 = 1;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
