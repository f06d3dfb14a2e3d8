//! What listeners were given.

use crate::wait::eventually;
use anyhow::{Result, bail, ensure};
use rocketmq_common::StoredMessage;
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// Keeps every message a listener was given, in the order of the calls. A handle.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Vec<StoredMessage>>>);

impl Inbox {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A listener that keeps the message and is done.
    pub(crate) fn listener(
        &self,
    ) -> impl Fn(StoredMessage) -> Ready<Result<(), Infallible>> + Send + Sync + 'static + use<> {
        let inbox = self.clone();
        move |message| {
            inbox.keep(message);
            ready(Ok(()))
        }
    }

    pub(crate) fn keep(&self, message: StoredMessage) {
        self.lock().push(message);
    }

    pub(crate) fn messages(&self) -> Vec<StoredMessage> {
        self.lock().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The ids, each once.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.lock().iter().map(|message| message.message_id().into_owned()).collect()
    }

    /// Waits until every one of `ids` has come.
    pub(crate) async fn has_all<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a String> + Clone,
        limit: Duration,
    ) -> Result<()> {
        eventually(limit, async || expect_none(&missing(ids.clone(), &self.ids()), "not consumed")).await
    }

    /// Waits until so many messages have come.
    pub(crate) async fn has(&self, count: usize, limit: Duration) -> Result<()> {
        eventually(limit, async || {
            let len = self.len();
            if len < count { bail!("{len} of {count} messages consumed") } else { Ok(()) }
        })
        .await
    }

    /// Waits until every one of `ids` has come, and fails if anything came twice or unasked.
    pub(crate) async fn has_each_once<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a String> + Clone,
        limit: Duration,
    ) -> Result<()> {
        self.has_all(ids.clone(), limit).await?;
        self.expect_no_repetition()?;
        let expected: BTreeSet<String> = ids.into_iter().cloned().collect();
        expect_none(&missing(&self.ids(), &expected), "consumed, though nobody sent them")
    }

    pub(crate) fn expect_no_repetition(&self) -> Result<()> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for message in self.lock().iter() {
            *counts.entry(message.message_id().into_owned()).or_default() += 1;
        }
        let repeated: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id).collect();
        expect_none(&repeated, "consumed more than once")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StoredMessage>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Those of `ids` that are not in `there`.
pub(crate) fn missing<'a>(ids: impl IntoIterator<Item = &'a String>, there: &BTreeSet<String>) -> Vec<String> {
    ids.into_iter().filter(|id| !there.contains(*id)).cloned().collect()
}

/// Fails with the first few of `ids`, if there are any.
pub(crate) fn expect_none(ids: &[String], what: &str) -> Result<()> {
    let first: Vec<_> = ids.iter().take(5).collect();
    ensure!(ids.is_empty(), "{} messages {what}: {first:?} …", ids.len());
    Ok(())
}
