//! Servers that start, stop and vanish; and peers that send nonsense.

mod common;

use common::*;
use rocketmq_common::{
    message::MessageQueue,
    protocol::{GetRoute, LenientJson, UpdateConsumerOffset},
};
use rocketmq_dev_broker::{DevCluster, Error, RequestCode};
use rocketmq_remote::{Connection, ConnectionOptions, Processors, ResponseCode};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

#[tokio::test]
async fn a_cluster_starts_in_no_time() {
    let begun = Instant::now();
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        let cluster = DevCluster::start().await.unwrap();
        dial(&cluster.name_server()).await;
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(10), "{fastest:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_stopped_broker_is_forgotten_and_remembers() {
    let cluster = DevCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 2);
    let name_server = dial(&cluster.name_server()).await;
    let brokers = async || {
        let request = GetRoute { topic: "t".into(), accept_standard_json_only: None };
        let LenientJson(route) = name_server.call(&request, (), soon()).await.unwrap();
        route.broker_datas.into_iter().map(|broker| broker.broker_name).collect::<Vec<_>>()
    };
    assert_eq!(brokers().await, ["broker-a", "broker-b"]);
    let connection = broker(&cluster).await;
    let addr = cluster.broker_addr(BROKER).unwrap();
    send_tagged(&connection, "t", "a").await;
    let update = UpdateConsumerOffset {
        consumer_group: "g".into(),
        topic: "t".into(),
        queue_id: 0,
        commit_offset: 1,
        broker_name: None,
    };
    connection.call(&update, (), soon()).await.unwrap();
    heartbeat(&connection, "c", vec![consumer("g", &[("t", "*", 1)])]).await;

    cluster.stop_broker(BROKER).await;
    timeout(Duration::from_secs(5), connection.ended()).await.unwrap();
    assert_eq!(brokers().await, ["broker-b"]);
    assert!(Connection::dial(&addr, ConnectionOptions::default(), Processors::new()).await.is_err());
    assert!(cluster.consumer_ids("g").is_empty());
    cluster.stop_broker(BROKER).await;

    cluster.start_broker(BROKER).await.unwrap();
    cluster.start_broker(BROKER).await.unwrap();
    assert_eq!(brokers().await, ["broker-a", "broker-b"]);
    assert_eq!(cluster.broker_addr(BROKER), Some(addr));
    let connection = broker(&cluster).await;
    assert_eq!(tags("t", &call_pull(&connection, &pull("g", "t", 0)).await.unwrap()), ["a"]);
    assert_eq!(cluster.committed_offset("g", &MessageQueue::new("t", BROKER, 0)), Some(1));
    assert!(matches!(cluster.start_broker("broker-x").await, Err(Error::NoBroker { .. })));
}

#[tokio::test]
async fn a_name_server_comes_back_at_its_port() {
    let cluster = DevCluster::start().await.unwrap();
    let addr = cluster.name_server();
    let connection = dial(&addr).await;
    cluster.stop_name_server().await;
    timeout(Duration::from_secs(5), connection.ended()).await.unwrap();
    assert!(Connection::dial(&addr, ConnectionOptions::default(), Processors::new()).await.is_err());
    cluster.start_name_server().await.unwrap();
    dial(&addr).await;
}

#[tokio::test]
async fn dropping_a_cluster_ends_its_connections() {
    let cluster = DevCluster::start().await.unwrap();
    cluster.create_topic("t", 1);
    let connection = broker(&cluster).await;
    let waiting = start_pull(&connection, &held(pull("g", "t", 0))).await;
    drop(cluster);
    assert!(timeout(Duration::from_secs(5), waiting).await.unwrap().is_err());
    timeout(Duration::from_secs(5), connection.ended()).await.unwrap();
}

#[tokio::test]
async fn a_cluster_shuts_down_with_pulls_held_and_answers_delayed() {
    let cluster = DevCluster::start().await.unwrap();
    cluster.create_topic("t", 1);
    let connection = broker(&cluster).await;
    let _held = start_pull(&connection, &held(pull("g", "t", 0))).await;
    cluster.on(rocketmq_dev_broker::RequestCode::SEND_MESSAGE_V2).delay(Duration::from_secs(60));
    let _delayed = connection.call_async(&message("t", 0, &[]), "x".into(), soon()).await.unwrap();
    while cluster.received(rocketmq_dev_broker::RequestCode::SEND_MESSAGE_V2) == 0 {
        tokio::task::yield_now().await;
    }
    timeout(Duration::from_secs(5), cluster.shutdown()).await.unwrap();
}

#[tokio::test]
async fn nonsense_closes_its_own_connection_only() {
    let cluster = DevCluster::start().await.unwrap();
    let connection = broker(&cluster).await;
    let heads: [&[u8]; 5] = [
        b"\0\0\0\x10GET / HTTP/1.1\r\n",
        b"\xff\xff\xff\xff\0\0\0\0",
        b"\x7f\xff\xff\xff\0\0\0\0",
        b"\0\0\0\x06\0\0\0\x02{}",
        b"\0\0\0\x04\0\0\0\0",
    ];
    for head in heads {
        let mut stream = TcpStream::connect(cluster.broker_addr(BROKER).unwrap()).await.unwrap();
        stream.write_all(head).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap();
        assert!(ended.is_err() || rest.is_empty(), "{head:?}");
    }
    send_tagged(&connection, "t", "a").await;
}

#[tokio::test]
async fn a_request_with_nonsense_in_it_is_refused() {
    let cluster = DevCluster::start().await.unwrap();
    let mut stream = TcpStream::connect(cluster.broker_addr(BROKER).unwrap()).await.unwrap();
    for code in [10, 11, 14, 15, 29, 30, 31, 32, 33, 34, 35, 36, 38, 41, 42, 46, 310, 320, 361] {
        let head = format!(
            r#"{{"code":{code},"opaque":{code},"extFields":{{"queueId":"x","offset":"99999999999999999999","b":"t"}}}}"#
        );
        let mut frame = Vec::new();
        frame.extend_from_slice(&u32::try_from(4 + head.len() + 2).unwrap().to_be_bytes());
        frame.extend_from_slice(&u32::try_from(head.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(head.as_bytes());
        frame.extend_from_slice(b"{]");
        stream.write_all(&frame).await.unwrap();
        let length = timeout(Duration::from_secs(5), stream.read_u32()).await.unwrap().unwrap();
        let mut answer = vec![0; length.try_into().unwrap()];
        stream.read_exact(&mut answer).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer[4..]).unwrap();
        assert_eq!((answer["code"].as_i64(), answer["opaque"].as_i64()), (Some(1), Some(code)), "{answer}");
    }
}

#[tokio::test]
async fn topics_can_be_taken_away() {
    let cluster = DevCluster::start().await.unwrap();
    cluster.create_topic("t", 1);
    let connection = broker(&cluster).await;
    send_tagged(&connection, "t", "a").await;
    cluster.remove_topic("t", BROKER);
    assert!(cluster.messages("t").is_empty());
    let outcome = call_pull(&connection, &pull("g", "t", 0)).await;
    assert_eq!(refused(outcome), ResponseCode::TOPIC_NOT_EXIST);
}

#[tokio::test]
async fn the_vip_channel_takes_sends_and_no_pulls() {
    let cluster = DevCluster::start().await.unwrap();
    cluster.create_topic("t", 1);
    let own: std::net::SocketAddr = cluster.broker_addr(BROKER).unwrap().parse().unwrap();
    let addr = format!("127.0.0.1:{}", own.port() - 2);
    let vip = dial(&addr).await;
    send(&vip, &message("t", 0, &[]), "body").await.unwrap();
    assert_eq!(cluster.received_by_vip_channel(RequestCode::SEND_MESSAGE_V2), 1);
    assert_eq!(cluster.last_field(RequestCode::SEND_MESSAGE_V2, "b").as_deref(), Some("t"));
    let pulled = call_pull(&vip, &pull("g", "t", 0)).await;
    assert_eq!(refused(pulled), ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    cluster.stop_broker(BROKER).await;
    timeout(Duration::from_secs(5), vip.ended()).await.unwrap();
    cluster.start_broker(BROKER).await.unwrap();
    send(&dial(&addr).await, &message("t", 0, &[]), "body").await.unwrap();
    assert_eq!(cluster.messages("t").len(), 2);
}
