//! Our physical optimizer rules. Both do nothing in a session that plans for one function.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};

use crate::session::onward_options;
use crate::sizing::estimate;

/// The most bytes of a build side, with its hash table, that every task is given whole.
pub(crate) const BROADCAST_BYTES: u64 = 128 << 20;

/// Bytes of a hash table per row, besides the row.
const HASH_TABLE_ROW_BYTES: u64 = 32;

/// A row costs about this many times more to build into a hash table than to send through an exchange.
pub(crate) const BUILD_COST: u64 = 2;

/// Whether a join emits rows of its build (left) side. Over a build side that every task holds, each task would emit them.
pub(crate) fn emits_build_rows(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark | JoinType::Full => true,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => false,
    }
}

/// Decides which joins get their build side broadcast, in plans for several functions.
///
/// - Joins that emit build rows must not: hash joins become partitioned ones, nested-loop joins are swapped when the other
///   side is small. What is left (null-aware anti joins, full nested-loop joins) runs as one task: see `cut`.
/// - Partitioned hash joins whose build side is much smaller than their probe side should: the probe side then needs no
///   exchange, and the join's dynamic filter reaches the probe side's scan, which lies in the same stage.
///
/// `datafusion.optimizer.hash_join_single_partition_threshold = 0` keeps the second rule off.
#[derive(Debug)]
pub struct JoinDistribution;

impl PhysicalOptimizerRule for JoinDistribution {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let tasks = onward_options(config).tasks;
        if tasks == 0 {
            return Ok(plan);
        }
        let may_choose = config.optimizer.hash_join_single_partition_threshold > 0;
        plan.transform_up(|node| {
            if let Some(join) = node.downcast_ref::<HashJoinExec>() {
                let mode = match join.partition_mode() {
                    PartitionMode::CollectLeft if must_not_broadcast(join) => PartitionMode::Partitioned,
                    PartitionMode::Partitioned if may_choose && pays_to_broadcast(join, tasks) => {
                        PartitionMode::CollectLeft
                    }
                    _ => return Ok(Transformed::no(node)),
                };
                return Ok(Transformed::yes(join.builder().with_partition_mode(mode).build_exec()?));
            }
            if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
                && emits_build_rows(*join.join_type())
                && *join.join_type() != JoinType::Full
                && estimate(join.right()).bytes.is_some_and(|bytes| bytes <= BROADCAST_BYTES)
            {
                return Ok(Transformed::yes(join.swap_inputs()?));
            }
            Ok(Transformed::no(node))
        })
        .map(|transformed| transformed.data)
    }

    fn name(&self) -> &str {
        "JoinDistribution"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn must_not_broadcast(join: &HashJoinExec) -> bool {
    emits_build_rows(*join.join_type()) && !join.null_aware && !join.on().is_empty()
}

/// Building the whole build side in every task against sending both sides through an exchange. Statistics must say so:
/// an unknown size is taken for a large one.
fn pays_to_broadcast(join: &HashJoinExec, tasks: usize) -> bool {
    if emits_build_rows(*join.join_type()) || join.null_aware {
        return false;
    }
    let (build, probe) = (estimate(join.left()), estimate(join.right()));
    let (Some(rows), Some(bytes), Some(probe_rows)) = (build.rows, build.bytes, probe.rows) else {
        return false;
    };
    let held = bytes.saturating_add(rows.saturating_mul(HASH_TABLE_ROW_BYTES));
    let built_again = rows.saturating_mul(tasks as u64 - 1);
    held <= BROADCAST_BYTES && built_again.saturating_mul(BUILD_COST) <= probe_rows
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
        if onward_options(config).tasks > 0 { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        "DynamicFilters"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
