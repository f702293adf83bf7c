//! What is known about the operators of a fragment: which partitions of their children they need.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::indeterminate;
use crate::rules::emits_build_rows;
use crate::runtime_filter::RuntimeFilterExec;
use crate::stage_input::StageInputExec;

/// The sides of a join that reads its build (left) side whole for every partition of its probe (right) side.
pub(crate) struct JoinSides {
    pub build: Arc<dyn ExecutionPlan>,
    pub probe: Arc<dyn ExecutionPlan>,
    /// Several tasks may each hold the build side. False where the join emits build rows, once per task then.
    pub may_broadcast: bool,
}

/// The sides of `node` when it is a join over a whole build side.
pub(crate) fn join_sides(node: &Arc<dyn ExecutionPlan>) -> Option<JoinSides> {
    let sides = |build: &Arc<dyn ExecutionPlan>, probe: &Arc<dyn ExecutionPlan>, may_broadcast| {
        Some(JoinSides { build: Arc::clone(build), probe: Arc::clone(probe), may_broadcast })
    };
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        if *join.partition_mode() != PartitionMode::CollectLeft {
            return None;
        }
        return sides(join.left(), join.right(), !join.null_aware && !emits_build_rows(*join.join_type()));
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        return sides(join.left(), join.right(), !emits_build_rows(*join.join_type()));
    }
    let join = node.downcast_ref::<CrossJoinExec>()?;
    sides(join.left(), join.right(), true)
}

/// Partition `i` of `node` needs partition `i` of each child and nothing else.
pub(crate) fn is_partition_wise(node: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return *join.partition_mode() == PartitionMode::Partitioned;
    }
    node.is::<ProjectionExec>()
        || node.is::<FilterExec>()
        || node.is::<AggregateExec>()
        || node.is::<SortExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<BoundedWindowAggExec>()
        || node.is::<WindowAggExec>()
        || node.is::<LocalLimitExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<InterleaveExec>()
        || node.is::<UnnestExec>()
        || node.is::<CooperativeExec>()
        || node.is::<BufferExec>()
        || node.is::<RuntimeFilterExec>()
        || node.name() == "CoalesceBatchesExec"
}

/// Leaves of which [`crate::slice`] can take any partitions.
pub(crate) fn is_sliceable_leaf(node: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(scan) = node.downcast_ref::<DataSourceExec>() {
        return scan.data_source().is::<FileScanConfig>() || scan.data_source().is::<MemorySourceConfig>();
    }
    node.is::<StageInputExec>() || node.is::<PlaceholderRowExec>() || node.is::<EmptyExec>()
}

/// Whether a task may run any subset of the partitions of `plan` by itself. `partition_wise` names nodes of other crates.
pub(crate) fn is_sliceable(plan: &Arc<dyn ExecutionPlan>, partition_wise: &[&str]) -> bool {
    let count = plan.output_partitioning().partition_count();
    let children = plan.children();
    if children.is_empty() {
        return count == 1 || is_sliceable_leaf(plan);
    }
    if let Some(sides) = join_sides(plan) {
        return sides.may_broadcast && is_sliceable(&sides.probe, partition_wise);
    }
    if plan.is::<UnionExec>() {
        return children.into_iter().all(|child| is_sliceable(child, partition_wise));
    }
    // One partition is one task: nothing below is ever sliced.
    if count == 1 {
        return true;
    }
    let same = |child: &Arc<dyn ExecutionPlan>| child.output_partitioning().partition_count() == count;
    (is_partition_wise(plan) || partition_wise.contains(&plan.name()))
        && children.into_iter().all(|child| same(child) && is_sliceable(child, partition_wise))
}

/// A single-partition build side that each task may compute for itself rather than have it sent: a few operators over
/// constants or over what every task is sent anyway, row for row, so always with the same outcome. An aggregate is none of
/// them: a sum of floats depends on the order in which partial sums arrive, and a value that a query computes, such as that of
/// a scalar subquery, is one value in all of its tasks.
pub(crate) fn is_cheap_to_repeat(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    if plan.output_partitioning().partition_count() != 1 || indeterminate::is_indeterminate(plan)? {
        return Ok(false);
    }
    let mut is_cheap = true;
    plan.apply(|node| {
        is_cheap &= node.is::<StageInputExec>() && node.output_partitioning().partition_count() == 1
            || node.is::<PlaceholderRowExec>()
            || node.is::<EmptyExec>()
            || node.is::<ProjectionExec>()
            || node.is::<FilterExec>()
            || node.is::<CooperativeExec>();
        Ok(if is_cheap { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(is_cheap)
}
