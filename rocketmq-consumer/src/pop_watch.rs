//! Waiting for messages without taking them: one request is held at each broker, however many receivers wait.
//!
//! A pop that a broker holds would take messages for a receiver that is gone. So receivers pop only what is there, and
//! wait for a bell meanwhile.

use crate::popper::{ALL_QUEUES, Popper, Target};
use rocketmq_common::{
    protocol::{Notification, SubscriptionData},
    remote::Deadline,
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

/// What is watched, and the bell that rings when there may be messages.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    watched: Mutex<HashSet<Target>>,
    bell: watch::Sender<Option<Target>>,
}

impl Watches {
    /// The bell; it tells where there may be messages.
    pub(crate) fn bell(&self) -> watch::Receiver<Option<Target>> {
        self.bell.subscribe()
    }

    /// Has the bell rung when there is something to pop, unless somebody waits for that already.
    pub(crate) fn watch(popper: &Arc<Popper>, target: &Target, subscription: &SubscriptionData) {
        if !popper.watches.watched().insert(target.clone()) {
            return;
        }
        let request = Notification {
            consumer_group: popper.group.clone(),
            topic: target.topic.clone(),
            queue_id: ALL_QUEUES,
            poll_time_ms: popper.long_poll_ms(),
            born_time_ms: 0,
            order: Some(popper.config.is_ordered),
            attempt_id: None,
            expression_type: Some(subscription.expression_type.name().into()),
            expression: Some(subscription.sub_string.as_str().into()),
            broker_name: Some(target.broker_name.clone()),
        };
        let watching = Watching { popper: popper.clone(), target: target.clone() };
        popper.tasks.spawn(async move {
            let has_messages = tokio::select! {
                () = watching.popper.stopped.cancelled() => false,
                has_messages = watching.wait(&request) => has_messages,
            };
            let (popper, target) = (watching.popper.clone(), watching.target.clone());
            // First, so that who hears the bell can have it rung again.
            drop(watching);
            if has_messages {
                popper.watches.bell.send_replace(Some(target));
            }
        });
    }

    fn watched(&self) -> MutexGuard<'_, HashSet<Target>> {
        self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A request that is held; when it ends, however it does, another one may begin.
struct Watching {
    popper: Arc<Popper>,
    target: Target,
}

impl Watching {
    /// Whether there are messages, once the broker says something.
    async fn wait(&self, request: &Notification) -> bool {
        let Popper { client, config, .. } = &*self.popper;
        let deadline = Deadline::after(config.long_poll + GRACE);
        match client.pop_notification(&self.target.broker_name, request, deadline).await {
            Ok(notice) => {
                if notice.is_full == Some(true) {
                    sleep(FULL).await;
                }
                notice.has_messages == Some(true)
            }
            Err(error) => {
                tracing::debug!(
                    broker = %self.target.broker_name, error = &error as &dyn std::error::Error, "not notified of messages"
                );
                sleep(FULL).await;
                false
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.popper.watches.watched().remove(&self.target);
    }
}

/// How much longer than the long poll an answer may take.
const GRACE: Duration = Duration::from_secs(15);
/// How soon a broker is asked again that has no room for those who wait, or does not answer.
const FULL: Duration = Duration::from_secs(1);
