use crate::{
    Error, MessageQueue, StoredMessage,
    message::names::{DLQ_PREFIX, RETRY_PREFIX, is_system_topic},
};
use std::{borrow::Cow, sync::Arc};

/// A namespace of the first kind: a text before the names of topics and groups, so that those of several tenants of a
/// cluster do not meet. Or none, which leaves every name as it is.
///
/// Brokers know nothing of it; they see `NS%orders`, `%RETRY%NS%billing`. [`wrap`](Self::wrap) makes such a name,
/// [`strip`](Self::strip) takes the namespace out again.
///
/// ```
/// use rocketmq_common::Namespace;
///
/// let namespace = Namespace::new("MQ_INST_1_a")?;
/// assert_eq!(namespace.wrap("orders"), "MQ_INST_1_a%orders");
/// assert_eq!(namespace.wrap("%RETRY%billing"), "%RETRY%MQ_INST_1_a%billing");
/// assert_eq!(namespace.strip("MQ_INST_1_a%orders"), "orders");
/// assert_eq!(namespace.wrap("TBW102"), "TBW102");
/// # Ok::<(), rocketmq_common::Error>(())
/// ```
///
/// # Protocol
/// Java: `NamespaceUtil`. Witness: tests `namespace::*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace(Option<Box<str>>);

impl Namespace {
    /// No namespace.
    pub const NONE: Self = Self(None);

    /// The namespace of this name; an empty name is none.
    ///
    /// # Errors
    /// [`Error::Config`] for a name of more than 100 characters, or with others than letters and digits of ASCII, `|`,
    /// `-` and `_`: it becomes a part of names, and a `%` in it would make it impossible to find its end.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '|' | '-' | '_');
        if name.len() > MAX_CHARS || !name.chars().all(fits) {
            return Err(Error::Config { option: "namespace", message: "is too long or holds a character no name may" });
        }
        Ok(Self((!name.is_empty()).then(|| name.into())))
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The name of a topic or group on the wire. Those of the brokers' own, and those that are wrapped already, stay as
    /// they are.
    pub fn wrap<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let Some(namespace) = self.name() else { return Cow::Borrowed(name) };
        if name.is_empty() || is_system(name) || self.strip_start(name).is_some() {
            return Cow::Borrowed(name);
        }
        let (prefix, rest) = split_prefix(name);
        Cow::Owned([prefix, namespace, "%", rest].concat())
    }

    /// The name of a topic or group as its user knows it: without this namespace, where it is in it.
    pub fn strip<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match self.strip_start(name) {
            None => Cow::Borrowed(name),
            Some(("", rest)) => Cow::Borrowed(rest),
            Some((prefix, rest)) => Cow::Owned([prefix, rest].concat()),
        }
    }

    /// As [`wrap`](Self::wrap), for a name that is shared.
    #[must_use]
    pub fn wrap_shared(&self, name: Arc<str>) -> Arc<str> {
        match self.wrap(&name) {
            Cow::Owned(wrapped) => wrapped.into(),
            Cow::Borrowed(_) => name,
        }
    }

    /// As [`strip`](Self::strip), for a name that is shared.
    #[must_use]
    pub fn strip_shared(&self, name: Arc<str>) -> Arc<str> {
        match self.strip_start(&name) {
            Some((prefix, rest)) => [prefix, rest].concat().into(),
            None => name,
        }
    }

    /// As [`strip`](Self::strip), for a group, which has no prefix.
    pub fn strip_group<'a>(&self, group: &'a str) -> &'a str {
        match self.strip_start(group) {
            Some(("", rest)) => rest,
            _ => group,
        }
    }

    /// A queue as the wire knows it.
    #[must_use]
    pub fn wrap_queue(&self, queue: MessageQueue) -> MessageQueue {
        MessageQueue { topic: self.wrap_shared(queue.topic), ..queue }
    }

    /// A queue as its user knows it.
    #[must_use]
    pub fn strip_queue(&self, queue: MessageQueue) -> MessageQueue {
        MessageQueue { topic: self.strip_shared(queue.topic), ..queue }
    }

    /// A message as its user knows it.
    #[must_use]
    pub fn strip_message(&self, message: StoredMessage) -> StoredMessage {
        if self.0.is_none() {
            return message;
        }
        let topic = self.strip_shared(message.shared_topic().clone());
        message.with_topic(topic)
    }

    /// An error as its user knows the topic in it.
    #[must_use]
    pub fn strip_error(&self, error: Error) -> Error {
        match error {
            Error::TopicNotFound { topic } => Error::TopicNotFound { topic: self.strip_shared(topic) },
            other => other,
        }
    }

    /// The prefix of a name, and what follows the namespace in it; `None` for a name that is not in it.
    fn strip_start<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let namespace = self.name()?;
        let (prefix, rest) = split_prefix(name);
        Some((prefix, rest.strip_prefix(namespace)?.strip_prefix('%')?))
    }
}

/// A name without the namespace that it is in, whichever that is: what stands before the first `%`, a retry or dead
/// letter prefix left aside.
///
/// # Protocol
/// Java: `NamespaceUtil.withoutNamespace` of one argument. Names that hold a `%` of their own lose a part.
pub fn strip_any_namespace(name: &str) -> Cow<'_, str> {
    if is_system(name) {
        return Cow::Borrowed(name);
    }
    let (prefix, rest) = split_prefix(name);
    match rest.split_once('%') {
        None | Some(("", _)) => Cow::Borrowed(name),
        Some((_, rest)) if prefix.is_empty() => Cow::Borrowed(rest),
        Some((_, rest)) => Cow::Owned([prefix, rest].concat()),
    }
}

/// The prefix of a retry or dead letter topic, and the rest of its name.
fn split_prefix(name: &str) -> (&str, &str) {
    let prefix = [RETRY_PREFIX, DLQ_PREFIX].into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or_default();
    name.split_at(prefix.len())
}

fn is_system(name: &str) -> bool {
    is_system_topic(name) || name.starts_with(SYSTEM_GROUP_PREFIX)
}

/// Start of the consumer groups of the brokers' own. Java: `MixAll.CID_RMQ_SYS_PREFIX`.
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
const MAX_CHARS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::names::{dlq_topic, retry_topic};
    use proptest::prelude::*;

    fn namespace() -> Namespace {
        Namespace::new("NS").unwrap()
    }

    #[test]
    fn names_are_wrapped_as_java_wraps_them() {
        let cases = [
            ("orders", "NS%orders"),
            ("%RETRY%g", "%RETRY%NS%g"),
            ("%DLQ%g", "%DLQ%NS%g"),
            ("a%b", "NS%a%b"),
            ("NSorders", "NS%NSorders"),
            ("%LMQ%x", "NS%%LMQ%x"),
        ];
        for (plain, wrapped) in cases {
            assert_eq!(namespace().wrap(plain), wrapped);
            assert_eq!(namespace().wrap(wrapped), wrapped, "twice");
            assert_eq!(namespace().strip(wrapped), plain);
            assert_eq!(namespace().strip(plain), plain);
        }
    }

    #[test]
    fn what_belongs_to_the_brokers_or_to_another_namespace_stays() {
        for name in ["", "TBW102", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRACE_TOPIC", "rmq_sys_x", "CID_RMQ_SYS_TRANS"] {
            assert_eq!(namespace().wrap(name), name);
            assert_eq!(strip_any_namespace(name), name);
        }
        assert_eq!(namespace().strip("OTHER%orders"), "OTHER%orders");
        assert_eq!(namespace().strip("%RETRY%NSX%g"), "%RETRY%NSX%g");
    }

    #[test]
    fn without_a_namespace_names_are_not_touched() {
        let topic: Arc<str> = "NS%orders".into();
        assert_eq!(Namespace::new("").unwrap(), Namespace::NONE);
        assert!(Arc::ptr_eq(&Namespace::NONE.wrap_shared(topic.clone()), &topic));
        assert!(Arc::ptr_eq(&Namespace::NONE.strip_shared(topic.clone()), &topic));
        assert!(Arc::ptr_eq(&namespace().wrap_shared(topic.clone()), &topic));
        assert_eq!(&*namespace().strip_shared(topic), "orders");
        assert_eq!(namespace().strip_group("NS%g"), "g");
    }

    #[test]
    fn an_unknown_namespace_ends_at_the_first_percent_sign() {
        let cases = [("NS%orders", "orders"), ("%RETRY%NS%g", "%RETRY%g"), ("orders", "orders"), ("%x", "%x")];
        for (name, plain) in cases {
            assert_eq!(strip_any_namespace(name), plain);
        }
    }

    #[test]
    fn a_namespace_that_could_not_be_told_from_the_name_is_refused() {
        for name in ["a%b", "a b", "ü", "a.b", &"n".repeat(101)] {
            assert!(matches!(Namespace::new(name), Err(Error::Config { option: "namespace", .. })), "{name}");
        }
    }

    proptest! {
        #[test]
        fn stripping_undoes_wrapping(
            name in "(%RETRY%|%DLQ%)?[a-zA-Z0-9%|_-]{1,12}",
            namespace in "[a-zA-Z0-9|_-]{1,8}",
        ) {
            let namespace = Namespace::new(&namespace).unwrap();
            let wrapped = namespace.wrap(&name).into_owned();
            prop_assert_eq!(&*namespace.wrap(&wrapped), &*wrapped);
            // A name that is wrapped already is not the user's own.
            prop_assume!(namespace.strip(&name) == name);
            prop_assert_eq!(&*namespace.strip(&wrapped), &*name);
        }

        #[test]
        fn derived_topics_are_those_of_the_wrapped_group(group in "[a-zA-Z0-9|_-]{1,12}") {
            let wrapped = namespace().wrap(&group).into_owned();
            for derived in [retry_topic, dlq_topic] {
                let topic = derived(&group);
                prop_assert_eq!(&*namespace().wrap(&topic), derived(&wrapped));
            }
        }
    }
}
