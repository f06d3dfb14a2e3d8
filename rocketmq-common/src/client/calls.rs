//! The calls of the design, typed: queues and groups in, offsets and members out.

use super::{Client, hedge::Hedged};
use crate::{
    Error, MessageQueue, TopicRoute,
    protocol::{
        Assignments, ConsumerConnections, GetConsumerConnections, GetConsumerList, GetMaxOffset, GetMinOffset,
        GroupOffset, KnownSubscription, LenientJson, MASTER_ID, MemberOfGroup, MessageModel, PullMessage, PullResult,
        QueryAssignment, QueryConsumerOffset, SearchOffset, SendBack, SendMessage, Stored, UpdateConsumerOffset,
    },
};
use bytes::Bytes;
use rocketmq_remote::{Answer, Deadline, Json, PendingReply, Request, ResponseCode};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

impl Client {
    /// The address of a broker's master.
    ///
    /// # Errors
    /// [`Error::BrokerNotFound`] where no route in use names one.
    pub fn master(&self, broker_name: &str) -> Result<Arc<str>, Error> {
        let route = self.shared().routes.of_broker(broker_name);
        let master = route.as_ref().and_then(|route| route.broker_addrs(broker_name)?.get(&MASTER_ID));
        master.cloned().ok_or_else(|| Error::BrokerNotFound { broker_name: broker_name.into() })
    }

    /// The name of the broker that has a queue: the one in the queue's own name, but for a static topic.
    pub fn broker_of(&self, queue: &MessageQueue) -> Arc<str> {
        let route = self.known_route(&queue.topic);
        route.as_ref().map_or(&queue.broker_name, |route| route.broker_of(queue)).clone()
    }

    /// The address of a broker's replica `broker_id`, or of another one if that is unknown; and whether it is the
    /// master.
    ///
    /// # Errors
    /// [`Error::BrokerNotFound`] where no route in use names any.
    pub fn replica(&self, broker_name: &str, broker_id: i64) -> Result<(Arc<str>, bool), Error> {
        let route = self.shared().routes.of_broker(broker_name);
        let addrs = route.as_ref().and_then(|route| route.broker_addrs(broker_name));
        let found = addrs.and_then(|addrs| addrs.get_key_value(&broker_id).or_else(|| addrs.first_key_value()));
        let found = found.map(|(id, addr)| (addr.clone(), *id == MASTER_ID));
        found.ok_or_else(|| Error::BrokerNotFound { broker_name: broker_name.into() })
    }

    /// The address where groups' offsets in the queues of a broker are kept now: of its master, or, while no route in use
    /// names that, of a replica. A replica forgets what it was told when the master is back: that has to be told to the
    /// master, too.
    ///
    /// # Errors
    /// [`Error::BrokerNotFound`] where no route in use names any.
    ///
    /// # Protocol
    /// Java: `RemoteBrokerOffsetStore.updateConsumeOffsetToBroker`, `SlaveSynchronize.syncConsumerOffset`.
    pub fn offset_keeper(&self, broker_name: &str) -> Result<Arc<str>, Error> {
        self.replica(broker_name, MASTER_ID).map(|(addr, _)| addr)
    }

    /// Asks the broker that has a queue. One that answers that it no longer does, of a static topic, has the route looked
    /// up, and the broker that has it now is asked.
    async fn ask_owner<R: Request<Body = ()>>(
        &self,
        queue: &MessageQueue,
        addr_of: fn(&Self, &str) -> Result<Arc<str>, Error>,
        request: impl Fn(Arc<str>) -> R,
    ) -> Result<R::Reply, Error> {
        let seen = self.known_route(&queue.topic).map_or(0, |route| route.generation());
        let broker_name = self.broker_of(queue);
        let (addr, deadline) = (addr_of(self, &broker_name)?, self.request_deadline());
        match self.vip_call(&addr, &request(broker_name), (), deadline).await {
            Err(error) if error.response_code() == Some(ResponseCode::NOT_LEADER_FOR_QUEUE) => {
                self.newer_route(&queue.topic, seen).await?;
                let broker_name = self.broker_of(queue);
                let addr = addr_of(self, &broker_name)?;
                Ok(self.vip_call(&addr, &request(broker_name), (), self.request_deadline()).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Sends one message to the master of a queue's broker and awaits the answer.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn send_message(
        &self,
        broker_name: &str,
        request: &SendMessage,
        body: Bytes,
        deadline: Deadline,
    ) -> Result<Answer<Stored>, Error> {
        Ok(self.vip_call(&self.master(broker_name)?, request, body, deadline).await?)
    }

    /// Pulls from an address and awaits the answer; its body holds stored messages.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn pull_message(
        &self,
        addr: &Arc<str>,
        request: &PullMessage,
        deadline: Deadline,
    ) -> Result<Answer<PullResult>, Error> {
        Ok(self.call(addr, request, (), deadline).await?)
    }

    /// Queues a pull and returns a future of the answer.
    ///
    /// # Errors
    /// As [`rocketmq_remote::Connection::call_async`].
    pub async fn pull_message_async(
        &self,
        addr: &Arc<str>,
        request: &PullMessage,
        deadline: Deadline,
    ) -> Result<PendingReply<PullMessage>, Error> {
        Ok(self.broker(addr, deadline).await?.call_async(request, (), deadline).await?)
    }

    /// The next offset to be written in a queue.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, Error> {
        let request = |broker_name| GetMaxOffset {
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            broker_name: Some(broker_name),
        };
        Ok(self.ask_owner(queue, Self::master, request).await?.offset)
    }

    /// The first offset a queue still holds.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, Error> {
        let request = |broker_name| GetMinOffset {
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            broker_name: Some(broker_name),
        };
        Ok(self.ask_owner(queue, Self::master, request).await?.offset)
    }

    /// The offset of the first message of a queue stored at or after `time`; the end of the queue if all are older.
    /// Brokers of 4.9 answer the message that is closest instead.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn offset_at(&self, queue: &MessageQueue, time: SystemTime) -> Result<i64, Error> {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let timestamp_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        let request = |broker_name| SearchOffset {
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            timestamp_ms,
            broker_name: Some(broker_name),
        };
        Ok(self.ask_owner(queue, Self::master, request).await?.offset)
    }

    /// The offset a group has recorded in a queue; `None` where there is none yet.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn consumer_offset(&self, group: &Arc<str>, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        self.query_consumer_offset(group, queue, None).await
    }

    /// As [`consumer_offset`](Self::consumer_offset), without the 0 that brokers answer for a group that has recorded
    /// nothing in a young queue. Brokers before 5.0 answer it all the same.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn kept_consumer_offset(&self, group: &Arc<str>, queue: &MessageQueue) -> Result<Option<i64>, Error> {
        self.query_consumer_offset(group, queue, Some(false)).await
    }

    async fn query_consumer_offset(
        &self,
        group: &Arc<str>,
        queue: &MessageQueue,
        set_zero_if_not_found: Option<bool>,
    ) -> Result<Option<i64>, Error> {
        let request = |broker_name| QueryConsumerOffset {
            consumer_group: group.clone(),
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            set_zero_if_not_found,
            broker_name: Some(broker_name),
        };
        let GroupOffset(offset) = self.ask_owner(queue, Self::offset_keeper, request).await?;
        Ok(offset)
    }

    /// Records a group's offset in a queue, and waits until the broker says so.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn update_consumer_offset(
        &self,
        group: &Arc<str>,
        queue: &MessageQueue,
        offset: i64,
    ) -> Result<(), Error> {
        let request = |broker_name| update_offset(group, queue, broker_name, offset);
        self.ask_owner(queue, Self::offset_keeper, request).await
    }

    /// Records a group's offset in a queue without waiting for an answer.
    ///
    /// # Errors
    /// As [`rocketmq_remote::Connection::call_oneway`].
    pub async fn update_consumer_offset_oneway(
        &self,
        group: &Arc<str>,
        queue: &MessageQueue,
        offset: i64,
    ) -> Result<(), Error> {
        let deadline = self.request_deadline();
        let broker_name = self.broker_of(queue);
        let connection = self.vip_broker(&self.offset_keeper(&broker_name)?, deadline).await?;
        Ok(connection.call_oneway(&update_offset(group, queue, broker_name, offset), (), deadline).await?)
    }

    /// The client ids of a consumer group, from a broker of `topic`; empty where no broker knows a member.
    ///
    /// Every broker and replica knows all members, since each member sends heartbeats to all of them, unless it does
    /// not know or refuses the group. So an answer that contains this client wins. The broker that answered last is
    /// asked first, the next one 500 ms later or when that one has failed. Where no list contains this client, the
    /// first one that came counts.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`route`](Self::route), where no broker has answered.
    pub async fn consumer_list(&self, group: &Arc<str>, topic: &Arc<str>) -> Result<Vec<String>, Error> {
        let route = self.route(topic).await?;
        let mut asking = Hedged::new(self.member_sources(group, replicas_of(&route)));
        let (mut without_us, mut failure) = (None, Error::BrokerNotFound { broker_name: "".into() });
        let ask = |addr: Arc<str>| {
            let (client, request) = (self.clone(), GetConsumerList { consumer_group: group.clone() });
            async move { client.vip_call(&addr, &request, (), client.request_deadline()).await }
        };
        while let Some((addr, answer)) = asking.next(ask).await {
            let ids = match answer {
                Ok(Json(ids)) => ids.consumer_id_list,
                Err(error) if error.response_code() == Some(ResponseCode::SYSTEM_ERROR) => Vec::new(),
                Err(error) => {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "no member list from this broker");
                    failure = error.into();
                    continue;
                }
            };
            if ids.iter().any(|id| **id == **self.id()) {
                self.prefer_source(group, &addr);
                return Ok(ids);
            }
            tracing::debug!(%addr, %group, members = ids.len(), "this client is not in the member list of this broker");
            if without_us.as_ref().is_none_or(|known: &Vec<String>| known.is_empty()) {
                without_us = Some(ids);
            }
        }
        self.forget_source(group);
        without_us.ok_or(failure)
    }

    /// What a consumer group subscribes to, by topic, as the first broker of `topic` that answers knows it: a broker keeps
    /// one subscription to a topic, that of the greatest version. Empty where the group has no member.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`route`](Self::route).
    pub async fn group_subscriptions(
        &self,
        group: &Arc<str>,
        topic: &Arc<str>,
    ) -> Result<BTreeMap<String, KnownSubscription>, Error> {
        let route = self.route(topic).await?;
        let mut failure = Error::BrokerNotFound { broker_name: "".into() };
        let addrs: Vec<Arc<str>> = route.brokers().flat_map(|(_, addrs)| addrs.values().cloned()).collect();
        for addr in addrs {
            let request = GetConsumerConnections { consumer_group: group.clone() };
            match self.call(&addr, &request, (), self.request_deadline()).await {
                Ok(LenientJson(connections)) => return Ok(connections.subscription_table),
                Err(error) if error.response_code() == Some(ResponseCode::CONSUMER_NOT_ONLINE) => {
                    return Ok(BTreeMap::new());
                }
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    /// The members of a group and what it subscribes to, as a broker of `topic` knows it that has this client among the
    /// members. The broker that last told of the group is asked first, the next one 500 ms later or when that one has
    /// failed.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`route`](Self::route); [`Error::BrokerNotFound`] where no broker has this client
    /// among the members.
    ///
    /// # Protocol
    /// `GET_CONSUMER_CONNECTION_LIST` (203).
    pub async fn group_connections(&self, group: &Arc<str>, topic: &Arc<str>) -> Result<ConsumerConnections, Error> {
        let route = self.route(topic).await?;
        let mut asking = Hedged::new(self.member_sources(group, replicas_of(&route)));
        let mut failure = Error::BrokerNotFound { broker_name: "".into() };
        let ask = |addr: Arc<str>| {
            let (client, request) = (self.clone(), GetConsumerConnections { consumer_group: group.clone() });
            async move { client.call(&addr, &request, (), client.request_deadline()).await }
        };
        while let Some((addr, answer)) = asking.next(ask).await {
            match answer {
                Ok(LenientJson(group))
                    if group.connection_set.iter().any(|member| *member.client_id == **self.id()) =>
                {
                    return Ok(group);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "no connections from this broker");
                    failure = error.into();
                }
            }
        }
        Err(failure)
    }

    /// Asks a broker of `topic` which of its queues belong to this member of a group, shared out by a strategy that the
    /// broker knows. The names are those on the wire. The broker that answered last is asked first, the next one 500 ms
    /// later or when that one has failed. Where no broker knows any queues, the answer has none.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`route`](Self::route), where no broker has answered; brokers before 5.0 refuse with
    /// [`ResponseCode::REQUEST_CODE_NOT_SUPPORTED`].
    ///
    /// # Protocol
    /// Java: `MQClientInstance.queryAssignment`.
    pub async fn query_assignment(
        &self,
        group: &str,
        topic: &Arc<str>,
        strategy_name: &str,
    ) -> Result<Assignments, Error> {
        let route = self.route(topic).await?;
        let member = MemberOfGroup {
            client_id: self.id().to_string(),
            consumer_group: group.to_owned(),
            message_model: MessageModel::Clustering,
            strategy_name: strategy_name.to_owned(),
            topic: topic.to_string(),
        };
        let mut asking = Hedged::new(self.member_sources(group, replicas_of(&route)));
        let (mut without_queues, mut failure) = (None, Error::BrokerNotFound { broker_name: "".into() });
        let ask = |addr: Arc<str>| {
            let (client, body) = (self.clone(), Json(member.clone()));
            async move { client.call(&addr, &QueryAssignment {}, body, client.request_deadline()).await }
        };
        while let Some((addr, answer)) = asking.next(ask).await {
            match answer {
                // A broker that does not know the group as ours answers like this, too; another one may.
                Ok(Json(assignments)) if assignments.queues.is_none() => without_queues = Some(assignments),
                Ok(Json(assignments)) => {
                    self.prefer_source(group, &addr);
                    return Ok(assignments);
                }
                Err(error) => {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "no assignment from this broker");
                    failure = error.into();
                }
            }
        }
        without_queues.ok_or(failure)
    }

    /// Gives a message back to the master of its broker, to come again later.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn send_back(&self, broker_name: &str, request: &SendBack, deadline: Deadline) -> Result<(), Error> {
        Ok(self.call(&self.master(broker_name)?, request, (), deadline).await?)
    }
}

/// The addresses of all replicas of a topic's brokers.
fn replicas_of(route: &TopicRoute) -> impl Iterator<Item = Arc<str>> {
    route.brokers().flat_map(|(_, addrs)| addrs.values().cloned())
}

fn update_offset(group: &Arc<str>, queue: &MessageQueue, broker_name: Arc<str>, offset: i64) -> UpdateConsumerOffset {
    UpdateConsumerOffset {
        consumer_group: group.clone(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        commit_offset: offset,
        broker_name: Some(broker_name),
    }
}
