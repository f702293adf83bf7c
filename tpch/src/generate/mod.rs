//! Makes TPC-H data as Parquet files: the rows of dbgen, the file layout of tpchgen-cli.
//!
//! ```text
//! parts = 1                  parts = N
//! DIR/tpch.json              DIR/tpch.json
//! DIR/nation.parquet         DIR/nation.parquet
//! DIR/lineitem.parquet       DIR/lineitem/part-0.parquet ... part-<N-1>.parquet
//! ```
//!
//! Files take their final names when all of them are complete, and the manifest says so last. A run that is cut short
//! leaves at most a scratch directory, which the next run removes, and finished files under a manifest that says that the set is not whole.

mod file;
mod manifest;
mod pool;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use self::manifest::{DataFile, Manifest};

use self::file::TableFile;
use self::pool::Job;
use crate::error::{Error, Result};
use crate::table::Table;

/// What to make and where.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Scale factor: 1 is about 1 GB of dbgen text, 0.35 GB of Parquet.
    pub scale: f64,
    /// Directory; made when missing.
    pub out: PathBuf,
    /// Files per table, in one directory per table; 1 writes `lineitem.parquet` and so on.
    pub parts: u32,
    /// Show a progress bar on standard error when it is a terminal.
    pub progress: bool,
    /// Set it (from a Ctrl-C handler) and `generate` ends soon with [`Error::Cancelled`], leaving nothing behind.
    pub cancelled: Arc<AtomicBool>,
}

impl GenerateOptions {
    /// Data of `scale` in `out`, one file per table, no progress bar.
    pub fn new(scale: f64, out: impl Into<PathBuf>) -> Self {
        Self { scale, out: out.into(), parts: 1, progress: false, cancelled: Arc::default() }
    }

    fn validate(&self) -> Result<()> {
        if !self.scale.is_finite() || self.scale < 0.0001 || self.scale > 100_000.0 {
            return Err(Error::Invalid(format!("scale {} is not between 0.0001 and 100000", self.scale)));
        }
        if self.parts == 0 || self.parts > 10_000 {
            return Err(Error::Invalid(format!("{} parts: give 1 to 10000", self.parts)));
        }
        Ok(())
    }
}

/// A directory below the data directory where files are written; removed on every way out.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes the data, or finds that it is there already. Blocks; uses every core, with at most a few row groups (7 MiB each)
/// per core in memory, beside the 300 MB of text that dbgen takes its comments from.
///
/// # Errors
/// [`Error::Invalid`] for options that make no sense or a directory that holds other data (nothing is overwritten),
/// [`Error::Busy`], [`Error::DiskFull`], [`Error::Cancelled`], [`Error::Io`].
pub fn generate(options: &GenerateOptions) -> Result<Manifest> {
    options.validate()?;
    let dir = options.out.as_path();
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let _lock = lock(dir)?;
    let mut manifest = Manifest::new(options.scale, options.parts);
    match Manifest::read(dir)? {
        Some(found) if found.is_same_data(&manifest) && found.is_intact(dir) => return Ok(found),
        Some(found) if found.complete && !found.is_same_data(&manifest) => {
            let message = format!(
                "{} holds TPC-H data of scale {} in {} part(s); choose another --out or delete it",
                dir.display(),
                found.scale,
                found.parts
            );
            return Err(Error::Invalid(message));
        }
        Some(_) => {}
        None => refuse_foreign_files(dir)?,
    }
    let scratch = Scratch(dir.join(format!(".scratch-{}", std::process::id())));
    remove_old_scratch(dir)?;
    fs::create_dir(&scratch.0).map_err(Error::io("create", &scratch.0))?;
    manifest.files = write_files(options, &scratch.0).map_err(|error| explain_full_disk(error, options))?;

    let files = std::mem::take(&mut manifest.files);
    manifest.write(dir, &scratch.0)?;
    remove_tables(dir)?;
    for file in &files {
        let target = dir.join(&file.path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        fs::rename(scratch.0.join(&file.path), &target).map_err(Error::io("rename", target))?;
    }
    manifest.complete = true;
    manifest.files = files;
    manifest.write(dir, &scratch.0)?;
    Ok(manifest)
}

/// Only one process writes into a directory; the kernel frees the lock when it dies.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Busy(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
    }
}

/// Tables that we did not write are never replaced.
fn refuse_foreign_files(dir: &Path) -> Result<()> {
    for table in Table::ALL {
        for path in [dir.join(table.name()), dir.join(format!("{}.parquet", table.name()))] {
            if path.exists() {
                let message =
                    format!("{} exists and was not written by `onward tpch gen`; choose another --out", path.display());
                return Err(Error::Invalid(message));
            }
        }
    }
    Ok(())
}

/// Files of an interrupted or damaged run.
fn remove_tables(dir: &Path) -> Result<()> {
    let ignore_missing = |path: &Path, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    };
    for table in Table::ALL {
        let (file, parts) = (dir.join(format!("{}.parquet", table.name())), dir.join(table.name()));
        ignore_missing(&file, fs::remove_file(&file))?;
        ignore_missing(&parts, fs::remove_dir_all(&parts))?;
    }
    Ok(())
}

fn remove_old_scratch(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(".scratch-"));
        // Only ever ours: a name with a process id.
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok()) {
            fs::remove_dir_all(&path).map_err(Error::io("remove", path))?;
        }
    }
    Ok(())
}

/// Writes all files below `scratch`, row groups in parallel across tables and files.
fn write_files(options: &GenerateOptions, scratch: &Path) -> Result<Vec<DataFile>> {
    let bar = progress_bar(options);
    let mut files = Vec::new();
    let mut jobs = Vec::new();
    for table in Table::ALL {
        let parts = if table.is_fixed() { 1 } else { options.parts };
        let row_groups = if table.is_fixed() { 1 } else { table.row_groups(options.scale, parts) };
        for part in 0..parts {
            let name = match (options.parts, table.is_fixed()) {
                (1, _) | (_, true) => format!("{}.parquet", table.name()),
                _ => format!("{}/part-{part}.parquet", table.name()),
            };
            let path = scratch.join(&name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            for row_group in 0..row_groups {
                let (index, count) = (part * row_groups + row_group, parts * row_groups);
                jobs.push(Job { file: files.len(), row_group, table, index, count });
            }
            files.push((name, table, row_groups));
        }
    }
    let open = |file: usize| {
        let (name, table, row_groups) = &files[file];
        let schema = table.slice(options.scale, 0, 1).schema().clone();
        TableFile::create(&scratch.join(name), schema, *row_groups)
    };
    let on_rows = |rows: u64| {
        bar.inc(rows);
        !options.cancelled.load(Ordering::Relaxed)
    };
    let rows = pool::run(&jobs, files.len(), options.scale, open, on_rows);
    bar.finish_and_clear();
    let describe = |((name, _, _), rows): (&(String, Table, u32), u64)| {
        let path = scratch.join(name);
        let bytes = fs::metadata(&path).map_err(Error::io("read", path))?.len();
        Ok(DataFile { path: name.clone(), rows, bytes })
    };
    files.iter().zip(rows?).map(describe).collect()
}

fn progress_bar(options: &GenerateOptions) -> ProgressBar {
    let rows = Table::ALL.iter().map(|table| table.estimated_rows(options.scale)).sum();
    let shown = options.progress && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = "generating TPC-H {msg} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left";
    ProgressBar::with_draw_target(Some(rows), target)
        .with_message(format!("scale {}", options.scale))
        .with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn explain_full_disk(error: Error, options: &GenerateOptions) -> Error {
    match error {
        Error::Io { source, path, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            let needed_bytes = Table::ALL.iter().map(|table| table.estimated_bytes(options.scale)).sum();
            Error::DiskFull { path, scale: options.scale, needed_bytes }
        }
        error => error,
    }
}
