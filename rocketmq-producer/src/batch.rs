use crate::{BatchReceipt, Error, Producer, attempt::Delivery};
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
        let _under_way = self.under_way()?;
        let shared = self.shared();
        let mut messages = messages;
        check_batch(&messages, shared.config.max_message_bytes)?;
        let ids: Vec<String> = messages.iter_mut().map(crate::prepare::ensure_unique_id).collect();
        let size = messages.iter().map(|message| message.body().len() + message.properties().len() + ITEM_BYTES).sum();
        if size > shared.config.max_message_bytes {
            return Err(MessageError::BodyTooLarge { size, max: shared.config.max_message_bytes }.into());
        }
        let mut body = BytesMut::with_capacity(size);
        encode_batch(&messages, &mut body)?;
        let topic: Arc<str> = messages.first().map_or("", Message::topic).into();
        let mut header = shared.header(topic.clone());
        header.batch = Some(true);
        let deadline = Deadline::after(shared.config.send_timeout);
        let first_id = ids.first().cloned().unwrap_or_default();
        let mut delivery = Delivery::new(topic, first_id, SendBatchMessage(header), body.freeze(), deadline);
        let (queue, answer) = delivery.run(shared).await?;
        Ok(BatchReceipt::new(ids, queue, answer))
    }
}

/// What the layout of a batch adds to an item's body and properties.
const ITEM_BYTES: usize = 22;
