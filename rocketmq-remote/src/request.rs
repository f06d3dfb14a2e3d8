use crate::{Command, DecodeError, EncodeError, ExtFields, FieldError, JsonError, RequestCode, ResponseCode};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// A struct that travels as ext fields. Declared with [`header!`](crate::header!).
pub trait Header: Sized {
    /// Adds its fields.
    fn write(&self, fields: &mut ExtFields);

    /// Reads its fields; others are passed over, since newer peers send more.
    ///
    /// # Errors
    /// Where a field that must be there is missing, or one does not read as its type.
    fn read(fields: &ExtFields) -> Result<Self, FieldError>;
}

/// What is asked, and what comes back. Declared with [`request!`](crate::request!).
pub trait Request: Header {
    /// The number of this request.
    const CODE: RequestCode;
    /// The codes besides `SUCCESS` that carry the reply.
    const ALSO_OK: &'static [ResponseCode] = &[];
    /// The request's body: `()`, [`Bytes`] or [`Json`].
    type Body: Body;
    /// The reply: `()`, any [`Header`], [`Answer`] or [`Json`].
    type Reply: Reply;

    /// Whether `code` carries the reply.
    fn is_ok(code: ResponseCode) -> bool {
        code == ResponseCode::SUCCESS || Self::ALSO_OK.contains(&code)
    }
}

/// What can stand behind the head of a request.
pub trait Body: Sized {
    /// The bytes to send.
    ///
    /// # Errors
    /// Where the value cannot be written.
    fn into_bytes(self) -> Result<Bytes, EncodeError>;

    /// The value of received bytes.
    ///
    /// # Errors
    /// Where the bytes are no such value.
    fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError>;
}

/// What can be read from an answer, and written as one by the other side.
pub trait Reply: Sized {
    /// Reads the answer.
    ///
    /// # Errors
    /// Where a header field or the body does not read.
    fn from_command(command: Command) -> Result<Self, DecodeError>;

    /// Writes the answer into `command`, whose code and opaque are set.
    ///
    /// # Errors
    /// Where the value cannot be written.
    fn write_to(self, command: &mut Command) -> Result<(), EncodeError>;
}

impl Body for () {
    fn into_bytes(self) -> Result<Bytes, EncodeError> {
        Ok(Bytes::new())
    }

    fn from_bytes(_: Bytes) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Body for Bytes {
    fn into_bytes(self) -> Result<Bytes, EncodeError> {
        Ok(self)
    }

    fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(bytes)
    }
}

/// A body in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Body for Json<T> {
    fn into_bytes(self) -> Result<Bytes, EncodeError> {
        Ok(serde_json::to_vec(&self.0).map_err(JsonError::from)?.into())
    }

    fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(Self(serde_json::from_slice(&bytes).map_err(JsonError::from)?))
    }
}

/// An answer of which code, header and body all count.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<H> {
    /// `SUCCESS`, or one of the codes the request was declared to be answered with.
    pub code: ResponseCode,
    /// The fields.
    pub header: H,
    /// The body, a slice of the frame.
    pub body: Bytes,
}

impl Reply for () {
    fn from_command(_: Command) -> Result<Self, DecodeError> {
        Ok(())
    }

    fn write_to(self, _: &mut Command) -> Result<(), EncodeError> {
        Ok(())
    }
}

impl<H: Header> Reply for H {
    fn from_command(command: Command) -> Result<Self, DecodeError> {
        Ok(Self::read(&command.fields)?)
    }

    fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
        self.write(&mut command.fields);
        Ok(())
    }
}

impl<H: Header> Reply for Answer<H> {
    fn from_command(command: Command) -> Result<Self, DecodeError> {
        Ok(Self { code: command.response_code(), header: H::read(&command.fields)?, body: command.body })
    }

    fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
        command.code = self.code.0;
        command.body = self.body;
        self.header.write(&mut command.fields);
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned> Reply for Json<T> {
    fn from_command(command: Command) -> Result<Self, DecodeError> {
        Self::from_bytes(command.body)
    }

    fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
        command.body = self.into_bytes()?;
        Ok(())
    }
}

/// Declares a struct that travels as ext fields: each field with its wire name as a literal.
///
/// A field is `i32`, `i64`, `bool`, `String`, `Arc<str>` or an `Option` of one; only an `Option` may be absent. A wire
/// name used twice draws the unreachable-pattern warning.
#[macro_export]
macro_rules! header {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $field:ident : $ty:ty = $wire:literal),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name { $($(#[$doc])* pub $field: $ty),* }

        impl $crate::Header for $name {
            #[allow(unused_variables, clippy::allow_attributes, reason = "a header may have no fields")]
            fn write(&self, fields: &mut $crate::ExtFields) {
                $($crate::Field::put(&self.$field, $wire, fields);)*
            }

            #[allow(unused_variables, clippy::allow_attributes, reason = "a header may have no fields")]
            fn read(fields: &$crate::ExtFields) -> ::std::result::Result<Self, $crate::FieldError> {
                $(let mut $field = ::std::option::Option::None::<$crate::RawValue<'_>>;)*
                for (name, value) in fields.iter_raw() {
                    match name {
                        $($wire => $field = ::std::option::Option::Some(value),)*
                        _ => {}
                    }
                }
                ::std::result::Result::Ok(Self {
                    $($field: $crate::Field::get($wire, $field.and_then(|value| value.text()))?),*
                })
            }
        }
    };
}

/// Declares a request beside its reply. The first line reads as a signature: the code, the request's body, the reply,
/// and the codes besides `SUCCESS` that still carry that reply.
#[macro_export]
macro_rules! request {
    ($code:ident($body:ty) -> $reply:ty $(, also on [$($also:ident),* $(,)?])?;
     $(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::header! { $(#[$meta])* $vis struct $name { $($fields)* } }

        impl $crate::Request for $name {
            const CODE: $crate::RequestCode = $crate::RequestCode::$code;
            $(const ALSO_OK: &'static [$crate::ResponseCode] = &[$($crate::ResponseCode::$also),*];)?
            type Body = $body;
            type Reply = $reply;
        }
    };
}
