//! Calls of user code whose panic is an outcome like another, not the end of the task that made the call.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// Calls `start` and awaits the future it returns. A panic of either becomes `Err` with the panic's text.
///
/// # Errors
/// The text of the panic.
pub async fn unwinding<F: Future>(start: impl FnOnce() -> F) -> Result<F::Output, String> {
    let future = catch_unwind(AssertUnwindSafe(start)).map_err(|panic| text(&*panic))?;
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(text(&*panic))),
    })
    .await
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("of no text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_its_text() {
        assert_eq!(unwinding(|| async { 7 }).await, Ok(7));
        assert_eq!(unwinding(|| async { panic!("at {}", 1) }).await.map(|(): ()| 0), Err("at 1".to_owned()));
        let early = unwinding(|| {
            if true {
                panic!("early");
            }
            async {}
        });
        assert_eq!(early.await, Err("early".to_owned()));
    }
}
