//! The manifest of a data set: what it holds, and whether all of it arrived.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Its name in the data directory.
pub(crate) const FILE: &str = "tpch.json";

/// Raised when the same options would give other files.
const FORMAT: u32 = 1;

/// What a data directory holds. Written before the first file takes its final name and again, complete, after the last:
/// a directory with an incomplete manifest is rubbish of an interrupted run and may be overwritten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version of the generator.
    pub format: u32,
    /// Scale factor.
    pub scale: f64,
    /// Files per table (nation and region excepted).
    pub parts: u32,
    /// Every file is in place.
    pub complete: bool,
    /// The files, once complete.
    pub files: Vec<DataFile>,
}

/// One file of the set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Below the data directory.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
}

impl Manifest {
    pub(crate) fn new(scale: f64, parts: u32) -> Self {
        Self { format: FORMAT, scale, parts, complete: false, files: Vec::new() }
    }

    /// The manifest of `dir`; `None` where there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::Damaged { what: path.display().to_string(), why: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Replaces the manifest of `dir` at once and whole.
    pub(crate) fn write(&self, dir: &Path, scratch: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Damaged { what: FILE.to_owned(), why: error.to_string() })?;
        let draft = scratch.join(FILE);
        let write = |path: &Path| -> std::io::Result<()> {
            let mut file = File::create(path)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write(&draft).map_err(Error::io("write", &draft))?;
        fs::rename(&draft, dir.join(FILE)).map_err(Error::io("rename", draft))
    }

    /// Same content as `other` would have: scale, parts and layout.
    pub(crate) fn is_same_data(&self, other: &Self) -> bool {
        (self.format, self.scale, self.parts) == (other.format, other.scale, other.parts)
    }

    /// Complete, and every file is still there with its length.
    pub(crate) fn is_intact(&self, dir: &Path) -> bool {
        let is_whole =
            |file: &DataFile| fs::metadata(dir.join(&file.path)).is_ok_and(|found| found.len() == file.bytes);
        self.complete && !self.files.is_empty() && self.files.iter().all(is_whole)
    }
}
