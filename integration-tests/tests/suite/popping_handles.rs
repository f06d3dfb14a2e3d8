//! Receipt handles as text.

use crate::{
    cluster::{Cluster, random_name},
    popping::{BRIEF, LONG, config, ids, send, start, take, until},
};
use anyhow::{Result, ensure};
use rocketmq_consumer::{ClientError, Error, PoppedMessage};

pub(crate) async fn a_handle_kept_as_text_outlives_its_consumer(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let sent = send(&producer, &topic, 3).await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    let taken = take(&popper, 3, 2 * BRIEF).await?;
    let handles: Vec<String> = taken.iter().map(PoppedMessage::receipt_handle).collect();
    popper.shutdown().await?;
    let after_the_end = taken[0].ack().await;
    ensure!(matches!(after_the_end, Err(Error::Client(_))), "an ack after the end came to {after_the_end:?}");

    let popper = start(cluster, &group, &topic, config()).await?;
    popper.ack_handle(&handles[0]).await?;
    let extended = popper.extend_handle(&handles[1], 2 * BRIEF).await?;
    popper.ack_handle(&extended).await?;
    let again = until(&popper, &sent[2]).await?;
    ensure!(again.len() == 1, "{:?} came as well", ids(&again));
    cluster.at("a handle that is too old");
    let late = popper.ack_handle(&handles[2]).await;
    ensure!(matches!(late, Err(Error::Expired | Error::HandleRefused { .. })), "came to {late:?}");
    let late = popper.extend_handle(&handles[2], LONG).await;
    ensure!(matches!(late, Err(Error::Expired)), "came to {late:?}");
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}

pub(crate) async fn handles_that_are_worth_nothing_are_typed_errors(cluster: &Cluster) -> Result<()> {
    let (topic, group) = (cluster.topic(1).await?, random_name("group"));
    let producer = cluster.producer().await?;
    let popper = start(cluster, &group, &topic, config()).await?;
    send(&producer, &topic, 2).await?;
    let mut taken = take(&popper, 2, BRIEF).await?;
    let handle = taken[0].receipt_handle();
    for odd in ["", "hello", "1 2 3 4 5 6 7 8 9", &format!("{handle} more"), &handle.replace(&topic, "")] {
        let refused = popper.ack_handle(odd).await;
        ensure!(matches!(refused, Err(Error::Handle(_))), "{odd:?} came to {refused:?}");
        let refused = popper.extend_handle(odd, BRIEF).await;
        ensure!(matches!(refused, Err(Error::Handle(_))), "{odd:?} came to {refused:?}");
    }
    let elsewhere = handle.replace(" broker-a ", " broker-z ");
    let refused = popper.ack_handle(&elsewhere).await;
    let unknown = matches!(refused, Err(Error::Client(ClientError::BrokerNotFound { .. })));
    ensure!(unknown, "a handle of another cluster came to {refused:?}");
    let no_such_queue = handle.replace(" broker-a 0 ", " broker-a 77 ");
    let refused = popper.ack_handle(&no_such_queue).await;
    ensure!(matches!(refused, Err(Error::HandleRefused { .. })), "a handle of no queue came to {refused:?}");
    let far = format!(" 4711 {topic}");
    let no_such_message = handle.replace(&format!(" {} {topic}", taken[0].queue_offset()), &far);
    for refused in
        [popper.ack_handle(&no_such_message).await, popper.extend_handle(&no_such_message, BRIEF).await.map(drop)]
    {
        ensure!(matches!(refused, Err(Error::HandleRefused { .. })), "a handle of no message came to {refused:?}");
    }
    cluster.at("the time is over");
    let again = take(&popper, 2, LONG).await?;
    for message in &mut taken {
        let late = message.ack().await;
        ensure!(matches!(late, Err(Error::Expired)), "a late ack came to {late:?}");
        let late = message.extend(LONG).await;
        ensure!(matches!(late, Err(Error::Expired)), "a late extension came to {late:?}");
        ensure!(message.invisible_for().is_zero(), "still hidden for {:?}", message.invisible_for());
    }
    let late = popper.ack_all(&taken).await;
    ensure!(matches!(late, Err(Error::Expired)), "a late batch came to {late:?}");
    popper.ack_all(&again).await?;
    popper.shutdown().await?;
    Ok(producer.shutdown().await?)
}
