use std::{collections::HashMap, sync::Arc};

/// How far each group has come in each queue.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    groups: HashMap<Arc<str>, HashMap<Arc<str>, ByQueue>>,
    count: usize,
}

type ByQueue = HashMap<i32, i64>;

impl Offsets {
    pub(crate) fn get(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        self.groups.get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// How far each group has come in one queue.
    pub(crate) fn of_queue(&self, topic: &str, queue_id: i32) -> Vec<(Arc<str>, i64)> {
        let of_group = |topics: &HashMap<Arc<str>, ByQueue>| topics.get(topic)?.get(&queue_id).copied();
        self.groups.iter().filter_map(|(group, topics)| Some((group.clone(), of_group(topics)?))).collect()
    }

    /// Records an offset, also one further back.
    pub(crate) fn set(&mut self, group: &Arc<str>, topic: &Arc<str>, queue_id: i32, offset: i64) {
        let known = self.groups.get_mut(group).and_then(|topics| topics.get_mut(topic));
        if let Some(recorded) = known.and_then(|queues| queues.get_mut(&queue_id)) {
            *recorded = offset;
            return;
        }
        // Names come from clients: without an end they would fill the memory.
        if self.count < MAX_OFFSETS {
            self.count += 1;
            let topics = self.groups.entry(group.clone()).or_default();
            topics.entry(topic.clone()).or_default().insert(queue_id, offset);
        }
    }
}

const MAX_OFFSETS: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_may_go_back() {
        let mut offsets = Offsets::default();
        let (group, topic): (Arc<str>, Arc<str>) = ("g".into(), "t".into());
        assert_eq!(offsets.get("g", "t", 0), None);
        offsets.set(&group, &topic, 0, 7);
        offsets.set(&group, &topic, 0, 3);
        offsets.set(&group, &topic, 1, 9);
        assert_eq!(offsets.get("g", "t", 0), Some(3));
        assert_eq!(offsets.get("g", "t", 1), Some(9));
        assert_eq!(offsets.get("g", "u", 0), None);
        assert_eq!(offsets.of_queue("t", 1), [(group, 9)]);
        assert!(offsets.of_queue("t", 2).is_empty());
    }
}
