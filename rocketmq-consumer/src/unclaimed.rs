//! Pops for receivers that may be dropped meanwhile: what they bring is then made visible again.

use crate::{
    Error, PoppedMessage, decode::decompress_within, popper::Popper, subscription::wants, undecodable::is_malformed,
};
use rocketmq_common::{MessageQueue, StoredMessage, protocol::SubscriptionData};
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, task::JoinSet, time::sleep};

/// Messages that no receiver has yet. Dropping them makes them visible again: otherwise they would stay hidden for their
/// invisible time, and in an ordered queue hold up all that is behind them.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    popper: Arc<Popper>,
    messages: Vec<PoppedMessage>,
    /// There were others, which the subscription does not want.
    pub(crate) unwanted: bool,
}

impl Unclaimed {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn claim(mut self) -> Vec<PoppedMessage> {
        std::mem::take(&mut self.messages)
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        if messages.is_empty() {
            return;
        }
        let pops = self.popper.pops.clone();
        tracing::debug!(group = %pops.group, messages = messages.len(), "receiver dropped, making its messages visible");
        self.popper.spawn(async move {
            let mut giving_back = JoinSet::new();
            for message in messages {
                let pops = pops.clone();
                giving_back.spawn(async move { pops.make_visible(message.kept()).await });
            }
            giving_back.join_all().await;
        });
    }
}

impl Popper {
    /// Pops from one broker, without waiting for messages. Runs to completion even if the caller is dropped. Unwanted
    /// messages are acknowledged, and messages with too many deliveries are sent to the dead letter queue. Messages that
    /// cannot be decoded have failed.
    pub(crate) async fn pop(
        self: &Arc<Self>,
        target: MessageQueue,
        subscription: Arc<SubscriptionData>,
        max: i32,
        invisible_ms: i64,
    ) -> Result<Unclaimed, Error> {
        let popper = self.clone();
        let (sender, popped) = oneshot::channel();
        self.spawn(async move {
            let pop = async {
                let mut came = popper.pops.pop(&target, &subscription, max, invisible_ms).await?;
                let count = came.len();
                decompress_within(&mut came, |(message, _)| message, usize::MAX, popper.config.max_body_bytes).await;
                let is_wanted = |message: &StoredMessage| wants(&subscription, message);
                let (undecodable, came) = came.into_iter().partition::<Vec<_>, _>(|(message, _)| {
                    is_malformed(message) || message.decode_error().is_some() && is_wanted(message)
                });
                popper.pops.fail(&popper.tasks, undecodable).await;
                let wanted = popper.pops.keep_wanted(&popper.tasks, came, is_wanted).await;
                let namespace = popper.pops.client.namespace();
                let messages: Vec<_> = wanted
                    .into_iter()
                    .map(|(message, kept)| {
                        PoppedMessage::new(namespace.strip_message(message), kept, popper.pops.clone())
                    })
                    .collect();
                let unwanted = messages.len() < count;
                Ok(Unclaimed { popper: popper.clone(), messages, unwanted })
            };
            let ended = async {
                popper.stopped.cancelled().await;
                sleep(GRACE).await;
            };
            let popped = tokio::select! {
                popped = pop => popped,
                () = ended => Err(Error::ShutDown),
            };
            // Dropped if the receiver is gone, which makes the messages visible again.
            let _ = sender.send(popped);
        });
        popped.await.unwrap_or(Err(Error::ShutDown))
    }
}

/// How long a shutdown waits for pops under way, to make their messages visible again.
const GRACE: Duration = Duration::from_secs(1);
