//! The JSON heads that peers really write, read in one pass: no white space, no nesting, values that are strings.
//!
//! Reading replies is a good part of the cost of sending, and most of that cost is the head. Whatever is unusual in a
//! head ends the scan, and the general reader judges it; a property test holds the two to the same result.

use super::json;
use crate::{Command, ExtFields, LanguageCode};
use std::str;

/// Reads a head; `None` where it is unusual, or broken.
pub(super) fn read(head: &[u8]) -> Option<Command> {
    str::from_utf8(head).ok()?;
    let mut scan = Scan { rest: head, length: head.len() };
    let (mut code, mut opaque) = (None, None);
    let mut command = json::empty();
    scan.expect(b'{')?;
    loop {
        match scan.plain()? {
            b"code" => code = Some(scan.after_colon()?.number()?),
            b"opaque" => opaque = Some(scan.after_colon()?.number()?),
            b"flag" => command.flag = scan.after_colon()?.number()?,
            b"version" => command.version = scan.after_colon()?.number()?,
            b"language" => command.language = language(scan.after_colon()?.plain()?)?,
            b"remark" => command.remark = Some(scan.after_colon()?.text()?),
            b"extFields" => command.fields = scan.after_colon()?.fields()?,
            _ => drop(scan.after_colon()?.plain()?),
        }
        match scan.next()? {
            b',' => {}
            b'}' if scan.rest.is_empty() => break,
            _ => return None,
        }
    }
    command.code = code?;
    command.opaque = opaque?;
    Some(command)
}

fn language(name: &[u8]) -> Option<LanguageCode> {
    Some(json::language(str::from_utf8(name).ok()?))
}

struct Scan<'a> {
    rest: &'a [u8],
    /// Of the whole head.
    length: usize,
}

impl<'a> Scan<'a> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn expect(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    fn after_colon(&mut self) -> Option<&mut Self> {
        self.expect(b':')?;
        Some(self)
    }

    fn number(&mut self) -> Option<i32> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        // Rust reads a few forms that JSON forbids.
        if matches!(number, [b'0', _, ..] | [b'-', b'0', ..]) {
            return None;
        }
        str::from_utf8(number).ok()?.parse().ok()
    }

    /// A string without escapes.
    fn plain(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let plain = self.run();
        (self.next()? == b'"').then_some(plain)
    }

    /// A string of any kind.
    fn text(&mut self) -> Option<String> {
        let mut text = Vec::new();
        self.text_into(&mut text)?;
        String::from_utf8(text).ok()
    }

    fn text_into(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.expect(b'"')?;
        loop {
            out.extend_from_slice(self.run());
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => self.escape(out)?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let byte = match self.next()? {
            b'u' => {
                let (digits, rest) = self.rest.split_first_chunk::<4>()?;
                self.rest = rest;
                let mut value = 0;
                for digit in digits {
                    value = value << 4 | char::from(*digit).to_digit(16)?;
                }
                // Half of a surrogate pair is no character.
                let character = char::from_u32(value)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Some(());
            }
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            byte @ (b'"' | b'\\' | b'/') => byte,
            _ => return None,
        };
        out.push(byte);
        Some(())
    }

    fn fields(&mut self) -> Option<ExtFields> {
        self.expect(b'{')?;
        if self.rest.first() == Some(&b'}') {
            self.next()?;
            return Some(ExtFields::default());
        }
        let mut fields = ExtFields::with_capacity(self.length.min(self.rest.len() + FIELD_SLACK));
        loop {
            let name = self.plain()?;
            self.expect(b':')?;
            fields.push_with(name, |out| self.text_into(out))?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(fields),
                _ => return None,
            }
        }
    }

    /// The bytes up to the next quote, backslash or control character.
    fn run(&mut self) -> &'a [u8] {
        let mut length = 0;
        while let Some(chunk) = self.rest[length..].first_chunk::<8>() {
            let found = special(u64::from_le_bytes(*chunk));
            if found != 0 {
                return self.take(length + first(found));
            }
            length += 8;
        }
        length += self.rest[length..].iter().take_while(|byte| !is_special(**byte)).count();
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }
}

/// Whether JSON text cannot hold the byte as it is.
pub(super) fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The same for eight bytes at once: not zero if one of them is special; [`first`] tells which one comes first.
pub(super) fn special(word: u64) -> u64 {
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (control | zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c))) & (ONES * 0x80)
}

/// Subtraction borrows upwards only: above the first special byte there may be false ones, below it there are none.
pub(super) fn first(special: u64) -> usize {
    usize::try_from(special.trailing_zeros() / 8).unwrap_or(0)
}

const ONES: u64 = 0x0101_0101_0101_0101;
/// A field is at most this much longer here than in JSON: six bytes of lengths for five marks.
const FIELD_SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_special_byte_of_eight_is_found(bytes in any::<[u8; 8]>(), narrow in 0x1e..0x24_u8, at in 0..8_usize) {
            for bytes in [bytes, { let mut other = [narrow; 8]; other[at] = bytes[0]; other }] {
                let found = special(u64::from_le_bytes(bytes));
                let expected = bytes.iter().position(|byte| is_special(*byte));
                prop_assert_eq!((found != 0).then(|| first(found)), expected);
            }
        }

        #[test]
        fn what_the_scan_reads_the_general_reader_reads_too(
            head in "\\{(\"(code|opaque|flag|version)\":-?[0-9]{1,11},){0,3}(\"(remark|language|x)\":\"([a-z/é\"]|\\\\[bfnrtu\"/\\\\x]|\\\\u00[0-9a-g]{2}){0,12}\",?)?(\"extFields\":\\{(\"[a-z]{0,9}\":\"([a-z]|\\\\u000[0-9]|\\\\n){0,12}\",?){0,3}\\},?)?(\"opaque\":[0-9]{1,3},\"code\":[0-9]{1,3})?\\}",
        ) {
            if let Some(command) = read(head.as_bytes()) {
                prop_assert_eq!(command, json::read_any(head.as_bytes()).unwrap());
            }
        }
    }

    #[test]
    fn a_head_as_java_writes_it_is_scanned() {
        let head = br#"{"code":0,"extFields":{"queueId":"0","msgId":"7F","u":"\u0001\"\\\/\n"},"flag":1,"language":"JAVA","opaque":-5,"remark":"a\tb","serializeTypeCurrentRPC":"JSON","version":513}"#;
        let command = read(head).unwrap();
        assert_eq!(command.fields.get("u"), Some("\u{1}\"\\/\n"));
        assert_eq!(command, json::read_any(head).unwrap());
    }

    #[test]
    fn what_is_unusual_is_left_to_the_general_reader() {
        for head in [
            r#"{"code":1, "opaque":2}"#,
            r#"{"code":01,"opaque":2}"#,
            r#"{"code":-0,"opaque":2}"#,
            r#"{"code":1.0,"opaque":2}"#,
            r#"{"code":1-1,"opaque":2}"#,
            r#"{"code":2147483648,"opaque":2}"#,
            r#"{"code":1,"opaque":2,"extFields":{"a":1}}"#,
            r#"{"code":1,"opaque":2,"remark":"\ud83d\ude80"}"#,
            r#"{"code":1,"opaque":2,"remark":null}"#,
            r#"{"code":1,"opaque":2}}"#,
            r#"{"code":1,"opaque":2,}"#,
            r#"{"code":1}"#,
            "{}",
            "",
        ] {
            assert_eq!(read(head.as_bytes()), None, "{head}");
        }
    }
}
