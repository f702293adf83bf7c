//! Cuts a physical plan at its exchanges.
//!
//! ```text
//!   SortPreservingMergeExec                       SortPreservingMergeExec
//!     SortExec                                      StageInput 2  -- Preserve --  SortExec
//!       AggregateExec (final)               =>                                      AggregateExec (final)
//!         RepartitionExec Hash(a, 8)                                                  StageInput 1 -- Hash --  ...
//!           HashJoinExec CollectLeft                HashJoinExec CollectLeft
//!             build                                   StageInput 0  -- Single --  build
//!             probe                                   probe
//! ```
//!
//! | in the plan | becomes |
//! | --- | --- |
//! | `RepartitionExec` by hash | an exchange by hash; the node stays the root of the producer's plan |
//! | `CoalescePartitionsExec`, `SortPreservingMergeExec` over several partitions | an exchange that preserves partitions, under the node |
//! | the build side of a `CollectLeft`, nested-loop or cross join over several probe partitions | a broadcast |
//! | the build side of a partitioned join, where it is groups under a condition | a stage of its own that preserves partitions |
//! | a scan of which one partition has most of the bytes | an exchange in turns above it |
//! | `RepartitionExec` round-robin | over such a scan, an exchange in turns; else nothing: tasks are balanced by how the input is split |
//!
//! A fragment that is not provably partition-wise runs as one task, with all its partitions: always correct.

mod fragment;
mod indeterminate;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use onward_wire::message::OutputKind;

pub(crate) use fragment::{JoinSides, is_sliceable, join_sides};

use crate::adaptive::plan_alternatives;
use crate::graph::{Estimate, Stage};
use crate::runtime_filter;
use crate::sizing::{DealOut, estimate};
use crate::stage_input::StageInputExec;

/// Cuts `plan` into stages of at most `tasks` tasks. The last stage is the result. The rows of scans that `deal_out` names are dealt
/// out to all tasks.
/// `partition_wise` names nodes of other crates that [`fragment::is_sliceable`] may take for partition-wise.
pub(crate) fn cut(
    plan: &Arc<dyn ExecutionPlan>,
    tasks: usize,
    deal_out: DealOut,
    config: &ConfigOptions,
    partition_wise: &[&str],
) -> Result<Vec<Stage>> {
    let mut cutter = Cutter { stages: Vec::new(), tasks: tasks.max(1), deal_out, partition_wise };
    let result = cutter.fragment(plan)?;
    let partitions = result.output_partitioning().partition_count();
    cutter.finish(result, OutputKind::Preserve, partitions, estimate(plan))?;
    let selective = runtime_filter::push_down(&mut cutter.stages, config)?;
    plan_alternatives(&mut cutter.stages, &selective, cutter.tasks, config, partition_wise)?;
    Ok(cutter.stages)
}

/// The whole of `plan` as one stage of one task, for one function.
pub(crate) fn whole(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<Stage>> {
    // A repartitioning root (DISTRIBUTE BY) is part of the plan here: it must not look like the root of an exchange.
    let plan: Arc<dyn ExecutionPlan> =
        if plan.is::<RepartitionExec>() { Arc::new(CooperativeExec::new(plan)) } else { plan };
    let partitions = plan.output_partitioning().partition_count();
    let is_indeterminate = indeterminate::is_indeterminate(&plan)?;
    Ok(vec![Stage {
        id: 0,
        inputs: Vec::new(),
        output: OutputKind::Preserve,
        output_partitions: partitions,
        tasks: vec![(0..partitions as u32).collect()],
        enough_rows: None,
        is_indeterminate,
        estimate: estimate(&plan),
        key_sources: Vec::new(),
        filters: Vec::new(),
        reads_tables: true,
        splittable: None,
        alternative: None,
        plan,
        class: None,
        encoded: None,
    }])
}

struct Cutter<'a> {
    stages: Vec<Stage>,
    tasks: usize,
    deal_out: DealOut,
    partition_wise: &'a [&'a str],
}

impl Cutter<'_> {
    /// `node` with every exchange below it cut off and replaced by a [`StageInputExec`].
    fn fragment(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
            return self.repartition(node, repartition);
        }
        if node.is::<CoalescePartitionsExec>() || node.is::<SortPreservingMergeExec>() {
            return self.merge(node);
        }
        if let Some(sides) = join_sides(node) {
            return self.broadcast_join(node, &sides);
        }
        if let Some(join) = node.downcast_ref::<HashJoinExec>()
            && tells_few_keys(join)
        {
            return self.keys_first(node, join);
        }
        let children = node.children();
        if children.is_empty() {
            return self.scan(node);
        }
        let children = children.into_iter().map(|child| self.fragment(child)).collect::<Result<Vec<_>>>()?;
        replace_children_if_necessary(Arc::clone(node), children)
    }

    fn repartition(
        &mut self,
        node: &Arc<dyn ExecutionPlan>,
        repartition: &RepartitionExec,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let is_dealt_out = self.is_dealt_out(repartition)?;
        let child = self.fragment(repartition.input())?;
        let output = if is_dealt_out { OutputKind::RoundRobin } else { OutputKind::Hash };
        match repartition.partitioning() {
            Partitioning::RoundRobinBatch(_) if !is_dealt_out => Ok(child),
            Partitioning::Hash(_, partitions) | Partitioning::RoundRobinBatch(partitions) => {
                let partitioning = repartition.partitioning().clone();
                let producer: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(child, partitioning)?);
                let input = self.finish(producer, output, *partitions, estimate(node))?;
                // Several sorted producers interleave in an exchange partition: sort again where the order is used.
                match node.output_ordering() {
                    Some(order) if input.output_ordering().is_none() => {
                        Ok(Arc::new(SortExec::new(order.clone(), input).with_preserve_partitioning(true)))
                    }
                    _ => Ok(input),
                }
            }
            Partitioning::UnknownPartitioning(_) => Ok(child),
            Partitioning::Range(_) => replace_children_if_necessary(Arc::clone(node), vec![child]),
        }
    }

    /// A node that deals out the rows of a scan of few partitions, of which one is too large.
    fn is_dealt_out(&self, repartition: &RepartitionExec) -> Result<bool> {
        let is_in_turns = matches!(repartition.partitioning(), Partitioning::RoundRobinBatch(_));
        let mut is_dealt_out = false;
        repartition.input().apply(|node| {
            let is_few = node.output_partitioning().partition_count() < self.tasks;
            is_dealt_out |= is_few && self.deal_out.names(node, self.tasks);
            // What lies below another exchange, or beside it, has been spread before.
            let is_spread = node.children().len() > 1
                || node.is::<RepartitionExec>()
                || node.is::<CoalescePartitionsExec>()
                || node.is::<SortPreservingMergeExec>();
            Ok(if is_spread { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
        })?;
        Ok(is_in_turns && is_dealt_out)
    }

    /// A leaf. One that has a partition for each task, and in one of them too much, deals its rows out.
    fn scan(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = node.output_partitioning().partition_count();
        let is_free = node.output_ordering().is_none()
            && matches!(node.output_partitioning(), Partitioning::UnknownPartitioning(_));
        if partitions < self.tasks.max(2) || !is_free || !self.deal_out.names(node, self.tasks) {
            return Ok(Arc::clone(node));
        }
        let in_turns = Partitioning::RoundRobinBatch(partitions);
        let producer: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(Arc::clone(node), in_turns)?);
        self.finish(producer, OutputKind::RoundRobin, partitions, estimate(node))
    }

    /// A node that merges all partitions into one keeps standing above the exchange, so order and limit are its own.
    fn merge(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let child = self.fragment(node.children()[0])?;
        let partitions = child.output_partitioning().partition_count();
        if partitions <= 1 {
            return replace_children_if_necessary(Arc::clone(node), vec![child]);
        }
        let estimate = estimate(node.children()[0]);
        let input = self.finish(limited(child, node.fetch()), OutputKind::Preserve, partitions, estimate)?;
        // Without an order any rows will do.
        if node.is::<CoalescePartitionsExec>()
            && let Some(producer) = self.stages.last_mut()
        {
            producer.enough_rows = node.fetch().map(|rows| rows as u64);
        }
        replace_children_if_necessary(Arc::clone(node), vec![input])
    }

    fn broadcast_join(&mut self, node: &Arc<dyn ExecutionPlan>, sides: &JoinSides) -> Result<Arc<dyn ExecutionPlan>> {
        let mut probe = self.fragment(&sides.probe)?;
        let probe_partitions = probe.output_partitioning().partition_count();
        let build = if probe_partitions <= 1 || !sides.may_broadcast {
            if probe_partitions > 1 {
                // This join runs as one task; what feeds it need not.
                probe = self.finish(probe, OutputKind::Preserve, probe_partitions, estimate(&sides.probe))?;
            }
            self.fragment(&sides.build)?
        } else {
            self.broadcast(&sides.build)?
        };
        replace_children_if_necessary(Arc::clone(node), vec![build, probe])
    }

    /// The build side as a stage of its own, so that its few keys are known before the probe side is read: they go there as a
    /// runtime filter. The exchange costs little, since each partition stays what it is.
    fn keys_first(&mut self, node: &Arc<dyn ExecutionPlan>, join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
        let mut build = self.fragment(join.left())?;
        let partitions = build.output_partitioning().partition_count();
        if partitions > 1 && !build.is::<StageInputExec>() {
            build = self.finish(build, OutputKind::Preserve, partitions, estimate(join.left()))?;
        }
        let probe = self.fragment(join.right())?;
        replace_children_if_necessary(Arc::clone(node), vec![build, probe])
    }

    /// Every task of the consumer reads partition 0 of this exchange whole.
    fn broadcast(&mut self, build: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let producer = match build.downcast_ref::<CoalescePartitionsExec>() {
            // All rows go to one partition anyway.
            Some(coalesce) if coalesce.fetch().is_none() => self.fragment(coalesce.input())?,
            _ => self.fragment(build)?,
        };
        if fragment::is_cheap_to_repeat(&producer)? {
            return Ok(producer);
        }
        self.finish(producer, OutputKind::Single, 1, estimate(build))
    }

    /// Ends a stage and gives the leaf that stands for its output.
    fn finish(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        output: OutputKind,
        output_partitions: usize,
        estimate: Estimate,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let id = self.stages.len() as u32;
        let is_repartitioned = matches!(output, OutputKind::Hash | OutputKind::RoundRobin);
        let runs = if is_repartitioned { plan.children()[0] } else { &plan };
        let is_sliceable = is_sliceable(runs, self.partition_wise);
        let tasks = tasks(runs.output_partitioning().partition_count(), if is_sliceable { self.tasks } else { 1 });

        let (equivalences, partitioning) = match output {
            OutputKind::Hash | OutputKind::RoundRobin | OutputKind::Preserve => {
                (plan.equivalence_properties().clone(), plan.output_partitioning().clone())
            }
            OutputKind::Single if plan.output_partitioning().partition_count() > 1 => {
                let merged = CoalescePartitionsExec::new(Arc::clone(&plan));
                (merged.properties().equivalence_properties().clone(), Partitioning::UnknownPartitioning(1))
            }
            OutputKind::Single => (plan.equivalence_properties().clone(), Partitioning::UnknownPartitioning(1)),
        };
        let input = StageInputExec::new(id, (0..output_partitions as u32).collect(), equivalences, partitioning);
        self.stages.push(Stage {
            id,
            inputs: inputs(&plan)?,
            output,
            output_partitions,
            tasks,
            enough_rows: None,
            is_indeterminate: indeterminate::is_indeterminate(&plan)?,
            key_sources: Vec::new(),
            filters: Vec::new(),
            reads_tables: reads_tables(&plan)?,
            splittable: None,
            alternative: None,
            estimate,
            plan,
            class: None,
            encoded: None,
        });
        Ok(Arc::new(input))
    }
}

/// A partitioned join whose build side is what a condition leaves of groups (HAVING), and which wants no other rows of its
/// probe side.
fn tells_few_keys(join: &HashJoinExec) -> bool {
    fn below(mut plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
        while plan.is::<ProjectionExec>() || plan.is::<CooperativeExec>() {
            plan = plan.children()[0];
        }
        plan
    }
    let (_, may_drop_probe_rows) = join.join_type().on_lr_is_preserved();
    let filter = below(join.left()).downcast_ref::<FilterExec>();
    *join.partition_mode() == PartitionMode::Partitioned
        && may_drop_probe_rows
        && filter.is_some_and(|filter| below(filter.input()).is::<AggregateExec>())
}

/// A limit above an exchange still stops its producers: each of their partitions needs no more rows than the limit.
fn limited(plan: Arc<dyn ExecutionPlan>, fetch: Option<usize>) -> Arc<dyn ExecutionPlan> {
    match fetch {
        Some(fetch) if own_limit(&plan).is_none_or(|own| own > fetch) => match plan.with_fetch(Some(fetch)) {
            Some(limited) if plan.is::<SortExec>() => limited,
            _ => Arc::new(LocalLimitExec::new(plan, fetch)),
        },
        _ => plan,
    }
}

/// The most rows each partition gives, as far as its limits say. Projections give a row for a row.
fn own_limit(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) => own_limit(projection.input()),
        None => plan.fetch(),
    }
}

/// `partitions` in at most `most` contiguous ranges whose sizes differ by one at most.
pub(crate) fn tasks(partitions: usize, most: usize) -> Vec<Vec<u32>> {
    let count = most.min(partitions).max(1);
    (0..count)
        .map(|task| (task * partitions / count) as u32..((task + 1) * partitions / count) as u32)
        .map(Iterator::collect)
        .collect()
}

fn reads_tables(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| Ok(node.children().is_empty() && !node.is::<StageInputExec>()))
}

pub(crate) fn inputs(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<u32>> {
    let mut inputs = Vec::new();
    plan.apply(|node| {
        inputs.extend(node.downcast_ref::<StageInputExec>().map(StageInputExec::stage));
        Ok(TreeNodeRecursion::Continue)
    })?;
    inputs.sort_unstable();
    inputs.dedup();
    Ok(inputs)
}
