//! [`Place`]: the files that blocks lie in, in a directory that says by its name how many there are and how large.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use onward_segment::free_bytes;

/// Blocks are evicted from disk by the file of this size.
const FILE_BYTES: u64 = 64 << 20;
/// With little disk there are at least this many files.
const LEAST_FILES: u64 = 8;
/// The smallest file: a few blocks.
const LEAST_FILE_BYTES: u64 = 1 << 20;

/// Files of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    files: u64,
    file_bytes: u64,
    /// What they would take in all if the disk had not been nearly full when they were made.
    most_bytes: u64,
}

impl Place {
    /// Files that take `disk_bytes`, as nearly as files do.
    fn of(disk_bytes: u64) -> Self {
        let file_bytes =
            (disk_bytes / LEAST_FILES).clamp(LEAST_FILE_BYTES, FILE_BYTES) / LEAST_FILE_BYTES * LEAST_FILE_BYTES;
        let files = (disk_bytes / file_bytes).max(2);
        Self { files, file_bytes, most_bytes: files * file_bytes }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files * self.file_bytes
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// As its directory is called: `320x64m`, or `200x64m-of-20480m` where the disk had not more.
    pub(super) fn name(&self) -> String {
        let files = format!("{}x{}m", self.files, self.file_bytes / LEAST_FILE_BYTES);
        if self.bytes() == self.most_bytes { files } else { format!("{files}-of-{}m", self.most_bytes >> 20) }
    }

    fn parse(name: &str) -> Option<Self> {
        let (files, most) = match name.split_once("-of-") {
            Some((files, most)) => (files, Some(most.strip_suffix('m')?.parse::<u64>().ok()?.checked_mul(1 << 20)?)),
            None => (name, None),
        };
        let (files, mib) = files.strip_suffix('m')?.split_once('x')?;
        let (files, file_bytes) = (files.parse().ok()?, mib.parse::<u64>().ok()?.checked_mul(LEAST_FILE_BYTES)?);
        let bytes = u64::checked_mul(files, file_bytes)?;
        Some(Self { files, file_bytes, most_bytes: most.unwrap_or(bytes) })
    }

    /// The one below `directory` that takes at most `disk_bytes`, or what is to be made there.
    pub(super) fn below(directory: &Path, disk_bytes: u64) -> Self {
        // The directory may still have to be made.
        let free = directory.ancestors().find_map(free_bytes);
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let there = entries.filter_map(|entry| Some((Self::parse(entry.file_name().to_str()?)?, taken(&entry.path()))));
        Self::choose(there, disk_bytes, free)
    }

    /// Of those that are there, with what they take of the disk, one that was made for as much, and can still be filled; a new one
    /// where there is none, or the disk has room for twice as much now. A new one takes not all of a nearly full disk.
    fn choose(there: impl Iterator<Item = (Self, u64)>, disk_bytes: u64, free: Option<u64>) -> Self {
        let wanted = Self::of(disk_bytes);
        let new = |taken: u64| {
            let share = free.map_or(disk_bytes, |free| free.saturating_add(taken) / 2);
            Self { most_bytes: wanted.bytes(), ..Self::of(disk_bytes.min(share)) }
        };
        let is_kept = |(place, taken): &(Self, u64)| {
            let is_of_use = place.most_bytes == wanted.bytes() && place.bytes() <= wanted.bytes();
            let fits = free.is_none_or(|free| place.bytes().saturating_sub(*taken) <= free);
            is_of_use && fits && new(*taken).bytes() < 2 * place.bytes().max(1)
        };
        let mut taken = 0;
        let kept = there.inspect(|(_, bytes)| taken += bytes).filter(is_kept).max_by_key(|(_, taken)| *taken);
        kept.map_or_else(|| new(taken), |(place, _)| place)
    }
}

/// Bytes that files below `directory` take.
fn taken(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.blocks() * 512)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn choose(there: &[(Place, u64)], disk_bytes: u64, free: u64) -> Place {
        Place::choose(there.iter().copied(), disk_bytes, Some(free))
    }

    #[test]
    fn names_are_read_back() {
        for (disk_bytes, free, name) in [
            (20 * GIB, 100 * GIB, "320x64m"),
            (20 * GIB, 20 * GIB, "160x64m-of-20480m"),
            (10 << 20, 100 * GIB, "10x1m"),
            (0, GIB, "2x1m"),
        ] {
            let place = choose(&[], disk_bytes, free);
            assert_eq!(place.name(), name);
            assert_eq!(Place::parse(name), Some(place));
        }
        for name in ["", "x", "8x64", "8x64m-of-", "8x64m-of-9g", "99999999999999x99999999999999m"] {
            assert_eq!(Place::parse(name), None, "{name}");
        }
    }

    /// What was kept was thrown away at a start when the disk had less than twice of what was wanted free, since that was another part then.
    #[test]
    fn less_free_disk_than_before_keeps_what_is_there() {
        let first = choose(&[], 20 * GIB, 30 * GIB);
        assert_eq!(first.bytes(), 15 * GIB);
        // It filled a part of its place, and others took some, or gave it back.
        for (taken, free) in [(0, 30 * GIB), (5 * GIB, 25 * GIB), (5 * GIB, 11 * GIB), (15 * GIB, GIB), (GIB, 40 * GIB)]
        {
            assert_eq!(choose(&[(first, taken)], 20 * GIB, free), first, "{taken} {free}");
        }
        // It could not be filled any more.
        assert_eq!(choose(&[(first, 5 * GIB)], 20 * GIB, 9 * GIB).bytes(), 7 * GIB);
        // The setting is another one.
        assert_eq!(choose(&[(first, 5 * GIB)], 4 * GIB, 25 * GIB).bytes(), 4 * GIB);
        // There is far more room now.
        let small = choose(&[], 20 * GIB, 8 * GIB);
        assert_eq!(choose(&[(small, GIB)], 20 * GIB, 39 * GIB).bytes(), 20 * GIB);
    }
}
