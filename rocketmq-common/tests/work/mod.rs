//! The work that is measured: its time by `benches/messages.rs`, its allocations by `tests/allocations.rs`.

use bytes::{BufMut, Bytes, BytesMut};
use rocketmq_common::{
    Message, StoredMessage,
    message::{DecodeLimits, decode_records, property},
    protocol::{SendMessage, Stored},
    remote::{Answer, Command, CommandCodec, HeadEncoding, Reply as _, ResponseCode},
};
use std::sync::Arc;
use tokio_util::codec::{Decoder, Encoder};

/// Sends of one message with a tag, a key and its id.
pub(crate) struct Send {
    codec: CommandCodec,
    encoding: HeadEncoding,
    request: SendMessage,
    body: Bytes,
    out: BytesMut,
}

impl Send {
    pub(crate) fn new(encoding: HeadEncoding) -> Self {
        let message = message();
        let request = SendMessage {
            producer_group: "producers-of-orders".into(),
            topic: message.topic().into(),
            default_topic: "TBW102".into(),
            default_topic_queue_nums: 4,
            queue_id: 3,
            sys_flag: 0,
            born_timestamp_ms: 1_700_000_000_000,
            flag: 0,
            properties: Some(message.properties().as_str().to_owned()),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(false),
            broker_name: Some("broker-a".into()),
        };
        let out = BytesMut::with_capacity(64 * 1024);
        Self { codec: CommandCodec::default(), encoding, request, body: message.body().clone(), out }
    }

    /// From the typed request to the bytes of its head.
    pub(crate) fn encode(&mut self) -> usize {
        let mut command = Command::request(&self.request).with_body(self.body.clone());
        command.encoding = self.encoding;
        self.out.clear();
        self.codec.encode_head(&command, &mut self.out).expect("the head can be written");
        self.out.len()
    }
}

/// Replies to sends, as a stream of them is read.
pub(crate) struct Reply {
    codec: CommandCodec,
    frame: Bytes,
    buffer: BytesMut,
}

impl Reply {
    pub(crate) fn new() -> Self {
        let mut command = Command::response(7, ResponseCode::SUCCESS);
        let fields = [
            ("queueId", "3"),
            ("TRACE_ON", "true"),
            ("MSG_REGION", "DefaultRegion"),
            ("msgId", "7F00000100002A9F000000001413B380"),
            ("queueOffset", "123456"),
        ];
        for (name, value) in fields {
            command.fields.push(name, value);
        }
        let mut frame = BytesMut::new();
        CommandCodec::default().encode(command, &mut frame).expect("the frame can be written");
        let buffer = BytesMut::with_capacity(1024 * 1024);
        Self { codec: CommandCodec::default(), frame: frame.freeze(), buffer }
    }

    /// From the bytes of a frame to the typed reply.
    pub(crate) fn decode(&mut self) -> Answer<Stored> {
        self.buffer.put_slice(&self.frame);
        let command = self.codec.decode(&mut self.buffer).expect("the frame reads").expect("the frame is whole");
        Answer::from_command(command).expect("the reply reads")
    }
}

pub(crate) fn batch_of_32() -> Vec<Message> {
    vec![message(); 32]
}

pub(crate) fn encode_batch(messages: &[Message]) -> BytesMut {
    let size = messages.iter().map(|message| 22 + message.body().len() + message.properties().len()).sum();
    let mut out = BytesMut::with_capacity(size);
    rocketmq_common::message::encode_batch(messages, &mut out).expect("the batch can be written");
    out
}

/// What a pull brings: 32 stored messages, one after the other.
pub(crate) fn pulled_32() -> Bytes {
    let message = message();
    let (topic, properties) = (message.topic(), message.properties().as_str());
    let mut out = BytesMut::new();
    for offset in 0..32_i64 {
        let size = 91 + message.body().len() + topic.len() + properties.len();
        out.put_i32(i32::try_from(size).expect("small"));
        out.put_u32(0xDAA3_20A7);
        out.put_u32(crc32fast::hash(message.body()) & 0x7FFF_FFFF);
        out.put_i32(3);
        out.put_i32(0);
        out.put_i64(offset);
        out.put_i64(offset * 1000);
        out.put_i32(0);
        out.put_i64(1_700_000_000_000);
        out.put_slice(&[127, 0, 0, 1, 0, 0, 0x2A, 0x9F]);
        out.put_i64(1_700_000_000_001);
        out.put_slice(&[127, 0, 0, 1, 0, 0, 0x2A, 0x9F]);
        out.put_i32(0);
        out.put_i64(0);
        out.put_i32(i32::try_from(message.body().len()).expect("small"));
        out.put_slice(message.body());
        out.put_u8(u8::try_from(topic.len()).expect("small"));
        out.put_slice(topic.as_bytes());
        out.put_i16(i16::try_from(properties.len()).expect("small"));
        out.put_slice(properties.as_bytes());
    }
    out.freeze()
}

/// Reads what a pull brought into a list with room; how many messages that are.
pub(crate) fn decode_pulled(pulled: &Bytes) -> usize {
    thread_local! {
        static NAMES: (Arc<str>, Arc<str>) = ("order-created".into(), "broker-a".into());
    }
    let mut messages: Vec<StoredMessage> = Vec::with_capacity(32);
    NAMES.with(|(topic, broker)| {
        let records = decode_records(pulled.clone(), topic, broker, DecodeLimits::default());
        messages.extend(records.map(|message| message.expect("the record reads")));
    });
    assert!(messages.iter().all(|message| message.body().len() == 128));
    messages.len()
}

fn message() -> Message {
    let mut message = Message::new("order-created", vec![b'x'; 128]).tag("eu").key("o-17");
    message.properties_mut().set(property::UNIQ_KEY, "7F0000010A2B18B4AAC2112FC1F80000");
    message
}
