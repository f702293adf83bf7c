//! What must be there after a power failure: the names and bytes of the data directory are synced here and nowhere else.
//!
//! A name is durable once its *directory* was synced, so the order is: files, the directories that name them, the file that
//! names those (`catalog.json`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Waits until the bytes of a file, or the names in a directory, are on the disk.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    #[cfg(test)]
    log::note(path);
    Ok(())
}

/// Makes a directory and its missing parents; their names are on the disk when this returns.
pub fn create_directories(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    fs::create_dir_all(path)?;
    for made in missing {
        // A relative path of one part has the empty path for a parent.
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Replaces a file, or makes it (mode 0600): after a crash the old one is there whole, or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = staged(path);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    #[cfg(test)]
    log::note(path);
    path.parent().map_or(Ok(()), sync)
}

/// Where a file is written before it has its name.
pub fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// What was synced, in order: a disk cannot be asked.
#[cfg(test)]
pub mod log {
    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    static SYNCED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    pub(super) fn note(path: &Path) {
        SYNCED.lock().push(path.to_owned());
    }

    /// Paths below `root` that were synced since the last call, in order and relative to it.
    pub fn take(root: &Path) -> Vec<String> {
        let mut synced = SYNCED.lock();
        let below = |path: &PathBuf| path.strip_prefix(root).ok().map(|path| path.display().to_string());
        let taken = synced.iter().filter_map(below).collect();
        synced.retain(|path| !path.starts_with(root));
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_nobody_elses_to_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("catalog.json");
        // What a crash left behind.
        fs::write(staged(&path), "half").unwrap();
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!staged(&path).exists());
        assert_eq!(log::take(root.path()), ["catalog.json", "", "catalog.json", ""]);
    }

    #[test]
    fn new_directories_are_named_durably_up_to_the_first_that_was_there() {
        let root = tempfile::tempdir().unwrap();
        create_directories(&root.path().join("a/b/c")).unwrap();
        assert_eq!(log::take(root.path()), ["a/b", "a", ""]);
        create_directories(&root.path().join("a/b/c")).unwrap();
        assert_eq!(log::take(root.path()), [] as [&str; 0]);
    }
}
