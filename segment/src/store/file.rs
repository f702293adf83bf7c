//! Segment files: named by number in a run directory, allocated before anybody maps them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Result, SegmentError};

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(number.to_string())
}

/// A new file with all its blocks allocated: writing into its mapping can not fail with SIGBUS. A directory without
/// room gives `StorageFull`, and leaves no file.
pub(super) fn create(dir: &Path, number: u64, bytes: u64) -> Result<OwnedFd> {
    let path = path(dir, number);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| SegmentError::io("create", path.display())(error.into()))?;
    allocate(&file, bytes).map_err(|error| {
        let _ = rustix::fs::unlink(&path);
        SegmentError::io("allocate", path.display())(error.into())
    })?;
    Ok(file)
}

/// Gives the file all its blocks.
fn allocate(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => write_zeros(file, bytes),
        result => result,
    }
}

/// What `fallocate` does, for file systems that do not have it.
fn write_zeros(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    let zeros = vec![0; (1 << 20).min(bytes as usize)];
    let mut at = 0;
    while at < bytes {
        let length = zeros.len().min((bytes - at) as usize);
        at += rustix::io::pwrite(file, &zeros[..length], at)? as u64;
    }
    Ok(())
}

/// Opens a file for its writer.
pub(super) fn open_writable(dir: &Path, number: u64) -> Result<OwnedFd> {
    open(dir, number, OFlags::RDWR)
}

/// Opens a file for a reader.
pub(super) fn open_readable(dir: &Path, number: u64) -> Result<OwnedFd> {
    open(dir, number, OFlags::RDONLY)
}

fn open(dir: &Path, number: u64, flags: OFlags) -> Result<OwnedFd> {
    let path = path(dir, number);
    rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| SegmentError::io("open", path.display())(error.into()))
}

/// Removes a file; its bytes are free when the last mapping is gone.
pub(super) fn remove(dir: &Path, number: u64) {
    let path = path(dir, number);
    if let Err(error) = rustix::fs::unlink(&path) {
        tracing::warn!(path = %path.display(), %error, "a segment file could not be removed");
    }
}

/// The directory had no room for the file.
pub(super) fn is_full(error: &SegmentError) -> bool {
    matches!(error, SegmentError::Io { source, .. }
        if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_allocation_give_the_file_its_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = (1 << 20) + 12_345;
        for allocate in [allocate, write_zeros] {
            let file = rustix::fs::open(dir.path().join("file"), OFlags::RDWR | OFlags::CREATE, Mode::RUSR).unwrap();
            allocate(&file, bytes).unwrap();
            let stat = rustix::fs::fstat(&file).unwrap();
            assert_eq!(stat.st_size as u64, bytes);
            assert!(stat.st_blocks as u64 * 512 >= bytes);
            std::fs::remove_file(dir.path().join("file")).unwrap();
        }
    }
}
