//! Staged local files to visible ones. Blocking: run it where that is allowed.

use std::io;
use std::path::{Path, PathBuf};

use crate::catalog::{CatalogError, durable};

type Result<T> = std::result::Result<T, CatalogError>;

/// Directories made for a write, outermost first.
#[derive(Debug, Default)]
pub struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes `path` and its missing parents.
    pub fn make(&mut self, path: &Path) -> Result<()> {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        missing.reverse();
        for directory in missing {
            match std::fs::create_dir(directory) {
                Ok(()) => self.0.push(directory.to_owned()),
                // Somebody else was faster: theirs.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
                Err(error) => return Err(failed("creating the directory", directory)(error)),
            }
        }
        match path.is_dir() {
            true => Ok(()),
            false => Err(failed("creating the directory", path)(io::ErrorKind::NotADirectory.into())),
        }
    }

    /// Removes those that are empty, innermost first.
    pub fn remove_empty(&mut self) {
        while let Some(directory) = self.0.pop() {
            match std::fs::remove_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return,
                _ => {}
            }
        }
    }
}

/// A staged file and its final name.
#[derive(Debug)]
pub struct Rename {
    /// Where it is.
    pub staged: PathBuf,
    /// Where it will be.
    pub path: PathBuf,
}

/// Renames all files, in order. On an error the files that are new are removed again.
///
/// `is_durable`: the bytes are on the disk before a name says so.
pub fn publish(renames: &[Rename], made: &mut MadeDirectories, is_durable: bool) -> Result<()> {
    if is_durable {
        for rename in renames {
            durable::sync(&rename.staged).map_err(failed("syncing", &rename.path))?;
        }
    }
    let mut created: Vec<&Path> = Vec::new();
    let mut publish_one = |rename: &Rename| -> Result<bool> {
        let directory = rename.path.parent().unwrap_or(&rename.path);
        made.make(directory)?;
        let is_new = !rename.path.exists();
        std::fs::rename(&rename.staged, &rename.path).map_err(failed("writing", &rename.path))?;
        Ok(is_new)
    };
    for rename in renames {
        match publish_one(rename) {
            Ok(true) => created.push(&rename.path),
            Ok(false) => {}
            Err(error) => {
                created.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(error);
            }
        }
    }
    Ok(())
}

/// `map_err` for an action on a file of the user's.
pub fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CatalogError + use<> {
    let path = path.to_owned();
    move |source| CatalogError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_publish_leaves_nothing_new() {
        let root = tempfile::tempdir().unwrap();
        let staged = root.path().join("a");
        std::fs::write(&staged, "1").unwrap();
        let out = root.path().join("out");
        let renames = [
            Rename { staged, path: out.join("k=1/a") },
            Rename { staged: root.path().join("lost"), path: out.join("k=2/b") },
        ];
        let mut made = MadeDirectories::default();
        let error = publish(&renames, &mut made, true).unwrap_err().to_string();
        assert!(error.contains("k=2/b") || error.contains("lost"), "{error}");
        made.remove_empty();
        assert!(!out.exists());
    }
}
