//! Requests that wait for the replies which brokers hand on.

use super::Client;
use crate::{
    Error, StoredMessage, TopicRoute, UnreadableReply,
    message::{
        DecodeLimits, Record, decode_records,
        names::reply_topic,
        properties::{Properties, lookup, property},
    },
    protocol::{MASTER_ID, PushReply},
    random::random_u64,
};
use bytes::{Bytes, BytesMut};
use rocketmq_remote::{Deadline, Incoming, ResponseCode};
use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{sync::oneshot, task::JoinSet, time::timeout_at};

/// The requests of a client that wait for a reply, by correlation id.
#[derive(Debug)]
pub(super) struct Replies {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<String, oneshot::Sender<Pushed>>,
    closed: bool,
}

/// A reply as the broker handed it on; who waits for it reads it, not the task that reads the connection.
#[derive(Debug)]
struct Pushed {
    header: PushReply,
    body: Bytes,
    arrived_ms: i64,
}

impl Default for Replies {
    fn default() -> Self {
        Self::new(MAX_WAITING)
    }
}

impl Replies {
    fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    fn expect(self: &Arc<Self>) -> Result<ExpectedReply, Error> {
        let correlation_id = random_uuid();
        let mut state = self.state();
        if state.closed {
            return Err(Error::ShutDown);
        }
        if state.waiting.len() >= self.limit {
            return Err(Error::TooManyRequests { limit: self.limit });
        }
        let (sender, pushed) = oneshot::channel();
        state.waiting.insert(correlation_id.clone(), sender);
        drop(state);
        Ok(ExpectedReply { correlation_id, pushed, replies: self.clone() })
    }

    /// Takes a reply from a broker. One that nobody waits for any more is taken as well: the broker can do nothing
    /// about it, and would tell the replier that it failed.
    pub(super) fn receive(&self, incoming: Incoming) {
        let header: PushReply = match incoming.header() {
            Ok(header) => header,
            Err(error) => {
                tracing::warn!(addr = %incoming.addr(), error = &error as &dyn std::error::Error, "unreadable reply");
                return incoming.refuse(ResponseCode::SYSTEM_ERROR, "process reply message fail");
            }
        };
        let pushed = Pushed { header, body: incoming.command().body.clone(), arrived_ms: now_ms() };
        let correlation_id = lookup(pushed.header.properties.as_deref().unwrap_or_default(), property::CORRELATION_ID);
        let waiting = correlation_id.and_then(|id| self.state().waiting.remove(id));
        let taken = waiting.is_some_and(|waiting| waiting.send(pushed).is_ok());
        if !taken {
            tracing::debug!(addr = %incoming.addr(), "a reply came that nobody waits for");
        }
        if let Err(error) = incoming.answer::<PushReply>(()) {
            tracing::debug!(error = &error as &dyn std::error::Error, "a reply is not acknowledged");
        }
    }

    /// Ends all waiting; there are to be no more requests.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The reply to a request that is about to be sent, as a future. Dropping it ends the waiting; a reply that comes later
/// is dropped.
#[derive(Debug)]
#[must_use = "a reply that nobody waits for is dropped"]
pub struct ExpectedReply {
    correlation_id: String,
    pushed: oneshot::Receiver<Pushed>,
    replies: Arc<Replies>,
}

impl ExpectedReply {
    /// The id that the request has to carry.
    pub fn correlation_id(&self) -> &str {
        &self.correlation_id
    }
}

impl Future for ExpectedReply {
    type Output = Result<StoredMessage, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match ready!(Pin::new(&mut self.pushed).poll(context)) {
            Ok(pushed) => Poll::Ready(pushed.read().map_err(|source| Error::UnreadableReply { source: source.into() })),
            Err(_) => Poll::Ready(Err(Error::ShutDown)),
        }
    }
}

impl Drop for ExpectedReply {
    fn drop(&mut self) {
        self.replies.state().waiting.remove(&self.correlation_id);
    }
}

impl Pushed {
    /// A reply does not come as a record, so it is made one.
    fn read(self) -> Result<StoredMessage, UnreadableReply> {
        let Self { header, body, arrived_ms } = self;
        let mut properties = Properties::from(header.properties.unwrap_or_default());
        properties.set(property::ARRIVE_TIME, &arrived_ms.to_string());
        let record = Record {
            topic: &header.topic,
            queue_id: header.queue_id,
            queue_offset: 0,
            commit_log_offset: 0,
            flag: header.flag,
            // What brokers set in records does not hold here.
            sys_flag: header.sys_flag & SYS_FLAG,
            born_timestamp_ms: header.born_timestamp_ms,
            born_host: socket_addr(header.born_host),
            store_timestamp_ms: header.store_timestamp_ms.unwrap_or(0),
            store_host: socket_addr(header.store_host),
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_transaction_offset: 0,
            body: &body,
            properties: properties.as_str(),
        };
        let mut bytes = BytesMut::new();
        record.encode(&mut bytes)?;
        let mut records = decode_records(bytes.freeze(), &header.topic, &"".into(), DecodeLimits::default());
        Ok(records.next().expect("a record was written")?)
    }
}

impl Client {
    /// Enters a request that is about to be sent among those that wait for a reply.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] where 65,536 wait already, [`Error::ShutDown`].
    ///
    /// # Protocol
    /// `PUSH_REPLY_MESSAGE_TO_CLIENT` (326); Java: `RequestFutureHolder`, `ClientRemotingProcessor`.
    pub fn expect_reply(&self) -> Result<ExpectedReply, Error> {
        self.shared().replies.expect()
    }

    /// Connects to every broker from which the reply to a request by this route may come: those of the topic, and all
    /// others that take replies in their clusters. A broker hands replies only to clients that have shown themselves
    /// to it. Those that cannot be reached before the deadline are left out.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempts to connect.
    pub async fn be_reachable(&self, route: &TopicRoute, deadline: Deadline) {
        let mut routes = Vec::new();
        for cluster in route.clusters() {
            let topic: Arc<str> = reply_topic(cluster).into();
            match timeout_at(deadline.instant(), self.route(&topic)).await {
                Ok(Ok(route)) => routes.push(route),
                Ok(Err(error)) => {
                    tracing::debug!(%topic, error = &error as &dyn std::error::Error, "no route for replies");
                }
                Err(_) => return,
            }
        }
        let brokers = routes.iter().flat_map(|route| route.brokers()).chain(route.brokers());
        let mut masters: HashSet<Arc<str>> = brokers.filter_map(|(_, addrs)| addrs.get(&MASTER_ID)).cloned().collect();
        for connection in self.shared().pool.open() {
            masters.remove(connection.addr());
        }
        let mut connecting = JoinSet::new();
        for addr in masters {
            let shared = self.shared().clone();
            connecting.spawn(async move {
                if let Err(error) = shared.broker(&addr, deadline).await {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "no reply can come from this broker");
                }
            });
        }
        let _ = timeout_at(deadline.instant(), async { while connecting.join_next().await.is_some() {} }).await;
    }
}

/// `127.0.0.1:10911`, also with a slash before it.
fn socket_addr(text: Option<String>) -> SocketAddr {
    let text = text.as_deref().unwrap_or_default();
    let text = text.rsplit_once('/').map_or(text, |(_, address)| address);
    text.parse().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

/// A random UUID (version 4), as Java makes its correlation ids.
fn random_uuid() -> String {
    let (high, low) = (random_u64(), random_u64());
    let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
    let (first, second, third) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
    format!("{first:08x}-{second:04x}-{third:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Far more than an application waits for at once, and little memory.
const MAX_WAITING: usize = 65_536;
/// Whether the body is compressed, and how.
const SYS_FLAG: i32 = 0x701;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_wait_any_more_leaves_no_trace() {
        let replies = Arc::new(Replies::new(2));
        let (one, other) = (replies.expect().unwrap(), replies.expect().unwrap());
        assert_ne!(one.correlation_id(), other.correlation_id());
        assert!(matches!(replies.expect(), Err(Error::TooManyRequests { limit: 2 })));
        drop(one);
        assert_eq!(replies.state().waiting.len(), 1);
        replies.close();
        assert!(matches!(other.await, Err(Error::ShutDown)));
        assert!(matches!(replies.expect(), Err(Error::ShutDown)));
        assert!(replies.state().waiting.is_empty());
    }

    fn pushed(sys_flag: i32, body: &'static [u8]) -> Pushed {
        let header = PushReply {
            producer_group: None,
            topic: "C_REPLY_TOPIC".into(),
            default_topic: None,
            default_topic_queue_nums: None,
            queue_id: 3,
            sys_flag,
            born_timestamp_ms: 1,
            flag: 7,
            properties: Some("a\u{1}b".into()),
            reconsume_times: None,
            unit_mode: None,
            born_host: Some("/127.0.0.1:5".into()),
            store_host: Some("[::1]:6".into()),
            store_timestamp_ms: Some(2),
        };
        Pushed { header, body: Bytes::from_static(body), arrived_ms: 9 }
    }

    #[test]
    fn a_reply_reads_like_any_message() {
        let reply = pushed(0x10, b"answer").read().unwrap();
        assert_eq!((reply.topic(), &reply.body()[..], reply.flag()), ("C_REPLY_TOPIC", &b"answer"[..], 7));
        assert_eq!((reply.property("a"), reply.property("ARRIVE_TIME")), (Some("b"), Some("9")));
        assert_eq!(reply.born_host(), "127.0.0.1:5".parse().unwrap());
        assert_eq!(reply.store_host(), "[::1]:6".parse().unwrap());
    }

    #[test]
    fn a_body_that_does_not_decompress_is_an_error() {
        assert!(matches!(pushed(1, b"no zlib").read(), Err(UnreadableReply::Corrupt(_))));
        assert_eq!(socket_addr(Some("junk".into())).port(), 0);
    }

    #[test]
    fn correlation_ids_are_uuids() {
        let id = random_uuid();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert!(id[14..].starts_with('4') && id[19..].starts_with(['8', '9', 'a', 'b']), "{id}");
    }
}
