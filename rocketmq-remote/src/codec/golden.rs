//! Frames written by real peers, `tests/goldens`: each file says in its first line who wrote it.

use super::*;
use bytes::Bytes;
use std::{fs, path::Path};

struct Golden {
    name: String,
    frame: Bytes,
}

impl Golden {
    fn decoded(&self) -> Command {
        let mut buffer = BytesMut::from(&self.frame[..]);
        let command = CommandCodec::default().decode(&mut buffer);
        let command = command.unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
        assert!(buffer.is_empty(), "{}", self.name);
        command.unwrap_or_else(|| panic!("{} is cut", self.name))
    }

    fn head(&self) -> &[u8] {
        let word = u32::from_be_bytes(self.frame[4..8].try_into().unwrap()) & 0xff_ffff;
        &self.frame[8..8 + usize::try_from(word).unwrap()]
    }

    /// The head as JSON, without the member that only tells how the head itself is written, and without an object of
    /// no fields, which is as good as none.
    fn json(&self) -> serde_json::Value {
        let mut head: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(self.head()).unwrap();
        head.remove("serializeTypeCurrentRPC");
        head.retain(|name, value| name != "extFields" || value.as_object().is_none_or(|fields| !fields.is_empty()));
        head.into()
    }
}

fn goldens(encoding: HeadEncoding) -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let versions = fs::read_dir(root).unwrap().map(|version| version.unwrap().path());
    let files = versions.flat_map(|version| fs::read_dir(version).unwrap()).map(|file| file.unwrap().path());
    let all: Vec<Golden> =
        files.map(|file| read(&file)).filter(|golden| golden.decoded().encoding == encoding).collect();
    assert!(all.len() >= 15, "{} files with {encoding:?} heads", all.len());
    all
}

fn read(file: &Path) -> Golden {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).unwrap();
    let (origin, hex) = text.split_once('\n').unwrap();
    assert!(origin.starts_with("# "), "{name} does not say who wrote it");
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    Golden { name, frame: digits.chunks(2).map(byte).collect() }
}

fn written(command: Command) -> Golden {
    let mut frame = BytesMut::new();
    CommandCodec::default().encode(command, &mut frame).unwrap();
    Golden { name: String::new(), frame: frame.freeze() }
}

#[test]
fn a_captured_frame_is_what_its_name_says() {
    for golden in goldens(HeadEncoding::Json).into_iter().chain(goldens(HeadEncoding::Binary)) {
        let command = golden.decoded();
        let name = golden.name.rsplit(['/', '\\']).next().unwrap();
        let parts: Vec<&str> = name.trim_end_matches(".hex").split('_').collect();
        let refused = parts.iter().filter_map(|part| part.strip_prefix("code")).find_map(|code| code.parse().ok());
        let expected = match (parts.contains(&"reply") && command.is_response(), refused) {
            (true, refused) => refused.unwrap_or(0),
            (false, _) => parts[0].parse().unwrap(),
        };
        assert_eq!(command.code, expected, "{name}");
        assert_eq!(command.is_one_way(), parts.contains(&"oneway"), "{name}");
        assert_eq!(command.body, &golden.frame[LENGTHS + golden.head().len()..], "{name}");
    }
}

#[test]
fn a_captured_binary_frame_is_written_back_byte_for_byte() {
    for golden in goldens(HeadEncoding::Binary) {
        assert_eq!(written(golden.decoded()).frame, golden.frame, "{}", golden.name);
    }
}

#[test]
fn a_captured_json_head_is_written_back_with_the_same_values() {
    for golden in goldens(HeadEncoding::Json) {
        let again = written(golden.decoded());
        assert_eq!(again.json(), golden.json(), "{}", golden.name);
        assert_eq!(again.decoded(), golden.decoded(), "{}", golden.name);
    }
}

#[test]
fn a_captured_frame_carries_over_to_the_other_head() {
    for golden in goldens(HeadEncoding::Binary) {
        let command = Command { encoding: HeadEncoding::Json, ..golden.decoded() };
        assert_eq!(written(command.clone()).decoded(), command, "{}", golden.name);
    }
}
