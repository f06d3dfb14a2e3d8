//! What operators ask of a consumer, by way of the broker that it is connected to.

use super::{Client, Shared};
use crate::{
    MessageQueue, StoredMessage,
    message::{DecodeLimits, decode_records},
    protocol::{
        ClientStatus, ConsumeDirectly, ConsumedDirectly, GetClientStatus, GetRunningInfo, QueueTable,
        ResetClientOffset, RunningInfo,
    },
};
use rocketmq_remote::{Incoming, Json, Request, ResponseCode, printable};
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

/// A consumer that answers operators: their questions come from brokers, and name topics and groups as the wire does.
pub trait Operated: fmt::Debug + Send + Sync + 'static {
    /// Its inner state.
    fn running_info(&self) -> RunningInfo;

    /// How far it is in each of its queues of a topic; of all topics where that is blank.
    fn status(&self, topic: &str) -> QueueTable<i64>;

    /// Goes on from these offsets in those of the queues that are its own. Returns at once; the work is done on tasks of
    /// the consumer.
    fn reset(self: Arc<Self>, offsets: BTreeMap<MessageQueue, i64>);

    /// Consumes a message now. Dropping the future leaves a call under way to itself.
    fn consume_directly(self: Arc<Self>, message: StoredMessage) -> ConsumingDirectly;
}

/// A message that is being consumed directly.
pub type ConsumingDirectly = Pin<Box<dyn Future<Output = Result<ConsumedDirectly, Refusal>> + Send>>;

/// Why an operator's request is not done: the code of the answer, and words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ResponseCode,
    /// The words.
    pub remark: String,
}

impl Refusal {
    /// With SYSTEM_ERROR, as Java refuses most.
    pub fn new(remark: impl Into<String>) -> Self {
        Self { code: ResponseCode::SYSTEM_ERROR, remark: remark.into() }
    }
}

/// How many questions of operators may be under way.
#[derive(Debug)]
pub(super) struct Questions(Arc<Semaphore>);

impl Default for Questions {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_QUESTIONS)))
    }
}

impl Client {
    /// Has a consumer answer what operators ask of its group. It has to be
    /// [registered](Self::register_consumer) already, and is not kept alive.
    pub fn answer_operators(&self, group: &str, operated: Weak<dyn Operated>) {
        self.shared().members.set_operated(group, operated);
    }
}

/// Java: `ClientRemotingProcessor.getConsumerRunningInfo`.
pub(super) fn running_info(shared: &Arc<Shared>, incoming: Incoming) {
    answer::<GetRunningInfo, _>(shared, incoming, |shared, request, ()| async move {
        Ok(consumer(&shared, &request.consumer_group)?.running_info())
    });
}

/// Java: `ClientRemotingProcessor.getConsumeStatus`. A group that is not there is nowhere.
pub(super) fn status(shared: &Arc<Shared>, incoming: Incoming) {
    answer::<GetClientStatus, _>(shared, incoming, |shared, request, ()| async move {
        let operated = shared.members.operated(&request.group);
        let message_queue_table = operated.map(|operated| operated.status(request.topic.trim())).unwrap_or_default();
        Ok(ClientStatus { message_queue_table, ..ClientStatus::default() })
    });
}

/// Java: `ClientRemotingProcessor.consumeMessageDirectly`.
pub(super) fn consume_directly(shared: &Arc<Shared>, incoming: Incoming) {
    answer::<ConsumeDirectly, _>(shared, incoming, |shared, request, record| async move {
        let operated = consumer(&shared, &request.consumer_group)?;
        let (topic, broker_name) = (request.topic.unwrap_or_default(), request.broker_name.unwrap_or_default());
        let message = match decode_records(record, &topic, &broker_name, DecodeLimits::default()).next() {
            Some(Ok(message)) => message,
            Some(Err(corrupt)) => return Err(Refusal::new(format!("the message does not read: {corrupt}"))),
            None => return Err(Refusal::new("the request holds no message")),
        };
        let consuming = timeout(DIRECT_PATIENCE, operated.consume_directly(message));
        consuming
            .await
            .unwrap_or_else(|_| {
                let remark = format!("the listener takes longer than {DIRECT_PATIENCE:?}; the call goes on");
                Err(Refusal { code: ResponseCode::CONSUME_MSG_TIMEOUT, remark })
            })
            .map(Json)
    });
}

/// Java: `ClientRemotingProcessor.resetOffset`. One-way.
pub(super) fn reset(shared: &Arc<Shared>, incoming: Incoming) {
    answer::<ResetClientOffset, _>(shared, incoming, |shared, request, table| async move {
        let operated = consumer(&shared, &request.group)?;
        let mut offsets = table.offset_table.0;
        offsets.retain(|queue, offset| queue.topic == request.topic && *offset >= 0);
        let (group, topic) = (printable(&request.group), printable(&request.topic));
        tracing::info!(%group, %topic, queues = offsets.len(), "an operator resets offsets");
        operated.reset(offsets);
        Ok(())
    });
}

fn consumer(shared: &Shared, group: &str) -> Result<Arc<dyn Operated>, Refusal> {
    let operated = shared.members.operated(group);
    operated.ok_or_else(|| Refusal::new(format!("The Consumer Group <{group}> not exist in this consumer")))
}

/// Answers a question on a task of its own: what it takes is not for the one who reads the connection.
fn answer<R, F>(
    shared: &Arc<Shared>,
    incoming: Incoming,
    work: impl FnOnce(Arc<Shared>, R, R::Body) -> F + Send + 'static,
) where
    R: Request<Body: Send, Reply: Send> + Send + 'static,
    F: Future<Output = Result<R::Reply, Refusal>> + Send + 'static,
{
    let Ok(leave) = shared.questions.0.clone().try_acquire_owned() else {
        return incoming.refuse(ResponseCode::SYSTEM_BUSY, "too many questions of operators at once");
    };
    let asked = shared.clone();
    let answering = async move {
        let _leave = leave;
        let outcome = match (incoming.header::<R>(), incoming.body::<R>()) {
            (Ok(request), Ok(body)) => work(asked, request, body).await,
            (Err(error), _) => Err(Refusal::new(error.to_string())),
            (_, Err(error)) => Err(Refusal::new(error.to_string())),
        };
        match outcome {
            Ok(reply) => {
                if let Err(error) = incoming.answer::<R>(reply) {
                    tracing::error!(error = &error as &dyn std::error::Error, "an operator gets no answer");
                }
            }
            Err(Refusal { code, remark }) => {
                tracing::warn!(request = %R::CODE, %code, remark = %printable(&remark), "an operator's request is refused");
                incoming.refuse(code, remark);
            }
        }
    };
    drop(shared.tasks.spawn(answering));
}

/// More than operators ask at once.
const MAX_QUESTIONS: usize = 32;
/// Less than the 10 s for which brokers wait. Java: `Broker2Client.callClient`.
const DIRECT_PATIENCE: Duration = Duration::from_secs(9);
