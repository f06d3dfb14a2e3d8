//! Messages that are queued: what they hold until they have an outcome, and the way into the queue.

use crate::{
    Error, PendingReceipt, Select, SendReceipt,
    in_flight::InFlightSend,
    interceptor::{Watch, show},
    launch::{Delivered, launch},
    linger::{Passenger, Withdrawal},
    pending::{Outcome, Pending},
    prepare::selected,
    producer::Shared,
    room::Held,
    select::Selection,
};
use rocketmq_common::{Message, remote::Deadline};
use std::sync::Arc;

/// What ends with a send.
pub(crate) struct Waiting {
    pub(crate) watch: Option<Watch>,
    pub(crate) in_flight: InFlightSend,
    pub(crate) room: Option<Held>,
}

impl Waiting {
    /// Shows those who watch how the send ended, makes room for the next one, and tells the caller. Only then the send is
    /// no longer in flight.
    pub(crate) fn end(self, result: Result<SendReceipt, Error>, outcome: Outcome<SendReceipt>) {
        show(self.watch.as_ref(), &result);
        drop(self.room);
        outcome.tell(result);
        drop(self.in_flight);
    }

    pub(crate) fn fail(self, error: Error) -> Error {
        show(self.watch.as_ref(), &Err(error.clone()));
        error
    }
}

impl Shared {
    /// Queues a message once there is room for it.
    pub(crate) async fn queue(
        self: Arc<Self>,
        select: Option<Select>,
        message: Message,
        watch: Option<Watch>,
    ) -> Result<PendingReceipt, Error> {
        let room = self.room.take(message.body().len() + message.properties().len()).await;
        let room = Some(room.map_err(|_| Error::ShutDown)?);
        let deadline = Deadline::after(self.config.send_timeout);
        let waiting = Waiting { watch, in_flight: self.begin(deadline)?, room };
        if self.gathers(&message, select.as_ref()) {
            return self.board(select, message, waiting, None).await;
        }
        let is_reply = message.is_reply();
        let delivery = match self.prepare(message, select, deadline).await {
            Ok(delivery) => delivery,
            Err(error) => return Err(waiting.fail(error)),
        };
        let (outcome, pending) = Pending::new();
        let tell = |delivered: Delivered| {
            let result = delivered.map(|(id, queue, answer)| SendReceipt::new(id, queue, answer));
            waiting.end(result, outcome);
        };
        match is_reply {
            true => launch(&self, delivery.into_reply(), tell).await,
            false => launch(&self, delivery, tell).await,
        }
        Ok(pending)
    }

    /// Lets a message wait for others to travel with.
    pub(crate) async fn board(
        self: Arc<Self>,
        select: Option<Select>,
        message: Message,
        waiting: Waiting,
        withdrawal: Option<Withdrawal>,
    ) -> Result<PendingReceipt, Error> {
        let deadline = Deadline::after(self.config.send_timeout);
        let selection = selected(select, &message).map(|select| Selection::new(select, &message));
        let mut queue = None;
        if let Some(selection) = &selection {
            match self.choose(&selection.select, &message, deadline).await {
                Ok(chosen) => queue = Some(chosen),
                Err(error) => return Err(waiting.fail(error)),
            }
        }
        let (outcome, pending) = Pending::new();
        let tell = |result| waiting.end(result, outcome);
        let alone = self.goes_alone(&message);
        let passenger = Passenger::new(message, alone, deadline, withdrawal, tell).by_selection(selection);
        self.lanes.board(&self, queue, passenger).await?;
        Ok(pending)
    }
}
