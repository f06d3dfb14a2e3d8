use super::*;
use crate::{ExtFields, FieldError, LanguageCode, RequestCode, ResponseCode};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use std::sync::Arc;

fn request(code: i32) -> Command {
    let mut command = Command::response(7, ResponseCode(code));
    command.flag = 0;
    command
}

fn with_fields(mut command: Command, pairs: &[(&str, &str)]) -> Command {
    for (name, value) in pairs {
        command.fields.push(name, value);
    }
    command
}

fn binary(command: Command) -> Command {
    Command { encoding: HeadEncoding::Binary, ..command }
}

fn encoded(command: Command) -> BytesMut {
    let mut frame = BytesMut::new();
    CommandCodec::default().encode(command, &mut frame).unwrap();
    frame
}

fn decoded(mut frame: BytesMut) -> Result<Command, DecodeError> {
    let command = CommandCodec::default().decode(&mut frame)?.expect("a whole frame");
    assert!(frame.is_empty());
    Ok(command)
}

/// A frame around any head and body.
fn frame(kind: u8, head: &[u8], body: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_u32(u32::try_from(4 + head.len() + body.len()).unwrap());
    frame.put_u32(u32::from(kind) << 24 | u32::try_from(head.len()).unwrap());
    frame.extend_from_slice(head);
    frame.extend_from_slice(body);
    frame
}

fn read_json(head: &str) -> Result<Command, DecodeError> {
    decoded(frame(JSON, head.as_bytes(), b""))
}

fn fields_of(ext_fields: &str) -> ExtFields {
    read_json(&format!(r#"{{"code":1,"opaque":2,"extFields":{ext_fields}}}"#)).unwrap().fields
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Commands that either head can carry.
fn commands() -> impl Strategy<Value = Command> {
    let text = || prop_oneof![4 => "[ -~]{1,20}", 2 => "\\PC{1,12}", 1 => "[\u{0}-\u{1f}\"\\\\/\u{7f}]{1,8}"];
    let head = (any::<i16>(), 0..14_u8, any::<i16>(), any::<i32>(), any::<i32>());
    let fields = vec((text(), text()), 0..8);
    (head, proptest::option::of(text()), fields, vec(any::<u8>(), 0..300), any::<bool>()).prop_map(
        |((code, language, version, opaque, flag), remark, pairs, body, binary)| {
            let mut fields = ExtFields::default();
            for (name, value) in &pairs {
                fields.push(name, value);
            }
            Command {
                code: code.into(),
                language: LanguageCode(language),
                version: version.into(),
                opaque,
                flag,
                remark,
                fields,
                body: body.into(),
                encoding: if binary { HeadEncoding::Binary } else { HeadEncoding::Json },
            }
        },
    )
}

proptest! {
    #[test]
    fn a_command_comes_back_as_it_was(command in commands()) {
        prop_assert_eq!(decoded(encoded(command.clone())).unwrap(), command);
    }

    #[test]
    fn a_json_head_is_json(command in commands()) {
        let command = Command { encoding: HeadEncoding::Json, ..command };
        let written = encoded(command.clone());
        let head: serde_json::Value =
            serde_json::from_slice(&written[LENGTHS..written.len() - command.body.len()]).unwrap();
        prop_assert_eq!(head["opaque"].as_i64(), Some(command.opaque.into()));
        prop_assert_eq!(head["remark"].as_str(), command.remark.as_deref());
        for (name, _) in command.fields.iter() {
            prop_assert_eq!(head["extFields"][name].as_str(), command.fields.get(name));
        }
    }

    #[test]
    fn however_frames_are_cut_the_same_commands_come_out(
        commands in vec(commands(), 1..6),
        pieces in vec(1..400_usize, 1..40),
    ) {
        let mut stream = BytesMut::new();
        for command in &commands {
            CommandCodec::default().encode(command.clone(), &mut stream).unwrap();
        }
        let (mut codec, mut buffer, mut read) = (CommandCodec::default(), BytesMut::new(), Vec::new());
        let mut pieces = pieces.iter().cycle();
        while !stream.is_empty() {
            let piece = stream.split_to(stream.len().min(*pieces.next().unwrap()));
            buffer.extend_from_slice(&piece);
            while let Some(command) = codec.decode(&mut buffer).unwrap() {
                read.push(command);
            }
        }
        prop_assert_eq!(read, commands);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_take_more_memory_than_a_frame(
        bytes in vec(any::<u8>(), 0..600),
        start in proptest::option::of((0..700_u32, 0..3_u8, 0..600_u32)),
    ) {
        let mut buffer = BytesMut::new();
        if let Some((length, kind, head)) = start {
            buffer.put_u32(length);
            buffer.put_u32(u32::from(kind) << 24 | head);
        }
        buffer.extend_from_slice(&bytes);
        let mut codec = CommandCodec::new(1024);
        while let Ok(Some(command)) = codec.decode(&mut buffer) {
            prop_assert!(command.body.len() <= 1024);
        }
        prop_assert!(buffer.capacity() <= 2048);
    }

    #[test]
    fn no_head_makes_the_decoder_panic(head in vec(any::<u8>(), 0..200), kind in 0..2_u8) {
        let _ = decoded(frame(kind, &head, b"body"));
    }

    #[test]
    fn the_scan_reads_every_head_that_is_written_here(command in commands()) {
        let plain = |(name, _): (&str, &str)| !name.bytes().any(scan::is_special);
        prop_assume!(command.fields.iter().all(plain));
        let command = Command { encoding: HeadEncoding::Json, body: Bytes::new(), ..command };
        let written = encoded(command.clone());
        prop_assert_eq!(scan::read(&written[LENGTHS..]), Some(command));
    }

    #[test]
    fn the_scan_and_the_general_reader_agree_where_one_byte_is_changed(
        command in commands(),
        at in any::<usize>(),
        byte in prop_oneof![any::<u8>(), proptest::sample::select(&b"\"\\{}:,u0-n "[..])],
    ) {
        let mut head = encoded(Command { encoding: HeadEncoding::Json, body: Bytes::new(), ..command });
        head.advance(LENGTHS);
        let at = at % head.len();
        head[at] = byte;
        if let Some(command) = scan::read(&head) {
            prop_assert_eq!(json::read_any(&head).unwrap(), command);
        }
    }

    #[test]
    fn a_head_with_one_byte_changed_is_read_or_refused(command in commands(), at in any::<usize>(), byte in any::<u8>()) {
        let mut bytes = encoded(command);
        let at = LENGTHS + at % (bytes.len() - LENGTHS);
        bytes[at] = byte;
        let _ = CommandCodec::default().decode(&mut bytes);
    }
}

#[test]
fn byte_by_byte_the_same_commands_come_out() {
    let commands = [
        with_fields(request(105), &[("topic", "T")]),
        binary(with_fields(request(310), &[("a", "group"), ("b", "topic")]).with_body(Bytes::from_static(b"body"))),
        request(34),
    ];
    let (mut codec, mut buffer, mut read) = (CommandCodec::default(), BytesMut::new(), Vec::new());
    for byte in commands.iter().flat_map(|command| encoded(command.clone())) {
        buffer.put_u8(byte);
        read.extend(codec.decode(&mut buffer).unwrap());
    }
    assert_eq!(read, commands);
}

#[test]
fn a_body_is_a_slice_of_the_buffer_it_was_read_into() {
    let mut buffer = encoded(request(310).with_body(Bytes::from(vec![7; 1000])));
    buffer.extend_from_slice(b"next");
    let body_at = buffer.len() - 1004;
    let expected = buffer[body_at..].as_ptr();
    let command = CommandCodec::default().decode(&mut buffer).unwrap().unwrap();
    assert_eq!(command.body.as_ptr(), expected);
    assert_eq!(command.body.len(), 1000);
    assert_eq!(buffer, "next");
}

#[test]
fn the_fields_of_a_binary_head_are_a_slice_of_the_buffer_too() {
    let mut buffer = encoded(binary(with_fields(request(310), &[("name", "value")])));
    let range = buffer.as_ptr_range();
    let command = CommandCodec::default().decode(&mut buffer).unwrap().unwrap();
    assert!(range.contains(&command.fields.get("name").unwrap().as_ptr()));
}

// Protocol section 1.3 gives both frames.

#[test]
fn the_worked_example_of_a_binary_head() {
    let command = binary(with_fields(request(RequestCode::GET_ROUTEINFO_BY_TOPIC.0), &[("topic", "T")]));
    let expected =
        hex("00000025 01000021 0069 0c 01df 00000007 00000000 00000000 0000000c 0005 746f706963 00000001 54");
    assert_eq!(encoded(command.clone()), &expected[..]);
    assert_eq!(decoded(BytesMut::from(&expected[..])).unwrap(), command);
}

#[test]
fn the_worked_example_of_a_json_head() {
    let command = with_fields(request(RequestCode::GET_ROUTEINFO_BY_TOPIC.0), &[("topic", "T")]);
    let mut expected = hex("0000005e 0000005a");
    expected.extend_from_slice(
        br#"{"code":105,"language":"RUST","version":479,"opaque":7,"flag":0,"extFields":{"topic":"T"}}"#,
    );
    assert_eq!(encoded(command.clone()), &expected[..]);
    assert_eq!(decoded(BytesMut::from(&expected[..])).unwrap(), command);
}

#[test]
fn the_smallest_frame_has_29_bytes() {
    let smallest = encoded(binary(request(34)));
    assert_eq!(smallest.len(), 29);
    assert_eq!(decoded(smallest).unwrap(), binary(request(34)));
}

// Limits.

#[test]
fn a_frame_of_16_mib_passes_and_one_byte_more_does_not() {
    for encoding in [HeadEncoding::Json, HeadEncoding::Binary] {
        let command = Command { encoding, ..request(310) };
        let head = encoded(command.clone()).len();
        let mut body = vec![1; MAX_FRAME_BYTES - head];
        let largest = encoded(command.clone().with_body(body.clone().into()));
        assert_eq!(largest.len(), MAX_FRAME_BYTES);
        assert_eq!(decoded(largest).unwrap().body.len(), body.len());

        body.push(1);
        let mut out = BytesMut::from("before");
        let error = CommandCodec::default().encode(command.with_body(body.into()), &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::TooLarge { length: 16_777_217, limit: 16_777_216 }));
        assert_eq!(out, "before");
    }
}

#[test]
fn a_length_word_beyond_the_limit_is_refused_before_anything_is_read_or_allocated() {
    let mut buffer = BytesMut::from(&16_777_213_u32.to_be_bytes()[..]);
    let error = CommandCodec::default().decode(&mut buffer).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { length: 16_777_217, limit: 16_777_216 }));
    assert!(buffer.capacity() < 1024);
}

#[test]
fn a_smaller_limit_holds_in_both_directions_and_a_larger_one_is_cut() {
    let command = request(310).with_body(Bytes::from(vec![1; 500]));
    let mut small = CommandCodec::new(500);
    assert!(matches!(
        small.encode(command.clone(), &mut BytesMut::new()),
        Err(EncodeError::TooLarge { limit: 500, .. })
    ));
    assert!(matches!(small.decode(&mut encoded(command)), Err(DecodeError::TooLarge { limit: 500, .. })));
    let mut buffer = BytesMut::from(&u32::MAX.wrapping_shr(1).to_be_bytes()[..]);
    let error = CommandCodec::new(usize::MAX).decode(&mut buffer).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { limit: MAX_FRAME_BYTES, .. }));
}

#[test]
fn a_length_that_is_negative_or_too_small_is_refused() {
    for length in [-1, i32::MIN, 0, 3] {
        let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
        let error = CommandCodec::default().decode(&mut buffer).unwrap_err();
        assert!(matches!(error, DecodeError::Length(word) if word == length), "{length}");
    }
}

#[test]
fn a_head_longer_than_its_frame_is_refused() {
    let mut bytes = frame(JSON, b"{}", b"");
    bytes[7] = 3;
    assert!(matches!(decoded(bytes), Err(DecodeError::HeadLength { head: 3, frame: 10 })));
    let mut bytes = frame(BINARY, &[0; 21], b"");
    bytes[5..8].copy_from_slice(&[0xff; 3]);
    assert!(matches!(decoded(bytes), Err(DecodeError::HeadLength { head: 0xff_ffff, .. })));
}

#[test]
fn an_unknown_head_encoding_is_refused() {
    for kind in [2, 0x16, u8::MAX] {
        assert!(matches!(decoded(frame(kind, b"{}", b"")), Err(DecodeError::HeadEncoding(byte)) if byte == kind));
    }
}

#[test]
fn an_empty_head_is_refused() {
    assert!(matches!(decoded(frame(JSON, b"", b"body")), Err(DecodeError::Json(_))));
    assert!(matches!(decoded(frame(BINARY, b"", b"body")), Err(DecodeError::BinaryHead)));
}

// The binary head.

#[test]
fn a_code_beyond_16_bits_is_written_as_json() {
    for (code, encoding) in [
        (32_767, HeadEncoding::Binary),
        (-32_768, HeadEncoding::Binary),
        (32_768, HeadEncoding::Json),
        (200_050, HeadEncoding::Json),
        (-32_769, HeadEncoding::Json),
    ] {
        let read = decoded(encoded(binary(with_fields(request(code), &[("a", "1")])))).unwrap();
        assert_eq!((read.code, read.encoding, read.fields.get("a")), (code, encoding, Some("1")));
    }
}

#[test]
fn an_empty_value_cannot_travel_in_a_binary_head_and_leaves_the_buffer_as_it_was() {
    let command = with_fields(request(310), &[("a", "1"), ("empty", "")]);
    let mut out = BytesMut::from("before");
    let error = CommandCodec::default().encode(binary(command.clone()), &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::EmptyValue { name } if name == "empty"));
    assert_eq!(out, "before");
    assert_eq!(decoded(encoded(command)).unwrap().fields.get("empty"), Some(""));
}

#[test]
fn a_binary_head_cut_anywhere_is_refused() {
    let whole = encoded(binary(with_fields(request(310), &[("a", "1"), ("b", "22")]).with_remark("words")));
    for length in 0..whole.len() - LENGTHS {
        assert!(decoded(frame(BINARY, &whole[LENGTHS..LENGTHS + length], b"")).is_err(), "{length} bytes");
    }
}

#[test]
fn lengths_within_a_binary_head_that_do_not_add_up_are_refused() {
    let fixed = hex("0069 0c 01df 00000007 00000000");
    for tail in ["ffffffff 00000000", "00000001", "00000000 ffffffff", "00000000 00000001", "7fffffff 00000000"] {
        assert!(matches!(
            decoded(frame(BINARY, &[&fixed[..], &hex(tail)].concat(), b"")),
            Err(DecodeError::BinaryHead)
        ));
    }
    for entries in ["00000004 0001 6100", "00000006 ffff 00000000", "00000007 0001 61 ffffffff"] {
        let head = [&fixed[..], &[0; 4], &hex(entries)].concat();
        let error = decoded(frame(BINARY, &head, b"")).unwrap_err();
        assert!(matches!(error, DecodeError::Field(FieldError::Layout)), "{entries}: {error:?}");
    }
}

#[test]
fn what_follows_the_fields_of_a_binary_head_is_passed_over() {
    let head = [&encoded(binary(request(34)))[LENGTHS..], b"more"].concat();
    let read = decoded(frame(BINARY, &head, b"body")).unwrap();
    assert_eq!(read, binary(request(34)).with_body(Bytes::from_static(b"body")));
}

#[test]
fn a_version_beyond_16_bits_is_the_highest_one_in_a_binary_head() {
    let command = Command { version: 70_000, ..binary(request(34)) };
    assert_eq!(decoded(encoded(command)).unwrap().version, 32_767);
}

#[test]
fn a_number_of_an_unknown_language_survives_a_binary_head() {
    let command = Command { language: LanguageCode(200), ..binary(request(34)) };
    assert_eq!(decoded(encoded(command)).unwrap().language, LanguageCode(200));
}

// The JSON head.

#[test]
fn fields_and_remark_may_be_missing_or_null() {
    for head in [
        r#"{"code":1,"opaque":2}"#,
        r#"{"code":1,"opaque":2,"extFields":{},"remark":null}"#,
        r#"{"code":1,"opaque":2,"extFields":null,"language":null}"#,
    ] {
        let read = read_json(head).unwrap();
        assert_eq!((read.code, read.opaque, read.flag, read.version), (1, 2, 0, 0));
        assert!(read.fields.is_empty() && read.remark.is_none());
    }
}

#[test]
fn code_and_opaque_must_be_there() {
    for head in [r#"{"opaque":1}"#, r#"{"code":1}"#, r#"{"code":null,"opaque":1}"#, "{}", "[]", "null", "1"] {
        assert!(matches!(read_json(head), Err(DecodeError::Json(_))), "{head}");
    }
}

#[test]
fn unknown_members_are_passed_over() {
    let head =
        r#"{"a":[1,{"b":null}],"code":1,"serializeTypeCurrentRPC":"JSON","opaque":2,"z":{"extFields":{"x":"y"}}}"#;
    let read = read_json(head).unwrap();
    assert_eq!((read.code, read.opaque, read.fields.is_empty()), (1, 2, true));
}

#[test]
fn white_space_and_order_do_not_matter() {
    let read = read_json(" {\n\"extFields\" : { \"a\" :\t\"b\" } ,\"opaque\":-2,\r \"code\": 1 } ").unwrap();
    assert_eq!((read.code, read.opaque, read.fields.get("a")), (1, -2, Some("b")));
}

#[test]
fn what_follows_the_object_is_refused() {
    assert!(read_json(r#"{"code":1,"opaque":2}x"#).is_err());
    assert!(read_json(r#"{"code":1,"opaque":2"#).is_err());
}

#[test]
fn of_two_values_of_one_name_the_last_counts() {
    assert_eq!(fields_of(r#"{"a":"1","b":"x","a":"2"}"#).get("a"), Some("2"));
    let read = decoded(encoded(binary(with_fields(request(1), &[("a", "1"), ("a", "2")])))).unwrap();
    assert_eq!(read.fields.get("a"), Some("2"));
}

#[test]
fn numbers_and_truth_values_are_read_as_their_text_and_null_as_absent() {
    let fields = fields_of(
        r#"{"i":-5,"u":18446744073709551615,"d":1.5,"whole":1.0,"large":1e300,"yes":true,"no":false,"none":null}"#,
    );
    let values = ["i", "u", "d", "whole", "large", "yes", "no", "none"].map(|name| fields.get(name));
    let expected = [
        Some("-5"),
        Some("18446744073709551615"),
        Some("1.5"),
        Some("1.0"),
        Some("1e300"),
        Some("true"),
        Some("false"),
        None,
    ];
    assert_eq!(values, expected);
}

/// 16 MiB of such numbers would otherwise become half a gigabyte.
#[test]
fn a_number_does_not_grow_when_it_becomes_text() {
    let fields = fields_of(&format!("{{{}}}", vec![r#""":1e300"#; 1000].join(",")));
    assert!(fields.as_bytes().len() <= 12_000);
}

#[test]
fn objects_and_arrays_are_no_field_values() {
    for ext_fields in [r#"{"a":{}}"#, r#"{"a":[1]}"#, "[]", r#""a""#] {
        let head = format!(r#"{{"code":1,"opaque":2,"extFields":{ext_fields}}}"#);
        assert!(matches!(read_json(&head), Err(DecodeError::Json(_))), "{head}");
    }
}

#[test]
fn a_language_goes_by_name_or_number() {
    for (written, language) in [
        (r#""RUST""#, LanguageCode::RUST),
        ("12", LanguageCode::RUST),
        (r#""0""#, LanguageCode::JAVA),
        (r#""KLINGON""#, LanguageCode::UNKNOWN),
        ("300", LanguageCode::UNKNOWN),
        ("-1", LanguageCode::UNKNOWN),
        (r#""""#, LanguageCode::UNKNOWN),
    ] {
        let read = read_json(&format!(r#"{{"code":1,"opaque":2,"language":{written}}}"#)).unwrap();
        assert_eq!(read.language, language, "{written}");
    }
}

#[test]
fn escapes_are_read_in_names_values_and_remarks() {
    let head =
        r#"{"cod\u0065":1,"opaque":2,"remark":"\"\\\/\b\f\n\r\t\u20ac\ud83d\ude80","extFields":{"\u0061":"x\u0001y"}}"#;
    let read = read_json(head).unwrap();
    assert_eq!(read.remark.as_deref(), Some("\"\\/\u{8}\u{c}\n\r\t€🚀"));
    assert_eq!(read.fields.get("a"), Some("x\u{1}y"));
}

#[test]
fn only_what_must_be_escaped_is() {
    let command = with_fields(request(1), &[("k\"", "\\ / \u{1}\u{1f} é 🚀 \u{7f}")]);
    let written = encoded(command);
    let head = std::str::from_utf8(&written[LENGTHS..]).unwrap();
    assert!(head.ends_with("\"extFields\":{\"k\\\"\":\"\\\\ / \\u0001\\u001f é 🚀 \u{7f}\"}}"), "{head}");
}

#[test]
fn text_that_is_not_utf_8_is_refused_in_fields() {
    let mut head = br#"{"code":1,"opaque":2,"extFields":{"a":"?"}}"#.to_vec();
    let at = head.iter().position(|byte| *byte == b'?').unwrap();
    head[at] = 0xff;
    assert!(matches!(decoded(frame(JSON, &head, b"")), Err(DecodeError::Json(_))));
    let mut bytes = encoded(binary(with_fields(request(1), &[("a", "?")])));
    *bytes.last_mut().unwrap() = 0xff;
    assert!(matches!(decoded(bytes), Err(DecodeError::Field(FieldError::Layout))));
}

#[test]
fn deep_nesting_is_no_danger() {
    let head = format!(r#"{{"code":1,"opaque":2,"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let _ = read_json(&head);
    let _ = read_json(&"{\"extFields\":".repeat(10_000));
}

#[test]
fn a_name_too_long_for_the_layout_is_refused() {
    let head = |length| format!(r#"{{"code":1,"opaque":2,"extFields":{{"{}":"x"}}}}"#, "n".repeat(length));
    assert_eq!(read_json(&head(32_767)).unwrap().fields.iter().count(), 1);
    assert!(matches!(read_json(&head(32_768)), Err(DecodeError::Json(_))));
}

#[test]
fn errors_can_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<Arc<DecodeError>>();
    assert_shared::<Arc<EncodeError>>();
    assert_shared::<crate::Error>();
}
