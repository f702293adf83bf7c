//! [`bind_inputs`]: the placeholders of a task's plan replaced by what reads the exchange.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_plan::ExecutionPlan;

use crate::stage_input::StageInputExec;

/// Replaces every [`StageInputExec`] by what `reader` makes of it. Readers that share the placeholder's
/// `Arc<PlanProperties>` spare the operators above from computing theirs again.
pub fn bind_inputs(
    plan: Arc<dyn ExecutionPlan>,
    reader: &mut dyn FnMut(&StageInputExec) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| match node.downcast_ref::<StageInputExec>() {
        Some(input) => reader(input).map(Transformed::yes),
        None => Ok(Transformed::no(node)),
    })
    .map(|transformed| transformed.data)
}
