//! Groups whose offset lies outside of their queue.

use crate::{
    cluster::{Cluster, random_name},
    inbox::Inbox,
    parcel::varied,
    send::send_from,
    wait::SOON,
};
use anyhow::Result;
use rocketmq_consumer::Filter;

pub(crate) async fn an_offset_beyond_the_end_is_corrected(cluster: &Cluster) -> Result<()> {
    for ordered in [false, true] {
        cluster.at(if ordered { "in order" } else { "concurrently" });
        let (topic, group, inbox) = (cluster.topic(1).await?, random_name("group"), Inbox::new());
        let (producer, client) = (cluster.producer().await?, cluster.client().await?);
        let of_topic = topic.clone();
        send_from(1, &producer, 10, move |index| varied(&of_topic, index)).await?;
        let start = async |inbox: &Inbox| {
            let builder = cluster.consumer(&group).subscribe(&topic, Filter::all());
            let builder = match ordered {
                true => builder.ordered_listener(inbox.listener()),
                false => builder.listener(inbox.listener()),
            };
            builder.start().await
        };
        // Brokers of 5.x take no offsets of a group that nobody has been in.
        let consumer = start(&Inbox::new()).await?;
        cluster.expect_recorded(&group, &topic, 10).await?;
        consumer.shutdown().await?;
        for queue in cluster.queues(&topic).await? {
            client.update_consumer_offset(&group.as_str().into(), &queue, 1000).await?;
        }
        cluster.expect_recorded(&group, &topic, 1000).await?;
        let consumer = start(&inbox).await?;
        // The end of the queue, where the broker puts the group.
        cluster.expect_recorded(&group, &topic, 10).await?;
        let of_topic = topic.clone();
        let sent = send_from(1, &producer, 20, move |index| varied(&of_topic, 100 + index)).await?;
        inbox.has_each_once(sent.keys(), SOON).await?;
        cluster.expect_recorded(&group, &topic, 30).await?;
        consumer.shutdown().await?;
        producer.shutdown().await?;
    }
    Ok(())
}
