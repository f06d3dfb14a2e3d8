use crate::{Error, Filter};
use rocketmq_common::{
    Client, Namespace, TopicRoute,
    message::names::{check_topic, is_retry_topic, retry_topic},
    protocol::{ExpressionType, KnownSubscription, SubscriptionData},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{task::JoinSet, time::timeout};

/// What is subscribed to, by topic.
pub(crate) type Subscriptions = BTreeMap<Arc<str>, Arc<SubscriptionData>>;

/// The subscriptions by topic, that to the group's retry topic included.
pub(crate) fn parse(group: &str, given: Vec<(String, Filter)>) -> Result<Subscriptions, Error> {
    let version_ms = now_ms();
    let mut parsed = Subscriptions::new();
    for (topic, filter) in given {
        let data = parse_one(&topic, &filter, version_ms)?;
        match parsed.get(topic.as_str()) {
            Some(known) if **known != data => return Err(Error::Clash { topic }),
            _ => parsed.insert(topic.into(), Arc::new(data)),
        };
    }
    let retry_topic: Arc<str> = retry_topic(group).into();
    if let Ok(data) = Filter::all().subscription(&retry_topic, version_ms) {
        let all = Subscriptions::from([(retry_topic.clone(), Arc::new(data))]);
        if clash(&retry_topic, &all, &parsed) {
            return Err(Error::Clash { topic: retry_topic.to_string() });
        }
        parsed.extend(all);
    }
    Ok(parsed)
}

/// The subscriptions as the wire knows them.
pub(crate) fn wrapped(namespace: &Namespace, plain: Subscriptions) -> Result<Subscriptions, Error> {
    if namespace.name().is_none() {
        return Ok(plain);
    }
    let wrap = |(topic, data): (Arc<str>, Arc<SubscriptionData>)| {
        let topic = namespace.wrap_shared(topic);
        check_topic(&topic).map_err(rocketmq_common::Error::from)?;
        let data = SubscriptionData { topic: topic.to_string(), ..data.as_ref().clone() };
        Ok((topic, Arc::new(data)))
    };
    plain.into_iter().map(wrap).collect()
}

pub(crate) fn parse_one(topic: &str, filter: &Filter, version_ms: i64) -> Result<SubscriptionData, Error> {
    check_topic(topic).map_err(rocketmq_common::Error::from)?;
    filter.subscription(topic, version_ms).map_err(|source| Error::Filter { topic: topic.to_owned(), source })
}

/// Has a broker look whether it can filter that way; what a client can do itself needs no look.
///
/// # Protocol
/// Java: `MQClientInstance.checkClientInBroker`.
pub(crate) async fn check_filter(client: &Client, group: &str, data: &SubscriptionData) -> Result<(), Error> {
    if data.expression_type == ExpressionType::Tag {
        return Ok(());
    }
    match client.check_subscription(group, data).await {
        Ok(()) => Ok(()),
        // It is checked with the first pull, then.
        Err(rocketmq_common::Error::TopicNotFound { .. }) => Ok(()),
        Err(source) if source.response_code().is_some() => {
            let topic = client.namespace().strip_shared(data.topic.as_str().into()).to_string();
            Err(Error::FilterRefused { topic, source })
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// A subscription as the wire knows it, to be added to others: a broker has looked at its filter.
pub(crate) async fn one_more(
    client: &Client,
    group: &str,
    topic: String,
    filter: &Filter,
) -> Result<Subscriptions, Error> {
    let plain = Arc::new(parse_one(&topic, filter, now_ms())?);
    let new = wrapped(client.namespace(), [(topic.into(), plain)].into())?;
    for data in new.values() {
        check_filter(client, group, data).await?;
    }
    Ok(new)
}

/// Has brokers take these subscriptions in place of those that the members of the group have now with other filters:
/// they keep the one of the greatest version, which is a time, and the clock of this host may be behind.
///
/// # Protocol
/// Java: `ConsumerGroupInfo.updateSubscription`. Nothing tells a member that its subscription was passed over.
pub(crate) async fn supersede_known(client: &Client, group: &Arc<str>, subscriptions: &mut Subscriptions) {
    // Every broker of the group knows all of them.
    let Some(topic) = subscriptions.keys().find(|topic| !is_retry_topic(topic)).cloned() else { return };
    let asking = client.group_subscriptions(group, &topic);
    let known = match timeout(LONGEST_QUESTION, asking).await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => {
            tracing::debug!(%group, error = &error as &dyn std::error::Error, "subscriptions of the group not known");
            return;
        }
        Err(_) => return,
    };
    for (topic, data) in subscriptions {
        if let Some(version) = known.get(&**topic).and_then(|known| version_above(known, data)) {
            tracing::info!(%group, %topic, version, "the clock is behind that of another member with another filter");
            Arc::make_mut(data).sub_version = version;
        }
    }
}

/// The version that a subscription needs to take the place of one with another filter.
fn version_above(known: &KnownSubscription, data: &SubscriptionData) -> Option<i64> {
    let expression_type = known.expression_type.as_deref().unwrap_or(ExpressionType::Tag.name());
    let is_same = known.sub_string == data.sub_string && expression_type == data.expression_type.name();
    (!is_same && known.sub_version >= data.sub_version).then(|| known.sub_version.saturating_add(1))
}

/// Whether two subscriptions to a topic say different things of it.
pub(crate) fn clash(topic: &str, known: &Subscriptions, new: &Subscriptions) -> bool {
    let differ = |known: &SubscriptionData, new: &SubscriptionData| {
        SubscriptionData { sub_version: known.sub_version, ..new.clone() } != *known
    };
    known.get(topic).zip(new.get(topic)).is_some_and(|(known, new)| differ(known, new))
}

/// Adds subscriptions, or puts them in the place of those to the same topics.
pub(crate) fn renew(subscriptions: &mut Subscriptions, new: Subscriptions) {
    for (topic, mut data) in new {
        if let Some(known) = subscriptions.get(&topic) {
            // Brokers take a newer version only.
            Arc::make_mut(&mut data).sub_version = data.sub_version.max(known.sub_version + 1);
        }
        subscriptions.insert(topic, data);
    }
}

/// Removes the subscription to a topic, unless that is the last one.
pub(crate) fn remove(subscriptions: &mut Subscriptions, topic: &str) -> Result<(), Error> {
    if !subscriptions.keys().any(|known| **known != *topic && !is_retry_topic(known)) {
        return Err(Error::NoSubscription);
    }
    subscriptions.remove(topic);
    Ok(())
}

/// Looks the routes of all topics up at once; a topic that does not exist yet has none.
pub(crate) async fn look_routes_up(client: &Client, subscriptions: &Subscriptions) -> Vec<(Arc<str>, LookUp)> {
    let mut looking_up = JoinSet::new();
    for topic in subscriptions.keys() {
        let (client, topic) = (client.clone(), topic.clone());
        looking_up.spawn(async move {
            let answer = client.route(&topic).await;
            if let Err(error) = &answer {
                tracing::debug!(%topic, error = error as &dyn std::error::Error, "no route yet");
            }
            (topic, answer)
        });
    }
    looking_up.join_all().await
}

/// What a look-up of a route came to.
pub(crate) type LookUp = Result<Arc<TopicRoute>, rocketmq_common::Error>;

/// How long a start may wait for what brokers know of the group.
const LONGEST_QUESTION: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_filter_is_newer_than_the_known_one_whatever_the_clock_says() {
        let data = |filter: Filter, version_ms| filter.subscription("t", version_ms).unwrap();
        let known = |sub_string: &str, sub_version| KnownSubscription {
            sub_string: sub_string.to_owned(),
            expression_type: None,
            sub_version,
        };
        assert_eq!(version_above(&known("old", 900), &data(Filter::tags("new"), 100)), Some(901));
        assert_eq!(version_above(&known("old", 100), &data(Filter::tags("new"), 100)), Some(101));
        assert_eq!(version_above(&known("old", 99), &data(Filter::tags("new"), 100)), None);
        assert_eq!(version_above(&known("new", 900), &data(Filter::tags("new"), 100)), None, "it is no other filter");
        let sql = KnownSubscription { expression_type: Some("SQL92".to_owned()), ..known("new", 900) };
        assert_eq!(version_above(&sql, &data(Filter::tags("new"), 100)), Some(901));
    }

    #[test]
    fn the_retry_topic_is_subscribed_to_as_well() {
        let parsed = parse("g", vec![("t".into(), Filter::tags("a"))]).unwrap();
        let topics: Vec<_> = parsed.keys().map(|topic| topic.to_string()).collect();
        assert_eq!(topics, ["%RETRY%g", "t"]);
    }

    #[test]
    fn a_namespace_stands_before_every_topic() {
        let namespace = Namespace::new("NS").unwrap();
        let parsed = wrapped(&namespace, parse("g", vec![("t".into(), Filter::tags("a"))]).unwrap()).unwrap();
        let topics: Vec<_> = parsed.iter().map(|(topic, data)| (&**topic, &*data.topic)).collect();
        assert_eq!(topics, [("%RETRY%NS%g", "%RETRY%NS%g"), ("NS%t", "NS%t")]);
    }

    #[test]
    fn two_filters_for_one_topic_clash_unless_they_are_the_same() {
        let twice = |one, other| parse("g", vec![("t".into(), Filter::tags(one)), ("t".into(), Filter::tags(other))]);
        assert!(matches!(twice("a", "b"), Err(Error::Clash { .. })));
        assert!(twice("a", "a").is_ok());
    }

    #[test]
    fn all_that_failed_comes_again() {
        let with_retry_topic = |filter| parse("g", vec![("t".into(), Filter::all()), ("%RETRY%g".into(), filter)]);
        assert!(matches!(with_retry_topic(Filter::tags("a")), Err(Error::Clash { .. })));
        assert!(with_retry_topic(Filter::all()).is_ok());
    }
}
