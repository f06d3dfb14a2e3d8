use crate::member::Member;
use rocketmq_common::{
    Error, StoredMessage,
    message::{names::is_retry_topic, property},
    protocol::SendBack,
    remote::Deadline,
};
use std::time::Duration;

impl Member {
    /// Gives a message back to its broker: to come again later, or to be a dead letter.
    ///
    /// # Protocol
    /// Java: `DefaultMQPushConsumerImpl.sendMessageBack`.
    pub(crate) async fn give_back(&self, message: &StoredMessage, delay_level: i32) -> Result<(), Error> {
        let broker_name = self.client.broker_of(&message.queue());
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
        let sent = self.client.send_back(&broker_name, &request, Deadline::after(SEND_BACK_TIMEOUT)).await;
        if let Err(error) = &sent {
            tracing::warn!(
                group = %self.group, topic = message.topic(), message_id = %message.message_id(),
                error = error as &dyn std::error::Error, "message not taken back"
            );
        }
        sent
    }

    /// Says that a message was not consumed.
    pub(crate) fn tell_failed(&self, message: &StoredMessage, reason: &str) {
        tracing::warn!(
            group = %self.group, topic = message.topic(), queue_id = message.queue_id(),
            offset = message.queue_offset(), message_id = %message.message_id(),
            reconsume_times = message.reconsume_times(), failure = reason, "message not consumed"
        );
    }

    /// A message of the retry topic carries the topic it was sent to, and none a namespace.
    pub(crate) fn as_the_user_sees_it(&self, message: &StoredMessage) -> StoredMessage {
        let message = message.clone();
        let message = match message.property(property::RETRY_TOPIC).filter(|_| is_retry_topic(message.topic())) {
            Some(topic) => {
                let topic = self.shared_topic(topic);
                message.with_topic(topic)
            }
            None => message,
        };
        self.client.namespace().strip_message(message)
    }
}

const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);
