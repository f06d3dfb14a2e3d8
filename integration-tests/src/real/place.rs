//! Where a cluster's data goes.
//!
//! From 85 % of the disk on brokers remove what they have stored, and from 90 % on they store no more; 5.x cannot be
//! told otherwise. So where others have filled the disk, the data goes into memory: a run of the suite takes some
//! 100 MiB a broker, since its files are made whole but written only in part.

use std::path::{Path, PathBuf};

use super::{
    leftovers,
    machine::{Space, memory_available_kib},
};

/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";
/// The disk is left from here on, well before brokers mind.
const FULL_PERCENT: u64 = 80;
/// What must be left in memory.
const ENOUGH_KIB: u64 = 4 * 1024 * 1024;

/// The folder to make a cluster's folder in. Removes what ended runs may have left there first.
pub(super) fn of_data() -> PathBuf {
    let (usual, memory) = (std::env::temp_dir(), Path::new(MEMORY));
    leftovers::remove_from(&usual);
    leftovers::remove_from(memory);
    let disk = Space::at(&usual);
    if !goes_to_memory(disk, Space::at(memory), memory_available_kib()) {
        return usual;
    }
    let used = disk.map_or(0, Space::used_percent);
    eprintln!("data goes to {MEMORY}: the disk at {} is {used} % used", usual.display());
    memory.to_owned()
}

/// Whether the usual place is too full, and there is room elsewhere: in a file system in memory, and so in memory.
fn goes_to_memory(usual: Option<Space>, memory: Option<Space>, available_kib: Option<u64>) -> bool {
    usual.is_some_and(|space| space.used_percent() > FULL_PERCENT)
        && memory.is_some_and(|space| space.usable_kib >= ENOUGH_KIB)
        && available_kib.is_none_or(|kib| kib >= ENOUGH_KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(percent: u64) -> Option<Space> {
        Some(Space { used_kib: percent, usable_kib: 100 - percent })
    }

    fn left(kib: u64) -> Option<Space> {
        Some(Space { used_kib: 0, usable_kib: kib })
    }

    #[test]
    fn a_disk_with_room_is_used() {
        assert!(!goes_to_memory(used(80), left(ENOUGH_KIB), Some(ENOUGH_KIB)));
        assert!(!goes_to_memory(None, left(ENOUGH_KIB), Some(ENOUGH_KIB)));
    }

    #[test]
    fn a_full_disk_is_left_where_memory_has_room() {
        assert!(goes_to_memory(used(81), left(ENOUGH_KIB), Some(ENOUGH_KIB)));
        assert!(goes_to_memory(used(100), left(ENOUGH_KIB), None));
    }

    #[test]
    fn memory_without_room_is_not_filled() {
        assert!(!goes_to_memory(used(99), None, Some(ENOUGH_KIB)));
        assert!(!goes_to_memory(used(99), left(ENOUGH_KIB - 1), Some(ENOUGH_KIB)));
        assert!(!goes_to_memory(used(99), left(ENOUGH_KIB), Some(ENOUGH_KIB - 1)));
    }
}
