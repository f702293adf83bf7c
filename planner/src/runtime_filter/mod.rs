//! Runtime filters: the keys of a join's build side, told to the stages that its probe side comes from.
//!
//! ```text
//!   stage 0: scan orders  --hash(o_orderkey)-->  stage 2: HashJoinExec Partitioned
//!      |                                            ^
//!      | sketch of o_orderkey, at run time          |
//!      v                                            |
//!   stage 1: scan lineitem, RuntimeFilter 0 [l_orderkey] --hash(l_orderkey)
//! ```
//!
//! Inside of a stage DataFusion's dynamic filters do this. Across stages they cannot: a filter and what feeds it lie in different
//! processes. So every partitioned join whose build side is read from another stage, and which may drop rows of its probe side,
//! gets a number. DataFusion's own push-down carries its place through the probe side, stage by stage, and into the scans. At the
//! root of every stage that it passes stands a [`RuntimeFilterExec`], for what no scan drops.
//!
//! A build side of whole tables says nothing: only stages with a condition, or that read one with a condition or a filter, feed one.
//! And only stages that give the same rows in every run feed a filter: when a host is lost and they run again, the filter still holds.

mod exec;
mod expr;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

pub use exec::RuntimeFilterExec;
pub use expr::RuntimeFilterExpr;
pub(crate) use places::Place;
pub use places::RuntimeFilterPlaces;

use crate::graph::{KeySource, Stage};
use crate::rules::DynamicFilters;
use crate::stage_input::StageInputExec;

/// The most filters of a query: each costs its probe side a little.
const MOST_FILTERS: u32 = 64;

/// Pushes the filters of all joins down: in their stage, and through the stages that they read. Gives the stages whose output is
/// less than whole tables, joined.
pub(crate) fn push_down(stages: &mut [Stage], config: &ConfigOptions) -> Result<BTreeSet<u32>> {
    let mut selective = conditioned(stages)?;
    // All filters that there may be, to see which of them are of use.
    let mut trial = stages.to_vec();
    let candidates = Pass::new(stages, None)?.run(&mut trial, config)?;
    let mut useful = BTreeSet::new();
    loop {
        follow(stages, &mut selective);
        let before = useful.len();
        let tells = candidates.iter().filter(|source| selective.contains(&source.stage));
        useful.extend(tells.map(|source| source.filter));
        let is_told = |stage: &&Stage| stage.filters.iter().any(|filter| useful.contains(filter));
        selective.extend(trial.iter().filter(is_told).map(|stage| stage.id));
        if useful.len() == before {
            break;
        }
    }
    let sources = Pass::new(stages, Some(useful))?.run(stages, config)?;
    let wanted: BTreeSet<u32> = stages.iter().flat_map(|stage| &stage.filters).copied().collect();
    for source in sources.into_iter().filter(|source| wanted.contains(&source.filter)) {
        stages[source.stage as usize].key_sources.push(source);
    }
    Ok(selective)
}

/// Stages that drop rows by a condition of their own.
fn conditioned(stages: &[Stage]) -> Result<BTreeSet<u32>> {
    let mut conditioned = BTreeSet::new();
    for stage in stages {
        let drops_rows = stage.plan.exists(|node| {
            let is_semi = |join: &HashJoinExec| {
                use JoinType::{LeftAnti, LeftSemi, RightAnti, RightSemi};
                matches!(join.join_type(), LeftSemi | LeftAnti | RightSemi | RightAnti)
            };
            let has_predicate = |scan: &DataSourceExec| {
                let files = scan.data_source().downcast_ref::<FileScanConfig>();
                files.is_some_and(|files| files.file_source().filter().is_some())
            };
            Ok(node.is::<FilterExec>()
                || node.downcast_ref::<HashJoinExec>().is_some_and(is_semi)
                || node.downcast_ref::<DataSourceExec>().is_some_and(has_predicate)
                || node.fetch().is_some())
        })?;
        conditioned.extend(drops_rows.then_some(stage.id));
    }
    Ok(conditioned)
}

/// What reads less than a whole table gives less.
fn follow(stages: &[Stage], selective: &mut BTreeSet<u32>) {
    for stage in stages {
        if stage.inputs.iter().any(|input| selective.contains(input)) {
            selective.insert(stage.id);
        }
    }
}

struct Pass {
    /// How many leaves read each stage.
    readers: BTreeMap<u32, usize>,
    /// Stages whose rows may be others when they run again.
    changing: BTreeSet<u32>,
    /// Filters that reached the output of a stage, in terms of its columns.
    pending: BTreeMap<u32, Vec<Arc<dyn PhysicalExpr>>>,
    sources: Vec<KeySource>,
    /// Joins that could have a filter, so far.
    candidates: u32,
    /// Those that get one; `None`: all.
    useful: Option<BTreeSet<u32>>,
}

impl Pass {
    fn new(stages: &[Stage], useful: Option<BTreeSet<u32>>) -> Result<Self> {
        Ok(Self {
            readers: readers(stages)?,
            changing: changing(stages),
            pending: BTreeMap::new(),
            sources: Vec::new(),
            candidates: 0,
            useful,
        })
    }

    fn run(mut self, stages: &mut [Stage], config: &ConfigOptions) -> Result<Vec<KeySource>> {
        let is_on = config.optimizer.enable_join_dynamic_filter_pushdown;
        for at in (0..stages.len()).rev() {
            let stage = &stages[at];
            let keep_join_filters = stage.tasks.len() == 1 || !has_partitioned_join(&stage.plan)?;
            let mut plan = Arc::clone(&stage.plan);
            if is_on {
                plan = self.mark_joins(plan)?;
                plan = self.mark_root(plan, stage)?;
            }
            plan = DynamicFilters::push_down(plan, config, keep_join_filters)?;
            stages[at].plan = self.collect(plan)?;
        }
        for stage in stages {
            stage.filters = filters(&stage.plan)?.into_iter().collect();
        }
        Ok(self.sources)
    }

    /// Places a filter above the probe side of every join that may have one.
    fn mark_joins(&mut self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
            let Some(filter) = self.filter_of(join)? else { return Ok(Transformed::no(node)) };
            // Straight to the stage that it reads; or through operators, where they let it pass.
            if let Some(input) = join.right().downcast_ref::<StageInputExec>() {
                self.arrive(input.stage(), [filter]);
                return Ok(Transformed::no(node));
            }
            let probe = Arc::new(RuntimeFilterExec::pushing(Arc::clone(join.right()), filter)?);
            let children = vec![Arc::clone(join.left()), probe as Arc<dyn ExecutionPlan>];
            Ok(Transformed::yes(replace_children_if_necessary(Arc::clone(&node), children)?))
        })
        .map(|marked| marked.data)
    }

    fn filter_of(&mut self, join: &HashJoinExec) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let (_, may_drop_probe_rows) = join.join_type().on_lr_is_preserved();
        if *join.partition_mode() != PartitionMode::Partitioned
            || !may_drop_probe_rows
            || join.null_aware
            || join.null_equality() != NullEquality::NullEqualsNothing
            || self.sources.len() as u32 >= MOST_FILTERS
        {
            return Ok(None);
        }
        let (mut columns, mut keys, mut stage) = (Vec::new(), Vec::new(), None);
        for (build, probe) in join.on() {
            let Some((of, column)) = source_of(build, join.left()) else { continue };
            if !may_sketch(&build.data_type(&join.left().schema())?) {
                continue;
            }
            stage = Some(of);
            columns.push(column);
            keys.push(Arc::clone(probe));
        }
        let Some(stage) = stage.filter(|stage| !self.changing.contains(stage)) else { return Ok(None) };
        self.candidates += 1;
        if self.useful.as_ref().is_some_and(|useful| !useful.contains(&(self.candidates - 1))) {
            return Ok(None);
        }
        let filter = self.sources.len() as u32;
        self.sources.push(KeySource { filter, stage, columns });
        Ok(Some(Arc::new(RuntimeFilterExpr::new(filter, keys))))
    }

    /// Places what reached the output of `stage` at the root of its plan.
    fn mark_root(&mut self, plan: Arc<dyn ExecutionPlan>, stage: &Stage) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(filters) = self.pending.remove(&stage.id) else { return Ok(plan) };
        // Its consumer wants some rows only, and does not say which.
        if stage.enough_rows.is_some() {
            return Ok(plan);
        }
        let (mut marked, _) = Stage::split_root(&plan);
        for filter in filters {
            marked = Arc::new(RuntimeFilterExec::pushing(marked, filter)?);
        }
        match plan.downcast_ref::<RepartitionExec>().filter(|_| stage.is_repartitioned()) {
            Some(root) => Ok(Arc::new(RepartitionExec::try_new(marked, Partitioning::clone(root.partitioning()))?)),
            None => Ok(marked),
        }
    }

    /// Filters reached the output of a stage.
    fn arrive(&mut self, stage: u32, filters: impl IntoIterator<Item = Arc<dyn PhysicalExpr>>) {
        if self.readers.get(&stage) == Some(&1) {
            self.pending.entry(stage).or_default().extend(filters);
        }
    }

    /// Takes the filters that arrived at the leaves of a stage, and the marks off that stand below its joins: those drop the same
    /// rows.
    fn collect(&mut self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if let Some((input, filters)) = node.downcast_ref::<StageInputExec>().and_then(StageInputExec::take_filters)
            {
                self.arrive(input.stage(), filters);
                return Ok(Transformed::yes(Arc::new(input)));
            }
            if let Some(root) = node.downcast_ref::<RuntimeFilterExec>().and_then(RuntimeFilterExec::pushed) {
                return Ok(Transformed::yes(Arc::new(root)));
            }
            let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
            let Some(mark) = join.right().downcast_ref::<RuntimeFilterExec>() else { return Ok(Transformed::no(node)) };
            let children = vec![Arc::clone(join.left()), Arc::clone(mark.input())];
            Ok(Transformed::yes(replace_children_if_necessary(Arc::clone(&node), children)?))
        })
        .map(|collected| collected.data)
    }
}

/// The stage, and the column of its output, that an expression over `plan` is.
fn source_of(expr: &Arc<dyn PhysicalExpr>, plan: &Arc<dyn ExecutionPlan>) -> Option<(u32, u32)> {
    let column = expr.downcast_ref::<Column>()?;
    if let Some(input) = plan.downcast_ref::<StageInputExec>() {
        return Some((input.stage(), column.index() as u32));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return source_of(&projection.expr().get(column.index())?.expr, projection.input());
    }
    // A superset of the rows will do.
    let is_row_for_row = plan.is::<CooperativeExec>()
        || plan.is::<RuntimeFilterExec>()
        || plan.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch().is_none())
        || plan.downcast_ref::<FilterExec>().is_some_and(|filter| filter.projection().is_none());
    is_row_for_row.then(|| source_of(expr, plan.children()[0]))?
}

/// Types of keys that filters are made of: equal values have equal hashes in every process, and bounds mean something. Floats are
/// none of them: two runs of a sum may differ in the last bit.
fn may_sketch(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => may_sketch(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) => true,
        other => other.is_integer() || (other.is_temporal() && !matches!(other, DataType::Interval(_))),
    }
}

fn readers(stages: &[Stage]) -> Result<BTreeMap<u32, usize>> {
    let mut readers = BTreeMap::new();
    for stage in stages {
        stage.plan.apply(|node| {
            if let Some(input) = node.downcast_ref::<StageInputExec>() {
                *readers.entry(input.stage()).or_default() += 1;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(readers)
}

/// Stages that may give other rows when they run again, because of themselves or of what they read.
fn changing(stages: &[Stage]) -> BTreeSet<u32> {
    let mut changing = BTreeSet::new();
    for stage in stages {
        let own = stage.is_indeterminate || stage.enough_rows.is_some() || adds_floats(stage);
        if own || stage.inputs.iter().any(|input| changing.contains(input)) {
            changing.insert(stage.id);
        }
    }
    changing
}

/// Sums of floats differ in the last bit with the order of what is added, and with them conditions on groups.
fn adds_floats(stage: &Stage) -> bool {
    let adds = |node: &Arc<dyn ExecutionPlan>| {
        let has_floats =
            |node: &Arc<dyn ExecutionPlan>| node.schema().fields().iter().any(|field| field.data_type().is_floating());
        Ok(node.is::<AggregateExec>() && has_floats(node))
    };
    stage.plan.exists(adds).unwrap_or(true)
}

/// The filters that have a place in `plan`.
pub(crate) fn filters(plan: &Arc<dyn ExecutionPlan>) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    plan.apply(|node| {
        node.apply_expressions(&mut |root| {
            root.apply(|expr| {
                found.extend(expr.downcast_ref::<RuntimeFilterExpr>().map(RuntimeFilterExpr::filter));
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

pub(crate) fn has_partitioned_join(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    plan.exists(|node| {
        Ok(node.downcast_ref::<HashJoinExec>().is_some_and(|join| *join.partition_mode() == PartitionMode::Partitioned))
    })
}
