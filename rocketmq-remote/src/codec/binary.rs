//! The binary head. Java: `RocketMQSerializable`.

use crate::{Command, DecodeError, EncodeError, ExtFields, HeadEncoding, LanguageCode};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Writes the head.
pub(super) fn put(command: &Command, out: &mut BytesMut) -> Result<(), EncodeError> {
    let code = i16::try_from(command.code).map_err(|_| EncodeError::CodeRange(command.code))?;
    if let Some((name, _)) = command.fields.iter_bytes().find(|(_, value)| value.is_empty()) {
        return Err(EncodeError::EmptyValue { name: String::from_utf8_lossy(name).into_owned() });
    }
    let version = i16::try_from(command.version).unwrap_or(i16::MAX);
    let mut fixed = [0; FIXED];
    fixed[..2].copy_from_slice(&code.to_be_bytes());
    fixed[2] = command.language.0;
    fixed[3..5].copy_from_slice(&version.to_be_bytes());
    fixed[5..9].copy_from_slice(&command.opaque.to_be_bytes());
    fixed[9..].copy_from_slice(&command.flag.to_be_bytes());
    out.extend_from_slice(&fixed);
    put_sized(command.remark.as_deref().unwrap_or_default().as_bytes(), out)?;
    put_sized(command.fields.as_bytes(), out)
}

fn put_sized(bytes: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    let length = i32::try_from(bytes.len())
        .map_err(|_| EncodeError::TooLarge { length: bytes.len(), limit: super::MAX_FRAME_BYTES })?;
    out.put_i32(length);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Reads the head; the fields stay a slice of it.
pub(super) fn read(head: Bytes) -> Result<Command, DecodeError> {
    let mut rest = &head[..];
    if rest.len() < FIXED {
        return Err(DecodeError::BinaryHead);
    }
    let code = i32::from(rest.get_i16());
    let language = LanguageCode(rest.get_u8());
    let version = i32::from(rest.get_i16());
    let opaque = rest.get_i32();
    let flag = rest.get_i32();
    let remark = match take_sized(&mut rest)? {
        [] => None,
        remark => Some(String::from_utf8_lossy(remark).into_owned()),
    };
    let fields = match take_sized(&mut rest)? {
        [] => ExtFields::default(),
        fields => ExtFields::from_frame(head.slice_ref(fields))?,
    };
    Ok(Command {
        code,
        language,
        version,
        opaque,
        flag,
        remark,
        fields,
        body: Bytes::new(),
        encoding: HeadEncoding::Binary,
    })
}

fn take_sized<'a>(head: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let (length, rest) = head.split_first_chunk::<4>().ok_or(DecodeError::BinaryHead)?;
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| DecodeError::BinaryHead)?;
    let (taken, rest) = rest.split_at_checked(length).ok_or(DecodeError::BinaryHead)?;
    *head = rest;
    Ok(taken)
}

/// Code, language, version, opaque, flag.
const FIXED: usize = 2 + 1 + 2 + 4 + 4;
