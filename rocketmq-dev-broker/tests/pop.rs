//! Pops, and what becomes of what they took.

mod common;

use common::*;
use rocketmq_common::{
    MessageQueue,
    protocol::{PopMessage, Popped},
};
use rocketmq_dev_broker::DevCluster;

fn pop_one() -> PopMessage {
    PopMessage {
        consumer_group: "g".into(),
        topic: "t".into(),
        queue_id: 0,
        max_messages: 1,
        invisible_time_ms: 60_000,
        poll_time_ms: 0,
        born_time_ms: 0,
        init_mode: 0,
        expression_type: Some("TAG".into()),
        expression: Some("*".into()),
        order: Some(false),
        attempt_id: None,
        broker_name: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_pops_at_once_the_one_that_came_further_is_recorded() {
    let cluster = DevCluster::start().await.unwrap();
    cluster.create_topic("t", 1);
    let (one, other) = (broker(&cluster).await, broker(&cluster).await);
    let queue = MessageQueue::new("t", BROKER, 0);
    for round in 1..=500 {
        for _ in 0..2 {
            send_tagged(&one, "t", "a").await;
        }
        let request = pop_one();
        let (first, second) = tokio::join!(one.call(&request, (), soon()), other.call(&request, (), soon()));
        assert!([first, second].iter().all(|popped| matches!(popped, Ok(Popped::Found(..)))));
        assert_eq!(cluster.committed_offset("g", &queue), Some(2 * round));
    }
}
