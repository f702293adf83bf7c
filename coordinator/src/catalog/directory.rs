//! [`DataDirectory`]: one process, one directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use onward_segment::ScratchDir;

use super::error::CatalogError;
use crate::write::Journal;

/// Names of temporary data directories begin so.
const TEMPORARY_PREFIX: &str = "onward-data-";

/// A data directory that this process holds the lock of until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Open, and therefore locked.
    _lock: File,
    /// A directory of our own that goes away with us.
    temporary: Option<ScratchDir>,
}

impl DataDirectory {
    /// Takes `path`, creating it; `None` makes one in `temporary_root`, which is removed on drop. What crashed processes
    /// left in `temporary_root` is removed in any case, after what their writes had staged elsewhere.
    ///
    /// # Errors
    /// [`CatalogError::Locked`] names the process that holds it.
    pub fn open(path: Option<&Path>, temporary_root: &Path) -> Result<Self, CatalogError> {
        let recover = |left: &Path| Journal::new(left).recover();
        let (path, temporary) = match path {
            Some(path) => {
                ScratchDir::remove_leftovers(temporary_root, TEMPORARY_PREFIX, recover);
                (path.to_owned(), None)
            }
            None => {
                let temporary = ScratchDir::create_after(temporary_root, TEMPORARY_PREFIX, recover);
                let temporary = temporary.map_err(io("creating a directory in", temporary_root))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(path.join("tables")).map_err(io("creating", &path))?;
        let path = path.canonicalize().map_err(io("opening", &path))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock, temporary })
    }

    /// Canonical path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Parts of managed tables live below it.
    pub fn tables(&self) -> PathBuf {
        self.path.join("tables")
    }

    /// The file with all definitions.
    pub fn catalog_file(&self) -> PathBuf {
        self.path.join("catalog.json")
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        // A staging directory that could not be removed must not be forgotten with ours.
        if let Some(temporary) = self.temporary.take()
            && !Journal::new(&self.path).recover()
        {
            temporary.abandon();
        }
    }
}

fn lock(directory: &Path) -> Result<File, CatalogError> {
    let path = directory.join("lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            let pid = if pid.is_empty() { "unknown".to_owned() } else { pid };
            return Err(CatalogError::Locked { directory: directory.to_owned(), lock: path, pid });
        }
        Err(TryLockError::Error(source)) => return Err(CatalogError::Io { action: "locking", path, source }),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(io("writing", &path))?;
    Ok(file)
}

/// `map_err` for an action on a path.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CatalogError + use<> {
    let path = path.to_owned();
    move |source| CatalogError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(Some(root.path()), root.path()).unwrap();
        let error = DataDirectory::open(Some(root.path()), root.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains(&root.path().canonicalize().unwrap().display().to_string()), "{error}");
        drop(first);
        DataDirectory::open(Some(root.path()), root.path()).unwrap();
    }

    /// Whatever data directory the next process has.
    #[test]
    fn a_crashed_process_leaves_nothing_that_its_writes_had_staged() {
        for next_has_its_own in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let crashed = ScratchDir::create(root.path(), TEMPORARY_PREFIX).unwrap();
            let (left, staging) = (crashed.path().to_owned(), root.path().join("out/.onward-7"));
            std::fs::create_dir_all(&staging).unwrap();
            Journal::new(&left).begin("7", &staging).unwrap();
            crashed.abandon();
            let own = root.path().join("own");
            let next = DataDirectory::open(next_has_its_own.then_some(own.as_path()), root.path()).unwrap();
            assert!(!staging.exists() && !left.exists() && next.path().exists());
        }
    }

    #[test]
    fn a_temporary_directory_goes_away() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(None, root.path()).unwrap();
        let path = directory.path().to_owned();
        assert!(path.exists());
        drop(directory);
        assert!(!path.exists());
    }
}
