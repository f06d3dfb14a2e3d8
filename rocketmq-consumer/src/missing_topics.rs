//! Topics that are subscribed to and do not exist yet.

use crate::member::Member;
use rocketmq_common::{Backoff, Error, message::names::retry_topic, random::random_u64};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::sleep;

/// Looks up topics that do not exist yet, until they do: a rebalance that comes now and then would be late, and have the
/// first messages wait for it.
pub(crate) async fn find_missing_topics(member: Arc<Member>) {
    let (mut missing, mut failures) = (BTreeSet::new(), 1);
    loop {
        let wait = BACKOFF.wait(failures, random_u64());
        tokio::select! {
            () = member.stopped.cancelled() => return,
            () = sleep(wait) => {}
        }
        let now = unknown_topics(&member);
        failures = if now.is_subset(&missing) && !now.is_empty() { failures.saturating_add(1) } else { 1 };
        missing = now;
        let mut has_found = false;
        for topic in &missing {
            let answer = tokio::select! {
                () = member.stopped.cancelled() => return,
                answer = member.client.route(topic) => answer,
            };
            member.first_routes.note(topic, &answer);
            match answer {
                Ok(_) => has_found = true,
                Err(Error::TopicNotFound { .. }) => {}
                Err(error) => tracing::debug!(%topic, error = &error as &dyn std::error::Error, "no route yet"),
            }
        }
        if has_found {
            // Its brokers may not know the group yet.
            tokio::select! {
                () = member.stopped.cancelled() => return,
                () = member.client.heartbeat() => {}
            }
            member.members_changed.notify_one();
        }
    }
}

/// The topics without a route. The group's own retry topic comes with its first heartbeat, and a rebalance waits for it.
fn unknown_topics(member: &Member) -> BTreeSet<Arc<str>> {
    let own_retry_topic = retry_topic(&member.group);
    let subscriptions = member.subscriptions();
    let topics = subscriptions.keys().filter(|topic| ***topic != *own_retry_topic);
    topics.filter(|topic| member.client.known_route(topic).is_none()).cloned().collect()
}

/// How soon a topic is looked up again.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
