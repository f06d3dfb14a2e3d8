use crate::{
    Error, Select, attempt::Delivery, feature::Feature, interceptor::Watch, producer::Shared, select::Selection,
};
use bytes::Bytes;
use rocketmq_common::{
    Message, MessageError, MessageQueue, TopicRoute,
    compress::{CompressError, Compression},
    message::{UniqueIdGenerator, names::check_topic, property},
    protocol::SendMessage,
    remote::Deadline,
};
use std::{mem, sync::Arc, time::SystemTime};
use tokio::{task::spawn_blocking, time::timeout_at};

impl Shared {
    /// Checks that a message may be sent, gives it its id, and shows it to the interceptors: all that comes before a
    /// send is worth any waiting.
    pub(crate) fn check(&self, message: &mut Message) -> Result<Option<Watch>, Error> {
        message.validate(self.config.max_message_bytes)?;
        let ahead = message.properties().timer_delay(SystemTime::now()).unwrap_or_default();
        if ahead > self.config.max_timer_delay {
            return Err(Error::TimerTooFar { ahead, max: self.config.max_timer_delay });
        }
        self.enter_namespace(message)?;
        ensure_unique_id(message);
        Ok(self.interceptors.before(std::slice::from_mut(message), self.config.max_message_bytes))
    }

    /// Makes a message ready to go: all that is done once, before the attempts.
    pub(crate) async fn prepare(
        &self,
        message: Message,
        select: Option<Select>,
        deadline: Deadline,
    ) -> Result<Delivery<SendMessage>, Error> {
        let Some(select) = selected(select, &message) else { return self.load(message, deadline).await };
        let chosen = self.choose(&select, &message, deadline).await?;
        let selection = Selection::new(select, &message);
        Ok(self.load(message, deadline).await?.to(Some(chosen)).by_selection(Some(selection)))
    }

    /// The queue that is selected for a message. A selector sees the queues as its user knows them.
    pub(crate) async fn choose(
        &self,
        select: &Select,
        message: &Message,
        deadline: Deadline,
    ) -> Result<MessageQueue, Error> {
        let namespace = self.client.namespace();
        let route = match self.client.known_route(&namespace.wrap(message.topic())) {
            Some(route) => route,
            None => self.route(&message.topic().into(), deadline).await?,
        };
        // The route may be old: of a topic that does not exist yet, it is made after brokers of a moment ago.
        let note_stale = |_: &Error| self.client.note_stale(&route);
        if namespace.name().is_none() {
            return select.choose(route.write_queues(), message).inspect_err(note_stale);
        }
        let topic = namespace.strip_shared(route.topic().clone());
        let plain = route.write_queues().iter().map(|queue| MessageQueue { topic: topic.clone(), ..queue.clone() });
        let chosen = select.choose(&plain.collect::<Vec<_>>(), message).inspect_err(note_stale)?;
        Ok(MessageQueue { topic: route.topic().clone(), ..chosen })
    }

    /// Marks a message with the namespace, if there is one.
    pub(crate) fn enter_namespace(&self, message: &mut Message) -> Result<(), MessageError> {
        let namespace = self.client.namespace();
        let Some(name) = namespace.name() else { return Ok(()) };
        check_topic(&namespace.wrap(message.topic())).map_err(|source| MessageError::Topic { source })?;
        message.properties_mut().set(property::INSTANCE_ID, name);
        Ok(())
    }

    /// The request of a message, its body compressed if it is to be.
    pub(crate) async fn load(&self, mut message: Message, deadline: Deadline) -> Result<Delivery<SendMessage>, Error> {
        let namespace = self.client.namespace();
        let route = self.client.known_route(&namespace.wrap(message.topic()));
        let topic: Arc<str> = match &route {
            Some(route) if namespace.name().is_none() => route.topic().clone(),
            _ => message.topic().into(),
        };
        let mut request = self.header(topic.clone());
        request.flag = message.flag_bits();
        let body = match self.compression_of(&message) {
            Some(compression) => {
                request.sys_flag |= compression.sys_flag_bits();
                compress(compression, self.config.compression_level, message.body().clone()).await?
            }
            None => message.body().clone(),
        };
        let message_id = message.properties().unique_id().unwrap_or_default().to_owned();
        let first_broker = message.asked_by().cloned();
        let feature = Feature::of(message.properties());
        request.properties = Some(mem::take(message.properties_mut()).into_string());
        let delivery = Delivery::new(topic, message_id, request, body, deadline);
        Ok(delivery.first_at(first_broker).needing(feature).by(route))
    }

    /// How a message's body is to be compressed, if it is.
    pub(crate) fn compression_of(&self, message: &Message) -> Option<Compression> {
        self.config.compression.filter(|_| message.body().len() >= self.config.compress_from_bytes)
    }

    /// The route by which to send to a topic, named as its user does.
    pub(crate) async fn route(&self, topic: &Arc<str>, deadline: Deadline) -> Result<Arc<TopicRoute>, Error> {
        let namespace = self.client.namespace();
        let name = namespace.wrap_shared(topic.clone());
        if let Some(route) = self.client.known_route(&name) {
            return Ok(route);
        }
        let look_up = self.client.publish_route(&name, self.config.new_topic_queues);
        match timeout_at(deadline.instant(), look_up).await {
            Ok(route) => Ok(route.map_err(|error| namespace.strip_error(error))?),
            Err(_) => Err(Error::NoRoute { topic: topic.clone() }),
        }
    }
}

/// How the queue of a message is chosen, by the caller or by its sharding key; `None` where any will do.
pub(crate) fn selected(select: Option<Select>, message: &Message) -> Option<Select> {
    select.or_else(|| message.properties().sharding_key().map(Select::hash))
}

/// Gives a message a unique id unless it has one.
pub(crate) fn ensure_unique_id(message: &mut Message) {
    if message.properties().unique_id().is_none() {
        let id = UniqueIdGenerator::global().next();
        message.properties_mut().set(property::UNIQ_KEY, &id);
    }
}

/// Compresses a body; a large one does not keep other tasks waiting.
pub(crate) async fn compress(compression: Compression, level: u32, body: Bytes) -> Result<Bytes, Error> {
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
