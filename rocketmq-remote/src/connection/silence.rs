use std::time::Duration;
use tokio::time::Instant;

/// Tells a peer that has gone silent from one that merely left a call unanswered. Pure: the clock comes in.
///
/// One missing answer says nothing about the connection. Two rounds of expired calls without a single byte in between,
/// over at least `limit`, say that nobody is there.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Duration,
    /// When the first of the unanswered calls was sent, and how many rounds of calls have expired since.
    unanswered: Option<(Instant, u32)>,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, unanswered: None }
    }

    /// Notes that calls, the earliest sent at `sent`, expired `now`, while the last byte came at `last_read`. Answers
    /// for how long the peer has been silent, once that is too long.
    pub(super) fn expired(&mut self, sent: Instant, last_read: Instant, now: Instant) -> Option<Duration> {
        let (since, rounds) = match self.unanswered {
            Some((since, rounds)) if last_read <= since => (since, rounds + 1),
            _ if last_read <= sent => (sent, 1),
            _ => {
                self.unanswered = None;
                return None;
            }
        };
        self.unanswered = Some((since, rounds));
        let silent = now.saturating_duration_since(since);
        (rounds >= 2 && silent >= self.limit).then_some(silent)
    }

    /// Whether not a byte had come since the earliest of the calls that expired last.
    pub(super) fn has_begun(&self) -> bool {
        self.unanswered.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_missing_answer_is_no_silence() {
        let start = Instant::now();
        let mut silence = Silence::new(5 * SECOND);
        assert_eq!(silence.expired(start, start, start + 30 * SECOND), None);
    }

    #[test]
    fn a_second_round_without_a_byte_is_silence() {
        let start = Instant::now();
        let mut silence = Silence::new(5 * SECOND);
        assert_eq!(silence.expired(start, start, start + 3 * SECOND), None);
        assert_eq!(silence.expired(start + 3 * SECOND, start, start + 6 * SECOND), Some(6 * SECOND));
    }

    #[test]
    fn short_timeouts_do_not_make_silence_shorter() {
        let start = Instant::now();
        let mut silence = Silence::new(5 * SECOND);
        for second in 1..5 {
            assert_eq!(silence.expired(start, start, start + second * SECOND), None);
        }
        assert!(silence.expired(start, start, start + 5 * SECOND).is_some());
    }

    #[test]
    fn any_byte_begins_anew() {
        let start = Instant::now();
        let mut silence = Silence::new(5 * SECOND);
        silence.expired(start, start, start + 3 * SECOND);
        assert_eq!(silence.expired(start + SECOND, start + 4 * SECOND, start + 10 * SECOND), None);
        assert_eq!(silence.expired(start + 10 * SECOND, start + 4 * SECOND, start + 13 * SECOND), None);
        assert!(silence.expired(start + 13 * SECOND, start + 4 * SECOND, start + 16 * SECOND).is_some());
    }
}
