use rocketmq_common::{StoredMessage, unwinding};
use std::{
    fmt::{self, Display},
    future::Future,
    pin::Pin,
    sync::Arc,
};

/// The user's code, whatever its types.
#[derive(Clone)]
pub(crate) struct Listener(Arc<dyn Fn(StoredMessage) -> Consuming + Send + Sync>);

type Consuming = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Listener {
    pub(crate) fn new<F, C, E>(listener: F) -> Self
    where
        F: Fn(StoredMessage) -> C + Send + Sync + 'static,
        C: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        Self(Arc::new(move |message| {
            let consuming = listener(message);
            // `{:#}` prints the whole chain of an `anyhow` error.
            Box::pin(async move { consuming.await.map_err(|error| format!("{error:#}")) })
        }))
    }

    /// Runs the listener; a panic is a failure like another.
    pub(crate) async fn consume(&self, message: StoredMessage) -> Result<(), Failure> {
        unwinding(|| (self.0)(message)).await.map_err(Failure::Panic)?.map_err(Failure::Error)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// Why a message was not consumed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Error(String),
    Panic(String),
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(text) => f.write_str(text),
            Self::Panic(text) => write!(f, "panic: {text}"),
        }
    }
}
