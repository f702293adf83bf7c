//! [`ScratchDir`]: a directory of one process, removed with it, and after it when it crashed.
//!
//! It is locked (`flock`) while its process lives. The kernel drops the lock with the process, however that ends, so a
//! directory whose lock can be taken is a left-over: the next process that makes one removes it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// Draws of a name before giving up; a draw is lost only to a process that starts at the same moment.
const MAX_DRAWS: usize = 16;

/// `<base>/<prefix><random>`, mode 0700. Dropping it removes it with everything in it.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    _lock: OwnedFd,
}

impl ScratchDir {
    /// Removes the directories with this prefix that crashed processes of this user left in `base`, then makes one.
    /// `base` is made when it is not there.
    pub fn create(base: &Path, prefix: &str) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        Self::remove_leftovers(base, prefix);
        for _ in 0..MAX_DRAWS {
            let path = base.join(format!("{prefix}{:08x}", fastrand::u32(..)));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result?,
            }
            // Another process that starts now may have taken the fresh directory for a left-over: draw again.
            let Some(lock) = lock(&path) else { continue };
            if fs::metadata(&path).is_ok_and(|at_path| is_same(&at_path, &lock)) {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes the directories with this prefix that crashed processes of this user left in `base`.
    pub fn remove_leftovers(base: &Path, prefix: &str) {
        let user = rustix::process::geteuid().as_raw();
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes())
                && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
            if is_ours && let Some(_lock) = lock(&entry.path()) {
                remove(&entry.path(), "what a crashed process left");
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        remove(&self.path, "what the process kept there");
    }
}

fn remove(path: &Path, what: &str) {
    match fs::remove_dir_all(path) {
        Ok(()) => tracing::debug!(path = %path.display(), "removed {what}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "{what} could not be removed"),
    }
}

/// The lock of a directory; `None` when its process lives or it is gone.
fn lock(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(directory)
}

fn is_same(at_path: &fs::Metadata, locked: &OwnedFd) -> bool {
    rustix::fs::fstat(locked).is_ok_and(|stat| stat.st_ino == at_path.ino() && stat.st_dev == at_path.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crashed_process_leaves_nothing_and_a_live_one_keeps_its_own() {
        let base = tempfile::tempdir().unwrap();
        let live = ScratchDir::create(base.path(), "onward-test-").unwrap();
        fs::write(live.path().join("1"), b"mine").unwrap();
        // A crash: the directory is there, but nobody holds its lock.
        let crashed = base.path().join("onward-test-dead");
        fs::create_dir_all(crashed.join("inner")).unwrap();
        fs::write(crashed.join("inner/1"), b"theirs").unwrap();
        fs::create_dir(base.path().join("stranger")).unwrap();

        let second = ScratchDir::create(base.path(), "onward-test-").unwrap();
        assert!(!crashed.exists());
        assert!(live.path().join("1").exists() && second.path().exists());
        assert_eq!(fs::metadata(second.path()).unwrap().mode() & 0o777, 0o700);
        drop((live, second));
        let left: Vec<_> = fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["stranger"]);
    }
}
