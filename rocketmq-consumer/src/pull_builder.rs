use crate::{
    Error, Filter, PullConfig, PullConsumer,
    member::{Manner, Member},
    polling::{Choice, Polling},
    share::sharing_setters,
    topic_watch::{TopicListener, watch},
    wiring::{Wiring, manner_setters, wiring_setters},
};
use rocketmq_common::{MessageQueue, StoredMessage, message::names::check_topic};
use std::{collections::BTreeMap, sync::Arc};

/// Wires a pull consumer up; made by [`PullConsumer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until start"]
pub struct PullConsumerBuilder {
    wiring: Wiring,
    manner: Manner,
    assigned: Option<Choice>,
    assign_filters: BTreeMap<String, Filter>,
    topic_listeners: Vec<TopicListener>,
    config: PullConfig,
}

impl PullConsumerBuilder {
    pub(crate) fn new(group: String) -> Self {
        let config = PullConfig::default();
        Self {
            wiring: Wiring::new(group),
            manner: Manner::new(config.clone().into_member()),
            assigned: None,
            assign_filters: BTreeMap::new(),
            topic_listeners: Vec::new(),
            config,
        }
    }

    wiring_setters!();
    manner_setters!();
    sharing_setters!();

    /// Fetches from these queues, and no others, whatever other consumers of the group do: the queues are not shared out,
    /// and the consumer is none of the group's members. It takes the place of subscriptions. With no queue at all the
    /// consumer starts and fetches nothing. [`PullConsumer::assign`] changes it later.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
    /// use rocketmq_consumer::{MessageQueue, Position, PullConsumer};
    /// use std::time::Duration;
    ///
    /// let queue = MessageQueue::new("order-created", "broker-a", 0);
    /// let puller = PullConsumer::builder("audit").name_servers(["127.0.0.1:9876"])
    ///     .assign([queue.clone()]).start().await?;
    /// puller.seek(&queue, Position::Begin).await?;
    /// let messages = puller.poll(Duration::from_secs(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Protocol
    /// Java: `DefaultLitePullConsumer.assign`.
    pub fn assign(mut self, queues: impl IntoIterator<Item = MessageQueue>) -> Self {
        self.assigned.get_or_insert_default().queues.extend(queues);
        self
    }

    /// Fetches from all queues of these topics, whatever other consumers of the group do, as with
    /// [`assign`](Self::assign): each consumer that does so gets all messages. Queues that the topic gets later are
    /// fetched from as well, within a second of when the client learns of them, which takes up to its
    /// [route refresh](rocketmq_common::ClientConfig::route_refresh_interval). A topic that does not exist yet is fetched
    /// from once it does. [`PullConsumer::assign_all`] changes it later.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), rocketmq_consumer::Error> {
    /// use rocketmq_consumer::{PullConfig, PullConsumer, StartAt};
    /// use std::time::Duration;
    ///
    /// let puller = PullConsumer::builder("audit").name_servers(["127.0.0.1:9876"])
    ///     .config(PullConfig { start_at: StartAt::First, ..Default::default() })
    ///     .assign_all(["order-created"]).start().await?;
    /// let messages = puller.poll(Duration::from_secs(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn assign_all(mut self, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.assigned.get_or_insert_default().topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Which messages of assigned queues of a topic are wanted. Default: all. An error at the start without
    /// [`assign`](Self::assign).
    ///
    /// # Protocol
    /// Java: `DefaultLitePullConsumer.setSubExpressionForAssign`.
    pub fn assign_filter(mut self, topic: impl Into<String>, filter: Filter) -> Self {
        self.assign_filters.insert(topic.into(), filter);
        self
    }

    /// Whom to tell the queues of a topic: at the start, and whenever some have come or gone. With
    /// [`assign`](Self::assign) new ones are not taken by themselves; with [`assign_all`](Self::assign_all) they are. Called within a second of when the client learns of it,
    /// which takes up to its [route refresh](rocketmq_common::ClientConfig::route_refresh_interval). It must not block.
    ///
    /// # Protocol
    /// Java: `DefaultLitePullConsumer.registerTopicMessageQueueChangeListener`.
    pub fn on_topic_change(
        mut self,
        topic: impl Into<String>,
        listener: impl Fn(&[MessageQueue]) + Send + Sync + 'static,
    ) -> Self {
        self.topic_listeners.push(TopicListener { topic: topic.into(), tell: Arc::new(listener) });
        self
    }

    /// Every member of the group gets all messages, and keeps its own offsets in a local file, as with
    /// [`PushConsumerBuilder::broadcast`](crate::PushConsumerBuilder::broadcast).
    pub fn broadcast(mut self) -> Self {
        self.manner.is_broadcast = true;
        self
    }

    /// How to fetch. Default: [`PullConfig::default`].
    pub fn config(mut self, config: PullConfig) -> Self {
        self.config = config;
        self
    }

    /// Starts to fetch.
    ///
    /// # Errors
    /// [`Error::NoSubscription`] where nothing is subscribed to or assigned, [`Error::SubscribedAndAssigned`] where both
    /// is; [`Error::Clash`], [`Error::Filter`], [`Error::FilterRefused`] for a filter; [`Error::Client`] for a bad name
    /// or option, and where no name server answers within the request timeout. A topic that does not exist yet is no
    /// error: it is fetched from once it does.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<PullConsumer, Error> {
        let Self { mut wiring, mut manner, assigned, assign_filters, topic_listeners, config } = self;
        let auto_commit = config.auto_commit;
        if assigned.is_none() && !assign_filters.is_empty() {
            let message = "is set, and no queues are assigned: a subscription has a filter of its own";
            return Err(rocketmq_common::Error::Config { option: "assign_filter", message }.into());
        }
        manner.config = config.into_member();
        manner.polling = Some(match &assigned {
            Some(_) if !wiring.subscriptions.is_empty() => return Err(Error::SubscribedAndAssigned),
            Some(choice) => {
                let filter = |topic: &str| assign_filters.get(topic).cloned().unwrap_or_else(Filter::all);
                let of_topic = |topic: &str| (topic.to_owned(), filter(topic));
                wiring.subscriptions = choice.all_topics().into_iter().map(of_topic).collect();
                wiring.needs_subscription = false;
                Polling::of_queues(auto_commit, assign_filters)
            }
            None => Polling::in_group(auto_commit),
        });
        for listener in &topic_listeners {
            check_topic(&listener.topic).map_err(rocketmq_common::Error::from)?;
        }
        let handle = Member::start(wiring, manner).await?;
        if let Some(choice) = assigned {
            handle.assign(choice).await?;
        }
        for listener in topic_listeners {
            handle.spawn(watch(handle.clone(), listener));
        }
        Ok(PullConsumer::new(handle))
    }
}
