use crate::{Error, pop_group::PopGroup, pop_handle::Kept};
use rocketmq_common::StoredMessage;
use std::{ops::Deref, sync::Arc, time::Duration};

/// A message that is hidden from the group for a while, to be acknowledged within that time.
///
/// Dropping it does nothing: the message comes again when its invisible time is over, with
/// [`reconsume_times`](StoredMessage::reconsume_times) raised by one.
#[derive(Debug)]
#[must_use = "a message that is not acknowledged comes again"]
pub struct PoppedMessage {
    /// The message as the user knows it.
    message: StoredMessage,
    kept: Kept,
    pops: Arc<PopGroup>,
}

impl PoppedMessage {
    pub(crate) fn new(message: StoredMessage, kept: Kept, pops: Arc<PopGroup>) -> Self {
        Self { message, kept, pops }
    }

    /// The message.
    pub fn message(&self) -> &StoredMessage {
        &self.message
    }

    /// The message without the means to settle it.
    pub fn into_message(self) -> StoredMessage {
        self.message
    }

    /// The message is done, and does not come again.
    ///
    /// # Errors
    /// [`Error::Expired`] where the invisible time was over already: the broker was told all the same, but the message may
    /// come again, or have come to another member. [`Error::HandleRefused`] where the broker knows of no such delivery.
    /// [`Error::Client`] where it could not be told: trying again may succeed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be done or come again.
    ///
    /// # Protocol
    /// `ACK_MESSAGE` (200051). A broker takes an acknowledgement that comes too late without a word.
    pub async fn ack(&self) -> Result<(), Error> {
        self.pops.ack(&self.kept).await
    }

    /// Keeps the message hidden for `invisible` from now on, up to 12 h: for work that takes longer than was thought.
    /// Makes a new [`receipt_handle`](Self::receipt_handle); the old one is worth nothing afterwards. When this time is
    /// over as well the message counts as not consumed.
    ///
    /// # Errors
    /// [`Error::Expired`] where the invisible time is over: nothing is changed then. [`Error::HandleRefused`] where the
    /// broker knows of no such delivery. [`Error::Client`] where it could not be told.
    ///
    /// # Cancel safety
    /// If the future is dropped, or no answer comes, the message may have another handle at the broker: it then comes
    /// again even if it is acknowledged.
    ///
    /// # Protocol
    /// `CHANGE_MESSAGE_INVISIBLETIME` (200053).
    pub async fn extend(&mut self, invisible: Duration) -> Result<(), Error> {
        self.kept = self.pops.hide(&self.kept, invisible).await?;
        Ok(())
    }

    /// Gives the message back: it comes again after `delay` (up to 12 h), sooner than by itself, with
    /// [`reconsume_times`](StoredMessage::reconsume_times) raised by one. Brokers look about once a second.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    ///
    /// # Cancel safety
    /// If the future is dropped the message comes again, sooner or later.
    ///
    /// # Protocol
    /// As [`extend`](Self::extend).
    pub async fn give_back(&mut self, delay: Duration) -> Result<(), Error> {
        self.extend(delay).await
    }

    /// By what the broker knows this delivery, as text: for [`ack_handle`](crate::PopConsumer::ack_handle) and
    /// [`extend_handle`](crate::PopConsumer::extend_handle), later or elsewhere.
    ///
    /// # Protocol
    /// The eight fields of the property `POP_CK`, and the topic. Java: `ExtraInfoUtil.buildExtraInfo`.
    pub fn receipt_handle(&self) -> String {
        self.kept.to_string()
    }

    /// How long the message is still hidden; zero once it may come again.
    pub fn invisible_for(&self) -> Duration {
        self.kept.expires.saturating_duration_since(tokio::time::Instant::now())
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }
}

impl Deref for PoppedMessage {
    type Target = StoredMessage;

    fn deref(&self) -> &StoredMessage {
        &self.message
    }
}
