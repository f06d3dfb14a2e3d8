use crate::{
    PushConsumer,
    assigned::{AssignedQueue, InHand},
    decode::needs_decompressing,
    interceptor::{Consumed, Watch},
    member::Member,
    outcome::DEAD,
};
use futures_util::Stream;
use rocketmq_common::StoredMessage;
use std::{
    fmt,
    future::{Future, poll_fn},
    ops::Deref,
    pin::Pin,
    slice,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Messages to be fetched one after the other, instead of a listener; made by
/// [`stream`](crate::PushConsumerBuilder::stream). Ends once the consumer has been shut down, or its runtime has ended;
/// dropping it, and the consumers it gave, stops consumption.
///
/// As many messages are fetched ahead as the limits of [`PushConfig`](crate::PushConfig) allow, counting those that were
/// taken and not settled: whoever settles none gets no more in the end.
pub struct MessageStream {
    consumer: PushConsumer,
    /// For when there is nothing to give.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl MessageStream {
    pub(crate) fn new(consumer: PushConsumer) -> Self {
        Self { consumer, waiting: None }
    }

    /// The consumer behind the stream: to shut it down, suspend it, subscribe to more.
    pub fn consumer(&self) -> &PushConsumer {
        &self.consumer
    }

    /// The next message; `None` once the consumer has been shut down.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for MessageStream {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            let member = self.consumer.member().clone();
            if member.stopped.is_cancelled() {
                return Poll::Ready(None);
            }
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
            let is_suspended = member.is_suspended();
            if !is_suspended {
                if let Some(task) = member.dispatcher.take() {
                    let Some(in_hand) = task.queue.take_in_hand(task.epoch) else {
                        member.give_back_unbegun(&task.queue, vec![task.messages]);
                        continue;
                    };
                    if !task.queue.may_begin(&task.messages) {
                        continue;
                    }
                    let mut stored = task.messages;
                    if needs_decompressing(&stored) {
                        // A popped one for which there was no room before. Nothing can be awaited here.
                        if let Err(cause) = stored.decompress(member.config.max_body_bytes) {
                            stored.set_decode_error(cause);
                        }
                    }
                    let message = member.as_the_user_sees_it(&stored);
                    let failed = member.fail_undecoded(&task.queue, slice::from_ref(&stored));
                    let watch = match failed {
                        Some(_) => None,
                        None => member.interceptors.before(member.group(), [&message], false),
                    };
                    let settling = Settling {
                        watch,
                        given_out: Instant::now(),
                        member,
                        queue: task.queue,
                        epoch: task.epoch,
                        stored,
                        _in_hand: in_hand,
                    };
                    if let Some(failed) = failed {
                        settling.member.tell_failed(&settling.stored, &failed.reason);
                        Box::new(settling).give_back_in_background(0);
                        continue;
                    }
                    return Poll::Ready(Some(Delivery { message, settling: Some(Box::new(settling)) }));
                }
            }
            self.waiting = Some(Box::pin(async move {
                // One of the two: what came before or while the stream was suspended has been told.
                let ready = async {
                    match is_suspended {
                        true => member.resumed().await,
                        false => member.dispatcher.filled().await,
                    }
                };
                tokio::select! {
                    () = member.stopped.cancelled() => {}
                    () = ready => {}
                }
            }));
        }
    }
}

impl fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStream").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

/// A message that waits to be settled: [`ack`](Self::ack) says that it is done, [`nack`](Self::nack) that it is to come
/// again. Dropping it is a `nack`, so nothing is lost by a `?` in between.
///
/// A message that is not settled within [`revoke_timeout`](crate::PushConfig::revoke_timeout) of when its queue went to
/// another member comes to that one, whatever is said of it here.
#[derive(Debug)]
#[must_use = "a message that is dropped comes again"]
pub struct Delivery {
    message: StoredMessage,
    settling: Option<Box<Settling>>,
}

/// What it takes to settle a message.
struct Settling {
    member: Arc<Member>,
    queue: Arc<AssignedQueue>,
    epoch: u32,
    /// The message as the broker knows it.
    stored: StoredMessage,
    watch: Option<Watch>,
    given_out: Instant,
    _in_hand: InHand,
}

impl Delivery {
    /// The message.
    pub fn message(&self) -> &StoredMessage {
        &self.message
    }

    /// The message is done: the group's offset may pass it.
    pub fn ack(mut self) {
        if let Some(settling) = self.settling.take() {
            settling.tell(Consumed::Done);
            settling.finish();
        }
    }

    /// The message comes again, when the broker thinks fit: later each time.
    pub fn nack(self) {
        self.nack_with_level(0);
    }

    /// The message comes again after a delay level of the broker, from 1 on; 0 leaves it to the broker.
    pub fn nack_with_level(mut self, delay_level: i32) {
        if let Some(settling) = self.settling.take() {
            settling.give_back(delay_level.max(0));
        }
    }

    /// The message does not come again: it goes to the group's dead letter queue.
    pub fn dead_letter(mut self) {
        if let Some(settling) = self.settling.take() {
            settling.give_back(DEAD);
        }
    }
}

impl Deref for Delivery {
    type Target = StoredMessage;

    fn deref(&self) -> &StoredMessage {
        &self.message
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settling) = self.settling.take() {
            settling.give_back(0);
        }
    }
}

impl Settling {
    /// Gives the message back in the background: until that is done it stays in hand.
    fn give_back(self: Box<Self>, delay_level: i32) {
        if self.member.given_up.is_cancelled() {
            // Nothing was recorded for it, so it comes again anyway.
            return;
        }
        self.tell(Consumed::Failed { messages: 1, reason: "not acknowledged" });
        self.give_back_in_background(delay_level);
    }

    fn give_back_in_background(self: Box<Self>, delay_level: i32) {
        let member = self.member.clone();
        let giving_back = async move {
            tokio::select! {
                () = self.member.given_up.cancelled() => {}
                () = self.give_back_until_taken(delay_level) => {}
            }
        };
        member.spawn(giving_back);
    }

    fn finish(&self) {
        self.member.finish(&self.queue, self.epoch, slice::from_ref(&self.stored));
    }

    /// Counts the message, and shows the interceptors what became of it.
    fn tell(&self, consumed: Consumed<'_>) {
        self.queue.meter.called(self.given_out, 1, consumed.failed(1));
        if let Some(watch) = &self.watch {
            watch.after(consumed);
        }
    }

    async fn give_back_until_taken(&self, delay_level: i32) {
        let Self { member, queue, epoch, stored, .. } = self;
        // The next owner of a queue gets what is not done in it.
        if queue.is_left_to_the_next() && !member.is_broadcast {
            return;
        }
        while !member.is_broadcast && member.give_back(queue, stored, delay_level).await.is_err() {
            tokio::select! {
                () = queue.ended() => return,
                () = sleep(AGAIN) => {}
            }
        }
        queue.finish(*epoch, stored.queue_offset());
    }
}

impl fmt::Debug for Settling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settling").field("queue", &self.queue.queue).finish_non_exhaustive()
    }
}

/// How soon a message that the broker did not take back is given back again.
const AGAIN: Duration = Duration::from_secs(5);
