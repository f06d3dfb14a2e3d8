//! Calls of user code whose panic is an outcome like another, not the end of the task that made the call.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::{Poll, ready},
};

/// Calls `start` and awaits the future it returns. A panic of either becomes `Err` with the panic's text, also one that
/// comes only when the future is dropped at its end.
///
/// # Errors
/// The text of the panic.
pub async fn unwinding<F: Future>(start: impl FnOnce() -> F) -> Result<F::Output, String> {
    let future = catch_unwind(AssertUnwindSafe(start)).map_err(|panic| text(&*panic))?;
    let mut future = pin!(Some(future));
    poll_fn(|context| {
        let poll = catch_unwind(AssertUnwindSafe(|| match future.as_mut().as_pin_mut() {
            Some(running) => {
                let output = ready!(running.poll(context));
                future.set(None);
                Poll::Ready(output)
            }
            None => Poll::Pending,
        }));
        match poll {
            Ok(poll) => poll.map(Ok),
            Err(panic) => {
                // What a panic has left half done may panic again.
                let _ = catch_unwind(AssertUnwindSafe(|| future.set(None)));
                Poll::Ready(Err(text(&*panic)))
            }
        }
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

    #[tokio::test]
    async fn a_panic_of_what_the_future_holds_is_none_of_the_task() {
        struct Held;
        impl Drop for Held {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        /// Keeps what it holds until it is dropped, however it ends.
        struct Holding(Held, fn() -> Poll<()>);
        impl Future for Holding {
            type Output = ();

            fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<()> {
                self.1()
            }
        }
        assert_eq!(unwinding(|| Holding(Held, || Poll::Ready(()))).await, Err("dropped".to_owned()));
        assert_eq!(unwinding(|| Holding(Held, || panic!("polled"))).await, Err("polled".to_owned()));
    }
}
