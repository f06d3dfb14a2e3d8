//! What is printed.

use crate::process::{self, Span};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// The figures of a run. The fields are the keys of the JSON line.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    client: &'static str,
    mode: &'static str,
    ok: u64,
    err: u64,
    secs: f64,
    /// Messages a second.
    rate: f64,
    /// `None` where the system does not tell.
    cpu_us_per_msg: Option<f64>,
    p50_us: u64,
    p99_us: u64,
    peak_rss_mb: Option<f64>,
}

/// How many messages there were, and how many of those that went well lie in the measured span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    pub(crate) err: u64,
    pub(crate) measured: u64,
}

impl Report {
    pub(crate) fn new(client: &'static str, mode: &'static str, counts: Counts, span: Span) -> Self {
        let secs = span.wall.as_secs_f64();
        let messages = counts.measured.max(1) as f64;
        Self {
            client,
            mode,
            ok: counts.ok,
            err: counts.err,
            secs: rounded(secs, 3),
            rate: if secs > 0.0 { rounded(counts.measured as f64 / secs, 1) } else { 0.0 },
            cpu_us_per_msg: span.cpu.map(|cpu| rounded(cpu.as_secs_f64() * 1e6 / messages, 3)),
            p50_us: 0,
            p99_us: 0,
            peak_rss_mb: process::peak_rss_mib().map(|mib| rounded(mib, 1)),
        }
    }

    /// The same with latencies; without, they are 0.
    pub(crate) fn with_latency(mut self, p50_us: u64, p99_us: u64) -> Self {
        (self.p50_us, self.p99_us) = (p50_us, p99_us);
        self
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can be written as JSON")
    }

    pub(crate) fn to_table(&self) -> String {
        let unknown = || "unknown".to_owned();
        let latency = |us| if us == 0 { "-".to_owned() } else { grouped(us) };
        let rows = [
            ("client", self.client.to_owned()),
            ("mode", self.mode.to_owned()),
            ("messages", grouped(self.ok)),
            ("errors", grouped(self.err)),
            ("seconds", format!("{:.3}", self.secs)),
            ("messages a second", grouped(whole(self.rate))),
            ("CPU a message (us)", self.cpu_us_per_msg.map_or_else(unknown, |us| format!("{us:.2}"))),
            ("latency p50 (us)", latency(self.p50_us)),
            ("latency p99 (us)", latency(self.p99_us)),
            ("peak memory (MiB)", self.peak_rss_mb.map_or_else(unknown, |mib| format!("{mib:.1}"))),
        ];
        table(rows)
    }
}

/// Names and their values, one a row.
pub(crate) fn table(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(values) = table.column_mut(1) {
        values.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is never negative, and for the eye"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(cpu: Option<Duration>) -> Report {
        let counts = Counts { ok: 1_000_020, err: 3, measured: 1_000_000 };
        let span = Span { wall: Duration::from_millis(8_000), cpu };
        let report = Report::new("rocketmq-rust", "sync", counts, span);
        Report { peak_rss_mb: Some(7.25), ..report.with_latency(1_250, 9_999) }
    }

    #[test]
    fn the_json_line_has_exactly_the_keys_of_the_contract() {
        assert_eq!(
            report(Some(Duration::from_millis(5_120))).to_json(),
            r#"{"client":"rocketmq-rust","mode":"sync","ok":1000020,"err":3,"secs":8.0,"rate":125000.0,"cpu_us_per_msg":5.12,"p50_us":1250,"p99_us":9999,"peak_rss_mb":7.25}"#
        );
    }

    #[test]
    fn what_the_system_does_not_tell_is_null() {
        let report = Report { peak_rss_mb: None, ..report(None) };
        assert!(report.to_json().contains(r#""cpu_us_per_msg":null"#));
        assert!(report.to_json().contains(r#""peak_rss_mb":null"#));
        assert!(report.to_table().contains("unknown"));
    }

    #[test]
    fn the_table_shows_every_figure() {
        let table = report(Some(Duration::from_millis(5_120))).to_table();
        for text in ["1,000,020", "8.000", "125,000", "5.12", "1,250", "9,999", "7.2", "sync"] {
            assert!(table.contains(text), "{text} in\n{table}");
        }
    }

    #[test]
    fn a_run_of_nothing_divides_by_nothing() {
        let span = Span { wall: Duration::ZERO, cpu: Some(Duration::ZERO) };
        let report = Report::new("rocketmq-rust", "consume", Counts { ok: 0, err: 0, measured: 0 }, span);
        assert_eq!((report.rate, report.cpu_us_per_msg), (0.0, Some(0.0)));
    }

    #[test]
    fn digits_are_grouped_by_threes() {
        let texts = [0, 12, 123, 1_234, 123_456, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}
