use std::sync::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many may do something at once; may change while they do it.
#[derive(Debug)]
pub(crate) struct Limit {
    permits: Semaphore,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    limit: usize,
    /// Permits in use that the limit does not cover any more.
    debt: usize,
}

impl Limit {
    pub(crate) fn new(limit: usize) -> Self {
        Self { permits: Semaphore::new(limit), count: Mutex::new(Count { limit, debt: 0 }) }
    }

    /// Changes the limit. Those who are in stay in.
    pub(crate) fn set(&self, limit: usize) {
        let mut count = self.count();
        if let Some(more) = limit.checked_sub(count.limit) {
            let paid = more.min(count.debt);
            count.debt -= paid;
            self.permits.add_permits(more - paid);
        } else {
            let fewer = count.limit - limit;
            count.debt += fewer - self.permits.forget_permits(fewer);
        }
        count.limit = limit;
    }

    /// The limit.
    pub(crate) fn limit(&self) -> usize {
        self.count().limit
    }

    /// Waits to be let in, in turn.
    pub(crate) async fn enter(&self) -> Entered<'_> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        Entered { limit: self, permit: Some(permit) }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One who is in.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    limit: &'a Limit,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut count = self.limit.count();
        if count.debt > 0 {
            count.debt -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(limit: &Limit) -> usize {
        limit.permits.available_permits()
    }

    #[tokio::test]
    async fn a_limit_may_change_while_it_is_used() {
        let limit = Limit::new(3);
        let (one, two) = (limit.enter().await, limit.enter().await);
        assert_eq!(free(&limit), 1);
        limit.set(1);
        assert_eq!(free(&limit), 0);
        drop(one);
        assert_eq!(free(&limit), 0, "one too many was in");
        limit.set(4);
        assert_eq!(free(&limit), 3);
        drop(two);
        assert_eq!(free(&limit), 4);
        let all = (limit.enter().await, limit.enter().await, limit.enter().await, limit.enter().await);
        limit.set(1);
        limit.set(3);
        drop(all);
        assert_eq!(free(&limit), 3);
    }
}
