//! The JSON head. Java: `RemotingSerializable`, fastjson.

use crate::{Command, DecodeError, ExtFields, HeadEncoding, JsonError, LanguageCode};
use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Unexpected, Visitor};
use std::{borrow::Cow, fmt};

/// Writes the head.
pub(super) fn put(command: &Command, out: &mut BytesMut) {
    // Escapes are rare; where there are some the buffer grows by itself.
    out.reserve(command.fields.as_bytes().len() + HEAD_CAPACITY);
    out.extend_from_slice(b"{\"code\":");
    put_number(command.code, out);
    out.extend_from_slice(b",\"language\":\"");
    out.extend_from_slice(command.language.name().as_bytes());
    out.extend_from_slice(b"\",\"version\":");
    put_number(command.version, out);
    out.extend_from_slice(b",\"opaque\":");
    put_number(command.opaque, out);
    out.extend_from_slice(b",\"flag\":");
    put_number(command.flag, out);
    if let Some(remark) = &command.remark {
        out.extend_from_slice(b",\"remark\":");
        put_string(remark.as_bytes(), out);
    }
    if !command.fields.is_empty() {
        out.extend_from_slice(b",\"extFields\":");
        let mut separator = b'{';
        for (name, value) in command.fields.iter_bytes() {
            out.extend_from_slice(&[separator]);
            put_string(name, out);
            out.extend_from_slice(b":");
            put_string(value, out);
            separator = b',';
        }
        out.extend_from_slice(b"}");
    }
    out.extend_from_slice(b"}");
}

fn put_number(number: i32, out: &mut BytesMut) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes UTF-8 `text` as a JSON string.
///
/// Written here, not with `serde_json`: this is most of the cost of sending a message, and going over the bytes once
/// without proving again that they are UTF-8 halves it.
fn put_string(text: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(b"\"");
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&text[plain..]);
    out.extend_from_slice(b"\"");
}

/// Reads the head.
pub(super) fn read(head: &[u8]) -> Result<Command, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(head);
    let command = json.deserialize_map(HeadVisitor { length: head.len() });
    let command = command.and_then(|command| json.end().map(|()| command));
    command.map_err(|error| DecodeError::Json(JsonError::from(error)))
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
        let mut command = Command {
            code: 0,
            language: LanguageCode::UNKNOWN,
            version: 0,
            opaque: 0,
            flag: 0,
            remark: None,
            fields: ExtFields::default(),
            body: Bytes::new(),
            encoding: HeadEncoding::Json,
        };
        while let Some(key) = map.next_key_seed(Text)? {
            match key.as_deref().unwrap_or_default() {
                "code" => code = Some(map.next_value()?),
                "opaque" => opaque = Some(map.next_value()?),
                "flag" => command.flag = map.next_value()?,
                "version" => command.version = map.next_value()?,
                "language" => command.language = map.next_value_seed(Text)?.map_or(LanguageCode::UNKNOWN, language),
                "remark" => command.remark = map.next_value_seed(Text)?.map(Cow::into_owned),
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
fn language(text: Cow<'_, str>) -> LanguageCode {
    text.parse().map_or_else(|_| LanguageCode::from_name(&text), LanguageCode)
}

/// A string, or the text of a number or a truth value; `None` for null. Borrowed unless it holds escapes.
#[derive(Clone, Copy)]
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
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
        while let Some(name) = map.next_key_seed(Text)? {
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
