//! Processes and folders that do not outlive this process, whether it returns, panics, exits or is killed.
//!
//! Each hangs on a pipe whose other end only we hold. When it closes, by our hand or because the system closed it for
//! us, a shell on the far side does the rest. So nothing depends on a destructor that may never run. Where that shell is
//! killed as well, the next run removes the folder.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{Signal, leftovers};

/// Runs its arguments as a command, tells the pid, and kills it when standard input ends.
///
/// Background jobs get `/dev/null` as standard input, so the watcher reads a copy of ours. It ends when the command
/// does: later the pid may be somebody else's.
const SUPERVISE: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null >&2 &
command=$!
echo "$command"
(read -r _ <&3; kill -9 "$command") >/dev/null &
watcher=$!
exec 3<&-
wait "$command"
status=$?
kill "$watcher"
exit "$status"
"#;

/// A command that runs under a shell that ends it when we end.
#[derive(Debug)]
pub(super) struct Supervised {
    shell: Child,
    /// `Some` until drop. Closing it kills the command.
    leash: Option<ChildStdin>,
    pid: String,
}

impl Supervised {
    /// Starts the command (program, arguments, environment, folder); all it prints goes to `log`, written afresh.
    pub(super) fn start(command: &Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut supervisor = shell(SUPERVISE);
        supervisor.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => supervisor.env(name, value),
                None => supervisor.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            supervisor.current_dir(folder);
        }
        let mut shell = supervisor
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let leash = shell.stdin.take();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().context("a piped output is there")?).read_line(&mut pid)?;
        let pid = pid.trim().to_owned();
        ensure!(pid.parse::<u32>().is_ok(), "the shell for {command:?} tells no pid");
        Ok(Self { shell, leash, pid })
    }

    pub(super) fn is_running(&mut self) -> Result<bool> {
        Ok(self.shell.try_wait()?.is_none())
    }

    /// Whether the command has ended well.
    pub(super) fn has_succeeded(&mut self) -> Result<bool> {
        Ok(self.shell.try_wait()?.is_some_and(|status| status.success()))
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        let flag = match signal {
            Signal::Kill => "-9",
            Signal::Terminate => "-15",
            Signal::Freeze => "-STOP",
            Signal::Thaw => "-CONT",
        };
        // By the shell, whose `kill` is always there; not every small system has it as a program.
        // It fails when the command is gone already, which is as well.
        if self.is_running()? {
            shell(r#"kill "$1" "$2""#).args([flag, &self.pid]).stderr(Stdio::null()).status()?;
        }
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.shell.wait();
    }
}

/// Waits for a line, or for the death of whoever should have written it; then removes the folder, and runs the rest.
/// After a death the servers are being killed at this same moment, and must be gone first: what they still write would
/// come after the removal.
const CLEAN_UP: &str = r#"
read -r _ || sleep 1
folder=$1
shift
[ $# = 0 ] || "$@"
rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
"#;

/// A new folder that is removed with all it holds.
#[derive(Debug)]
pub(super) struct TempFolder {
    path: PathBuf,
    cleaner: Child,
    leash: Option<ChildStdin>,
}

impl TempFolder {
    /// Makes a folder inside `parent`. `before_removal` is a command to run first, empty for none; it is given the
    /// path of the new folder.
    pub(super) fn new(parent: &Path, before_removal: impl FnOnce(&Path) -> Vec<String>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(leftovers::PREFIX)
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        leftovers::mark(folder.path()).with_context(|| format!("cannot write into {}", folder.path().display()))?;
        let mut cleaner = shell(CLEAN_UP)
            .arg(folder.path())
            .args(before_removal(folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a shell")?;
        let leash = cleaner.stdin.take();
        Ok(Self { path: folder.keep(), cleaner, leash })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            let _ = leash.write_all(b"\n");
        }
        let _ = self.cleaner.wait();
    }
}

/// A shell for `script`, to be given arguments. It has a process group of its own, so that Ctrl-C on the terminal
/// reaches us alone and the shell lives to do its work after us.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    shell
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const HELPER: &str = "real::supervise::tests::helper_that_waits_to_be_killed";

    /// Not a test: the process that the test below starts and kills.
    #[test]
    #[ignore = "run by another test"]
    fn helper_that_waits_to_be_killed() {
        if std::env::var_os(HELPER).is_none() {
            return;
        }
        let folder = TempFolder::new(&std::env::temp_dir(), |_| Vec::new()).unwrap();
        let sleeper = Supervised::start(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap();
        println!("\nstarted {} {}", sleeper.pid, folder.path().display());
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn nothing_outlives_a_killed_process() {
        let mut helper = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", HELPER, "--ignored", "--nocapture"])
            .env(HELPER, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = BufReader::new(helper.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .find(|line| line.starts_with("started "))
            .unwrap();
        let [_, pid, folder] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        assert!(is_alive(pid) && Path::new(folder).exists());

        helper.kill().unwrap();
        helper.wait().unwrap();

        wait_until("the command is gone", || !is_alive(pid));
        wait_until("the folder is gone", || !Path::new(folder).exists());
    }

    #[test]
    fn a_dropped_command_and_folder_are_gone_at_once() {
        let folder = TempFolder::new(&std::env::temp_dir(), |path| {
            vec!["touch".to_owned(), path.with_extension("touched").display().to_string()]
        })
        .unwrap();
        let path = folder.path().to_owned();
        let command = Supervised::start(Command::new("sleep").arg("600"), &path.join("log")).unwrap();
        let pid = command.pid.clone();
        assert!(is_alive(&pid));
        drop(command);
        assert!(!is_alive(&pid));
        drop(folder);
        assert!(!path.exists());
        std::fs::remove_file(path.with_extension("touched")).expect("the command ran before the removal");
    }

    #[test]
    fn a_command_that_is_signalled_ends() {
        for signal in [Signal::Kill, Signal::Terminate] {
            let folder = TempFolder::new(&std::env::temp_dir(), |_| Vec::new()).unwrap();
            let mut command = Supervised::start(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap();
            assert!(command.is_running().unwrap());
            command.signal(signal).unwrap();
            command.shell.wait().unwrap();
            assert!(!command.has_succeeded().unwrap());
        }
    }

    #[test]
    fn a_command_gets_its_arguments_environment_and_folder() {
        let folder = TempFolder::new(&std::env::temp_dir(), |_| Vec::new()).unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo "$1 $WORD"; ls >&2"#, "sh", "two words"]).env("WORD", "here");
        let mut command = Supervised::start(command.current_dir(folder.path()), &log).unwrap();
        command.shell.wait().unwrap();
        assert!(command.has_succeeded().unwrap());
        assert_eq!(std::fs::read_to_string(log).unwrap(), "two words here\nlog\n");
    }

    fn is_alive(pid: &str) -> bool {
        shell(r#"kill -0 "$1""#).arg(pid).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Of processes that are not ours there is nothing to wait for.
    #[expect(clippy::disallowed_methods, reason = "polls a condition that only the system changes")]
    fn wait_until(what: &str, condition: impl FnMut() -> bool) {
        let mut condition = condition;
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(20), "never came: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
