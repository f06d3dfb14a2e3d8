use crate::{
    Error, Producer, Select, SendReceipt,
    attempt::Delivery,
    detached::run_detached,
    interceptor::{Watch, show},
    launch::{Delivered, launch},
    pending::Pending,
    producer::Shared,
    queued::Waiting,
};
use rocketmq_common::{
    Error as ClientError, ExpectedReply, Message, MessageError, StoredMessage, message::property,
    protocol::SendMessage, remote::Deadline,
};
use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;

impl Producer {
    /// Sends a message and awaits the reply of a consumer, who makes one by [`StoredMessage::reply`] and sends it with
    /// any producer.
    ///
    /// `timeout` is the time for all of it, from here to the reply. The send has its own
    /// [`send_timeout`](crate::ProducerConfig::send_timeout) within it, and the attempts of any other. A reply that
    /// comes after the time-out is dropped.
    ///
    /// The reply reaches this very client, whichever of its cluster's brokers it comes by: the first request to a topic
    /// connects to all of them. Up to 65,536 requests of a client may wait at once.
    ///
    /// # Errors
    /// [`Error::NoReply`] where the message was stored and no reply came in time; else as [`send`](Self::send), and
    /// then there will be no reply. [`Error::Client`] also for a reply that cannot be read, and with too many requests.
    ///
    /// # Cancel safety
    /// Dropping the future ends the waiting and makes no further attempt to send; an attempt that has begun may still
    /// store the message, and the consumer's reply is then dropped.
    ///
    /// # Protocol
    /// `SEND_MESSAGE_V2` with `CORRELATION_ID`, `REPLY_TO_CLIENT` and `TTL`; the reply comes as
    /// `PUSH_REPLY_MESSAGE_TO_CLIENT` (326). Java: `DefaultMQProducer.request`. Witness: goldens
    /// `send_v2_request_req`, `push_reply_request`, tests `request::*`.
    ///
    /// # Example
    /// ```no_run
    /// use rocketmq_producer::{Message, Producer, StoredMessage};
    /// use std::time::Duration;
    ///
    /// async fn ask(producer: &Producer) -> Result<(), rocketmq_producer::Error> {
    ///     let reply = producer.request(Message::new("prices", "o-17"), Duration::from_secs(3)).await?;
    ///     println!("{:?}", reply.body());
    ///     Ok(())
    /// }
    ///
    /// // In the listener of a consumer of "prices":
    /// async fn answer(producer: &Producer, question: StoredMessage) -> Result<(), rocketmq_producer::Error> {
    ///     producer.send(question.reply("9.99")?).await.map(drop)
    /// }
    /// ```
    pub async fn request(&self, message: Message, timeout: Duration) -> Result<StoredMessage, Error> {
        self.request_selected(None, message, timeout).await
    }

    /// Sends a request to a queue of your choice: [`request`](Self::request) in all else.
    ///
    /// # Errors
    /// Also [`Error::NoSuchQueue`] and [`Error::BadSelection`] for a choice that is none.
    pub async fn request_to(
        &self,
        select: Select,
        message: Message,
        timeout: Duration,
    ) -> Result<StoredMessage, Error> {
        self.request_selected(Some(select), message, timeout).await
    }

    async fn request_selected(
        &self,
        select: Option<Select>,
        message: Message,
        timeout: Duration,
    ) -> Result<StoredMessage, Error> {
        let shared = self.shared();
        let _in_flight = shared.begin(Deadline::after(timeout))?;
        let Question { mut reply, message_id, topic, delivery, watch, deadline } =
            shared.question(select, message, timeout).await?;
        let sent = tokio::select! {
            sent = delivery.receipt(shared) => sent,
            () = shared.stopped.cancelled() => return Err(Error::OutcomeUnknown),
        };
        show(watch.as_ref(), &sent);
        let no_reply = Error::NoReply { topic, message_id, timeout };
        shared.wait_for(&mut reply, sent, deadline, no_reply).await
    }

    /// Queues a request, waiting only for room, and returns a future of the reply. The time-out begins here.
    ///
    /// # Errors
    /// As [`request`](Self::request), as far as they come up before the message is queued; the others come with the
    /// reply.
    ///
    /// # Cancel safety
    /// As [`send_async`](Self::send_async).
    pub async fn request_async(&self, message: Message, timeout: Duration) -> Result<PendingReply, Error> {
        run_detached(self.shared(), self.shared().clone().queue_request(message, timeout)).await
    }
}

/// The reply to a message queued by [`Producer::request_async`], as a future.
///
/// The producer waits for the reply whether or not this is polled. Until the reply is there or its time-out is over, the
/// request counts as in flight, for [`Producer::flush`] and [`Producer::shutdown`]. Dropping this takes no message back,
/// and the reply is then dropped.
#[must_use = "a reply that is not awaited is dropped"]
pub struct PendingReply {
    message_id: String,
    reply: AbortOnDropHandle<Result<StoredMessage, Error>>,
}

impl Future for PendingReply {
    type Output = Result<StoredMessage, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A task without a result has ended with its runtime: the request was sent.
        Pin::new(&mut self.reply).poll(context).map(|reply| reply.unwrap_or(Err(Error::OutcomeUnknown)))
    }
}

impl fmt::Debug for PendingReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingReply").field(&self.message_id).finish()
    }
}

/// A request that is ready to go.
struct Question {
    reply: ExpectedReply,
    topic: Arc<str>,
    message_id: String,
    delivery: Delivery<SendMessage>,
    watch: Option<Watch>,
    deadline: Deadline,
}

impl Shared {
    /// Queues a request once there is room for it, and has a task wait for the reply.
    async fn queue_request(self: Arc<Self>, message: Message, timeout: Duration) -> Result<PendingReply, Error> {
        let room = self.room.take(message.body().len() + message.properties().len()).await;
        let room = Some(room.map_err(|_| Error::ShutDown)?);
        let limit = Deadline::after(timeout);
        let (in_flight, until_replied) = (self.begin(limit)?, self.begin(limit)?);
        let Question { mut reply, message_id, topic, delivery, watch, deadline } =
            self.question(None, message, timeout).await?;
        let waiting = Waiting { watch, in_flight, room };
        let (outcome, sent) = Pending::new();
        let tell = |delivered: Delivered| {
            let result = delivered.map(|(id, queue, answer)| SendReceipt::new(id, queue, answer));
            waiting.end(result, outcome);
        };
        launch(&self, delivery, tell).await;
        let no_reply = Error::NoReply { topic, message_id: message_id.clone(), timeout };
        let shared = self.clone();
        let waiting = async move {
            let _until_replied = until_replied;
            let sent = sent.await;
            shared.wait_for(&mut reply, sent, deadline, no_reply).await
        };
        let reply = AbortOnDropHandle::new(self.tasks.spawn_on(waiting, &self.runtime));
        Ok(PendingReply { message_id, reply })
    }

    async fn question(
        self: &Arc<Self>,
        select: Option<Select>,
        mut message: Message,
        timeout: Duration,
    ) -> Result<Question, Error> {
        let deadline = Deadline::after(timeout);
        if message.is_reply() {
            return Err(MessageError::ReplyAsRequest.into());
        }
        let reply = self.client.expect_reply()?;
        let properties = message.properties_mut();
        properties.set(property::CORRELATION_ID, reply.correlation_id());
        properties.set(property::REPLY_TO_CLIENT, self.client.id());
        properties.set(property::TTL, &timeout.as_millis().max(1).to_string());
        let watch = self.check(&mut message)?;
        let topic: Arc<str> = message.topic().into();
        let preparing = async {
            let route = self.route(&topic, deadline).await?;
            let connecting = deadline.at_most((deadline.remaining() / 4).min(MOST_FOR_CONNECTING));
            self.client.be_reachable(&route, connecting).await;
            let within = Deadline::after(self.config.send_timeout).min(deadline);
            self.prepare(message, select, within).await
        };
        match preparing.await {
            Ok(delivery) => {
                let message_id = delivery.message_id.clone();
                Ok(Question { reply, topic, message_id, delivery, watch, deadline })
            }
            Err(error) => {
                show(watch.as_ref(), &Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Waits for the reply to a request. One whose send failed may have reached a consumer all the same, whose reply then
    /// counts if it is there already.
    async fn wait_for(
        &self,
        reply: &mut ExpectedReply,
        sent: Result<SendReceipt, Error>,
        deadline: Deadline,
        no_reply: Error,
    ) -> Result<StoredMessage, Error> {
        let failed = sent.err();
        tokio::select! {
            biased;
            reply = reply => match reply {
                // The client has ended, and the request was sent.
                Err(ClientError::ShutDown) => Err(Error::OutcomeUnknown),
                reply => Ok(reply?),
            },
            () = ready(()), if failed.is_some() => Err(failed.unwrap_or(no_reply)),
            () = self.stopped.cancelled() => Err(Error::OutcomeUnknown),
            () = sleep_until(deadline.instant()) => Err(no_reply),
        }
    }
}

/// A broker that is down must not use up the time of requests to others.
const MOST_FOR_CONNECTING: Duration = Duration::from_secs(1);
