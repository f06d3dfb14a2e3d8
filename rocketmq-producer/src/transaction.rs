use crate::{Error, Producer, SendReceipt, SendStatus, interceptor::show, producer::Shared};
use rocketmq_common::{
    Message, MessageError, StoredMessage, TransactionCheck,
    message::{DecodeLimits, OffsetId, property},
    protocol::{EndTransaction, sys_flag},
    remote::Deadline,
    unwinding,
};
use std::{fmt, future::Future, pin::Pin, sync::Arc};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// What became of a transaction. Java: `LocalTransactionState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// The message is to be delivered.
    Commit,
    /// The message is to be dropped.
    Rollback,
    /// Not known yet: the broker asks again later, 15 times by default, and then drops the message.
    Unknown,
}

impl TransactionState {
    fn on_the_wire(self) -> i32 {
        match self {
            Self::Commit => sys_flag::TRANSACTION_COMMIT,
            Self::Rollback => sys_flag::TRANSACTION_ROLLBACK,
            Self::Unknown => 0,
        }
    }
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionReceipt {
    /// The broker's word that it has stored the half message. Its offset is that among the half messages.
    pub receipt: SendReceipt,
    /// What the local step returned, and the broker was told; [`TransactionState::Rollback`] where the half message was
    /// not stored safely and the step was not taken.
    pub state: TransactionState,
}

/// The user's answer to a broker that asks what became of a half message.
#[derive(Clone)]
pub(crate) struct Checker(Arc<dyn Fn(StoredMessage) -> Checking + Send + Sync>);

type Checking = Pin<Box<dyn Future<Output = TransactionState> + Send>>;

impl Checker {
    pub(crate) fn new<F, C>(checker: F) -> Self
    where
        F: Fn(StoredMessage) -> C + Send + Sync + 'static,
        C: Future<Output = TransactionState> + Send + 'static,
    {
        Self(Arc::new(move |message| Box::pin(checker(message))))
    }
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checker")
    }
}

impl Producer {
    /// Sends a message that is delivered only if `local_step` says so: stores it as a half message, takes the step, and
    /// tells the broker to commit it or to roll it back.
    ///
    /// Where the step's outcome does not reach the broker (the process dies, the network fails, the step returns
    /// [`TransactionState::Unknown`] or panics), the broker asks a producer of the group, whose
    /// [`transaction_checker`](crate::ProducerBuilder::transaction_checker) answers. So a producer without a checker is
    /// refused.
    ///
    /// ```no_run
    /// use rocketmq_producer::{Message, Producer, TransactionState};
    ///
    /// # async fn run() -> Result<(), rocketmq_producer::Error> {
    /// let builder = Producer::builder("payments").name_servers(["127.0.0.1:9876"]);
    /// let producer = builder.transaction_checker(|_message| async { TransactionState::Unknown }).start().await?;
    /// let paid = Message::new("paid", "o-17").key("o-17");
    /// let done = producer.send_in_transaction(paid, |_message| async { TransactionState::Commit }).await?;
    /// println!("{} {:?}", done.receipt.message_id, done.state);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoChecker`]; [`Error::DelayedTransaction`] for a message with a delay; [`Error::Message`] for one with
    /// a priority; else as [`send`](Self::send),
    /// and then the step has not been taken.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the half message to the checker, if it has been stored already.
    ///
    /// # Protocol
    /// `SEND_MESSAGE_V2` with `TRAN_MSG`, then `END_TRANSACTION` (37), one-way as in Java. Witness: golden
    /// `end_transaction_oneway`, tests `transaction::*`.
    pub async fn send_in_transaction<F, L>(&self, message: Message, local_step: F) -> Result<TransactionReceipt, Error>
    where
        F: FnOnce(Message) -> L,
        L: Future<Output = TransactionState>,
    {
        let shared = self.shared();
        let deadline = Deadline::after(shared.config.send_timeout);
        let _in_flight = shared.begin_unlimited(deadline)?;
        if !shared.has_checker {
            return Err(Error::NoChecker);
        }
        if message.properties().delay_level() != 0 || message.properties().has_timer() {
            return Err(Error::DelayedTransaction);
        }
        if message.properties().get(property::PRIORITY).is_some() {
            return Err(MessageError::PriorityWith { with: "a transaction" }.into());
        }
        let mut message = message;
        let watch = shared.check(&mut message)?;
        // The step sees the message as the user made it; the half message carries the marks of a transaction.
        let for_the_step = message.clone();
        message.properties_mut().set(property::TRAN_MSG, "true");
        message.properties_mut().set(property::PGROUP, &shared.group);
        let sending = async {
            let mut delivery = shared.prepare(message, None, deadline).await?;
            delivery.request.sys_flag |= sys_flag::TRANSACTION_PREPARED;
            let (queue, answer) = delivery.run(shared).await?;
            let transaction_id = answer.header.transaction_id.clone();
            Ok((SendReceipt::new(delivery.message_id, queue, answer), transaction_id))
        };
        let (result, transaction_id) =
            sending.await.map_or_else(|error| (Err(error), None), |(receipt, id)| (Ok(receipt), id));
        show(watch.as_ref(), &result);
        let receipt = result?;
        let state = match receipt.status {
            SendStatus::Ok => match unwinding(|| local_step(for_the_step)).await {
                Ok(state) => state,
                Err(panic) => {
                    tracing::error!(message_id = %receipt.message_id, panic, "the local step of a transaction panicked");
                    TransactionState::Unknown
                }
            },
            _ => TransactionState::Rollback,
        };
        shared.end(&receipt, transaction_id, state).await;
        Ok(TransactionReceipt { receipt, state })
    }
}

impl Shared {
    /// Tells the broker of a half message what became of its transaction. A failure is healed by a check.
    async fn end(&self, receipt: &SendReceipt, transaction_id: Option<String>, state: TransactionState) {
        let Ok(place) = receipt.offset_id.parse::<OffsetId>() else {
            tracing::warn!(message_id = %receipt.message_id, offset_id = receipt.offset_id, "unreadable offset id");
            return;
        };
        let broker_name = self.client.broker_of(&self.client.namespace().wrap_queue(receipt.queue.clone()));
        let request = EndTransaction {
            topic: Some(self.client.namespace().wrap_shared(receipt.queue.topic.clone())),
            producer_group: self.group.clone(),
            tran_state_table_offset: receipt.queue_offset,
            commit_log_offset: place.commit_log_offset,
            commit_or_rollback: state.on_the_wire(),
            from_transaction_check: Some(false),
            message_id: receipt.message_id.clone(),
            transaction_id,
            broker_name: Some(broker_name.clone()),
        };
        match self.client.master(&broker_name) {
            Ok(addr) => self.send_end(&addr, &request).await,
            Err(error) => tracing::warn!(
                message_id = %receipt.message_id, error = &error as &dyn std::error::Error,
                "end of a transaction not sent: the broker will ask"
            ),
        }
    }

    async fn send_end(&self, addr: &Arc<str>, request: &EndTransaction) {
        let deadline = Deadline::after(self.config.send_timeout);
        let sent = match self.client.broker(addr, deadline).await {
            Ok(connection) => connection.call_oneway(request, (), deadline).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(
                message_id = request.message_id, %addr, error = &error as &dyn std::error::Error,
                "end of a transaction not sent: the broker will ask"
            );
        }
    }

    /// Answers one check.
    async fn answer_check(&self, checker: &Checker, check: TransactionCheck) {
        let TransactionCheck { mut message, request, addr } = check;
        let message_id = message.message_id().into_owned();
        if let Err(cause) = message.decompress(DecodeLimits::default().max_body_bytes) {
            let error = &cause as &dyn std::error::Error;
            tracing::warn!(group = %self.group, message_id, error, "half message cannot be decoded, check not answered");
            return;
        }
        let topic = message.shared_topic().clone();
        let message = self.client.namespace().strip_message(message);
        let limit = self.config.transaction_check_timeout;
        let state = match timeout(limit, unwinding(|| (checker.0)(message))).await {
            Ok(Ok(state)) => state,
            Ok(Err(panic)) => {
                tracing::error!(message_id, panic, "the transaction checker panicked");
                TransactionState::Unknown
            }
            Err(_) => {
                tracing::warn!(group = %self.group, message_id, ?limit, "transaction checker timed out, check repeated later");
                TransactionState::Unknown
            }
        };
        tracing::debug!(message_id, ?state, "transaction checked");
        let request = EndTransaction {
            // The message's own topic, not that of half messages: it is the one this producer may write to.
            topic: Some(topic),
            producer_group: self.group.clone(),
            tran_state_table_offset: request.tran_state_table_offset,
            commit_log_offset: request.commit_log_offset,
            commit_or_rollback: state.on_the_wire(),
            from_transaction_check: Some(true),
            message_id,
            transaction_id: request.transaction_id,
            broker_name: request.broker_name,
        };
        self.send_end(&addr, &request).await;
    }
}

/// Answers checks, a few at once, until the producer stops.
pub(crate) async fn answer_checks(
    shared: Arc<Shared>,
    checker: Checker,
    mut checks: mpsc::Receiver<TransactionCheck>,
    stopped: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
    while let Some(check) = checks.recv().await {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (shared_again, checker, stopped) = (shared.clone(), checker.clone(), stopped.clone());
        shared.tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = stopped.cancelled() => {}
                () = shared_again.answer_check(&checker, check) => {}
            }
        });
    }
}

/// A checker that waits for something holds up a few others at most, until it times out.
const CHECKS_AT_ONCE: usize = 8;
/// Checks that may wait; the broker asks again about those beyond.
pub(crate) const CHECKS_WAITING: usize = 2000;
