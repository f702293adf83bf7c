//! What a stage may become when the sizes of its inputs are known: see [`Alternative`] and [`Stage::splittable`].
//!
//! ```text
//!   stage 0: build, by hash over 8 partitions          planned
//!   stage 1: probe, by hash over 8 partitions
//!   stage 2: HashJoinExec Partitioned, 8 partitions
//!
//!   stage 0: 8 partitions, 1 MiB in all                 when stage 0 turned out small, and stage 1 has not begun
//!   stage 1: does not run
//!   stage 2: HashJoinExec CollectLeft over all of stage 0 and over the plan of stage 1: one exchange less
//! ```
//!
//! Both are planned before the query runs, so that planning stays pure: at run time one is chosen.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use onward_wire::message::OutputKind;
use prost::bytes::Bytes;

use crate::cut::{inputs, is_sliceable, tasks};
use crate::graph::Stage;
use crate::rules::{BROADCAST_BYTES, BUILD_COST, DynamicFilters, emits_build_rows};
use crate::runtime_filter::{filters, has_partitioned_join};
use crate::stage_input::StageInputExec;

/// A build side is not worth waiting for where it is expected to be this many times too large to be broadcast.
const MOST_OVERESTIMATED: u64 = 8;

/// What a stage becomes when one of its inputs turns out small.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// The input.
    pub when: u32,
    /// It is small when it has at most so many encoded bytes,
    pub most_bytes: u64,
    /// and so many rows.
    pub most_rows: u64,
    /// The input that is not run then.
    pub spares: u32,
    /// The stages that it reads.
    pub inputs: Vec<u32>,
    /// The partitions that each task runs.
    pub tasks: Vec<Vec<u32>>,
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Runtime filters that have a place in it.
    pub filters: Vec<u32>,
    /// `plan`, encoded.
    pub encoded: Option<Bytes>,
}

/// Finds what the stages may become. Only what the `selective` ones give may be less than it is expected to be.
pub(crate) fn plan_alternatives(
    stages: &mut [Stage],
    selective: &BTreeSet<u32>,
    most_tasks: usize,
    config: &ConfigOptions,
    partition_wise: &[&str],
) -> Result<()> {
    for at in 0..stages.len() {
        let Some(join) = probe_join(&stages[at])? else { continue };
        let Some((build, probe)) = sides(&join, stages) else { continue };
        if stages[at].is_indeterminate || build.is_indeterminate || probe.is_indeterminate {
            continue;
        }
        let (build, probe) = (build.clone(), probe.clone());
        stages[at].splittable = Some(probe.id);
        let most_rows = most_rows(&probe, most_tasks);
        let is_hopeless = build.estimate.bytes.is_some_and(|bytes| bytes / MOST_OVERESTIMATED > BROADCAST_BYTES);
        if config.optimizer.hash_join_single_partition_threshold == 0
            || most_rows == 0
            || is_hopeless
            || !selective.contains(&build.id)
        {
            continue;
        }
        let (when, spares) = (build.id, probe.id);
        let plan = broadcast(&stages[at].plan, &join, &probe.plan)?;
        let runs = Stage::split_root(&plan).0;
        let partitions = runs.output_partitioning().partition_count();
        let fits = stages[at].output != OutputKind::Preserve || partitions <= stages[at].output_partitions;
        if !fits || !is_sliceable(&runs, partition_wise) {
            continue;
        }
        let keep_join_filters = !has_partitioned_join(&plan)?;
        let plan = DynamicFilters::push_down(plan, config, keep_join_filters)?;
        stages[at].alternative = Some(Box::new(Alternative {
            when,
            most_bytes: BROADCAST_BYTES / 2,
            most_rows,
            spares,
            inputs: inputs(&plan)?,
            tasks: tasks(partitions, most_tasks),
            filters: filters(&plan)?.into_iter().collect(),
            plan,
            encoded: None,
        }));
    }
    Ok(())
}

/// Building the whole build side in every task against sending the probe side through an exchange; as many rows as pay.
fn most_rows(probe: &Stage, tasks: usize) -> u64 {
    let built_again = (tasks as u64).saturating_sub(1).max(1) * BUILD_COST;
    // Nobody knows: a build side of a million rows is built in less time than any probe side worth a stage is sent.
    probe.estimate.rows.map_or(1 << 20, |rows| rows / built_again)
}

/// The join of a stage that does nothing else with its partitions: any of its probe rows may be joined in any task that has the
/// build rows of the same partition.
fn probe_join(stage: &Stage) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if stage.inputs.len() != 2 || stage.output == OutputKind::Preserve && stage.plan.output_ordering().is_some() {
        return Ok(None);
    }
    let (mut node, _) = Stage::split_root(&stage.plan);
    loop {
        if node.fetch().is_some() {
            return Ok(None);
        }
        if let Some(join) = node.downcast_ref::<HashJoinExec>()
            && *join.partition_mode() == PartitionMode::Partitioned
        {
            let may_spread = !emits_build_rows(*join.join_type()) && !join.null_aware;
            return Ok(may_spread.then_some(node));
        }
        let needs = node.input_distribution_requirements();
        let is_free = matches!(needs.child_distribution(0), None | Some(Distribution::UnspecifiedDistribution));
        let next = match node.children().as_slice() {
            [child] if is_free => Arc::clone(child),
            _ => return Ok(None),
        };
        node = next;
    }
}

/// The stages that a join reads, both from exchanges by hash. The probe side is read by nobody else, and as it is.
fn sides<'a>(join: &Arc<dyn ExecutionPlan>, stages: &'a [Stage]) -> Option<(&'a Stage, &'a Stage)> {
    let join = join.downcast_ref::<HashJoinExec>()?;
    let build = only_input(join.left())?;
    let probe = join.right().downcast_ref::<StageInputExec>()?.stage();
    let (build, probe) = (stages.get(build as usize)?, stages.get(probe as usize)?);
    let is_hash = |stage: &Stage| stage.output == OutputKind::Hash && stage.enough_rows.is_none();
    (is_hash(build) && is_hash(probe) && build.id != probe.id).then_some((build, probe))
}

/// The stage that `plan` reads, through nodes with one child each.
fn only_input(plan: &Arc<dyn ExecutionPlan>) -> Option<u32> {
    if let Some(input) = plan.downcast_ref::<StageInputExec>() {
        return Some(input.stage());
    }
    match plan.children().as_slice() {
        [child] if plan.fetch().is_none() => only_input(child),
        _ => None,
    }
}

/// `plan` with `join` over its whole build side, and over the rows of the probe side where they are made.
fn broadcast(
    plan: &Arc<dyn ExecutionPlan>,
    join: &Arc<dyn ExecutionPlan>,
    probe: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (probe, _) = Stage::split_root(probe);
    let replaced = Arc::clone(plan).transform_down(|node| {
        if !Arc::ptr_eq(&node, join) {
            return Ok(Transformed::no(node));
        }
        let Some(partitioned) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
        let build = Arc::new(CoalescePartitionsExec::new(Arc::clone(partitioned.left())));
        let collect = partitioned.builder().with_partition_mode(PartitionMode::CollectLeft).build_exec()?;
        let collect = replace_children_if_necessary(collect, vec![build, Arc::clone(&probe)])?;
        Ok(Transformed::new(collect, true, TreeNodeRecursion::Jump))
    })?;
    Ok(replaced.data)
}
