//! What the operating system says of this process.

use std::{
    fs,
    time::{Duration, Instant},
};

/// A moment: the clock, and the CPU time spent so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    cpu: Option<Duration>,
}

/// What lies between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) wall: Duration,
    /// User and system time of all threads; `None` where the system does not tell.
    pub(crate) cpu: Option<Duration>,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), cpu: cpu_time() }
    }

    /// The span from this moment to a later one.
    pub(crate) fn until(&self, end: &Self) -> Span {
        let cpu = self.cpu.zip(end.cpu).map(|(start, end)| end.saturating_sub(start));
        Span { wall: end.at.saturating_duration_since(self.at), cpu }
    }
}

/// The most memory this process has had resident, in MiB; `None` where the system does not tell.
pub(crate) fn peak_rss_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(f64::from(peak_rss_kib(&status)?) / 1024.0)
}

fn cpu_time() -> Option<Duration> {
    cpu_ticks(&fs::read_to_string("/proc/self/stat").ok()?).map(|ticks| Duration::from_millis(ticks * MS_PER_TICK))
}

/// `utime` and `stime` of a `/proc/*/stat`. The name of the program, in parentheses, may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn peak_rss_kib(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Linux counts in these ticks towards user space on every architecture in use (`USER_HZ` is 100).
const MS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_an_odd_name() {
        let stat = "7 (a b) c) R 1 7 7 0 -1 4194304 90 0 0 0 150 25 3 4 20 0 1 0 100 2000 300";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("7 (a) R 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn the_peak_is_found() {
        assert_eq!(peak_rss_kib("VmPeak:\t  9000 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2048));
        assert_eq!(peak_rss_kib("VmRSS:\t 1 kB\n"), None);
    }

    #[test]
    fn a_span_without_cpu_times_says_so() {
        let (start, later) = (Instant::now(), Duration::from_secs(2));
        let moment = |at, cpu_s: Option<u64>| Moment { at, cpu: cpu_s.map(Duration::from_secs) };
        let span = moment(start, Some(1)).until(&moment(start + later, Some(4)));
        assert_eq!((span.wall, span.cpu), (later, Some(Duration::from_secs(3))));
        assert_eq!(moment(start, None).until(&moment(start, Some(1))).cpu, None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells() {
        assert!(Moment::now().cpu.is_some());
        assert!(peak_rss_mib().is_some_and(|mib| mib > 0.1));
    }
}
