use crate::{Error, SendReceipt};
use rocketmq_common::Message;
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

/// Sees each message before and after it is sent, and may add properties to it. Java: `SendMessageHook`.
///
/// Interceptors are called in the order in which they were given, on the task that sends and, for
/// [`send_async`](crate::Producer::send_async), on a task that serves other messages too: they have to be quick. One that
/// panics is logged, and the message goes on without it.
///
/// ```
/// use rocketmq_producer::{Message, SendInterceptor};
///
/// struct Traced;
///
/// impl SendInterceptor for Traced {
///     fn before_send(&self, _: &Message) -> Vec<(String, String)> {
///         vec![("trace-id".into(), "4711".into())]
///     }
/// }
/// ```
pub trait SendInterceptor: Send + Sync + 'static {
    /// Called once for each message, when it has been found fit to be sent. Returns properties to add; those that break
    /// a rule (a reserved name, too many bytes) are left out, with a warning in the log.
    fn before_send(&self, message: &Message) -> Vec<(String, String)> {
        let _ = message;
        Vec::new()
    }

    /// Called once for each message that `before_send` has seen, when all its attempts are over: with the time it took, and
    /// with the receipt, which one-way messages have none of, or the error. Not called where the send was dropped in
    /// between, or the producer shut down while the message waited for room.
    fn after_send(&self, message: &Message, took: Duration, result: Result<Option<&SendReceipt>, &Error>) {
        let _ = (message, took, result);
    }
}

/// A producer's interceptors, in their order.
#[derive(Clone, Default)]
pub(crate) struct Interceptors(Vec<Arc<dyn SendInterceptor>>);

impl Interceptors {
    pub(crate) fn push(&mut self, interceptor: Arc<dyn SendInterceptor>) {
        self.0.push(interceptor);
    }

    /// Shows messages that are to be sent to all interceptors; `None` where there are none of these.
    pub(crate) fn before(&self, messages: &mut [Message], max_body_bytes: usize) -> Option<Watch> {
        if self.0.is_empty() {
            return None;
        }
        for message in &mut *messages {
            for interceptor in &self.0 {
                let added = catch_unwind(AssertUnwindSafe(|| interceptor.before_send(message)));
                let Ok(added) = added else {
                    tracing::error!("a send interceptor panicked before the send");
                    continue;
                };
                for (name, value) in added {
                    let with = message.clone().property(&name, value);
                    match with.validate(max_body_bytes) {
                        Ok(()) => *message = with,
                        Err(error) => tracing::warn!(name, %error, "a property of a send interceptor is left out"),
                    }
                }
            }
        }
        Some(Watch { interceptors: self.clone(), messages: messages.to_vec(), began: Instant::now() })
    }
}

impl fmt::Debug for Interceptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} interceptors", self.0.len())
    }
}

/// Messages whose send interceptors have seen the beginning of.
#[derive(Debug)]
pub(crate) struct Watch {
    interceptors: Interceptors,
    messages: Vec<Message>,
    began: Instant,
}

impl Watch {
    /// Shows all interceptors what became of the messages, each of which has its own receipt, or none.
    pub(crate) fn after(&self, result: Result<&[SendReceipt], &Error>) {
        let took = self.began.elapsed();
        for (index, message) in self.messages.iter().enumerate() {
            let result = result.map(|receipts| receipts.get(index));
            for interceptor in &self.interceptors.0 {
                let shown = catch_unwind(AssertUnwindSafe(|| interceptor.after_send(message, took, result)));
                if shown.is_err() {
                    tracing::error!("a send interceptor panicked after the send");
                }
            }
        }
    }
}

/// Shows the outcome of one message's send to those who watch it.
pub(crate) fn show(watch: Option<&Watch>, result: &Result<SendReceipt, Error>) {
    if let Some(watch) = watch {
        watch.after(result.as_ref().map(std::slice::from_ref));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Spy(Mutex<Vec<String>>);

    impl SendInterceptor for Arc<Spy> {
        fn before_send(&self, message: &Message) -> Vec<(String, String)> {
            self.0.lock().unwrap().push(format!("before {}", message.topic()));
            [("colour", "blue"), ("KEYS", "reserved"), ("a\u{1}", "b"), ("shape", "round")]
                .map(|(name, value)| (name.into(), value.into()))
                .into()
        }

        fn after_send(&self, message: &Message, _: Duration, result: Result<Option<&SendReceipt>, &Error>) {
            let text = match result {
                Ok(receipt) => format!("after {} {}", message.topic(), receipt.is_some()),
                Err(error) => format!("after {} {error}", message.topic()),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    struct Panicking;

    impl SendInterceptor for Panicking {
        fn before_send(&self, _: &Message) -> Vec<(String, String)> {
            panic!("before")
        }

        fn after_send(&self, _: &Message, _: Duration, _: Result<Option<&SendReceipt>, &Error>) {
            panic!("after")
        }
    }

    #[test]
    fn good_properties_are_added_and_nothing_breaks_the_send() {
        let spy = Arc::new(Spy::default());
        let mut interceptors = Interceptors::default();
        interceptors.push(Arc::new(Panicking));
        interceptors.push(Arc::new(spy.clone()));
        let mut messages = [Message::new("t", "b"), Message::new("u", "b")];
        let watch = interceptors.before(&mut messages, 10).unwrap();
        for message in &messages {
            let properties: Vec<_> = message.properties().iter().collect();
            assert_eq!(properties, [("colour", "blue"), ("shape", "round")]);
            assert_eq!(message.validate(10), Ok(()));
        }
        watch.after(Err(&Error::ShutDown));
        watch.after(Ok(&[]));
        let seen = spy.0.lock().unwrap().clone();
        let error = Error::ShutDown;
        let (t, u) = (format!("after t {error}"), format!("after u {error}"));
        assert_eq!(seen, ["before t", "before u", &t, &u, "after t false", "after u false"]);
    }

    #[test]
    fn without_interceptors_nobody_watches() {
        assert!(Interceptors::default().before(&mut [Message::new("t", "b")], 10).is_none());
    }
}
