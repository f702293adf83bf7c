//! Our physical optimizer rules. Both do nothing in a session that plans for one function.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use crate::session::onward_options;

/// The most bytes of a build side that a nested-loop join may be swapped to broadcast.
const SWAPPED_BUILD_BYTES: usize = 64 << 20;

/// Whether a join emits rows of its build (left) side. Over a build side that every task holds, each task would emit them.
pub(crate) fn emits_build_rows(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark | JoinType::Full => true,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => false,
    }
}

/// Keeps joins that emit build rows off broadcast build sides: hash joins become partitioned ones, nested-loop joins are
/// swapped when the other side is small. What is left (null-aware anti joins, full nested-loop joins) runs as one task:
/// see [`crate::cut`].
#[derive(Debug)]
pub struct BroadcastSafety;

impl PhysicalOptimizerRule for BroadcastSafety {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !onward_options(config).is_distributed {
            return Ok(plan);
        }
        plan.transform_up(|node| {
            if let Some(join) = node.downcast_ref::<HashJoinExec>()
                && *join.partition_mode() == PartitionMode::CollectLeft
                && emits_build_rows(*join.join_type())
                && !join.null_aware
                && !join.on().is_empty()
            {
                let partitioned = join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?;
                return Ok(Transformed::yes(partitioned));
            }
            if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
                && emits_build_rows(*join.join_type())
                && *join.join_type() != JoinType::Full
                && is_small(join.right())?
            {
                return Ok(Transformed::yes(join.swap_inputs()?));
            }
            Ok(Transformed::no(node))
        })
        .map(|transformed| transformed.data)
    }

    fn name(&self) -> &str {
        "BroadcastSafety"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn is_small(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?;
    Ok(statistics.total_byte_size.get_value().is_some_and(|bytes| *bytes <= SWAPPED_BUILD_BYTES))
}

/// DataFusion's push-down of dynamic filters, left out of plans that will be cut: there it runs once per stage, after the
/// cut, so that a filter and what feeds it always lie in one stage.
#[derive(Debug)]
pub struct DynamicFilters(FilterPushdown);

impl DynamicFilters {
    pub(crate) fn new() -> Self {
        Self(FilterPushdown::new_post_optimization())
    }

    /// Pushes the dynamic filters of one stage down. Those of partitioned joins are `CASE hash % partition_count`, wrong
    /// once a task's slice renumbers the partitions: `keep_join_filters` says that it will not.
    pub(crate) fn push_down(
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
        keep_join_filters: bool,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rule = FilterPushdown::new_post_optimization();
        if keep_join_filters {
            return rule.optimize(plan, config);
        }
        let mut config = config.clone();
        config.optimizer.enable_join_dynamic_filter_pushdown = false;
        rule.optimize(plan, &config)
    }
}

impl PhysicalOptimizerRule for DynamicFilters {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if onward_options(config).is_distributed { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        "DynamicFilters"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
