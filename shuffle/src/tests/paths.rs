//! The fast path and the general path give identical batches, for every type.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use onward_segment::{ImageWriter, MappedSegment};
use proptest::prelude::*;

use super::samples::{ROWS, arrays};
use crate::writer::for_tests::{Paths, write};

fn segment(
    path: Paths,
    batches: &[RecordBatch],
    targets: &[Vec<u32>],
    batch_rows: usize,
) -> Option<Arc<MappedSegment>> {
    let schema = batches[0].schema();
    let mut writer = ImageWriter::create(schema).unwrap();
    write(path, batches, targets, batch_rows, &mut writer)?;
    Some(Arc::new(MappedSegment::from_image(writer.finish().unwrap().1).unwrap()))
}

fn batches_of(segment: &Arc<MappedSegment>, partitions: u32) -> Vec<Vec<RecordBatch>> {
    (0..partitions).map(|partition| segment.batches(partition).map(Result::unwrap).collect()).collect()
}

fn check(batches: &[RecordBatch], targets: &[Vec<u32>], batch_rows: usize) {
    let general = batches_of(&segment(Paths::General, batches, targets, batch_rows).unwrap(), 5);
    for column in general.iter().flatten().flat_map(RecordBatch::columns) {
        column.to_data().validate_full().unwrap();
    }
    if let Some(fast) = segment(Paths::Fast, batches, targets, batch_rows) {
        let fast = batches_of(&fast, 5);
        for column in fast.iter().flatten().flat_map(RecordBatch::columns) {
            column.to_data().validate_full().unwrap_or_else(|error| panic!("{}: {error}", column.data_type()));
        }
        assert_eq!(fast, general);
    }
}

fn batch(arrays: &[ArrayRef]) -> RecordBatch {
    let fields: Vec<Field> = (arrays.iter().enumerate())
        .map(|(at, array)| Field::new(format!("c{at}"), array.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.to_vec()).unwrap()
}

#[test]
fn every_type_takes_both_paths_to_the_same_batches() {
    let hashed: Vec<u32> = (0..ROWS as u32).map(|row| row * 7 % 5).collect();
    for array in arrays() {
        let whole = batch(std::slice::from_ref(&array));
        let sliced = whole.slice(4, 10);
        check(&[whole.clone(), sliced.clone()], &[hashed.clone(), hashed[..10].to_vec()], 3);
        // In order, as Preserve and Single give them.
        check(&[whole, sliced], &[vec![], vec![]], 8);
    }
}

#[test]
fn only_types_with_dictionaries_need_the_general_path() {
    fn has_dictionary(data_type: &DataType) -> bool {
        format!("{data_type:?}").contains("Dictionary")
    }
    for array in arrays() {
        let whole = batch(std::slice::from_ref(&array));
        let is_fast = segment(Paths::Fast, &[whole], &[vec![]], 8).is_some();
        assert_eq!(is_fast, !has_dictionary(array.data_type()), "{}", array.data_type());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_window_takes_both_paths_to_the_same_batches(
        picks in prop::collection::vec(0..arrays().len(), 1..5),
        parts in prop::collection::vec((0..ROWS, 1..=ROWS, prop::collection::vec(0u32..5, ROWS)), 1..6),
        batch_rows in 1usize..40,
    ) {
        let samples = arrays();
        let whole = batch(&picks.iter().map(|pick| samples[*pick].clone()).collect::<Vec<_>>());
        let (mut batches, mut targets) = (Vec::new(), Vec::new());
        for (start, rows, hashed) in parts {
            let part = whole.slice(start, rows.min(ROWS - start));
            // Every third batch keeps its order.
            targets.push(if start % 3 == 0 { vec![] } else { hashed[..part.num_rows()].to_vec() });
            batches.push(part);
        }
        check(&batches, &targets, batch_rows);
    }
}
