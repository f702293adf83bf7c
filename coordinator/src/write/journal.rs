//! [`Journal`]: staging directories in use, so that a restart after a crash removes them.
//!
//! ```text
//!   <target>/.onward-<id>/              what functions stage, hidden, next to its final place
//!   <data directory>/writes/<id>        where that is: from before its first byte until it is gone
//! ```
//!
//! The data directory of a process that has none of its own lies in `spill_dir`, and outlives a crash: the next process
//! that starts there reads its journal before it removes it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where write `id` to files in `directory` stages them.
pub(super) fn staging_in(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!(".onward-{id}"))
}

/// Removes a staging directory. Nobody may work for its write any more.
pub(super) fn remove_staging(staging: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Remembers staging directories in `<data-dir>/writes/`, one file each.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal of a data directory.
    pub fn new(data_directory: &Path) -> Self {
        Self { directory: data_directory.join("writes") }
    }

    /// Removes what an earlier process left behind; false when some of it is still there, and remembered. Call before
    /// the first write, or after the last.
    pub fn recover(&self) -> bool {
        let mut is_clean = true;
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            is_clean &= recover_one(&entry.path());
        }
        is_clean
    }

    /// Remembers a staging directory.
    pub fn begin(&self, id: &str, staging: &Path) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        std::fs::write(self.directory.join(id), staging.as_os_str().as_encoded_bytes())
    }

    /// Forgets it: the directory is gone.
    pub fn end(&self, id: &str) {
        let _ = std::fs::remove_file(self.directory.join(id));
    }
}

fn recover_one(entry: &Path) -> bool {
    let Ok(staging) = std::fs::read(entry).map(|path| PathBuf::from(OsString::from_vec(path))) else { return false };
    // Only ever a directory that we would have made: a crash may have cut the path short.
    let id = entry.file_name().unwrap_or_default().to_string_lossy();
    if staging_in(Path::new(""), &id).file_name() != staging.file_name() {
        // Somebody's file, or nothing that could be acted on.
        return true;
    }
    tracing::info!(path = %staging.display(), "removing files that an unfinished write staged");
    if let Err(error) = remove_staging(&staging) {
        let path = staging.display();
        tracing::warn!(%path, %error, "what an unfinished write staged is left: the next start tries again");
        return false;
    }
    std::fs::remove_file(entry).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_removes_staged_files_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path());
        let (ours, foreign) = (root.path().join("out/.onward-1"), root.path().join("out/data"));
        for directory in [&ours, &foreign] {
            std::fs::create_dir_all(directory).unwrap();
        }
        journal.begin("1", &ours).unwrap();
        journal.begin("2", &foreign).unwrap();
        assert!(journal.recover());
        assert!(!ours.exists() && foreign.exists());
        assert!(!root.path().join("writes/1").exists());
    }

    #[test]
    fn what_cannot_be_removed_stays_remembered() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::new(root.path());
        let staging = root.path().join(".onward-1");
        journal.begin("1", &staging).unwrap();
        // Not a directory: it cannot be removed like one.
        std::fs::write(&staging, "").unwrap();
        assert!(!journal.recover());
        std::fs::remove_file(&staging).unwrap();
        assert!(journal.recover() && std::fs::read_dir(root.path().join("writes")).unwrap().count() == 0);
    }
}
