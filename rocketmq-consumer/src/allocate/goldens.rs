//! Every strategy against what Java's classes answer: `tests/goldens/allocations.txt`.

use super::*;

const GOLDENS: &str = include_str!("../../tests/goldens/allocations.txt");

/// The room of both brokers and members stands before an `@`; without one they have none.
struct BeforeTheSign;

impl RoomResolver for BeforeTheSign {
    fn room_of_queue(&self, queue: &MessageQueue) -> Option<String> {
        self.room_of_member(&queue.broker_name)
    }

    fn room_of_member(&self, name: &str) -> Option<String> {
        name.split_once('@').map(|(room, _)| room.to_owned())
    }
}

fn strategy(name: &str, queues: &[MessageQueue]) -> Allocate {
    if let Some(inner) = name.strip_prefix("MACHINE_ROOM_NEARBY-") {
        let inner = if inner == "CONSISTENT_HASH" { "CONSISTENT_HASH 10" } else { inner };
        return Allocate::nearest_machine_room(strategy(inner, queues), BeforeTheSign);
    }
    match name.split_once(' ') {
        Some(("CONSISTENT_HASH", nodes)) => Allocate::consistent_hash(nodes.parse().unwrap()),
        None if name == "AVG" => Allocate::average(),
        None if name == "AVG_BY_CIRCLE" => Allocate::by_circle(),
        None if name == "CONFIG" => Allocate::fixed(queues.iter().step_by(2).cloned()),
        None if name == "MACHINE_ROOM" => Allocate::by_machine_room(["east", "north", ""]),
        _ => panic!("no such strategy: {name}"),
    }
}

fn share(strategy: &Allocate, own_id: &str, ids: &[String], queues: &[MessageQueue]) -> String {
    match strategy.allocate(&Members::new("group", own_id, ids), queues) {
        Ok(mut share) => {
            share.sort();
            let names = share.iter().map(|queue| format!("{}:{}", queue.broker_name, queue.queue_id));
            names.collect::<Vec<_>>().join(" ")
        }
        Err(_) => "error".to_owned(),
    }
}

#[test]
fn every_share_is_the_one_java_answers() {
    let mut names = BTreeSet::new();
    for line in GOLDENS.lines().skip(1) {
        let [name, brokers, members, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not a case: {line}")
        };
        let mut queues = Vec::new();
        for (broker, count) in brokers.split(' ').filter_map(|broker| broker.rsplit_once(':')) {
            queues.extend((0..count.parse().unwrap()).map(|id| MessageQueue::new("order-created", broker, id)));
        }
        queues.sort();
        let mut ids: Vec<_> = members.split(' ').map(str::to_owned).collect();
        sort_members(&mut ids);
        let strategy = strategy(name, &queues);
        assert!(name.starts_with(strategy.name()), "{name} is called {}", strategy.name());
        let everybody = ids.iter().map(String::as_str).chain(["stranger"]);
        let shares: Vec<_> = everybody.map(|id| share(&strategy, id, &ids, &queues)).collect();
        assert_eq!(shares.join(" | "), expected, "{line}");
        names.insert(name);
    }
    assert_eq!(names.len(), 11, "{names:?}");
}
