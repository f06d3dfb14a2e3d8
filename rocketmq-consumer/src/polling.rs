use crate::{
    Error, Filter, Position,
    assigned::{AssignedQueue, InHand},
    member::Member,
    outcome::DEAD,
    share::Share,
    start_offset::first_offset,
    subscriptions::{Subscriptions, now_ms, parse_one, wrapped},
    unrecorded::Unrecorded,
};
use rocketmq_common::{MessageQueue, Namespace, StoredMessage};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout_at};

/// How a user fetches messages from a member.
#[derive(Debug)]
pub(crate) struct Polling {
    auto_commit: bool,
    /// The queues the user has chosen; `None` where they are shared out in the group.
    assigned: Option<Assigned>,
    /// Held by the one who polls.
    turn: tokio::sync::Mutex<()>,
    /// What the last poll answered, where the next one says that it is done.
    last: Mutex<Option<LastPoll>>,
}

/// What a user who chooses the queues has.
#[derive(Debug)]
struct Assigned {
    /// The filters of topics that get others than all of their messages.
    filters: BTreeMap<String, Filter>,
    /// What is assigned of each topic, as the wire knows them. Held while queues are taken and given up by it.
    current: tokio::sync::Mutex<BTreeMap<Arc<str>, OfTopic>>,
}

/// What a user chooses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Single queues.
    pub(crate) queues: BTreeSet<MessageQueue>,
    /// Topics with all the queues that they have and get.
    pub(crate) topics: BTreeSet<String>,
}

/// What is assigned of a topic.
#[derive(Debug)]
enum OfTopic {
    /// All the queues that it has and gets.
    All,
    Queues(BTreeSet<MessageQueue>),
}

impl Choice {
    /// The topics that it is about.
    pub(crate) fn all_topics(&self) -> BTreeSet<&str> {
        self.queues.iter().map(|queue| &*queue.topic).chain(self.topics.iter().map(String::as_str)).collect()
    }

    /// By topic, as the wire knows them.
    fn by_topic(self, namespace: &Namespace) -> BTreeMap<Arc<str>, OfTopic> {
        let mut by_topic: BTreeMap<Arc<str>, OfTopic> = BTreeMap::new();
        for topic in self.topics {
            by_topic.insert(namespace.wrap_shared(topic.into()), OfTopic::All);
        }
        for queue in self.queues {
            let queue = namespace.wrap_queue(queue);
            let of_topic = by_topic.entry(queue.topic.clone()).or_insert_with(|| OfTopic::Queues(BTreeSet::new()));
            if let OfTopic::Queues(queues) = of_topic {
                queues.insert(queue);
            }
        }
        by_topic
    }
}

#[derive(Debug)]
struct LastPoll {
    queue: Arc<AssignedQueue>,
    epoch: u32,
    offsets: Vec<i64>,
    _in_hand: InHand,
}

impl Polling {
    /// Of a member of a group.
    pub(crate) fn in_group(auto_commit: bool) -> Self {
        Self { auto_commit, assigned: None, turn: tokio::sync::Mutex::default(), last: Mutex::default() }
    }

    /// Of queues the user chooses.
    pub(crate) fn of_queues(auto_commit: bool, filters: BTreeMap<String, Filter>) -> Self {
        let assigned = Assigned { filters, current: tokio::sync::Mutex::default() };
        Self { assigned: Some(assigned), ..Self::in_group(auto_commit) }
    }

    pub(crate) fn is_assigned(&self) -> bool {
        self.assigned.is_some()
    }

    pub(crate) fn auto_commit(&self) -> bool {
        self.auto_commit
    }

    fn last(&self) -> MutexGuard<'_, Option<LastPoll>> {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Nobody says any more that what the last poll answered is done: it comes again. The consumer has been stopped.
    pub(crate) fn end(&self) {
        // Not in turn: a poll that nobody goes on with would have it for ever.
        self.last().take();
    }

    /// What the last poll answered is done.
    fn finish_last(&self) {
        if let Some(last) = self.last().take() {
            last.queue.finish_all(last.epoch, last.offsets);
        }
    }
}

impl Member {
    /// The messages of one pull, as soon as there are any; none when the time is up.
    pub(crate) async fn poll(&self, limit: Duration) -> Result<Vec<StoredMessage>, Error> {
        let Some(polling) = &self.polling else { return Ok(Vec::new()) };
        let poll = async {
            let _turn = polling.turn.lock().await;
            if self.stopped.is_cancelled() {
                return Err(Error::ShutDown);
            }
            polling.finish_last();
            loop {
                let task = tokio::select! {
                    biased;
                    () = self.stopped.cancelled() => return Err(Error::ShutDown),
                    task = self.dispatcher.next_many(usize::MAX) => task,
                };
                let queue = task.queue.clone();
                let Some(task) = queue.unless_paused(task) else { continue };
                let Some(in_hand) = task.queue.take_in_hand(task.epoch) else { continue };
                if let [message] = task.messages.as_slice() {
                    if let Some(error) = self.undecodable(&task.queue.queue, message) {
                        if let Some(polled) = &task.queue.polled {
                            polled.hold_at(task.epoch, message.clone());
                        }
                        return Err(error);
                    }
                }
                let offsets = task.messages.iter().map(StoredMessage::queue_offset).collect();
                match polling.auto_commit {
                    true => {
                        let mut last = polling.last();
                        // Looked at under the lock: nothing is left in hand behind the end.
                        if self.stopped.is_cancelled() {
                            return Err(Error::ShutDown);
                        }
                        *last = Some(LastPoll { queue: task.queue, epoch: task.epoch, offsets, _in_hand: in_hand });
                    }
                    false => task.queue.finish_all(task.epoch, offsets),
                }
                return Ok(task.messages.iter().map(|message| self.as_the_user_sees_it(message)).collect());
            }
        };
        let deadline = Instant::now().checked_add(limit);
        match deadline {
            // What nobody has decided on is said once more, so that it is not overlooked.
            Some(deadline) => {
                timeout_at(deadline, poll).await.unwrap_or_else(|_| self.held_at().map_or(Ok(Vec::new()), Err))
            }
            None => poll.await,
        }
    }

    /// The first message that cannot be decoded and that the user has not skipped.
    fn held_at(&self) -> Option<Error> {
        let queues: Vec<_> = self.queues().values().cloned().collect();
        queues.iter().find_map(|assigned| {
            let epoch = assigned.window().epoch();
            let message = assigned.polled.as_ref()?.undecodable(epoch)?;
            self.undecodable(&assigned.queue, &message)
        })
    }

    /// The error that stands for a message of a queue, by the name the wire knows, if it cannot be decoded.
    pub(crate) fn undecodable(&self, queue: &MessageQueue, message: &StoredMessage) -> Option<Error> {
        let source = message.decode_error()?.clone();
        Some(Error::Undecodable {
            queue: self.client.namespace().strip_queue(queue.clone()),
            offset: message.queue_offset(),
            message: Box::new(self.as_the_user_sees_it(message)),
            source,
        })
    }

    /// Goes on behind a message that cannot be decoded.
    pub(crate) fn skip(&self, queue: &MessageQueue, offset: i64) -> Result<(), Error> {
        let assigned = self.assigned_queue(queue)?;
        let skipped = assigned.polled.as_ref().and_then(|polled| polled.skip(offset));
        let (epoch, released) = skipped.ok_or_else(|| Error::NothingToSkip { queue: queue.clone(), offset })?;
        assigned.finish(epoch, offset);
        self.dispatcher.put_back(released.into_iter());
        tracing::warn!(group = %self.group, queue = %assigned.queue, offset, "undecodable message skipped");
        Ok(())
    }

    /// Sends a message back that the user has.
    pub(crate) async fn send_back_polled(&self, message: &StoredMessage, delay_level: i32) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let topic = self.client.namespace().wrap(message.topic()).as_ref().into();
        let message = message.clone().with_topic(topic);
        Ok(self.give_back_pulled(&message, delay_level.max(DEAD)).await?)
    }

    /// Records what all polls so far have answered.
    pub(crate) async fn commit_polled(self: &Arc<Self>) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        if let Some(polling) = &self.polling {
            polling.finish_last();
        }
        let queues: Vec<_> = self.queues().values().cloned().collect();
        for assigned in &queues {
            if let Some(polled) = &assigned.polled {
                polled.commit(assigned.window().commit_offset());
            }
        }
        self.record_polled(queues).await
    }

    /// Records offsets of the user's choice.
    pub(crate) async fn commit_offsets(
        self: &Arc<Self>,
        offsets: impl IntoIterator<Item = (MessageQueue, i64)>,
    ) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        if self.polling.as_ref().is_some_and(Polling::auto_commit) {
            let message = "is on: the polls say how far the group is";
            return Err(rocketmq_common::Error::Config { option: "auto_commit", message }.into());
        }
        let mut chosen = Vec::new();
        for (queue, offset) in offsets {
            let assigned = self.assigned_queue(&queue)?;
            if offset < 0 {
                return Err(Error::OffsetOutOfRange { queue, offset, min: 0, max: i64::MAX });
            }
            chosen.push((assigned, offset));
        }
        for (assigned, offset) in &chosen {
            if let Some(polled) = &assigned.polled {
                polled.commit(Some(*offset));
            }
        }
        self.record_polled(chosen.into_iter().map(|(assigned, _)| assigned).collect()).await
    }

    async fn record_polled(self: &Arc<Self>, queues: Vec<Arc<AssignedQueue>>) -> Result<(), Error> {
        let moved = queues.into_iter().filter(|assigned| assigned.to_record().is_some()).collect();
        let member = self.clone();
        let Unrecorded { queues, cause } = self.to_its_end(async move { member.record_all(moved).await }).await?;
        match queues {
            0 => Ok(()),
            queues => Err(Error::NotRecorded { queues, cause: cause.map(Box::new) }),
        }
    }

    /// One of our queues, by the name the user knows.
    pub(crate) fn assigned_queue(&self, queue: &MessageQueue) -> Result<Arc<AssignedQueue>, Error> {
        let wrapped = self.client.namespace().wrap_queue(queue.clone());
        let found = self.queues().get(&wrapped).filter(|assigned| !assigned.is_revoked()).cloned();
        found.ok_or_else(|| Error::NotAssigned { queue: queue.clone() })
    }

    /// The offset of the message of a queue that the next polls answer first; `None` before it is known where to begin.
    pub(crate) fn position(&self, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        let assigned = self.assigned_queue(queue)?;
        let last = self.polling.as_ref().map(|polling| polling.last());
        let of_last = last.as_ref().and_then(|last| last.as_ref()).filter(|last| Arc::ptr_eq(&last.queue, &assigned));
        let window = assigned.window();
        let polled = of_last.filter(|last| last.epoch == window.epoch()).and_then(|last| last.offsets.last());
        Ok(match polled {
            Some(polled) => window.next_after(*polled),
            None => window.commit_offset(),
        })
    }

    /// Goes on elsewhere in a queue.
    pub(crate) async fn seek(&self, queue: &MessageQueue, position: Position) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let wire = self.assigned_queue(queue)?.queue.clone();
        let offset = match position {
            Position::Begin => first_offset(&self.client, &wire).await?,
            Position::End => self.client.max_offset(&wire).await?,
            Position::Timestamp(time) => self.client.offset_at(&wire, time).await?,
            Position::Offset(offset) => {
                let (min, max) = tokio::try_join!(self.client.min_offset(&wire), self.client.max_offset(&wire))?;
                if !(min.max(0)..=max).contains(&offset) {
                    return Err(Error::OffsetOutOfRange { queue: queue.clone(), offset, min, max });
                }
                offset
            }
        };
        // It may have gone to another member meanwhile.
        let assigned = self.assigned_queue(queue)?;
        if let Some(polling) = &self.polling {
            let mut last = polling.last();
            if last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.queue, &assigned)) {
                *last = None;
            }
        }
        let epoch = assigned.start_over(offset);
        // What was fetched from there on meanwhile stays.
        if let Some(polled) = &assigned.polled {
            polled.keep_only(epoch);
        }
        self.dispatcher.keep_only(&assigned, epoch);
        tracing::debug!(group = %self.group, queue = %assigned.queue, offset, "sought");
        Ok(())
    }

    pub(crate) fn pause(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        for assigned in self.all_assigned(queues)? {
            if let Some(polled) = &assigned.polled {
                polled.pause();
            }
        }
        Ok(())
    }

    pub(crate) fn resume(&self, queues: &[MessageQueue]) -> Result<(), Error> {
        for assigned in self.all_assigned(queues)? {
            if let Some(polled) = &assigned.polled {
                self.dispatcher.put_back(polled.resume().into_iter());
            }
        }
        Ok(())
    }

    fn all_assigned(&self, queues: &[MessageQueue]) -> Result<Vec<Arc<AssignedQueue>>, Error> {
        queues.iter().map(|queue| self.assigned_queue(queue)).collect()
    }

    /// Takes the queues of the user's choice, and gives the others up.
    pub(crate) async fn assign(self: &Arc<Self>, choice: Choice) -> Result<(), Error> {
        if self.stopped.is_cancelled() {
            return Err(Error::ShutDown);
        }
        let assigned = self.assigned_by_user().ok_or(Error::SubscribedAndAssigned)?;
        let plain = assigned.subscriptions_of(&choice)?;
        let subscriptions = wrapped(self.client.namespace(), plain)?;
        let by_topic = choice.by_topic(self.client.namespace());
        let member = self.clone();
        self.to_its_end(async move { member.take_assigned(by_topic, subscriptions).await }).await
    }

    async fn take_assigned(self: &Arc<Self>, by_topic: BTreeMap<Arc<str>, OfTopic>, subscriptions: Subscriptions) {
        let Some(assigned) = self.assigned_by_user() else { return };
        let mut current = assigned.current.lock().await;
        *current = by_topic;
        self.change_assigned(|known| {
            for (topic, data) in subscriptions {
                known.entry(topic).or_insert(data);
            }
        });
        self.look_routes_up().await;
        for (topic, subscription) in self.subscriptions().iter() {
            let queues = match current.get(topic) {
                Some(OfTopic::Queues(queues)) => queues.clone(),
                Some(OfTopic::All) => match self.client.known_route(topic) {
                    Some(route) => route.read_queues().iter().cloned().collect(),
                    // They are taken once it is known, see `keep_routes`.
                    None => continue,
                },
                None => BTreeSet::new(),
            };
            self.take_over(topic, subscription, Share::of(queues, 1)).await;
        }
        self.change_assigned(|known| known.retain(|topic, _| current.contains_key(topic)));
    }

    /// Takes queues that topics assigned as a whole have got, and gives up those that they have no longer.
    async fn follow_topics(self: &Arc<Self>) {
        let Some(assigned) = self.assigned_by_user() else { return };
        let current = assigned.current.lock().await;
        for (topic, subscription) in self.subscriptions().iter() {
            let Some((OfTopic::All, route)) = current.get(topic).zip(self.client.known_route(topic)) else { continue };
            let has = route.read_queues();
            let is_taken = {
                let queues = self.queues();
                let taken = queues.keys().filter(|queue| queue.topic == *topic).count();
                taken == has.len() && has.iter().all(|queue| queues.contains_key(queue))
            };
            if !is_taken {
                self.take_over(topic, subscription, Share::of(has.iter().cloned().collect(), 1)).await;
            }
        }
    }

    fn change_assigned(&self, change: impl FnOnce(&mut Subscriptions)) {
        change(Arc::make_mut(&mut self.subscriptions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())));
    }

    fn assigned_by_user(&self) -> Option<&Assigned> {
        self.polling.as_ref()?.assigned.as_ref()
    }
}

impl Assigned {
    fn subscriptions_of(&self, choice: &Choice) -> Result<Subscriptions, Error> {
        let version_ms = now_ms();
        let mut subscriptions = Subscriptions::new();
        for topic in choice.all_topics() {
            let filter = self.filters.get(topic).cloned().unwrap_or_else(Filter::all);
            subscriptions.insert(topic.into(), Arc::new(parse_one(topic, &filter, version_ms)?));
        }
        Ok(subscriptions)
    }

    async fn has_whole_topics(&self) -> bool {
        self.current.lock().await.values().any(|of_topic| matches!(of_topic, OfTopic::All))
    }
}

/// Keeps the routes of assigned queues known, and takes the queues that topics assigned as a whole get: nobody shares
/// these out.
pub(crate) async fn keep_routes(member: Arc<Member>) {
    let Some(assigned) = member.assigned_by_user() else { return };
    loop {
        let unknown = member.subscriptions().keys().any(|topic| member.client.known_route(topic).is_none());
        let soon = unknown || assigned.has_whole_topics().await;
        let pause = if soon { SHORT_PAUSE } else { member.config.rebalance_interval };
        tokio::select! {
            () = member.stopped.cancelled() => return,
            () = sleep(pause) => {}
        }
        tokio::select! {
            () = member.stopped.cancelled() => return,
            () = member.look_routes_up() => {}
        }
        member.follow_topics().await;
        for topic in member.subscriptions().keys() {
            match member.client.known_route(topic) {
                Some(_) => member.report.topic_is_there(topic),
                None => member.report.topic_is_missing(topic, "has no known route"),
            }
        }
    }
}

/// How soon the route of a topic is looked at again that does not exist yet, or may get queues that are to be taken; the
/// client refreshes it in its own time.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
