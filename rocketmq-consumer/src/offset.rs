use crate::{
    Error, OffsetStore,
    assigned::AssignedQueue,
    commit_gate::{self, Certainty},
    member::Member,
    offset_store::{Offsets, save},
    unrecorded::Unrecorded,
};
use rocketmq_common::{ConditionKind, MessageQueue, ticks};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};

impl Member {
    /// How far the group was in a queue when somebody last recorded it; `None` where nobody has.
    pub(crate) async fn recorded_offset(&self, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        let recorded = self.offsets.load(&self.client, &self.group, queue).await?;
        if matches!(self.offsets, Offsets::Brokers) {
            let keeper = self.client.offset_keeper(&self.client.broker_of(queue));
            keeper.iter().for_each(|keeper| self.commit_gates.of(&queue.topic, keeper).was_read(recorded));
        }
        Ok(recorded)
    }

    /// Records how far the group is in one queue, unless that is known to be recorded where it is kept now.
    pub(crate) async fn record(&self, assigned: &AssignedQueue) -> Result<(), Error> {
        self.record_with(assigned, Certainty::Answered).await
    }

    /// Records how far the group is in one queue, whatever the broker has said, and reads that back: another member
    /// goes on there.
    pub(crate) async fn record_anew(&self, assigned: &AssignedQueue) -> Result<(), Error> {
        *assigned.recorded() = None;
        self.record_with(assigned, Certainty::ReadBack).await
    }

    async fn record_with(&self, assigned: &AssignedQueue, certainty: Certainty) -> Result<(), Error> {
        // One at a time: of two that are under way at once, a broker may handle the later one first.
        let _recording = assigned.recording.lock().await;
        let queue = &assigned.queue;
        let offset = match &self.offsets {
            Offsets::Brokers => {
                let keeper = self.client.offset_keeper(&self.client.broker_of(queue))?;
                assigned.kept_at(keeper.clone());
                let Some(offset) = assigned.to_record() else { return Ok(()) };
                let gate = self.commit_gates.of(&queue.topic, &keeper);
                commit_gate::commit(&self.client, &gate, &self.group, (queue, offset), certainty).await?;
                offset
            }
            Offsets::File(file) => {
                let Some(offset) = assigned.to_record() else { return Ok(()) };
                file.set(queue, offset);
                offset
            }
            Offsets::Own(store) => {
                let Some(offset) = assigned.to_record() else { return Ok(()) };
                save(store, &self.client, &self.group, vec![(queue.clone(), offset)]).await?;
                offset
            }
        };
        assigned.is_recorded(offset);
        Ok(())
    }

    /// Records all of `queues`, whatever the brokers have said, and reads that back; answers which could not be.
    pub(crate) async fn record_all_anew(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Unrecorded {
        for assigned in &queues {
            *assigned.recorded() = None;
        }
        self.record_all_with(queues, Certainty::ReadBack).await
    }

    /// Records those of `queues` that have moved; answers which could not be.
    pub(crate) async fn record_all(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Unrecorded {
        self.record_all_with(queues, Certainty::Answered).await
    }

    async fn record_all_with(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>, certainty: Certainty) -> Unrecorded {
        match &self.offsets {
            Offsets::Brokers => self.record_at_once(queues, certainty).await,
            Offsets::File(file) => {
                let count = queues.len();
                self.record_at_once(queues, certainty).await;
                self.tell_unrecorded(file.save().await.map_err(Error::from), count)
            }
            Offsets::Own(store) => self.record_together(store, queues).await,
        }
    }

    /// Records several queues in one call.
    async fn record_together(&self, store: &Arc<dyn OffsetStore>, mut queues: Vec<Arc<AssignedQueue>>) -> Unrecorded {
        // Two of these at once take the locks in the same order.
        queues.sort_by(|one, other| one.queue.cmp(&other.queue));
        let mut recording = Vec::with_capacity(queues.len());
        for assigned in &queues {
            recording.push(assigned.recording.lock().await);
        }
        let moved: Vec<_> =
            queues.iter().filter_map(|assigned| assigned.to_record().map(|offset| (assigned, offset))).collect();
        if moved.is_empty() {
            return Unrecorded::default();
        }
        let offsets = moved.iter().map(|(assigned, offset)| (assigned.queue.clone(), *offset)).collect();
        let saved = save(store, &self.client, &self.group, offsets).await;
        if saved.is_ok() {
            moved.iter().for_each(|(assigned, offset)| assigned.is_recorded(*offset));
        }
        self.tell_unrecorded(saved, moved.len())
    }

    fn tell_unrecorded(&self, result: Result<(), Error>, queues: usize) -> Unrecorded {
        let Err(error) = result else {
            self.report.store_works();
            return Unrecorded::default();
        };
        self.report.store_failed(queues, &error);
        Unrecorded::of(queues, Some(error))
    }

    async fn record_at_once(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>, certainty: Certainty) -> Unrecorded {
        let mut recording = JoinSet::new();
        for assigned in queues {
            let member = self.clone();
            recording.spawn(async move {
                let result = member.record_with(&assigned, certainty).await;
                match &result {
                    Ok(()) => member.report.queue_works(ConditionKind::Commit, &assigned.queue),
                    // The next commit follows a second later, whatever has failed.
                    Err(error) => {
                        member.report.queue_failed(ConditionKind::Commit, &assigned.queue, u32::MAX, error);
                    }
                }
                result
            });
        }
        let mut unrecorded = Unrecorded::default();
        while let Some(ended) = recording.join_next().await {
            unrecorded = unrecorded.and(match ended {
                Ok(Ok(())) => Unrecorded::default(),
                Ok(Err(error)) => Unrecorded::of(1, Some(error)),
                Err(_) => Unrecorded::of(1, None),
            });
        }
        unrecorded
    }
}

/// Records offsets now and then.
pub(crate) async fn commit(member: Arc<Member>) {
    let mut ticks = ticks(member.config.commit_interval);
    let mut anew_at = Instant::now() + ANEW;
    loop {
        tokio::select! {
            () = member.stopped.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let record = async {
            if Instant::now() < anew_at {
                return member.record_all(member.changed_queues()).await;
            }
            anew_at = Instant::now() + ANEW;
            // Another member may have been about the first offsets of the group at the same time.
            let queues: Vec<_> = member.queues().values().cloned().collect();
            queues.iter().for_each(|assigned| *assigned.recorded() = None);
            member.record_all(queues).await
        };
        // A shutdown does not break this off: what a broker still has to handle could undo the last offset.
        tokio::select! {
            () = member.given_up.cancelled() => return,
            _ = record => {}
        }
    }
}

impl Member {
    /// The queues whose offset has moved since it was last recorded, or is kept elsewhere now: a replica keeps it while
    /// the master is away, a queue of a static topic moves, a broker comes back at another address.
    fn changed_queues(&self) -> Vec<Arc<AssignedQueue>> {
        let mut keepers: HashMap<Arc<str>, Option<Arc<str>>> = HashMap::new();
        let mut keeper_of = |assigned: &AssignedQueue| {
            let keeper_at = |broker_name: &Arc<str>| self.client.offset_keeper(broker_name).ok();
            keepers.entry(self.client.broker_of(&assigned.queue)).or_insert_with_key(keeper_at).clone()
        };
        let mut has_changed = |assigned: &AssignedQueue| {
            if matches!(self.offsets, Offsets::Brokers) {
                keeper_of(assigned).into_iter().for_each(|keeper| assigned.kept_at(keeper));
            }
            assigned.to_record().is_some()
        };
        self.queues().values().filter(|assigned| has_changed(assigned)).cloned().collect()
    }
}

/// How often offsets are recorded that have not moved.
const ANEW: Duration = Duration::from_secs(30);
