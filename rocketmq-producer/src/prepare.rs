use crate::{Error, Select, attempt::Delivery, producer::Shared};
use bytes::Bytes;
use rocketmq_common::{
    Message, TopicRoute,
    compress::{CompressError, Compression},
    message::{UniqueIdGenerator, property},
    protocol::SendMessage,
    remote::Deadline,
};
use std::{mem, sync::Arc};
use tokio::{task::spawn_blocking, time::timeout_at};

impl Shared {
    /// Checks a message and makes it ready to go: all that is done once, before the attempts.
    pub(crate) async fn prepare(
        &self,
        mut message: Message,
        select: Option<Select>,
    ) -> Result<Delivery<SendMessage>, Error> {
        message.validate(self.config.max_message_bytes)?;
        let deadline = Deadline::after(self.config.send_timeout);
        let message_id = ensure_unique_id(&mut message);
        let mut route = self.client.known_route(message.topic());
        let topic: Arc<str> = match &route {
            Some(route) => route.topic().clone(),
            None => message.topic().into(),
        };
        let select = select.or_else(|| message.properties().sharding_key().map(Select::hash));
        let chosen = match select {
            Some(select) => {
                let known = match route.take() {
                    Some(route) => route,
                    None => self.route(&topic, deadline).await?,
                };
                let queue = select.choose(known.write_queues(), &message)?;
                route = Some(known);
                Some(queue)
            }
            None => None,
        };
        let mut request = self.header(topic.clone());
        request.flag = message.flag_bits();
        let body = match self.config.compression {
            Some(compression) if message.body().len() >= self.config.compress_from_bytes => {
                request.sys_flag |= compression.sys_flag_bits();
                compress(compression, self.config.compression_level, message.body().clone()).await?
            }
            _ => message.body().clone(),
        };
        request.properties = Some(mem::take(message.properties_mut()).into_string());
        Ok(Delivery::new(topic, message_id, request, body, deadline).to(chosen).by(route))
    }

    /// The route by which to send to a topic.
    pub(crate) async fn route(&self, topic: &Arc<str>, deadline: Deadline) -> Result<Arc<TopicRoute>, Error> {
        if let Some(route) = self.client.known_route(topic) {
            return Ok(route);
        }
        let look_up = self.client.publish_route(topic, self.config.new_topic_queues);
        match timeout_at(deadline.instant(), look_up).await {
            Ok(route) => Ok(route?),
            Err(_) => Err(Error::NoRoute { topic: topic.clone() }),
        }
    }
}

/// The message's unique id, made now unless it has one.
pub(crate) fn ensure_unique_id(message: &mut Message) -> String {
    if let Some(id) = message.properties().unique_id() {
        return id.to_owned();
    }
    let id = UniqueIdGenerator::global().next();
    message.properties_mut().set(property::UNIQ_KEY, &id);
    id
}

/// Compresses a body; a large one does not keep other tasks waiting.
async fn compress(compression: Compression, level: u32, body: Bytes) -> Result<Bytes, Error> {
    let failed = |error: CompressError| Error::Compress(Arc::new(error));
    if body.len() <= BLOCKING_FROM_BYTES {
        return compression.compress(level, &body).map_err(failed);
    }
    let compressed = spawn_blocking(move || compression.compress(level, &body)).await;
    // The task ends without a result only when the runtime shuts down.
    compressed.map_err(|_| Error::ShutDown)?.map_err(failed)
}

/// What takes about a millisecond to compress.
const BLOCKING_FROM_BYTES: usize = 64 * 1024;
