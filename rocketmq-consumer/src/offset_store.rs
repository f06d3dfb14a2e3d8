use crate::{Error, offset_file::OffsetFile};
use rocketmq_common::{Client, MessageQueue, unwinding};
use std::{fmt, future::Future, pin::Pin, sync::Arc};
use tokio::time::timeout;

/// Keeps how far a group is, in a place of one's own: a database, where the offset goes along with what was made of the
/// messages. It takes the place of the brokers, or of the local file of a broadcast consumer.
///
/// A failure, a panic, or no end within the [request timeout](rocketmq_common::ClientConfig::request_timeout) is tried
/// again: a queue is not begun before its offset is known, and one that could not be saved is saved later.
///
/// ```
/// use rocketmq_consumer::{MessageQueue, OffsetStore, Storing};
/// use std::{collections::HashMap, sync::Mutex};
///
/// #[derive(Debug, Default)]
/// struct InMemory(Mutex<HashMap<MessageQueue, i64>>);
///
/// impl OffsetStore for InMemory {
///     fn load<'a>(&'a self, _group: &'a str, queue: &'a MessageQueue) -> Storing<'a, Option<i64>> {
///         Box::pin(async { Ok(self.0.lock().unwrap().get(queue).copied()) })
///     }
///     fn save<'a>(&'a self, _group: &'a str, offsets: &'a [(MessageQueue, i64)]) -> Storing<'a, ()> {
///         Box::pin(async { Ok(self.0.lock().unwrap().extend(offsets.iter().cloned())) })
///     }
/// }
/// ```
///
/// # Protocol
/// Java: `OffsetStore`.
pub trait OffsetStore: fmt::Debug + Send + Sync + 'static {
    /// The offset of the next message the group has to consume in a queue; `None` where it has not begun: then
    /// [`start_at`](crate::PushConfig::start_at) says where, and that offset is saved before anything is consumed.
    ///
    /// # Cancel safety
    /// The future is dropped where it takes too long, or the queue goes to another member.
    fn load<'a>(&'a self, group: &'a str, queue: &'a MessageQueue) -> Storing<'a, Option<i64>>;

    /// Saves the offsets of one or several queues. An offset may be lower than the last one: someone has reset it.
    ///
    /// # Cancel safety
    /// The future is dropped where it takes too long; all its offsets are saved again then.
    fn save<'a>(&'a self, group: &'a str, offsets: &'a [(MessageQueue, i64)]) -> Storing<'a, ()>;
}

/// What an [`OffsetStore`] does, as a future.
pub type Storing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why an [`OffsetStore`] cannot load or save.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// Where the offsets of a member are.
#[derive(Debug)]
pub(crate) enum Offsets {
    Brokers,
    File(Arc<OffsetFile>),
    Own(Arc<dyn OffsetStore>),
}

impl Offsets {
    /// Whether offsets of a topic were there before this member started, of whichever queues: one that has none
    /// appeared while no member was there. Known of a local file only, which no other member writes.
    pub(crate) fn knew_topic(&self, topic: &str) -> bool {
        match self {
            Self::File(file) => file.knew_topic(topic),
            Self::Brokers | Self::Own(_) => false,
        }
    }

    /// How far the group was in a queue when somebody last recorded it; `None` where nobody has.
    pub(crate) async fn load(
        &self,
        client: &Client,
        group: &Arc<str>,
        queue: &MessageQueue,
    ) -> Result<Option<i64>, Error> {
        match self {
            Self::Brokers => Ok(client.consumer_offset(group, queue).await?),
            Self::File(file) => Ok(file.get(queue)),
            Self::Own(store) => {
                let namespace = client.namespace();
                let queue = namespace.strip_queue(queue.clone());
                store_call(client, || store.load(namespace.strip_group(group), &queue)).await
            }
        }
    }
}

/// Saves offsets in a store of the user's, under the names the user knows.
pub(crate) async fn save(
    store: &Arc<dyn OffsetStore>,
    client: &Client,
    group: &Arc<str>,
    offsets: Vec<(MessageQueue, i64)>,
) -> Result<(), Error> {
    let namespace = client.namespace();
    let offsets: Vec<_> = offsets.into_iter().map(|(queue, offset)| (namespace.strip_queue(queue), offset)).collect();
    store_call(client, || store.save(namespace.strip_group(group), &offsets)).await
}

async fn store_call<'a, T>(client: &Client, call: impl FnOnce() -> Storing<'a, T>) -> Result<T, Error> {
    let failed = |source: StoreError| Error::OffsetStore { source: source.into() };
    match timeout(client.config().request_timeout, unwinding(call)).await {
        Ok(Ok(result)) => result.map_err(failed),
        Ok(Err(panic)) => Err(failed(format!("panic: {panic}").into())),
        Err(_) => Err(failed("no end within the request timeout".into())),
    }
}
