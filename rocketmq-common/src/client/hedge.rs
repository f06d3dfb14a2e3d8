//! One question to several brokers, any of which may answer it.

use super::Client;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::sleep};

/// The same request to several addresses: the first one at once, the next one when the one before has failed or has not
/// answered within [`HEDGE_DELAY`]. Requests in flight are cancelled when this is dropped.
#[derive(Debug)]
pub(super) struct Hedged<T> {
    waiting: VecDeque<Arc<str>>,
    in_flight: JoinSet<(Arc<str>, T)>,
}

impl<T: Send + 'static> Hedged<T> {
    /// Asks `addrs` in their order.
    pub(super) fn new(addrs: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { waiting: addrs.into_iter().collect(), in_flight: JoinSet::new() }
    }

    /// The next answer, with the address it came from; `None` after the last one. A caller that cannot use an answer
    /// calls this again, which asks the next address at once.
    pub(super) async fn next<F>(&mut self, ask: impl Fn(Arc<str>) -> F) -> Option<(Arc<str>, T)>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            if let Some(addr) = self.waiting.pop_front() {
                let asking = ask(addr.clone());
                self.in_flight.spawn(async move { (addr, asking.await) });
            }
            let answer = tokio::select! {
                answer = self.in_flight.join_next() => answer,
                () = sleep(HEDGE_DELAY), if !self.waiting.is_empty() => continue,
            };
            match answer {
                Some(Ok(answer)) => return Some(answer),
                // A task ends early only when the runtime shuts down.
                Some(Err(_)) => {}
                None if self.waiting.is_empty() => return None,
                None => {}
            }
        }
    }
}

impl Client {
    /// The addresses of all replicas of a topic's brokers, the one that last answered for `group` first.
    pub(super) fn member_sources(&self, group: &str, addrs: impl Iterator<Item = Arc<str>>) -> Vec<Arc<str>> {
        let mut addrs: Vec<_> = addrs.collect();
        let last = self.shared().last_good.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(group).cloned();
        if let Some(at) = last.and_then(|last| addrs.iter().position(|addr| *addr == last)) {
            addrs[..=at].rotate_right(1);
        }
        addrs
    }

    /// Asks this address first the next time something is asked about the members of `group`.
    pub(super) fn prefer_source(&self, group: &str, addr: &Arc<str>) {
        let mut last_good = self.shared().last_good.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match last_good.get_mut(group) {
            Some(known) => known.clone_from(addr),
            None => _ = last_good.insert(group.into(), addr.clone()),
        }
    }

    pub(super) fn forget_source(&self, group: &str) {
        self.shared().last_good.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(group);
    }
}

/// How long an address may leave a request unanswered before the next one is asked as well.
pub(super) const HEDGE_DELAY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::Instant;

    fn addrs() -> [Arc<str>; 3] {
        ["a", "b", "c"].map(Arc::from)
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_asked_when_one_is_silent() {
        let (mut hedged, began) = (Hedged::new(addrs()), Instant::now());
        let ask = |addr: Arc<str>| async move {
            match &*addr {
                "a" => pending().await,
                _ => addr.len(),
            }
        };
        assert_eq!(hedged.next(ask).await, Some(("b".into(), 1)));
        assert_eq!(began.elapsed(), HEDGE_DELAY);
        assert_eq!(hedged.next(ask).await, Some(("c".into(), 1)), "asked at once after an answer that did not do");
        assert_eq!(began.elapsed(), HEDGE_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_counts() {
        let (mut hedged, began) = (Hedged::new(addrs()), Instant::now());
        let ask = |addr: Arc<str>| async move {
            let secs = if &*addr == "a" { 2 } else { 9 };
            sleep(Duration::from_secs(secs)).await;
        };
        assert_eq!(hedged.next(ask).await, Some(("a".into(), ())));
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_an_end() {
        let mut hedged = Hedged::<()>::new(addrs());
        let mut asked = Vec::new();
        while let Some((addr, ())) = hedged.next(|_| async {}).await {
            asked.push(addr);
        }
        assert_eq!(asked, addrs());
        assert_eq!(Hedged::<()>::new([]).next(|_| async {}).await, None);
    }
}
