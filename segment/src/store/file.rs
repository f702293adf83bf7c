//! Segment files: named by number in a run directory, allocated before anybody maps them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};

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
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = rustix::fs::unlink(&path);
            Err(SegmentError::io("allocate", path.display())(error.into()))
        }
    }
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
