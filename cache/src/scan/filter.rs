//! Conjuncts of a scan's filter, run batch by batch on the columns they name.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, BooleanBufferBuilder, RecordBatch, new_null_array};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{concat, filter, prep_null_mask_filter};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::common::cast::as_boolean_array;
use datafusion::physical_expr::expressions::{Column, DynamicFilterTracking};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_plan::PhysicalExpr;

use crate::columns::CachedColumn;

/// A conjunct runs on the rows that are left, instead of on all, when fewer than one in this many is.
const SPARSE: usize = 4;
/// Batches after which an optional conjunct must have been worth its while.
const TRIAL_BATCHES: usize = 8;
/// A conjunct is worth its while when it drops at least one row in this many.
const LEAST_DROPPED: usize = 8;

/// A filter in the order it was written: the optional conjuncts, which only save work, come last.
#[derive(Debug)]
pub(super) struct Filter {
    conjuncts: Vec<Conjunct>,
}

#[derive(Debug)]
struct Conjunct {
    /// In terms of `schema`.
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// Columns of the file, in the order of `schema`.
    columns: Vec<usize>,
    /// Somebody else drops the rows that it would drop.
    is_optional: bool,
    tracking: DynamicFilterTracking,
    batches: usize,
    rows: usize,
    kept: usize,
    is_off: bool,
    /// The verdict on each value of a dictionary, then on NULL; of the current row group.
    by_value: Option<Vec<bool>>,
}

impl Filter {
    /// `required` and `optional` conjuncts in terms of the file's columns.
    pub(super) fn new(
        required: &[Arc<dyn PhysicalExpr>],
        optional: &[Arc<dyn PhysicalExpr>],
        file_schema: &Schema,
    ) -> Result<Self> {
        let required = required.iter().map(|expr| Conjunct::new(expr, false, file_schema));
        let optional = optional.iter().map(|expr| Conjunct::new(expr, true, file_schema));
        Ok(Self { conjuncts: required.chain(optional).collect::<Result<_>>()? })
    }

    /// Columns of the file that it reads.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.conjuncts.iter().flat_map(|conjunct| conjunct.columns.iter().copied())
    }

    /// Some conjuncts only save work.
    pub(super) fn has_optional(&self) -> bool {
        self.conjuncts.iter().any(|conjunct| conjunct.is_optional)
    }

    /// A new row group: dictionaries are others.
    pub(super) fn begin_row_group(&mut self) {
        for conjunct in &mut self.conjuncts {
            conjunct.by_value = None;
            if let DynamicFilterTracking::Watching(tracker) = &mut conjunct.tracking
                && tracker.changed()
            {
                conjunct.try_again();
            }
        }
    }

    /// The rows of batch `batch` that pass: `None` = all. `skips_required`: statistics say that all rows pass those.
    pub(super) fn select(
        &mut self,
        columns: &HashMap<usize, Arc<CachedColumn>>,
        batch: usize,
        rows: usize,
        skips_required: bool,
    ) -> Result<Option<BooleanBuffer>> {
        let mut selected: Option<BooleanBuffer> = None;
        for conjunct in &mut self.conjuncts {
            if conjunct.is_off || (skips_required && !conjunct.is_optional) {
                continue;
            }
            let before = selected.as_ref().map_or(rows, BooleanBuffer::count_set_bits);
            if before == 0 {
                break;
            }
            let passed = conjunct.run(columns, batch, selected.as_ref(), before)?;
            let merged = match (selected, passed) {
                (None, Passed::OfAll(passed)) => passed,
                (Some(selected), Passed::OfAll(passed)) => &selected & &passed,
                (Some(selected), Passed::OfSelected(passed)) => narrowed(&selected, &passed),
                (None, Passed::OfSelected(passed)) => passed,
            };
            let kept = merged.count_set_bits();
            conjunct.note(before, kept);
            selected = (kept < rows).then_some(merged);
        }
        Ok(selected)
    }
}

/// Verdicts, one per row of the batch or one per row that was left.
enum Passed {
    OfAll(BooleanBuffer),
    OfSelected(BooleanBuffer),
}

impl Conjunct {
    fn new(expr: &Arc<dyn PhysicalExpr>, is_optional: bool, file_schema: &Schema) -> Result<Self> {
        let mut columns: Vec<usize> = collect_columns(expr).iter().map(Column::index).collect();
        columns.sort_unstable();
        columns.dedup();
        // NULL is asked about, too, where the file says that there is none.
        let fields = columns.iter().map(|column| file_schema.field(*column).clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let expr = reassign_expr_columns(Arc::clone(expr), &schema)?;
        Ok(Self {
            tracking: DynamicFilterTracking::classify(&expr),
            expr,
            schema,
            columns,
            is_optional,
            batches: 0,
            rows: 0,
            kept: 0,
            is_off: false,
            by_value: None,
        })
    }

    fn run(
        &mut self,
        columns: &HashMap<usize, Arc<CachedColumn>>,
        batch: usize,
        selected: Option<&BooleanBuffer>,
        left: usize,
    ) -> Result<Passed> {
        if let [column] = self.columns.as_slice()
            && let Some(cached) = columns.get(column)
            && let (Some(keys), Some(values)) = (cached.keys(batch), cached.values())
            && matches!(self.tracking, DynamicFilterTracking::Static)
        {
            let verdicts = match &self.by_value {
                Some(verdicts) => verdicts,
                None => {
                    let verdicts = self.judge_values(values)?;
                    self.by_value.insert(verdicts)
                }
            };
            let of_null = verdicts[values.len()];
            let passed = match keys.nulls() {
                None => {
                    let keys = keys.values();
                    BooleanBuffer::collect_bool(keys.len(), |row| verdicts[usize::from(keys[row])])
                }
                Some(nulls) => {
                    let values = keys.values();
                    BooleanBuffer::collect_bool(keys.len(), |row| match nulls.is_valid(row) {
                        true => verdicts[usize::from(values[row])],
                        false => of_null,
                    })
                }
            };
            return Ok(Passed::OfAll(passed));
        }
        let mut arrays = Vec::with_capacity(self.columns.len());
        let mask = selected.filter(|selected| left * SPARSE < selected.len());
        let mask = mask.map(|mask| BooleanArray::new(mask.clone(), None));
        let mut rows = selected.map(BooleanBuffer::len);
        for column in &self.columns {
            let Some(cached) = columns.get(column) else {
                return datafusion::common::internal_err!("a filter's column was not read");
            };
            let compact = cached.compact(batch);
            rows = Some(compact.len());
            let compact = match &mask {
                Some(mask) => filter(compact.as_ref(), mask)?,
                None => compact,
            };
            arrays.push(cached.expand(compact)?);
        }
        let rows = if mask.is_some() { left } else { rows.unwrap_or(left) };
        let passed = self.evaluate(arrays, rows)?;
        Ok(if mask.is_some() { Passed::OfSelected(passed) } else { Passed::OfAll(passed) })
    }

    /// NULL is no, but for an optional conjunct, where it is for somebody else to say: in a join that takes NULLs for equal, a key
    /// of type Null makes the whole filter NULL, and the row may match.
    fn evaluate(&self, arrays: Vec<ArrayRef>, rows: usize) -> Result<BooleanBuffer> {
        let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        let verdicts = self.expr.evaluate(&batch)?.into_array(rows)?;
        let verdicts = as_boolean_array(&verdicts)?;
        Ok(match verdicts.nulls() {
            None => verdicts.values().clone(),
            Some(nulls) if self.is_optional => verdicts.values() | &!nulls.inner(),
            Some(_) => prep_null_mask_filter(verdicts).values().clone(),
        })
    }

    fn judge_values(&self, values: &ArrayRef) -> Result<Vec<bool>> {
        let with_null = concat(&[values.as_ref(), new_null_array(values.data_type(), 1).as_ref()])?;
        let rows = with_null.len();
        Ok(self.evaluate(vec![with_null], rows)?.iter().collect())
    }

    /// Optional conjuncts that drop next to nothing are not run any more.
    fn note(&mut self, before: usize, kept: usize) {
        if !self.is_optional {
            return;
        }
        self.batches += 1;
        self.rows += before;
        self.kept += kept;
        if self.batches >= TRIAL_BATCHES && (self.rows - self.kept) * LEAST_DROPPED < self.rows {
            self.is_off = true;
        }
    }

    /// Its value changed: past batches say nothing.
    fn try_again(&mut self) {
        (self.batches, self.rows, self.kept, self.is_off) = (0, 0, 0, false);
    }
}

/// `selected` without the rows whose verdict in `passed`, one per selected row, is no.
fn narrowed(selected: &BooleanBuffer, passed: &BooleanBuffer) -> BooleanBuffer {
    let mut narrowed = BooleanBufferBuilder::new(selected.len());
    narrowed.append_n(selected.len(), false);
    for (row, verdict) in selected.set_indices().zip(passed.iter()) {
        if verdict {
            narrowed.set_bit(row, true);
        }
    }
    narrowed.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::layout::Stored;
    use datafusion::arrow::array::{Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{IsNullExpr, binary, col, lit};

    fn columns() -> (Schema, HashMap<usize, Arc<CachedColumn>>) {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..100).map(|i| (i % 10 != 3).then_some(i))));
        let names: ArrayRef = Arc::new(StringViewArray::from_iter((0..100).map(|i| match i % 5 {
            0 => None,
            n => Some(["a", "b", "c", "d"][n - 1]),
        })));
        let schema =
            Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8View, true)]);
        let cached = |array| Arc::new(CachedColumn::on_heap(Stored::new(vec![array])));
        (schema, HashMap::from([(0, cached(numbers)), (1, cached(names))]))
    }

    fn passing(required: &[Arc<dyn PhysicalExpr>]) -> Vec<usize> {
        let (schema, columns) = columns();
        let mut filter = Filter::new(required, &[], &schema).unwrap();
        match filter.select(&columns, 0, 100, false).unwrap() {
            Some(rows) => rows.set_indices().collect(),
            None => (0..100).collect(),
        }
    }

    #[test]
    fn conjuncts_agree_with_evaluating_them_row_by_row() {
        let (schema, columns) = columns();
        assert!(columns[&1].values().is_some(), "the strings have a dictionary");
        let less = binary(col("n", &schema).unwrap(), Operator::Lt, lit(8i64), &schema).unwrap();
        let is_b = binary(
            col("s", &schema).unwrap(),
            Operator::Eq,
            lit(datafusion::scalar::ScalarValue::Utf8View(Some("b".into()))),
            &schema,
        )
        .unwrap();
        let is_null: Arc<dyn PhysicalExpr> = Arc::new(IsNullExpr::new(col("s", &schema).unwrap()));
        assert_eq!(passing(&[Arc::clone(&less)]), [0, 1, 2, 4, 5, 6, 7], "NULL is no");
        assert_eq!(passing(&[Arc::clone(&is_b), Arc::clone(&less)]), [2, 7]);
        assert_eq!(passing(&[Arc::clone(&less), Arc::clone(&is_b)]), [2, 7], "sparse rows, then a dictionary");
        assert_eq!(passing(&[Arc::clone(&less), Arc::clone(&is_null)]), [0, 5]);
        let more = binary(col("n", &schema).unwrap(), Operator::Gt, lit(4i64), &schema).unwrap();
        assert_eq!(passing(&[less, more]), [5, 6, 7], "sparse rows, then a comparison");
        assert_eq!(passing(&[]).len(), 100);
    }

    #[test]
    fn rows_for_which_an_optional_conjunct_is_null_pass() {
        let (schema, columns) = columns();
        let less = binary(col("n", &schema).unwrap(), Operator::Lt, lit(8i64), &schema).unwrap();
        let mut filter = Filter::new(&[], &[less], &schema).unwrap();
        let passed = filter.select(&columns, 0, 100, false).unwrap().unwrap();
        let nulls = (0..100).filter(|row| row % 10 == 3);
        let mut expected: Vec<usize> = [0, 1, 2, 4, 5, 6, 7].into_iter().chain(nulls).collect();
        expected.sort_unstable();
        assert_eq!(passed.set_indices().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_optional_conjunct_that_drops_nothing_is_switched_off() {
        let (schema, columns) = columns();
        let all = binary(col("n", &schema).unwrap(), Operator::GtEq, lit(-1i64), &schema).unwrap();
        let all = binary(
            all,
            Operator::Or,
            Arc::new(IsNullExpr::new(col("n", &schema).unwrap())) as Arc<dyn PhysicalExpr>,
            &schema,
        )
        .unwrap();
        let mut filter = Filter::new(&[], &[all], &schema).unwrap();
        for _ in 0..TRIAL_BATCHES {
            assert_eq!(filter.select(&columns, 0, 100, false).unwrap(), None);
        }
        assert!(filter.conjuncts[0].is_off);
    }
}
