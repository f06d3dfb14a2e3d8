use crate::{ExtFields, HeadEncoding, Header, LanguageCode, Request, RequestCode, ResponseCode};
use bytes::Bytes;
use std::fmt;

/// The version this client reports: Java's ordinal of 5.3.3.
///
/// # Protocol
/// 401 and above make a name server answer routes as standard JSON; above 475 a broker that shuts down answers GO_AWAY.
pub const VERSION: i32 = 479;

/// One frame, in either direction: a request, or the answer to one. Java: `RemotingCommand`.
#[derive(Clone, PartialEq)]
pub struct Command {
    /// A [`RequestCode`] or a [`ResponseCode`], as [`is_response`](Self::is_response) tells.
    pub code: i32,
    /// The language of the sender.
    pub language: LanguageCode,
    /// The version of the sender, as Java numbers its releases.
    pub version: i32,
    /// The number by which an answer finds its request; chosen by the one who asks.
    pub opaque: i32,
    /// Bit 0: an answer. Bit 1: a one-way request.
    pub flag: i32,
    /// The answering side's words about an error.
    pub remark: Option<String>,
    /// The fields of the request's or the reply's header.
    pub fields: ExtFields,
    /// What follows the head.
    pub body: Bytes,
    /// How the head is written, or was.
    pub encoding: HeadEncoding,
}

const RESPONSE: i32 = 1;
const ONE_WAY: i32 = 2;

impl Command {
    /// A request; the header's type knows its code. The opaque is chosen when it is sent.
    pub fn request<R: Request>(header: &R) -> Self {
        let mut fields = ExtFields::with_capacity(FIELDS_CAPACITY);
        header.write(&mut fields);
        Self::new(R::CODE.0, 0, fields)
    }

    /// An answer to the request numbered `opaque`.
    pub fn response(opaque: i32, code: ResponseCode) -> Self {
        let mut command = Self::new(code.0, RESPONSE, ExtFields::default());
        command.opaque = opaque;
        command
    }

    fn new(code: i32, flag: i32, fields: ExtFields) -> Self {
        Self {
            code,
            language: LanguageCode::RUST,
            version: VERSION,
            opaque: 0,
            flag,
            remark: None,
            fields,
            body: Bytes::new(),
            encoding: HeadEncoding::default(),
        }
    }

    /// The same with `body`.
    #[must_use]
    pub fn with_body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// The same with the fields of `header`.
    #[must_use]
    pub fn with_header<H: Header>(mut self, header: &H) -> Self {
        header.write(&mut self.fields);
        self
    }

    /// The same with a remark.
    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// The same, marked as a request that is not answered.
    #[must_use]
    pub fn one_way(mut self) -> Self {
        self.flag |= ONE_WAY;
        self
    }

    /// Whether this is an answer.
    pub fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// Whether this is a request that must not be answered.
    pub fn is_one_way(&self) -> bool {
        self.flag & ONE_WAY != 0
    }

    /// The code, read as a request's.
    pub fn request_code(&self) -> RequestCode {
        RequestCode(self.code)
    }

    /// The code, read as an answer's.
    pub fn response_code(&self) -> ResponseCode {
        ResponseCode(self.code)
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Command");
        match self.is_response() {
            true => out.field("response", &self.response_code()),
            false => out.field("request", &self.request_code()),
        };
        out.field("opaque", &self.opaque).field("flag", &self.flag).field("remark", &self.remark);
        // Fields may hold user properties, and a body is the user's own: neither is for a log.
        out.field("body_bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Room for the fields of a send with a few properties, so that writing them allocates once.
const FIELDS_CAPACITY: usize = 512;
