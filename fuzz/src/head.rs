use bytes::{BufMut, BytesMut};
use rocketmq_remote::{Command, CommandCodec, EncodeError, LanguageCode};
use tokio_util::codec::{Decoder, Encoder};

/// Puts a frame around `head`, reads it, writes what was read, reads that and expects the same command.
pub fn read_write_read(kind: u32, head: &[u8]) {
    let Ok(length) = u32::try_from(head.len()) else { return };
    let mut frame = BytesMut::new();
    frame.put_u32(4 + length + BODY.len() as u32);
    frame.put_u32(kind << 24 | length);
    frame.extend_from_slice(head);
    frame.extend_from_slice(BODY);
    let Some(command) = read(frame) else { return };
    assert_eq!(command.body, BODY);

    let mut again = BytesMut::new();
    match CommandCodec::default().encode(command.clone(), &mut again) {
        Ok(()) => assert_eq!(read(again), Some(expected(command))),
        // What the binary layout cannot hold is refused, and nothing else.
        Err(EncodeError::EmptyValue { name }) => {
            assert!(kind == 1 && command.fields.iter().any(|pair| pair == (&name, "")))
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn read(mut frame: BytesMut) -> Option<Command> {
    let command = CommandCodec::default().decode(&mut frame).ok()?;
    Some(command.expect("the frame is whole"))
}

/// A JSON head has names for the known languages only.
fn expected(mut command: Command) -> Command {
    if command.encoding == rocketmq_remote::HeadEncoding::Json {
        command.language = LanguageCode::from_name(command.language.name());
    }
    command
}

const BODY: &[u8] = b"body";
