//! Files that are not whole segments are told apart and never read.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use bytes::Bytes;
use onward_wire::message::SegmentRef;
use onward_wire::{ErrorKind, FunctionId, SegmentId, WireError};

use crate::{ImageWriter, MappedSegment, SegmentError, SegmentStore, SegmentWriter, StoreOptions};

fn batch() -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..1_000)) as _)]).unwrap()
}

fn image() -> Vec<u8> {
    let mut writer = ImageWriter::create(batch().schema()).unwrap();
    writer.append(0, &batch()).unwrap();
    writer.append(5, &batch()).unwrap();
    writer.finish().unwrap().1.to_vec()
}

fn open(bytes: Vec<u8>) -> Result<MappedSegment, SegmentError> {
    MappedSegment::from_image(Bytes::from(bytes))
}

#[test]
fn every_truncation_is_detected() {
    let whole = image();
    for length in (0..whole.len()).step_by(64).chain([1, 63, whole.len() - 1]) {
        let error = open(whole[..length].to_vec()).unwrap_err();
        assert!(matches!(error, SegmentError::Torn { .. }), "{length} bytes: {error}");
        assert_eq!(WireError::from(error).kind, ErrorKind::Unavailable as i32);
    }
}

#[test]
fn every_flipped_bit_of_header_index_and_footer_is_detected() {
    let whole = image();
    let segment = Arc::new(open(whole.clone()).unwrap());
    let index_at = segment.all_entries().map(|entry| (entry.offset + entry.length) as usize).max().unwrap();
    let index_end = whole.len() - 64 - (64 - (segment.all_entries().len() * 32) % 64) % 64;
    for at in (0..8).chain([8, 16, 23]).chain(index_at..index_end).chain(whole.len() - 64..whole.len()) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        assert!(open(damaged).is_err(), "byte {at} of {}", whole.len());
    }
}

#[test]
fn foreign_files_are_detected() {
    assert!(matches!(open(vec![0; 4096]), Err(SegmentError::Foreign { .. })));
    assert!(matches!(open(b"PAR1".repeat(1024)), Err(SegmentError::Foreign { .. })));
}

#[test]
fn the_footer_of_a_recycled_files_past_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(StoreOptions::below(dir.path(), 1 << 20, 0)).unwrap();
    let function = FunctionId(1);
    let first = store.create(function, 100_000).unwrap();
    let mut writer = SegmentWriter::create(first.id, first.file, first.capacity_bytes, batch().schema()).unwrap();
    writer.append(0, &batch()).unwrap();
    let written = writer.finish().unwrap();
    let (length_bytes, rows) = (written.length_bytes, written.rows);
    store.commit(&SegmentRef { segment: first.id.0, length_bytes, rows }).unwrap();
    store.remove(first.id);

    // The second writer dies before it writes a byte: the file still holds the first segment, whole.
    let second = store.create(function, 100_000).unwrap();
    assert_eq!(store.usage().reused_files, 1);
    let error = store.commit(&SegmentRef { segment: second.id.0, length_bytes, rows }).unwrap_err();
    assert!(matches!(error, SegmentError::Foreign { .. }), "{error}");
    // Or after its header: then header and footer disagree.
    drop(SegmentWriter::create(second.id, second.file, second.capacity_bytes, batch().schema()).unwrap());
    let error = store.commit(&SegmentRef { segment: second.id.0, length_bytes, rows }).unwrap_err();
    assert!(matches!(error, SegmentError::Torn { .. }), "{error}");
}

#[test]
fn a_file_shorter_than_its_segment_is_torn_and_not_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    fs::write(&path, image()).unwrap();
    let file = OwnedFd::from(fs::File::open(&path).unwrap());
    let error = MappedSegment::open(SegmentId(0), file, 1 << 20).unwrap_err();
    assert!(matches!(error, SegmentError::Torn { .. }), "{error}");
}

#[test]
fn a_full_file_says_so_and_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(StoreOptions::below(dir.path(), 1 << 20, 0)).unwrap();
    let file = store.create(FunctionId(1), 64 << 10).unwrap();
    let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch().schema()).unwrap();
    let mut appended = 0;
    let error = loop {
        match writer.append(appended, &batch()) {
            Ok(()) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SegmentError::Full { .. }), "{error}");
    let written = writer.finish().unwrap();
    assert!(written.length_bytes <= file.capacity_bytes);
    assert_eq!((written.rows, written.partitions.len()), (u64::from(appended) * 1_000, appended as usize));
    let (length_bytes, rows) = (written.length_bytes, written.rows);
    store.commit(&SegmentRef { segment: file.id.0, length_bytes, rows }).unwrap();
}
