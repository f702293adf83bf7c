//! One directory per running process, removed with it, and after it when it crashed.
//!
//! `BASE/onward-segments-XXXX` holds the files, `BASE/onward-segments-XXXX.lock` is locked (`flock`) while the process
//! lives. The kernel drops the lock with the process, however it ends, so a lock that can be taken marks left-overs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Result, SegmentError};

const PREFIX: &str = "onward-segments-";
const LOCK_SUFFIX: &str = ".lock";

/// A directory of this process. Dropping it removes it with all files.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Removes what crashed processes left in `base`, then makes a directory there.
    pub fn create(base: &Path) -> Result<Self> {
        fs::create_dir_all(base).map_err(SegmentError::io("create", base.display()))?;
        remove_leftovers(base);
        loop {
            let name = format!("{PREFIX}{}-{:08x}", std::process::id(), fastrand::u32(..));
            let (path, lock_path) = (base.join(&name), base.join(name + LOCK_SUFFIX));
            let Some(lock) = take_lock(&lock_path, true)? else { continue };
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(SegmentError::io("create", path.display()))?;
            return Ok(Self { path, lock_path, _lock: lock });
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path, &self.lock_path);
    }
}

/// The lock on `path`, or `None` when another process has it, or removed the file before it was locked.
fn take_lock(path: &Path, is_new: bool) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(is_new).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    let lock = match options.open(path) {
        Ok(lock) => lock,
        Err(error) if is_new && error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(SegmentError::io("create", path.display())(error));
        }
        Err(_) => return Ok(None),
    };
    if lock.try_lock().is_err() {
        return Ok(None);
    }
    // A cleaner may have locked and removed the file between our open and our lock.
    let is_same = match (lock.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    };
    Ok(is_same.then_some(lock))
}

fn remove_leftovers(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(run) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let Some(run) = run.strip_suffix(LOCK_SUFFIX) else { continue };
        let lock_path = entry.path();
        if let Ok(Some(_lock)) = take_lock(&lock_path, false) {
            let path = base.join(run);
            tracing::info!(dir = %path.display(), "removing the segments of a process that crashed");
            remove(&path, &lock_path);
        }
    }
}

/// The directory first: while the lock file is there, a crash in between leaves something that the next start finds.
fn remove(path: &Path, lock_path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %path.display(), %error, "segments could not be removed");
        }
        _ => drop(fs::remove_file(lock_path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crashed_process_leaves_nothing_and_a_live_one_keeps_its_own() {
        let base = tempfile::tempdir().unwrap();
        let live = RunDir::create(base.path()).unwrap();
        fs::write(live.path().join("1"), b"mine").unwrap();
        // A crash: directory and lock file are there, but nobody holds the lock.
        let crashed = base.path().join("onward-segments-1-dead");
        fs::create_dir(&crashed).unwrap();
        fs::write(crashed.join("1"), b"theirs").unwrap();
        fs::write(base.path().join("onward-segments-1-dead.lock"), b"").unwrap();
        let unrelated = base.path().join("somebody-elses");
        fs::write(&unrelated, b"").unwrap();

        let second = RunDir::create(base.path()).unwrap();
        assert!(!crashed.exists());
        assert!(live.path().join("1").exists() && second.path().exists() && unrelated.exists());
        drop((live, second));
        let left: Vec<_> = fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["somebody-elses"]);
    }
}
