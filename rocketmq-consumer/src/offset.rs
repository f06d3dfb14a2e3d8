use crate::{fetch::AssignedQueue, push::Shared};
use rocketmq_common::Error;
use std::sync::Arc;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

impl Shared {
    /// Records how far the group is in one queue, unless the broker knows already.
    pub(crate) async fn record(&self, assigned: &AssignedQueue) -> Result<(), Error> {
        let Some(offset) = assigned.window().commit_offset() else { return Ok(()) };
        if *recorded(assigned) == Some(offset) {
            return Ok(());
        }
        self.client.update_consumer_offset(&self.group, &assigned.queue, offset).await?;
        *recorded(assigned) = Some(offset);
        Ok(())
    }

    /// Records all of `queues` at once; answers how many could not be.
    pub(crate) async fn record_all(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> usize {
        let mut recording = JoinSet::new();
        for assigned in queues {
            let shared = self.clone();
            recording.spawn(async move {
                let result = shared.record(&assigned).await;
                if let Err(error) = &result {
                    tracing::warn!(
                        group = %shared.group, queue = %assigned.queue, error = error as &dyn std::error::Error,
                        "offset not recorded"
                    );
                }
                result.is_err()
            });
        }
        let mut failed = 0;
        while let Some(result) = recording.join_next().await {
            failed += usize::from(result.unwrap_or(true));
        }
        failed
    }
}

fn recorded(assigned: &AssignedQueue) -> std::sync::MutexGuard<'_, Option<i64>> {
    assigned.recorded.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Records offsets now and then.
pub(crate) async fn commit(shared: Arc<Shared>) {
    let mut ticks = interval(shared.config.commit_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.record_all(shared.changed_queues()).await;
    }
}

impl Shared {
    /// The queues whose offset has moved since it was last recorded.
    fn changed_queues(&self) -> Vec<Arc<AssignedQueue>> {
        let changed = |assigned: &Arc<AssignedQueue>| {
            let offset = assigned.window().commit_offset();
            offset.is_some() && offset != *recorded(assigned)
        };
        self.queues().values().filter(|assigned| changed(assigned)).cloned().collect()
    }
}
