use crate::{IntoOutcome, Outcome};
use rocketmq_common::{StoredMessage, unwinding};
use std::{fmt, future::Future, pin::Pin, sync::Arc};

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

    /// Runs the listener on one message; a panic is a failure like another.
    pub(crate) async fn consume_one(&self, message: StoredMessage) -> Outcome {
        match &self.call {
            Call::One(call) => unwinding(|| call(message)).await.unwrap_or_else(of_panic),
            Call::Many(call) => unwinding(|| call(vec![message])).await.unwrap_or_else(of_panic),
        }
    }

    /// Runs the listener on what is one call's worth of messages.
    pub(crate) async fn consume(&self, mut messages: Vec<StoredMessage>) -> Outcome {
        match &self.call {
            Call::One(_) => match messages.pop() {
                Some(message) => self.consume_one(message).await,
                None => Outcome::done(),
            },
            Call::Many(call) => unwinding(|| call(messages)).await.unwrap_or_else(of_panic),
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

fn of_panic(text: String) -> Outcome {
    Outcome::failed(format_args!("panic: {text}"))
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("is_ordered", &self.is_ordered).finish_non_exhaustive()
    }
}
