//! Every declared request against frames of real peers: what a Java client asked reads into our request and is written
//! back the same, and what real servers answered reads into our reply.

use super::*;
use bytes::BytesMut;
use rocketmq_remote::{
    Answer, Body, Command, CommandCodec, Field, Header, Json, Reply, Request, RequestCode, ResponseCode,
};
use std::{collections::BTreeMap, path::Path};
use tokio_util::codec::Decoder;

/// The frame of a golden, by the name of its file.
fn golden(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/protocol").join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.lines().skip(1).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let mut frame: BytesMut = (0..digits.len() / 2).map(|index| byte(index * 2)).collect();
    CommandCodec::default().decode(&mut frame).unwrap().unwrap()
}

fn fields(command: &Command) -> BTreeMap<String, String> {
    command.fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Reads a request and writes it again: the same code, the same fields but for those we do not declare, the same body.
fn asked<R: Request>(name: &str, undeclared: &[&str]) -> (R, R::Body) {
    let command = golden(name);
    assert_eq!(command.request_code(), R::CODE, "{name}");
    assert!(!command.is_response(), "{name}");
    let request = R::read(&command.fields).unwrap();
    let mut expected = fields(&command);
    expected.retain(|field, _| !undeclared.contains(&field.as_str()));
    assert_eq!(fields(&Command::request(&request)), expected, "{name}");
    (request, R::Body::from_bytes(command.body).unwrap())
}

/// Reads a reply, if its code is one that the request expects.
fn answered<R: Request>(name: &str) -> R::Reply {
    let command = golden(name);
    assert!(command.is_response(), "{name}");
    assert!(R::is_ok(command.response_code()), "{name}: {}", command.response_code());
    R::Reply::from_command(command).unwrap()
}

#[test]
fn sends_read_and_write_as_java_writes_them() {
    for name in ["topic_550", "unicode_550", "binary_bin_550", "unicode_497", "binary_bin_497"] {
        let (request, body) = asked::<SendMessage>(&format!("000310_send_v2_request_{name}"), &[]);
        assert!(!body.is_empty());
        assert_eq!(request.default_topic.as_ref(), "TBW102");
        assert!(request.properties.unwrap().contains("UNIQ_KEY"));
    }
    for name in ["topic_550", "unicode_550", "timer_550", "unicode_497", "binary_bin_497"] {
        let Answer { code, header, .. } = answered::<SendMessage>(&format!("000310_send_v2_reply_{name}"));
        assert_eq!(code, ResponseCode::SUCCESS);
        assert!(header.offset_id.is_some_and(|id| id.len() == 32));
        assert_eq!(header.recall_handle.is_some(), name == "timer_550");
    }
}

#[test]
fn batches_read_and_write_as_java_writes_them() {
    for version in ["550", "497"] {
        let (request, body) = asked::<SendBatchMessage>(&format!("000320_send_batch_request_batch_{version}"), &[]);
        assert_eq!(request.0.batch, Some(true));
        let items = crate::message::decode_batch(body).collect::<Result<Vec<_>, _>>().unwrap();
        let reply = answered::<SendBatchMessage>(&format!("000320_send_batch_reply_batch_{version}"));
        assert_eq!(reply.header.offset_id.unwrap().split(',').count(), items.len());
    }
}

#[test]
fn replies_read_and_write_as_java_writes_them() {
    let (request, body) = asked::<SendReply>("000325_send_reply_v2_request_550", &[]);
    assert_eq!((&*request.0.topic, body.len()), ("DefaultCluster_REPLY_TOPIC", 9));
    assert!(answered::<SendReply>("000325_send_reply_v2_reply_550").header.offset_id.is_some());
    let (pushed, body) = asked::<PushReply>("000326_push_reply_request_550", &[]);
    assert_eq!((pushed.store_host.as_deref(), body.len()), (Some("127.0.0.1:10911"), 9));
    answered::<PushReply>("000326_push_reply_reply_550");
    for version in ["550", "497"] {
        let (request, _) = asked::<SendMessage>(&format!("000310_send_v2_request_req_{version}"), &[]);
        let properties = request.properties.unwrap();
        for name in ["CORRELATION_ID", "REPLY_TO_CLIENT", "TTL"] {
            assert!(crate::message::properties::lookup(&properties, name).is_some(), "{name}: {properties}");
        }
    }
}

#[test]
fn pulls_read_and_write_as_java_writes_them() {
    for name in ["topic_sysflag3_550", "lz4_sysflag3_550", "binary_bin_sysflag2_550", "lz4_sysflag3_497"] {
        let (request, ()) = asked::<PullMessage>(&format!("000011_pull_request_{name}"), &[]);
        assert_eq!(request.max_messages, 32);
        assert_eq!(request.sys_flag & PullSysFlag::SUSPEND, PullSysFlag::SUSPEND);
    }
    let reply = answered::<PullMessage>("000011_pull_reply_code19_topic_550");
    assert_eq!(reply.code, ResponseCode::PULL_NOT_FOUND);
    assert_eq!((reply.header.next_begin_offset, reply.header.max_offset), (13, 13));
    let reply = answered::<PullMessage>("000011_pull_reply_binary_bin_497");
    assert_eq!((reply.code, reply.body.is_empty()), (ResponseCode::SUCCESS, false));
}

#[test]
fn pops_and_acks_read_and_write_as_java_writes_them() {
    let (request, ()) = asked::<PopMessage>("200050_pop_request_topic_550", &[]);
    assert_eq!((request.queue_id, request.max_messages, request.poll_time_ms), (-1, 32, 15_000));
    let Popped::Found(head, body) = answered::<PopMessage>("200050_pop_reply_topic_550") else { panic!("nothing") };
    assert_eq!(head.start_offsets.as_deref(), Some("0 0 13;0 1 19"));
    assert_eq!((head.rest, body.len()), (Some(0), 5618));
    let (request, ()) = asked::<AckMessage>("200051_ack_request_550", &[]);
    assert_eq!(request.extra_info, "12 1795380441916 60000 0 0 broker-a 3 17");
    let handle: crate::pop::ReceiptHandle = request.extra_info.parse().unwrap();
    assert_eq!((handle.queue_id, handle.offset), (request.queue_id, request.offset));
    answered::<AckMessage>("200051_ack_reply_550");
}

#[test]
fn offsets_read_and_write_as_java_writes_them() {
    for name in ["request_550", "request_binary_550", "request_497", "request_binary_497"] {
        asked::<QueryConsumerOffset>(&format!("000014_query_offset_{name}"), &[]);
    }
    assert_eq!(answered::<QueryConsumerOffset>("000014_query_offset_reply_code22_550"), GroupOffset(None));
    for name in ["reply_550", "reply_497", "reply_binary_497"] {
        assert!(answered::<QueryConsumerOffset>(&format!("000014_query_offset_{name}")).0.is_some());
    }
    for name in ["oneway_550", "oneway_binary_550", "oneway_497", "oneway_binary_497"] {
        asked::<UpdateConsumerOffset>(&format!("000015_update_offset_{name}"), &[]);
    }
    asked::<GetMaxOffset>("000030_max_offset_request_550", &["committed"]);
    answered::<GetMaxOffset>("000030_max_offset_reply_550");
}

#[test]
fn heartbeats_read_and_write_as_java_writes_them() {
    let (_, Json(data)) = asked::<Heartbeat>("000034_heartbeat_request_550", &[]);
    let java: serde_json::Value = serde_json::from_slice(&golden("000034_heartbeat_request_550").body).unwrap();
    assert_eq!(serde_json::to_value(&data).unwrap(), java);
    answered::<Heartbeat>("000034_heartbeat_reply_550");
    for version in ["550", "497"] {
        asked::<Heartbeat>(&format!("000034_heartbeat_request_{version}"), &[]);
        asked::<UnregisterClient>(&format!("000035_unregister_request_{version}"), &[]);
        answered::<UnregisterClient>(&format!("000035_unregister_reply_{version}"));
    }
}

#[test]
fn groups_read_and_write_as_java_writes_them() {
    asked::<SendBack>("000036_send_back_request_550", &[]);
    answered::<SendBack>("000036_send_back_reply_550");
    for version in ["550", "497"] {
        asked::<GetConsumerList>(&format!("000038_consumer_list_request_{version}"), &["bname"]);
        let Json(members) = answered::<GetConsumerList>(&format!("000038_consumer_list_reply_{version}"));
        assert_eq!(members.consumer_id_list.len(), 1);
        asked::<NotifyConsumerIdsChanged>(&format!("000040_consumer_ids_changed_oneway_{version}"), &[]);
    }
}

#[test]
fn locks_read_and_write_as_java_writes_them() {
    for version in ["550", "497"] {
        let (_, Json(asked_for)) = asked::<LockQueues>(&format!("000041_lock_queues_request_{version}"), &[]);
        let Json(locked) = answered::<LockQueues>(&format!("000041_lock_queues_reply_{version}"));
        assert_eq!(locked.queues, asked_for.mq_set);
        let (_, Json(given_up)) = asked::<UnlockQueues>(&format!("000042_unlock_queues_request_{version}"), &[]);
        assert_eq!(given_up.mq_set.len(), 4);
        answered::<UnlockQueues>(&format!("000042_unlock_queues_reply_{version}"));
    }
    let java: serde_json::Value = serde_json::from_slice(&golden("000041_lock_queues_request_550").body).unwrap();
    let (_, Json(ours)) = asked::<LockQueues>("000041_lock_queues_request_550", &[]);
    assert_eq!(serde_json::to_value(ours).unwrap(), java);
}

#[test]
fn assignments_read_and_write_as_java_writes_them() {
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&golden(name).body).unwrap() };
    let (_, Json(member)) = asked::<QueryAssignment>("000400_query_assignment_request_550", &[]);
    assert_eq!((&*member.strategy_name, &*member.topic), ("AVG", "m_topic"));
    assert_eq!(serde_json::to_value(member).unwrap(), json("000400_query_assignment_request_550"));
    let Json(assignments) = answered::<QueryAssignment>("000400_query_assignment_reply_550");
    assert_eq!(serde_json::to_value(&assignments).unwrap(), json("000400_query_assignment_reply_550"));
    let queues = assignments.queues.unwrap();
    assert_eq!((queues.len(), queues[0].mode, queues[0].message_queue.queue_id), (1, RequestMode::Pull, 0));
    let (_, Json(mode)) = asked::<SetRequestMode>("000401_set_request_mode_request_550", &[]);
    assert_eq!((mode.mode, mode.pop_share_queue_num), (RequestMode::Pop, 2));
    assert_eq!(serde_json::to_value(mode).unwrap(), json("000401_set_request_mode_request_550"));
    answered::<SetRequestMode>("000401_set_request_mode_reply_550");
}

#[test]
fn assignments_of_a_broker_that_cannot_tell_or_knows_more_modes_are_read() {
    let read = |json: &str| serde_json::from_str::<Assignments>(json).unwrap().queues;
    assert_eq!(read("{}"), None);
    assert_eq!(read(r#"{"messageQueueAssignments":null}"#), None);
    assert_eq!(read(r#"{"messageQueueAssignments":[]}"#), Some(Vec::new()));
    let queue = r#"{"messageQueue":{"brokerName":"b","queueId":-1,"topic":"T"},"mode":"PEEK","attachments":{"a":"b"}}"#;
    let queues = read(&format!(r#"{{"messageQueueAssignments":[{queue}]}}"#)).unwrap();
    assert_eq!((queues[0].mode, queues[0].message_queue.queue_id), (RequestMode::Other, -1));
}

#[test]
fn checks_of_a_subscription_read_and_write_as_java_writes_them() {
    for version in ["550", "497"] {
        let name = format!("000046_check_client_config_request_{version}");
        let (_, Json(ours)) = asked::<CheckClientConfig>(&name, &[]);
        assert_eq!(ours.subscription_data.expression_type, ExpressionType::Sql92);
        let java: serde_json::Value = serde_json::from_slice(&golden(&name).body).unwrap();
        assert_eq!(serde_json::to_value(ours).unwrap(), java);
        answered::<CheckClientConfig>(&format!("000046_check_client_config_reply_{version}"));
    }
}

#[test]
fn what_operators_ask_reads_and_writes_as_java_writes_it() {
    let (request, ()) = asked::<GetRunningInfo>("000307_running_info_request_550", &[]);
    assert_eq!((&*request.consumer_group, request.with_stacks), ("m_fail", Some(false)));
    let info = answered::<GetRunningInfo>("000307_running_info_reply_550");
    assert_eq!(info.mq_table.0.len(), 5);
    let (request, ()) = asked::<ResetOffset>("000222_reset_offset_request_550", &[]);
    assert_eq!((&*request.topic, request.timestamp_ms, request.queue_id), ("m_topic", -1, Some(-1)));
    assert_eq!(answered::<ResetOffset>("000222_reset_offset_reply_550").offset_table.0.len(), 4);
}

#[test]
fn routes_read_and_write_as_java_writes_them() {
    for name in ["request_550", "request_binary_550", "request_497", "request_binary_497"] {
        asked::<GetRoute>(&format!("000105_get_route_{name}"), &[]);
    }
    for name in ["reply_550", "reply_497", "reply_binary_497"] {
        let LenientJson(data) = answered::<GetRoute>(&format!("000105_get_route_{name}"));
        let route = crate::TopicRoute::new("T".into(), 1, data);
        assert_eq!((route.write_queues().len(), route.read_queues().len()), (8, 8));
        assert!(route.broker_addrs("broker-a").unwrap().contains_key(&MASTER_ID));
    }
    for version in ["550", "497"] {
        let refusal = golden(&format!("000105_get_route_reply_code17_{version}"));
        assert_eq!(refusal.response_code(), ResponseCode::TOPIC_NOT_EXIST);
    }
}

#[test]
fn a_request_without_what_it_needs_is_refused_by_name() {
    let mut command = Command::request(&GetConsumerList { consumer_group: "g".into() });
    command.fields = rocketmq_remote::ExtFields::default();
    let error = GetConsumerList::read(&command.fields).unwrap_err();
    assert_eq!(error, <String as Field>::get("consumerGroup", None).unwrap_err());
    assert_eq!(command.request_code(), RequestCode::GET_CONSUMER_LIST_BY_GROUP);
}
