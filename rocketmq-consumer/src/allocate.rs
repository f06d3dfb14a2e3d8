use rocketmq_common::MessageQueue;

/// The queues of one member by Java's average strategy: sorted queues are cut into as many runs as there are sorted
/// members, the longer runs first. A member that is not listed gets none.
///
/// # Protocol
/// Java: `AllocateMessageQueueAveragely`. All members have to sort alike, ids by UTF-16 code units.
pub(crate) fn average(queues: &[MessageQueue], members: &[String], own_id: &str) -> Vec<MessageQueue> {
    let Some(index) = members.iter().position(|id| id == own_id) else { return Vec::new() };
    let (whole, rest) = (queues.len() / members.len(), queues.len() % members.len());
    let start = index * whole + index.min(rest);
    let size = whole + usize::from(index < rest);
    queues.iter().skip(start).take(size).cloned().collect()
}

/// Sorts member ids as every member does, and drops repetitions of one.
pub(crate) fn sort_members(members: &mut Vec<String>) {
    members.sort_by(|one, other| one.encode_utf16().cmp(other.encode_utf16()));
    members.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(queues: i32, members: &[&str], own_id: &str) -> Vec<i32> {
        let queues: Vec<_> = (0..queues).map(|id| MessageQueue::new("T", "b", id)).collect();
        let members: Vec<_> = members.iter().map(|id| (*id).to_owned()).collect();
        average(&queues, &members, own_id).iter().map(|queue| queue.queue_id).collect()
    }

    #[test]
    fn eight_queues_over_three_members_as_java_does_it() {
        let members = ["c1", "c2", "c3"];
        assert_eq!(ids(8, &members, "c1"), [0, 1, 2]);
        assert_eq!(ids(8, &members, "c2"), [3, 4, 5]);
        assert_eq!(ids(8, &members, "c3"), [6, 7]);
    }

    #[test]
    fn more_members_than_queues_leave_some_without() {
        let members = ["a", "b", "c"];
        assert_eq!(ids(2, &members, "a"), [0]);
        assert_eq!(ids(2, &members, "b"), [1]);
        assert!(ids(2, &members, "c").is_empty());
        assert!(ids(2, &members, "stranger").is_empty());
        assert!(ids(2, &[], "a").is_empty());
    }

    #[test]
    fn every_queue_has_exactly_one_owner() {
        for queues in 0..20 {
            for count in 1..8 {
                let members: Vec<_> = (0..count).map(|id| format!("m{id}")).collect();
                let members: Vec<_> = members.iter().map(String::as_str).collect();
                let shares: Vec<_> = members.iter().flat_map(|own_id| ids(queues, &members, own_id)).collect();
                assert_eq!(shares, (0..queues).collect::<Vec<_>>(), "{queues} over {count}");
            }
        }
    }
}
