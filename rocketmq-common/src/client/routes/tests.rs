use super::*;
use crate::{
    protocol::{BrokerData, QueueData},
    tasks::ClientTasks,
};
use std::{future::Future, pin::pin, task::Poll};
use tokio::{runtime::Handle as Runtime, sync::Semaphore, time::timeout};

const SOON: Duration = Duration::from_secs(30);

/// A route by one broker that has a master at that port.
fn data(brokers: &[(&str, u16)]) -> TopicRouteData {
    let queue = |name: &str| QueueData {
        broker_name: name.into(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 7,
        topic_sys_flag: 0,
    };
    let broker = |name: &str, port| BrokerData {
        broker_name: name.into(),
        broker_addrs: [(MASTER_ID, format!("{name}:{port}")), (1, format!("{name}-replica:{port}"))].into(),
        ..BrokerData::default()
    };
    TopicRouteData {
        queue_datas: brokers.iter().map(|(name, _)| queue(name)).collect(),
        broker_datas: brokers.iter().map(|(name, port)| broker(name, *port)).collect(),
        ..TopicRouteData::default()
    }
}

fn enter(table: &RouteTable, topic: &str, brokers: &[(&str, u16)]) -> Arc<TopicRoute> {
    table.finish(&topic.into(), Ok(data(brokers)), Instant::now()).unwrap()
}

fn not_found(table: &RouteTable, topic: &str, now: Instant) {
    let missing = Error::TopicNotFound { topic: topic.into() };
    assert!(table.finish(&topic.into(), Err(missing), now).is_err());
}

fn master(table: &RouteTable, broker: &str) -> Option<String> {
    let route = table.of_broker(broker)?;
    Some(route.broker_addrs(broker)?.get(&MASTER_ID)?.to_string())
}

#[test]
fn a_brokers_addresses_are_those_of_the_newest_route_that_names_it() {
    let table = RouteTable::default();
    enter(&table, "t1", &[("a", 1), ("b", 1)]);
    enter(&table, "t2", &[("a", 2)]);
    assert_eq!(master(&table, "a").as_deref(), Some("a:2"));
    assert_eq!(master(&table, "b").as_deref(), Some("b:1"));
    enter(&table, "t2", &[("b", 2)]);
    assert_eq!(master(&table, "a").as_deref(), Some("a:1"), "the route that is left");
    assert_eq!(master(&table, "b").as_deref(), Some("b:2"));
    assert_eq!(table.addresses(false), ["a:1".into(), "b:2".into()].into());
    assert_eq!(table.addresses(true).len(), 4);
    enter(&table, "t1", &[("b", 3)]);
    assert_eq!(master(&table, "a"), None);
    assert_eq!(table.read().by_broker.len(), 1);
}

#[test]
fn a_provisional_route_ends_with_its_first_failure_and_wants_a_newer_template() {
    let (table, start) = (RouteTable::default(), Instant::now());
    let template = table.finish(&AUTO_CREATE_TOPIC.into(), Ok(data(&[("a", 1)])), start).unwrap();
    let provisional = table.assume(&"new".into(), &template, 2);
    assert_eq!(table.known("new").unwrap().generation(), provisional.generation());
    assert_eq!(table.failed_template(start + 2 * TEMPLATE_PAUSE), 0);
    table.expire(&provisional);
    assert!(table.known("new").is_none());
    assert_eq!(table.failed_template(start), 0, "the template has been looked up just now");
    assert_eq!(table.failed_template(start + TEMPLATE_PAUSE), template.generation());
    // A real route has come meanwhile: the late failure of the provisional one does not end it.
    let provisional = table.assume(&"new".into(), &template, 2);
    let real = enter(&table, "new", &[("a", 2)]);
    table.expire(&provisional);
    table.expire(&real);
    assert_eq!(table.known("new").unwrap().generation(), real.generation());
    assert_eq!(table.assume(&"new".into(), &template, 2).generation(), real.generation());
}

#[test]
fn a_provisional_route_tells_no_addresses() {
    let table = RouteTable::default();
    let template = enter(&table, AUTO_CREATE_TOPIC, &[("a", 1)]);
    enter(&table, "t", &[("a", 2)]);
    table.assume(&"new".into(), &template, 2);
    assert_eq!(master(&table, "a").as_deref(), Some("a:2"));
    enter(&table, "new", &[("a", 3)]);
    enter(&table, "new", &[("b", 3)]);
    assert_eq!(master(&table, "a").as_deref(), Some("a:2"));
}

#[test]
fn it_is_believed_for_a_moment_that_a_topic_does_not_exist() {
    let (table, now) = (RouteTable::default(), Instant::now());
    assert!(!table.is_missing("t", now));
    not_found(&table, "t", now);
    assert!(table.is_missing("t", now) && !table.is_missing("other", now));
    assert!(table.is_missing("t", now + MISSING_FOR / 2));
    assert!(!table.is_missing("t", now + MISSING_FOR));
    enter(&table, "t", &[("a", 1)]);
    assert!(!table.is_missing("t", now) && table.known("t").is_some());
}

#[test]
fn topics_that_do_not_exist_do_not_fill_the_memory() {
    let (table, start) = (RouteTable::default(), Instant::now());
    for number in 0..10_000_u32 {
        not_found(&table, &format!("t{number}"), start + MISSING_FOR / 10 * number);
    }
    assert!(table.look_ups().missing.since.len() <= LEAST_MISSING, "{}", table.look_ups().missing.since.len());
    assert!(table.topics_in_use().is_empty());
}

#[tokio::test]
async fn a_caller_that_is_not_polled_holds_up_no_other() {
    let (table, gate) = (Arc::new(RouteTable::default()), Arc::new(Semaphore::new(0)));
    let (tasks, topic) = (ClientTasks::new(Runtime::current()), Arc::<str>::from("t"));
    let start = || {
        let (table, gate, topic) = (table.clone(), gate.clone(), topic.clone());
        SharedWork::start(&tasks, async move {
            gate.acquire().await.unwrap().forget();
            table.finish(&topic, Ok(data(&[("a", 1)])), Instant::now())
        })
    };
    let look_up = || match table.newer_than(&topic, 0, start) {
        Found::LookUp(look_up) => look_up.outcome(),
        other => panic!("{other:?}"),
    };
    let mut kept = pin!(look_up());
    let polled = std::future::poll_fn(|context| Poll::Ready(kept.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    let other = look_up();
    gate.add_permits(1);
    let other = timeout(SOON, other).await.expect("held up").unwrap().unwrap();
    assert_eq!(kept.await.unwrap().unwrap().generation(), other.generation(), "one look-up for both");
    let known = table.newer_than(&topic, 0, || panic!("a second look-up"));
    assert!(matches!(known, Found::Known(_)));
}

#[tokio::test]
async fn a_look_up_that_was_lost_is_begun_again() {
    let (table, topic) = (RouteTable::default(), Arc::<str>::from("t"));
    let tasks = ClientTasks::new(Runtime::current());
    let lost = || SharedWork::start(&tasks, std::future::pending());
    let Found::LookUp(look_up) = table.newer_than(&topic, 0, lost) else { panic!("known") };
    tasks.stop();
    assert!(look_up.outcome().await.is_none());
    let tasks = ClientTasks::new(Runtime::current());
    let failing = || SharedWork::start(&tasks, std::future::ready(Err(Error::ShutDown)));
    let Found::LookUp(look_up) = table.newer_than(&topic, 0, failing) else { panic!("known") };
    assert!(matches!(look_up.outcome().await, Some(Err(Error::ShutDown))));
}
