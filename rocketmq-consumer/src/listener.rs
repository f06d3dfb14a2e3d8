use rocketmq_common::StoredMessage;
use std::{
    any::Any,
    fmt::{self, Display},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
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
        let consuming = catch_unwind(AssertUnwindSafe(|| (self.0)(message)));
        let consuming = consuming.map_err(|panic| Failure::Panic(panic_text(&*panic)))?;
        Unwinding(consuming).await
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

/// A future whose panic is an outcome.
struct Unwinding(Consuming);

impl Future for Unwinding {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(|result| result.map_err(Failure::Error)),
            Err(panic) => Poll::Ready(Err(Failure::Panic(panic_text(&*panic)))),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("of no text").to_owned()
}
