//! Every Arrow type goes through a segment unchanged, and comes back without a copy.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_ipc::reader::StreamReader;
use onward_wire::FunctionId;
use onward_wire::message::SegmentRef;
use proptest::prelude::*;

use super::samples::{ROWS, arrays};
use crate::{ImageWriter, MappedSegment, SegmentStore, SegmentWriter, StoreOptions};

/// All buffers of an array and its children.
fn buffers(data: &ArrayData) -> Vec<Buffer> {
    let mut found = data.buffers().to_vec();
    found.extend(data.nulls().map(|nulls| nulls.buffer().clone()));
    found.extend(data.child_data().iter().flat_map(buffers));
    found
}

fn one_column(array: &ArrayRef) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("c", array.data_type().clone(), true)]);
    RecordBatch::try_new(Arc::new(schema), vec![array.clone()]).unwrap()
}

fn image_of(batch: &RecordBatch) -> Arc<MappedSegment> {
    let mut writer = ImageWriter::create(batch.schema()).unwrap();
    writer.append(3, batch).unwrap();
    Arc::new(MappedSegment::from_image(writer.finish().unwrap().1).unwrap())
}

fn only_batch(segment: &Arc<MappedSegment>, partition: u32) -> RecordBatch {
    let mut batches = segment.batches(partition);
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

/// Arrow's own validation agrees, and the values are equal.
fn check(batch: &RecordBatch) {
    let read = only_batch(&image_of(batch), 3);
    for column in read.columns() {
        column.to_data().validate_full().unwrap_or_else(|error| panic!("{}: {error}", column.data_type()));
    }
    assert_eq!(&read, batch);
}

#[test]
fn every_type_round_trips_whole_sliced_and_empty() {
    for array in arrays() {
        check(&one_column(&array));
        for (start, rows) in [(3, 11), (8, 13), (20, 1), (5, 0), (0, 0)] {
            check(&one_column(&array.slice(start, rows)));
        }
    }
}

#[test]
fn arrow_itself_reads_the_messages() {
    for array in arrays() {
        let batch = one_column(&array.slice(2, 17));
        let segment = image_of(&batch);
        let entry = segment.entries(3).next().unwrap();
        let stream = [segment.schema_message(), segment.messages(&entry)].concat();
        let read = StreamReader::try_new(Cursor::new(stream), None).unwrap().next().unwrap().unwrap();
        assert_eq!(read, batch);
    }
}

#[test]
fn batches_without_columns_keep_their_rows() {
    let options = RecordBatchOptions::new().with_row_count(Some(42));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(only_batch(&image_of(&batch), 3).num_rows(), 42);
}

#[test]
fn a_segment_without_entries_is_read_as_empty() {
    let writer = ImageWriter::create(Arc::new(Schema::empty())).unwrap();
    let (written, image) = writer.finish().unwrap();
    assert_eq!((written.rows, written.length_bytes), (0, image.len() as u64));
    assert_eq!(Arc::new(MappedSegment::from_image(image).unwrap()).batches(0).count(), 0);
}

#[test]
fn another_type_than_the_segments_is_refused() {
    let numbers = one_column(&(Arc::new(Int64Array::from(vec![1])) as ArrayRef));
    let texts = one_column(&(Arc::new(StringViewArray::from(vec!["1"])) as ArrayRef));
    let mut writer = ImageWriter::create(numbers.schema()).unwrap();
    let error = writer.append(0, &texts).unwrap_err().to_string();
    assert_eq!(error, "column c of the batch is Utf8View, the segment holds Int64");
}

/// A file of a store, with `batch` in partitions 2 and 9.
fn file_of(store: &SegmentStore, batch: &RecordBatch) -> Arc<MappedSegment> {
    let file = store.create(FunctionId(1), 1 << 20).unwrap();
    let mut writer = SegmentWriter::create(file.id, file.file, file.capacity_bytes, batch.schema()).unwrap();
    writer.append(9, batch).unwrap();
    writer.append(2, batch).unwrap();
    let written = writer.finish().unwrap();
    let (length_bytes, rows) = (written.length_bytes, written.rows);
    store.commit(&SegmentRef { segment: file.id.0, length_bytes, rows }).unwrap();
    store.map(file.id).unwrap()
}

#[test]
fn arrays_point_into_the_mapping_and_count_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(StoreOptions::below(dir.path(), 8 << 20, 0)).unwrap();
    let rows = 5_000;
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new((0..rows).map(|row| (row % 3 != 0).then_some(row)).collect::<Int64Array>())),
        (
            "s",
            Arc::new((0..rows).map(|row| Some(format!("the text of row number {row}"))).collect::<StringViewArray>()),
        ),
        ("t", Arc::new((0..rows).map(|row| format!("{row}")).map(Some).collect::<arrow::array::StringArray>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let segment = file_of(&store, &batch);
    let memory = segment.bytes().as_ptr_range();
    for partition in [2, 9] {
        let read = only_batch(&segment, partition);
        assert_eq!(read, batch);
        for buffer in read.columns().iter().flat_map(|column| buffers(&column.to_data())) {
            let range = buffer.as_slice().as_ptr_range();
            assert!(memory.start <= range.start && range.end <= memory.end, "a buffer was copied");
            assert_eq!(buffer.as_ptr().align_offset(64), 0);
        }
        let real: usize =
            (read.columns().iter()).flat_map(|column| buffers(&column.to_data())).map(|buffer| buffer.len()).sum();
        let counted = read.get_array_memory_size();
        assert!(counted.abs_diff(real) * 10 <= real, "counted as {counted} bytes, is {real}");
    }
}

#[test]
fn the_mapping_lives_as_long_as_an_array_then_the_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = SegmentStore::open(StoreOptions::below(dir.path(), 8 << 20, 0)).unwrap();
    let batch = one_column(&(Arc::new(Int64Array::from(vec![7; 100])) as ArrayRef));
    let segment = file_of(&store, &batch);
    let column = only_batch(&segment, 2).column(0).slice(10, 1);
    drop(segment);
    assert_eq!(store.usage().leases, 1);
    assert_eq!(column.as_ref(), &Int64Array::from(vec![7]) as &dyn Array);
    drop(column);
    assert_eq!(store.usage().leases, 0);
}

#[test]
fn slices_and_sparse_views_take_no_more_than_their_rows() {
    let texts: ArrayRef = Arc::new((0..10_000).map(|row| Some(format!("{row:100}"))).collect::<StringViewArray>());
    let dictionary: ArrayRef = Arc::new(arrow::array::DictionaryArray::new(
        arrow::array::Int32Array::from_iter_values(0..10_000),
        texts.clone(),
    ));
    for array in [texts, dictionary] {
        let bytes = image_of(&one_column(&array.slice(5_000, 10))).length_bytes();
        assert!(bytes < 4_096, "{bytes} bytes for 10 rows of 100 bytes of {}", array.data_type());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Several batches per partition, in any mix of types and slices, come back complete and in order.
    #[test]
    fn any_mix_of_columns_slices_and_partitions_round_trips(
        picks in prop::collection::vec(0..arrays().len(), 1..6),
        slices in prop::collection::vec((0u32..5, 0..ROWS, 0..=ROWS), 1..12),
    ) {
        let samples = arrays();
        let fields: Vec<Field> = (picks.iter().enumerate())
            .map(|(at, pick)| Field::new(format!("c{at}"), samples[*pick].data_type().clone(), true))
            .collect();
        let columns = picks.iter().map(|pick| samples[*pick].clone()).collect();
        let whole = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let mut writer = ImageWriter::create(whole.schema()).unwrap();
        let mut expected: Vec<Vec<RecordBatch>> = vec![Vec::new(); 5];
        for (partition, start, rows) in slices {
            let part = whole.slice(start, rows.min(ROWS - start));
            writer.append(partition, &part).unwrap();
            expected[partition as usize].push(part);
        }
        let (written, image) = writer.finish().unwrap();
        let segment = Arc::new(MappedSegment::from_image(image).unwrap());
        prop_assert_eq!(segment.rows(), written.rows);
        for (partition, batches) in expected.iter().enumerate() {
            let read = segment.batches(partition as u32).collect::<Result<Vec<_>, _>>().unwrap();
            prop_assert_eq!(&read, batches);
        }
    }
}

#[test]
fn dictionaries_of_dictionaries_are_no_arrow_ipc() {
    // IPC has no way to say it; DataFusion never makes one. The error must be typed, not a wrong answer.
    let values = arrow::array::DictionaryArray::new(
        arrow::array::Int8Array::from(vec![0]),
        Arc::new(arrow::array::StringArray::from(vec!["a"])) as ArrayRef,
    );
    let array = arrow::array::DictionaryArray::new(arrow::array::Int8Array::from(vec![0, 0]), Arc::new(values) as _);
    assert!(matches!(array.data_type(), DataType::Dictionary(..)));
    assert!(ImageWriter::create(one_column(&(Arc::new(array) as ArrayRef)).schema()).is_err());
}
