//! Who is connected: the members of groups, and what they subscribe to. Pure: no I/O, no clock.

use crate::filter::TagFilter;
use rocketmq_common::protocol::{ConsumerData, ExpressionType, MessageModel, SubscriptionData};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// The groups of a broker. A group is there while it has members.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    consumers: HashMap<Arc<str>, ConsumerGroup>,
    producers: HashMap<Arc<str>, Vec<Member>>,
    /// By which connection a producer's client is reached.
    clients: HashMap<Arc<str>, u64>,
}

#[derive(Debug)]
struct ConsumerGroup {
    model: MessageModel,
    members: Vec<Member>,
    subscriptions: HashMap<String, Subscription>,
    fingerprint: i32,
}

/// One connection of a group.
#[derive(Debug)]
struct Member {
    connection: u64,
    client_id: Arc<str>,
    seen: Instant,
}

/// What a group wants of a topic.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) version: i64,
    pub(crate) expression: String,
    pub(crate) expression_type: ExpressionType,
    pub(crate) filter: TagFilter,
}

/// Members to be told that their group has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) group: Arc<str>,
    pub(crate) connections: Vec<u64>,
}

/// Who sends a heartbeat, and when.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) connection: u64,
    pub(crate) client_id: Arc<str>,
    pub(crate) now: Instant,
}

impl Sender {
    fn member(&self) -> Member {
        Member { connection: self.connection, client_id: self.client_id.clone(), seen: self.now }
    }
}

impl Groups {
    /// A producer shows itself.
    pub(crate) fn produce(&mut self, sender: &Sender, group: &str) {
        let is_new = if let Some(members) = self.producers.get_mut(group) {
            refresh(members, sender)
        } else if self.producers.len() < MAX_GROUPS {
            self.producers.insert(group.into(), vec![sender.member()]);
            true
        } else {
            false
        };
        if is_new {
            self.clients.insert(sender.client_id.clone(), sender.connection);
        }
    }

    /// A consumer shows itself. Java: `ConsumerManager.registerConsumer`.
    pub(crate) fn consume(&mut self, sender: &Sender, data: &ConsumerData, without_sub: bool) -> Option<Notice> {
        let name = data.group_name.as_str();
        if !self.consumers.contains_key(name) {
            if self.consumers.len() >= MAX_GROUPS {
                return None;
            }
            let group = ConsumerGroup {
                model: data.message_model,
                members: Vec::new(),
                subscriptions: HashMap::new(),
                fingerprint: 0,
            };
            self.consumers.insert(name.into(), group);
        }
        let group = self.consumers.get_mut(name)?;
        group.model = data.message_model;
        let mut changed = refresh(&mut group.members, sender);
        if !without_sub {
            changed |= group.subscribe(&data.subscription_data_set);
        }
        if changed { self.notice(name) } else { None }
    }

    /// Remembers the fingerprint of a group's last heartbeat; answers whether it is another one.
    pub(crate) fn fingerprint(&mut self, group: &str, fingerprint: i32) -> bool {
        let Some(group) = self.consumers.get_mut(group) else { return true };
        std::mem::replace(&mut group.fingerprint, fingerprint) != fingerprint
    }

    /// A connection leaves a consumer group; the others are to be told.
    pub(crate) fn leave(&mut self, group: &str, connection: u64) -> Option<Notice> {
        let members = &mut self.consumers.get_mut(group)?.members;
        let before = members.len();
        members.retain(|member| member.connection != connection);
        if members.len() == before { None } else { self.left(group) }
    }

    pub(crate) fn leave_producers(&mut self, group: &str, connection: u64) {
        if let Some(members) = self.producers.get_mut(group) {
            // As in Java, the client is reached no more, though it may be in other groups still.
            for member in members.iter().filter(|member| member.connection == connection) {
                self.clients.remove(&member.client_id);
            }
            members.retain(|member| member.connection != connection);
            if members.is_empty() {
                self.producers.remove(group);
            }
        }
    }

    /// By which connection a client with a producer is reached. Java: `ProducerManager.findChannel`.
    pub(crate) fn connection_of(&self, client_id: &str) -> Option<u64> {
        self.clients.get(client_id).copied()
    }

    /// One of the producers of a group, each in its turn.
    pub(crate) fn producer(&self, group: &str, turn: usize) -> Option<u64> {
        let members = self.producers.get(group)?;
        members.get(turn.checked_rem(members.len())?).map(|member| member.connection)
    }

    /// A connection has ended.
    pub(crate) fn drop_connection(&mut self, connection: u64) -> Vec<Notice> {
        self.drop_members(|member| member.connection == connection)
    }

    /// Drops members that have not shown themselves for two minutes.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Notice> {
        self.drop_members(|member| now.duration_since(member.seen) > EXPIRY)
    }

    fn drop_members(&mut self, gone: impl Fn(&Member) -> bool) -> Vec<Notice> {
        let clients = &mut self.clients;
        self.producers.retain(|_, members| {
            for member in members.iter().filter(|member| gone(member)) {
                if clients.get(&member.client_id) == Some(&member.connection) {
                    clients.remove(&member.client_id);
                }
            }
            members.retain(|member| !gone(member));
            !members.is_empty()
        });
        let mut changed = Vec::new();
        for (name, group) in &mut self.consumers {
            let before = group.members.len();
            group.members.retain(|member| !gone(member));
            if group.members.len() < before {
                changed.push(name.clone());
            }
        }
        changed.iter().filter_map(|name| self.left(name)).collect()
    }

    fn left(&mut self, group: &str) -> Option<Notice> {
        if self.consumers.get(group)?.members.is_empty() {
            // The subscriptions go with the last member.
            self.consumers.remove(group);
            return None;
        }
        self.notice(group)
    }

    /// Members that share nothing need not share it out anew.
    fn notice(&self, group: &str) -> Option<Notice> {
        let (name, group) = self.consumers.get_key_value(group)?;
        if group.model == MessageModel::Broadcasting {
            return None;
        }
        let connections = group.members.iter().map(|member| member.connection).collect();
        Some(Notice { group: name.clone(), connections })
    }

    /// The client ids of a group, one a connection.
    pub(crate) fn client_ids(&self, group: &str) -> Vec<String> {
        let members = self.consumers.get(group).map(|group| group.members.as_slice()).unwrap_or_default();
        members.iter().map(|member| member.client_id.to_string()).collect()
    }

    /// By which connections the members of a group are reached, with their client ids.
    pub(crate) fn connections(&self, group: &str) -> Vec<(Arc<str>, u64)> {
        let members = self.consumers.get(group).map(|group| group.members.as_slice()).unwrap_or_default();
        members.iter().map(|member| (member.client_id.clone(), member.connection)).collect()
    }

    /// What a group wants of a topic: `None` where there is no such group, `Some(None)` where it has not subscribed.
    pub(crate) fn subscription(&self, group: &str, topic: &str) -> Option<Option<&Subscription>> {
        self.consumers.get(group).map(|group| group.subscriptions.get(topic))
    }

    /// All that a group wants, by topic; `None` where the group has no member.
    pub(crate) fn subscriptions(&self, group: &str) -> Option<impl Iterator<Item = (&String, &Subscription)>> {
        self.consumers.get(group).map(|group| group.subscriptions.iter())
    }
}

impl ConsumerGroup {
    /// Takes over a member's subscriptions; answers whether topics were added or removed. A known topic changes only
    /// with a greater version. Java: `ConsumerGroupInfo.updateSubscription`.
    fn subscribe(&mut self, data: &[SubscriptionData]) -> bool {
        let mut changed = false;
        for wanted in data {
            match self.subscriptions.get_mut(&wanted.topic) {
                Some(known) if wanted.sub_version > known.version => *known = Subscription::of(wanted),
                Some(_) => {}
                None => {
                    self.subscriptions.insert(wanted.topic.clone(), Subscription::of(wanted));
                    changed = true;
                }
            }
        }
        if self.subscriptions.len() > data.len() || changed {
            let wanted: HashSet<&str> = data.iter().map(|wanted| wanted.topic.as_str()).collect();
            let before = self.subscriptions.len();
            self.subscriptions.retain(|topic, _| wanted.contains(topic.as_str()));
            changed |= self.subscriptions.len() < before;
        }
        changed
    }
}

impl Subscription {
    fn of(data: &SubscriptionData) -> Self {
        Self {
            version: data.sub_version,
            expression: data.sub_string.clone(),
            expression_type: data.expression_type,
            filter: TagFilter::of(data),
        }
    }
}

/// Notes that a member is alive; answers whether it is new.
fn refresh(members: &mut Vec<Member>, sender: &Sender) -> bool {
    match members.iter_mut().find(|member| member.connection == sender.connection) {
        Some(member) => {
            *member = sender.member();
            false
        }
        None => {
            members.push(sender.member());
            true
        }
    }
}

/// Java: `CHANNEL_EXPIRED_TIMEOUT`.
const EXPIRY: Duration = Duration::from_secs(120);
const MAX_GROUPS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use rocketmq_common::protocol::{ConsumeFrom, ConsumeType};

    fn sender(connection: u64, now: Instant) -> Sender {
        Sender { connection, client_id: format!("c{connection}").into(), now }
    }

    fn consumer(topics: &[(&str, &str, i64)]) -> ConsumerData {
        let subscription = |(topic, expression, version): &(&str, &str, i64)| SubscriptionData {
            topic: (*topic).to_owned(),
            sub_string: (*expression).to_owned(),
            tags_set: Vec::new(),
            code_set: vec![97],
            sub_version: *version,
            expression_type: ExpressionType::Tag,
            class_filter_mode: false,
        };
        ConsumerData {
            group_name: "g".into(),
            consume_type: ConsumeType::Passively,
            message_model: MessageModel::Clustering,
            consume_from_where: ConsumeFrom::LastOffset,
            subscription_data_set: topics.iter().map(subscription).collect(),
            unit_mode: false,
        }
    }

    fn told(connections: &[u64]) -> Option<Notice> {
        Some(Notice { group: "g".into(), connections: connections.to_vec() })
    }

    #[test]
    fn members_are_told_of_each_change_and_only_then() {
        let now = Instant::now();
        let mut groups = Groups::default();
        let data = consumer(&[("t", "*", 1)]);
        assert_eq!(groups.consume(&sender(1, now), &data, false), told(&[1]));
        assert_eq!(groups.consume(&sender(1, now), &data, false), None);
        assert_eq!(groups.consume(&sender(2, now), &data, false), told(&[1, 2]));
        assert_eq!(groups.client_ids("g"), ["c1", "c2"]);
        let more = consumer(&[("t", "*", 1), ("u", "*", 1)]);
        assert_eq!(groups.consume(&sender(2, now), &more, false), told(&[1, 2]));
        assert_eq!(groups.consume(&sender(1, now), &data, false), told(&[1, 2]));
        assert_eq!(groups.leave("g", 1), told(&[2]));
        assert_eq!(groups.leave("g", 1), None);
        assert_eq!(groups.drop_connection(2), []);
        assert!(groups.subscription("g", "t").is_none());
    }

    #[test]
    fn only_a_greater_version_replaces_a_subscription() {
        let now = Instant::now();
        let mut groups = Groups::default();
        groups.consume(&sender(1, now), &consumer(&[("t", "*", 5)]), false);
        let filter = |groups: &Groups| groups.subscription("g", "t").unwrap().unwrap().filter.clone();
        assert_eq!(groups.consume(&sender(1, now), &consumer(&[("t", "a", 5)]), false), None);
        assert_eq!(filter(&groups), TagFilter::All);
        assert_eq!(groups.consume(&sender(1, now), &consumer(&[("t", "a", 6)]), false), None);
        assert_eq!(filter(&groups), TagFilter::OneOf([97].into()));
        assert!(groups.subscription("g", "u").unwrap().is_none());
    }

    #[test]
    fn broadcast_groups_are_not_told() {
        let mut data = consumer(&[("t", "*", 1)]);
        data.message_model = MessageModel::Broadcasting;
        let mut groups = Groups::default();
        assert_eq!(groups.consume(&sender(1, Instant::now()), &data, false), None);
        assert_eq!(groups.client_ids("g"), ["c1"]);
    }

    #[test]
    fn the_silent_are_dropped() {
        let now = Instant::now();
        let mut groups = Groups::default();
        let data = consumer(&[]);
        groups.consume(&sender(1, now), &data, false);
        groups.consume(&sender(2, now + EXPIRY), &data, false);
        groups.produce(&sender(1, now), "p");
        assert_eq!(groups.expire(now + EXPIRY), []);
        assert_eq!(groups.expire(now + EXPIRY + Duration::from_millis(1)), [told(&[2]).unwrap()]);
        assert!(groups.producers.is_empty());
    }

    #[test]
    fn a_short_heartbeat_keeps_the_subscriptions() {
        let now = Instant::now();
        let mut groups = Groups::default();
        groups.consume(&sender(1, now), &consumer(&[("t", "*", 1)]), false);
        assert!(groups.fingerprint("g", 7));
        assert_eq!(groups.consume(&sender(1, now), &consumer(&[]), true), None);
        assert!(!groups.fingerprint("g", 7));
        assert!(groups.subscription("g", "t").unwrap().is_some());
    }
}
