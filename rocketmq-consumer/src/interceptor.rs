use crate::{StoredMessage, outcome::Failed};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

/// Sees the messages before and after each call of a listener. Java: `ConsumeMessageHook`.
///
/// Interceptors are called in the order in which they were given, on the task that calls the listener: they have to be
/// quick, and must not block. One that panics is logged, and the messages are consumed all the same.
///
/// With a [stream](crate::PushConsumerBuilder::stream) a call begins when the stream gives a message out and ends when that
/// is acknowledged, given back or dropped, by whoever does so.
///
/// ```
/// use rocketmq_consumer::{ConsumeCall, ConsumeEnd, ConsumeInterceptor, Consumed};
///
/// struct Slow;
///
/// impl ConsumeInterceptor for Slow {
///     fn after_consume(&self, call: &ConsumeCall<'_>, end: &ConsumeEnd<'_>) {
///         if end.took.as_secs() > 1 && end.consumed == Consumed::Done {
///             println!("{} messages took {:?}", call.messages.len(), end.took);
///         }
///     }
/// }
/// ```
pub trait ConsumeInterceptor: Send + Sync + 'static {
    /// Called before the listener is.
    fn before_consume(&self, call: &ConsumeCall<'_>) {
        let _ = call;
    }

    /// Called once for each call that `before_consume` has seen, when it has ended. Not called where the call never
    /// ends, or the consumer has given it up: at [`shutdown_timeout`](crate::PushConfig::shutdown_timeout), or when its
    /// last handle was dropped.
    fn after_consume(&self, call: &ConsumeCall<'_>, end: &ConsumeEnd<'_>) {
        let _ = (call, end);
    }
}

/// One call of a listener.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConsumeCall<'a> {
    /// The group.
    pub group: &'a str,
    /// What the listener is given: one message, or up to [`consume_batch`](crate::PushConfig::consume_batch) of one
    /// queue.
    pub messages: &'a [StoredMessage],
    /// Whether an operator asked for it: the message is consumed beside all others, and nothing is recorded for it.
    pub is_direct: bool,
}

/// How a call of a listener ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConsumeEnd<'a> {
    /// What became of the messages.
    pub consumed: Consumed<'a>,
    /// How long the call took.
    pub took: Duration,
}

/// What became of the messages of a call. Java: `ConsumeReturnType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consumed<'a> {
    /// All are done.
    Done,
    /// Some are not.
    Failed {
        /// How many.
        messages: usize,
        /// What the listener says.
        reason: &'a str,
    },
    /// The call took longer than [`consume_timeout`](crate::PushConfig::consume_timeout), and the messages were given
    /// back then; what it came to does not count.
    TimedOut,
    /// The listener panicked, so none is done.
    Panicked {
        /// The text of the panic.
        text: &'a str,
    },
}

impl<'a> Consumed<'a> {
    pub(crate) fn of(failed: Option<&'a Failed>, messages: usize) -> Self {
        match failed {
            None => Self::Done,
            Some(failed) if failed.is_panic => Self::Panicked { text: failed.panic_text() },
            Some(failed) => match failed.count(messages) {
                0 => Self::Done,
                messages => Self::Failed { messages, reason: &failed.reason },
            },
        }
    }

    /// How many of the messages of a call are not done.
    pub(crate) fn failed(self, of: usize) -> usize {
        match self {
            Self::Done => 0,
            Self::Failed { messages, .. } => messages,
            Self::TimedOut | Self::Panicked { .. } => of,
        }
    }
}

/// A consumer's interceptors, in their order.
#[derive(Clone, Default)]
pub(crate) struct Interceptors(Vec<Arc<dyn ConsumeInterceptor>>);

impl Interceptors {
    pub(crate) fn push(&mut self, interceptor: Arc<dyn ConsumeInterceptor>) {
        self.0.push(interceptor);
    }

    /// Shows a call that begins to all interceptors; `None` where there are none of these.
    pub(crate) fn before<'a>(
        &self,
        group: &str,
        messages: impl IntoIterator<Item = &'a StoredMessage>,
        is_direct: bool,
    ) -> Option<Watch> {
        if self.0.is_empty() {
            return None;
        }
        let messages = messages.into_iter().cloned().collect();
        let watch =
            Watch { interceptors: self.clone(), group: group.into(), messages, is_direct, began: Instant::now() };
        watch.show("before", |interceptor, call| interceptor.before_consume(call));
        Some(watch)
    }
}

impl fmt::Debug for Interceptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} interceptors", self.0.len())
    }
}

/// A call whose interceptors have seen the beginning of.
#[derive(Debug)]
pub(crate) struct Watch {
    interceptors: Interceptors,
    group: Box<str>,
    messages: Vec<StoredMessage>,
    is_direct: bool,
    began: Instant,
}

impl Watch {
    /// Shows all interceptors how the call ended.
    pub(crate) fn after(&self, consumed: Consumed<'_>) {
        let end = ConsumeEnd { consumed, took: self.began.elapsed() };
        self.show("after", |interceptor, call| interceptor.after_consume(call, &end));
    }

    fn show(&self, when: &str, show: impl Fn(&dyn ConsumeInterceptor, &ConsumeCall<'_>)) {
        let call = ConsumeCall { group: &self.group, messages: &self.messages, is_direct: self.is_direct };
        for interceptor in &self.interceptors.0 {
            if catch_unwind(AssertUnwindSafe(|| show(&**interceptor, &call))).is_err() {
                tracing::error!(group = &*self.group, when, "a consume interceptor panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IntoOutcome, Outcome};
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Spy(Arc<Mutex<Vec<String>>>);

    impl ConsumeInterceptor for Spy {
        fn before_consume(&self, call: &ConsumeCall<'_>) {
            self.0.lock().unwrap().push(format!("before {}", call.group));
        }

        fn after_consume(&self, _: &ConsumeCall<'_>, end: &ConsumeEnd<'_>) {
            self.0.lock().unwrap().push(format!("after {:?}", end.consumed));
        }
    }

    struct Panicking;

    impl ConsumeInterceptor for Panicking {
        fn before_consume(&self, _: &ConsumeCall<'_>) {
            panic!("before");
        }

        fn after_consume(&self, _: &ConsumeCall<'_>, _: &ConsumeEnd<'_>) {
            panic!("after");
        }
    }

    #[test]
    fn one_that_panics_keeps_nothing_from_the_next() {
        let spy = Spy::default();
        let mut all = Interceptors::default();
        all.push(Arc::new(Panicking));
        all.push(Arc::new(spy.clone()));
        all.push(Arc::new(Panicking));
        let watch = all.before("g", [], false).unwrap();
        watch.after(Consumed::TimedOut);
        assert_eq!(*spy.0.lock().unwrap(), ["before g", "after TimedOut"]);
        assert!(Interceptors::default().before("g", [], false).is_none());
    }

    #[test]
    fn an_outcome_says_how_many_messages_failed() {
        let consumed = |outcome: Outcome| {
            let failed = outcome.into_failed();
            let consumed = Consumed::of(failed.as_deref(), 3);
            (format!("{consumed:?}"), consumed.failed(3))
        };
        assert_eq!(consumed(Outcome::done()), ("Done".into(), 0));
        assert_eq!(consumed(Outcome::failed_from(9, "no")), ("Done".into(), 0));
        assert_eq!(consumed(Outcome::failed_from(1, "no")), (r#"Failed { messages: 2, reason: "no" }"#.into(), 2));
        assert_eq!(consumed(Err::<(), _>("no").into_outcome()).1, 3);
        assert_eq!(consumed(Outcome::panicked("boo")), (r#"Panicked { text: "boo" }"#.into(), 3));
        assert_eq!(Consumed::TimedOut.failed(3), 3);
    }
}
