//! Messages that are taken for a while: to the master of their broker, from 5.0 on.

use super::Client;
use crate::{
    Error,
    protocol::{
        AckMessage, BatchAckMessage, BatchAcks, ChangeInvisibleTime, Hidden, Notice, Notification, PopMessage, Popped,
    },
};
use rocketmq_remote::{Deadline, Json};

impl Client {
    /// Takes messages from a broker, which are hidden from the group for a while.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn pop_message(
        &self,
        broker_name: &str,
        request: &PopMessage,
        deadline: Deadline,
    ) -> Result<Popped, Error> {
        Ok(self.call(&self.master(broker_name)?, request, (), deadline).await?)
    }

    /// Waits until there are messages to pop.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn pop_notification(
        &self,
        broker_name: &str,
        request: &Notification,
        deadline: Deadline,
    ) -> Result<Notice, Error> {
        Ok(self.call(&self.master(broker_name)?, request, (), deadline).await?)
    }

    /// Says that a popped message is done.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn ack_message(&self, broker_name: &str, request: &AckMessage, deadline: Deadline) -> Result<(), Error> {
        Ok(self.call(&self.master(broker_name)?, request, (), deadline).await?)
    }

    /// Says that popped messages of one broker are done.
    ///
    /// # Errors
    /// As [`call`](Self::call). The broker passes over what makes no sense without a word.
    pub async fn batch_ack(&self, acks: BatchAcks, deadline: Deadline) -> Result<(), Error> {
        let addr = self.master(&acks.broker_name)?;
        Ok(self.call(&addr, &BatchAckMessage {}, Json(acks), deadline).await?)
    }

    /// Hides a popped message for another time, from now on.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn change_invisible_time(
        &self,
        broker_name: &str,
        request: &ChangeInvisibleTime,
        deadline: Deadline,
    ) -> Result<Hidden, Error> {
        Ok(self.call(&self.master(broker_name)?, request, (), deadline).await?)
    }
}
