//! The JSON head. Java: `RemotingSerializable`, fastjson.

use super::scan::{self, first, is_special, special};
use crate::{Command, DecodeError, ExtFields, HeadEncoding, JsonError, LanguageCode};
use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Unexpected, Visitor};
use std::{borrow::Cow, fmt};

/// Writes the head.
pub(super) fn put(command: &Command, out: &mut BytesMut) {
    // Written into a slice that is long enough for all: asking for room at every piece costs more than the rest.
    let start = out.len();
    let remark = command.remark.as_deref().unwrap_or_default().as_bytes();
    out.resize(start + HEAD_CAPACITY + escaped_length(remark) + escaped_length(command.fields.as_bytes()), 0);
    let mut text = Text { out: &mut out[start..], length: 0 };
    text.put(b"{\"code\":");
    text.put_number(command.code);
    text.put(b",\"language\":\"");
    text.put(command.language.name().as_bytes());
    text.put(b"\",\"version\":");
    text.put_number(command.version);
    text.put(b",\"opaque\":");
    text.put_number(command.opaque);
    text.put(b",\"flag\":");
    text.put_number(command.flag);
    if command.remark.is_some() {
        text.put(b",\"remark\":\"");
        text.put_escaped(remark);
        text.put(b"\"");
    }
    if !command.fields.is_empty() {
        let mut before = b",\"extFields\":{\"".as_slice();
        for (name, value) in command.fields.iter_bytes() {
            text.put(before);
            text.put_escaped(name);
            text.put(b"\":\"");
            text.put_escaped(value);
            before = b"\",\"";
        }
        text.put(b"\"}");
    }
    text.put(b"}");
    let length = text.length;
    out.truncate(start + length);
}

/// What `text` takes at most: a special byte becomes six. The two lengths of a field hold six special bytes or other
/// bytes, more than the marks around name and value.
fn escaped_length(text: &[u8]) -> usize {
    // Counted in bytes, as far as these reach: that is done many at once.
    let count = |part: &[u8]| part.iter().map(|byte| u8::from(is_special(*byte))).sum::<u8>();
    text.len() + 5 * text.chunks(128).map(|part| usize::from(count(part))).sum::<usize>()
}

struct Text<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl Text<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn put_number(&mut self, number: i32) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Writes UTF-8 text as the inside of a JSON string.
    ///
    /// Written here, not with `serde_json`: this is most of the cost of sending a message, and eight bytes at once are
    /// several times faster.
    fn put_escaped(&mut self, mut text: &[u8]) {
        while let Some(chunk) = text.first_chunk::<8>() {
            // Where not all of the eight are plain, what was written too much is written over.
            self.out[self.length..self.length + 8].copy_from_slice(chunk);
            let found = special(u64::from_le_bytes(*chunk));
            if found == 0 {
                self.length += 8;
                text = &text[8..];
            } else {
                let plain = first(found);
                self.length += plain;
                self.put_escape(text[plain]);
                text = &text[plain + 1..];
            }
        }
        for byte in text {
            if is_special(*byte) {
                self.put_escape(*byte);
            } else {
                self.out[self.length] = *byte;
                self.length += 1;
            }
        }
    }

    fn put_escape(&mut self, byte: u8) {
        if byte < 0x20 {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            self.put(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        } else {
            self.put(&[b'\\', byte]);
        }
    }
}

/// Reads the head.
pub(super) fn read(head: &[u8]) -> Result<Command, DecodeError> {
    scan::read(head).map_or_else(|| read_any(head), Ok)
}

/// Reads a head in whatever form JSON allows.
pub(super) fn read_any(head: &[u8]) -> Result<Command, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(head);
    let command = json.deserialize_map(HeadVisitor { length: head.len() });
    let command = command.and_then(|command| json.end().map(|()| command));
    command.map_err(|error| DecodeError::Json(JsonError::from(error)))
}

/// What a head says that says nothing.
pub(super) fn empty() -> Command {
    Command {
        code: 0,
        language: LanguageCode::UNKNOWN,
        version: 0,
        opaque: 0,
        flag: 0,
        remark: None,
        fields: ExtFields::default(),
        body: Bytes::new(),
        encoding: HeadEncoding::Json,
    }
}

struct HeadVisitor {
    length: usize,
}

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Command;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the head of a frame")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Command, M::Error> {
        let mut code = None;
        let mut opaque = None;
        let mut command = empty();
        while let Some(key) = map.next_key_seed(AnyText)? {
            match key.as_deref().unwrap_or_default() {
                "code" => code = Some(map.next_value()?),
                "opaque" => opaque = Some(map.next_value()?),
                "flag" => command.flag = map.next_value()?,
                "version" => command.version = map.next_value()?,
                "language" => {
                    command.language =
                        map.next_value_seed(AnyText)?.map_or(LanguageCode::UNKNOWN, |text| language(&text))
                }
                "remark" => command.remark = map.next_value_seed(AnyText)?.map(Cow::into_owned),
                "extFields" => command.fields = map.next_value_seed(Fields { capacity: self.length })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        command.code = code.ok_or_else(|| M::Error::missing_field("code"))?;
        command.opaque = opaque.ok_or_else(|| M::Error::missing_field("opaque"))?;
        Ok(command)
    }
}

/// A language by name or, as Java's parser also takes it, by number.
pub(super) fn language(text: &str) -> LanguageCode {
    text.parse().map_or_else(|_| LanguageCode::from_name(text), LanguageCode)
}

/// A string, or the text of a number or a truth value; `None` for null. Borrowed unless it holds escapes.
#[derive(Clone, Copy)]
struct AnyText;

impl<'de> DeserializeSeed<'de> for AnyText {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyText {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(format!("{value:?}"))))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// The object of ext fields, straight into their buffer.
struct Fields {
    /// The fields cannot be longer than the head they stand in.
    capacity: usize,
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = ExtFields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ExtFields, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = ExtFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<ExtFields, E> {
        Ok(ExtFields::default())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ExtFields, M::Error> {
        // Six length bytes a field take the place of five JSON marks, hence a little more than the head.
        let mut fields = ExtFields::with_capacity(self.capacity + FIELD_SLACK);
        while let Some(name) = map.next_key_seed(AnyText)? {
            let name = name.unwrap_or_default();
            if i16::try_from(name.len()).is_err() {
                return Err(M::Error::invalid_length(name.len(), &"a name of at most 32767 bytes"));
            }
            map.next_value_seed(FieldValue { name: &name, fields: &mut fields })?;
        }
        Ok(fields)
    }
}

/// One value, pushed under its name without a `String` of its own.
struct FieldValue<'a> {
    name: &'a str,
    fields: &'a mut ExtFields,
}

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for FieldValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if i32::try_from(text.len()).is_err() {
            return Err(E::invalid_value(Unexpected::Other("a string of 2 GiB"), &self));
        }
        self.fields.push(self.name, text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.fields.push(self.name, if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.fields.push(self.name, itoa::Buffer::new().format(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.fields.push(self.name, itoa::Buffer::new().format(value));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        // As Java prints it; and never longer than 24 bytes, where the other form writes 1e308 in 309 digits.
        self.fields.push(self.name, &format!("{value:?}"));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

const HEAD_CAPACITY: usize = 256;
const FIELD_SLACK: usize = 32;
