//! The ring of consistent hashing, as Java's `ConsistentHashRouter` builds it.

use super::Members;
use md5::{Digest, Md5};
use rocketmq_common::MessageQueue;
use std::collections::{BTreeMap, BTreeSet};

/// The queues whose next place on the ring is one of the own member.
pub(super) fn allocate(virtual_nodes: u16, members: &Members<'_>, queues: &[MessageQueue]) -> Vec<MessageQueue> {
    let mut ring = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for id in members.ids() {
        // One that is repeated has further places. Java: `ConsistentHashRouter.getExistingReplicas`.
        let taken = if seen.insert(id) { 0 } else { ring.values().filter(|other| **other == id).count() };
        for node in (taken..).take(virtual_nodes.into()) {
            // Where two places have the same hash the later one counts, as in Java's map.
            ring.insert(hash(&format!("{id}-{node}")), id);
        }
    }
    let is_own = |queue: &&MessageQueue| {
        let topic = members.wire_topic.unwrap_or(&queue.topic);
        let (broker, queue_id) = (&queue.broker_name, queue.queue_id);
        // Java: `MessageQueue.toString`.
        let place = hash(&format!("MessageQueue [topic={topic}, brokerName={broker}, queueId={queue_id}]"));
        let next = ring.range(place..).next().or_else(|| ring.first_key_value());
        next.is_some_and(|(_, id)| *id == members.own_id())
    };
    queues.iter().filter(is_own).cloned().collect()
}

/// The first four bytes of the MD5.
fn hash(key: &str) -> u32 {
    let digest = Md5::digest(key);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        assert_eq!(hash("c1-0"), 3_886_541_579);
        assert_eq!(hash("c2-0"), 830_676_049);
        assert_eq!(hash("MessageQueue [topic=T, brokerName=b, queueId=0]"), 562_732_085);
    }
}
