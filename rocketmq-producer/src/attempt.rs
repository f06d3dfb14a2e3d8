use crate::{
    Error, FailedAttempt, NotSent, SendReceipt, answers, fault::Sign, feature::Feature, producer::Shared,
    select::Selection,
};
use bytes::Bytes;
use rocketmq_common::{
    Backoff, Error as ClientError, MessageQueue, TopicRoute,
    protocol::{MASTER_ID, SendBatchMessage, SendMessage, SendReply, Stored},
    random::random_u64,
    remote::{Answer, CloseCause, Connection, Deadline, Error as RemoteError, Request, ReservedCall, ResponseCode},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::time::{sleep, timeout_at};

/// What stores messages: a send or a batch, which differ in their code only.
pub(crate) trait Store: Request<Body = Bytes, Reply = Answer<Stored>> + Send + Sync + Unpin + 'static {
    fn header(&mut self) -> &mut SendMessage;
}

impl Store for SendMessage {
    fn header(&mut self) -> &mut SendMessage {
        self
    }
}

impl Store for SendBatchMessage {
    fn header(&mut self) -> &mut SendMessage {
        &mut self.0
    }
}

impl Store for SendReply {
    fn header(&mut self) -> &mut SendMessage {
        &mut self.0
    }
}

/// A message, or a batch, on its way: what stays the same over all attempts, and what they came to.
#[derive(Debug)]
pub(crate) struct Delivery<R> {
    /// As the user named it; the request has its name on the wire.
    pub(crate) topic: Arc<str>,
    pub(crate) message_id: String,
    pub(crate) request: R,
    pub(crate) body: Bytes,
    pub(crate) deadline: Deadline,
    /// The queue that was chosen for it, where one was.
    chosen: Option<MessageQueue>,
    /// How to choose again, where that queue is no more.
    selection: Option<Selection>,
    /// What it needs of its broker.
    feature: Option<Feature>,
    /// The broker the first attempt goes to, where there is a reason for one.
    first_broker: Option<Arc<str>>,
    /// The route as it was looked up for the first attempt.
    route: Option<Arc<TopicRoute>>,
    failed: Vec<FailedAttempt>,
    /// An attempt without an outcome: the broker's name, its address, and since when.
    under_way: Option<(Arc<str>, Arc<str>, Instant)>,
}

/// Where an attempt goes, and since when.
#[derive(Debug)]
pub(crate) struct Target {
    /// As its user knows it.
    pub(crate) queue: MessageQueue,
    route: Arc<TopicRoute>,
    connection: Connection,
    /// Ends before the delivery's own deadline where another broker could still take the message.
    pub(crate) deadline: Deadline,
    started: Instant,
}

impl<R: Store> Delivery<R> {
    pub(crate) fn new(topic: Arc<str>, message_id: String, request: R, body: Bytes, deadline: Deadline) -> Self {
        Self {
            topic,
            message_id,
            request,
            body,
            deadline,
            chosen: None,
            selection: None,
            feature: None,
            first_broker: None,
            route: None,
            failed: Vec::new(),
            under_way: None,
        }
    }

    /// The same, for one queue and no other.
    pub(crate) fn to(mut self, queue: Option<MessageQueue>) -> Self {
        self.chosen = queue;
        self
    }

    /// The same, for a queue that was chosen in a way that may choose another one.
    pub(crate) fn by_selection(mut self, selection: Option<Selection>) -> Self {
        self.selection = selection;
        self
    }

    /// The same, beginning with this broker.
    pub(crate) fn first_at(mut self, broker_name: Option<Arc<str>>) -> Self {
        self.first_broker = broker_name;
        self
    }

    /// The same, for brokers that have this.
    pub(crate) fn needing(mut self, feature: Option<Feature>) -> Self {
        self.feature = feature;
        self
    }

    /// The same, by a route that is known already.
    pub(crate) fn by(mut self, route: Option<Arc<TopicRoute>>) -> Self {
        self.route = route;
        self
    }

    /// Attempts until the message is stored, the attempts are used up, or the time is.
    pub(crate) async fn run(&mut self, producer: &Shared) -> Result<(MessageQueue, Answer<Stored>), Error> {
        loop {
            let target = self.aim(producer).await?;
            let broker_name = target.route.broker_of(&target.queue).clone();
            self.under_way = Some((broker_name, target.connection.addr().clone(), target.started));
            let result = target.connection.call(&self.request, self.body.clone(), target.deadline).await;
            self.under_way = None;
            if let Some(answer) = self.judge(producer, &target, result).await? {
                return Ok((target.queue, answer));
            }
        }
    }

    /// Attempts until the message is stored.
    pub(crate) async fn receipt(mut self, producer: &Shared) -> Result<SendReceipt, Error> {
        let (queue, answer) = self.run(producer).await?;
        Ok(SendReceipt::new(self.message_id, queue, answer))
    }

    /// What [`run`](Self::run) would do, from after the first attempt on.
    pub(crate) async fn finish(
        &mut self,
        producer: &Shared,
        target: Target,
        result: Result<Answer<Stored>, RemoteError>,
    ) -> Result<(MessageQueue, Answer<Stored>), Error> {
        match self.judge(producer, &target, result).await? {
            Some(answer) => Ok((target.queue, answer)),
            None => self.run(producer).await,
        }
    }

    /// Gets room for an attempt at a broker that can be reached.
    pub(crate) async fn reserve(&mut self, producer: &Shared) -> Result<(Target, ReservedCall<R>), Error> {
        loop {
            let target = self.aim(producer).await?;
            match target.connection.reserve(&self.request, self.body.clone(), target.deadline).await {
                Ok(call) => return Ok((target, call)),
                Err(error) => {
                    self.judge(producer, &target, Err(error)).await?;
                }
            }
        }
    }

    /// Hands a message over without asking for an answer.
    pub(crate) async fn run_oneway(&mut self, producer: &Shared) -> Result<(), Error> {
        let target = self.aim(producer).await?;
        match target.connection.call_oneway(&self.request, self.body.clone(), target.deadline).await {
            Ok(()) => Ok(()),
            Err(error) => {
                producer.client.note_stale(&target.route);
                let elapsed = target.started.elapsed();
                let broker_name = target.route.broker_of(&target.queue).clone();
                self.failed.push(FailedAttempt { broker_name, elapsed, error: error.into() });
                Err(self.give_up())
            }
        }
    }

    /// Chooses a queue and connects to its broker; brokers that cannot be reached count as failed attempts.
    async fn aim(&mut self, producer: &Shared) -> Result<Target, Error> {
        loop {
            let started = Instant::now();
            let route = match self.route.take() {
                Some(route) => route,
                None => producer.route(&self.topic, self.deadline).await?,
            };
            if self.is_queue_gone(&route) {
                self.choose_again(producer).await?;
            }
            let Some(queue) = self.queue(producer, &route) else {
                producer.client.note_stale(&route);
                return Err(Error::NoQueue { topic: self.topic.clone() });
            };
            let header = self.request.header();
            header.queue_id = queue.queue_id;
            header.broker_name = Some(route.broker_of(&queue).clone());
            header.topic = queue.topic.clone();
            header.born_timestamp_ms = now_ms();
            let deadline = self.attempt_deadline(producer, &route, &queue);
            match connect(producer, &route, &queue, deadline).await {
                Ok(connection) => {
                    if let Some(feature) = self.feature {
                        let broker = (route.broker_of(&queue), &master(&route, &queue)?);
                        feature.ensure(producer, broker, &connection, deadline).await?;
                    }
                    let queue = producer.client.namespace().strip_queue(queue);
                    return Ok(Target { queue, route, connection, deadline, started });
                }
                Err(error) => self.note_failure(producer, &route, &queue, started, error).await?,
            }
        }
    }

    /// The chosen queue, or the next one: on a broker that has not failed this message, while there is one, and on one
    /// that does well, where that is looked at.
    fn queue(&self, producer: &Shared, route: &TopicRoute) -> Option<MessageQueue> {
        if let Some(chosen) = &self.chosen {
            return Some(chosen.clone());
        }
        let queues = route.write_queues();
        if let Some(first) = self.first_broker.as_deref().filter(|_| self.failed.is_empty()) {
            return producer.next.next(queues, &[&|queue: &MessageQueue| **route.broker_of(queue) == *first]).cloned();
        }
        let last = self.failed.last().map(|attempt| &attempt.broker_name);
        let is_untried = |queue: &MessageQueue| !self.has_failed_at(route.broker_of(queue));
        let is_elsewhere = |queue: &MessageQueue| last != Some(route.broker_of(queue));
        let next = match &producer.faults {
            Some(faults) => {
                let now = Instant::now();
                let is_good =
                    |queue: &MessageQueue| is_untried(queue) && faults.is_available(route.broker_of(queue), now);
                let answers = |queue: &MessageQueue| is_untried(queue) && faults.is_reachable(route.broker_of(queue));
                producer.next.next(queues, &[&is_good, &answers, &is_untried, &is_elsewhere])
            }
            None if self.failed.is_empty() => producer.next.next(queues, &[]),
            None => producer.next.next(queues, &[&is_untried, &is_elsewhere]),
        };
        next.cloned()
    }

    /// Whether a broker has refused the chosen queue, and the route that was looked up then has it no more.
    fn is_queue_gone(&self, route: &TopicRoute) -> bool {
        let is_stale = self.failed.last().is_some_and(|attempt| answers::is_refusal_of_route(&attempt.error));
        is_stale && self.chosen.as_ref().is_some_and(|chosen| !route.write_queues().contains(chosen))
    }

    /// # Errors
    /// What the selection says of the topic's queues as they are now; every attempt where one of them may have stored the
    /// message.
    async fn choose_again(&mut self, producer: &Shared) -> Result<(), Error> {
        let Some(selection) = &self.selection else { return Err(self.give_up()) };
        let chosen = producer.choose(&selection.select, &selection.message(&self.topic), self.deadline).await;
        match chosen {
            Ok(queue) => {
                tracing::debug!(topic = %self.topic, %queue, "the chosen queue is no more, another one is chosen");
                self.chosen = Some(queue);
                Ok(())
            }
            Err(_) if self.failed.iter().any(|attempt| attempt.error.may_have_happened()) => Err(self.give_up()),
            Err(error) => Err(error),
        }
    }

    /// Looks the route up anew that a broker's refusal has shown to be old, unless that was done a moment ago.
    async fn refresh(&self, producer: &Shared, route: &TopicRoute) {
        let (topic, seen) = (route.topic(), route.generation());
        if producer.refreshes.is_fresh(topic, seen, Instant::now()) {
            return;
        }
        let look_up = producer.client.newer_route(topic, seen);
        let generation = match timeout_at(self.deadline.instant(), look_up).await {
            Ok(Ok(route)) => route.generation(),
            Ok(Err(error)) => {
                tracing::debug!(%topic, error = &error as &dyn std::error::Error, "route not refreshed");
                seen
            }
            Err(_) => return,
        };
        producer.refreshes.note(topic, generation, Instant::now());
    }

    fn has_failed_at(&self, broker_name: &str) -> bool {
        self.failed.iter().any(|attempt| *attempt.broker_name == *broker_name)
    }

    /// Notes that an attempt got the message stored.
    pub(crate) fn note_success(&self, producer: &Shared, target: &Target) {
        if let Some(faults) = &producer.faults {
            let sign = Sign::Answered(target.started.elapsed());
            faults.note(target.route.broker_of(&target.queue), &self.topic, sign, Instant::now());
        }
    }

    /// The answer, where it says that the message is stored; `None` where another attempt is due.
    pub(crate) async fn judge(
        &mut self,
        producer: &Shared,
        target: &Target,
        result: Result<Answer<Stored>, RemoteError>,
    ) -> Result<Option<Answer<Stored>>, Error> {
        let error = match result {
            Ok(answer) if answer.code != ResponseCode::SUCCESS && self.wants_a_safer_place(producer) => {
                tracing::debug!(topic = %self.topic, code = %answer.code, "stored, but not safely: once more");
                let remark = "stored, but not as safely as asked for".to_owned();
                RemoteError::Refused { addr: target.connection.addr().clone(), code: answer.code, remark }
            }
            Ok(answer) => {
                self.note_success(producer, target);
                return Ok(Some(answer));
            }
            Err(error) => error,
        };
        self.note_failure(producer, &target.route, &target.queue, target.started, error.into()).await?;
        Ok(None)
    }

    fn wants_a_safer_place(&self, producer: &Shared) -> bool {
        producer.config.retry_when_not_stored_safely && self.attempts_left(producer) > 0
    }

    fn attempts_left(&self, producer: &Shared) -> usize {
        usize::try_from(producer.config.retries).unwrap_or(usize::MAX).saturating_sub(self.failed.len())
    }

    /// Notes a failed attempt, and waits before the next one unless that goes to a broker which has not failed yet.
    ///
    /// # Errors
    /// The send's own error, where there is to be no next one.
    async fn note_failure(
        &mut self,
        producer: &Shared,
        route: &Arc<TopicRoute>,
        queue: &MessageQueue,
        started: Instant,
        error: ClientError,
    ) -> Result<(), Error> {
        let code = error.response_code();
        if let Some(error) = self.feature.and_then(|feature| feature.refusal(route.broker_of(queue), &error)) {
            return Err(error);
        }
        let refuses_route = answers::is_refusal_of_route(&error);
        let worth_it = match code {
            Some(ResponseCode::NOT_LEADER_FOR_QUEUE | ResponseCode::INVALID_PARAMETER) => true,
            Some(code) => producer.config.is_worth_a_retry(code) || answers::NOT_SAFE.contains(&code),
            None => error.is_retryable(),
        };
        if worth_it {
            producer.client.note_stale(route);
        }
        if let Some(faults) = &producer.faults {
            let sign = if code.is_some() { Sign::Refused } else { Sign::Unreachable };
            faults.note(route.broker_of(queue), &self.topic, sign, Instant::now());
        }
        tracing::debug!(
            topic = %self.topic, broker = %route.broker_of(queue), attempt = self.failed.len() + 1,
            error = &error as &dyn std::error::Error, "attempt failed"
        );
        let elapsed = started.elapsed();
        let attempts_left = self.attempts_left(producer);
        self.failed.push(FailedAttempt { broker_name: route.broker_of(queue).clone(), elapsed, error });
        let wait = self.pause(route, code);
        if !worth_it || attempts_left == 0 || self.deadline.remaining() <= wait || producer.client.is_shut_down() {
            return Err(self.give_up());
        }
        if refuses_route {
            // The same route would lead to the same refusal.
            self.refresh(producer, route).await;
        }
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok(())
    }

    /// How long to wait after the last failed attempt, which was answered with `code` if it was answered.
    fn pause(&self, route: &TopicRoute, code: Option<ResponseCode>) -> Duration {
        let is_untried = |queue: &MessageQueue| !self.has_failed_at(route.broker_of(queue));
        let untried = self.chosen.is_none() && route.write_queues().iter().any(is_untried);
        let backoff = match code {
            // A quota is the sender's own: other brokers hold to it as well.
            Some(ResponseCode::FLOW_CONTROL) => BUSY,
            _ if untried => return Duration::ZERO,
            Some(ResponseCode::SYSTEM_BUSY) => BUSY,
            _ => SAME_BROKER,
        };
        let failures = u32::try_from(self.failed.len()).unwrap_or(u32::MAX);
        backoff.wait(failures, random_u64())
    }

    /// Half of the time left, while there is another broker to turn to and an attempt to do it with; else all of it. Less
    /// where an attempt may take less and is not the last.
    fn attempt_deadline(&self, producer: &Shared, route: &TopicRoute, queue: &MessageQueue) -> Deadline {
        if self.attempts_left(producer) == 0 {
            return self.deadline;
        }
        let half = self.deadline.remaining() / 2;
        let deadline = if self.has_alternative(route, queue) { self.deadline.at_most(half) } else { self.deadline };
        match producer.config.attempt_timeout {
            Some(longest) => deadline.at_most(longest),
            None => deadline,
        }
    }

    /// Whether the message may go to another broker instead.
    fn has_alternative(&self, route: &TopicRoute, queue: &MessageQueue) -> bool {
        let broker_name = route.broker_of(queue);
        self.chosen.is_none() && route.write_queues().iter().any(|other| route.broker_of(other) != broker_name)
    }

    /// The error that names every attempt.
    pub(crate) fn give_up(&mut self) -> Error {
        if let Some((broker_name, addr, started)) = self.under_way.take() {
            // The producer ends before the broker has answered.
            let error = RemoteError::Closed { addr, cause: Arc::new(CloseCause::Local), sent: true };
            self.failed.push(FailedAttempt { broker_name, elapsed: started.elapsed(), error: error.into() });
        }
        let attempts = std::mem::take(&mut self.failed);
        let Some(last) = attempts.last() else { return Error::NoQueue { topic: self.topic.clone() } };
        let retryable = match last.error.response_code() {
            Some(ResponseCode::TOPIC_NOT_EXIST | ResponseCode::NO_PERMISSION) => false,
            Some(code) => answers::RETRYABLE.contains(&code),
            None => last.error.is_retryable(),
        };
        let (topic, message_id) = (self.topic.clone(), self.message_id.clone());
        Error::NotSent(Box::new(NotSent { topic, message_id, attempts, retryable }))
    }
}

impl Delivery<SendMessage> {
    /// The same message, sent as the reply that it is.
    pub(crate) fn into_reply(self) -> Delivery<SendReply> {
        Delivery {
            request: SendReply(self.request),
            topic: self.topic,
            message_id: self.message_id,
            body: self.body,
            deadline: self.deadline,
            chosen: self.chosen,
            selection: self.selection,
            feature: self.feature,
            first_broker: self.first_broker,
            route: self.route,
            failed: self.failed,
            under_way: self.under_way,
        }
    }
}

async fn connect(
    producer: &Shared,
    route: &TopicRoute,
    queue: &MessageQueue,
    deadline: Deadline,
) -> Result<Connection, ClientError> {
    Ok(producer.client.vip_broker(&master(route, queue)?, deadline).await?)
}

/// The address of the master of a queue's broker.
fn master(route: &TopicRoute, queue: &MessageQueue) -> Result<Arc<str>, ClientError> {
    let broker_name = route.broker_of(queue);
    let master = route.broker_addrs(broker_name).and_then(|addrs| addrs.get(&MASTER_ID));
    master.cloned().ok_or_else(|| ClientError::BrokerNotFound { broker_name: broker_name.clone() })
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

const SAME_BROKER: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
const BUSY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
