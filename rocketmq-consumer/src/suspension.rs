use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Whether consumption stands still because the user wants it to.
#[derive(Debug, Default)]
pub(crate) struct Suspension {
    is_on: AtomicBool,
    changed: Notify,
}

impl Suspension {
    pub(crate) fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    /// Until it is so; at once if it is.
    pub(crate) async fn wait(&self, is_on: bool) {
        loop {
            let changed = self.changed.notified();
            if self.is_on() == is_on {
                return;
            }
            changed.await;
        }
    }
}
