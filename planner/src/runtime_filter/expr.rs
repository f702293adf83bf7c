//! [`RuntimeFilterExpr`]: the place of a runtime filter in a plan.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_plan::PhysicalExpr;

/// What is told about the keys at run time goes here. Functions decode it as a dynamic filter; before that it is true.
#[derive(Clone, Debug)]
pub struct RuntimeFilterExpr {
    filter: u32,
    keys: Vec<Arc<dyn PhysicalExpr>>,
}

impl RuntimeFilterExpr {
    /// The place of filter `filter` of `keys`.
    pub(super) fn new(filter: u32, keys: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        Self { filter, keys }
    }

    /// The filter, a number in the query.
    pub fn filter(&self) -> u32 {
        self.filter
    }
}

impl PartialEq for RuntimeFilterExpr {
    fn eq(&self, other: &Self) -> bool {
        self.filter == other.filter && self.keys == other.keys
    }
}

impl Eq for RuntimeFilterExpr {}

impl Hash for RuntimeFilterExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.filter.hash(state);
        self.keys.hash(state);
    }
}

impl fmt::Display for RuntimeFilterExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "RuntimeFilter {} [{keys}]", self.filter)
    }
}

impl PhysicalExpr for RuntimeFilterExpr {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, _: &RecordBatch) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.keys.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, keys: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { filter: self.filter, keys }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
