//! Scalar subqueries that give more than one row: an error, however the plan is distributed.
//!
//! DataFusion checks that in a node that cannot be encoded, so our sessions plan scalar subqueries as joins, which would
//! take every row. Therefore the value of a subquery that could have several rows is an aggregate over them,
//! `single_value` (Calcite's name for it), which refuses the second row and can be cut like any other aggregate.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, LogicalPlanBuilder, Signature, Subquery, Volatility,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Wraps the subqueries. Runs before DataFusion's rules, which turn them into joins.
#[derive(Debug, Default)]
pub(crate) struct SingleRowSubqueries;

impl OptimizerRule for SingleRowSubqueries {
    fn name(&self) -> &str {
        "single_row_subqueries"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        plan.map_expressions(|expr| {
            expr.transform_up(|expr| match expr {
                Expr::ScalarSubquery(subquery) if may_have_more_rows(&subquery) => {
                    Ok(Transformed::yes(Expr::ScalarSubquery(with_single_value(subquery)?)))
                }
                other => Ok(Transformed::no(other)),
            })
        })
    }
}

/// A correlated one is an aggregate already: DataFusion's analyzer sees to that.
fn may_have_more_rows(subquery: &Subquery) -> bool {
    subquery.outer_ref_columns.is_empty() && subquery.subquery.max_rows().is_none_or(|rows| rows > 1)
}

fn with_single_value(subquery: Subquery) -> Result<Subquery> {
    let [column] = <[Column; 1]>::try_from(subquery.subquery.schema().columns()).map_err(|columns| {
        datafusion::common::plan_datafusion_err!("a scalar subquery has one column, not {}", columns.len())
    })?;
    let name = column.name.clone();
    let value = AggregateFunction::new_udf(single_value(), vec![Expr::Column(column)], false, None, vec![], None);
    let plan =
        LogicalPlanBuilder::from(subquery.subquery).aggregate(Vec::<Expr>::new(), [Expr::AggregateFunction(value)])?;
    let aggregate = Expr::Column(plan.schema().columns().swap_remove(0));
    let plan = plan.project([aggregate.alias(name)])?.build()?;
    Ok(Subquery { subquery: Arc::new(plan), ..subquery })
}

/// The aggregate `single_value(x)`: the value of its only row, NULL without rows, an error for more. Functions need it
/// to decode plans.
pub fn single_value() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(SingleValue { signature: Signature::any(1, Volatility::Immutable) }))
}

/// See [`single_value`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleValue {
    signature: Signature,
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &str {
        "single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [data_type] => Ok(data_type.clone()),
            _ => internal_err!("single_value takes one argument, not {}", arguments.len()),
        }
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(SingleValueAccumulator {
            value: ScalarValue::try_from(arguments.return_field.data_type())?,
            rows: 0,
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let value = arguments.return_field.as_ref().clone();
        Ok(vec![
            Arc::new(value.with_name(format_state_name(arguments.name, "value")).with_nullable(true)),
            Arc::new(Field::new(format_state_name(arguments.name, "rows"), DataType::UInt64, false)),
        ])
    }
}

#[derive(Debug)]
struct SingleValueAccumulator {
    value: ScalarValue,
    rows: u64,
}

impl SingleValueAccumulator {
    fn add(&mut self, values: &dyn Array, row: usize) -> Result<()> {
        self.rows += 1;
        if self.rows > 1 {
            return exec_err!("Scalar subquery returned more than one row");
        }
        self.value = ScalarValue::try_from_array(values, row)?;
        Ok(())
    }
}

impl Accumulator for SingleValueAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        (0..values[0].len()).try_for_each(|row| self.add(&values[0], row))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size() - size_of_val(&self.value)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::from(self.rows)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states[1].as_primitive::<UInt64Type>();
        let filled = (0..rows.len()).filter(|row| rows.value(*row) > 0);
        filled.into_iter().try_for_each(|row| self.add(&states[0], row))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, UInt64Array};

    use super::*;

    fn accumulator() -> SingleValueAccumulator {
        SingleValueAccumulator { value: ScalarValue::Int32(None), rows: 0 }
    }

    fn column(values: Vec<Option<i32>>) -> ArrayRef {
        Arc::new(Int32Array::from(values))
    }

    #[test]
    fn a_second_row_is_refused_in_one_batch_and_across_batches() {
        assert!(accumulator().update_batch(&[column(vec![Some(1), Some(1)])]).is_err());
        let mut batches = accumulator();
        batches.update_batch(&[column(vec![None])]).unwrap();
        assert!(batches.update_batch(&[column(vec![None])]).is_err());
    }

    #[test]
    fn partial_states_merge_to_the_only_row() {
        let rows = |rows: Vec<u64>| Arc::new(UInt64Array::from(rows)) as ArrayRef;
        let mut merged = accumulator();
        merged.merge_batch(&[column(vec![None, Some(7), None]), rows(vec![0, 1, 0])]).unwrap();
        assert_eq!(merged.evaluate().unwrap(), ScalarValue::Int32(Some(7)));
        assert!(merged.merge_batch(&[column(vec![Some(7)]), rows(vec![1])]).is_err());
        let mut empty = accumulator();
        empty.merge_batch(&[column(vec![None, None]), rows(vec![0, 0])]).unwrap();
        assert_eq!(empty.evaluate().unwrap(), ScalarValue::Int32(None));
    }
}
