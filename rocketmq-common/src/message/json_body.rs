//! Bodies in JSON.

use super::{Message, StoredMessage};
use serde::{Serialize, de::DeserializeOwned};

impl Message {
    /// Creates a message whose body is a value in JSON. Needs the feature `json`.
    ///
    /// ```
    /// # use rocketmq_common::Message;
    /// #[derive(serde::Serialize)]
    /// struct Order { id: u64 }
    ///
    /// let message = Message::json("order-created", &Order { id: 17 })?.tag("eu");
    /// assert_eq!(&message.body()[..], br#"{"id":17}"#);
    /// # Ok::<_, serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the value cannot be written: its `Serialize` fails, or a map has keys that are not texts.
    pub fn json<T: Serialize + ?Sized>(topic: impl Into<String>, value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self::new(topic, serde_json::to_vec(value)?))
    }
}

impl StoredMessage {
    /// Reads the body as JSON. Needs the feature `json`.
    ///
    /// ```
    /// # use rocketmq_common::StoredMessage;
    /// #[derive(serde::Deserialize)]
    /// struct Order { id: u64 }
    ///
    /// fn order_id(message: &StoredMessage) -> Result<u64, serde_json::Error> {
    ///     Ok(message.json::<Order>()?.id)
    /// }
    /// ```
    ///
    /// # Errors
    /// Where the body is not JSON, or not of that type. A listener that returns the error gets the message again, and in the
    /// end it is a dead letter.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DecodeLimits, decode_records};

    #[test]
    fn a_value_reads_as_it_was_written() {
        let message = Message::json("t", &[("größe", 1), ("b", 2)]).unwrap();
        assert_eq!(&message.body()[..], r#"[["größe",1],["b",2]]"#.as_bytes());
        let mut stored =
            decode_records(bytes::Bytes::from_static(&[0; 8]), &"t".into(), &"b".into(), DecodeLimits::default())
                .find_map(Result::err)
                .and_then(crate::message::CorruptRecord::into_message)
                .unwrap();
        assert!(stored.json::<u32>().is_err());
        stored.body = message.body().clone();
        assert_eq!(stored.json::<Vec<(String, u32)>>().unwrap(), [("größe".to_owned(), 1), ("b".to_owned(), 2)]);
        assert!(stored.json::<String>().is_err());
    }
}
