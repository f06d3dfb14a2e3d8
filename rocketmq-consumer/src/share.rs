//! Which queues are this member's: by its strategy, or by what a broker says.

use crate::{
    allocate::{Allocate, AllocateError, AllocateStrategy, Members, sort_members},
    assignment_change::ChangeHook,
    member::Member,
    told::Told,
};
use rocketmq_common::{
    Error, MessageQueue, TopicRoute,
    protocol::{Assignments, RequestMode},
    remote::ResponseCode,
};
use std::{
    collections::BTreeSet,
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
    pub(crate) by_broker: bool,
    pub(crate) told: Option<ChangeHook>,
    /// That no broker shares the queues out has been logged.
    warned: AtomicBool,
    /// Why the strategy has no answer, as the log knows it.
    failures: Told,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            strategy: Arc::new(Allocate::average()),
            by_broker: false,
            told: None,
            warned: AtomicBool::new(false),
            failures: Told::default(),
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
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) queues: BTreeSet<MessageQueue>,
    /// How many share the topic, where that is known.
    pub(crate) members: Option<usize>,
}

/// What a broker says about our queues.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ours(BTreeSet<MessageQueue>),
    /// Nothing that could be acted on; it may know more the next time.
    Nothing,
    /// That the members have to share the queues out by themselves; this is why.
    NotMine(&'static str),
}

impl Member {
    /// Our queues of a topic; `None` where that cannot be told now, and those we have stay.
    pub(crate) async fn share_of(&self, topic: &Arc<str>) -> Result<Option<Share>, Error> {
        let route = self.client.route(topic).await?;
        if self.is_broadcast {
            return Ok(Some(Share { queues: route.read_queues().iter().cloned().collect(), members: Some(1) }));
        }
        if self.sharing.by_broker {
            match self.ask_broker(topic, &route).await? {
                Answer::Ours(queues) => return Ok(Some(Share { queues, members: None })),
                Answer::Nothing => return Ok(None),
                Answer::NotMine(reason) => {
                    if !self.sharing.warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(group = %self.group, %topic, reason, "members share the queues out by themselves");
                    }
                }
            }
        }
        let mut members = self.client.consumer_list(&self.group, topic).await?;
        if !members.iter().any(|id| **id == **self.client.id()) {
            tracing::debug!(group = %self.group, %topic, "not in the member list: heartbeat");
            self.client.heartbeat_soon();
            return Ok(None);
        }
        sort_members(&mut members);
        match self.allocate(topic, &members, route.read_queues()) {
            Ok(queues) => {
                self.sharing.failures.works(topic);
                Ok(Some(Share { queues, members: Some(members.len()) }))
            }
            Err(failure) => {
                let (group, strategy) = (&self.group, self.sharing.strategy.name());
                let is_news = self.sharing.failures.is_news(topic, &failure);
                let error = &failure as &dyn std::error::Error;
                if is_news {
                    tracing::error!(
                        %group, %topic, strategy, error, "cannot allocate queues: this member keeps those it has"
                    );
                } else {
                    tracing::debug!(%group, %topic, strategy, error, "still cannot allocate queues");
                }
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
            answer => read(answer?, strategy, route.read_queues()),
        };
        if answer == Answer::Nothing {
            // The broker may know a queue that we do not know yet.
            self.client.newer_route(topic, route.generation()).await?;
        }
        Ok(answer)
    }
}

fn read(assignments: Assignments, strategy: &str, known: &[MessageQueue]) -> Answer {
    let Some(assigned) = assignments.queues else {
        return match BROKER_STRATEGIES.contains(&strategy) {
            true => Answer::Nothing,
            false => Answer::NotMine("brokers do not know the strategy"),
        };
    };
    if assigned.iter().any(|assignment| assignment.mode != RequestMode::Pull) {
        return Answer::NotMine("an operator has set another mode than pull");
    }
    let assigned: BTreeSet<_> = assigned.into_iter().map(|it| MessageQueue::from(it.message_queue)).collect();
    let ours: BTreeSet<_> = known.iter().filter(|queue| assigned.contains(queue)).cloned().collect();
    if ours.len() == assigned.len() { Answer::Ours(ours) } else { Answer::Nothing }
}

/// The setters of a builder with a [`Sharing`] in its field `manner.sharing`.
macro_rules! sharing_setters {
    () => {
        /// How the members of the group share the queues of a topic: one of [`Allocate`](crate::Allocate), or a strategy of
        /// your own. All members need the same. Default [`Allocate::average`](crate::Allocate::average). A broadcast
        /// has nothing to share.
        ///
        /// # Protocol
        /// Java: `setAllocateMessageQueueStrategy` of `DefaultMQPushConsumer` and `DefaultLitePullConsumer`.
        pub fn allocate(mut self, strategy: impl crate::AllocateStrategy + 'static) -> Self {
            self.manner.sharing.strategy = std::sync::Arc::new(strategy);
            self
        }

        /// Brokers share the queues out, and the members ask for theirs: by [average](crate::Allocate::average) or by
        /// [circle](crate::Allocate::by_circle), whichever is the strategy of this consumer. With any other strategy,
        /// with brokers before 5.0, where an operator has set the group to pop, and where messages are consumed in
        /// order, the members share the queues out by themselves, as if this had not been called; a warning in the log
        /// says so once.
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
        /// `QUERY_ASSIGNMENT` (400). Java: `DefaultMQPushConsumer.setClientRebalance(false)`.
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

    #[test]
    fn a_broker_gives_queues_and_takes_all_of_them() {
        let some = assigned(&[(2, RequestMode::Pull), (1, RequestMode::Pull)]);
        assert_eq!(read(some, "AVG", &known()), Answer::Ours(known()[1..3].iter().cloned().collect()));
        assert_eq!(read(assigned(&[]), "AVG", &known()), Answer::Ours(BTreeSet::new()));
    }

    #[test]
    fn a_queue_that_is_not_known_yet_changes_nothing() {
        let more = assigned(&[(1, RequestMode::Pull), (4, RequestMode::Pull)]);
        assert_eq!(read(more, "AVG", &known()), Answer::Nothing);
        assert_eq!(read(Assignments::default(), "AVG_BY_CIRCLE", &known()), Answer::Nothing);
    }

    #[test]
    fn what_no_broker_does_is_for_the_members_to_do() {
        let pop = assigned(&[(1, RequestMode::Pull), (-1, RequestMode::Pop)]);
        assert!(matches!(read(pop, "AVG", &known()), Answer::NotMine(_)));
        assert!(matches!(read(Assignments::default(), "CONSISTENT_HASH", &known()), Answer::NotMine(_)));
    }
}
