use crate::member::Member;
use rocketmq_common::MessageQueue;
use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// Whom to tell when the queues of a topic change.
#[derive(Clone)]
pub(crate) struct TopicListener {
    pub(crate) topic: String,
    pub(crate) tell: Tell,
}

type Tell = Arc<dyn Fn(&[MessageQueue]) + Send + Sync>;

impl fmt::Debug for TopicListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicListener").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Tells the queues of a topic, now and whenever they have changed.
pub(crate) async fn watch(member: Arc<Member>, listener: TopicListener) {
    let topic: Arc<str> = member.client.namespace().wrap(&listener.topic).as_ref().into();
    let mut known = BTreeSet::new();
    loop {
        let route = tokio::select! {
            () = member.stopped.cancelled() => return,
            route = member.client.route(&topic) => route,
        };
        match route {
            Ok(route) => {
                let now: BTreeSet<_> = route.read_queues().iter().cloned().collect();
                if now != known {
                    let namespace = member.client.namespace();
                    let queues: Vec<_> = now.iter().map(|queue| namespace.strip_queue(queue.clone())).collect();
                    known = now;
                    if catch_unwind(AssertUnwindSafe(|| (listener.tell)(&queues))).is_err() {
                        tracing::error!(%topic, "the listener for the queues of a topic panicked");
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%topic, error = &error as &dyn std::error::Error, "the queues are not known");
            }
        }
        tokio::select! {
            () = member.stopped.cancelled() => return,
            () = sleep(PAUSE) => {}
        }
    }
}

/// How often the route is looked at; the client refreshes it in its own time.
const PAUSE: Duration = Duration::from_secs(1);
