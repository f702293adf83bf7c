//! [`TableFiles`]: the files of managed tables on disk, and which of them may be removed.
//!
//! Nothing is removed because it is unknown: `catalog.json` may be a restored backup, and people put files where they like.
//! A part that is to go is noted first, by name:
//!
//! ```text
//!   INSERT    begin: note -> directory -> files ........ the catalog names it: the note goes
//!   DROP      note -> the catalog names it no more -> files removed: the note goes
//!   start     noted and not named: files removed; noted and named: the note goes
//! ```
//!
//! A query reads the parts that its tables had when it was planned, to its end, whatever happens to the tables meanwhile: what
//! it planned with holds a [`Lease`] on them, and the last one removes what is to go.
//!
//! Notes are empty files in `<data-dir>/unnamed/`. One that a power failure loses costs disk space, never a table.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::definition::Managed;
use super::directory::{DataDirectory, io as failed};
use super::durable;
use super::error::CatalogError;

type Result<T, E = CatalogError> = std::result::Result<T, E>;

/// Separates table and part in the name of a note; in neither of them.
const SEPARATOR: char = '+';
/// Hexadecimal digits of a random name.
const RANDOM_DIGITS: usize = 16;

/// A part of a managed table: a directory that one statement wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// The table's directory, below `<data-dir>/tables`.
    directory: String,
    /// The part's, below that.
    name: String,
}

impl Part {
    /// Part `name` of the table in `directory`.
    pub fn new(directory: &str, name: &str) -> Self {
        Self { directory: directory.to_owned(), name: name.to_owned() }
    }

    /// Its directory.
    pub fn path(&self, tables: &Path) -> PathBuf {
        tables.join(&self.directory).join(&self.name)
    }

    fn note(&self) -> String {
        format!("{}{SEPARATOR}{}", self.directory, self.name)
    }

    /// The part of a note, if that has a name of our form.
    fn of_note(note: &OsStr) -> Option<Self> {
        let (directory, name) = note.to_str()?.split_once(SEPARATOR)?;
        let (table, random) = directory.rsplit_once('-')?;
        let is_table = is_random(random) && table.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        let is_part = name.strip_prefix("p-").is_some_and(|number| number == "0" || is_random(number));
        (is_table && is_part).then(|| Self::new(directory, name))
    }
}

impl Managed {
    /// Its parts.
    pub fn all_parts(&self) -> impl Iterator<Item = Part> {
        self.parts.iter().map(|part| Part::new(&self.directory, part))
    }
}

/// A random name, for a directory that has not been there before.
pub fn random_name() -> String {
    format!("{:0RANDOM_DIGITS$x}", fastrand::u64(..))
}

fn is_random(text: &str) -> bool {
    text.len() == RANDOM_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A file name that our writers give (`WriteTarget::file_prefix`, task, partition, number): `<random>-00000-000-0.parquet`.
fn is_file_of_ours(name: &OsStr) -> bool {
    let stem = name.to_str().and_then(|name| name.strip_suffix(".parquet"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.is_some_and(|stem| match stem.split('-').collect::<Vec<_>>().as_slice() {
        [statement, numbers @ ..] => {
            is_random(statement) && numbers.len() == 3 && numbers.iter().all(|text| is_number(text))
        }
        [] => false,
    })
}

/// The files of managed tables below `<data-dir>/tables`.
#[derive(Debug)]
pub struct TableFiles {
    tables: PathBuf,
    notes: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Directories of the tables that the catalog names.
    directories: HashSet<String>,
    /// Leases on each part that has any.
    leases: HashMap<Part, usize>,
    /// Parts that go with their last lease.
    doomed: HashSet<Part>,
}

/// Keeps parts of a table on disk while something reads them.
#[derive(Debug)]
pub struct Lease {
    files: Arc<TableFiles>,
    parts: Vec<Part>,
}

impl TableFiles {
    /// The files of `directory`, of which the catalog names `parts` and the tables in `directories`. Removes what an earlier
    /// process began and did not finish.
    pub fn open(directory: &DataDirectory, parts: &HashSet<Part>, directories: HashSet<String>) -> Arc<Self> {
        let notes = directory.path().join("unnamed");
        let state = Mutex::new(State { directories, ..State::default() });
        let files = Self { tables: directory.tables(), notes, state };
        for entry in fs::read_dir(&files.notes).into_iter().flatten().flatten() {
            let Some(part) = Part::of_note(&entry.file_name()) else { continue };
            if parts.contains(&part) {
                files.forget(&part);
            } else {
                tracing::info!(part = %part.path(&files.tables).display(), "removing what an unfinished statement left behind");
                files.remove_now(&part);
            }
        }
        Arc::new(files)
    }

    /// A lease on the parts that `named` gives. `named` looks into the catalog while nothing is removed: what it finds there is
    /// on disk, and stays.
    pub(super) fn lease<T>(self: &Arc<Self>, named: impl FnOnce() -> Option<(T, Vec<Part>)>) -> Option<(T, Lease)> {
        let mut state = self.state.lock();
        let (found, parts) = named()?;
        for part in &parts {
            *state.leases.entry(part.clone()).or_default() += 1;
        }
        Some((found, Lease { files: Arc::clone(self), parts }))
    }

    /// The directory of a part that the catalog does not name yet is about to be made.
    ///
    /// # Errors
    /// Names the note that cannot be written.
    pub fn begin(&self, part: &Part) -> Result<()> {
        self.note([part])
    }

    /// The names of a part's files, and its own, are on the disk when this returns: the catalog may name it. Its files are synced
    /// already.
    ///
    /// # Errors
    /// Names the directory that cannot be synced.
    pub fn sync(&self, part: &Part) -> Result<()> {
        let path = part.path(&self.tables);
        for directory in [&path, &self.tables.join(&part.directory), &self.tables] {
            durable::sync(directory).map_err(failed("syncing", directory))?;
        }
        Ok(())
    }

    /// Files of these parts go when a crash happens before the catalog names them (again).
    pub(super) fn note<'a>(&self, parts: impl IntoIterator<Item = &'a Part>) -> Result<()> {
        let mut parts = parts.into_iter().peekable();
        if parts.peek().is_some() {
            fs::create_dir_all(&self.notes).map_err(failed("creating", &self.notes))?;
        }
        for part in parts {
            let note = self.notes.join(part.note());
            fs::write(&note, "").map_err(failed("writing", &note))?;
        }
        Ok(())
    }

    /// The catalog names `added` now; `directories` are those of its tables.
    pub(super) fn named(&self, added: &[Part], directories: HashSet<String>) {
        self.state.lock().directories = directories;
        added.iter().for_each(|part| self.forget(part));
    }

    /// Removes parts that were noted, and that the catalog does not name (any more): now, or with their last lease.
    pub fn remove<'a>(&self, parts: impl IntoIterator<Item = &'a Part>) {
        let mut state = self.state.lock();
        let (leased, free): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| state.leases.contains_key(part));
        state.doomed.extend(leased.into_iter().cloned());
        drop(state);
        free.into_iter().for_each(|part| self.remove_now(part));
    }

    /// Removes the files that we wrote, and the directories that are empty then. What cannot be removed now goes at the next
    /// start; what somebody else put there stays.
    fn remove_now(&self, part: &Part) {
        let path = part.path(&self.tables);
        match remove_part(&path) {
            Ok(()) => self.forget(part),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "files of a dropped table are left until the next start")
            }
        }
        if !self.state.lock().directories.contains(&part.directory) {
            // Not empty: another part is still there, or somebody's file.
            let _ = fs::remove_dir(self.tables.join(&part.directory));
        }
    }

    fn forget(&self, part: &Part) {
        let _ = fs::remove_file(self.notes.join(part.note()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.files.state.lock();
        let mut last = Vec::new();
        for part in self.parts.drain(..) {
            let Some(leases) = state.leases.get_mut(&part) else { continue };
            *leases -= 1;
            if *leases == 0 {
                state.leases.remove(&part);
                last.extend(state.doomed.take(&part));
            }
        }
        drop(state);
        last.iter().for_each(|part| self.files.remove_now(part));
    }
}

fn remove_part(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if is_file_of_ours(&entry.file_name()) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %path.display(), "a dropped table leaves files that Onward did not write");
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_told_from_others() {
        for name in ["0123456789abcdef-00000-000-0.parquet", "0123456789abcdef-123456-017-12.parquet"] {
            assert!(is_file_of_ours(OsStr::new(name)), "{name}");
        }
        for name in [
            "data.parquet",
            "0123456789abcdef.parquet",
            "0123456789ABCDEF-00000-000-0.parquet",
            "0123456789abcdef-00000-000-0.csv",
            "0123456789abcdef-00000-000-.parquet",
            "0123456789abcdef-00000-000-0-1.parquet",
            "copy of 0123456789abcdef-00000-000-0.parquet",
        ] {
            assert!(!is_file_of_ours(OsStr::new(name)), "{name}");
        }
        let part = Part::new("my-table-0123456789abcdef", "p-fedcba9876543210");
        assert_eq!(Part::of_note(OsStr::new(&part.note())), Some(part));
        for note in ["..+p-0", "t-0123456789abcdef", "t-0123456789abcdef+..", "../t-0123456789abcdef+p-0", "t+p-0"] {
            assert_eq!(Part::of_note(OsStr::new(note)), None, "{note}");
        }
    }
}
