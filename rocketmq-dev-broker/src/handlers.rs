//! What is done with each request.

mod assignment;
mod clients;
mod locks;
mod name_server;
mod offsets;
mod operators;
pub(crate) mod pop;
pub(crate) mod pull;
mod recall;
mod reply;
mod send;
pub(crate) mod send_back;
pub(crate) mod transactions;
mod view;

pub(crate) use name_server::NameServer;

use crate::{
    broker::Broker,
    faults::{End, Fault, Faults, Place},
};
use rocketmq_remote::{Command, DecodeError, EncodeError, FieldError, Incoming, Processors, RequestCode, ResponseCode};
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A request, and what a fault rule does with its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) incoming: Incoming,
    after: Option<(Fault, Tasks)>,
}

/// Where answers wait that a fault rule delays.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Why a request is not done: the code and the words of the answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: ResponseCode,
    remark: Cow<'static, str>,
}

pub(crate) type Outcome = Result<Command, Refusal>;

impl Refusal {
    pub(crate) fn new(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// The queue of a static topic is on another broker.
    pub(crate) fn moved(topic: &str, queue_id: i32, broker_name: &str) -> Self {
        let remark = format!("{topic}-{queue_id} does not exit in request process of current broker {broker_name}");
        Self::new(ResponseCode::NOT_LEADER_FOR_QUEUE, remark)
    }

    fn into_command(self) -> Command {
        Command::response(0, self.code).with_remark(self.remark)
    }
}

/// A field that is missing or unreadable makes Java's handlers throw, which its clients see as this code.
impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::new(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::new(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        Self::new(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

impl Asked {
    /// Answers, unless a fault rule has another idea.
    pub(crate) fn answer(self, outcome: Outcome) {
        let command = outcome.unwrap_or_else(Refusal::into_command);
        let Some((fault, tasks)) = self.after else { return send(&self.incoming, command) };
        let incoming = self.incoming;
        tasks.after(fault.delay, move || match fault.end {
            // The rest of the answer stays: a message that is stored and not flushed has a place all the same.
            Some(End::Answer(code)) => send(&incoming, Command { code: code.0, ..command }),
            Some(end) => apply(end, &incoming),
            None => send(&incoming, command),
        });
    }
}

impl Tasks {
    /// Does something now, or on a task of its own after a delay.
    fn after(&self, delay: Option<Duration>, action: impl FnOnce() + Send + 'static) {
        let Some(delay) = delay else { return action() };
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(delay) => action(),
            }
        });
    }
}

/// An answer that says the request is done.
pub(crate) fn done() -> Command {
    Command::response(0, ResponseCode::SUCCESS)
}

fn send(incoming: &Incoming, command: Command) {
    if let Err(error) = incoming.answer_with(command) {
        tracing::error!(error = &error as &dyn std::error::Error, "cannot encode an answer");
        incoming.refuse(ResponseCode::SYSTEM_ERROR, "the answer cannot be encoded");
    }
}

fn apply(end: End, incoming: &Incoming) {
    match end {
        End::Answer(code) => incoming.refuse(code, "a fault rule of the dev broker says so"),
        End::Forget => {}
        End::Close => incoming.close_connection(),
    }
}

/// Lets the fault rules have a look at a request before its handler gets it.
fn receive(
    incoming: Incoming,
    faults: &Faults,
    place: &Place,
    vip: bool,
    tasks: impl FnOnce() -> Tasks,
    handler: impl FnOnce(Asked) + Send + 'static,
) {
    faults.note(incoming.command().request_code(), &incoming.command().fields, vip);
    let Some(fault) = faults.judge(incoming.command().request_code(), place) else {
        return handler(Asked { incoming, after: None });
    };
    let tasks = tasks();
    if fault.process_first {
        return handler(Asked { incoming, after: Some((fault, tasks)) });
    }
    tasks.after(fault.delay, move || match fault.end {
        Some(end) => apply(end, &incoming),
        None => handler(Asked { incoming, after: None }),
    });
}

/// The processors of a broker, at its own port or at that of the VIP channel. Codes it does not serve are there too, so
/// that they are counted and can fail on demand.
pub(crate) fn of_broker(broker: &Arc<Broker>, vip: bool) -> Processors {
    let mut processors = Processors::new();
    for code in named_codes() {
        let handler = if vip && is_own_port_only(code) { Handler::Now(unknown) } else { broker_handler(code) };
        let broker = broker.clone();
        processors = processors.on(code, move |incoming| {
            let tasks = || Tasks { tracker: broker.tasks.clone(), stop: broker.stop_all.clone() };
            let handling = broker.clone();
            receive(incoming, &broker.faults, &broker.place, vip, tasks, move |asked| match handler {
                Handler::Now(handler) => {
                    let outcome = handler(&handling, &asked.incoming);
                    asked.answer(outcome);
                }
                Handler::Later(handler) => handler(&handling, asked),
            });
        });
    }
    processors
}

/// A handler answers by what it returns, or by itself, perhaps later.
#[derive(Clone, Copy)]
enum Handler {
    Now(fn(&Broker, &Incoming) -> Outcome),
    Later(fn(&Broker, Asked)),
}

fn broker_handler(code: RequestCode) -> Handler {
    match code {
        RequestCode::SEND_MESSAGE | RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE => {
            Handler::Later(send::send)
        }
        RequestCode::SEND_REPLY_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2 => Handler::Later(reply::reply),
        RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE => Handler::Later(pull::pull),
        RequestCode::POP_MESSAGE => Handler::Later(pop::pop),
        RequestCode::NOTIFICATION => Handler::Later(pop::notify),
        RequestCode::ACK_MESSAGE => Handler::Now(pop::ack),
        RequestCode::BATCH_ACK_MESSAGE => Handler::Now(pop::batch_ack),
        RequestCode::CHANGE_MESSAGE_INVISIBLETIME => Handler::Now(pop::change),
        RequestCode::END_TRANSACTION => Handler::Later(transactions::end),
        RequestCode::RECALL_MESSAGE => Handler::Now(recall::recall),
        RequestCode::CONSUMER_SEND_MSG_BACK => Handler::Later(send_back::send_back),
        RequestCode::QUERY_CONSUMER_OFFSET => Handler::Now(offsets::query),
        RequestCode::UPDATE_CONSUMER_OFFSET => Handler::Now(offsets::update),
        RequestCode::GET_MAX_OFFSET => Handler::Now(offsets::max),
        RequestCode::GET_MIN_OFFSET => Handler::Now(offsets::min),
        RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => Handler::Now(offsets::search),
        RequestCode::GET_EARLIEST_MSG_STORETIME => Handler::Now(offsets::earliest),
        RequestCode::HEART_BEAT => Handler::Now(clients::heartbeat),
        RequestCode::UNREGISTER_CLIENT => Handler::Now(clients::unregister),
        RequestCode::GET_CONSUMER_LIST_BY_GROUP => Handler::Now(clients::list),
        RequestCode::GET_CONSUMER_CONNECTION_LIST => Handler::Now(clients::connections),
        RequestCode::CHECK_CLIENT_CONFIG => Handler::Now(clients::check),
        RequestCode::LOCK_BATCH_MQ => Handler::Now(locks::lock),
        RequestCode::UNLOCK_BATCH_MQ => Handler::Now(locks::unlock),
        RequestCode::GET_CONSUMER_RUNNING_INFO => Handler::Later(operators::running_info),
        RequestCode::CONSUME_MESSAGE_DIRECTLY => Handler::Later(operators::consume_directly),
        RequestCode::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => Handler::Later(operators::status),
        RequestCode::INVOKE_BROKER_TO_RESET_OFFSET => Handler::Later(operators::reset),
        RequestCode::QUERY_ASSIGNMENT => Handler::Now(assignment::query),
        RequestCode::SET_MESSAGE_REQUEST_MODE => Handler::Now(assignment::set_mode),
        RequestCode::VIEW_MESSAGE_BY_ID => Handler::Now(view::by_place),
        _ => Handler::Now(unknown),
    }
}

/// What the VIP channel does not serve. Java: `BrokerController.registerProcessor`.
fn is_own_port_only(code: RequestCode) -> bool {
    matches!(code, RequestCode::PULL_MESSAGE | RequestCode::LITE_PULL_MESSAGE | RequestCode::POP_MESSAGE)
}

fn unknown(_: &Broker, incoming: &Incoming) -> Outcome {
    Err(not_supported(incoming))
}

fn not_supported(incoming: &Incoming) -> Refusal {
    let remark = format!(" request type {} not supported", incoming.command().code);
    Refusal::new(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark)
}

/// The codes that have a name.
fn named_codes() -> impl Iterator<Item = RequestCode> {
    (0..1_000).chain(200_000..200_200).map(RequestCode).filter(|code| code.name().is_some())
}
