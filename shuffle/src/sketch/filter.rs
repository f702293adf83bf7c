//! [`KeySetExpr`]: whether a row's keys may be among those of a sketch.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::buffer::{BooleanBuffer, NullBuffer};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::common::hash_utils::create_hashes;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr_common::utils::evaluate_expressions_to_arrays;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;

use super::KeySet;

/// True where the keys may be there, false where they are not: NULL equals nothing.
#[derive(Debug)]
pub(super) struct KeySetExpr {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    set: Arc<KeySet>,
}

impl KeySetExpr {
    pub fn new(keys: Vec<Arc<dyn PhysicalExpr>>, set: Arc<KeySet>) -> Self {
        Self { keys, set }
    }
}

impl PartialEq for KeySetExpr {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys && Arc::ptr_eq(&self.set, &other.set)
    }
}

impl Eq for KeySetExpr {}

impl Hash for KeySetExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.keys.hash(state);
        Arc::as_ptr(&self.set).hash(state);
    }
}

impl fmt::Display for KeySetExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_sql(f)
    }
}

impl PhysicalExpr for KeySetExpr {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let keys = evaluate_expressions_to_arrays(self.keys.iter(), batch)?;
        let mut hashes = vec![0; batch.num_rows()];
        create_hashes(&keys, REPARTITION_RANDOM_STATE.random_state(), &mut hashes)?;
        let mut passed = BooleanBuffer::collect_bool(hashes.len(), |row| self.set.may_contain(hashes[row]));
        let nulls =
            keys.iter().fold(None, |nulls, key| NullBuffer::union(nulls.as_ref(), key.logical_nulls().as_ref()));
        if let Some(nulls) = nulls {
            passed = &passed & nulls.inner();
        }
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(passed, None))))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.keys.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, keys: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { keys, set: Arc::clone(&self.set) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "key_set({keys})")
    }
}
