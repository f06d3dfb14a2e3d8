use crate::{Error, Filter};
use rocketmq_common::{
    Client, Namespace,
    message::names::{check_topic, is_retry_topic, retry_topic},
    protocol::{ExpressionType, SubscriptionData},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinSet;

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
pub(crate) async fn look_routes_up(client: &Client, subscriptions: &Subscriptions) {
    let mut looking_up = JoinSet::new();
    for topic in subscriptions.keys() {
        let (client, topic) = (client.clone(), topic.clone());
        looking_up.spawn(async move {
            if let Err(error) = client.route(&topic).await {
                tracing::debug!(%topic, error = &error as &dyn std::error::Error, "no route yet");
            }
        });
    }
    looking_up.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;

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
