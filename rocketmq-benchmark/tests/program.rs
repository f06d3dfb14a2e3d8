//! The program as its users see it, on a cluster in its own process.

use serde_json::Value;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_rocketmq-benchmark")).args(arguments).output();
    program.expect("the program can be started")
}

/// The figures of a run on a cluster in the process.
fn figures(command: &str, arguments: &[&str]) -> Value {
    let output = run(&[&[command, "--name-server", "embedded", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    assert_eq!(line.lines().count(), 1, "{line}");
    serde_json::from_str(&line).expect("the line is JSON")
}

#[test]
fn every_mode_sends_all_messages() {
    for mode in ["sync", "async", "oneway", "batch"] {
        let figures = figures("produce", &["--mode", mode, "--messages", "1001", "--concurrency", "7"]);
        assert_eq!((&figures["client"], &figures["mode"]), (&"rocketmq-rust".into(), &mode.into()));
        assert_eq!((&figures["ok"], &figures["err"]), (&1001.into(), &0.into()), "{figures}");
        assert!(figures["rate"].as_f64().unwrap() > 0.0, "{figures}");
    }
}

#[test]
fn what_is_sent_first_is_consumed() {
    let figures = figures("consume", &["--messages", "1001", "--concurrency", "3", "--threads", "2"]);
    assert_eq!((&figures["mode"], &figures["ok"], &figures["err"]), (&"consume".into(), &1001.into(), &0.into()));
    let mut keys: Vec<_> = figures.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = ["client", "cpu_us_per_msg", "err", "mode", "ok", "p50_us", "p99_us", "peak_rss_mb", "rate", "secs"];
    assert_eq!(keys, expected);
}

#[test]
fn an_idle_consumer_has_all_queues_and_a_share_of_a_core() {
    let figures = figures("idle", &["--topics", "3", "--queues", "5", "--seconds", "1"]);
    assert_eq!((&figures["mode"], &figures["with_broker"]), (&"idle".into(), &true.into()));
    assert_eq!((&figures["topics"], &figures["queues"]), (&3.into(), &15.into()), "{figures}");
    assert!(figures["secs"].as_f64().unwrap() >= 1.0, "{figures}");
}

#[test]
fn without_json_there_is_a_table() {
    let output = run(&["produce", "--name-server", "embedded", "--messages", "50"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && table.contains("messages a second"), "{table}");
}

#[test]
fn the_time_limit_ends_a_run_which_then_reports_what_there_is() {
    let endless = ["produce", "--name-server", "embedded", "--messages", "1000000000", "--timeout", "1", "--json"];
    let output = run(&endless);
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(figures["ok"].as_u64().unwrap() > 0, "{figures}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the time limit"));
}

#[test]
fn a_name_server_that_is_not_there_is_one_readable_error() {
    for command in ["produce", "consume", "floor", "idle"] {
        let output = run(&[command, "--name-server", "127.0.0.1:1"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.starts_with("error: ") && text.contains("127.0.0.1:1"), "{text}");
        assert!(output.stdout.is_empty());
    }
}
