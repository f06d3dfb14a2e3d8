use crate::{
    BatchReceipt, Error, PendingBatchReceipt, Producer, Select, SendReceipt,
    attempt::Delivery,
    detached::run_detached,
    interceptor::Watch,
    launch::{Delivered, launch},
    pending::Pending,
    prepare::{compress, ensure_unique_id},
    producer::Shared,
    select::Selection,
};
use bytes::BytesMut;
use rocketmq_common::{
    Message, MessageError,
    message::{check_batch, encode_batch},
    protocol::SendBatchMessage,
    remote::Deadline,
};
use std::sync::Arc;

impl Producer {
    /// Sends many messages of one topic in one request: they are stored one after the other in one queue, all or none.
    /// A list too long for one request is divided by [`split_batch`](Self::split_batch).
    ///
    /// With [`compression`](crate::ProducerConfig::compression), all bodies are compressed where one is large enough for
    /// it and the batch gets smaller.
    ///
    /// # Errors
    /// [`Error::Message`] for an empty list, different topics, delayed messages, or more bytes than a message may
    /// have; else as [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    ///
    /// # Protocol
    /// `SEND_BATCH_MESSAGE` (320). Every item carries a unique id of its own and the request carries no properties:
    /// brokers up to 5.3.3 append those of the request to every item, where they would mask the items' ids.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<BatchReceipt, Error> {
        self.send_batch_selected(None, messages).await
    }

    /// Sends many messages to a queue of your choice, a selector seeing the first of them: [`send_batch`](Self::send_batch)
    /// in all else.
    ///
    /// # Errors
    /// Also [`Error::NoSuchQueue`] and [`Error::BadSelection`] for a choice that is none.
    pub async fn send_batch_to(&self, select: Select, messages: Vec<Message>) -> Result<BatchReceipt, Error> {
        self.send_batch_selected(Some(select), messages).await
    }

    async fn send_batch_selected(&self, select: Option<Select>, messages: Vec<Message>) -> Result<BatchReceipt, Error> {
        let shared = self.shared();
        let deadline = Deadline::after(shared.config.send_timeout);
        let _in_flight = shared.begin(deadline)?;
        let mut batch = shared.check_batch(messages)?;
        let watch = batch.watch.take();
        let result = async {
            let (mut delivery, ids) = shared.load_batch(batch, select, deadline).await?;
            let (queue, answer) = delivery.run(shared).await?;
            Ok(BatchReceipt::new(ids, queue, answer))
        };
        let result = result.await;
        show(watch.as_ref(), &result);
        result
    }

    /// Queues a batch, waiting only for room, and returns a future of the receipt: what
    /// [`send_async`](Self::send_async) is for a single message.
    ///
    /// # Errors
    /// As [`send_batch`](Self::send_batch), as far as they come up before the batch is queued.
    ///
    /// # Cancel safety
    /// As [`send_async`](Self::send_async).
    pub async fn send_batch_async(&self, messages: Vec<Message>) -> Result<PendingBatchReceipt, Error> {
        let shared = self.shared();
        let batch = shared.check_batch(messages)?;
        run_detached(shared, shared.clone().queue_batch(batch)).await
    }

    /// Divides messages of one topic into lists that each fit into one [`send_batch`](Self::send_batch), keeping their
    /// order. A message that is too large by itself makes a list of its own, which is then refused.
    ///
    /// ```
    /// # async fn run(producer: rocketmq_producer::Producer) -> Result<(), rocketmq_producer::Error> {
    /// use rocketmq_producer::Message;
    ///
    /// let messages: Vec<_> = (0..100_000).map(|n| Message::new("t", format!("message {n}"))).collect();
    /// for part in producer.split_batch(messages) {
    ///     producer.send_batch(part).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn split_batch(&self, messages: Vec<Message>) -> Vec<Vec<Message>> {
        split(messages, self.shared().config.max_message_bytes)
    }
}

/// A batch that has been found fit to be sent.
pub(crate) struct Checked {
    messages: Vec<Message>,
    size: usize,
    watch: Option<Watch>,
}

impl Shared {
    fn check_batch(&self, mut messages: Vec<Message>) -> Result<Checked, Error> {
        let max = self.config.max_message_bytes;
        check_batch(&messages, max)?;
        for message in &mut messages {
            self.enter_namespace(message)?;
            ensure_unique_id(message);
        }
        let watch = self.interceptors.before(&mut messages, max);
        let size = messages.iter().map(encoded_size).sum();
        if size > max {
            return Err(MessageError::BodyTooLarge { size, max }.into());
        }
        Ok(Checked { messages, size, watch })
    }

    /// Queues a batch once there is room for it.
    async fn queue_batch(self: Arc<Self>, mut batch: Checked) -> Result<PendingBatchReceipt, Error> {
        let room = self.room.take(batch.size).await.map_err(|_| Error::ShutDown)?;
        let deadline = Deadline::after(self.config.send_timeout);
        let in_flight = self.begin(deadline)?;
        let watch = batch.watch.take();
        let (delivery, ids) = match self.load_batch(batch, None, deadline).await {
            Ok(loaded) => loaded,
            Err(error) => {
                show(watch.as_ref(), &Err(error.clone()));
                return Err(error);
            }
        };
        let (outcome, pending) = Pending::new();
        let tell = move |delivered: Delivered| {
            let result = delivered.map(|(_, queue, answer)| BatchReceipt::new(ids, queue, answer));
            show(watch.as_ref(), &result);
            drop(room);
            outcome.tell(result);
            drop(in_flight);
        };
        launch(&self, delivery, tell).await;
        Ok(pending)
    }

    async fn load_batch(
        &self,
        batch: Checked,
        select: Option<Select>,
        deadline: Deadline,
    ) -> Result<(Delivery<SendBatchMessage>, Vec<String>), Error> {
        let (mut chosen, mut selection) = (None, None);
        if let (Some(select), Some(first)) = (select, batch.messages.first()) {
            chosen = Some(self.choose(&select, first, deadline).await?);
            selection = Some(Selection::new(select, first));
        }
        let ids = batch.messages.iter().filter_map(|message| message.properties().unique_id()).map(str::to_owned);
        let ids = ids.collect();
        let (messages, sys_flag) = self.compress_batch(batch.messages).await?;
        let mut delivery = batch_delivery(self, &messages, deadline)?.to(chosen).by_selection(selection);
        delivery.request.0.sys_flag |= sys_flag;
        Ok((delivery, ids))
    }

    /// Compresses the bodies of a batch where one is large enough for it, and the batch gets smaller: all of them, since
    /// one flag speaks for all. Also returns that flag.
    ///
    /// # Protocol
    /// Brokers store each message of a batch by itself, with the flag of the request; Java's producers leave batches as
    /// they are.
    async fn compress_batch(&self, messages: Vec<Message>) -> Result<(Vec<Message>, i32), Error> {
        let Some(compression) = messages.iter().find_map(|message| self.compression_of(message)) else {
            return Ok((messages, 0));
        };
        let mut compressed = Vec::with_capacity(messages.len());
        let (mut before, mut after) = (0, 0);
        for message in &messages {
            let body = compress(compression, self.config.compression_level, message.body().clone()).await?;
            before += message.body().len();
            after += body.len();
            let mut message = message.clone();
            message.replace_body(body);
            compressed.push(message);
        }
        if after < before { Ok((compressed, compression.sys_flag_bits())) } else { Ok((messages, 0)) }
    }
}

/// One request for messages that go together.
pub(crate) fn batch_delivery(
    producer: &Shared,
    messages: &[Message],
    deadline: Deadline,
) -> Result<Delivery<SendBatchMessage>, Error> {
    let mut body = BytesMut::with_capacity(messages.iter().map(encoded_size).sum());
    encode_batch(messages, &mut body)?;
    let topic: Arc<str> = messages.first().map_or("", Message::topic).into();
    let first_id = messages.first().and_then(|message| message.properties().unique_id()).unwrap_or_default();
    let mut header = producer.header(topic.clone());
    header.batch = Some(true);
    Ok(Delivery::new(topic, first_id.to_owned(), SendBatchMessage(header), body.freeze(), deadline))
}

/// The bytes a message takes in a batch.
pub(crate) fn encoded_size(message: &Message) -> usize {
    message.body().len() + message.properties().len() + ITEM_BYTES
}

fn split(messages: Vec<Message>, max_bytes: usize) -> Vec<Vec<Message>> {
    let mut parts = Vec::new();
    let (mut part, mut size) = (Vec::new(), 0);
    for mut message in messages {
        // The id is part of the size.
        ensure_unique_id(&mut message);
        let bytes = encoded_size(&message);
        if size + bytes > max_bytes && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        size += bytes;
        part.push(message);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Shows those who watch what became of each message of a batch.
fn show(watch: Option<&Watch>, result: &Result<BatchReceipt, Error>) {
    if let Some(watch) = watch {
        match result {
            Ok(receipt) => {
                let receipts: Vec<SendReceipt> = receipt.clone().receipts().collect();
                watch.after(Ok(&receipts));
            }
            Err(error) => watch.after(Err(error)),
        }
    }
}

/// What the layout of a batch adds to an item's body and properties.
const ITEM_BYTES: usize = 22;
