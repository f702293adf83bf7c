//! [`RuntimeFilterPlaces`]: the filters of a plan that a function decoded.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
use datafusion::physical_plan::PhysicalExpr;

/// A place of a filter in a plan, true until it is told something.
#[derive(Debug)]
pub(crate) struct Place {
    pub filter: u32,
    pub types: Vec<DataType>,
    pub expr: Arc<DynamicFilterPhysicalExpr>,
}

/// Where the runtime filters of a plan go: scans and operators look at them as they run.
#[derive(Debug, Default)]
pub struct RuntimeFilterPlaces(Vec<Place>);

impl RuntimeFilterPlaces {
    pub(crate) fn new(places: Vec<Place>) -> Self {
        Self(places)
    }

    /// Puts what `predicate` makes of the keys and their types in all places of a filter. It must be true for every row that may
    /// join something.
    ///
    /// # Errors
    /// Those of `predicate`; places before that have it.
    pub fn set(
        &self,
        filter: u32,
        predicate: impl Fn(&[Arc<dyn PhysicalExpr>], &[DataType]) -> Result<Arc<dyn PhysicalExpr>>,
    ) -> Result<()> {
        for place in self.0.iter().filter(|place| place.filter == filter) {
            let keys: Vec<_> = place.expr.children().into_iter().cloned().collect();
            place.expr.update(predicate(&keys, &place.types)?)?;
        }
        Ok(())
    }
}
