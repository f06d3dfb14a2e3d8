use std::{ops::Deref, sync::Arc};

/// What the last handle of a consumer has: dropping it stops everything.
#[derive(Debug)]
pub(crate) struct Handle<T: Stop>(Arc<T>);

/// Stops everything at once, and leaves the group if that has not been done. May be called outside of the runtime.
pub(crate) trait Stop {
    fn stop(&self);
}

impl<T: Stop> Handle<T> {
    pub(crate) fn new(consumer: Arc<T>) -> Self {
        Self(consumer)
    }
}

impl<T: Stop> Deref for Handle<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T: Stop> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
