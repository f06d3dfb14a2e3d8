use crate::{assigned::AssignedQueue, member::Member, outcome::DEAD, undecodable::is_malformed};
use rocketmq_common::{
    Error, StoredMessage,
    message::{
        names::{RETRY_PREFIX, is_retry_topic},
        property,
    },
    protocol::SendBack,
    remote::{Deadline, ResponseCode},
};
use std::{sync::Arc, time::Duration};

impl Member {
    /// Gives a message of a queue back to its broker: to come again later, or to be a dead letter. Where that does not take it, and
    /// not only for now, it is sent to the retry topic instead.
    ///
    /// # Errors
    /// Why neither was possible. The message is to stay unfinished then.
    ///
    /// # Protocol
    /// Java: `DefaultMQPushConsumerImpl.sendMessageBack`.
    pub(crate) async fn give_back(
        &self,
        queue: &AssignedQueue,
        message: &StoredMessage,
        delay_level: i32,
    ) -> Result<(), Error> {
        if let Some(popped) = &queue.popped {
            self.give_back_popped(popped, message, delay_level).await;
            return Ok(());
        }
        self.give_back_pulled(message, delay_level).await
    }

    /// As [`give_back`](Self::give_back), of a message that was pulled.
    pub(crate) async fn give_back_pulled(&self, message: &StoredMessage, delay_level: i32) -> Result<(), Error> {
        let queue = message.queue();
        let broker_name = self.client.broker_of(&queue);
        // A queue of a static topic may have moved since, and its message lie on another broker than the queue is on. Of a
        // damaged record the position may not be known.
        if broker_name == queue.broker_name && message.commit_log_offset() >= 0 {
            let Err(error) = self.send_back(&broker_name, message, delay_level).await else { return Ok(()) };
            tracing::warn!(
                group = %self.group, topic = message.topic(), message_id = %message.printable_id(),
                error = &error as &dyn std::error::Error, "message not taken back"
            );
            if error.response_code().is_some_and(is_passing) {
                return Err(error);
            }
        }
        let delay_level = if is_malformed(message) { DEAD } else { delay_level };
        self.send_again(message, delay_level).await.inspect_err(|error| {
            tracing::warn!(
                group = %self.group, topic = message.topic(), message_id = %message.printable_id(),
                error = error as &dyn std::error::Error, "message not sent to the retry topic either"
            );
        })
    }

    async fn send_back(&self, broker_name: &Arc<str>, message: &StoredMessage, delay_level: i32) -> Result<(), Error> {
        let request = SendBack {
            commit_log_offset: message.commit_log_offset(),
            group: self.group.clone(),
            delay_level,
            origin_message_id: Some(message.message_id().into_owned()),
            origin_topic: Some(message.shared_topic().clone()),
            unit_mode: Some(false),
            max_reconsume_times: Some(self.max_reconsume_times()),
            broker_name: Some(broker_name.clone()),
        };
        self.client.send_back(broker_name, &request, Deadline::after(SEND_BACK_TIMEOUT)).await
    }

    /// Says that a message was not consumed.
    pub(crate) fn tell_failed(&self, message: &StoredMessage, reason: &str) {
        if self.is_broadcast && message.decode_error().is_some() {
            // It does not come again: this is all that is ever said of it.
            tracing::error!(
                group = %self.group, topic = message.topic(), queue_id = message.queue_id(),
                offset = message.queue_offset(), message_id = %message.printable_id(), failure = reason,
                "message cannot be decoded and is skipped"
            );
            return;
        }
        tracing::warn!(
            group = %self.group, topic = message.topic(), queue_id = message.queue_id(),
            offset = message.queue_offset(), message_id = %message.printable_id(),
            reconsume_times = message.reconsume_times(), failure = reason, "message not consumed"
        );
    }

    /// A message of the retry topic carries the topic it was sent to, and none a namespace.
    pub(crate) fn as_the_user_sees_it(&self, message: &StoredMessage) -> StoredMessage {
        let message = message.clone();
        if !is_retry_topic(message.topic()) {
            return self.client.namespace().strip_message(message);
        }
        let topic = message.property(property::RETRY_TOPIC).unwrap_or(message.topic());
        let topic = self.shared_topic(self.popped_topic(topic).unwrap_or(topic));
        self.client.namespace().strip_message(message.with_topic(topic))
    }

    /// The topic whose messages lie in a topic if the group has popped them and not settled them in time.
    fn popped_topic<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let of_group = topic.strip_prefix(RETRY_PREFIX)?.strip_prefix(&*self.group)?;
        of_group.strip_prefix('_').filter(|topic| self.subscriptions().contains_key(*topic))
    }
}

/// Whether a broker that refuses a message now may well take it soon.
fn is_passing(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::SYSTEM_BUSY | ResponseCode::FLOW_CONTROL)
}

const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);
