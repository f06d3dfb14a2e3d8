use crate::Error;

/// The queues whose offset could not be recorded, and why the first of them could not.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded {
    pub(crate) queues: usize,
    pub(crate) cause: Option<Error>,
}

impl Unrecorded {
    pub(crate) fn of(queues: usize, cause: Option<Error>) -> Self {
        Self { queues, cause }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { queues: self.queues + other.queues, cause: self.cause.or(other.cause) }
    }
}
