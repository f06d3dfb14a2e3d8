use rocketmq_common::{message::names::java_hash, protocol::SubscriptionData};
use std::sync::Arc;

/// Which messages of a queue a pull wants, by the hash of their tag. Java: `ExpressionMessageFilter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TagFilter {
    All,
    OneOf(Arc<[i32]>),
}

impl TagFilter {
    /// The filter of an expression such as `a || b`; `None` where it is bars and nothing else.
    ///
    /// Only exactly `*`, or nothing, is for all. Java: `FilterAPI`.
    pub(crate) fn parse(expression: &str) -> Option<Self> {
        if expression.is_empty() || expression == ALL {
            return Some(Self::All);
        }
        // Java's split leaves out empty pieces at the end, so that bars alone are no piece at all.
        if expression.split("||").all(str::is_empty) {
            return None;
        }
        let tags = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty());
        Some(Self::OneOf(tags.map(java_hash).collect()))
    }

    /// The filter of a heartbeat's subscription: the hashes are taken as the client computed them.
    pub(crate) fn of(subscription: &SubscriptionData) -> Self {
        match subscription.sub_string.as_str() {
            ALL => Self::All,
            _ => Self::OneOf(subscription.code_set.as_slice().into()),
        }
    }

    pub(crate) fn matches(&self, tag_hash: i32) -> bool {
        match self {
            Self::All => true,
            Self::OneOf(hashes) => hashes.contains(&tag_hash),
        }
    }
}

/// The hash a broker keeps beside each message; 0 where there is no tag.
pub(crate) fn tag_hash(tag: Option<&str>) -> i32 {
    tag.map_or(0, java_hash)
}

const ALL: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_tags_between_bars() {
        let filter = TagFilter::parse(" TagA ||TagB|| ").unwrap();
        assert_eq!(filter, TagFilter::OneOf([2_598_919, 2_598_920].into()));
        assert!(filter.matches(tag_hash(Some("TagB"))) && !filter.matches(tag_hash(None)));
        assert_eq!(TagFilter::parse("*"), Some(TagFilter::All));
        assert_eq!(TagFilter::parse(""), Some(TagFilter::All));
    }

    #[test]
    fn odd_expressions_mean_what_they_mean_in_java() {
        assert_eq!(TagFilter::parse("||"), None);
        assert_eq!(TagFilter::parse("||||"), None);
        assert_eq!(TagFilter::parse(" || "), Some(TagFilter::OneOf([].into())));
        assert_eq!(TagFilter::parse("a || *"), Some(TagFilter::OneOf([97, 42].into())));
    }
}
