//! A second look at scenarios that failed, where the machine is shared with others.
//!
//! With `ROCKETMQ_TEST_RETRY=1` those that failed are tried once more after all others have ended, one by one. The first
//! failure stays in the output in full, and a closing line names what passed only then. Where anything else failed, or
//! too many did, nothing is tried again.

use std::{
    fmt::{self, Debug, Formatter},
    sync::{Arc, Mutex, MutexGuard},
};

use libtest_mimic::{Arguments, Failed, Trial};

/// More failures than this are no accident.
const MOST: usize = 5;

type Attempt = Arc<dyn Fn() -> Result<(), Failed> + Send + Sync>;

/// The trials of a run that may be tried again, and which of them failed.
#[derive(Default)]
pub struct SecondLook {
    is_wanted: bool,
    failed: Mutex<Vec<(String, Attempt)>>,
}

impl Debug for SecondLook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let failed: Vec<_> = locked(&self.failed).iter().map(|(name, _)| name.clone()).collect();
        f.debug_struct("SecondLook").field("is_wanted", &self.is_wanted).field("failed", &failed).finish()
    }
}

/// What follows a run.
#[derive(Debug, PartialEq)]
enum Next {
    Passed,
    Failed { why_not_again: Option<String> },
    TryAgain,
}

impl SecondLook {
    /// As `ROCKETMQ_TEST_RETRY` says; without it nothing is tried again.
    pub fn of_this_run() -> Self {
        Self { is_wanted: std::env::var("ROCKETMQ_TEST_RETRY").is_ok_and(|value| value == "1"), ..Self::default() }
    }

    /// A trial that may be tried again.
    pub fn trial(
        self: &Arc<Self>,
        name: String,
        attempt: impl Fn() -> Result<(), Failed> + Send + Sync + 'static,
    ) -> Trial {
        let (look, attempt, name_again) = (self.clone(), Arc::new(attempt), name.clone());
        Trial::test(name, move || {
            let result = attempt();
            if result.is_err() {
                locked(&look.failed).push((name_again, attempt));
            }
            result
        })
    }

    /// Runs the trials, and those of [`trial`](Self::trial) that fail once more where that is wanted. The answer is
    /// whether each has passed, the first time or the second.
    pub fn run(&self, arguments: &Arguments, trials: Vec<Trial>) -> bool {
        let first = libtest_mimic::run(arguments, trials);
        let failed = std::mem::take(&mut *locked(&self.failed));
        match next(self.is_wanted, first.num_failed, failed.len()) {
            Next::Passed => true,
            Next::Failed { why_not_again } => {
                why_not_again.iter().for_each(|why| println!("nothing is tried again: {why}"));
                false
            }
            Next::TryAgain => {
                let (passed, all_passed) = again(arguments, &failed);
                let (flaky, twice): (Vec<_>, Vec<_>) =
                    failed.iter().map(|(name, _)| name.as_str()).partition(|name| passed.iter().any(|p| p == name));
                closing_lines(&flaky, &twice).iter().for_each(|line| println!("{line}"));
                all_passed && twice.is_empty()
            }
        }
    }
}

/// Tries each once more, one at a time: the names of those that ran and passed, and whether the run says so of all.
fn again(arguments: &Arguments, failed: &[(String, Attempt)]) -> (Vec<String>, bool) {
    println!("tried again, each alone:");
    let passed = Arc::new(Mutex::new(Vec::new()));
    let trial = |(name, attempt): &(String, Attempt)| {
        let (name_again, attempt, passed) = (name.clone(), attempt.clone(), passed.clone());
        let trial = Trial::test(name, move || attempt().map(|()| locked(&passed).push(name_again)));
        trial.with_kind("again")
    };
    // What was picked for the first run is picked already.
    let arguments = Arguments {
        test_threads: Some(1),
        logfile: arguments.logfile.as_ref().map(|path| format!("{path}.again")),
        color: arguments.color,
        format: arguments.format,
        quiet: arguments.quiet,
        ..Arguments::default()
    };
    let second = libtest_mimic::run(&arguments, failed.iter().map(trial).collect());
    let all_passed = second.num_failed == 0 && usize::try_from(second.num_passed).is_ok_and(|n| n == failed.len());
    let passed = locked(&passed).clone();
    (passed, all_passed)
}

/// What follows a run with so many failures, of which some may be tried again.
fn next(is_wanted: bool, failed: u64, may_be_tried_again: usize) -> Next {
    let refused = |why_not_again| Next::Failed { why_not_again };
    match failed {
        0 if may_be_tried_again == 0 => Next::Passed,
        _ if !is_wanted => refused(None),
        _ if failed != may_be_tried_again as u64 => {
            refused(Some(format!("{failed} failed, and {may_be_tried_again} of those are for a second look")))
        }
        _ if may_be_tried_again > MOST => {
            refused(Some(format!("{may_be_tried_again} failed; more than {MOST} are no accident")))
        }
        _ => Next::TryAgain,
    }
}

fn closing_lines(flaky: &[&str], twice: &[&str]) -> Vec<String> {
    let line = |what: &str, names: &[&str]| {
        let noun = if names.len() == 1 { "scenario" } else { "scenarios" };
        (!names.is_empty()).then(|| format!("{} {noun} {what}: {}", names.len(), names.join(", ")))
    };
    [line("passed only when tried again (flaky)", flaky), line("failed twice", twice)].into_iter().flatten().collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Runs trials that fail so many times each before they pass, and one beside them that may not be tried again.
    /// The answer is whether all is well, and how often each ran.
    fn run(is_wanted: bool, failures: &[usize], other: Option<Result<(), Failed>>) -> (bool, Vec<usize>) {
        let look = Arc::new(SecondLook { is_wanted, ..SecondLook::default() });
        let runs: Vec<Arc<AtomicUsize>> = failures.iter().map(|_| Arc::default()).collect();
        let trial = |(at, failures): (usize, &usize)| {
            let (runs, failures) = (runs[at].clone(), *failures);
            look.trial(format!("trial {at}"), move || match runs.fetch_add(1, Ordering::SeqCst) < failures {
                true => Err("on purpose".into()),
                false => Ok(()),
            })
        };
        let mut trials: Vec<Trial> = failures.iter().enumerate().map(trial).collect();
        trials.extend(other.map(|result| Trial::test("other", || result)));
        let folder = tempfile::tempdir().unwrap();
        let logfile = Some(folder.path().join("log").to_str().unwrap().to_owned());
        let arguments = Arguments { logfile, ..Arguments::default() };
        let is_well = look.run(&arguments, trials);
        (is_well, runs.iter().map(|runs| runs.load(Ordering::SeqCst)).collect())
    }

    #[test]
    fn what_passes_runs_once() {
        assert_eq!(run(true, &[0, 0], Some(Ok(()))), (true, vec![1, 1]));
    }

    #[test]
    fn what_fails_once_passes_the_second_time() {
        assert_eq!(run(true, &[0, 1, 1], Some(Ok(()))), (true, vec![1, 2, 2]));
    }

    #[test]
    fn what_fails_twice_has_failed() {
        assert_eq!(run(true, &[1, 2], None), (false, vec![2, 2]));
        assert_eq!(run(true, &[9], None), (false, vec![2]));
    }

    #[test]
    fn nothing_is_tried_again_unasked() {
        assert_eq!(run(false, &[0, 1], None), (false, vec![1, 1]));
    }

    #[test]
    fn nothing_is_tried_again_where_others_failed() {
        assert_eq!(run(true, &[1], Some(Err("embedded".into()))), (false, vec![1]));
    }

    #[test]
    fn many_failures_are_no_accident() {
        assert_eq!(run(true, &[1; MOST], None), (true, vec![2; MOST]));
        assert_eq!(run(true, &[1; MOST + 1], None), (false, vec![1; MOST + 1]));
    }

    #[test]
    fn a_failure_that_was_not_noted_or_not_counted_is_one() {
        assert!(matches!(next(true, 1, 0), Next::Failed { why_not_again: Some(_) }));
        assert_eq!(next(false, 0, 1), Next::Failed { why_not_again: None });
        assert!(matches!(next(true, 0, 1), Next::Failed { why_not_again: Some(_) }));
        assert_eq!(next(true, 1, 1), Next::TryAgain);
        assert_eq!(next(true, 0, 0), Next::Passed);
    }

    #[test]
    fn a_panic_the_second_time_is_a_failure() {
        let look = Arc::new(SecondLook { is_wanted: true, ..SecondLook::default() });
        let runs = AtomicUsize::new(0);
        let trial = look.trial("panics".to_owned(), move || match runs.fetch_add(1, Ordering::SeqCst) {
            0 => Err("on purpose".into()),
            _ => panic!("on purpose"),
        });
        let folder = tempfile::tempdir().unwrap();
        let logfile = Some(folder.path().join("log").to_str().unwrap().to_owned());
        assert!(!look.run(&Arguments { logfile, ..Arguments::default() }, vec![trial]));
    }

    #[test]
    fn the_closing_lines_name_what_passed_late_and_what_did_not() {
        assert_eq!(
            closing_lines(&["a", "b"], &["c"]),
            ["2 scenarios passed only when tried again (flaky): a, b", "1 scenario failed twice: c"]
        );
        assert!(closing_lines(&[], &[]).is_empty());
    }
}
