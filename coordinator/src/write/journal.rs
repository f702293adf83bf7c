//! [`Journal`]: staging directories in use, so that a restart after a crash removes them.

use std::path::{Path, PathBuf};

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

    /// Removes what an earlier process left behind. Call before the first write.
    pub fn recover(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let Ok(staging) = std::fs::read_to_string(entry.path()) else { continue };
            let staging = PathBuf::from(staging);
            // Only ever what we made: the entry names its own directory.
            let ours = format!(".onward-{}", entry.file_name().to_string_lossy());
            if staging.file_name().is_some_and(|name| name.to_string_lossy() == ours) {
                tracing::info!(path = %staging.display(), "removing files that an unfinished write staged");
                let _ = std::fs::remove_dir_all(&staging);
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Remembers a staging directory.
    pub fn begin(&self, id: &str, staging: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        std::fs::write(self.directory.join(id), staging.as_os_str().as_encoded_bytes())
    }

    /// Forgets it: the directory is gone.
    pub fn end(&self, id: &str) {
        let _ = std::fs::remove_file(self.directory.join(id));
    }
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
        journal.recover();
        assert!(!ours.exists() && foreign.exists());
        assert!(!root.path().join("writes/1").exists());
    }
}
