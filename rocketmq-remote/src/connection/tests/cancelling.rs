//! Calls that are dropped.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_table_and_its_answer_is_dropped() {
    let (connection, mut peer) = pair();
    let reply = queue(&connection, 1).await;
    assert_eq!(connection.in_flight(), 1);
    drop(reply);
    assert_eq!(connection.in_flight(), 0);
    peer.serve_one().await;
    assert_eq!(tokio::join!(ask(&connection, 2), peer.serve_one()).0.unwrap(), 2);
    assert_at_rest(&connection);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_is_written_leaves_no_half_frame() {
    let (connection, mut peer) = pair_with(ConnectionOptions::default(), Processors::new(), 16);
    let body = Bytes::from(vec![1; 100_000]);
    let call = connection.call(&Ask { number: 1 }, body.clone(), within(SECOND));
    assert!(timeout(SECOND / 10, call).await.is_err());
    let next = queue(&connection, 2).await;
    assert_eq!(peer.serve_one().await.body, body);
    assert_eq!(number_of(&peer.serve_one().await), 2);
    assert_eq!(next.await.unwrap().header.number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_for_room_sends_nothing() {
    let options = ConnectionOptions { max_calls: 1, ..Default::default() };
    let (connection, mut peer) = pair_with(options, Processors::new(), 64 * 1024);
    let first = queue(&connection, 1).await;
    assert!(timeout(SECOND, ask(&connection, 2)).await.is_err());
    assert_eq!(number_of(&peer.serve_one().await), 1);
    first.await.unwrap();
    assert_eq!(tokio::join!(ask(&connection, 3), peer.serve_one()).0.unwrap(), 3);
    assert_at_rest(&connection);
}
