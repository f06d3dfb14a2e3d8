//! What a consumer counts, and what it makes of it.

use crate::{member::Member, subscriptions::now_ms};
use serde::{Serialize, Serializer};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval_at};

/// How a consumer does, at one moment. Made by [`PushConsumer::statistics`](crate::PushConsumer::statistics); serializes
/// to JSON as it is, times in milliseconds.
///
/// Counts begin when the consumer starts. Rates, averages and maxima are those of the last minute, renewed every 10 s, or of
/// the time since the start where that is shorter.
///
/// # Protocol
/// Java: `ConsumerStatsManager`, which samples as often. What comes again counts under the retry topic it comes by.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// The group.
    pub group: String,
    /// This member of it.
    pub client_id: String,
    /// By topic; the group's retry topic among them.
    pub topics: BTreeMap<String, TopicStatistics>,
}

/// How a consumer does with one topic.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopicStatistics {
    /// Messages done.
    pub done: u64,
    /// Messages not done: each time a listener failed with one, panicked over it, took too long, or a stream's user gave it
    /// back.
    pub failed: u64,
    /// Messages fetched, those left out that a filter of the client's held back.
    pub pulled: u64,
    /// Messages done a second.
    pub done_per_second: f64,
    /// Messages not done, a second.
    pub failed_per_second: f64,
    /// Messages fetched a second.
    pub pulled_per_second: f64,
    /// How long a listener call takes on average; with a stream, how long a message is in the user's hands.
    #[serde(rename = "consume_average_ms", serialize_with = "as_ms")]
    pub consume_average: Duration,
    /// How long the longest call took.
    #[serde(rename = "consume_max_ms", serialize_with = "as_ms")]
    pub consume_max: Duration,
    /// How long a pull that brings messages takes on average, the wait for the first of them included.
    #[serde(rename = "pull_average_ms", serialize_with = "as_ms")]
    pub pull_average: Duration,
    /// How long the longest one took.
    #[serde(rename = "pull_max_ms", serialize_with = "as_ms")]
    pub pull_max: Duration,
    /// Messages of this member's queues that are stored and not done, as far as the last pulls tell.
    pub lag: u64,
    /// The queues of the topic that belong to this member now.
    pub queues: Vec<QueueStatistics>,
}

/// How a consumer does with one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueStatistics {
    /// The broker's name.
    pub broker_name: String,
    /// The number of the queue on that broker; -1 where this member pops from all that the broker has.
    pub queue_id: i32,
    /// The offset all before which are done; `None` before it is known, and where messages are popped.
    pub offset: Option<i64>,
    /// The end of the queue, as the last pull told it; `None` before the first. While nothing is fetched, because the
    /// consumer is suspended or has its hands full, it does not move.
    pub max_offset: Option<i64>,
    /// The distance between the two: messages that are not done, or that a filter will pass over.
    pub lag: Option<u64>,
    /// Messages fetched and not done.
    pub in_flight: usize,
}

fn as_ms<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(millis(*time))
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What is counted of one topic. Each counter grows where its subject happens, without a lock.
#[derive(Debug)]
pub(crate) struct TopicMeter {
    done: AtomicU64,
    failed: AtomicU64,
    pulled: AtomicU64,
    calls: Timed,
    pulls: Timed,
    series: Mutex<Series>,
}

/// Something that takes time: how often it happened, how long it took together, and how long the longest one took since
/// somebody last took note.
#[derive(Debug, Default)]
struct Timed {
    count: AtomicU64,
    nanos: AtomicU64,
    max_nanos: AtomicU64,
}

impl Timed {
    fn note(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
        // As a rule it is not the longest.
        if nanos > self.max_nanos.load(Relaxed) {
            self.max_nanos.fetch_max(nanos, Relaxed);
        }
    }

    fn totals(&self) -> TimedTotals {
        TimedTotals {
            count: self.count.load(Relaxed),
            nanos: self.nanos.load(Relaxed),
            max_nanos: self.max_nanos.load(Relaxed),
        }
    }
}

/// All counters of a topic at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) pulled: u64,
    calls: TimedTotals,
    pulls: TimedTotals,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TimedTotals {
    count: u64,
    nanos: u64,
    /// Since the sample before.
    max_nanos: u64,
}

impl TimedTotals {
    /// The average since an earlier moment; zero where nothing happened.
    fn average_since(self, earlier: Self) -> Duration {
        let (count, nanos) = (self.count.saturating_sub(earlier.count), self.nanos.saturating_sub(earlier.nanos));
        Duration::from_nanos(nanos.checked_div(count).unwrap_or(0))
    }
}

/// Samples of a topic's counters. Pure: the time comes in.
///
/// # Protocol
/// Java: `StatsItem`: seven samples 10 s apart make a minute, seven samples 10 min apart an hour.
#[derive(Debug)]
pub(crate) struct Series {
    minute: VecDeque<(Instant, Totals)>,
    hour: VecDeque<(Instant, Totals)>,
}

/// What a series says of the time until now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) done_per_second: f64,
    pub(crate) failed_per_second: f64,
    pub(crate) pulled_per_second: f64,
    pub(crate) consume_average: Duration,
    pub(crate) consume_max: Duration,
    pub(crate) pull_average: Duration,
    pub(crate) pull_max: Duration,
    /// As `consume_average`; of the hour where nothing was consumed for a minute.
    pub(crate) consume_average_lately: Duration,
    pub(crate) failed_in_an_hour: u64,
}

impl Series {
    fn new(now: Instant) -> Self {
        let beginning = || VecDeque::from([(now, Totals::default())]);
        Self { minute: beginning(), hour: beginning() }
    }

    /// Takes a sample.
    fn sample(&mut self, now: Instant, totals: Totals) {
        keep(&mut self.minute, (now, totals));
        if self.hour.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= LONG_PERIOD) {
            keep(&mut self.hour, (now, totals));
        }
    }

    fn rates(&self, now: Instant, totals: Totals) -> Rates {
        let first = |samples: &VecDeque<(Instant, Totals)>| samples.front().copied().unwrap_or((now, totals));
        let ((since, before), (_, an_hour_ago)) = (first(&self.minute), first(&self.hour));
        // A rate of a moment says nothing.
        let seconds = now.saturating_duration_since(since).as_secs_f64().max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let max = |max_nanos: fn(&Totals) -> u64| {
            // What the first sample saw was before it.
            let sampled = self.minute.iter().skip(1).map(|(_, totals)| max_nanos(totals)).max().unwrap_or(0);
            Duration::from_nanos(sampled.max(max_nanos(&totals)))
        };
        let consume_average = totals.calls.average_since(before.calls);
        let consume_average_lately = match consume_average.is_zero() {
            true => totals.calls.average_since(an_hour_ago.calls),
            false => consume_average,
        };
        Rates {
            done_per_second: rate(totals.done, before.done),
            failed_per_second: rate(totals.failed, before.failed),
            pulled_per_second: rate(totals.pulled, before.pulled),
            consume_average,
            consume_max: max(|totals| totals.calls.max_nanos),
            pull_average: totals.pulls.average_since(before.pulls),
            pull_max: max(|totals| totals.pulls.max_nanos),
            consume_average_lately,
            failed_in_an_hour: totals.failed.saturating_sub(an_hour_ago.failed),
        }
    }
}

fn keep(samples: &mut VecDeque<(Instant, Totals)>, sample: (Instant, Totals)) {
    if samples.len() == SAMPLES {
        samples.pop_front();
    }
    samples.push_back(sample);
}

impl TopicMeter {
    fn new(now: Instant) -> Self {
        Self {
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            pulled: AtomicU64::new(0),
            calls: Timed::default(),
            pulls: Timed::default(),
            series: Mutex::new(Series::new(now)),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            pulled: self.pulled.load(Relaxed),
            calls: self.calls.totals(),
            pulls: self.pulls.totals(),
        }
    }

    fn sample(&self, now: Instant) {
        let mut series = self.series();
        let mut totals = self.totals();
        totals.calls.max_nanos = self.calls.max_nanos.swap(0, Relaxed);
        totals.pulls.max_nanos = self.pulls.max_nanos.swap(0, Relaxed);
        series.sample(now, totals);
    }

    pub(crate) fn rates(&self, now: Instant) -> (Totals, Rates) {
        let series = self.series();
        let totals = self.totals();
        (totals, series.rates(now, totals))
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The meters of all topics.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<BTreeMap<Arc<str>, Arc<TopicMeter>>>);

impl Meters {
    pub(crate) fn of(&self, topic: &Arc<str>) -> Arc<TopicMeter> {
        let new = || Arc::new(TopicMeter::new(Instant::now()));
        self.lock().entry(topic.clone()).or_insert_with(new).clone()
    }

    pub(crate) fn all(&self) -> Vec<(Arc<str>, Arc<TopicMeter>)> {
        self.lock().iter().map(|(topic, meter)| (topic.clone(), meter.clone())).collect()
    }

    /// Forgets topics that are subscribed to no more.
    fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|topic, _| wanted(topic));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<TopicMeter>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What is noted of one queue.
#[derive(Debug)]
pub(crate) struct QueueMeter {
    topic: Arc<TopicMeter>,
    taken: Instant,
    /// Milliseconds after it was taken.
    pulled_at: AtomicU64,
    /// Milliseconds after it was taken.
    consumed_at: AtomicU64,
    /// Below 0 before it is known.
    max_offset: AtomicI64,
}

impl QueueMeter {
    pub(crate) fn new(topic: Arc<TopicMeter>) -> Self {
        Self {
            topic,
            taken: Instant::now(),
            pulled_at: AtomicU64::new(0),
            consumed_at: AtomicU64::new(0),
            max_offset: AtomicI64::new(-1),
        }
    }

    /// A listener call has ended that began at `began`. Returns when it ended.
    pub(crate) fn called(&self, began: Instant, messages: usize, failed: usize) -> Instant {
        let now = Instant::now();
        self.topic.calls.note(now.saturating_duration_since(began));
        if messages > failed {
            self.topic.done.fetch_add((messages - failed) as u64, Relaxed);
        }
        if failed > 0 {
            self.topic.failed.fetch_add(failed as u64, Relaxed);
        }
        self.consumed_at.store(self.millis_at(now), Relaxed);
        now
    }

    /// Messages have failed without a listener call.
    pub(crate) fn failed(&self, messages: usize) {
        self.topic.failed.fetch_add(messages as u64, Relaxed);
    }

    /// A pull is made.
    pub(crate) fn pulling(&self) -> Instant {
        let now = Instant::now();
        self.pulled_at.store(self.millis_at(now), Relaxed);
        now
    }

    /// A pull that began at `began` has brought messages.
    pub(crate) fn pulled(&self, began: Instant, messages: usize) {
        self.topic.pulls.note(began.elapsed());
        self.topic.pulled.fetch_add(messages as u64, Relaxed);
    }

    pub(crate) fn ends_at(&self, max_offset: i64) {
        self.max_offset.store(max_offset, Relaxed);
    }

    /// The end of the queue, as far as it is known.
    pub(crate) fn max_offset(&self) -> Option<i64> {
        Some(self.max_offset.load(Relaxed)).filter(|offset| *offset >= 0)
    }

    /// When the last pull was made, in milliseconds since 1970.
    pub(crate) fn pulled_ms(&self) -> i64 {
        self.since_1970(self.pulled_at.load(Relaxed))
    }

    /// When the last call ended, in milliseconds since 1970; before the first, when the queue was taken.
    pub(crate) fn consumed_ms(&self) -> i64 {
        self.since_1970(self.consumed_at.load(Relaxed))
    }

    fn millis_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.taken).as_millis()).unwrap_or(u64::MAX)
    }

    fn since_1970(&self, after_taken: u64) -> i64 {
        let ago = self.millis_at(Instant::now()).saturating_sub(after_taken);
        now_ms().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
    }
}

/// Takes samples while the consumer runs.
pub(crate) async fn sample(member: Arc<Member>) {
    let mut ticks = interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = member.stopped.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (now, subscriptions) = (Instant::now(), member.subscriptions());
        member.meters.retain(|topic| subscriptions.contains_key(topic));
        member.meters.all().iter().for_each(|(_, meter)| meter.sample(now));
    }
}

impl Member {
    pub(crate) fn statistics(&self) -> Statistics {
        let (now, namespace) = (Instant::now(), self.client.namespace());
        let mut queues: BTreeMap<Arc<str>, Vec<QueueStatistics>> = BTreeMap::new();
        for (queue, assigned) in &*self.queues() {
            let window = assigned.window();
            let (offset, in_window) = (window.commit_offset(), window.unfinished().count());
            drop(window);
            let in_flight = assigned.popped.as_ref().map_or(in_window, |popped| popped.count());
            let max_offset = assigned.meter.max_offset();
            let lag =
                offset.zip(max_offset).map(|(offset, max)| u64::try_from(max.saturating_sub(offset)).unwrap_or(0));
            queues.entry(queue.topic.clone()).or_default().push(QueueStatistics {
                broker_name: queue.broker_name.to_string(),
                queue_id: queue.queue_id,
                offset,
                max_offset,
                lag,
                in_flight,
            });
        }
        let topics = self.meters.all().into_iter().map(|(topic, meter)| {
            let (totals, rates) = meter.rates(now);
            let queues = queues.remove(&topic).unwrap_or_default();
            let of_topic = TopicStatistics {
                done: totals.done,
                failed: totals.failed,
                pulled: totals.pulled,
                done_per_second: rates.done_per_second,
                failed_per_second: rates.failed_per_second,
                pulled_per_second: rates.pulled_per_second,
                consume_average: rates.consume_average,
                consume_max: rates.consume_max,
                pull_average: rates.pull_average,
                pull_max: rates.pull_max,
                lag: queues.iter().filter_map(|queue| queue.lag).fold(0, u64::saturating_add),
                queues,
            };
            (namespace.strip(&topic).into_owned(), of_topic)
        });
        Statistics { group: self.group().to_owned(), client_id: self.client.id().to_string(), topics: topics.collect() }
    }
}

const SAMPLES: usize = 7;
const PERIOD: Duration = Duration::from_secs(10);
const LONG_PERIOD: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(done: u64, failed: u64, calls: (u64, u64, u64)) -> Totals {
        let (count, ms, max_ms) = calls;
        let calls = TimedTotals { count, nanos: ms * 1_000_000, max_nanos: max_ms * 1_000_000 };
        Totals { done, failed, calls, ..Totals::default() }
    }

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let start = Instant::now();
        let mut series = Series::new(start);
        assert_eq!(series.rates(start, Totals::default()), Rates::default());
        // Three a second, one of them failing, for two minutes; then nothing.
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for tenth in 1..=12 {
            series.sample(at(tenth * 10), totals(tenth * 20, tenth * 10, (tenth * 30, tenth * 60, 5)));
        }
        let last = totals(240, 120, (360, 720, 0));
        let rates = series.rates(at(120), last);
        assert_eq!((rates.done_per_second, rates.failed_per_second), (2.0, 1.0));
        assert_eq!((rates.consume_average, rates.consume_max), (Duration::from_millis(2), Duration::from_millis(5)));
        assert_eq!(rates.failed_in_an_hour, 120);
        for tenth in 13..=18 {
            series.sample(at(tenth * 10), last);
        }
        let rates = series.rates(at(180), last);
        assert_eq!((rates.done_per_second, rates.consume_average), (0.0, Duration::ZERO));
        assert_eq!(rates.consume_average_lately, Duration::from_millis(2));
        assert_eq!(rates.consume_max, Duration::ZERO, "the longest call was more than a minute ago");
        assert_eq!(rates.failed_in_an_hour, 120);
    }

    #[test]
    fn before_the_first_sample_rates_are_those_since_the_start() {
        let start = Instant::now();
        let series = Series::new(start);
        let rates = series.rates(start + Duration::from_secs(4), totals(8, 0, (8, 80, 30)));
        assert_eq!(rates.done_per_second, 2.0);
        assert_eq!((rates.consume_average, rates.consume_max), (Duration::from_millis(10), Duration::from_millis(30)));
        let at_once = series.rates(start + Duration::from_millis(1), totals(8, 0, (8, 80, 30)));
        assert_eq!(at_once.done_per_second, 8.0, "a moment is no second");
    }

    #[test]
    fn what_failed_more_than_an_hour_ago_is_forgotten() {
        let start = Instant::now();
        let mut series = Series::new(start);
        for period in 1..=540 {
            // All fail in the first half hour.
            let failed = period.min(180);
            series.sample(start + PERIOD * u32::try_from(period).unwrap(), totals(0, failed, (0, 0, 0)));
            assert!(series.minute.len() <= SAMPLES && series.hour.len() <= SAMPLES);
        }
        let end = start + PERIOD * 540;
        assert_eq!(series.rates(end, totals(0, 180, (0, 0, 0))).failed_in_an_hour, 0);
        assert_eq!(series.rates(end, totals(0, 187, (0, 0, 0))).failed_in_an_hour, 7);
    }

    #[test]
    fn counters_of_a_queue_are_those_of_its_topic() {
        let meters = Meters::default();
        let topic: Arc<str> = "t".into();
        let (one, other) = (QueueMeter::new(meters.of(&topic)), QueueMeter::new(meters.of(&topic)));
        let began = Instant::now();
        one.called(began, 3, 1);
        other.called(began, 1, 0);
        let pulling = other.pulling();
        other.pulled(pulling, 5);
        let (totals, _) = meters.of(&topic).rates(Instant::now());
        assert_eq!((totals.done, totals.failed, totals.pulled), (3, 1, 5));
        assert_eq!((totals.calls.count, totals.pulls.count), (2, 1));
        assert_eq!((one.max_offset(), other.max_offset()), (None, None));
        one.ends_at(9);
        assert_eq!(one.max_offset(), Some(9));
        let now = now_ms();
        assert!((now - 1000..=now + 1).contains(&one.consumed_ms()), "{} is not about {now}", one.consumed_ms());
        meters.retain(|topic| topic != "t");
        assert!(meters.all().is_empty());
    }

    #[test]
    fn a_snapshot_is_json_with_times_in_milliseconds() {
        let topic = TopicStatistics {
            done: 5,
            failed: 1,
            pulled: 7,
            done_per_second: 2.5,
            failed_per_second: 0.0,
            pulled_per_second: 1.0,
            consume_average: Duration::from_micros(1500),
            consume_max: Duration::from_millis(20),
            pull_average: Duration::ZERO,
            pull_max: Duration::ZERO,
            lag: 3,
            queues: vec![QueueStatistics {
                broker_name: "b".into(),
                queue_id: 0,
                offset: Some(4),
                max_offset: Some(7),
                lag: Some(3),
                in_flight: 2,
            }],
        };
        let statistics =
            Statistics { group: "g".into(), client_id: "c".into(), topics: [("t".to_owned(), topic)].into() };
        let json = serde_json::to_value(&statistics).unwrap();
        assert_eq!(json["topics"]["t"]["consume_average_ms"], 1.5);
        assert_eq!(json["topics"]["t"]["queues"][0]["lag"], 3);
    }
}
