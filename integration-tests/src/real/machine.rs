//! How full this machine is, as far as it decides whether brokers store: its disks and its memory.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The room of a file system, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) used_kib: u64,
    /// What this user may still write; less than what is free where the system keeps a reserve.
    pub(super) usable_kib: u64,
}

impl Space {
    /// Of the file system that holds a path; `None` where the system does not tell.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let output = Command::new("df").arg("-Pk").arg(path).env("LC_ALL", "C").stdin(Stdio::null()).output().ok()?;
        Self::read(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads what `df -Pk` prints for one path. Names may hold blanks, so the percentage is the mark to count from.
    fn read(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.lines().nth(1)?.split_whitespace().collect();
        let percent = words.iter().position(|word| word.strip_suffix('%').is_some_and(|n| n.parse::<u8>().is_ok()))?;
        let kib = |back: usize| words.get(percent.checked_sub(back)?)?.parse().ok();
        Some(Self { used_kib: kib(2)?, usable_kib: kib(1)? })
    }

    /// As brokers see it, rounded up. Java: `UtilAll.getDiskPartitionSpaceUsedPercent`.
    pub(super) fn used_percent(self) -> u64 {
        let whole = self.used_kib + self.usable_kib;
        if whole == 0 { 100 } else { (self.used_kib * 100).div_ceil(whole) }
    }
}

/// How much memory programs can still have, in KiB; `None` where the system does not tell.
pub(super) fn memory_available_kib() -> Option<u64> {
    read_memory(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn read_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// One line on the disk at a path, and on the memory.
pub(super) fn state(at: &Path) -> String {
    let disk = match Space::at(at) {
        Some(space) => format!("{} % used, {} MiB left", space.used_percent(), space.usable_kib / 1024),
        None => "unknown".to_owned(),
    };
    let memory = memory_available_kib().map_or_else(|| "unknown".to_owned(), |kib| format!("{} MiB", kib / 1024));
    format!("disk at {}: {disk}; memory available: {memory}", at.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_tells_what_is_used_and_what_may_be() {
        let text = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                    /dev/vda         264242176 35651584  60817408      37% /\n";
        let space = Space::read(text).unwrap();
        assert_eq!(space, Space { used_kib: 35_651_584, usable_kib: 60_817_408 });
        assert_eq!(space.used_percent(), 37);
        let blanks = "Filesystem 1024-blocks Used Available Capacity Mounted on\n//host/a b 10 7 3 70% /mnt/5 or so\n";
        assert_eq!(Space::read(blanks), Some(Space { used_kib: 7, usable_kib: 3 }));
    }

    #[test]
    fn what_is_no_table_tells_nothing() {
        for text in ["", "df: /nowhere: No such file or directory\n", "Filesystem\n- - - - 5%\n", "head\n12% /\n"] {
            assert_eq!(Space::read(text), None, "{text}");
        }
    }

    #[test]
    fn percentages_are_rounded_up_and_an_empty_system_is_full() {
        let percent = |used_kib, usable_kib| Space { used_kib, usable_kib }.used_percent();
        assert_eq!((percent(0, 10), percent(801, 199), percent(800, 200), percent(0, 0)), (0, 81, 80, 100));
    }

    #[test]
    fn memory_is_what_programs_can_have() {
        assert_eq!(read_memory("MemTotal: 24 kB\nMemFree: 1 kB\nMemAvailable:   23484 kB\n"), Some(23_484));
        assert_eq!(read_memory("MemTotal: 24 kB\n"), None);
    }

    #[test]
    fn this_machine_tells() {
        let space = Space::at(&std::env::temp_dir()).unwrap();
        assert!(space.used_kib + space.usable_kib > 0);
        assert_eq!(Space::at(Path::new("/no/such/place")), None);
    }
}
