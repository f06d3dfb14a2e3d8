use std::{fmt::Display, time::Duration};

/// What became of the messages a listener was given, where `Ok` and `Err` do not say enough: which of them failed, and
/// when these come again.
///
/// ```
/// use rocketmq_consumer::{Outcome, StoredMessage};
///
/// async fn consume(messages: Vec<StoredMessage>) -> Outcome {
///     let failed = messages.iter().enumerate().filter(|(_, message)| message.body().is_empty());
///     Outcome::failed_at(failed.map(|(index, _)| index), "an empty body").delay_level(5)
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "an outcome counts when the listener returns it"]
pub struct Outcome(Option<Box<Failed>>);

/// What failed, why, and when it comes again.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    which: Which,
    pub(crate) reason: String,
    /// As a broker takes it: 0 lets it decide, below 0 is the dead letter queue.
    pub(crate) delay_level: i32,
    pub(crate) suspend: Option<Duration>,
    pub(crate) is_panic: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    From(usize),
    /// Sorted.
    At(Vec<usize>),
}

impl Outcome {
    /// All messages are done.
    pub fn done() -> Self {
        Self(None)
    }

    /// No message is done.
    pub fn failed(reason: impl Display) -> Self {
        Self::failed_from(0, reason)
    }

    /// The messages before `index`, counted from 0, are done; that one and those behind it are not. Java: `ackIndex`
    /// is `index - 1`.
    pub fn failed_from(index: usize, reason: impl Display) -> Self {
        Self::new(Which::From(index), reason)
    }

    /// The messages at `indexes`, counted from 0, are not done, all others are.
    pub fn failed_at(indexes: impl IntoIterator<Item = usize>, reason: impl Display) -> Self {
        let mut indexes: Vec<_> = indexes.into_iter().collect();
        indexes.sort_unstable();
        if indexes.is_empty() { Self::done() } else { Self::new(Which::At(indexes), reason) }
    }

    /// No message is done: the listener panicked.
    pub(crate) fn panicked(text: &str) -> Self {
        let failed = Failed { is_panic: true, ..Failed::new(Which::From(0), format!("{PANIC}{text}")) };
        Self(Some(Box::new(failed)))
    }

    /// When the failed messages come again, as a delay level of the broker, from 1 on; 0, the default, lets the broker
    /// choose a longer one each time. For a concurrent listener; an ordered one has [`suspend`](Self::suspend).
    ///
    /// # Protocol
    /// `delayLevel` of `CONSUMER_SEND_MSG_BACK` (36); Java: `delayLevelWhenNextConsume`.
    pub fn delay_level(mut self, level: i32) -> Self {
        if let Some(failed) = &mut self.0 {
            failed.delay_level = level.max(0);
        }
        self
    }

    /// The failed messages do not come again: they go to the group's dead letter queue at once.
    pub fn dead_letter(mut self) -> Self {
        if let Some(failed) = &mut self.0 {
            failed.delay_level = DEAD;
        }
        self
    }

    /// How long the queue waits before the failed messages come again, 10 ms to 30 s; default
    /// [`suspend_time`](crate::PushConfig::suspend_time). For an ordered listener.
    pub fn suspend(mut self, time: Duration) -> Self {
        if let Some(failed) = &mut self.0 {
            failed.suspend = Some(time);
        }
        self
    }

    fn new(which: Which, reason: impl Display) -> Self {
        // `{:#}` prints the whole chain of an `anyhow` error.
        Self(Some(Box::new(Failed::new(which, format!("{reason:#}")))))
    }

    /// What failed, if anything did.
    pub(crate) fn into_failed(self) -> Option<Box<Failed>> {
        self.0
    }
}

impl Failed {
    fn new(which: Which, reason: String) -> Self {
        Self { which, reason, delay_level: 0, suspend: None, is_panic: false }
    }

    /// How many of so many messages are not done.
    pub(crate) fn count(&self, messages: usize) -> usize {
        (0..messages).filter(|index| self.is_failed(*index)).count()
    }

    /// Whether the message at an index is not done.
    pub(crate) fn is_failed(&self, index: usize) -> bool {
        match &self.which {
            Which::From(first) => index >= *first,
            Which::At(indexes) => indexes.binary_search(&index).is_ok(),
        }
    }

    /// What the listener panicked with.
    pub(crate) fn panic_text(&self) -> &str {
        self.reason.strip_prefix(PANIC).unwrap_or(&self.reason)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.delay_level == DEAD
    }
}

/// What a listener may return: `Result<(), E>`, `Result<Outcome, E>` or [`Outcome`]. `Err` stands for
/// [`Outcome::failed`].
#[diagnostic::on_unimplemented(
    message = "a listener cannot return `{Self}`",
    note = "it returns `Result<(), E>` or `Result<Outcome, E>`, where `E` is `Display`, or `Outcome`"
)]
pub trait IntoOutcome: sealed::Sealed {
    /// The outcome this stands for.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<E: Display> IntoOutcome for Result<(), E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(()) => Outcome::done(),
            Err(error) => Outcome::failed(error),
        }
    }
}

impl<E: Display> IntoOutcome for Result<Outcome, E> {
    fn into_outcome(self) -> Outcome {
        self.unwrap_or_else(Outcome::failed)
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "nobody else is to implement it")]
    pub trait Sealed {}
    impl Sealed for super::Outcome {}
    impl<E: std::fmt::Display> Sealed for Result<(), E> {}
    impl<E: std::fmt::Display> Sealed for Result<super::Outcome, E> {}
}

/// What the reason begins with where the listener panicked.
const PANIC: &str = "panic: ";
/// The delay level that means the dead letter queue.
pub(crate) const DEAD: i32 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(outcome: Outcome) -> Vec<usize> {
        outcome.into_failed().map_or(Vec::new(), |failed| (0..4).filter(|index| failed.is_failed(*index)).collect())
    }

    #[test]
    fn an_outcome_says_which_messages_failed() {
        assert!(failed(Outcome::done()).is_empty());
        assert_eq!(failed(Outcome::failed("no")), [0, 1, 2, 3]);
        assert_eq!(failed(Outcome::failed_from(2, "no")), [2, 3]);
        assert!(failed(Outcome::failed_from(9, "no")).is_empty());
        assert_eq!(failed(Outcome::failed_at([3, 1, 9], "no")), [1, 3]);
        assert!(Outcome::failed_at([], "no").into_failed().is_none());
    }

    #[test]
    fn results_stand_for_outcomes() {
        assert!(Ok::<_, String>(()).into_outcome().into_failed().is_none());
        assert_eq!(failed(Err::<(), _>("no").into_outcome()), [0, 1, 2, 3]);
        assert_eq!(failed(Ok::<_, String>(Outcome::failed_from(3, "no")).into_outcome()), [3]);
        assert_eq!(failed(Err::<Outcome, _>("no").into_outcome()), [0, 1, 2, 3]);
    }

    #[test]
    fn a_level_is_none_of_the_brokers_signs() {
        let level = |outcome: Outcome| outcome.into_failed().map(|failed| (failed.delay_level, failed.is_dead()));
        assert_eq!(level(Outcome::failed("no")), Some((0, false)));
        assert_eq!(level(Outcome::failed("no").delay_level(7)), Some((7, false)));
        assert_eq!(level(Outcome::failed("no").delay_level(-7)), Some((0, false)));
        assert_eq!(level(Outcome::failed("no").dead_letter()), Some((-1, true)));
    }
}
