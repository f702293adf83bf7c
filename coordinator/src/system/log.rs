//! [`QueryLog`]: what queries took and cost, kept on disk as lines of JSON.
//!
//! ```text
//!   <data-dir>/queries/queries.jsonl      the newest
//!   <data-dir>/queries/queries.1.jsonl    those before them; replaced when the first one is half of the bound
//! ```
//!
//! A line is a [`QueryCost`]. The log is for people and for later sums; nothing reads it here. A disk that fails costs lines,
//! never a query.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::accounting::QueryCost;

/// Lines on disk, at most so many bytes.
#[derive(Debug)]
pub(crate) struct QueryLog {
    directory: PathBuf,
    most_bytes: u64,
    open: Mutex<Option<(File, u64)>>,
}

impl QueryLog {
    /// Of the data directory `directory`, at most `most_bytes` in all. It is opened with its first line.
    pub(crate) fn new(directory: &Path, most_bytes: u64) -> Self {
        Self { directory: directory.join("queries"), most_bytes, open: Mutex::default() }
    }

    /// Adds a line.
    pub(crate) fn add(&self, cost: &QueryCost) {
        let mut open = self.open.lock();
        let written = serde_json::to_vec(cost).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.write(&mut open, &line)
        });
        if let Err(error) = written {
            // It is opened anew with the next one.
            *open = None;
            tracing::warn!(path = %self.directory.display(), %error, "the query log misses a line");
        }
    }

    fn write(&self, open: &mut Option<(File, u64)>, line: &[u8]) -> io::Result<()> {
        let (newest, older) = (self.directory.join("queries.jsonl"), self.directory.join("queries.1.jsonl"));
        let length = line.len() as u64;
        if open.as_ref().is_some_and(|(_, bytes)| bytes + length > self.most_bytes / 2) {
            *open = None;
            fs::rename(&newest, &older)?;
        }
        let (file, bytes) = match open {
            Some(open) => open,
            None => {
                fs::create_dir_all(&self.directory)?;
                let file = OpenOptions::new().create(true).append(true).open(&newest)?;
                let bytes = file.metadata()?.len();
                open.insert((file, bytes))
            }
        };
        // One write for each line: a crash leaves whole lines.
        file.write_all(line)?;
        *bytes += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<QueryCost> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }

    #[test]
    fn the_log_keeps_the_newest_lines_and_stays_below_its_bound() {
        let directory = tempfile::tempdir().expect("a directory");
        let cost = |at: u64| QueryCost { query_id: format!("q-{at:04x}"), rows: at, ..QueryCost::default() };
        let most_bytes = 8_000;
        for first in [0, 50] {
            // As after a restart.
            let log = QueryLog::new(directory.path(), most_bytes);
            (first..first + 50).for_each(|at| log.add(&cost(at)));
        }
        let path = directory.path().join("queries");
        let mut kept = lines(&path.join("queries.1.jsonl"));
        kept.extend(lines(&path.join("queries.jsonl")));
        let first = 100 - kept.len() as u64;
        assert_eq!(kept, (first..100).map(cost).collect::<Vec<_>>());
        let bytes: u64 =
            fs::read_dir(&path).expect("files").map(|entry| entry.expect("one").metadata().expect("it").len()).sum();
        assert!(bytes <= most_bytes && kept.len() > 5, "{bytes} bytes, {} lines", kept.len());
    }

    #[test]
    fn a_disk_that_fails_costs_lines_only() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("queries"), "in the way").expect("a file");
        let log = QueryLog::new(directory.path(), 1_000);
        log.add(&QueryCost::default());
        fs::remove_file(directory.path().join("queries")).expect("gone");
        log.add(&QueryCost::default());
        assert_eq!(lines(&directory.path().join("queries/queries.jsonl")).len(), 1);
    }
}
