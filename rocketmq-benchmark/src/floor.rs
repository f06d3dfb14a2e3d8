//! `floor`: the least work with which messages can be sent to a broker, or pulled from it.
//!
//! One blocking thread and one socket. Requests were encoded before; of an answer only its length and its code are
//! looked at, and of a pulled message only its size.

use crate::{
    FloorArgs, WARM_UP,
    process::Moment,
    produce,
    progress::{End, Limits, Progress},
    report::{Counts, Report},
    runtime,
};
use anyhow::{Context, bail};
use bytes::BytesMut;
use rocketmq_common::{
    Client, ClientConfig, MessageQueue,
    protocol::{MASTER_ID, PullMessage, PullSysFlag, SendMessage},
    remote::{Command, CommandCodec},
};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub(crate) fn run(args: &FloorArgs) -> anyhow::Result<(Report, Option<String>)> {
    let target = runtime(1)?.block_on(Target::find(args))?;
    let stream = TcpStream::connect(&*target.addr).with_context(|| format!("cannot connect to {}", target.addr))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let limits = Limits { timeout: args.common.timeout, idle: Some(IDLE) };
    let mut run = Run {
        wire: Wire { stream, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 },
        stops_at: Instant::now() + limits.timeout,
        progress: Progress::new(args.common.messages),
        shown: 0,
    };
    let (counts, start, end) = match args.consume {
        true => run.pull(&target, args.common.messages)?,
        false => run.send(&target, args)?,
    };
    let span = start.until(&Moment::now());
    run.progress.finish();
    let mode = if args.consume { "consume" } else { "produce" };
    let failures = (counts.err > 0).then(|| format!("{} messages failed", counts.err));
    Ok((Report::new("floor", mode, counts, span), end.trouble(limits).or(failures)))
}

/// The broker to talk to, and its queues.
#[derive(Debug)]
struct Target {
    addr: Arc<str>,
    queues: Vec<MessageQueue>,
    /// Where to pull from, queue by queue.
    offsets: Vec<i64>,
}

impl Target {
    async fn find(args: &FloorArgs) -> anyhow::Result<Self> {
        let client = Client::start([args.common.name_server.as_str()], ClientConfig::default()).await?;
        let topic: Arc<str> = args.common.topic.as_str().into();
        let route = match args.consume {
            true => client.route(&topic).await?,
            false => client.publish_route(&topic, NEW_TOPIC_QUEUES).await?,
        };
        let queues = if args.consume { route.read_queues() } else { route.write_queues() };
        let broker = queues.first().with_context(|| format!("topic {topic} has no queues"))?.broker_name.clone();
        let queues: Vec<_> = queues.iter().filter(|queue| queue.broker_name == broker).cloned().collect();
        let addr = route.broker_addrs(&broker).and_then(|addrs| addrs.get(&MASTER_ID));
        let addr = addr.with_context(|| format!("broker {broker} has no master"))?.clone();
        let mut offsets = Vec::new();
        if args.consume {
            for queue in &queues {
                offsets.push(client.min_offset(queue).await?.max(0));
            }
        }
        client.shutdown(client.request_deadline()).await;
        Ok(Self { addr, queues, offsets })
    }
}

/// A run under way.
#[derive(Debug)]
struct Run {
    wire: Wire,
    stops_at: Instant,
    progress: Progress,
    shown: u64,
}

impl Run {
    fn send(&mut self, target: &Target, args: &FloorArgs) -> anyhow::Result<(Counts, Moment, End)> {
        let frames: Vec<_> =
            target.queues.iter().map(|queue| send_frame(queue, args.common.size)).collect::<Result<_, _>>()?;
        let mut load = Frames::repeat(&frames);
        let warm_up = self.send_all(&mut load, WARM_UP, 1)?;
        if warm_up.1 != End::Done || warm_up.0.err > 0 {
            bail!("the broker took {} of the {WARM_UP} first messages", warm_up.0.ok);
        }
        let start = Moment::now();
        let in_flight = u64::try_from(args.concurrency)?;
        let (counts, end) = self.send_all(&mut load, args.common.messages, in_flight)?;
        Ok((counts, start, end))
    }

    fn send_all(&mut self, load: &mut Frames, messages: u64, in_flight: u64) -> anyhow::Result<(Counts, End)> {
        let (mut written, mut ok, mut err) = (0, 0, 0);
        let end = loop {
            let room = messages.min(ok + err + in_flight) - written;
            load.write(room, &mut self.wire.stream)?;
            written += room;
            if !self.wire.fill()? {
                break End::Idle;
            }
            while let Some(frame) = self.wire.next_frame() {
                match is_success(frame) {
                    true => ok += 1,
                    false => err += 1,
                }
            }
            if ok + err >= messages {
                break End::Done;
            }
            if self.look(ok + err) {
                break End::TimedOut;
            }
        };
        Ok((Counts { ok, err, measured: ok + err }, end))
    }

    fn pull(&mut self, target: &Target, messages: u64) -> anyhow::Result<(Counts, Moment, End)> {
        let mut pulls: Vec<_> = (0_i32..)
            .zip(target.queues.iter().zip(&target.offsets))
            .map(|(opaque, (queue, offset))| Pull::new(opaque, queue, *offset))
            .collect::<Result<_, _>>()?;
        let warm_up = WARM_UP.min(messages / 2);
        let (mut start, mut last) = (Moment::now(), Instant::now());
        let mut due: Vec<usize> = (0..pulls.len()).collect();
        let mut requests = Vec::new();
        let (mut ok, mut warm) = (0, 0);
        let end = loop {
            requests.clear();
            due.drain(..).for_each(|queue| requests.extend_from_slice(&pulls[queue].frame));
            self.wire.stream.write_all(&requests)?;
            if last.elapsed() >= IDLE || !self.wire.fill()? {
                break End::Idle;
            }
            while let Some(frame) = self.wire.next_frame() {
                let (head, body) = split(frame).context("the broker sent a frame of another form")?;
                let queue = opaque(head).filter(|queue| *queue < pulls.len());
                let queue = queue.context("the broker answered a request that was not made")?;
                let pull = &mut pulls[queue];
                match code(head) {
                    Some(SUCCESS) => {
                        let count = count_records(body);
                        ok += count;
                        pull.advance(count);
                        last = Instant::now();
                    }
                    Some(NOT_FOUND | RETRY_IMMEDIATELY) => {}
                    _ => bail!("the broker refused to be pulled from: {}", String::from_utf8_lossy(head)),
                }
                due.push(queue);
            }
            if warm == 0 && ok >= warm_up {
                (start, warm) = (Moment::now(), ok);
            }
            if ok >= messages {
                break End::Done;
            }
            if self.look(ok) {
                break End::TimedOut;
            }
        };
        Ok((Counts { ok, err: 0, measured: ok.saturating_sub(warm) }, start, end))
    }

    /// Shows the progress now and then; whether the time is up.
    fn look(&mut self, done: u64) -> bool {
        if done >= self.shown + SHOW_EVERY {
            self.shown = done;
            self.progress.show(done);
        }
        Instant::now() >= self.stops_at
    }
}

/// A socket, read in chunks as large as they come.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    /// Reads once; `false` where nothing comes for too long.
    fn fill(&mut self) -> anyhow::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let wanted = frame_length(&self.buffer[..self.end]).unwrap_or(0);
        if wanted > MAX_FRAME_BYTES {
            bail!("the broker sent a frame of {wanted} bytes");
        }
        if self.buffer.len() < wanted.max(BUFFER_BYTES) {
            self.buffer.resize(wanted, 0);
        }
        match self.stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => bail!("the broker ended the connection"),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error).context("the connection failed"),
        }
    }

    /// The next frame that is there as a whole.
    fn next_frame(&mut self) -> Option<&[u8]> {
        let waiting = &self.buffer[self.start..self.end];
        let length = frame_length(waiting)?;
        let frame = waiting.get(..length)?;
        self.start += length;
        Some(frame)
    }
}

/// Encoded requests, one behind the other, written round and round.
#[derive(Debug)]
struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    next: usize,
}

impl Frames {
    /// The frames in turn, as often as makes one write worth while.
    fn repeat(frames: &[BytesMut]) -> Self {
        let once: usize = frames.iter().map(|frame| frame.len()).sum();
        let times = (WRITE_BYTES / once.max(1)).max(1);
        let (mut bytes, mut ends) = (Vec::with_capacity(once * times), Vec::new());
        for frame in (0..times).flat_map(|_| frames) {
            bytes.extend_from_slice(frame);
            ends.push(bytes.len());
        }
        Self { bytes, ends, next: 0 }
    }

    /// Writes the next `count` frames.
    fn write(&mut self, mut count: u64, out: &mut impl Write) -> std::io::Result<()> {
        while count > 0 {
            let last = self.ends.len().min(self.next.saturating_add(usize::try_from(count).unwrap_or(usize::MAX)));
            let start = self.next.checked_sub(1).map_or(0, |before| self.ends[before]);
            out.write_all(&self.bytes[start..self.ends[last - 1]])?;
            count -= u64::try_from(last - self.next).unwrap_or(count);
            self.next = last % self.ends.len();
        }
        Ok(())
    }
}

/// A pull request of one queue, in which only the offset changes.
#[derive(Debug)]
struct Pull {
    frame: BytesMut,
    /// Where its digits stand.
    digits: usize,
    offset: u64,
}

impl Pull {
    fn new(opaque: i32, queue: &MessageQueue, offset: i64) -> anyhow::Result<Self> {
        let request = PullMessage {
            consumer_group: "rocketmq-benchmark-floor".into(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            queue_offset: ANY_OFFSET,
            max_messages: 32,
            sys_flag: PullSysFlag::SUBSCRIPTION | PullSysFlag::SUSPEND,
            commit_offset: 0,
            suspend_timeout_ms: 5_000,
            subscription: Some("*".into()),
            sub_version: 0,
            expression_type: Some("TAG".into()),
            max_bytes: None,
            broker_name: Some(queue.broker_name.clone()),
        };
        let mut command = Command::request(&request);
        command.opaque = opaque;
        let mut frame = BytesMut::new();
        CommandCodec::default().encode_head(&command, &mut frame)?;
        let digits = ANY_OFFSET.to_string();
        let digits = find(&frame, digits.as_bytes()).context("a pull request holds its offset")?;
        let mut pull = Self { frame, digits, offset: u64::try_from(offset)? };
        pull.advance(0);
        Ok(pull)
    }

    fn advance(&mut self, count: u64) {
        self.offset += count;
        let mut rest = self.offset;
        for at in (self.digits..self.digits + OFFSET_DIGITS).rev() {
            self.frame[at] = b"0123456789"[usize::try_from(rest % 10).unwrap_or_default()];
            rest /= 10;
        }
    }
}

fn send_frame(queue: &MessageQueue, size: usize) -> anyhow::Result<BytesMut> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let request = SendMessage {
        producer_group: "rocketmq-benchmark".into(),
        topic: queue.topic.clone(),
        default_topic: "TBW102".into(),
        default_topic_queue_nums: NEW_TOPIC_QUEUES,
        queue_id: queue.queue_id,
        sys_flag: 0,
        born_timestamp_ms: i64::try_from(now.as_millis())?,
        flag: 0,
        properties: Some("UNIQ_KEY\u{1}7F00000100010000000000000000ABCD\u{2}".to_owned()),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: None,
        batch: Some(false),
        broker_name: Some(queue.broker_name.clone()),
    };
    let command = Command::request(&request).with_body(produce::body(size));
    let mut frame = BytesMut::new();
    CommandCodec::default().encode_head(&command, &mut frame)?;
    frame.extend_from_slice(&command.body);
    Ok(frame)
}

/// The whole length of the frame that begins here.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let word = u32::from_be_bytes(*bytes.first_chunk()?);
    usize::try_from(word).ok()?.checked_add(4)
}

/// The head and the body of a frame.
fn split(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let word = u32::from_be_bytes(*frame.get(4..)?.first_chunk()?);
    frame.get(8..)?.split_at_checked(usize::try_from(word & 0x00ff_ffff).ok()?)
}

fn is_success(frame: &[u8]) -> bool {
    let Some((head, _)) = split(frame) else { return false };
    head.starts_with(br#"{"code":0,"#) || code(head) == Some(SUCCESS)
}

fn code(head: &[u8]) -> Option<usize> {
    number_after(head, br#""code":"#)
}

fn opaque(head: &[u8]) -> Option<usize> {
    number_after(head, br#""opaque":"#)
}

fn number_after(head: &[u8], name: &[u8]) -> Option<usize> {
    let rest = &head[find(head, name)? + name.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number: Option<usize>, digit| {
        Some(number.unwrap_or(0).saturating_mul(10).saturating_add(usize::from(digit - b'0')))
    })
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// How many stored messages a pulled body holds. Each begins with its size.
fn count_records(mut body: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(word) = body.first_chunk() {
        let size = usize::try_from(u32::from_be_bytes(*word)).unwrap_or(usize::MAX);
        let Some(rest) = body.get(size.max(4)..) else { break };
        body = rest;
        count += 1;
    }
    count
}

const NEW_TOPIC_QUEUES: i32 = 4;
const SUCCESS: usize = 0;
const NOT_FOUND: usize = 19;
const RETRY_IMMEDIATELY: usize = 20;
/// An offset as long as any: its digits are written over.
const ANY_OFFSET: i64 = 1_000_000_000_000_000_000;
const OFFSET_DIGITS: usize = 19;
const BUFFER_BYTES: usize = 256 * 1024;
const WRITE_BYTES: usize = 256 * 1024;
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// How many messages go by between two strokes of the progress bar.
const SHOW_EVERY: u64 = 1_000;
/// How long to wait for the broker.
const IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> MessageQueue {
        MessageQueue::new("t", "a", 3)
    }

    #[test]
    fn a_pull_asks_for_the_offset_it_has_come_to() {
        let mut pull = Pull::new(7, &queue(), 98).unwrap();
        let length = pull.frame.len();
        pull.advance(32);
        let (head, body) = split(&pull.frame).unwrap();
        assert_eq!((frame_length(&pull.frame), opaque(head)), (Some(length), Some(7)));
        assert!(body.is_empty());
        let head = String::from_utf8_lossy(head);
        assert!(head.contains(r#""queueOffset":"0000000000000000130""#), "{head}");
    }

    #[test]
    fn frames_are_written_in_turn_and_whole() {
        let frames: Vec<_> = ["a", "bb", "ccc"].map(BytesMut::from).into();
        let mut load = Frames { bytes: b"abbccc".to_vec(), ends: vec![1, 3, 6], next: 0 };
        let mut out = Vec::new();
        for count in [2, 0, 3, 4] {
            load.write(count, &mut out).unwrap();
        }
        assert_eq!(out, b"abbcccabbcccabbccc");
        let repeated = Frames::repeat(&frames);
        assert!(repeated.bytes.len() > WRITE_BYTES - 6 && repeated.bytes.len() <= WRITE_BYTES);
        assert_eq!(repeated.ends.last(), Some(&repeated.bytes.len()));
    }

    #[test]
    fn a_frame_of_a_send_is_one_frame() {
        let frame = send_frame(&queue(), 100).unwrap();
        let (head, body) = split(&frame).unwrap();
        assert_eq!((frame_length(&frame), body.len(), code(head)), (Some(frame.len()), 100, Some(310)));
    }

    #[test]
    fn the_code_is_found_wherever_it_stands() {
        let frame = |head: &str| {
            let length = u32::try_from(head.len()).unwrap();
            [&(length + 4).to_be_bytes()[..], &length.to_be_bytes(), head.as_bytes()].concat()
        };
        assert!(is_success(&frame(r#"{"code":0,"flag":1}"#)));
        assert!(is_success(&frame(r#"{"flag":1,"code":0}"#)));
        assert!(!is_success(&frame(r#"{"code":2,"flag":1}"#)));
        assert!(!is_success(&frame(r#"{"flag":1}"#)));
        assert!(!is_success(&[0; 5]));
    }

    #[test]
    fn records_are_counted_by_their_sizes() {
        let record = |size: u32| [&size.to_be_bytes()[..], &vec![0; size as usize - 4]].concat();
        assert_eq!(count_records(&[record(10), record(4), record(90)].concat()), 3);
        assert_eq!(count_records(&record(10)[..9]), 0);
        assert_eq!(count_records(&[0; 8]), 2, "a size of nothing does not stop the count for ever");
    }
}
