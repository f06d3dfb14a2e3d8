use super::*;

fn shares(strategy: &Allocate, queues: i32, members: &[&str]) -> Vec<Vec<i32>> {
    let queues: Vec<_> = (0..queues).map(|id| MessageQueue::new("T", "b", id)).collect();
    let ids: Vec<_> = members.iter().map(|id| (*id).to_owned()).collect();
    let share = |id: &String| {
        let share = strategy.allocate(&Members::new("g", id, &ids), &queues).unwrap();
        share.iter().map(|queue| queue.queue_id).collect()
    };
    ids.iter().map(share).collect()
}

#[test]
fn eight_queues_over_three_members_as_java_does_it() {
    let members = ["c1", "c2", "c3"];
    assert_eq!(shares(&Allocate::average(), 8, &members), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
    assert_eq!(shares(&Allocate::by_circle(), 8, &members), [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
    assert_eq!(shares(&Allocate::consistent_hash(10), 8, &members), [vec![2], vec![0, 3, 4, 7], vec![1, 5, 6]]);
}

#[test]
fn every_queue_has_exactly_one_owner() {
    for strategy in [Allocate::average(), Allocate::by_circle(), Allocate::consistent_hash(10)] {
        for queues in 0..20 {
            for count in 1..8 {
                let members: Vec<_> = (0..count).map(|id| format!("m{id}")).collect();
                let members: Vec<_> = members.iter().map(String::as_str).collect();
                let mut owned = shares(&strategy, queues, &members).concat();
                owned.sort_unstable();
                assert_eq!(owned, (0..queues).collect::<Vec<_>>(), "{strategy:?}: {queues} over {count}");
            }
        }
    }
}

#[test]
fn the_ring_is_that_of_the_names_on_the_wire() {
    let ids = ["c1", "c2", "c3"].map(str::to_owned);
    let queues = |topic: &str| -> Vec<_> { (0..32).map(|id| MessageQueue::new(topic, "b", id)).collect() };
    let numbers = |members: Members<'_>, topic: &str| -> Vec<_> {
        let share = Allocate::consistent_hash(10).allocate(&members, &queues(topic)).unwrap();
        share.iter().map(|queue| queue.queue_id).collect()
    };
    let members = Members::new("g", "c2", &ids);
    let in_namespace = numbers(members.with_wire_topic("NS%T"), "T");
    assert_eq!(in_namespace, numbers(members, "NS%T"));
    assert_ne!(in_namespace, numbers(members, "T"));
}

#[test]
fn what_is_fixed_is_told_apart_by_topic_and_leaves_the_retry_topic_shared() {
    let queue = |topic: &str, id| MessageQueue::new(topic, "b", id);
    let strategy = Allocate::fixed([queue("T", 1), queue("U", 0), queue("T", 9)]);
    let ids = ["c1", "c2"].map(str::to_owned);
    let members = Members::new("g", "c2", &ids);
    let share = |queues: &[MessageQueue]| strategy.allocate(&members, queues).unwrap();
    assert_eq!(share(&[queue("T", 0), queue("T", 1)]), [queue("T", 1), queue("T", 9)]);
    assert_eq!(share(&[queue("U", 0)]), [queue("U", 0)]);
    assert_eq!(share(&[queue("V", 0)]), []);
    let retry = [queue("%RETRY%g", 0), queue("%RETRY%g", 1)];
    assert_eq!(share(&retry), [queue("%RETRY%g", 1)]);
}

#[test]
fn members_sort_as_strings_do_in_java() {
    let mut ids = ["🚀", "ｃ", "c10", "c9", "c9", "C"].map(str::to_owned).to_vec();
    sort_members(&mut ids);
    assert_eq!(ids, ["C", "c10", "c9", "c9", "🚀", "ｃ"]);
}

#[test]
fn the_second_place_of_a_member_is_taken_by_nobody() {
    let members = ["c1", "c2", "c2", "c3"];
    let once = |shares: Vec<Vec<i32>>| [shares[0].clone(), shares[1].clone(), shares[3].clone()];
    assert_eq!(once(shares(&Allocate::average(), 8, &members)), [vec![0, 1], vec![2, 3], vec![6, 7]]);
    assert_eq!(once(shares(&Allocate::by_circle(), 8, &members)), [vec![0, 4], vec![1, 5], vec![3, 7]]);
}
