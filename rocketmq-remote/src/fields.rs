use crate::FieldError;
use bytes::Bytes;
use std::{fmt, sync::Arc};

/// The name/value pairs of a command, in one buffer.
///
/// The buffer has the layout of the binary head (name length i16, name, value length i32, value), so that head is a
/// copy and a JSON head is written from it and read into it; there is no map, and no `String` a value.
#[derive(Clone, Default)]
pub struct ExtFields(Buffer);

#[derive(Clone)]
enum Buffer {
    /// Being written, or read from JSON.
    Own(Vec<u8>),
    /// A slice of a received frame, checked entry by entry.
    Frame(Bytes),
}

impl ExtFields {
    /// No fields, with room for `bytes` bytes of them.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Buffer::Own(Vec::with_capacity(bytes)))
    }

    /// The fields in a slice of a binary head.
    ///
    /// # Errors
    /// Where an entry does not fit the slice or is not UTF-8.
    pub(crate) fn from_frame(frame: Bytes) -> Result<Self, FieldError> {
        let mut rest: &[u8] = &frame;
        while !rest.is_empty() {
            let (name, value, tail) = split_entry(rest).ok_or(FieldError::Layout)?;
            if std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
                return Err(FieldError::Layout);
            }
            rest = tail;
        }
        Ok(Self(Buffer::Frame(frame)))
    }

    /// Adds a pair. A reader takes the last of several values of one name.
    ///
    /// A name longer than 32,767 bytes or a value longer than 2,147,483,647 cannot travel and is left out; both are far
    /// beyond the largest frame.
    pub fn push(&mut self, name: &str, value: &str) {
        let (Ok(name_length), Ok(value_length)) = (i16::try_from(name.len()), i32::try_from(value.len())) else {
            return;
        };
        let buffer = self.own();
        buffer.extend_from_slice(&name_length.to_be_bytes());
        buffer.extend_from_slice(name.as_bytes());
        buffer.extend_from_slice(&value_length.to_be_bytes());
        buffer.extend_from_slice(value.as_bytes());
    }

    /// Adds a pair whose value `write` appends as UTF-8; `None`, with the pair in an unknown state, where that gives
    /// up or the pair is too long.
    ///
    /// `name` is UTF-8: it comes out of a head that has been checked as a whole.
    pub(crate) fn push_with(&mut self, name: &[u8], write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
        let buffer = self.own();
        buffer.extend_from_slice(&i16::try_from(name.len()).ok()?.to_be_bytes());
        buffer.extend_from_slice(name);
        let length_at = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        write(buffer)?;
        let length = i32::try_from(buffer.len() - length_at - 4).ok()?;
        buffer[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    /// The last value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().filter(|(key, _)| *key == name).last().map(|(_, value)| value)
    }

    /// The pairs, in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (name, value, tail) = split_entry(rest)?;
            rest = tail;
            // Entries come in through `push`, `push_with` and `from_frame` only, and nothing but UTF-8 does.
            Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
        })
    }

    /// The pairs, with values that are text once somebody wants them: a header reads a few of many fields.
    #[doc(hidden)]
    pub fn iter_raw(&self) -> impl Iterator<Item = (&str, RawValue<'_>)> {
        self.iter_bytes().filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, RawValue(value))))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// The pairs in the layout of the binary head.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Buffer::Own(bytes) => bytes,
            Buffer::Frame(bytes) => bytes,
        }
    }

    /// The pairs as raw bytes, for a writer that has no use for `str`.
    pub(crate) fn iter_bytes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (name, value, tail) = split_entry(rest)?;
            rest = tail;
            Some((name, value))
        })
    }

    fn own(&mut self) -> &mut Vec<u8> {
        if let Buffer::Frame(frame) = &self.0 {
            self.0 = Buffer::Own(frame.to_vec());
        }
        match &mut self.0 {
            Buffer::Own(bytes) => bytes,
            Buffer::Frame(_) => unreachable!("made own above"),
        }
    }
}

/// A value that has not been looked at.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct RawValue<'a>(&'a [u8]);

impl<'a> RawValue<'a> {
    /// The value; it is UTF-8 as all that gets into ext fields.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl PartialEq for ExtFields {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ExtFields {}

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(i16::from_be_bytes(*length)).ok()?)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
    Some((name, value, rest))
}

/// A value that travels as the text of an ext field.
pub trait Field: Sized {
    /// Adds the value under `name`; an absent value adds nothing.
    fn put(&self, name: &'static str, fields: &mut ExtFields);

    /// Reads the value from the text found under `name`.
    ///
    /// # Errors
    /// [`FieldError`] where the field is missing or its text is not such a value.
    fn get(name: &'static str, text: Option<&str>) -> Result<Self, FieldError>;
}

macro_rules! number_field {
    ($($number:ty: $expected:literal),*) => {$(
        impl Field for $number {
            fn put(&self, name: &'static str, fields: &mut ExtFields) {
                fields.push(name, itoa::Buffer::new().format(*self));
            }

            fn get(name: &'static str, text: Option<&str>) -> Result<Self, FieldError> {
                let text = text.ok_or(FieldError::Missing { name })?;
                text.parse().map_err(|_| FieldError::invalid(name, text, $expected))
            }
        }
    )*};
}
number_field!(i32: "a 32-bit number", i64: "a 64-bit number");

impl Field for bool {
    fn put(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, if *self { "true" } else { "false" });
    }

    fn get(name: &'static str, text: Option<&str>) -> Result<Self, FieldError> {
        match text.ok_or(FieldError::Missing { name })? {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(FieldError::invalid(name, other, "true or false")),
        }
    }
}

impl Field for String {
    fn put(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, self);
    }

    fn get(name: &'static str, text: Option<&str>) -> Result<Self, FieldError> {
        text.map(Self::from).ok_or(FieldError::Missing { name })
    }
}

impl Field for Arc<str> {
    fn put(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, self);
    }

    fn get(name: &'static str, text: Option<&str>) -> Result<Self, FieldError> {
        text.map(Self::from).ok_or(FieldError::Missing { name })
    }
}

impl<F: Field> Field for Option<F> {
    fn put(&self, name: &'static str, fields: &mut ExtFields) {
        if let Some(value) = self {
            value.put(name, fields);
        }
    }

    fn get(name: &'static str, text: Option<&str>) -> Result<Self, FieldError> {
        text.map(|text| F::get(name, Some(text))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_values_counts() {
        let mut fields = ExtFields::default();
        fields.push("a", "1");
        fields.push("b", "");
        fields.push("a", "2");
        assert_eq!(fields.get("a"), Some("2"));
        assert_eq!(fields.get("b"), Some(""));
        assert_eq!(fields.get("c"), None);
    }

    #[test]
    fn a_broken_layout_is_refused() {
        for bytes in [&[0][..], &[0, 1], &[0, 1, b'a', 0, 0, 0, 2, b'x'], &[0xff, 0xff], &[0, 1, 0xff, 0, 0, 0, 0]] {
            assert!(ExtFields::from_frame(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_field_says_what_is_wrong_with_it() {
        assert_eq!(
            i32::get("queueId", Some("x")).unwrap_err().to_string(),
            "field queueId is \"x\", expected a 32-bit number"
        );
        assert_eq!(i64::get("offset", None).unwrap_err().to_string(), "field offset is missing");
        assert_eq!(Option::<bool>::get("batch", None), Ok(None));
    }
}
