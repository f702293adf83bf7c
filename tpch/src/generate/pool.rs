//! Encodes row groups on every core with bounded memory.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use super::file::TableFile;
use crate::error::{Error, Result};
use crate::table::Table;

/// One row group of one file: slice `index` of `count` of the table.
pub(super) struct Job {
    pub(super) file: usize,
    pub(super) row_group: u32,
    pub(super) table: Table,
    pub(super) index: u32,
    pub(super) count: u32,
}

/// Row groups per thread that may be ahead of the oldest unfinished one: they wait, encoded, for its place in the file.
const WINDOW_PER_THREAD: usize = 4;

#[derive(Default)]
struct Schedule {
    /// Jobs handed out are `0..next`.
    next: usize,
    /// Jobs done are `0..oldest`, and these.
    oldest: usize,
    done: BTreeSet<usize>,
    /// The first error; nothing is handed out after it.
    error: Option<Error>,
}

/// Wakes the threads that wait for the job of one that panicked, so that the panic ends the run instead of stopping it.
struct EndOnPanic<'a>(&'a Mutex<Schedule>, &'a Condvar);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(Error::Cancelled);
            self.1.notify_all();
        }
    }
}

/// Runs all jobs, in order of hand-out; gives the rows of every file.
pub(super) fn run(
    jobs: &[Job],
    files: usize,
    scale: f64,
    open: impl Fn(usize) -> Result<TableFile> + Sync,
    on_rows: impl Fn(u64) -> bool + Sync,
) -> Result<Vec<u64>> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let window = threads * WINDOW_PER_THREAD;
    let schedule = Mutex::new(Schedule::default());
    let changed = Condvar::new();
    let opened: Vec<OnceLock<TableFile>> = (0..files).map(|_| OnceLock::new()).collect();
    let lock = || schedule.lock().unwrap_or_else(PoisonError::into_inner);

    let take = || -> Option<usize> {
        let mut guard = lock();
        while guard.error.is_none() && guard.next < jobs.len() && guard.next >= guard.oldest + window {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        if guard.error.is_some() || guard.next >= jobs.len() {
            return None;
        }
        // Files are opened in hand-out order under the lock, so that one thread opens each, once.
        let number = guard.next;
        let file = jobs[number].file;
        if opened[file].get().is_none() {
            match open(file) {
                Ok(created) => drop(opened[file].set(created)),
                Err(error) => {
                    guard.error = Some(error);
                    changed.notify_all();
                    return None;
                }
            }
        }
        guard.next += 1;
        Some(number)
    };
    let work = || {
        let _guard = EndOnPanic(&schedule, &changed);
        while let Some(number) = take() {
            let job = &jobs[number];
            let Some(file) = opened[job.file].get() else { return };
            let batches = job.table.slice(scale, job.index, job.count);
            let result = file.write_row_group(job.row_group, batches, &on_rows);
            let mut guard = lock();
            match result {
                Ok(()) => {
                    guard.done.insert(number);
                    let Schedule { oldest, done, .. } = &mut *guard;
                    while done.remove(oldest) {
                        *oldest += 1;
                    }
                }
                Err(error) => drop(guard.error.get_or_insert(error)),
            }
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = lock().error.take();
    match failed {
        Some(error) => Err(error),
        None => Ok(opened.iter().map(|file| file.get().map_or(0, TableFile::rows)).collect()),
    }
}
