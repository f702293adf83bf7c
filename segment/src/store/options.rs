//! Where segments live and how much of it they may use.

use std::path::{Path, PathBuf};

use onward_wire::Config;

const MIB: u64 = 1 << 20;
/// `segment_dir` that chooses by itself, and what it chooses if it can.
const AUTO: &str = "auto";
const SHARED_MEMORY: &str = "/dev/shm";
/// A shared-memory directory with less free than this (containers have 64 MiB) is not worth using.
const LEAST_SHARED_MEMORY_BYTES: u64 = 512 * MIB;
/// At most this much is pre-faulted ahead of need.
const MOST_PREFAULTED_BYTES: u64 = 256 * MIB;

/// Ids of cached columns, which no store of exchanges reaches.
const COLUMN_IDS_AFTER: u64 = 1 << 48;

/// How to open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Directory of the first tier: shared memory.
    pub memory_dir: PathBuf,
    /// Directory of the second tier: local disk.
    pub disk_dir: PathBuf,
    /// Bytes of files in the first tier, idle ones included.
    pub memory_bytes: u64,
    /// Bytes in the first tier of what one function wrote; its next segments go to the second.
    pub function_bytes: u64,
    /// Bytes of files in the second tier.
    pub disk_bytes: u64,
    /// Bytes of idle files kept for reuse in the first tier.
    pub pool_bytes: u64,
    /// Bytes of idle files that the background thread makes ahead of need, once the store is used.
    pub prefault_bytes: u64,
    /// Ids start after this one: the stores of one host share their functions' table of mappings.
    pub ids_after: u64,
}

impl StoreOptions {
    /// All below one directory, for tests: nothing is pre-faulted.
    pub fn below(dir: &Path, memory_bytes: u64, disk_bytes: u64) -> Self {
        Self {
            memory_dir: dir.join("memory"),
            disk_dir: dir.join("disk"),
            memory_bytes,
            function_bytes: memory_bytes,
            disk_bytes,
            pool_bytes: memory_bytes / 2,
            prefault_bytes: 0,
            ids_after: 0,
        }
    }

    /// The store of cached columns: in memory, never on disk, whatever is free there.
    pub fn for_columns(config: &Config) -> Self {
        let (memory_dir, memory_bytes) = choose_dir(config, config.cache_memory_limit_bytes());
        Self {
            memory_dir,
            disk_dir: config.spill_root(),
            memory_bytes,
            function_bytes: memory_bytes,
            disk_bytes: 0,
            pool_bytes: memory_bytes / 8,
            prefault_bytes: MOST_PREFAULTED_BYTES.min(memory_bytes / 8),
            ids_after: COLUMN_IDS_AFTER,
        }
    }

    /// What `config` says. `segment_dir = auto` takes /dev/shm where it is large enough, else the spill directory, with
    /// a line in the log.
    pub fn from_config(config: &Config) -> Self {
        let disk_dir = config.spill_root();
        let (memory_dir, memory_bytes) = choose_dir(config, config.segment_memory_limit_bytes());
        Self {
            // The directory may have to be made first: its parent tells.
            disk_bytes: disk_dir.ancestors().find_map(usable_bytes).unwrap_or(u64::MAX).min(config.segment_disk_bytes),
            memory_dir,
            disk_dir,
            memory_bytes,
            function_bytes: match config.function_segment_bytes {
                0 => memory_bytes / 4 * 3,
                n => n,
            },
            pool_bytes: memory_bytes / 2,
            prefault_bytes: MOST_PREFAULTED_BYTES.min(memory_bytes / 8),
            ids_after: 0,
        }
    }
}

fn choose_dir(config: &Config, wanted_bytes: u64) -> (PathBuf, u64) {
    match config.segment_dir.as_str() {
        AUTO => choose_memory_dir(Path::new(SHARED_MEMORY), &config.spill_root(), wanted_bytes),
        dir => (dir.into(), wanted_bytes),
    }
}

impl StoreOptions {
    /// Every directory that [`StoreOptions::from_config`] may choose.
    pub(super) fn dirs(config: &Config) -> [PathBuf; 2] {
        let memory_dir = match config.segment_dir.as_str() {
            AUTO => SHARED_MEMORY,
            dir => dir,
        };
        [memory_dir.into(), config.spill_root()]
    }
}

/// What is free in `dir` but for a tenth, which stays for the other users of its disk.
fn usable_bytes(dir: &Path) -> Option<u64> {
    free_bytes(dir).map(|free| free / 10 * 9)
}

/// What is free on the file system of `dir`. `None`: it is not there, or nobody can tell.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|stat| stat.f_bavail * stat.f_frsize)
}

/// `shared` with as much of `wanted_bytes` as is free there, or `disk_dir`.
fn choose_memory_dir(shared: &Path, disk_dir: &Path, wanted_bytes: u64) -> (PathBuf, u64) {
    let usable_bytes = usable_bytes(shared).unwrap_or(0);
    if usable_bytes >= wanted_bytes {
        return (shared.to_owned(), wanted_bytes);
    }
    if usable_bytes >= LEAST_SHARED_MEMORY_BYTES {
        tracing::warn!(dir = %shared.display(), usable_bytes, wanted_bytes,
            "shared memory is smaller than segment_memory_bytes: segments past it go to disk");
        return (shared.to_owned(), usable_bytes);
    }
    tracing::warn!(dir = %shared.display(), usable_bytes, instead = %disk_dir.display(),
        "shared memory is too small for segments: they are kept in a directory (set segment_dir to choose it)");
    (disk_dir.to_owned(), wanted_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_memory_directory_that_is_not_there_falls_back_to_disk() {
        let disk = Path::new("/disk");
        assert_eq!(choose_memory_dir(Path::new("/no/such/dir"), disk, 1), (disk.to_owned(), 1));
    }

    #[test]
    fn the_disk_tier_leaves_room_on_a_disk_that_is_not_as_large_and_where_the_directory_is_not_made_yet() {
        let dir = std::env::temp_dir().join("not/made/yet");
        let config = Config { segment_disk_bytes: u64::MAX, spill_dir: dir.display().to_string(), ..Config::default() };
        let bytes = StoreOptions::from_config(&config).disk_bytes;
        assert!(bytes > 0 && bytes < u64::MAX / 2, "{bytes}");
    }

    #[test]
    fn a_large_enough_directory_is_used_with_the_whole_budget() {
        let dir = std::env::temp_dir();
        assert_eq!(choose_memory_dir(&dir, Path::new("/disk"), 1), (dir, 1));
    }
}
