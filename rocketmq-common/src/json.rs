//! Reading the JSON of brokers and name servers, which is not always JSON.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Turns what brokers write into JSON: keys without quotes get them, and keys that are objects become strings.
///
/// Borrows where nothing has to change. Anything else that is wrong stays wrong, for the parser to report.
///
/// # Protocol
/// `{0:"a"}` becomes `{"0":"a"}`; `{{"queueId":0}:5}` becomes `{"{\"queueId\":0}":5}`. Written by fastjson for maps
/// whose keys are no strings. Witness: goldens `cluster_info_reply_550.hex`, `reset_offset_reply_550.hex`,
/// `running_info_reply_550.hex`, test `bodies_of_real_peers_become_json`.
pub fn lenient(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Output { input: bytes, copied: 0, text: Vec::new() };
    // One entry an open container: whether it is an object. On the heap, so that no depth overflows the stack.
    let mut open = Vec::new();
    let mut key_next = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'}' | b']' => {
                open.pop();
                key_next = false;
                at += 1;
            }
            b',' => {
                key_next = open.last() == Some(&true);
                at += 1;
            }
            b'"' => {
                at = end_of_string(bytes, at);
                key_next = false;
            }
            b'{' | b'[' if key_next => {
                let end = end_of_value(bytes, at);
                out.replace(at, end, true);
                at = end;
                key_next = false;
            }
            b'{' | b'[' => {
                open.push(byte == b'{');
                key_next = byte == b'{';
                at += 1;
            }
            b':' => {
                key_next = false;
                at += 1;
            }
            _ if key_next => {
                let end = end_of_token(bytes, at);
                out.replace(at, end, false);
                at = end;
                key_next = false;
            }
            _ => at += 1,
        }
    }
    out.finish()
}

/// Reads a value from the JSON of a broker or name server.
///
/// # Errors
/// The bytes are no JSON even after [`lenient`], or not of this shape; line and column count from the text after it.
pub fn from_lenient_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&lenient(bytes))
}

/// The input with some pieces replaced; nothing is copied before the first of them.
struct Output<'a> {
    input: &'a [u8],
    copied: usize,
    text: Vec<u8>,
}

impl<'a> Output<'a> {
    /// Writes what came before `start`, then the piece up to `end` as a string.
    fn replace(&mut self, start: usize, end: usize, is_value: bool) {
        if self.text.is_empty() {
            self.text.reserve(self.input.len() + self.input.len() / 8 + 16);
        }
        self.text.extend_from_slice(&self.input[self.copied..start]);
        let mut piece = &self.input[start..end];
        if !is_value {
            piece = piece.trim_ascii_end();
        }
        self.text.push(b'"');
        for &byte in piece {
            match byte {
                b'"' | b'\\' => self.text.extend_from_slice(&[b'\\', byte]),
                // Between the tokens of a key that is an object; a string may not hold it as it is.
                b'\n' | b'\r' | b'\t' => self.text.push(b' '),
                _ => self.text.push(byte),
            }
        }
        self.text.push(b'"');
        self.copied = end;
    }

    fn finish(mut self) -> Cow<'a, [u8]> {
        if self.copied == 0 {
            return Cow::Borrowed(self.input);
        }
        self.text.extend_from_slice(&self.input[self.copied..]);
        Cow::Owned(self.text)
    }
}

/// Where the string that starts here ends: behind its closing quote, or at the end of the input.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Where the object or array that starts here ends: behind its closing bracket, or at the end of the input.
fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where a key without quotes ends: before the next byte of structure.
fn end_of_token(bytes: &[u8], start: usize) -> usize {
    let is_structure = |byte: &u8| matches!(byte, b':' | b',' | b'"' | b'{' | b'}' | b'[' | b']');
    bytes[start..].iter().position(is_structure).map_or(bytes.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::message::goldens;

    fn read(text: &str) -> Value {
        from_lenient_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn json_stays_as_it_is() {
        for text in ["", "null", r#"{"a":[1,{"b":"{0:1}"}],"c\"":{}}"#, " [ 1 , { } ] ", r#""\\""#] {
            assert!(matches!(lenient(text.as_bytes()), Cow::Borrowed(same) if same == text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn keys_without_quotes_get_them() {
        assert_eq!(
            read(r#"{0:"a", -1 :[{2:3}],true:4,null:5,x_y:6}"#),
            json!({"0":"a","-1":[{"2":3}],"true":4,"null":5,"x_y":6})
        );
    }

    #[test]
    fn keys_that_are_objects_become_strings() {
        let read = read(r#"{{"topic":"a\"}:","queueId":0}:{"x":1},[1,2]:3}"#);
        let key = r#"{"topic":"a\"}:","queueId":0}"#;
        assert_eq!(read, json!({ key: {"x":1}, "[1,2]":3 }));
        let key: Value = serde_json::from_str(key).unwrap();
        assert_eq!(key["topic"], "a\"}:");
    }

    #[test]
    fn a_key_over_several_lines_is_a_string_on_one() {
        assert_eq!(read("{{\"a\":\n\t1}:2,\n3\n:4}"), json!({"{\"a\":  1}":2,"3":4}));
    }

    #[test]
    fn what_is_no_json_stays_an_error() {
        for text in ["{", "{{", "{0", "{0:", "{a:1,}", "{{\"a:1}:2}", "\"\\", "{]:1}", "{:1}", "{a b\u{1}:1}"] {
            assert!(from_lenient_slice::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn any_depth_is_an_error_and_no_overflow() {
        for piece in ["{", "[", "{0:", "[{\"a\":"] {
            assert!(from_lenient_slice::<Value>(piece.repeat(200_000).as_bytes()).is_err());
        }
    }

    #[test]
    fn bodies_of_real_peers_become_json() {
        let cluster: Value = from_lenient_slice(&goldens::body(goldens::CLUSTER_INFO)).unwrap();
        assert_eq!(cluster["brokerAddrTable"]["broker-a"]["brokerAddrs"]["0"], "127.0.0.1:10911");

        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Offsets {
            offset_table: BTreeMap<String, i64>,
        }
        let offsets: Offsets = from_lenient_slice(&goldens::body(goldens::RESET_OFFSET)).unwrap();
        assert_eq!(offsets.offset_table.len(), 4);
        assert_eq!(offsets.offset_table[r#"{"brokerName":"broker-a","queueId":3,"topic":"m_topic"}"#], 25);

        let running: Value = from_lenient_slice(&goldens::body(goldens::RUNNING_INFO)).unwrap();
        let queue = r#"{"brokerName":"broker-a","queueId":0,"topic":"%RETRY%m_fail"}"#;
        assert_eq!(running["mqTable"][queue]["commitOffset"], 50);
    }

    /// Values as fastjson writes them: keys are strings, numbers or objects.
    fn fast_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![Just("1".to_owned()), Just("null".to_owned()), Just(r#""a\"{:,}\\""#.to_owned())];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let key = prop_oneof![
                "[a-z0-9_-]{1,3}",
                r#""[a-z:{},]{0,3}""#,
                Just(r#"{"topic":"\"}","queueId":0}"#.to_owned())
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec((key, inner), 0..4).prop_map(|pairs| {
                    let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| format!("{key} : {value}")).collect();
                    format!("{{ {} }}", pairs.join(" ,"))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_fastjson_writes_becomes_json(text in fast_json()) {
            prop_assert!(from_lenient_slice::<Value>(text.as_bytes()).is_ok(), "{}", text);
        }

        #[test]
        fn the_second_pass_changes_nothing(text in fast_json()) {
            let once = lenient(text.as_bytes()).into_owned();
            prop_assert!(matches!(lenient(&once), Cow::Borrowed(_)));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(br#"{}[]:,"\0a "#.to_vec())], 0..64)) {
            let _ = lenient(&bytes);
        }
    }
}
