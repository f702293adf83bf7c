//! Every Arrow type goes through a segment unchanged, and comes back without a copy.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use onward_wire::FunctionId;
use onward_wire::message::SegmentRef;

use crate::{ImageWriter, MappedSegment, SegmentStore, SegmentWriter, StoreOptions};

fn image_of(batch: &RecordBatch) -> Arc<MappedSegment> {
    let mut writer = ImageWriter::create(batch.schema()).unwrap();
    writer.append(3, batch).unwrap();
    Arc::new(MappedSegment::from_image(writer.finish().unwrap().1).unwrap())
}

#[test]
fn a_batch_survives_an_image_and_a_file() {
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("s", Arc::new(StringViewArray::from(vec![Some("short"), Some("longer than twelve bytes"), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    assert_eq!(image_of(&batch).batches(3).next().unwrap().unwrap(), batch);
    assert_eq!(image_of(&batch).batches(4).count(), 0);

    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(StoreOptions::below(dir.path(), 1 << 20, 1 << 20)).unwrap();
    let file = store.create(FunctionId(1), 10_000).unwrap();
    let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch.schema()).unwrap();
    writer.append(9, &batch).unwrap();
    writer.append(2, &batch).unwrap();
    let written = writer.finish().unwrap();
    store.commit(&SegmentRef { segment: file.id.0, length_bytes: written.length_bytes, rows: 6 }).unwrap();
    let mapped = store.map(file.id).unwrap();
    for partition in [2, 9] {
        assert_eq!(mapped.batches(partition).collect::<Result<Vec<_>, _>>().unwrap(), [batch.clone()]);
    }
}
