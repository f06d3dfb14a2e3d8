//! Folders of runs that ended together with the shells that should have cleaned up after them: all of a container's
//! processes, say. Each folder names its owner, and the next run removes those whose owner is gone.
//!
//! Owners are told apart on Linux only; elsewhere folders have none, and such folders stay.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

/// What folders made here begin with.
pub(super) const PREFIX: &str = "rocketmq-";
const OWNER_FILE: &str = ".owner";
/// Of a process in another container or before a restart nothing is known. After so long it is taken for gone.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A process, told from a later one with the same number.
#[derive(Clone, Debug, PartialEq)]
struct Owner {
    pid: u32,
    /// Clock ticks from boot to its start.
    started: u64,
    /// The boot, and the container, within which the number means something.
    world: String,
}

impl Owner {
    /// This process; `None` where the system does not tell.
    fn this() -> Option<Self> {
        let pid = std::process::id();
        Some(Self { pid, started: start_of(pid)?, world: world()? })
    }

    fn to_line(&self) -> String {
        format!("{} {} {}\n", self.pid, self.started, self.world)
    }

    fn from_line(line: &str) -> Option<Self> {
        let (pid, rest) = line.split_once(' ')?;
        let (started, world) = rest.trim_end().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()?, world: world.to_owned() })
    }

    fn is_gone(&self, world: &str, start_of: impl Fn(u32) -> Option<u64>, age: Duration) -> bool {
        match self.world == world {
            true => start_of(self.pid) != Some(self.started),
            false => age > FORGOTTEN,
        }
    }
}

/// Writes into a new folder that this process owns it.
pub(super) fn mark(folder: &Path) -> io::Result<()> {
    Owner::this().map_or(Ok(()), |owner| fs::write(folder.join(OWNER_FILE), owner.to_line()))
}

/// Removes the folders inside `parent` whose owner is gone. What cannot be read or removed stays: it may be somebody
/// else's.
pub(super) fn remove_from(parent: &Path) {
    let (Some(world), Ok(entries)) = (world(), fs::read_dir(parent)) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            // Not what a link leads to.
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_left_over(&entry.path(), &world) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_left_over(folder: &Path, world: &str) -> bool {
    let file = folder.join(OWNER_FILE);
    let age = || SystemTime::now().duration_since(fs::metadata(&file).ok()?.modified().ok()?).ok();
    let owner = fs::read_to_string(&file).ok().and_then(|line| Owner::from_line(&line));
    owner.is_some_and(|owner| owner.is_gone(world, start_of, age().unwrap_or_default()))
}

fn world() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}", boot.trim(), fs::read_link("/proc/self/ns/pid").ok()?.display()))
}

/// When a process that lives started, in ticks.
fn start_of(pid: u32) -> Option<u64> {
    read_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads `/proc/<pid>/stat`. The second field is a name in parentheses, which may hold anything; the third is the state
/// and the 22nd the start.
fn read_start(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // It has ended, and its parent has not looked.
    let is_dead = matches!(fields.next()?, "Z" | "X");
    if is_dead { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_read_behind_its_name() {
        let stat = |state| format!("7 (a) b (c)) {state} 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2 3\n");
        assert_eq!(read_start(&stat("S")), Some(4711));
        assert_eq!(read_start(&stat("Z")), None);
        assert_eq!(read_start("7 (a) S 1"), None);
    }

    #[test]
    fn owners_are_read_as_they_are_written() {
        let owner = Owner { pid: 7, started: 4711, world: "boot pid:[1]".to_owned() };
        assert_eq!(Owner::from_line(&owner.to_line()), Some(owner));
        for line in ["", "7", "7 4711", "x 4711 boot", "7 y boot"] {
            assert_eq!(Owner::from_line(line), None, "{line}");
        }
    }

    #[test]
    fn an_owner_is_gone_when_its_number_is_free_or_somebody_elses() {
        let owner = Owner { pid: 7, started: 4711, world: "here".to_owned() };
        let young = Duration::ZERO;
        assert!(!owner.is_gone("here", |_| Some(4711), 2 * FORGOTTEN));
        assert!(owner.is_gone("here", |_| Some(4712), young));
        assert!(owner.is_gone("here", |_| None, young));
        assert!(!owner.is_gone("elsewhere", |_| None, young));
        assert!(owner.is_gone("elsewhere", |_| None, 2 * FORGOTTEN));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_folders_of_the_gone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str, owner: Option<&Owner>| {
            let folder = parent.path().join(name);
            fs::create_dir_all(folder.join("store")).unwrap();
            if let Some(owner) = owner {
                fs::write(folder.join(OWNER_FILE), owner.to_line()).unwrap();
            }
            folder
        };
        let this = Owner::this().unwrap();
        // As a process that had this number before.
        let gone = Owner { started: this.started - 1, ..this.clone() };
        let left = folder("rocketmq-left", Some(&gone));
        let kept =
            [folder("rocketmq-mine", Some(&this)), folder("rocketmq-nobodys", None), folder("elsewhere", Some(&gone))];
        let link = parent.path().join("rocketmq-link");
        std::os::unix::fs::symlink(&kept[2], &link).unwrap();

        remove_from(parent.path());

        assert!(!left.exists());
        assert!(kept.iter().all(|folder| folder.join("store").exists()) && link.exists());
    }
}
