//! The host's private directory: its socket and the functions' spills.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use onward_wire::FunctionId;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::HostError;

const PREFIX: &str = "onward-host-";
/// `sockaddr_un` holds 108 bytes, the last one is zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Draws of a name before giving up; a draw is lost only to a host that starts at the same moment.
const MAX_DRAWS: usize = 16;

/// `<spill root>/onward-host-<random>`, mode 0700, locked while its host lives, removed with it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Directory {
    /// Makes the directory and removes those that crashed hosts of this user left under `root`.
    pub(super) fn create(root: &Path) -> Result<Self, HostError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| HostError::Directory { path, source }
        };
        fs::create_dir_all(root).map_err(failed(root))?;
        remove_left_overs(root);
        for _ in 0..MAX_DRAWS {
            let path = root.join(format!("{PREFIX}{:08x}", fastrand::u32(..)));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.map_err(failed(&path))?,
            }
            // Another host that starts now may have taken the fresh directory for a left-over: draw again.
            let Some(lock) = lock(&path) else { continue };
            if fs::metadata(&path).is_ok_and(|at_path| is_same(&at_path, &lock)) {
                let directory = Self { path, _lock: lock };
                if directory.socket().as_os_str().len() > MAX_SOCKET_PATH_BYTES {
                    return Err(HostError::SocketPath { path: directory.socket(), limit: MAX_SOCKET_PATH_BYTES });
                }
                return Ok(directory);
            }
        }
        Err(failed(root)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Where functions connect.
    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// The directory that `function` may spill to.
    pub(super) fn spill(&self, function: FunctionId) -> PathBuf {
        self.path.join(function.to_string())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the host's directory could not be removed");
        }
    }
}

/// Removes directories whose host is gone: nobody holds their lock.
fn remove_left_overs(root: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        if !is_ours {
            continue;
        }
        let path = entry.path();
        if let Some(_lock) = lock(&path) {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed what a crashed host left behind"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a crashed host's directory stays"),
            }
        }
    }
}

/// The lock of a host's directory; `None` when its host lives or it is gone. The kernel frees it with the process.
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

    fn directories(root: &Path) -> usize {
        let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(PREFIX)).count()
    }

    /// A crashed host's directory goes at the next start, a living host's and a stranger's stay.
    #[test]
    fn left_overs_of_crashed_hosts_are_removed_and_living_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        let living = Directory::create(root.path()).unwrap();
        fs::create_dir_all(root.path().join("onward-host-dead/f-1")).unwrap();
        fs::write(root.path().join("onward-host-dead/f-1/spill"), "x").unwrap();
        fs::create_dir(root.path().join("stranger")).unwrap();

        let second = Directory::create(root.path()).unwrap();
        assert_eq!(directories(root.path()), 2);
        assert!(root.path().join("stranger").exists());
        assert!(living.path.exists());
        assert_eq!(fs::metadata(&second.path).unwrap().mode() & 0o777, 0o700);
        drop((living, second));
        assert_eq!(directories(root.path()), 0);
    }

    /// A path that no socket address can hold is named at start, not when the first function connects.
    #[test]
    fn a_spill_root_too_long_for_a_socket_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("x".repeat(100));
        let error = Directory::create(&long).unwrap_err();
        assert!(matches!(error, HostError::SocketPath { .. }), "{error}");
        assert_eq!(directories(&long), 0);
    }
}
