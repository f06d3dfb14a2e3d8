use crate::json::from_lenient_slice;
use rocketmq_remote::{Body, Command, DecodeError, EncodeError, Json, JsonError, Reply};
use serde::{Serialize, de::DeserializeOwned};

/// A reply whose body is JSON as RocketMQ's servers really write it: map keys may stand without quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LenientJson<T>(pub T);

impl<T: Serialize + DeserializeOwned> Reply for LenientJson<T> {
    fn from_command(command: Command) -> Result<Self, DecodeError> {
        Ok(Self(from_lenient_slice(&command.body).map_err(JsonError::from)?))
    }

    fn write_to(self, command: &mut Command) -> Result<(), EncodeError> {
        command.body = Json(self.0).into_bytes()?;
        Ok(())
    }
}
