//! The binary head. Java: `RocketMQSerializable`.

use crate::{Command, DecodeError, EncodeError, ExtFields, HeadEncoding, LanguageCode};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Writes the head.
pub(super) fn put(command: &Command, out: &mut BytesMut) -> Result<(), EncodeError> {
    let code = i16::try_from(command.code).map_err(|_| EncodeError::CodeRange(command.code))?;
    if let Some((name, _)) = command.fields.iter().find(|(_, value)| value.is_empty()) {
        return Err(EncodeError::EmptyValue { name: name.to_owned() });
    }
    out.put_i16(code);
    out.put_u8(command.language.0);
    out.put_i16(i16::try_from(command.version).unwrap_or(i16::MAX));
    out.put_i32(command.opaque);
    out.put_i32(command.flag);
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
pub(super) fn read(mut head: Bytes) -> Result<Command, DecodeError> {
    if head.len() < FIXED {
        return Err(DecodeError::BinaryHead);
    }
    let code = i32::from(head.get_i16());
    let language = LanguageCode(head.get_u8());
    let version = i32::from(head.get_i16());
    let opaque = head.get_i32();
    let flag = head.get_i32();
    let remark = match take_sized(&mut head)? {
        empty if empty.is_empty() => None,
        remark => Some(String::from_utf8_lossy(&remark).into_owned()),
    };
    let fields = ExtFields::from_frame(take_sized(&mut head)?)?;
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

fn take_sized(head: &mut Bytes) -> Result<Bytes, DecodeError> {
    if head.len() < 4 {
        return Err(DecodeError::BinaryHead);
    }
    let length = usize::try_from(head.get_i32()).map_err(|_| DecodeError::BinaryHead)?;
    if length > head.len() {
        return Err(DecodeError::BinaryHead);
    }
    Ok(head.split_to(length))
}

/// Code, language, version, opaque, flag.
const FIXED: usize = 2 + 1 + 2 + 4 + 4;
