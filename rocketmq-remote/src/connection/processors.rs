use super::shared::Shared;
use crate::{Body, Command, DecodeError, Error, FieldError, Reply, Request, RequestCode, ResponseCode};
use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

/// What answers the peer's requests, by their code.
///
/// A processor runs on the task that reads the connection, one request after the other: it must not block. Slow work
/// takes the [`Incoming`] along to a task of its own and answers from there, in any order.
#[derive(Clone, Default)]
pub struct Processors(Arc<HashMap<RequestCode, Processor>>);

type Processor = Arc<dyn Fn(Incoming) + Send + Sync>;

impl Processors {
    /// None: every request that wants an answer is answered with code 3.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a processor for `code`; it takes the place of an earlier one.
    #[must_use]
    pub fn on(mut self, code: RequestCode, processor: impl Fn(Incoming) + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).insert(code, Arc::new(processor));
        self
    }

    /// Hands the request on. Whatever a processor does, the reader goes on.
    pub(super) fn dispatch(&self, incoming: Incoming) {
        let code = incoming.command.request_code();
        let Some(processor) = self.0.get(&code) else {
            tracing::debug!(peer = %incoming.addr(), %code, "request of an unknown code");
            incoming
                .refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, format!(" request type {} not supported", code.0));
            return;
        };
        let responder = incoming.responder();
        if catch_unwind(AssertUnwindSafe(|| processor(incoming))).is_err() {
            tracing::error!(%code, "a request processor panicked");
            responder.refuse(ResponseCode::SYSTEM_ERROR, "the request processor panicked");
        }
    }
}

impl fmt::Debug for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A request of the peer, and the way to answer it.
#[derive(Debug)]
pub struct Incoming {
    command: Command,
    shared: Weak<Shared>,
}

impl Incoming {
    pub(super) fn new(command: Command, shared: Weak<Shared>) -> Self {
        Self { command, shared }
    }

    /// The request.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// The address of the peer as it was dialled, or as it was accepted from; empty once the connection is gone.
    pub fn addr(&self) -> Arc<str> {
        self.shared.upgrade().map_or_else(|| "".into(), |shared| shared.addr.clone())
    }

    /// The socket address of the peer, where the transport has one and the connection still stands.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.shared.upgrade()?.peer
    }

    /// A number that tells this connection from every other one of the process.
    pub fn connection_id(&self) -> u64 {
        self.shared.upgrade().map_or(0, |shared| shared.id)
    }

    /// The request's header.
    ///
    /// # Errors
    /// Where a field is missing or does not read.
    pub fn header<R: Request>(&self) -> Result<R, FieldError> {
        R::read(&self.command.fields)
    }

    /// The request's body.
    ///
    /// # Errors
    /// Where the bytes are no such body.
    pub fn body<R: Request>(&self) -> Result<R::Body, DecodeError> {
        R::Body::from_bytes(self.command.body.clone())
    }

    /// Answers with the reply of request `R`. A one-way request is not answered.
    ///
    /// # Errors
    /// Where the reply cannot be encoded; the peer is then told so with SYSTEM_ERROR.
    pub fn answer<R: Request>(self, reply: R::Reply) -> Result<(), Error> {
        let mut command = Command::response(self.command.opaque, ResponseCode::SUCCESS);
        let written = reply.write_to(&mut command).and_then(|()| self.send(command));
        written.map_err(|source| {
            let code = self.command.request_code();
            self.refuse(ResponseCode::SYSTEM_ERROR, "the answer cannot be encoded");
            Error::Encode { code, source: Arc::new(source) }
        })
    }

    /// Answers with a code and words instead of a reply.
    pub fn refuse(&self, code: ResponseCode, remark: impl Into<String>) {
        let command = Command::response(self.command.opaque, code).with_remark(remark);
        if let Err(error) = self.send(command) {
            tracing::error!(%code, error = &error as &dyn std::error::Error, "cannot encode a refusal");
        }
    }

    /// Answers with a command made by hand; its opaque is set to the request's.
    ///
    /// # Errors
    /// Where the command cannot be encoded.
    pub fn answer_with(&self, mut command: Command) -> Result<(), crate::EncodeError> {
        command.opaque = self.command.opaque;
        self.send(command)
    }

    /// Ends the connection this request came on.
    pub fn close_connection(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.close(crate::CloseCause::Local);
        }
    }

    fn send(&self, command: Command) -> Result<(), crate::EncodeError> {
        match self.shared.upgrade() {
            Some(shared) if !self.command.is_one_way() => shared.send_answer(command),
            _ => Ok(()),
        }
    }

    fn responder(&self) -> Self {
        let mut head = Command::response(self.command.opaque, ResponseCode(self.command.code));
        head.flag = self.command.flag;
        Self { command: head, shared: self.shared.clone() }
    }
}
