//! Decimal arithmetic in 64 bits, where nothing can overflow: the last rule before a plan runs, in the process that runs it.
//!
//! A decimal of DataFusion has 128 bits, and each of its operations checks for overflow: a product costs several times what it
//! costs in 64 bits, and prices and discounts need no more than 64. Types are fixed when a query is planned, so the types stay;
//! what changes is how `*`, `+` and `-` are computed, batch by batch: from the values of a batch follow bounds of every
//! intermediate result, and where all fit into 64 bits no operation needs a check. Any other batch is computed as before, with
//! its errors. Sums keep their 128 bits.

mod expr;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

pub use expr::NarrowDecimalExpr;

/// `plan` with the decimal arithmetic of its projections and aggregates narrow. The tree keeps its shape and its types.
///
/// # Errors
/// DataFusion's, when a node refuses its new expressions.
pub fn narrow_decimals(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let narrowed = plan.transform_up(|node| {
        if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            return of_projection(&node, projection);
        }
        match node.downcast_ref::<AggregateExec>() {
            Some(aggregate) if aggregate.mode().input_mode() == AggregateInputMode::Raw => {
                of_aggregate(&node, aggregate)
            }
            _ => Ok(Transformed::no(node)),
        }
    })?;
    Ok(narrowed.data)
}

type Narrowed<T> = Result<Transformed<Arc<T>>>;

fn of_projection(node: &Arc<dyn ExecutionPlan>, projection: &ProjectionExec) -> Narrowed<dyn ExecutionPlan> {
    let schema = projection.input().schema();
    let mut is_changed = false;
    let mut exprs = Vec::with_capacity(projection.expr().len());
    for ProjectionExpr { expr, alias } in projection.expr() {
        let narrowed = narrow(expr, &schema)?;
        is_changed |= narrowed.transformed;
        exprs.push(ProjectionExpr { expr: narrowed.data, alias: alias.clone() });
    }
    match is_changed {
        true => Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(exprs, Arc::clone(projection.input()))?))),
        false => Ok(Transformed::no(Arc::clone(node))),
    }
}

fn of_aggregate(node: &Arc<dyn ExecutionPlan>, aggregate: &AggregateExec) -> Narrowed<dyn ExecutionPlan> {
    let schema = aggregate.input_schema();
    let mut is_changed = false;
    let mut functions = Vec::with_capacity(aggregate.aggr_expr().len());
    for function in aggregate.aggr_expr() {
        let args = function.expressions();
        let narrowed = args.iter().map(|arg| narrow(arg, &schema)).collect::<Result<Vec<_>>>()?;
        let has_changed = narrowed.iter().any(|arg| arg.transformed);
        // One whose rows have an order is not built anew.
        let rebuilt = has_changed
            .then(|| function.with_new_expressions(narrowed.into_iter().map(|arg| arg.data).collect(), vec![]));
        is_changed |= rebuilt.as_ref().is_some_and(Option::is_some);
        functions.push(rebuilt.flatten().map_or_else(|| Arc::clone(function), Arc::new));
    }
    match is_changed {
        true => Ok(Transformed::yes(Arc::new(aggregate.with_new_aggr_exprs(functions)))),
        false => Ok(Transformed::no(Arc::clone(node))),
    }
}

/// An expression with the largest trees of decimal arithmetic in it narrow.
fn narrow(expr: &Arc<dyn PhysicalExpr>, schema: &datafusion::arrow::datatypes::Schema) -> Narrowed<dyn PhysicalExpr> {
    Arc::clone(expr).transform_down(|node| match NarrowDecimalExpr::of(&node, schema) {
        Some(narrow) => Ok(Transformed::new(Arc::new(narrow), true, TreeNodeRecursion::Jump)),
        None => Ok(Transformed::no(node)),
    })
}
