use std::sync::Arc;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// How many messages, and how many bytes of them, may wait for the broker's word. Those beyond wait for room, in the
/// order in which they came.
#[derive(Debug)]
pub(crate) struct Room {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: u32,
}

/// The room a message has; dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Held {
    _message: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        let max_bytes = u32::try_from(max_bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX).max(1);
        Self {
            messages: Arc::new(Semaphore::new(max_messages.clamp(1, Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(usize::try_from(max_bytes).unwrap_or(usize::MAX))),
            max_bytes,
        }
    }

    /// Waits for room; a message larger than all of it waits until it is alone. The error means that the room has been
    /// closed.
    pub(crate) async fn take(&self, bytes: usize) -> Result<Held, AcquireError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max_bytes);
        let message = self.messages.clone().acquire_owned().await?;
        let bytes = self.bytes.clone().acquire_many_owned(bytes).await?;
        Ok(Held { _message: message, _bytes: bytes })
    }

    /// Lets nobody wait any longer.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[test]
    fn both_bounds_hold_and_a_message_larger_than_all_goes_alone() {
        let room = Room::new(2, 100);
        let mut context = Context::from_waker(Waker::noop());
        let mut now = |bytes| match pin!(room.take(bytes)).poll(&mut context) {
            Poll::Ready(held) => held.ok(),
            Poll::Pending => None,
        };
        let one = now(60).unwrap();
        assert!(now(60).is_none(), "the bytes");
        let other = now(40).unwrap();
        assert!(now(0).is_none(), "the messages");
        drop(other);
        assert!(now(1_000_000).is_none());
        drop(one);
        let large = now(1_000_000).unwrap();
        assert!(now(1).is_none());
        drop(large);
        assert!(now(1).is_some());
    }

    #[test]
    fn who_came_first_gets_room_first() {
        let room = Room::new(10, 100);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(held)) = pin!(room.take(50)).poll(&mut context) else { panic!("there is room") };
        let mut large = pin!(room.take(100));
        let mut small = pin!(room.take(1));
        assert!(large.as_mut().poll(&mut context).is_pending());
        assert!(small.as_mut().poll(&mut context).is_pending(), "overtook");
        drop(held);
        assert!(small.as_mut().poll(&mut context).is_pending(), "overtook");
        let Poll::Ready(Ok(held)) = large.as_mut().poll(&mut context) else { panic!("its turn") };
        drop(held);
        assert!(small.as_mut().poll(&mut context).is_ready());
        room.close();
        assert!(matches!(pin!(room.take(1)).poll(&mut context), Poll::Ready(Err(_))));
    }
}
