//! Commits of a group to one broker, one at a time until the broker is known to keep offsets of the topic.

use crate::Error;
use rocketmq_common::{Client, MessageQueue};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// One gate for each topic and each broker address that keeps its offsets.
///
/// # Protocol
/// Of the first offsets of a group in a topic, a broker that handles several at once keeps one and answers SUCCESS to
/// all (`ConsumerOffsetManager.commitOffset`, 4.9.7 and 5.5.0): each request makes a table of its own, and the last one
/// stays. Once a table is there, every offset is kept.
#[derive(Debug, Default)]
pub(crate) struct CommitGates(Mutex<Gates>);

/// By topic and broker address.
type Gates = BTreeMap<(Arc<str>, Arc<str>), Arc<CommitGate>>;

/// Closed until an offset of the topic has been read back from the broker.
#[derive(Debug, Default)]
pub(crate) struct CommitGate {
    is_open: AtomicBool,
    /// Held while an offset is committed and read back.
    turn: tokio::sync::Mutex<()>,
}

impl CommitGates {
    /// The gate of a topic at a broker's address.
    pub(crate) fn of(&self, topic: &Arc<str>, keeper: &Arc<str>) -> Arc<CommitGate> {
        self.lock().entry((topic.clone(), keeper.clone())).or_default().clone()
    }

    /// Forgets the topics that are not wanted any more.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|(topic, _), _| is_wanted(topic));
    }

    fn lock(&self) -> MutexGuard<'_, Gates> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl CommitGate {
    /// The broker has told an offset of the topic. One of 0 opens nothing: brokers before 5.0 answer it for a young
    /// queue in which the group has no offset.
    pub(crate) fn was_read(&self, offset: Option<i64>) {
        if offset.is_some_and(|offset| offset > 0) {
            self.is_open.store(true, Ordering::Release);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }
}

/// How sure a commit has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// The broker has answered; the next commit makes up for one that was lost.
    Answered,
    /// The offset has been read back: no commit follows, or another member begins there.
    ReadBack,
}

/// Commits an offset. While the gate is closed, it is read back whatever `certainty` says, and no other commit to the
/// topic and the broker is made at the same time.
pub(crate) async fn commit(
    client: &Client,
    gate: &CommitGate,
    group: &Arc<str>,
    (queue, offset): (&MessageQueue, i64),
    certainty: Certainty,
) -> Result<(), Error> {
    let turn = if gate.is_open() { None } else { Some(gate.turn.lock().await) };
    // It may have been opened meanwhile.
    let turn = turn.filter(|_| !gate.is_open());
    if turn.is_none() && certainty == Certainty::Answered {
        return Ok(client.update_consumer_offset(group, queue, offset).await?);
    }
    let mut kept = None;
    for attempt in 1..=ATTEMPTS {
        client.update_consumer_offset(group, queue, offset).await?;
        kept = client.kept_consumer_offset(group, queue).await?;
        gate.was_read(kept);
        if !is_lost(offset, kept) {
            return Ok(());
        }
        tracing::debug!(%group, %queue, offset, ?kept, attempt, "offset not kept, committing it again");
    }
    match kept {
        // Not lost: an operator, or the next owner of the queue, has put another one in its place.
        Some(_) => Ok(()),
        None => Err(Error::OffsetNotKept { queue: client.namespace().strip_queue(queue.clone()), offset }),
    }
}

/// Whether an offset that was committed is not there.
fn is_lost(committed: i64, kept: Option<i64>) -> bool {
    kept.is_none_or(|kept| kept < committed)
}

const ATTEMPTS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_with_an_offset_that_only_a_commit_can_have_left() {
        let gates = CommitGates::default();
        let gate = gates.of(&"t".into(), &"b:1".into());
        for ambiguous in [None, Some(0)] {
            gate.was_read(ambiguous);
            assert!(!gate.is_open());
        }
        gate.was_read(Some(1));
        assert!(gates.of(&"t".into(), &"b:1".into()).is_open());
        assert!(!gates.of(&"t".into(), &"b:2".into()).is_open(), "another broker");
        assert!(!gates.of(&"u".into(), &"b:1".into()).is_open(), "another topic");
        gates.retain(|topic| topic != "t");
        assert!(!gates.of(&"t".into(), &"b:1".into()).is_open(), "the topic was forgotten");
    }

    #[test]
    fn an_offset_is_lost_where_none_or_a_lower_one_is_kept() {
        assert!(is_lost(0, None) && is_lost(5, None) && is_lost(5, Some(0)) && is_lost(5, Some(4)));
        assert!(!is_lost(0, Some(0)) && !is_lost(5, Some(5)) && !is_lost(5, Some(9)));
    }
}
