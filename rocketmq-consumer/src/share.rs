//! Which queues are this member's: by its strategy, or by what a broker says.

use crate::{
    allocate::{Allocate, AllocateError, AllocateStrategy, Members, sort_members},
    assigned::AssignedQueue,
    assignment_change::ChangeHook,
    member::Member,
    pop_group::ALL_QUEUES,
};
use rocketmq_common::{
    Error, MessageQueue, TopicRoute,
    protocol::{Assignment, Assignments, RequestMode},
    remote::ResponseCode,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// How the members of a group share queues, and who is told.
pub(crate) struct Sharing {
    pub(crate) strategy: Arc<dyn AllocateStrategy>,
    /// The user has chosen the strategy.
    pub(crate) is_chosen: bool,
    pub(crate) by_broker: bool,
    pub(crate) told: Option<ChangeHook>,
    /// That no broker shares the queues out has been logged.
    warned: AtomicBool,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            strategy: Arc::new(Allocate::average()),
            is_chosen: false,
            by_broker: false,
            told: None,
            warned: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing")
            .field("strategy", &self.strategy.name())
            .field("by_broker", &self.by_broker)
            .finish_non_exhaustive()
    }
}

/// The queues of a topic that are ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Those to pull from.
    pub(crate) queues: BTreeSet<MessageQueue>,
    /// Those to pop from; a number below 0 stands for all queues that a broker has.
    pub(crate) popped: BTreeSet<MessageQueue>,
    /// How many share the topic, where that is known.
    pub(crate) members: Option<usize>,
}

impl Share {
    /// Queues to pull from.
    pub(crate) fn of(queues: BTreeSet<MessageQueue>, members: usize) -> Self {
        Self { queues, popped: BTreeSet::new(), members: Some(members) }
    }

    pub(crate) fn contains(&self, assigned: &AssignedQueue) -> bool {
        let queues = if assigned.popped.is_some() { &self.popped } else { &self.queues };
        queues.contains(&assigned.queue)
    }

    /// How a broker has the topic consumed, where it says the same of all our queues.
    pub(crate) fn mode(&self) -> Option<RequestMode> {
        match (self.queues.is_empty(), self.popped.is_empty()) {
            (false, true) if self.members.is_none() => Some(RequestMode::Pull),
            (true, false) => Some(RequestMode::Pop),
            _ => None,
        }
    }
}

/// What a broker says about our queues.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ours(Share),
    /// Nothing that could be acted on; it may know more the next time.
    Nothing,
    /// That the members have to share the queues out by themselves; this is why.
    NotMine(&'static str),
}

impl Member {
    /// Our queues of a topic; `None` where that cannot be told now, and those we have stay.
    pub(crate) async fn share_of(&self, topic: &Arc<str>) -> Result<Option<Share>, Error> {
        let route = self.client.route(topic).await;
        self.first_routes.note(topic, &route);
        let route = route?;
        if self.is_broadcast {
            return Ok(Some(Share::of(route.read_queues().iter().cloned().collect(), 1)));
        }
        if self.sharing.by_broker {
            match self.ask_broker(topic, &route).await? {
                Answer::Ours(share) => return Ok(Some(share)),
                Answer::Nothing => {
                    self.report.not_a_member(topic);
                    return Ok(None);
                }
                Answer::NotMine(reason) => {
                    if !self.sharing.warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(group = %self.group, %topic, reason, "members share the queues out by themselves");
                    }
                }
            }
        }
        let mut members = self.client.consumer_list(&self.group, topic).await?;
        if !members.iter().any(|id| **id == **self.client.id()) {
            self.report.not_a_member(topic);
            self.client.heartbeat_soon();
            return Ok(None);
        }
        sort_members(&mut members);
        match self.allocate(topic, &members, route.read_queues()) {
            Ok(queues) => Ok(Some(Share::of(queues, members.len()))),
            Err(failure) => {
                self.report.not_assigned(topic, &failure);
                Ok(None)
            }
        }
    }

    /// Asks the strategy, and checks what it says.
    fn allocate(
        &self,
        topic: &str,
        ids: &[String],
        queues: &[MessageQueue],
    ) -> Result<BTreeSet<MessageQueue>, AllocateError> {
        let namespace = self.client.namespace();
        let mut plain: Vec<_> = queues.iter().map(|queue| namespace.strip_queue(queue.clone())).collect();
        plain.sort();
        let members = Members::new(self.group(), self.client.id(), ids).with_wire_topic(topic);
        let strategy = &self.sharing.strategy;
        let answer = catch_unwind(AssertUnwindSafe(|| strategy.allocate(&members, &plain)));
        let share: BTreeSet<_> = answer.map_err(|_| AllocateError::Panicked)??.into_iter().collect();
        if let Some(queue) = share.iter().find(|queue| plain.binary_search(queue).is_err()) {
            return Err(AllocateError::NoSuchQueue(queue.clone()));
        }
        // The route's own, which share their names.
        Ok(queues.iter().filter(|queue| share.contains(&namespace.strip_queue((*queue).clone()))).cloned().collect())
    }

    async fn ask_broker(&self, topic: &Arc<str>, route: &TopicRoute) -> Result<Answer, Error> {
        if self.is_ordered() {
            return Ok(Answer::NotMine("messages are consumed in order"));
        }
        let strategy = self.sharing.strategy.name();
        let answer = match self.client.query_assignment(&self.group, topic, strategy).await {
            Err(error) if error.response_code() == Some(ResponseCode::REQUEST_CODE_NOT_SUPPORTED) => {
                return Ok(Answer::NotMine("the broker is older than 5.0"));
            }
            answer => read(answer?, strategy, route.read_queues(), self.polling.is_none()),
        };
        if answer == Answer::Nothing {
            // The broker may know a queue that we do not know yet.
            self.client.newer_route(topic, route.generation()).await?;
        }
        Ok(answer)
    }
}

fn read(assignments: Assignments, strategy: &str, known: &[MessageQueue], may_pop: bool) -> Answer {
    let Some(assigned) = assignments.queues else {
        return match BROKER_STRATEGIES.contains(&strategy) {
            true => Answer::Nothing,
            false => Answer::NotMine("brokers do not know the strategy"),
        };
    };
    let by_queue: HashSet<&MessageQueue> = known.iter().collect();
    let mut by_broker: HashMap<(&str, &str), &MessageQueue> = HashMap::new();
    for queue in known {
        by_broker.entry((&queue.topic, &queue.broker_name)).or_insert(queue);
    }
    let mut share = Share::default();
    for Assignment { message_queue, mode, .. } in assigned {
        let queue = MessageQueue::from(message_queue);
        let known = match queue.queue_id {
            ..0 if mode == RequestMode::Pop => by_broker.get(&(&*queue.topic, &*queue.broker_name)),
            ..0 => None,
            _ => by_queue.get(&queue),
        };
        let Some(known) = known.copied() else { return Answer::Nothing };
        // The route's own, which share their names.
        let queue = MessageQueue { queue_id: queue.queue_id.max(ALL_QUEUES), ..known.clone() };
        match mode {
            RequestMode::Pull => share.queues.insert(queue),
            RequestMode::Pop if may_pop => share.popped.insert(queue),
            RequestMode::Pop => return Answer::NotMine("an operator has set the group to pop, and this member polls"),
            RequestMode::Other => return Answer::NotMine("an operator has set another mode than pull and pop"),
        };
    }
    Answer::Ours(share)
}

/// The setters of a builder with a [`Sharing`] in its field `manner.sharing`.
macro_rules! sharing_setters {
    () => {
        /// How the members of the group share the queues of a topic: one of [`Allocate`](crate::Allocate), or a strategy of
        /// your own. All members need the same. Default [`Allocate::average`](crate::Allocate::average). An error at
        /// the start where nothing is shared out: in a broadcast, and with assigned queues.
        ///
        /// # Protocol
        /// Java: `setAllocateMessageQueueStrategy` of `DefaultMQPushConsumer` and `DefaultLitePullConsumer`.
        pub fn allocate(mut self, strategy: impl crate::AllocateStrategy + 'static) -> Self {
            self.manner.sharing.strategy = std::sync::Arc::new(strategy);
            self.manner.sharing.is_chosen = true;
            self
        }

        /// Brokers share the queues out, and the members ask for theirs: by [average](crate::Allocate::average) or by
        /// [circle](crate::Allocate::by_circle), whichever is the strategy of this consumer. With any other strategy,
        /// with brokers before 5.0, and where messages are consumed in order, the members share the queues out by
        /// themselves, as if this had not been called; a warning in the log says so once.
        ///
        /// An operator may have the group pop a topic, and may change that at any time. A push consumer then takes
        /// messages from a broker without having queues to itself, so that a slow member holds nobody up: nothing is
        /// recorded as done, each message is acknowledged. What fails comes again after the same delays; it keeps its
        /// topic. `max_messages_per_queue` above 96 counts as 96 then. A pull consumer never pops.
        ///
        /// ```no_run
        /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
        /// use rocketmq_consumer::{Filter, PushConsumer, StoredMessage};
        ///
        /// let consumer = PushConsumer::builder("billing").name_servers(["127.0.0.1:9876"])
        ///     .subscribe("order-created", Filter::all()).allocate_by_broker()
        ///     .listener(|message: StoredMessage| async move { Ok::<_, String>(println!("{message:?}")) })
        ///     .start().await?;
        /// # Ok(())
        /// # }
        /// ```
        ///
        /// # Protocol
        /// `QUERY_ASSIGNMENT` (400), `SET_MESSAGE_REQUEST_MODE` (401). Java:
        /// `DefaultMQPushConsumer.setClientRebalance(false)`.
        pub fn allocate_by_broker(mut self) -> Self {
            self.manner.sharing.by_broker = true;
            self
        }

        /// Who is told when queues come to this member or leave it. It is called where queues are shared out, after each
        /// change, so it must not block; a panic is logged. [`shutdown`](crate::PushConsumer::shutdown) tells nothing.
        ///
        /// ```no_run
        /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
        /// use rocketmq_consumer::{AssignmentChange, Filter, PushConsumer, StoredMessage};
        ///
        /// let consumer = PushConsumer::builder("billing").name_servers(["127.0.0.1:9876"])
        ///     .subscribe("order-created", Filter::all())
        ///     .on_assignment(|change: &AssignmentChange| println!("{}: {:?}", change.topic, change.own))
        ///     .listener(|message: StoredMessage| async move { Ok::<_, String>(println!("{message:?}")) })
        ///     .start().await?;
        /// # Ok(())
        /// # }
        /// ```
        ///
        /// # Protocol
        /// Java: `MessageQueueListener`.
        pub fn on_assignment(mut self, told: impl Fn(&crate::AssignmentChange) + Send + Sync + 'static) -> Self {
            self.manner.sharing.told = Some(crate::assignment_change::ChangeHook(std::sync::Arc::new(told)));
            self
        }
    };
}

pub(crate) use sharing_setters;

/// Java: `QueryAssignmentProcessor`.
const BROKER_STRATEGIES: [&str; 2] = ["AVG", "AVG_BY_CIRCLE"];

#[cfg(test)]
mod tests {
    use super::*;
    use rocketmq_common::protocol::{Assignment, QueueName};

    fn known() -> Vec<MessageQueue> {
        (0..4).map(|id| MessageQueue::new("T", "b", id)).collect()
    }

    fn assigned(queues: &[(i32, RequestMode)]) -> Assignments {
        let assignment = |(queue_id, mode): &(i32, RequestMode)| Assignment {
            message_queue: QueueName { broker_name: "b".into(), queue_id: *queue_id, topic: "T".into() },
            mode: *mode,
            attachments: None,
        };
        Assignments { queues: Some(queues.iter().map(assignment).collect()) }
    }

    fn pulled(queues: &[MessageQueue]) -> Answer {
        Answer::Ours(Share { queues: queues.iter().cloned().collect(), ..Share::default() })
    }

    #[test]
    fn a_broker_gives_queues_and_takes_all_of_them() {
        let some = assigned(&[(2, RequestMode::Pull), (1, RequestMode::Pull)]);
        assert_eq!(read(some, "AVG", &known(), true), pulled(&known()[1..3]));
        assert_eq!(read(assigned(&[]), "AVG", &known(), true), pulled(&[]));
    }

    #[test]
    fn a_broker_has_queues_popped_one_by_one_or_all_of_them() {
        let popped = |ids: &[i32]| {
            let popped = ids.iter().map(|id| MessageQueue::new("T", "b", *id)).collect();
            Answer::Ours(Share { popped, ..Share::default() })
        };
        let some = assigned(&[(2, RequestMode::Pop), (1, RequestMode::Pop)]);
        assert_eq!(read(some.clone(), "AVG", &known(), true), popped(&[1, 2]));
        assert_eq!(read(assigned(&[(-1, RequestMode::Pop)]), "AVG", &known(), true), popped(&[-1]));
        assert!(matches!(read(some, "AVG", &known(), false), Answer::NotMine(_)));
    }

    #[test]
    fn a_queue_that_is_not_known_yet_changes_nothing() {
        for mode in [RequestMode::Pull, RequestMode::Pop] {
            let more = assigned(&[(1, mode), (4, mode)]);
            assert_eq!(read(more, "AVG", &known(), true), Answer::Nothing);
        }
        assert_eq!(read(assigned(&[(-1, RequestMode::Pull)]), "AVG", &known(), true), Answer::Nothing);
        assert_eq!(read(assigned(&[(-1, RequestMode::Pop)]), "AVG", &[], true), Answer::Nothing);
        assert_eq!(read(Assignments::default(), "AVG_BY_CIRCLE", &known(), true), Answer::Nothing);
    }

    #[test]
    fn very_many_queues_are_read_in_no_time() {
        // With a search over all queues for each, this would take minutes.
        const QUEUES: i32 = 100_000;
        let known: Vec<_> = (0..QUEUES).map(|id| MessageQueue::new("T", "b", id)).collect();
        let all: Vec<_> = (0..QUEUES).rev().map(|id| (id, RequestMode::Pull)).collect();
        assert_eq!(read(assigned(&all), "AVG", &known, true), pulled(&known));
    }

    #[test]
    fn what_no_broker_does_is_for_the_members_to_do() {
        let newer = assigned(&[(1, RequestMode::Other)]);
        assert!(matches!(read(newer, "AVG", &known(), true), Answer::NotMine(_)));
        assert!(matches!(read(Assignments::default(), "CONSISTENT_HASH", &known(), true), Answer::NotMine(_)));
    }

    #[test]
    fn the_mode_is_what_a_broker_says_of_all_queues() {
        let of = |pulled: usize, popped: usize| {
            let some = |count: usize| known().into_iter().take(count).collect();
            Share { queues: some(pulled), popped: some(popped), members: None }.mode()
        };
        assert_eq!([of(1, 0), of(0, 1)], [Some(RequestMode::Pull), Some(RequestMode::Pop)]);
        assert_eq!([of(0, 0), of(1, 1)], [None, None]);
        assert_eq!(Share::of(known().into_iter().collect(), 1).mode(), None, "no broker was asked");
    }
}
