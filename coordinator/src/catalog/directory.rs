//! [`DataDirectory`]: one process, one directory, which is Onward's alone.
//!
//! A directory becomes a data directory by a mark that is written into it before anything else. Only an empty directory gets
//! one: whatever lies in a marked directory under a name of ours was made by us.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use onward_segment::ScratchDir;

use super::durable;
use super::error::CatalogError;
use super::store;
use crate::write::Journal;

/// Names of temporary data directories begin so.
const TEMPORARY_PREFIX: &str = "onward-data-";

/// And those of what processes that share a directory have for themselves.
const OWN_PREFIX: &str = "onward-own-";

/// The file that says whose directory it is.
const MARK: &str = "onward-data";
/// What it says, for people who find it. The first line is the mark.
const MARK_TEXT: &str =
    "Onward data directory, version 1\n\nIts files belong to Onward: tables are made, filled and dropped by SQL.\n";

/// The file that says which shared catalog its tables are of.
const CLUSTER: &str = "cluster";
const LOCK: &str = "lock";
const TABLES: &str = "tables";
const RANGES: &str = "ranges";
const CATALOG_FILE: &str = "catalog.json";
/// Made by file systems, not by people.
const LOST_AND_FOUND: &str = "lost+found";

/// A data directory that this process holds the lock of until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Open, and therefore locked.
    _lock: File,
    /// A directory of our own that goes away with us.
    temporary: Option<ScratchDir>,
    /// What cannot be shared goes there.
    own: Option<ScratchDir>,
}

impl DataDirectory {
    /// Takes `path`, creating it; `None` makes one in `temporary_root`, which is removed on drop. What crashed processes
    /// left in `temporary_root` is removed in any case, after what their writes had staged elsewhere.
    ///
    /// # Errors
    /// [`CatalogError::Locked`] names the process that holds it; [`CatalogError::NotOurs`] says what else lies in it, and
    /// nothing was changed then.
    pub fn open(path: Option<&Path>, temporary_root: &Path) -> Result<Self, CatalogError> {
        Self::take(path, temporary_root, false)
    }

    /// As [`Self::open`], of a directory that several coordinators use, one after the other: what keeps them apart is that only the one
    /// that leads can change the catalog.
    ///
    /// # Errors
    /// [`CatalogError::NotOurs`].
    pub fn open_shared(path: &Path, temporary_root: &Path) -> Result<Self, CatalogError> {
        Self::take(Some(path), temporary_root, true)
    }

    fn take(path: Option<&Path>, temporary_root: &Path, is_shared: bool) -> Result<Self, CatalogError> {
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
        durable::create_directories(&path).map_err(io("creating", &path))?;
        let path = path.canonicalize().map_err(io("opening", &path))?;
        if let Some(found) = stranger(&path).map_err(io("reading", &path))? {
            return Err(CatalogError::NotOurs { directory: path, found });
        }
        let lock = lock(&path, is_shared)?;
        let own = if is_shared {
            let own = ScratchDir::create_after(temporary_root, OWN_PREFIX, |_| true);
            Some(own.map_err(io("creating a directory in", temporary_root))?)
        } else {
            None
        };
        let tables = path.join(TABLES);
        if temporary.is_some() {
            std::fs::create_dir(&tables).map_err(io("creating", &tables))?;
        } else {
            if !is_marked(&path) {
                durable::replace(&path.join(MARK), MARK_TEXT.as_bytes()).map_err(io("marking", &path))?;
            }
            durable::create_directories(&tables).map_err(io("creating", &tables))?;
        }
        Ok(Self { path, _lock: lock, temporary, own })
    }

    /// It goes away with this process.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Canonical path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which shared catalog its tables are of: see [`cluster_of`].
    pub(super) fn cluster(&self) -> Option<String> {
        cluster_of(&self.path)
    }

    /// From now on its tables are of that one.
    pub(super) fn set_cluster(&self, id: &str) -> Result<(), CatalogError> {
        let path = self.path.join(CLUSTER);
        durable::replace(&path, format!("{id}\n").as_bytes()).map_err(io("writing", &path))
    }

    /// Parts of managed tables live below it.
    pub fn tables(&self) -> PathBuf {
        self.path.join(TABLES)
    }

    /// Bytes of remote objects are kept below it.
    pub fn ranges(&self) -> PathBuf {
        self.own.as_ref().map_or(self.path.as_path(), ScratchDir::path).join(RANGES)
    }

    /// The file with all definitions.
    pub fn catalog_file(&self) -> PathBuf {
        self.path.join(CATALOG_FILE)
    }
}

/// Which shared catalog the tables of a data directory are of, if of any.
pub(super) fn cluster_of(directory: &Path) -> Option<String> {
    let text = std::fs::read_to_string(directory.join(CLUSTER)).ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Something in `directory` that shows that it is not ours to use. `None`: it is ours already, or empty but for what a first
/// start that crashed may have left.
fn stranger(directory: &Path) -> io::Result<Option<String>> {
    // Directories of versions without a mark are known by their catalog.
    if is_marked(directory) || std::fs::read(directory.join(CATALOG_FILE)).is_ok_and(|file| store::is_catalog(&file)) {
        return Ok(None);
    }
    for entry in std::fs::read_dir(directory)? {
        let (path, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name())
        };
        let is_known = match name.to_str() {
            Some(LOST_AND_FOUND) => true,
            Some(LOCK) => path.is_file(),
            Some(TABLES | "writes") => is_empty(&path).unwrap_or(false),
            _ => path == durable::staged(&directory.join(MARK)),
        };
        if !is_known {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Nothing is in a directory but what its file system put there.
pub(super) fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        if entry?.file_name() != LOST_AND_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_marked(directory: &Path) -> bool {
    let mark = std::fs::read_to_string(directory.join(MARK)).unwrap_or_default();
    mark.lines().next() == MARK_TEXT.lines().next()
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

/// Those that share a directory keep others out.
fn lock(directory: &Path, is_shared: bool) -> Result<File, CatalogError> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(io("opening", &path))?;
    match if is_shared { file.try_lock_shared() } else { file.try_lock() } {
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

    fn open(path: &Path) -> Result<DataDirectory, CatalogError> {
        DataDirectory::open(Some(path), path)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `--data-dir .` in a project is a mistake, and its `tables/` is somebody's work.
    #[test]
    fn a_directory_of_somebody_else_is_refused_and_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let cases: [&[(&str, &str)]; 5] = [
            &[("notes.txt", "mine")],
            &[("tables/precious.csv", "a\n1\n")],
            &[("writes/thesis.tex", "mine"), ("lock", "")],
            &[("catalog.json", "{\"books\": []}")],
            &[("onward-data", "a list of things")],
        ];
        for (number, files) in cases.into_iter().enumerate() {
            let directory = root.path().join(number.to_string());
            for (name, text) in files {
                std::fs::create_dir_all(directory.join(name).parent().unwrap()).unwrap();
                std::fs::write(directory.join(name), text).unwrap();
            }
            let before = names(&directory);
            let error = open(&directory).unwrap_err();
            assert!(matches!(error, CatalogError::NotOurs { .. }), "{error}");
            let error = error.to_string();
            let first = files[0].0.split('/').next().unwrap();
            assert!(error.contains(first) && error.contains("new directory"), "{error}");
            assert_eq!(names(&directory), before);
            for (name, text) in files {
                assert_eq!(std::fs::read_to_string(directory.join(name)).unwrap(), *text);
            }
        }
    }

    #[test]
    fn empty_half_made_and_unmarked_directories_are_taken() {
        let root = tempfile::tempdir().unwrap();
        let catalog = "{\"version\": 1, \"schemas\": {}}";
        let cases: [&[(&str, &str)]; 4] =
            [&[], &[("lock", "17\n")], &[("lock", ""), ("onward-data.new", "Onw")], &[("catalog.json", catalog)]];
        for (number, files) in cases.into_iter().enumerate() {
            let directory = root.path().join(number.to_string());
            // A volume that was just made, and what the version before this one left without a table.
            for made in ["lost+found", "tables", "writes"] {
                std::fs::create_dir_all(directory.join(made)).unwrap();
            }
            files.iter().for_each(|(name, text)| std::fs::write(directory.join(name), text).unwrap());
            drop(open(&directory).unwrap_or_else(|error| panic!("{files:?}: {error}")));
            // From now on it is known by its mark, whatever lies in it.
            std::fs::write(directory.join("tables/stranger.csv"), "a\n").unwrap();
            std::fs::remove_file(directory.join("lock")).unwrap();
            drop(open(&directory).unwrap());
            assert!(directory.join("tables/stranger.csv").exists());
        }
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
