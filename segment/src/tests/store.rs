//! The store: budgets, tiers, leases, reuse and clean-up.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, SegmentId, WireError};

use crate::{SegmentError, SegmentStore, SegmentWriter, StoreOptions, StoreUsage};

const WRITER: FunctionId = FunctionId(1);
const READER: FunctionId = FunctionId(2);
const FILE_BYTES: u64 = 128 << 10;

fn batch(value: i64) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![value; 100])) as _)]).unwrap()
}

fn store(dir: &Path, memory_files: u64, disk_files: u64) -> Arc<SegmentStore> {
    SegmentStore::open(StoreOptions::below(dir, memory_files * FILE_BYTES, disk_files * FILE_BYTES)).unwrap()
}

/// A committed segment with 100 rows of `value` in partition 0.
fn committed(store: &SegmentStore, value: i64) -> SegmentId {
    let file = store.create(WRITER, FILE_BYTES).unwrap();
    let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch(value).schema()).unwrap();
    writer.append(0, &batch(value)).unwrap();
    let written = writer.finish().unwrap();
    let (length_bytes, rows) = (written.length_bytes, written.rows);
    store.commit(&SegmentRef { segment: file.id.0, length_bytes, rows }).unwrap();
    file.id
}

fn files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_file_is_reused_only_when_removed_and_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let first = committed(&store, 1);
    let (file, segment) = store.lease(first, READER).unwrap();
    let mapped = crate::MappedSegment::open(first, file.as_fd(), segment.length_bytes).unwrap();
    store.remove(first);
    // The reader still has it mapped: the next segments get other files.
    for value in 2..5 {
        let id = committed(&store, value);
        store.remove(id);
    }
    assert_eq!(Arc::new(mapped).batches(0).next().unwrap().unwrap(), batch(1));
    assert_eq!(store.usage().created_files, 2);
    assert_eq!(store.usage().segments, 1);
    store.release(first, READER);
    assert_eq!(store.usage().segments, 0);
    assert_eq!(store.usage().pooled_bytes, 2 * FILE_BYTES);
    assert!(store.lease(first, READER).is_err());
}

#[test]
fn a_stopped_writer_keeps_its_file_until_it_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let file = store.create(WRITER, FILE_BYTES).unwrap();
    // Its connection closed, so the host gives up the attempt; the process may still write into its mapping.
    let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch(1).schema()).unwrap();
    store.discard(file.id);
    let other = committed(&store, 2);
    writer.append(0, &batch(1)).unwrap();
    drop(writer.finish().unwrap());
    assert_eq!(store.map(other).unwrap().batches(0).next().unwrap().unwrap(), batch(2));
    assert_eq!(store.usage().created_files, 2);
    store.release_holder(WRITER);
    assert_eq!(store.usage().segments, 1);
    assert_eq!(store.usage().pooled_bytes, FILE_BYTES);
}

#[test]
fn a_reaped_function_loses_what_it_wrote_and_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let done = committed(&store, 1);
    let (_file, _) = store.lease(done, WRITER).unwrap();
    let (_again, _) = store.lease(done, WRITER).unwrap();
    let _unfinished = store.create(WRITER, FILE_BYTES).unwrap();
    assert_eq!(store.usage().leases, 3);
    store.release_holder(WRITER);
    // What it committed stays; what it was writing does not.
    assert_eq!((store.usage().leases, store.usage().segments), (0, 1));
    assert!(store.map(done).is_ok());
}

#[test]
fn leases_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let id = committed(&store, 1);
    let (_first, _) = store.lease(id, READER).unwrap();
    let (_second, _) = store.lease(id, READER).unwrap();
    store.remove(id);
    store.release(id, READER);
    assert_eq!(store.usage().segments, 1);
    store.release(id, READER);
    store.release(id, READER);
    assert_eq!(store.usage().segments, 0);
}

#[test]
fn past_the_memory_budget_segments_go_to_disk_and_past_both_the_setting_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 2, 1);
    let ids = [committed(&store, 1), committed(&store, 2), committed(&store, 3)];
    let usage = store.usage();
    assert_eq!((usage.memory_bytes, usage.disk_bytes), (2 * FILE_BYTES, FILE_BYTES));
    for (id, value) in ids.iter().zip(1..) {
        assert_eq!(store.map(*id).unwrap().batches(0).next().unwrap().unwrap(), batch(value));
    }
    let error = WireError::from(store.create(WRITER, FILE_BYTES).unwrap_err());
    assert_eq!(error.kind, ErrorKind::ResourceExhausted as i32);
    assert!(error.message.contains("segment_memory_bytes"), "{error}");
    ids.iter().for_each(|id| store.remove(*id));
    assert_eq!(store.usage().disk_bytes, 0);
    assert!(store.create(WRITER, FILE_BYTES).is_ok());
}

#[test]
fn idle_files_make_room_for_other_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let ids: Vec<SegmentId> = (0..4).map(|value| committed(&store, value)).collect();
    ids.into_iter().for_each(|id| store.remove(id));
    assert_eq!(store.usage().pooled_bytes, 4 * FILE_BYTES);
    let large = store.create(WRITER, 8 * FILE_BYTES).unwrap();
    assert_eq!(large.capacity_bytes, 8 * FILE_BYTES);
    assert_eq!(store.usage().pooled_bytes, 0);
    assert_eq!(files(&dir.path().join("memory")), 1, "the large file");
}

#[test]
fn the_pool_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let ids: Vec<SegmentId> = (0..8).map(|value| committed(&store, value)).collect();
    ids.into_iter().for_each(|id| store.remove(id));
    assert_eq!(store.usage().pooled_bytes, 4 * FILE_BYTES);
    assert_eq!(files(&dir.path().join("memory")), 4, "four idle files");
}

/// A pooled file that cannot be opened (out of descriptors) is in no slot and no pool: it must not stay either.
#[test]
fn a_pooled_file_that_cannot_be_opened_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    store.remove(committed(&store, 1));
    let runs = fs::read_dir(dir.path().join("memory")).unwrap();
    let file =
        runs.map(|run| run.unwrap().path()).find_map(|run| Some(fs::read_dir(run).unwrap().next()?.unwrap().path()));
    let file = file.expect("the pooled file");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("nowhere", &file).unwrap();
    store.create(WRITER, FILE_BYTES).unwrap_err();
    assert!(fs::symlink_metadata(&file).is_err());
    assert_eq!((store.usage().memory_bytes, store.usage().pooled_bytes, store.usage().segments), (0, 0, 0));
    store.create(WRITER, FILE_BYTES).unwrap();
}

/// What one function wrote fills its share of the memory, not that of the others; where there is no disk it may have more.
#[test]
fn past_its_share_of_the_memory_a_function_writes_to_disk() {
    for (disk_files, last_is_in_memory) in [(8, false), (0, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (memory_bytes, function_bytes) = (8 * FILE_BYTES, 2 * FILE_BYTES);
        let options = StoreOptions::below(dir.path(), memory_bytes, disk_files * FILE_BYTES);
        let store = SegmentStore::open(StoreOptions { function_bytes, ..options }).unwrap();
        let files: Vec<_> = (0..3).map(|_| store.create(WRITER, FILE_BYTES).unwrap()).collect();
        let in_memory = |store: &SegmentStore| store.usage().memory_bytes / FILE_BYTES;
        assert_eq!(in_memory(&store), if last_is_in_memory { 3 } else { 2 });
        let others = store.create(READER, FILE_BYTES).unwrap();
        assert_eq!(in_memory(&store), if last_is_in_memory { 4 } else { 3 });
        store.release(others.id, READER);
        store.discard(others.id);
        for file in files {
            store.release(file.id, WRITER);
            store.discard(file.id);
        }
        // What is gone does not count, and its files are used again.
        let again: Vec<_> = (0..2).map(|_| store.create(WRITER, FILE_BYTES).unwrap()).collect();
        assert_eq!((again.len() as u64, store.usage().memory_bytes, store.usage().disk_bytes), (2, 2 * FILE_BYTES, 0));
    }
}

#[test]
fn only_what_was_verified_can_be_leased() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 0);
    let file = store.create(WRITER, FILE_BYTES).unwrap();
    assert!(matches!(store.lease(file.id, READER), Err(SegmentError::Unknown { .. })));
    let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch(1).schema()).unwrap();
    writer.append(0, &batch(1)).unwrap();
    let written = writer.finish().unwrap();
    let good = SegmentRef { segment: file.id.0, length_bytes: written.length_bytes, rows: written.rows };
    for wrong in [
        SegmentRef { rows: 99, ..good },
        SegmentRef { length_bytes: good.length_bytes - 64, ..good },
        SegmentRef { length_bytes: good.length_bytes + 64, ..good },
        SegmentRef { length_bytes: 10 * FILE_BYTES, ..good },
        SegmentRef { segment: 77, ..good },
    ] {
        assert!(store.commit(&wrong).is_err(), "{wrong:?}");
    }
    store.commit(&good).unwrap();
    assert!(store.commit(&good).is_err(), "twice");
    assert!(store.lease(file.id, READER).is_ok());
}

#[test]
fn dropping_the_store_removes_its_files_and_mapped_segments_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 8, 8);
    let mapped = store.map(committed(&store, 5)).unwrap();
    assert!(files(dir.path()) > 0);
    drop(store);
    assert_eq!(files(dir.path()), 0);
    assert_eq!(mapped.batches(0).next().unwrap().unwrap(), batch(5));
}

#[test]
fn two_stores_share_a_directory_and_a_new_one_is_unused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (store(dir.path(), 8, 8), store(dir.path(), 8, 8));
    let (first, second) = (committed(&one, 1), committed(&two, 2));
    drop(two);
    assert_eq!(one.map(first).unwrap().batches(0).next().unwrap().unwrap(), batch(1));
    assert_eq!(first, second, "ids count per store");
    assert_eq!(store(dir.path(), 8, 8).usage(), StoreUsage::default());
}

#[test]
fn the_prefault_thread_makes_the_next_file_and_ends_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { prefault_bytes: 4 * FILE_BYTES, ..StoreOptions::below(dir.path(), 16 * FILE_BYTES, 0) };
    let store = SegmentStore::open(options).unwrap();
    let first = store.create(WRITER, FILE_BYTES).unwrap();
    store.wait_for_prefault();
    assert_eq!(store.usage().pooled_bytes, FILE_BYTES);
    let second = store.create(WRITER, FILE_BYTES).unwrap();
    assert_eq!(store.usage().reused_files, 1);
    assert_eq!(fs::File::from(second.file).metadata().unwrap().len(), first.capacity_bytes);
    drop(store);
    assert_eq!(files(dir.path()), 0);
}
