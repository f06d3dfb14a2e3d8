//! The messages that a group has given up.

use rocketmq_common::message::names::dlq_topic;

/// The topic that holds the dead letters of a consumer group: the messages that failed too often, or for good. It exists
/// once there is one, and nobody consumes it by itself. A [`PullConsumer`](crate::PullConsumer) or any other of a group
/// of its own does, and learns where each comes from. The example `drain_dead_letters` sends them to their topics again.
///
/// `reconsume_times` counts the failures that brokers know of: one, of a message that an ordered listener has given up,
/// however often it was called.
///
/// ```no_run
/// # async fn run() -> Result<(), rocketmq_consumer::Error> {
/// use rocketmq_consumer::{Filter, PullConsumer, dead_letter_topic};
/// use std::time::Duration;
///
/// let puller = PullConsumer::builder("billing-drain").name_servers(["127.0.0.1:9876"])
///     .subscribe(dead_letter_topic("billing"), Filter::all()).start().await?;
/// for letter in puller.poll(Duration::from_secs(1)).await? {
///     let (topic, record) = (letter.origin_topic(), letter.origin_message_id());
///     println!("{} of {topic:?} ({record:?}) failed {} times", letter.message_id(), letter.reconsume_times());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Protocol
/// `%DLQ%<group>`, with one queue on each broker that has had a dead letter. Witness: scenario
/// `dead_letters::tell_where_they_come_from`.
pub fn dead_letter_topic(group: &str) -> String {
    dlq_topic(group)
}
