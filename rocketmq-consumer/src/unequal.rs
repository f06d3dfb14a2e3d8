//! Whether the members of a group subscribe to the same, without which messages are filtered out that one of them wants.
//!
//! # Protocol
//! A broker keeps one subscription for each group and topic, that with the greatest version (`ConsumerGroupInfo`): it
//! filters by that for all members. So the member whose own one differs from it is the one that misses messages.

use crate::{member::Member, subscriptions::Subscriptions};
use rocketmq_common::{
    ConditionKind,
    message::names::is_retry_topic,
    protocol::{ConsumerConnections, SubscriptionData},
};
use std::{collections::BTreeSet, sync::Arc};

/// How many rounds in a row have found a subscription different, and equal.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    different: u32,
    equal: u32,
}

impl Member {
    /// Compares what this member subscribes to with what a broker knows of its group, and logs a difference once.
    pub(crate) async fn compare_subscriptions(&self) {
        let own = self.subscriptions();
        let Some(first) = own.keys().find(|topic| !is_retry_topic(topic)) else { return };
        let group = match self.client.group_connections(&self.group, first).await {
            Ok(group) => group,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(group = %self.group, error, "the subscriptions of the group are not known");
                return;
            }
        };
        let different: BTreeSet<Arc<str>> = different(&own, &group).cloned().collect();
        for (topic, data) in own.iter().filter(|(topic, _)| !is_retry_topic(topic)) {
            let is_different = different.contains(topic);
            let (seen_different, seen_equal) = {
                let mut rounds = self.compared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let rounds = rounds.entry(topic.clone()).or_default();
                *rounds = match is_different {
                    true => Rounds { different: rounds.different + 1, equal: 0 },
                    false => Rounds { different: 0, equal: rounds.equal + 1 },
                };
                (rounds.different, rounds.equal)
            };
            if seen_different >= SURE {
                self.tell_different(topic, data, &group);
            } else if seen_equal >= SURE && self.report.conditions.ends(ConditionKind::Subscription, topic) {
                tracing::info!(group = %self.group, %topic, "all members of the group have the same filter");
            }
        }
    }

    fn tell_different(&self, topic: &Arc<str>, own: &SubscriptionData, group: &ConsumerConnections) {
        let theirs = group.subscription_table.get(&**topic).map_or("none", |data| &data.sub_string);
        if self.report.conditions.begins(ConditionKind::Subscription, topic, format_args!("the broker has {theirs:?}"))
        {
            let others = group.connection_set.iter().filter(|member| *member.client_id != **self.client.id());
            let others: Vec<_> = others
                .map(|member| format!("{} at {}", member.client_id, member.client_addr))
                .take(MOST_NAMED)
                .collect();
            tracing::warn!(
                group = %self.group, %topic, own = own.sub_string, broker = theirs, ?others,
                hint = "give all members of the group the same subscriptions, or another group",
                "another member of the group has another filter: messages are missed"
            );
        }
    }
}

/// The topics whose subscription the broker knows otherwise.
fn different<'a>(own: &'a Subscriptions, group: &'a ConsumerConnections) -> impl Iterator<Item = &'a Arc<str>> {
    let differs = |topic: &str, own: &SubscriptionData| {
        let own = filter_of(own.expression_type.name(), &own.sub_string);
        let theirs = group.subscription_table.get(topic);
        theirs.is_none_or(|theirs| {
            filter_of(theirs.expression_type.as_deref().unwrap_or("TAG"), &theirs.sub_string) != own
        })
    };
    own.iter().filter(move |(topic, own)| !is_retry_topic(topic) && differs(topic, own)).map(|(topic, _)| topic)
}

/// What is filtered by, however it is written: the order of tags does not matter.
fn filter_of<'a>(language: &'a str, expression: &'a str) -> (&'a str, BTreeSet<&'a str>) {
    let terms = match language {
        "TAG" => expression.split("||").map(str::trim).filter(|tag| !tag.is_empty() && *tag != "*").collect(),
        _ => [expression].into(),
    };
    (language, terms)
}

/// How many rounds in a row have to say the same: a member that changes its filter tells the brokers a moment later.
const SURE: u32 = 2;
/// How many other members are named.
const MOST_NAMED: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Filter, subscriptions::parse};
    use rocketmq_common::protocol::KnownSubscription;

    fn subscriptions(filter: Filter) -> Subscriptions {
        parse("g", vec![("t".to_owned(), filter)]).unwrap()
    }

    fn at_broker(filter: Filter) -> ConsumerConnections {
        let known = |data: &SubscriptionData| KnownSubscription {
            sub_string: data.sub_string.clone(),
            expression_type: Some(data.expression_type.name().to_owned()),
            sub_version: data.sub_version,
        };
        let subscriptions = subscriptions(filter);
        let table = subscriptions.iter().map(|(topic, data)| (topic.to_string(), known(data))).collect();
        ConsumerConnections { subscription_table: table, ..Default::default() }
    }

    #[test]
    fn a_filter_that_the_broker_knows_otherwise_is_different() {
        let is_different = |own: Filter, theirs: Filter| {
            different(&subscriptions(own), &at_broker(theirs)).map(|topic| topic.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(is_different(Filter::tags("a"), Filter::tags("b")), ["t"]);
        assert_eq!(is_different(Filter::tags("a"), Filter::all()), ["t"]);
        assert_eq!(is_different(Filter::sql("a > 1"), Filter::sql("a > 2")), ["t"]);
        assert!(is_different(Filter::tags("a || b"), Filter::tags("b||a")).is_empty());
        assert!(is_different(Filter::all(), Filter::tags("*")).is_empty());
        let nothing = ConsumerConnections::default();
        assert_eq!(different(&subscriptions(Filter::all()), &nothing).count(), 1, "not subscribed to at the broker");
    }
}
