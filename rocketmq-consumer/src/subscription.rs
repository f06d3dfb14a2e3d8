use rocketmq_common::{
    StoredMessage,
    message::names::java_hash,
    protocol::{ExpressionType, SubscriptionData},
};

/// Which messages of a topic are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Expression);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    All,
    Tags(String),
    Sql(String),
}

/// Why a filter expression does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// There are bars and no tags.
    #[error("{expression:?} names no tag")]
    NoTag {
        /// The expression.
        expression: String,
    },
    /// A tag has a bar in it: several tags are separated by two bars.
    #[error("the tag {tag:?} of {expression:?} holds a |; tags are separated by ||")]
    Bar {
        /// The tag.
        tag: String,
        /// The expression.
        expression: String,
    },
    /// An SQL expression is empty.
    #[error("the SQL expression is empty")]
    EmptySql,
}

impl Filter {
    /// Every message.
    pub fn all() -> Self {
        Self(Expression::All)
    }

    /// The messages with one of the tags of `expression`: one tag, or several separated by `||`. `*` and an empty text
    /// stand for every message.
    pub fn tags(expression: impl Into<String>) -> Self {
        let expression = expression.into();
        match expression.as_str() {
            "" | "*" => Self::all(),
            _ => Self(Expression::Tags(expression)),
        }
    }

    /// The messages whose properties fulfil an SQL92 expression: comparisons of properties with numbers, texts in single
    /// quotes and `TRUE` or `FALSE`, `BETWEEN`, `IN`, `IS NULL`, joined by `AND`, `OR`, `NOT`. A message for which the
    /// expression cannot be evaluated is not wanted.
    ///
    /// The broker filters, and only one that is set up to (`enablePropertyFilter=true`); it is asked at the start.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
    /// use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
    ///
    /// let consumer = PushConsumer::builder("large-orders").name_servers(["127.0.0.1:9876"])
    ///     .subscribe("order-created", Filter::sql("amount > 100 AND region IN ('eu', 'us')"))
    ///     .listener(|message: StoredMessage| async move { Ok::<_, String>(println!("{message:?}")) })
    ///     .start().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Protocol
    /// `expressionType` `SQL92` of heartbeats and pulls; Java: `MessageSelector.bySql`.
    pub fn sql(expression: impl Into<String>) -> Self {
        Self(Expression::Sql(expression.into()))
    }

    /// What heartbeats say of this filter.
    ///
    /// # Protocol
    /// Java: `FilterAPI.buildSubscriptionData`. The broker goes by the tags' hashes, over UTF-16, and the client by the
    /// tags themselves.
    pub(crate) fn subscription(&self, topic: &str, version_ms: i64) -> Result<SubscriptionData, FilterError> {
        let mut data = SubscriptionData {
            topic: topic.to_owned(),
            sub_string: "*".to_owned(),
            tags_set: Vec::new(),
            code_set: Vec::new(),
            sub_version: version_ms,
            expression_type: ExpressionType::Tag,
            class_filter_mode: false,
        };
        if let Expression::Sql(expression) = &self.0 {
            if expression.trim().is_empty() {
                return Err(FilterError::EmptySql);
            }
            data.sub_string.clone_from(expression);
            data.expression_type = ExpressionType::Sql92;
        }
        if let Expression::Tags(expression) = &self.0 {
            for tag in expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
                if tag.contains('|') {
                    return Err(FilterError::Bar { tag: tag.to_owned(), expression: expression.clone() });
                }
                if !data.tags_set.iter().any(|known| known == tag) {
                    data.tags_set.push(tag.to_owned());
                    data.code_set.push(java_hash(tag));
                }
            }
            if data.tags_set.is_empty() {
                return Err(FilterError::NoTag { expression: expression.clone() });
            }
            data.sub_string.clone_from(expression);
        }
        Ok(data)
    }
}

/// Whether a message that passed the broker's filter is wanted: two tags may share a hash.
pub(crate) fn wants(subscription: &SubscriptionData, message: &StoredMessage) -> bool {
    subscription.tags_set.is_empty()
        || message.tag().is_some_and(|tag| subscription.tags_set.iter().any(|wanted| wanted == tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_trimmed_and_hashed_as_in_java() {
        let data = Filter::tags("TagA || TagB||标签 ||TagA").subscription("t", 7).unwrap();
        assert_eq!(data.tags_set, ["TagA", "TagB", "标签"]);
        assert_eq!(data.code_set, [2_598_919, 2_598_920, 857_175]);
        assert_eq!(data.sub_string, "TagA || TagB||标签 ||TagA");
        assert_eq!(data.sub_version, 7);
    }

    #[test]
    fn a_star_or_nothing_means_all() {
        for filter in [Filter::all(), Filter::tags("*"), Filter::tags("")] {
            let data = filter.subscription("t", 1).unwrap();
            assert_eq!((data.sub_string.as_str(), data.tags_set.len()), ("*", 0));
        }
    }

    #[test]
    fn an_sql_expression_goes_to_the_broker_as_it_is() {
        let data = Filter::sql(" amount > 10 ").subscription("t", 1).unwrap();
        assert_eq!((data.sub_string.as_str(), data.expression_type), (" amount > 10 ", ExpressionType::Sql92));
        assert!(data.tags_set.is_empty() && data.code_set.is_empty());
        assert_eq!(Filter::sql(" ").subscription("t", 1), Err(FilterError::EmptySql));
    }

    #[test]
    fn bars_without_tags_are_refused() {
        assert!(Filter::tags("||").subscription("t", 1).is_err());
        assert!(Filter::tags(" || ").subscription("t", 1).is_err());
    }

    #[test]
    fn a_single_bar_divides_nothing_and_is_refused() {
        let refused = |expression: &str| match Filter::tags(expression).subscription("t", 1) {
            Err(FilterError::Bar { tag, .. }) => tag,
            other => panic!("{expression}: {other:?}"),
        };
        assert_eq!(refused("a|b"), "a|b");
        assert_eq!(refused("a || b | c"), "b | c");
        assert_eq!(refused("a ||| b"), "| b");
    }
}
