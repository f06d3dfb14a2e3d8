use super::REGION;
use rocketmq_common::message::{
    UniqueIdGenerator,
    properties::{Properties, pairs, property},
};
use std::collections::BTreeMap;

/// A sent message's properties as a broker stores them.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) text: String,
    pub(super) unique_id: String,
}

impl Facts {
    /// Adds what a broker adds. Most messages come without any of it, so one look tells whether to append is enough.
    pub(super) fn of(sent: String, cluster: &str) -> Self {
        let mut unique_id = None;
        let mut names = Vec::with_capacity(MAX_NAMES);
        let (mut resent, mut repeats) = (false, false);
        for (name, value) in pairs(&sent) {
            match name {
                property::UNIQ_KEY => unique_id = Some(value.to_owned()),
                property::MSG_REGION | property::TRACE_ON | property::CLUSTER | property::POP_CK => resent = true,
                _ => {}
            }
            repeats |= names.len() == MAX_NAMES || names.contains(&name);
            if !repeats {
                names.push(name);
            }
        }
        let mut text = if repeats { last_of_each(&sent) } else { sent };
        text.reserve(ADDED_BYTES);
        if resent {
            let mut properties = Properties::from(text);
            for name in [property::MSG_REGION, property::TRACE_ON, property::CLUSTER, property::POP_CK] {
                properties.remove(name);
            }
            text = properties.into_string();
        }
        let mut add = |name: &str, value: &str| {
            if !text.is_empty() && !text.ends_with('\u{2}') {
                text.push('\u{2}');
            }
            for piece in [name, "\u{1}", value, "\u{2}"] {
                text.push_str(piece);
            }
        };
        let made = unique_id.is_none();
        let unique_id = unique_id.unwrap_or_else(|| UniqueIdGenerator::global().next());
        if made {
            add(property::UNIQ_KEY, &unique_id);
        }
        add(property::MSG_REGION, REGION);
        add(property::TRACE_ON, "true");
        add(property::CLUSTER, cluster);
        Self { text, unique_id }
    }
}

/// The pairs as Java's map holds them: of each name the last.
fn last_of_each(text: &str) -> String {
    let pairs: BTreeMap<&str, &str> = pairs(text).collect();
    pairs.iter().map(|(name, value)| format!("{name}\u{1}{value}\u{2}")).collect()
}

/// With more names than this nobody looks through them for each other one.
const MAX_NAMES: usize = 32;
const ADDED_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_adds_where_it_is() {
        let Facts { text, unique_id } = Facts::of("a\u{1}b\u{2}UNIQ_KEY\u{1}u".to_owned(), "C");
        assert_eq!(unique_id, "u");
        let read: Vec<_> = pairs(&text).collect();
        let added = [("MSG_REGION", REGION), ("TRACE_ON", "true"), ("CLUSTER", "C")];
        assert_eq!(read, [[("a", "b"), ("UNIQ_KEY", "u")].as_slice(), &added].concat());
    }

    #[test]
    fn a_message_without_id_gets_one() {
        let Facts { text, unique_id } = Facts::of(String::new(), "C");
        assert_eq!(pairs(&text).find(|(name, _)| *name == "UNIQ_KEY"), Some(("UNIQ_KEY", &*unique_id)));
    }

    #[test]
    fn what_another_broker_added_is_replaced() {
        let sent = "CLUSTER\u{1}X\u{2}POP_CK\u{1}1\u{2}UNIQ_KEY\u{1}u\u{2}";
        let text = Facts::of(sent.to_owned(), "C").text;
        assert_eq!(pairs(&text).filter(|(name, _)| *name == "CLUSTER").collect::<Vec<_>>(), [("CLUSTER", "C")]);
        assert!(!text.contains("POP_CK"));
    }

    #[test]
    fn of_a_name_that_repeats_the_last_stays() {
        let text = Facts::of("a\u{1}1\u{2}bad\u{2}a\u{1}2\u{2}UNIQ_KEY\u{1}u".to_owned(), "C").text;
        assert!(text.starts_with("UNIQ_KEY\u{1}u\u{2}a\u{1}2\u{2}MSG_REGION"), "{text}");
        let many: String = (0..100).map(|n| format!("n{}\u{1}{n}\u{2}", n % 50)).collect();
        assert_eq!(pairs(&Facts::of(many, "C").text).filter(|(name, _)| name.starts_with('n')).count(), 50);
    }
}
