//! [`ScratchDir`]: a directory of one process, removed with it, and after it when it crashed.
//!
//! It is locked (`flock`) while its process lives. The kernel drops the lock with the process, however that ends, so a
//! directory whose lock can be taken is a left-over: the next process that makes one removes it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// Draws of a name before giving up; a draw is lost only to a process that starts at the same moment.
const MAX_DRAWS: usize = 16;

/// Hexadecimal digits of a directory's random name.
const RANDOM_DIGITS: usize = 8;
const MODE: u32 = 0o700;

/// `<base>/<prefix><random>`, mode 0700. Dropping it removes it with everything in it.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    is_abandoned: bool,
    _lock: OwnedFd,
}

impl ScratchDir {
    /// Removes the directories with this prefix that crashed processes of this user left in `base`, then makes one.
    /// `base` is made when it is not there.
    pub fn create(base: &Path, prefix: &str) -> io::Result<Self> {
        Self::create_after(base, prefix, |_| true)
    }

    /// Like [`Self::create`], with the say in what is removed of [`Self::remove_leftovers`].
    pub fn create_after(base: &Path, prefix: &str, may_go: impl Fn(&Path) -> bool) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        Self::remove_leftovers(base, prefix, may_go);
        for _ in 0..MAX_DRAWS {
            let path = base.join(format!("{prefix}{:0RANDOM_DIGITS$x}", fastrand::u32(..)));
            match fs::DirBuilder::new().mode(MODE).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result?,
            }
            // Another process that starts now may have taken the fresh directory for a left-over: draw again.
            let Some(lock) = lock(&path) else { continue };
            if fs::metadata(&path).is_ok_and(|at_path| is_same(&at_path, &lock)) {
                return Ok(Self { path, is_abandoned: false, _lock: lock });
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes the directories with this prefix that crashed processes of this user left in `base`. `may_go` sees each one
    /// first and may do what its process could not; one that it refuses stays for the next time.
    pub fn remove_leftovers(base: &Path, prefix: &str, may_go: impl Fn(&Path) -> bool) {
        let user = rustix::process::geteuid().as_raw();
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let is_made_so = |metadata: fs::Metadata| {
                metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o777 & !MODE == 0
            };
            let is_ours = is_name_of_ours(&entry.file_name(), prefix) && entry.metadata().is_ok_and(is_made_so);
            if is_ours
                && let Some(_lock) = lock(&entry.path())
                && may_go(&entry.path())
            {
                remove(&entry.path(), "what a crashed process left");
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends like a crash: the directory stays for [`Self::remove_leftovers`] of a later process.
    pub fn abandon(mut self) {
        self.is_abandoned = true;
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if !self.is_abandoned {
            remove(&self.path, "what the process kept there");
        }
    }
}

/// A directory of the user's may begin with our prefix.
fn is_name_of_ours(name: &OsStr, prefix: &str) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(prefix));
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    random.is_some_and(|random| random.len() == RANDOM_DIGITS && random.bytes().all(is_digit))
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
        let make = |name: &str, mode| {
            let path = base.path().join(name);
            fs::DirBuilder::new().mode(mode).create(&path).unwrap();
            fs::create_dir(path.join("inner")).unwrap();
            fs::write(path.join("inner/1"), b"theirs").unwrap();
            path
        };
        let crashed = make("onward-test-0000dead", 0o700);
        // A person's: nothing of theirs is worth a tidy directory.
        let strangers = [("onward-test-0000beef", 0o755), ("onward-test-backup", 0o700), ("stranger", 0o700)];
        strangers.iter().for_each(|(name, mode)| drop(make(name, *mode)));

        let second = ScratchDir::create(base.path(), "onward-test-").unwrap();
        assert!(!crashed.exists());
        assert!(live.path().join("1").exists() && second.path().exists());
        assert_eq!(fs::metadata(second.path()).unwrap().mode() & 0o777, 0o700);
        drop((live, second));
        let mut left: Vec<_> = fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, strangers.map(|(name, _)| name).map(OsStr::new));
    }

    /// What a crashed process had noted is not lost before somebody could act on it.
    #[test]
    fn a_leftover_that_is_refused_stays_until_it_is_not() {
        let base = tempfile::tempdir().unwrap();
        let left = ScratchDir::create(base.path(), "onward-test-").unwrap();
        let path = left.path().to_owned();
        left.abandon();
        let second = ScratchDir::create_after(base.path(), "onward-test-", |_| false).unwrap();
        assert!(path.exists());
        ScratchDir::remove_leftovers(base.path(), "onward-test-", |seen| seen == path);
        assert!(!path.exists() && second.path().exists());
    }
}
