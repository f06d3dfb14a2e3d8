//! Queue locks, and whether a filter is one a broker can serve.

use super::Client;
use crate::{
    Error, MessageQueue,
    protocol::{
        CheckClientConfig, ClientConfigToCheck, LockQueues, LockedQueues, QueuesOfMember, SubscriptionData,
        UnlockQueues,
    },
};
use rocketmq_remote::{Connection, Json, ResponseCode};
use tokio::task::JoinSet;

impl Client {
    /// Locks queues of one broker for this member of a group, or renews its locks, which live for 60 s; answers which
    /// of them are its own now, and the connection that said so: a broker that ends forgets its locks, and the end of
    /// the connection is the first one hears of it.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn lock_queues(
        &self,
        group: &str,
        broker_name: &str,
        queues: &[MessageQueue],
    ) -> Result<(Vec<MessageQueue>, Connection), Error> {
        let (addr, deadline) = (self.master(broker_name)?, self.request_deadline());
        let body = Json(self.queues_of_member(group, queues));
        let mut connection = self.broker(&addr, deadline).await?;
        let mut reply = connection.call(&LockQueues {}, body.clone(), deadline).await;
        if reply.as_ref().is_err_and(|error| error.response_code() == Some(ResponseCode::GO_AWAY)) {
            connection = self.broker(&addr, deadline).await?;
            reply = connection.call(&LockQueues {}, body, deadline).await;
        }
        let Json(LockedQueues { queues: locked }) = reply?;
        Ok((locked.into_iter().map(MessageQueue::from).collect(), connection))
    }

    /// Gives up the locks of queues of one broker, and waits until the broker says so.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn unlock_queues(&self, group: &str, broker_name: &str, queues: &[MessageQueue]) -> Result<(), Error> {
        let (addr, body) = (self.master(broker_name)?, Json(self.queues_of_member(group, queues)));
        Ok(self.call(&addr, &UnlockQueues {}, body, self.request_deadline()).await?)
    }

    /// Asks all brokers of the topic at once whether they can serve a subscription. One that does not answer is left out
    /// where another one does.
    ///
    /// # Errors
    /// The first refusal, which says what is wrong with the filter; as [`call`](Self::call) and [`route`](Self::route)
    /// where no broker has answered.
    pub async fn check_subscription(&self, group: &str, subscription: &SubscriptionData) -> Result<(), Error> {
        let route = self.route(&subscription.topic.as_str().into()).await?;
        let body = ClientConfigToCheck {
            client_id: self.id().to_string(),
            group: group.to_owned(),
            namespace: None,
            subscription_data: subscription.clone(),
        };
        let mut checking = JoinSet::new();
        for addr in route.brokers().filter_map(|(_, addrs)| addrs.values().next()) {
            let (client, addr, body) = (self.clone(), addr.clone(), Json(body.clone()));
            checking
                .spawn(async move { client.call(&addr, &CheckClientConfig {}, body, client.request_deadline()).await });
        }
        let mut outcome = Err(Error::BrokerNotFound { broker_name: "".into() });
        while let Some(checked) = checking.join_next().await {
            match checked {
                Ok(Ok(())) => outcome = Ok(()),
                Ok(Err(error)) if error.response_code().is_some() => return Err(error.into()),
                Ok(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a broker has not checked the filter");
                    outcome = outcome.or(Err(error.into()));
                }
                // A task ends early only when the runtime shuts down.
                Err(_) => {}
            }
        }
        outcome
    }

    fn queues_of_member(&self, group: &str, queues: &[MessageQueue]) -> QueuesOfMember {
        QueuesOfMember {
            client_id: self.id().to_string(),
            consumer_group: group.to_owned(),
            mq_set: queues.iter().map(Into::into).collect(),
            only_this_broker: false,
        }
    }
}
