//! Key sketches: which keys the build side of a join has, in bounded space, for the scans of its probe side.
//!
//! ```text
//!   lanes of an attempt -> KeySketcher -> KeySketch -- merge_sketches --> of all attempts -- filter_expr --> predicate
//!                          bounds, and hashes while they are few, then a Bloom filter
//! ```
//!
//! Guarantee: the predicate is false for no row whose keys were sketched.

mod bloom;
mod filter;

use std::collections::HashSet;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::hash_utils::create_hashes;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::{Accumulator, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, lit};
use datafusion::physical_expr::utils::conjunction;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use onward_wire::filters::{KeySketch, SketchSpec};

use bloom::Bloom;
use filter::KeySetExpr;

/// So many hashes are kept as they are, if there is room for them.
const MOST_EXACT: usize = 8_192;

/// A longer text is no bound.
const MOST_BOUND_BYTES: usize = 1 << 10;

/// Hashes, all of them or a superset.
#[derive(Clone, Debug)]
enum KeySet {
    Exact(HashSet<u64>),
    Bloom(Bloom),
}

impl KeySet {
    fn insert(&mut self, hash: u64, most_bytes: u64) {
        match self {
            Self::Bloom(bloom) => bloom.insert(hash),
            Self::Exact(hashes) => {
                let most = MOST_EXACT.min(usize::try_from(most_bytes / 8).unwrap_or(usize::MAX));
                if hashes.insert(hash) && hashes.len() > most {
                    let mut bloom = Bloom::new(most_bytes);
                    hashes.iter().for_each(|hash| bloom.insert(*hash));
                    *self = Self::Bloom(bloom);
                }
            }
        }
    }

    fn may_contain(&self, hash: u64) -> bool {
        match self {
            Self::Exact(hashes) => hashes.contains(&hash),
            Self::Bloom(bloom) => bloom.may_contain(hash),
        }
    }

    /// Adds another one; false when they do not fit together.
    fn merge(&mut self, other: Self, most_bytes: u64) -> bool {
        match (&mut *self, other) {
            (Self::Bloom(mine), Self::Bloom(theirs)) => mine.merge(&theirs),
            (_, Self::Exact(hashes)) => {
                hashes.into_iter().for_each(|hash| self.insert(hash, most_bytes));
                true
            }
            (Self::Exact(mine), Self::Bloom(mut theirs)) => {
                mine.iter().for_each(|hash| theirs.insert(*hash));
                *self = Self::Bloom(theirs);
                true
            }
        }
    }
}

/// Least and greatest value of one key column.
#[derive(Debug)]
struct Bounds {
    least: MinAccumulator,
    greatest: MaxAccumulator,
}

impl Bounds {
    fn new(data_type: &DataType) -> Result<Self> {
        let data_type = match data_type {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        Ok(Self { least: MinAccumulator::try_new(data_type)?, greatest: MaxAccumulator::try_new(data_type)? })
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let values = match values.data_type() {
            DataType::Dictionary(_, plain) => &datafusion::arrow::compute::cast(values, plain)?,
            _ => values,
        };
        self.least.update_batch(std::slice::from_ref(values))?;
        self.greatest.update_batch(std::slice::from_ref(values))
    }
}

/// Makes a sketch of rows. Rows with a NULL among their keys join nothing, and are left out.
#[derive(Debug)]
pub(crate) struct KeySketcher {
    spec: SketchSpec,
    bounds: Vec<Bounds>,
    keys: KeySet,
    is_empty: bool,
    hashes: Vec<u64>,
}

impl KeySketcher {
    /// For batches of `schema`.
    pub fn new(spec: &SketchSpec, schema: &SchemaRef) -> Result<Self> {
        let field = |column: &u32| match schema.fields().get(*column as usize) {
            Some(field) => Bounds::new(field.data_type()),
            None => internal_err!("a sketch of column {column} of {}", schema.fields().len()),
        };
        let bounds = spec.columns.iter().map(field).collect::<Result<_>>()?;
        let keys = KeySet::Exact(HashSet::new());
        Ok(Self { spec: spec.clone(), bounds, keys, is_empty: true, hashes: Vec::new() })
    }

    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys: Vec<ArrayRef> =
            self.spec.columns.iter().map(|column| Arc::clone(batch.column(*column as usize))).collect();
        self.hashes.clear();
        self.hashes.resize(batch.num_rows(), 0);
        create_hashes(&keys, REPARTITION_RANDOM_STATE.random_state(), &mut self.hashes)?;
        let nulls: Vec<_> = keys.iter().filter_map(|key| key.logical_nulls()).collect();
        for (row, hash) in self.hashes.iter().enumerate() {
            if nulls.iter().all(|nulls| nulls.is_valid(row)) {
                self.keys.insert(*hash, self.spec.most_bytes);
                self.is_empty = false;
            }
        }
        self.bounds.iter_mut().zip(&keys).try_for_each(|(bounds, key)| bounds.add(key))
    }

    pub fn finish(mut self) -> Result<KeySketch> {
        let bounds = match self.is_empty {
            true => Vec::new(),
            false => {
                let pair =
                    |bounds: &mut Bounds| Ok([known(bounds.least.evaluate()?)?, known(bounds.greatest.evaluate()?)?]);
                self.bounds.iter_mut().map(pair).collect::<Result<Vec<_>>>()?
            }
        };
        encode(self.spec.filter, &bounds, Some(&self.keys))
    }
}

/// A bound, or NULL where it is too long to be told: unknown.
fn known(bound: ScalarValue) -> Result<ScalarValue> {
    match &bound {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text))
            if text.len() > MOST_BOUND_BYTES =>
        {
            ScalarValue::try_from(bound.data_type())
        }
        _ => Ok(bound),
    }
}

fn encode(filter: u32, bounds: &[[ScalarValue; 2]], keys: Option<&KeySet>) -> Result<KeySketch> {
    let mut sketch = KeySketch { filter, ..KeySketch::default() };
    match keys {
        Some(KeySet::Exact(hashes)) => {
            let mut sorted: Vec<u64> = hashes.iter().copied().collect();
            sorted.sort_unstable();
            sketch.hashes = sorted.iter().flat_map(|hash| hash.to_le_bytes()).collect::<Vec<_>>().into();
            sketch.is_exact = true;
        }
        Some(KeySet::Bloom(bloom)) if !bloom.is_full() => sketch.bloom = bloom.to_bytes().into(),
        Some(KeySet::Bloom(_)) | None => {}
    }
    if !bounds.is_empty() {
        let columns = bounds.iter().map(|pair| ScalarValue::iter_to_array(pair.iter().cloned()));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let field = |(at, column): (usize, &ArrayRef)| Field::new(at.to_string(), column.data_type().clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
        writer.write(&RecordBatch::try_new(schema, columns)?)?;
        sketch.bounds = writer.into_inner()?.into();
    }
    Ok(sketch)
}

/// A decoded sketch.
struct Decoded {
    bounds: Vec<[ScalarValue; 2]>,
    keys: Option<KeySet>,
}

impl Decoded {
    fn of(sketch: &KeySketch) -> Result<Self> {
        let keys = match (sketch.is_exact, Bloom::from_bytes(&sketch.bloom)) {
            (true, _) => {
                let (hashes, _) = sketch.hashes.as_chunks::<8>();
                Some(KeySet::Exact(hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect()))
            }
            (false, bloom) => bloom.map(KeySet::Bloom),
        };
        Ok(Self { bounds: decode_bounds(&sketch.bounds)?, keys })
    }

    /// No row was sketched.
    fn is_empty(&self) -> bool {
        matches!(&self.keys, Some(KeySet::Exact(hashes)) if hashes.is_empty())
    }
}

fn decode_bounds(bounds: &Bytes) -> Result<Vec<[ScalarValue; 2]>> {
    if bounds.is_empty() {
        return Ok(Vec::new());
    }
    let Some(batch) = StreamReader::try_new(Cursor::new(bounds.clone()), None)?.next().transpose()? else {
        return Ok(Vec::new());
    };
    if batch.num_rows() != 2 {
        return internal_err!("bounds of {} rows", batch.num_rows());
    }
    let pair =
        |column: &ArrayRef| Ok([ScalarValue::try_from_array(column, 0)?, ScalarValue::try_from_array(column, 1)?]);
    batch.columns().iter().map(pair).collect()
}

/// One sketch of all that `sketches`, which are for one filter, were made of.
///
/// # Errors
/// When they do not belong together.
pub fn merge_sketches(sketches: &[KeySketch], most_bytes: u64) -> Result<KeySketch> {
    let filter = sketches.first().map_or(0, |sketch| sketch.filter);
    let (mut bounds, mut keys) = (Vec::<[ScalarValue; 2]>::new(), Some(KeySet::Exact(HashSet::new())));
    for sketch in sketches {
        let decoded = Decoded::of(sketch)?;
        if decoded.is_empty() {
            continue;
        }
        keys = match (keys, decoded.keys) {
            (Some(mut keys), Some(others)) => keys.merge(others, most_bytes).then_some(keys),
            _ => None,
        };
        if bounds.is_empty() {
            bounds = decoded.bounds;
            continue;
        }
        if bounds.len() != decoded.bounds.len() {
            return internal_err!("sketches of {} and {} columns", bounds.len(), decoded.bounds.len());
        }
        for ([least, greatest], [other_least, other_greatest]) in bounds.iter_mut().zip(decoded.bounds) {
            // NULL is unknown, in one as in both.
            if other_least.is_null() || (!least.is_null() && other_least < *least) {
                *least = other_least;
            }
            if other_greatest.is_null() || (!greatest.is_null() && other_greatest > *greatest) {
                *greatest = other_greatest;
            }
        }
    }
    encode(filter, &bounds, keys.as_ref())
}

/// True for rows whose keys, of these types, may be among those of the sketch.
///
/// # Errors
/// When the sketch is damaged, or of other keys.
pub fn filter_expr(
    sketch: &KeySketch,
    keys: &[Arc<dyn PhysicalExpr>],
    types: &[DataType],
) -> Result<Arc<dyn PhysicalExpr>> {
    let decoded = Decoded::of(sketch)?;
    if decoded.is_empty() {
        return Ok(lit(false));
    }
    let mut conjuncts: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
    for ((key, data_type), [least, greatest]) in keys.iter().zip(types).zip(decoded.bounds) {
        for (operator, bound) in [(Operator::GtEq, least), (Operator::LtEq, greatest)] {
            if bound.is_null() {
                continue;
            }
            let bound = lit(bound.cast_to(data_type)?);
            conjuncts.push(Arc::new(BinaryExpr::new(Arc::clone(key), operator, bound)));
        }
    }
    if let Some(set) = decoded.keys {
        conjuncts.push(Arc::new(KeySetExpr::new(keys.to_vec(), Arc::new(set))));
    }
    Ok(conjunction(conjuncts))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{BooleanArray, Int64Array, StringArray};
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    fn batch(ids: impl IntoIterator<Item = Option<i64>>) -> RecordBatch {
        let ids: Int64Array = ids.into_iter().collect();
        let names: StringArray = ids.iter().map(|id| id.map(|id| format!("name {}", id % 1_000))).collect();
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids) as ArrayRef, true),
            ("name", Arc::new(names) as ArrayRef, true),
        ])
        .expect("columns of one length")
    }

    fn sketch(batch: &RecordBatch) -> KeySketch {
        let spec = SketchSpec { filter: 3, columns: vec![0, 1], most_bytes: 64 << 10 };
        let mut sketcher = KeySketcher::new(&spec, &batch.schema()).expect("columns that are there");
        for start in (0..batch.num_rows()).step_by(1_000) {
            sketcher.add(&batch.slice(start, (batch.num_rows() - start).min(1_000))).expect("rows");
        }
        sketcher.finish().expect("a sketch")
    }

    fn passed(sketch: &KeySketch, batch: &RecordBatch) -> Vec<bool> {
        let keys: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("id", 0)), Arc::new(Column::new("name", 1))];
        let expr = filter_expr(sketch, &keys, &[DataType::Int64, DataType::Utf8]).expect("of these keys");
        let rows = expr.evaluate(batch).and_then(|rows| rows.into_array(batch.num_rows())).expect("it runs");
        let rows = rows.as_any().downcast_ref::<BooleanArray>().expect("booleans").clone();
        rows.iter().map(|row| row == Some(true)).collect()
    }

    /// Few keys, many, and more than a sketch is for; alone, and put together of parts.
    #[test]
    fn every_key_that_was_sketched_passes() {
        for count in [0, 1, 100, 20_000, 2_000_000] {
            let keys = batch((0..count).map(|at| (at % 7 != 0).then_some(at * 3)));
            let half = count as usize / 2;
            let parts = [sketch(&keys.slice(0, half)), sketch(&keys.slice(half, count as usize - half))];
            let merged = merge_sketches(&parts, 64 << 10).expect("of one filter");
            for sketch in [sketch(&keys), merged] {
                assert_eq!(sketch.filter, 3);
                let all = passed(&sketch, &keys);
                assert!(
                    all.iter().zip(keys.column(0).logical_nulls().iter().flat_map(|n| n.iter())).all(|(p, v)| *p || !v)
                );
                // What lies outside of the bounds, or between the keys, does not, or not much of it.
                let others = batch([Some(-1), Some(count * 3 + 9), None]);
                assert_eq!(passed(&sketch, &others), [false; 3], "{count}");
                let between = batch((0..count.min(10_000)).map(|at| Some(at * 3 + 1)));
                let wrong = passed(&sketch, &between).into_iter().filter(|passed| *passed).count();
                let is_useful = count < 2_000_000;
                assert!(!is_useful || wrong * 20 <= between.num_rows(), "{wrong} of {count}");
                assert!(sketch.bloom.len() + sketch.hashes.len() <= 65_536);
            }
        }
    }

    /// Bounds that are too long to be told are unknown, whatever the other parts say.
    #[test]
    fn long_texts_are_no_bounds() {
        let names = |name: &str| {
            let names: ArrayRef = Arc::new(StringArray::from(vec![name, "m"]));
            RecordBatch::try_from_iter([("name", names)]).expect("a column")
        };
        let sketch = |batch: &RecordBatch| {
            let spec = SketchSpec { filter: 0, columns: vec![0], most_bytes: 1 << 10 };
            let mut sketcher = KeySketcher::new(&spec, &batch.schema()).expect("a column that is there");
            sketcher.add(batch).expect("rows");
            sketcher.finish().expect("a sketch")
        };
        let (long, short) = (names(&"z".repeat(5_000)), names("a"));
        for parts in [[sketch(&long), sketch(&short)], [sketch(&short), sketch(&long)]] {
            let merged = merge_sketches(&parts, 1 << 10).expect("of one filter");
            assert!(merged.bounds.len() < 2_000);
            let keys: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("name", 0))];
            let expr = filter_expr(&merged, &keys, &[DataType::Utf8]).expect("of these keys");
            for batch in [&long, &short] {
                let passed = expr.evaluate(batch).and_then(|rows| rows.into_array(2)).expect("it runs");
                let passed = passed.as_any().downcast_ref::<BooleanArray>().expect("booleans");
                assert_eq!(passed, &BooleanArray::from(vec![true, true]));
            }
        }
    }

    #[test]
    fn a_part_without_rows_changes_nothing() {
        let keys = batch((0..50_000).map(Some));
        let (full, empty) = (sketch(&keys), sketch(&keys.slice(0, 0)));
        let merged = merge_sketches(&[empty.clone(), full.clone(), empty.clone()], 64 << 10).expect("of one filter");
        assert_eq!(merged, full);
        assert_eq!(passed(&merge_sketches(&[empty.clone(), empty], 64 << 10).expect("none"), &keys), [false; 50_000]);
    }
}
