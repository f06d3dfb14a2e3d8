use crate::{IntoOutcome, Outcome};
use rocketmq_common::{StoredMessage, unwinding};
use std::{fmt, future::Future, pin::Pin, slice, sync::Arc};

/// The user's code, whatever its types, and how it is to be called.
#[derive(Clone)]
pub(crate) struct Listener {
    call: Call,
    pub(crate) is_ordered: bool,
}

#[derive(Clone)]
enum Call {
    One(Arc<dyn Fn(StoredMessage) -> Consuming + Send + Sync>),
    Many(Arc<dyn Fn(Vec<StoredMessage>) -> Consuming + Send + Sync>),
}

type Consuming = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Listener {
    /// One that takes one message a call.
    pub(crate) fn one<F, C>(is_ordered: bool, listener: F) -> Self
    where
        F: Fn(StoredMessage) -> C + Send + Sync + 'static,
        C: Future<Output: IntoOutcome> + Send + 'static,
    {
        let call = move |message| -> Consuming {
            let consuming = listener(message);
            Box::pin(async move { consuming.await.into_outcome() })
        };
        Self { call: Call::One(Arc::new(call)), is_ordered }
    }

    /// One that takes several messages a call.
    pub(crate) fn many<F, C>(is_ordered: bool, listener: F) -> Self
    where
        F: Fn(Vec<StoredMessage>) -> C + Send + Sync + 'static,
        C: Future<Output: IntoOutcome> + Send + 'static,
    {
        let call = move |messages| -> Consuming {
            let consuming = listener(messages);
            Box::pin(async move { consuming.await.into_outcome() })
        };
        Self { call: Call::Many(Arc::new(call)), is_ordered }
    }

    pub(crate) fn takes_one(&self) -> bool {
        matches!(self.call, Call::One(_))
    }

    /// Runs the listener; a panic is a failure like another.
    pub(crate) async fn consume(&self, seen: Seen) -> Outcome {
        let outcome = match (&self.call, seen) {
            (Call::One(call), Seen::One(message)) => unwinding(|| call(message)).await,
            (Call::Many(call), Seen::One(message)) => unwinding(|| call(vec![message])).await,
            (Call::Many(call), Seen::Many(messages)) => unwinding(|| call(messages)).await,
            (Call::One(_), Seen::Many(_)) => Ok(Outcome::failed("one call is for one message")),
        };
        outcome.unwrap_or_else(|panic| Outcome::panicked(&panic))
    }
}

/// What one call is given, as the user sees it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart once a call, for which a box would be an allocation"
)]
pub(crate) enum Seen {
    One(StoredMessage),
    Many(Vec<StoredMessage>),
}

impl Seen {
    pub(crate) fn as_slice(&self) -> &[StoredMessage] {
        match self {
            Self::One(message) => slice::from_ref(message),
            Self::Many(messages) => messages,
        }
    }
}

/// The user's own filter.
#[derive(Clone)]
pub(crate) struct FilterHook(pub(crate) Arc<dyn Fn(&StoredMessage) -> bool + Send + Sync>);

impl fmt::Debug for FilterHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilterHook")
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("is_ordered", &self.is_ordered).finish_non_exhaustive()
    }
}
