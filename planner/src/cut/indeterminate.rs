//! Whether two runs of a fragment over the same input may give different rows (DESIGN.md, "Scheduling").

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};

/// Rows reach a task in no fixed order, so whatever picks rows by their place picks others in a second run: limits (among
/// ties even those of a sort), window functions, and aggregates that look at the order. Cautious: true when unsure.
pub(crate) fn is_indeterminate(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| {
        if node.fetch().is_some()
            || node.is::<WindowAggExec>()
            || node.is::<BoundedWindowAggExec>()
            || node.downcast_ref::<RepartitionExec>().is_some_and(is_round_robin)
            || node.downcast_ref::<AggregateExec>().is_some_and(looks_at_order)
        {
            return Ok(true);
        }
        let mut has_volatile = false;
        node.apply_expressions(&mut |expr| {
            has_volatile |= is_volatile(expr);
            Ok(if has_volatile { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        Ok(has_volatile)
    })
}

fn is_round_robin(repartition: &RepartitionExec) -> bool {
    matches!(repartition.partitioning(), Partitioning::RoundRobinBatch(_))
}

fn looks_at_order(aggregate: &AggregateExec) -> bool {
    aggregate.limit_options().is_some()
        || aggregate.aggr_expr().iter().any(|expr| {
            matches!(
                expr.fun().name(),
                "first_value" | "last_value" | "nth_value" | "array_agg" | "string_agg" | "any_value"
            )
        })
}
