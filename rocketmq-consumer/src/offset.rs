use crate::{
    Error, OffsetStore,
    assigned::AssignedQueue,
    member::Member,
    offset_store::{Offsets, save},
    unrecorded::Unrecorded,
};
use rocketmq_common::{MessageQueue, ticks};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

impl Member {
    /// How far the group was in a queue when somebody last recorded it; `None` where nobody has.
    pub(crate) async fn recorded_offset(&self, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        self.offsets.load(&self.client, &self.group, queue).await
    }

    /// Records how far the group is in one queue, unless that is known to be recorded where it is kept now.
    pub(crate) async fn record(&self, assigned: &AssignedQueue) -> Result<(), Error> {
        // One at a time: of two that are under way at once, a broker may handle the later one first.
        let _recording = assigned.recording.lock().await;
        if matches!(self.offsets, Offsets::Brokers) {
            let broker_name = self.client.broker_of(&assigned.queue);
            assigned.kept_at(self.client.offset_keeper(&broker_name)?);
        }
        let Some(offset) = assigned.to_record() else { return Ok(()) };
        match &self.offsets {
            Offsets::Brokers => self.client.update_consumer_offset(&self.group, &assigned.queue, offset).await?,
            Offsets::File(file) => file.set(&assigned.queue, offset),
            Offsets::Own(store) => {
                save(store, &self.client, &self.group, vec![(assigned.queue.clone(), offset)]).await?;
            }
        }
        assigned.is_recorded(offset);
        Ok(())
    }

    /// Records how far the group is in one queue, whatever the broker has said.
    pub(crate) async fn record_anew(&self, assigned: &AssignedQueue) -> Result<(), Error> {
        *assigned.recorded() = None;
        self.record(assigned).await
    }

    /// Records all of `queues`, whatever the brokers have said; answers which could not be.
    pub(crate) async fn record_all_anew(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Unrecorded {
        for assigned in &queues {
            *assigned.recorded() = None;
        }
        self.record_all(queues).await
    }

    /// Records those of `queues` that have moved; answers which could not be.
    ///
    /// # Protocol
    /// Of the first offsets of a group in a topic, a broker that handles several at once keeps one and answers SUCCESS
    /// to all (`ConsumerOffsetManager.commitOffset`, 4.9.7 and 5.5.0). So one goes ahead of the others; and since other
    /// members may be about it, too, offsets are recorded anew now and then, and whenever a queue is given up.
    pub(crate) async fn record_all(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Unrecorded {
        match &self.offsets {
            Offsets::Brokers => {}
            Offsets::File(file) => {
                let count = queues.len();
                self.record_at_once(queues).await;
                return self.tell_unrecorded(file.save().await.map_err(Error::from), count);
            }
            Offsets::Own(store) => return self.record_together(store, queues).await,
        }
        let mut met = HashSet::new();
        let place = |assigned: &AssignedQueue| (assigned.queue.topic.clone(), assigned.queue.broker_name.clone());
        let (ahead, others) = queues.into_iter().partition(|assigned| met.insert(place(assigned)));
        self.record_at_once(ahead).await.and(self.record_at_once(others).await)
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
        let Err(error) = result else { return Unrecorded::default() };
        tracing::error!(
            group = %self.group, queues, error = &error as &dyn std::error::Error, "offsets not recorded"
        );
        Unrecorded::of(queues, Some(error))
    }

    async fn record_at_once(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Unrecorded {
        let mut recording = JoinSet::new();
        for assigned in queues {
            let member = self.clone();
            recording.spawn(async move {
                let result = member.record(&assigned).await;
                if let Err(error) = &result {
                    tracing::warn!(
                        group = %member.group, queue = %assigned.queue, error = error as &dyn std::error::Error,
                        "offset not recorded"
                    );
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
            let queues = member.queues().values().cloned().collect();
            member.record_all_anew(queues).await
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
