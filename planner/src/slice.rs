//! [`slice()`]: a stage's plan restricted to the partitions of one task.
//!
//! ```text
//!   UnionExec, partitions 0..6, task = 2..5        partition i of ...    needs
//!     scan, 4 file groups     -> groups 2, 3       a partition-wise node   partition i of each child
//!     HashJoinExec CollectLeft                     a union                 a partition of one child
//!       build                 -> whole             CollectLeft, nested     the build side whole,
//!       StageInput, 2         -> partition 0        loop and cross join     partition i of the probe
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr, RangePartitioning};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};

use crate::cut::join_sides;
use crate::stage_input::StageInputExec;

/// `plan` with exactly the given `partitions` (ascending, without duplicates): partition `i` of the outcome is partition
/// `partitions[i]` of `plan`. When the root is the `RepartitionExec` of an exchange the partitions are those of its child:
/// the root is the partition writer's work.
///
/// Nodes of other crates are taken for partition-wise when their only child has as many partitions as they have.
///
/// # Errors
/// When the plan cannot be sliced, which [`crate::Stage::tasks`] never asks for.
pub fn slice(plan: &Arc<dyn ExecutionPlan>, partitions: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(repartition) = plan.downcast_ref::<RepartitionExec>()
        && matches!(repartition.partitioning(), Partitioning::Hash(..) | Partitioning::RoundRobinBatch(_))
    {
        let child = slice_node(repartition.input(), partitions)?;
        return Ok(Arc::new(RepartitionExec::try_new(child, repartition.partitioning().clone())?));
    }
    slice_node(plan, partitions)
}

/// The exchange partitions that a task reads of each stage: ascending. A task runs `partitions` of `plan`.
///
/// # Errors
/// As [`slice()`].
pub fn reads(plan: &Arc<dyn ExecutionPlan>, partitions: &[u32]) -> Result<BTreeMap<u32, BTreeSet<u32>>> {
    let mut read: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    slice(plan, partitions)?.apply(|node| {
        if let Some(input) = node.downcast_ref::<StageInputExec>() {
            read.entry(input.stage()).or_default().extend(input.partitions());
        }
        // Below a child of a union of which the task runs nothing, nothing is read.
        Ok(if node.is::<NoPartitionsExec>() { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
    })?;
    Ok(read)
}

fn slice_node(plan: &Arc<dyn ExecutionPlan>, partitions: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    let count = plan.output_partitioning().partition_count();
    if is_all(partitions, count) {
        return Ok(Arc::clone(plan));
    }
    if partitions.iter().any(|partition| *partition as usize >= count) {
        return internal_err!("partitions {partitions:?} of {} which has {count}", plan.name());
    }
    if partitions.is_empty() {
        return Ok(Arc::new(NoPartitionsExec::new(plan)));
    }
    let children = plan.children();
    if children.is_empty() {
        return slice_leaf(plan, partitions);
    }
    if let Some(sides) = join_sides(plan) {
        return replace_children_if_necessary(
            Arc::clone(plan),
            vec![sides.build, slice_node(&sides.probe, partitions)?],
        );
    }
    if plan.is::<UnionExec>() {
        return slice_union(plan, partitions);
    }
    if children.iter().any(|child| child.output_partitioning().partition_count() != count) {
        return internal_err!("{} is not partition-wise, so a task runs all its partitions or none", plan.name());
    }
    let children = children.into_iter().map(|child| slice_node(child, partitions)).collect::<Result<Vec<_>>>()?;
    replace_children_if_necessary(Arc::clone(plan), children)
}

fn is_all(partitions: &[u32], count: usize) -> bool {
    partitions.len() == count && partitions.iter().enumerate().all(|(i, partition)| i == *partition as usize)
}

fn slice_union(plan: &Arc<dyn ExecutionPlan>, partitions: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut first = 0;
    let mut children = Vec::with_capacity(plan.children().len());
    for child in plan.children() {
        let end = first + child.output_partitioning().partition_count() as u32;
        let own: Vec<u32> = partitions.iter().filter(|p| (first..end).contains(p)).map(|p| p - first).collect();
        children.push(slice_node(child, &own)?);
        first = end;
    }
    replace_children_if_necessary(Arc::clone(plan), children)
}

fn slice_leaf(plan: &Arc<dyn ExecutionPlan>, partitions: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(input) = plan.downcast_ref::<StageInputExec>() {
        return Ok(Arc::new(input.slice(partitions)));
    }
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        let sliced = slice_source(scan.data_source(), partitions)?;
        return Ok(Arc::new(scan.clone().with_data_source(sliced)));
    }
    if plan.is::<PlaceholderRowExec>() {
        return Ok(Arc::new(PlaceholderRowExec::new(plan.schema()).with_partitions(partitions.len())));
    }
    if plan.is::<EmptyExec>() {
        return Ok(Arc::new(EmptyExec::new(plan.schema()).with_partitions(partitions.len())));
    }
    internal_err!("the partitions of {} cannot be told apart, so a task runs all of them or none", plan.name())
}

fn slice_source(source: &Arc<dyn DataSource>, partitions: &[u32]) -> Result<Arc<dyn DataSource>> {
    if let Some(scan) = source.downcast_ref::<FileScanConfig>() {
        let groups = partitions.iter().map(|partition| scan.file_groups[*partition as usize].clone()).collect();
        let declared = scan.output_partitioning.as_ref().map(|declared| slice_partitioning(declared, partitions));
        let sliced = FileScanConfigBuilder::from(scan.clone())
            .with_file_groups(groups)
            .with_output_partitioning(declared)
            .with_preserve_order(scan.preserve_order)
            .build();
        return Ok(Arc::new(sliced));
    }
    if let Some(memory) = source.downcast_ref::<MemorySourceConfig>() {
        let kept: Vec<_> =
            partitions.iter().map(|partition| memory.partitions()[*partition as usize].clone()).collect();
        let sliced = MemorySourceConfig::try_new(&kept, memory.original_schema(), memory.projection().clone())?
            .with_limit(memory.fetch())
            .with_show_sizes(memory.show_sizes());
        return match memory.sort_information() {
            [] => Ok(Arc::new(sliced)),
            order => Ok(Arc::new(sliced.try_with_sort_information(order.to_vec())?)),
        };
    }
    internal_err!("the partitions of the data source {source:?} cannot be told apart")
}

/// What is left of a declared partitioning. Hash expressions hold for any subset; ranges for neighbours only.
pub(crate) fn slice_partitioning(partitioning: &Partitioning, partitions: &[u32]) -> Partitioning {
    match partitioning {
        Partitioning::Hash(exprs, _) => Partitioning::Hash(exprs.clone(), partitions.len()),
        Partitioning::Range(range) => {
            let splits = partitions
                .iter()
                .skip(1)
                .map(|partition| range.split_points()[*partition as usize - 1].clone())
                .collect();
            Partitioning::Range(RangePartitioning::new(range.ordering().clone(), splits))
        }
        Partitioning::RoundRobinBatch(_) | Partitioning::UnknownPartitioning(_) => {
            Partitioning::UnknownPartitioning(partitions.len())
        }
    }
}

/// A child of a union of which a task runs nothing. It keeps the child's schema and order, on which the union's depend, and
/// the operators below it, so that every task's plan has operators in the same places (their metrics are merged).
#[derive(Debug)]
struct NoPartitionsExec {
    plan: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl NoPartitionsExec {
    fn new(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let properties = plan.properties().as_ref().clone();
        let properties = Arc::new(properties.with_partitioning(Partitioning::UnknownPartitioning(0)));
        Self { plan: Arc::clone(plan), properties }
    }
}

impl DisplayAs for NoPartitionsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("NoPartitionsExec")
    }
}

impl ExecutionPlan for NoPartitionsExec {
    fn name(&self) -> &str {
        "NoPartitionsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.plan.children()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = replace_children_if_necessary(Arc::clone(&self.plan), children)?;
        Ok(Arc::new(Self { plan, properties: Arc::clone(&self.properties) }))
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("partition {partition} of a plan without partitions")
    }
}
