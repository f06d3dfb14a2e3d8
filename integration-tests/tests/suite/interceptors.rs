//! What interceptors of sends see, and what they can do.

use crate::{
    cluster::Cluster,
    trials::ON_PURPOSE,
    wait::{SOON, eventually},
};
use anyhow::{Result, ensure};
use rocketmq_common::Message;
use rocketmq_producer::{Error, Producer, ProducerConfig, SendInterceptor, SendReceipt, TransactionState};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Marks every message, and keeps what became of it, by body.
#[derive(Clone, Default)]
struct Marker(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Marker {
    fn note(&self, message: &Message, what: String) {
        let body = String::from_utf8_lossy(message.body()).into_owned();
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).entry(body).or_default().push(what);
    }
}

impl SendInterceptor for Marker {
    fn before_send(&self, message: &Message) -> Vec<(String, String)> {
        self.note(message, "before".into());
        vec![("mark".into(), format!("of {}", message.properties().unique_id().unwrap_or_default()))]
    }

    fn after_send(&self, message: &Message, _: Duration, result: Result<Option<&SendReceipt>, &Error>) {
        self.note(
            message,
            match result {
                Ok(Some(receipt)) => receipt.message_id.clone(),
                Ok(None) => "handed over".into(),
                Err(error) => format!("{error}"),
            },
        );
    }
}

struct Panicking;

impl SendInterceptor for Panicking {
    fn before_send(&self, _: &Message) -> Vec<(String, String)> {
        panic!("{ON_PURPOSE}");
    }

    fn after_send(&self, _: &Message, _: Duration, _: Result<Option<&SendReceipt>, &Error>) {
        panic!("{ON_PURPOSE}");
    }
}

pub(crate) async fn interceptors_see_every_send_and_add_properties(cluster: &Cluster) -> Result<()> {
    for linger in [Duration::ZERO, Duration::from_millis(5)] {
        let topic = cluster.topic(1).await?;
        let marker = Marker::default();
        let config = ProducerConfig { linger, retries: 20, send_timeout: SOON, ..Default::default() };
        let builder = Producer::builder(crate::cluster::random_name("producers")).name_servers([cluster.name_server()]);
        let producer = builder
            .config(config)
            .interceptor(Panicking)
            .interceptor(marker.clone())
            .transaction_checker(|_| async { TransactionState::Commit })
            .start()
            .await?;
        let message = |body: &'static str| Message::new(&topic, body);
        let mut ids = BTreeMap::new();
        ids.insert("send", producer.send(message("send")).await?.message_id);
        let pending = producer.send_async(message("async")).await?;
        ids.insert("async", pending.await?.message_id);
        let batch = producer.send_batch(vec![message("one"), message("two")]).await?.message_ids;
        ids.extend(["one", "two"].into_iter().zip(batch));
        let pending = producer.send_batch_async(vec![message("three"), message("four")]).await?;
        ids.extend(["three", "four"].into_iter().zip(pending.await?.message_ids));
        let commit = |_| async { TransactionState::Commit };
        ids.insert("half", producer.send_in_transaction(message("half"), commit).await?.receipt.message_id);
        producer.send_oneway(message("one-way")).await?;
        let refused = producer.send(message("refused").property("KEYS", "k")).await;
        ensure!(matches!(refused, Err(Error::Message(_))), "a bad message came to {refused:?}");
        producer.shutdown().await?;

        let stored = eventually(SOON, async || {
            let stored = cluster.stored(&topic).await?;
            ensure!(stored.len() == 8, "{} of 8 messages stored", stored.len());
            Ok(stored)
        })
        .await?;
        for message in &stored {
            let (id, mark) = (message.message_id(), message.property("mark"));
            ensure!(mark == Some(&format!("of {id}")), "{id} is marked {mark:?}");
        }
        let seen = marker.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        ensure!(seen.len() == 8, "interceptors saw {seen:?}");
        for (body, id) in &ids {
            let expected = vec!["before".to_owned(), id.clone()];
            ensure!(seen.get(*body) == Some(&expected), "of {body}, interceptors saw {:?}", seen.get(*body));
        }
        ensure!(seen.get("one-way") == Some(&vec!["before".into(), "handed over".into()]), "{seen:?}");
    }
    Ok(())
}
