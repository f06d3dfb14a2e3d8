use super::QueueName;
use crate::MessageQueue;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{collections::BTreeMap, fmt, marker::PhantomData};

/// A map keyed by queues, as Java writes it: the keys are objects without quotes, which is no JSON.
///
/// Read it from bytes that [`lenient`](crate::json::lenient) has passed, where such keys are texts; a text as a key is
/// read, too. A key that only refers to another place of the text (fastjson's `$ref`) names no queue, and its entry is
/// left out. More than 65,536 entries are an error.
///
/// # Protocol
/// `{{"brokerName":"b","queueId":3,"topic":"T"}:7}`; servers from 5.4 on do not read a key that is a text. Witness: the
/// goldens `reset_offset_reply_550.hex`, `running_info_reply_550.hex`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueTable<V>(pub BTreeMap<MessageQueue, V>);

impl<V> Default for QueueTable<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> FromIterator<(MessageQueue, V)> for QueueTable<V> {
    fn from_iter<I: IntoIterator<Item = (MessageQueue, V)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<V: Serialize> QueueTable<V> {
    /// Writes the table as Java does.
    ///
    /// # Errors
    /// Where a value cannot be written.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        out.push(b'{');
        for (index, (queue, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, &QueueName::from(queue))?;
            out.push(b':');
            serde_json::to_writer(&mut *out, value)?;
        }
        out.push(b'}');
        Ok(())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for QueueTable<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor(PhantomData))
    }
}

struct TableVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for TableVisitor<V> {
    type Value = QueueTable<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map keyed by queues")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(queue) = read_key(&key).map_err(A::Error::custom)? {
                table.insert(queue, map.next_value()?);
                check_count::<A::Error>(table.len())?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(QueueTable(table))
    }
}

/// The queue a key names; `None` for one that refers to another place.
fn read_key(key: &str) -> Result<Option<MessageQueue>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Reference {
        #[serde(rename = "$ref")]
        _path: String,
    }
    match serde_json::from_str::<QueueName>(key) {
        Ok(name) => Ok(Some(name.into())),
        Err(_) if serde_json::from_str::<Reference>(key).is_ok() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Offsets by queue, in either form in which a reset carries them: as a [`QueueTable`], or as the list that C++ clients
/// get.
pub(super) fn read_offsets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<QueueTable<i64>, D::Error> {
    deserializer.deserialize_any(OffsetsVisitor)
}

struct OffsetsVisitor;

impl<'de> Visitor<'de> for OffsetsVisitor {
    type Value = QueueTable<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("offsets by queue, as a map or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        TableVisitor(PhantomData).visit_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Entry {
            #[serde(flatten)]
            queue: QueueName,
            offset: i64,
        }
        let mut table = BTreeMap::new();
        while let Some(Entry { queue, offset }) = list.next_element()? {
            table.insert(queue.into(), offset);
            check_count::<A::Error>(table.len())?;
        }
        Ok(QueueTable(table))
    }
}

fn check_count<E: Error>(count: usize) -> Result<(), E> {
    if count > MAX_QUEUES { Err(E::custom(format_args!("more than {MAX_QUEUES} queues"))) } else { Ok(()) }
}

/// Far more queues than a group has.
const MAX_QUEUES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_lenient_slice;
    use proptest::prelude::*;

    fn queue(topic: &str, id: i32) -> MessageQueue {
        MessageQueue::new(topic, "broker-a", id)
    }

    fn read(text: &str) -> Result<QueueTable<i64>, serde_json::Error> {
        from_lenient_slice(text.as_bytes())
    }

    #[test]
    fn keys_are_objects_texts_or_spread_over_lines() {
        let expected = QueueTable::from_iter([(queue("T", 3), 7)]);
        for text in [
            r#"{{"brokerName":"broker-a","queueId":3,"topic":"T"}:7}"#,
            r#"{{"topic":"T","queueId":3,"brokerName":"broker-a","more":[1]}:7}"#,
            r#"{"{\"brokerName\":\"broker-a\",\"queueId\":3,\"topic\":\"T\"}":7}"#,
            "{ {\n\t\"brokerName\" : \"broker-a\",\n\t\"queueId\":3,\r\n \"topic\":\"T\"} : 7 }",
            r#"{{"$ref":"$.mqTable"}:9,{"brokerName":"broker-a","queueId":3,"topic":"T"}:7}"#,
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        assert_eq!(read("{}").unwrap(), QueueTable::default());
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        for text in [
            "",
            "[]",
            "7",
            "{",
            r#"{"T":7}"#,
            r#"{{"queueId":3,"topic":"T"}:7}"#,
            r#"{{"brokerName":"b","queueId":"x","topic":"T"}:7}"#,
            r#"{{"brokerName":"b","queueId":3,"topic":"T"}:"x"}"#,
            r#"{{"brokerName":"b","queueId":99999999999,"topic":"T"}:7}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_ends_somewhere() {
        let entry = |id: usize| format!(r#"{{"brokerName":"b","queueId":{id},"topic":"T"}}:1"#);
        let text = |count| format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
        assert_eq!(read(&text(MAX_QUEUES)).unwrap().0.len(), MAX_QUEUES);
        assert!(read(&text(MAX_QUEUES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(names in prop::collection::btree_map((".{0,8}", ".{0,8}", any::<i32>()), any::<i64>(), 0..8)) {
            let entries = names.into_iter().map(|((topic, broker, id), offset)| (MessageQueue::new(topic, broker, id), offset));
            let table = QueueTable::from_iter(entries);
            let mut text = Vec::new();
            table.write(&mut text).unwrap();
            prop_assert_eq!(from_lenient_slice::<QueueTable<i64>>(&text).unwrap(), table);
        }
    }
}
