//! Asking name servers for routes, now and then and when a route has failed, and asking a resolver where they are.

use super::{Shared, routes::Found};
use crate::{
    Error, TopicRoute,
    message::names::AUTO_CREATE_TOPIC,
    name_server,
    protocol::{GetRoute, LenientJson, TopicRouteData},
    random::random_below,
    resolver::NameServerResolver,
    tasks::SharedWork,
    ticks,
};
use rocketmq_remote::{Connection, Deadline, Error as RemoteError, Processors, ResponseCode};
use std::{mem, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// Looks the routes in use up anew, all of them now and then, and those that failed somebody at once.
pub(super) async fn refresh_routes(shared: Arc<Shared>) {
    let mut ticks = ticks(shared.config.route_refresh_interval);
    // Not at once.
    ticks.reset();
    loop {
        let stale: Vec<(Arc<str>, u64)> = tokio::select! {
            _ = ticks.tick() => {
                let generation = |topic: &str| shared.routes.known(topic).map_or(0, |route| route.generation());
                shared.routes.topics_in_use().into_iter().map(|topic| (topic.clone(), generation(&topic))).collect()
            }
            () = shared.stale_noted.notified() => {
                let mut stale = shared.stale.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                mem::take(&mut *stale).into_iter().collect()
            }
        };
        for (topic, seen) in stale {
            if let Err(error) = shared.newer_route(&topic, seen).await {
                // The old route stays: sending and consuming go on without a name server.
                tracing::debug!(%topic, error = &error as &dyn std::error::Error, "route not refreshed");
            }
        }
        // While a broker is away its routes fail all the time: name servers are not to suffer for it.
        sleep(SHORTEST_REFRESH_PAUSE).await;
    }
}

/// Asks a resolver now and then where the name servers are, and when none of them answers.
///
/// # Protocol
/// Java: `MQClientInstance.startScheduledTask`, after 10 s and then every 120 s.
pub(super) async fn refresh_name_servers(shared: Arc<Shared>, resolver: Arc<dyn NameServerResolver>) {
    let interval = shared.config.name_server_refresh_interval;
    let mut pause = interval.min(FIRST_NAME_SERVER_REFRESH);
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.name_servers_wanted.notified() => {}
        }
        pause = interval;
        match name_server::ask(&*resolver, shared.config.request_timeout).await {
            Ok(texts) => shared.replace_name_servers(&texts),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the name servers stay as they were known");
            }
        }
        sleep(SHORTEST_REFRESH_PAUSE).await;
    }
}

impl Shared {
    /// The route of a topic, looked up unless one newer than generation `seen` is known. The look-up is a task of the
    /// client, and goes on if this future is dropped.
    pub(super) async fn newer_route(self: &Arc<Self>, topic: &Arc<str>, seen: u64) -> Result<Arc<TopicRoute>, Error> {
        if self.tasks.are_stopped() {
            return Err(Error::ShutDown);
        }
        let start = || {
            let (shared, topic) = (self.clone(), topic.clone());
            SharedWork::start(&self.tasks, async move {
                let answer = shared.look_up(&topic).await;
                shared.routes.finish(&topic, answer, Instant::now())
            })
        };
        match self.routes.newer_than(topic, seen, start) {
            Found::Known(route) => Ok(route),
            Found::LookUp(look_up) => look_up.outcome().await.unwrap_or(Err(Error::ShutDown)),
        }
    }

    /// The route by which to send to a topic: its own, or a provisional one, made after that of the template topic.
    pub(super) async fn publish_route(
        self: &Arc<Self>,
        topic: &Arc<str>,
        queues: i32,
    ) -> Result<Arc<TopicRoute>, Error> {
        match self.sendable_route(topic, 0).await {
            Err(Error::TopicNotFound { topic }) => match self.template_route().await {
                Ok(template) => Ok(self.routes.assume(&topic, &template, queues)),
                Err(Error::TopicNotFound { .. }) => Err(Error::TopicNotFound { topic }),
                Err(error) => Err(error),
            },
            other => other,
        }
    }

    /// The route of the topic after which others are created; a newer one than that by which a provisional route has
    /// failed, if a name server has one.
    async fn template_route(self: &Arc<Self>) -> Result<Arc<TopicRoute>, Error> {
        let seen = self.routes.failed_template(Instant::now());
        match self.sendable_route(&AUTO_CREATE_TOPIC.into(), seen).await {
            Ok(route) => Ok(route),
            // The old route stays, as that of every topic does.
            Err(error) => self.routes.known(AUTO_CREATE_TOPIC).ok_or(error),
        }
    }

    /// As [`newer_route`](Self::newer_route), for sends: there are many of them, and where there was no such topic a
    /// moment ago they do not ask again.
    async fn sendable_route(self: &Arc<Self>, topic: &Arc<str>, seen: u64) -> Result<Arc<TopicRoute>, Error> {
        if self.routes.is_missing(topic, Instant::now()) {
            return Err(Error::TopicNotFound { topic: topic.clone() });
        }
        self.newer_route(topic, seen).await
    }

    /// Asks the name servers, beginning with the one that answered last. One that fails, or is silent for a while, has
    /// the next one asked as well; the first route counts.
    ///
    /// One that does not know the topic may have been restarted and know no broker yet: all others are asked, and get as
    /// long to contradict it as a silent one gets.
    async fn look_up(self: &Arc<Self>, topic: &Arc<str>) -> Result<TopicRouteData, Error> {
        let deadline = Deadline::after(self.config.request_timeout);
        let patience = self.config.name_server_patience;
        let mut waiting = self.name_servers.in_order();
        let asked = waiting.clone();
        waiting.reverse();
        let mut asking = JoinSet::new();
        // The first that does not know the topic, and until when the others may contradict it.
        let mut missing: Option<(Arc<str>, Instant)> = None;
        let mut last_error = None;
        loop {
            while let Some(addr) = waiting.pop() {
                let (shared, topic) = (self.clone(), topic.clone());
                asking.spawn(async move {
                    let result = shared.ask_name_server(&addr, topic, deadline).await;
                    (addr, result)
                });
                if missing.is_none() {
                    break;
                }
            }
            let believed_at = missing.as_ref().map_or_else(Instant::now, |(_, at)| *at);
            let answer = tokio::select! {
                answer = asking.join_next() => answer,
                () = sleep(patience), if !waiting.is_empty() => continue,
                () = sleep_until(believed_at), if missing.is_some() => None,
            };
            match answer {
                Some(Ok((addr, Ok(Some(data))))) => {
                    self.name_servers.answered(&addr);
                    return Ok(data);
                }
                Some(Ok((addr, Ok(None)))) => {
                    tracing::debug!(%addr, %topic, "name server does not know the topic");
                    let believed_at = Deadline::after(patience).min(deadline).instant();
                    missing.get_or_insert((addr, believed_at));
                }
                Some(Ok((addr, Err(error)))) => {
                    tracing::debug!(%addr, error = &error as &dyn std::error::Error, "name server did not answer");
                    last_error = Some(error);
                }
                // A task ends early only when the runtime shuts down.
                Some(Err(_)) => {}
                None if waiting.is_empty() => break,
                None => {}
            }
        }
        if let Some((addr, _)) = missing {
            self.name_servers.answered(&addr);
            return Err(Error::TopicNotFound { topic: topic.clone() });
        }
        self.name_servers_wanted.notify_one();
        Err(last_error.map_or(Error::ShutDown, |source| Error::NoNameServer { asked, source }))
    }

    /// Goes by these name servers from now on. Those that are gone are not asked any more.
    fn replace_name_servers(&self, texts: &[String]) {
        let gone = self.name_servers.replace(texts, random_below(1024));
        if !gone.is_empty() {
            tracing::info!(?gone, now = ?self.name_servers.in_order(), "the name servers have changed");
            self.pool.retain(|addr| !gone.iter().any(|gone| **gone == *addr));
        }
    }

    /// The route one name server answers; `None` where it does not know the topic.
    async fn ask_name_server(
        &self,
        addr: &Arc<str>,
        topic: Arc<str>,
        deadline: Deadline,
    ) -> Result<Option<TopicRouteData>, RemoteError> {
        let connection = self.pool.get(addr, deadline, || (Processors::new(), async |_: Connection| Ok(()))).await?;
        let request = GetRoute { topic, accept_standard_json_only: Some(true) };
        match connection.call(&request, (), deadline).await {
            Ok(LenientJson(data)) => Ok(Some(data)),
            Err(RemoteError::Refused { code: ResponseCode::TOPIC_NOT_EXIST, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

const SHORTEST_REFRESH_PAUSE: Duration = Duration::from_millis(500);
const FIRST_NAME_SERVER_REFRESH: Duration = Duration::from_secs(10);
