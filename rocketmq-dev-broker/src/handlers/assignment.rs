//! Which queues belong to which member, and how it gets their messages. Java: `QueryAssignmentProcessor`.

use super::{Outcome, Refusal, done, send_back::check_group};
use crate::broker::Broker;
use rocketmq_common::{
    MessageQueue,
    message::names::is_retry_topic,
    protocol::{
        Assignment, Assignments, MemberOfGroup, MessageModel, Permission, QueryAssignment, QueueName, RequestMode,
        RequestModeOfGroup, SetRequestMode,
    },
};
use rocketmq_remote::{Incoming, Json, Reply, ResponseCode};
use std::collections::BTreeSet;

pub(super) fn query(broker: &Broker, incoming: &Incoming) -> Outcome {
    let Json(member) = incoming.body::<QueryAssignment>()?;
    let of_group = (member.topic.clone(), member.consumer_group.clone());
    let set = broker.request_modes().get(&of_group).cloned().unwrap_or_default();
    let queues = queues(broker, &member.topic);
    let mut ids = broker.groups().client_ids(&member.consumer_group);
    ids.sort_by(|one, other| one.encode_utf16().cmp(other.encode_utf16()));
    let share = match member.message_model {
        _ if queues.is_empty() => None,
        MessageModel::Broadcasting => Some(queues),
        MessageModel::Clustering => share(&queues, &ids, &member, &set),
    };
    let assignment =
        |queue: &MessageQueue| Assignment { message_queue: QueueName::from(queue), mode: set.mode, attachments: None };
    let mut command = done();
    Json(Assignments { queues: share.map(|share| share.iter().map(assignment).collect()) }).write_to(&mut command)?;
    Ok(command)
}

pub(super) fn set_mode(broker: &Broker, incoming: &Incoming) -> Outcome {
    let Json(set) = incoming.body::<SetRequestMode>()?;
    if is_retry_topic(&set.topic) {
        return Err(Refusal::new(ResponseCode::NO_PERMISSION, "retry topic is not allowed to set mode"));
    }
    check_group(&set.consumer_group)?;
    if broker.store().log.topic(&set.topic).is_none() {
        let remark = format!("topic {} not exist", set.topic);
        return Err(Refusal::new(ResponseCode::TOPIC_NOT_EXIST, remark));
    }
    let mut modes = broker.request_modes();
    let of_group = (set.topic.clone(), set.consumer_group.clone());
    if modes.len() >= MAX_MODES && !modes.contains_key(&of_group) {
        return Err(Refusal::new(ResponseCode::SYSTEM_ERROR, "the dev broker has no room for more modes"));
    }
    modes.insert(of_group, set);
    Ok(done())
}

/// The sorted queues of a topic, on all brokers that run.
fn queues(broker: &Broker, topic: &str) -> BTreeSet<MessageQueue> {
    let of_broker = |broker: &Broker| {
        let config = broker.store().log.topic(topic).filter(|config| Permission::is_readable(config.perm));
        let (topic, name) = (topic.to_owned(), broker.name.clone());
        let count = config.map_or(0, |config| config.read_queues);
        (0..count).map(move |queue_id| MessageQueue::new(topic.as_str(), name.clone(), queue_id))
    };
    broker.running_brokers().iter().flat_map(|broker| of_broker(broker)).collect()
}

/// The queues of one member; `None` where it is not for a broker to say.
fn share(
    queues: &BTreeSet<MessageQueue>,
    ids: &[String],
    member: &MemberOfGroup,
    set: &RequestModeOfGroup,
) -> Option<BTreeSet<MessageQueue>> {
    let (members, queues_in_order) = (ids.len(), queues.iter().cloned().collect::<Vec<_>>());
    let of_index: fn(&[MessageQueue], usize, usize) -> Vec<MessageQueue> = match member.strategy_name.as_str() {
        _ if ids.is_empty() => return None,
        "AVG" => average,
        "AVG_BY_CIRCLE" => |queues, index, members| queues.iter().skip(index).step_by(members).cloned().collect(),
        _ => return None,
    };
    let others = usize::try_from(set.pop_share_queue_num).unwrap_or(0);
    if set.mode == RequestMode::Pop && (others == 0 || others + 1 >= members) {
        // Whichever queue of the broker, and whoever asks.
        let of_broker = |queue: MessageQueue| MessageQueue { queue_id: -1, ..queue };
        return Some(queues_in_order.into_iter().map(of_broker).collect());
    }
    let Some(index) = ids.iter().position(|id| *id == member.client_id) else { return Some(BTreeSet::new()) };
    if set.mode != RequestMode::Pop {
        return Some(of_index(&queues_in_order, index, members).into_iter().collect());
    }
    if members > queues_in_order.len() {
        return Some(BTreeSet::from([queues_in_order[index % queues_in_order.len()].clone()]));
    }
    let shares = (index..=index + others).map(|index| of_index(&queues_in_order, index % members, members));
    Some(shares.flatten().collect())
}

fn average(queues: &[MessageQueue], index: usize, members: usize) -> Vec<MessageQueue> {
    let (whole, rest) = (queues.len() / members, queues.len() % members);
    let start = index * whole + index.min(rest);
    queues.iter().skip(start).take(whole + usize::from(index < rest)).cloned().collect()
}

const MAX_MODES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn ids_of_share(queues: i32, members: usize, own: usize, strategy: &str, set: (RequestMode, i32)) -> Vec<i32> {
        let queues = (0..queues).map(|id| MessageQueue::new("T", "b", id)).collect();
        let ids: Vec<_> = (0..members).map(|id| format!("c{id}")).collect();
        let (client_id, strategy_name) = (format!("c{own}"), strategy.to_owned());
        let member = MemberOfGroup { client_id, strategy_name, ..MemberOfGroup::default() };
        let set = RequestModeOfGroup { mode: set.0, pop_share_queue_num: set.1, ..RequestModeOfGroup::default() };
        let share = share(&queues, &ids, &member, &set).unwrap();
        share.iter().map(|queue| queue.queue_id).collect()
    }

    #[test]
    fn pulled_queues_belong_to_one_member() {
        let pull = (RequestMode::Pull, 0);
        assert_eq!(ids_of_share(8, 3, 0, "AVG", pull), [0, 1, 2]);
        assert_eq!(ids_of_share(8, 3, 2, "AVG", pull), [6, 7]);
        assert_eq!(ids_of_share(8, 3, 2, "AVG_BY_CIRCLE", pull), [2, 5]);
        assert!(ids_of_share(8, 3, 9, "AVG", pull).is_empty());
    }

    #[test]
    fn popped_queues_belong_to_several() {
        assert_eq!(ids_of_share(8, 4, 3, "AVG", (RequestMode::Pop, 1)), [0, 1, 6, 7]);
        assert_eq!(ids_of_share(8, 4, 1, "AVG", (RequestMode::Pop, 0)), [-1]);
        assert_eq!(ids_of_share(8, 4, 1, "AVG", (RequestMode::Pop, 3)), [-1]);
        assert_eq!(ids_of_share(2, 5, 3, "AVG", (RequestMode::Pop, 2)), [1]);
    }

    #[test]
    fn what_brokers_do_not_know_has_no_answer() {
        let queues: BTreeSet<_> = [MessageQueue::new("T", "b", 0)].into();
        let member = |strategy: &str| MemberOfGroup { strategy_name: strategy.to_owned(), ..Default::default() };
        let set = RequestModeOfGroup::default();
        assert_eq!(share(&queues, &["c".to_owned()], &member("CONSISTENT_HASH"), &set), None);
        assert_eq!(share(&queues, &[], &member("AVG"), &set), None);
    }
}
