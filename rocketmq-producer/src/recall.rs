use crate::{Error, Producer, SendReceipt};
use rocketmq_common::protocol::RecallMessage;

impl Producer {
    /// Takes a timer message back before it is delivered. The broker's word means that it will not deliver the message
    /// from now on; one that is being delivered at this moment may still arrive.
    ///
    /// ```no_run
    /// use rocketmq_producer::{Message, Producer};
    /// use std::time::Duration;
    ///
    /// # async fn run(producer: Producer) -> Result<(), rocketmq_producer::Error> {
    /// let reminder = Message::new("reminders", "o-17").deliver_after(Duration::from_secs(3600));
    /// let receipt = producer.send(reminder).await?;
    /// producer.recall(&receipt).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotRecallable`] for a receipt without a recall handle. [`Error::Client`] with the broker's refusal:
    /// NO_PERMISSION where recall is switched off (`recallMessageEnable`, the default), ILLEGAL_OPERATION where the
    /// time has passed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the message was recalled; asking again is harmless.
    ///
    /// # Protocol
    /// `RECALL_MESSAGE` (370), brokers from 5.3.2 on.
    pub async fn recall(&self, receipt: &SendReceipt) -> Result<(), Error> {
        let shared = self.shared();
        let deadline = shared.client.request_deadline();
        let _in_flight = shared.begin(deadline)?;
        let not_recallable = || Error::NotRecallable { message_id: receipt.message_id.clone() };
        let broker_name = shared.client.broker_of(&shared.client.namespace().wrap_queue(receipt.queue.clone()));
        let request = RecallMessage {
            producer_group: Some(shared.group.clone()),
            topic: shared.client.namespace().wrap_shared(receipt.queue.topic.clone()),
            recall_handle: receipt.recall_handle.clone().ok_or_else(not_recallable)?,
            broker_name: Some(broker_name.clone()),
        };
        let master = shared.client.master(&broker_name)?;
        let answer = shared.client.call(&master, &request, (), deadline).await;
        answer.map(drop).map_err(|error| Error::Client(error.into()))
    }
}
