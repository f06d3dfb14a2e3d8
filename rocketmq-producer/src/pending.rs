use crate::{
    Error, SendReceipt,
    attempt::{Delivery, Target},
    producer::Shared,
};
use rocketmq_common::{protocol::SendMessage, remote::PendingReply};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The receipt of a message queued by [`Producer::send_async`](crate::Producer::send_async), as a future.
///
/// It resolves within the send timeout. Further attempts after a failed one are made while it is awaited. Dropping it
/// takes no message back: the first attempt is queued and goes out, and nobody learns what becomes of it.
#[must_use = "await the receipt, or nobody learns of a failure"]
pub struct PendingReceipt(State);

enum State {
    /// The first attempt is queued. Boxed: this is what an application holds thousands of.
    Queued(Box<Queued>),
    /// It failed, and others follow.
    Retrying(Pin<Box<dyn Future<Output = Result<SendReceipt, Error>> + Send>>),
    Done,
}

struct Queued {
    producer: Arc<Shared>,
    delivery: Delivery<SendMessage>,
    target: Target,
    reply: PendingReply<SendMessage>,
    under_way: TaskTrackerToken,
}

impl PendingReceipt {
    pub(crate) fn new(
        producer: Arc<Shared>,
        delivery: Delivery<SendMessage>,
        (target, reply): (Target, PendingReply<SendMessage>),
        under_way: TaskTrackerToken,
    ) -> Self {
        Self(State::Queued(Box::new(Queued { producer, delivery, target, reply, under_way })))
    }
}

impl Future for PendingReceipt {
    type Output = Result<SendReceipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                State::Queued(queued) => {
                    let result = ready!(Pin::new(&mut queued.reply).poll(context));
                    let State::Queued(queued) = std::mem::replace(&mut self.0, State::Done) else {
                        unreachable!("matched above")
                    };
                    let Queued { producer, mut delivery, target, under_way, .. } = *queued;
                    match result {
                        Ok(answer) if producer.is_safe_enough(&answer) => {
                            return Poll::Ready(Ok(SendReceipt::new(delivery.message_id, target.queue, answer)));
                        }
                        other => {
                            self.0 = State::Retrying(Box::pin(async move {
                                let _under_way = under_way;
                                let (queue, answer) = match delivery.judge(&producer, &target, other).await? {
                                    Some(answer) => (target.queue, answer),
                                    None => delivery.run(&producer).await?,
                                };
                                Ok(SendReceipt::new(delivery.message_id, queue, answer))
                            }));
                        }
                    }
                }
                State::Retrying(retrying) => {
                    let result = ready!(retrying.as_mut().poll(context));
                    self.0 = State::Done;
                    return Poll::Ready(result);
                }
                State::Done => panic!("a receipt was polled after it had been given out"),
            }
        }
    }
}

impl fmt::Debug for PendingReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Queued(queued) => &queued.delivery.message_id,
            State::Retrying(_) => "retrying",
            State::Done => "done",
        };
        f.debug_tuple("PendingReceipt").field(&state).finish()
    }
}
