//! What a topic or a group may be called, and the names made from them.

/// Topic whose settings a broker copies to a topic it creates by itself.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Producer group that stands for "none given" and cannot be used.
pub const DEFAULT_PRODUCER: &str = "DEFAULT_PRODUCER";
/// Consumer group that stands for "none given" and cannot be used.
pub const DEFAULT_CONSUMER: &str = "DEFAULT_CONSUMER";
/// Start of the topic that holds what a group is to consume again.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Start of the topic that holds what a group gave up.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Topic in which a broker keeps messages with a delay level until they are due.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Topic in which a broker keeps half messages.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Topic that every broker has from its start on, and never holds anything: its route names all brokers.
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
/// Topic to which producers send message traces.
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";

/// Longest name of a topic, in characters.
pub const MAX_TOPIC_CHARS: usize = 127;
/// Longest name of a group, in characters, its namespace included. Brokers before 5.4 accept 255, later ones serve nothing
/// to a longer one, without an error: the name of its retry topic would be too long.
pub const MAX_GROUP_CHARS: usize = 120;

/// Topics a broker refuses to store messages in when a client asks.
const FORBIDDEN_TARGETS: [&str; 6] = [
    SCHEDULE_TOPIC,
    HALF_TOPIC,
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    SELF_TEST_TOPIC,
    "OFFSET_MOVED_EVENT",
];

/// Topics of the brokers' own which clients may still send to.
const OTHER_SYSTEM_TOPICS: [&str; 4] = [AUTO_CREATE_TOPIC, "BenchmarkTest", TRACE_TOPIC, "CHECKPOINT_TOPIC"];

/// What is wrong with the name of a topic or a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no name, or nothing but white space.
    #[error("the {kind} has no name")]
    Blank {
        /// What the name is for.
        kind: NameKind,
    },
    /// The name has more characters than brokers accept.
    #[error("the name of the {kind} has {chars} characters, at most {max} are allowed")]
    TooLong {
        /// What the name is for.
        kind: NameKind,
        /// Characters in the name.
        chars: usize,
        /// Characters allowed.
        max: usize,
    },
    /// The name holds a character other than letters and digits of ASCII, `%`, `|`, `-` and `_`.
    #[error("the {kind} {name:?} holds {character:?}; only letters, digits, %, |, - and _ are allowed")]
    Character {
        /// What the name is for.
        kind: NameKind,
        /// The name.
        name: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// The group is one of those that stand for "none given".
    #[error("the group {name} is reserved, choose another")]
    ReservedGroup {
        /// The name.
        name: String,
    },
}

/// What a name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameKind {
    /// A topic.
    Topic,
    /// A group of producers or consumers.
    Group,
}

impl std::fmt::Display for NameKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Group => "group",
        })
    }
}

/// Checks the name of a topic: 1 to 127 characters out of letters, digits, `%`, `|`, `-` and `_`.
///
/// # Errors
/// Says what is wrong with the name; brokers answer such a name with code 29 or create a topic nobody can address.
///
/// # Protocol
/// Java `TopicValidator`, `Validators.checkTopic`.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    check(NameKind::Topic, name, MAX_TOPIC_CHARS)
}

/// Checks the name of a group: 1 to 120 characters out of letters, digits, `%`, `|`, `-` and `_`, and none of
/// [`DEFAULT_PRODUCER`] and [`DEFAULT_CONSUMER`].
///
/// # Errors
/// Says what is wrong with the name.
///
/// # Protocol
/// Java `Validators.checkGroup`, and the checks of its producers and consumers when they start.
pub fn check_group(name: &str) -> Result<(), NameError> {
    check(NameKind::Group, name, MAX_GROUP_CHARS)?;
    if name == DEFAULT_PRODUCER || name == DEFAULT_CONSUMER {
        return Err(NameError::ReservedGroup { name: name.to_owned() });
    }
    Ok(())
}

fn check(kind: NameKind, name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank { kind });
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_');
    if let Some(character) = name.chars().find(|c| !allowed(c)) {
        return Err(NameError::Character { kind, name: name.to_owned(), character });
    }
    // Every character is ASCII by now, so bytes are characters.
    if name.len() > max {
        return Err(NameError::TooLong { kind, chars: name.len(), max });
    }
    Ok(())
}

/// Whether brokers refuse messages which a client sends to this topic.
///
/// # Protocol
/// Java `TopicValidator.isNotAllowedSendTopic`; brokers answer code 16.
pub fn is_forbidden_target(topic: &str) -> bool {
    FORBIDDEN_TARGETS.contains(&topic)
}

/// Whether the topic belongs to the brokers, so that no namespace is put before its name.
///
/// # Protocol
/// Java `TopicValidator.isSystemTopic`.
pub fn is_system_topic(topic: &str) -> bool {
    is_forbidden_target(topic) || OTHER_SYSTEM_TOPICS.contains(&topic) || topic.starts_with("rmq_sys_")
}

/// Names the topic which holds what the group is to consume again.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// Names the topic which holds what the group gave up.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// Names the topic by which the brokers of a cluster take replies.
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_REPLY_TOPIC")
}

/// Whether the topic holds what a group is to consume again.
pub fn is_retry_topic(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX)
}

/// Whether the topic holds what a group gave up.
pub fn is_dlq_topic(topic: &str) -> bool {
    topic.starts_with(DLQ_PREFIX)
}

/// Computes the hash which Java computes of the same text, so that both choose the same queue for a key.
///
/// # Protocol
/// Java `String.hashCode`: over UTF-16 code units, wrapping.
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["t", "order-created", "a_b|c", "%RETRY%billing", &"x".repeat(127)] {
            assert_eq!(check_topic(name), Ok(()), "{name}");
        }
        assert_eq!(check_group(&"g".repeat(120)), Ok(()));
    }

    #[test]
    fn a_name_that_brokers_refuse_is_refused_here() {
        assert_eq!(check_topic(" \t"), Err(NameError::Blank { kind: NameKind::Topic }));
        assert_eq!(check_group(""), Err(NameError::Blank { kind: NameKind::Group }));
        assert_eq!(
            check_topic("héllo"),
            Err(NameError::Character { kind: NameKind::Topic, name: "héllo".into(), character: 'é' })
        );
        assert!(matches!(check_topic("a.b"), Err(NameError::Character { character: '.', .. })));
        assert_eq!(
            check_topic(&"x".repeat(128)),
            Err(NameError::TooLong { kind: NameKind::Topic, chars: 128, max: 127 })
        );
        assert_eq!(
            check_group(&"x".repeat(121)),
            Err(NameError::TooLong { kind: NameKind::Group, chars: 121, max: 120 })
        );
    }

    #[test]
    fn groups_that_stand_for_none_are_refused() {
        assert!(matches!(check_group(DEFAULT_PRODUCER), Err(NameError::ReservedGroup { .. })));
        assert!(matches!(check_group(DEFAULT_CONSUMER), Err(NameError::ReservedGroup { .. })));
    }

    #[test]
    fn topics_of_the_brokers_are_known() {
        assert!(is_forbidden_target("SCHEDULE_TOPIC_XXXX"));
        assert!(!is_forbidden_target(TRACE_TOPIC));
        for topic in [AUTO_CREATE_TOPIC, TRACE_TOPIC, HALF_TOPIC, "rmq_sys_wheel_timer"] {
            assert!(is_system_topic(topic), "{topic}");
        }
        assert!(!is_system_topic("orders"));
    }

    #[test]
    fn retry_and_dead_letter_topics_are_named_after_the_group() {
        assert_eq!(retry_topic("g"), "%RETRY%g");
        assert_eq!(dlq_topic("g"), "%DLQ%g");
        assert!(is_retry_topic("%RETRY%g") && !is_retry_topic("%DLQ%g"));
        assert!(is_dlq_topic("%DLQ%g") && !is_dlq_topic("g"));
    }

    #[test]
    fn the_hash_is_the_one_of_java() {
        // Values of String.hashCode: the empty string, the classic pair that collides, a surrogate pair (0xD83D, 0xDE80).
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("Aa"), 2112);
        assert_eq!(java_hash("BB"), 2112);
        assert_eq!(java_hash("hello"), 99_162_322);
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        assert_eq!(java_hash("\u{1F680}"), 0xD83D * 31 + 0xDE80);
    }
}
