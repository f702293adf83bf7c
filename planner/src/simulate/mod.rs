//! Runs stage graphs in one process, the way functions run them: every task of every stage is encoded, decoded, sliced
//! and bound for itself, and its rows go through DataFusion's own hash partitioner. The oracle is DataFusion in a single
//! process on the same files. What this finds are bugs in cutting, without the rest of the system.

mod guarantees;
mod queries;
mod tables;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, collect_partitioned,
    displayable,
};
use datafusion::prelude::SessionContext;
use onward_wire::message::OutputKind;

use crate::session::function_session_config;
use crate::{PlanRequest, Planned, Stage, StageGraph, StageInputExec, bind_inputs, codec, plan_query, slice};

/// Batches by exchange partition.
type Exchange = Vec<Vec<RecordBatch>>;

pub(crate) fn request(functions: usize) -> PlanRequest {
    PlanRequest {
        functions: Some(functions),
        vcpus: 2,
        bytes_per_function: 1 << 30,
        hosts: 1,
        bytes_per_host: 1 << 29,
        tiny_query_bytes: 0,
        max_functions: 64,
        skewed_bytes: 0,
        task_bytes: 0,
        finer: 1,
    }
}

/// A query that ran.
pub(crate) struct Run {
    pub(crate) graph: StageGraph,
    pub(crate) rows: Vec<RecordBatch>,
    /// By task, in the order they ran: the stage and its plan as the run left it.
    pub(crate) plans: Vec<(u32, Arc<dyn ExecutionPlan>)>,
}

/// Plans `sql` for `functions` and runs its stages. `None` when it runs in the coordinator.
pub(crate) async fn run(ctx: &SessionContext, sql: &str, functions: usize) -> Result<Option<Run>> {
    let state = ctx.state();
    let logical = state.create_logical_plan(sql).await?;
    match plan_query(&state, &logical, &request(functions)).await? {
        Planned::Coordinator { .. } => Ok(None),
        Planned::Stages(graph) => Ok(Some(run_graph(ctx, graph, false).await?)),
    }
}

/// What a run of the graph may become: each of its alternatives, and each partition that can be split, split.
pub(crate) fn variants(graph: &StageGraph) -> Vec<(StageGraph, bool)> {
    let mut variants = Vec::new();
    for (at, stage) in graph.stages.iter().enumerate() {
        if stage.alternative.is_some() {
            let mut variant = graph.clone();
            variant.stages[at].run_alternative();
            variants.push((variant, false));
        }
    }
    if graph.stages.iter().any(|stage| stage.splittable.is_some()) {
        variants.push((graph.clone(), true));
    }
    variants
}

/// Tasks with the part that each reads: of partitions that can be split, two of each.
fn split(stage: &Stage) -> Vec<(Vec<u32>, Option<Share>)> {
    let Some(input) = stage.splittable else { return whole(stage) };
    let partitions = stage.tasks.iter().flatten();
    partitions.flat_map(|p| (0..2).map(move |part| (vec![*p], Some(Share { input, part })))).collect()
}

fn whole(stage: &Stage) -> Vec<(Vec<u32>, Option<Share>)> {
    stage.tasks.iter().map(|task| (task.clone(), None)).collect()
}

/// One batch in two of an input.
#[derive(Clone, Copy)]
struct Share {
    input: u32,
    part: usize,
}

/// Runs a graph; with `splits`, partitions that can be split are.
pub(crate) async fn run_graph(ctx: &SessionContext, graph: StageGraph, splits: bool) -> Result<Run> {
    let settings = graph.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let function = SessionStateBuilder::new()
        .with_default_features()
        .with_config(function_session_config(settings)?)
        .with_runtime_env(ctx.runtime_env())
        .build();
    let mut exchanges: HashMap<u32, Exchange> = HashMap::new();
    let mut plans = Vec::new();
    for stage in &graph.stages {
        let mut exchange = vec![Vec::new(); stage.output_partitions];
        for (task, share) in if splits { split(stage) } else { whole(stage) } {
            let (output, plan) = run_task(stage, &task, share, &exchanges, function.task_ctx()).await?;
            plans.push((stage.id, plan));
            for (partition, batches) in exchange.iter_mut().zip(output) {
                partition.extend(batches);
            }
        }
        exchanges.insert(stage.id, exchange);
    }
    let result = exchanges.remove(&graph.result().id).unwrap_or_default();
    let rows = result.into_iter().flatten().collect();
    Ok(Run { graph, rows, plans })
}

/// In which order a scan should read its row groups is advice, not part of the result: datafusion-proto drops it.
fn without_scan_hints(plan: &str) -> String {
    let hint = ", sort_order_for_reorder=[";
    let lines = plan.lines().map(|line| match line.split_once(hint) {
        Some((before, after)) => before.to_owned() + after.split_once(']').map_or("", |(_, rest)| rest),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn run_task(
    stage: &Stage,
    task: &[u32],
    share: Option<Share>,
    exchanges: &HashMap<u32, Exchange>,
    ctx: Arc<TaskContext>,
) -> Result<(Exchange, Arc<dyn ExecutionPlan>)> {
    let plan = codec::decode(&stage.encode(&[])?, &ctx, &[])?;
    let planned = shown(&stage.plan);
    assert_eq!(without_scan_hints(&planned), without_scan_hints(&shown(&plan)), "the codec changed the plan");
    assert_eq!(stage.plan.output_ordering(), plan.output_ordering(), "the codec lost an order of\n{planned}");

    let (plan, exprs) = if stage.is_repartitioned() { Stage::split_root(&plan) } else { (plan, None) };
    let plan = slice(&plan, task)?;
    assert_eq!(plan.output_partitioning().partition_count(), task.len(), "a task runs exactly its partitions");
    let plan = bind_inputs(plan, &mut |input: &StageInputExec| {
        let exchange = &exchanges[&input.stage()];
        let read = |partition: &u32| match share.filter(|share| share.input == input.stage()) {
            Some(share) => exchange[*partition as usize].iter().skip(share.part).step_by(2).cloned().collect(),
            None => exchange[*partition as usize].clone(),
        };
        let partitions = input.partitions().iter().map(read).collect();
        Ok(Arc::new(ExchangeExec { partitions, properties: Arc::clone(input.properties()) }) as _)
    })?;

    let mut output = vec![Vec::new(); stage.output_partitions];
    let schema = plan.schema();
    for (partition, batches) in task.iter().zip(collect_partitioned(Arc::clone(&plan), ctx).await?) {
        for (turn, batch) in batches.into_iter().enumerate() {
            assert_eq!(batch.schema().fields().len(), schema.fields().len());
            match (stage.output, &exprs) {
                (OutputKind::Hash, Some(exprs)) => {
                    let partitioning = Partitioning::Hash(exprs.clone(), stage.output_partitions);
                    let mut partitioner = BatchPartitioner::try_new(partitioning, Time::new(), 0, 1)?;
                    partitioner.partition(batch, |target, rows| {
                        output[target].push(rows);
                        Ok(())
                    })?;
                }
                (OutputKind::Preserve, None) => output[*partition as usize].push(batch),
                (OutputKind::Single, None) => output[0].push(batch),
                (OutputKind::RoundRobin, None) => {
                    output[(*partition as usize + turn) % stage.output_partitions].push(batch);
                }
                _ => return internal_err!("an output of kind {:?} with hash expressions {exprs:?}", stage.output),
            }
        }
    }
    Ok((output, plan))
}

/// What a shuffle reader is in the real system.
#[derive(Debug)]
struct ExchangeExec {
    partitions: Exchange,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for ExchangeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("ExchangeExec")
    }
}

impl ExecutionPlan for ExchangeExec {
    fn name(&self) -> &str {
        "ExchangeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.partitions[partition].clone();
        Ok(Box::pin(MemoryStream::try_new(batches, self.schema(), None)?))
    }
}

/// A plan as text, but for what a scan says about itself only once it has been rebuilt.
fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
    let text = displayable(plan.as_ref()).indent(true).to_string();
    let without_hints = |line: &str| {
        // With a dynamic filter it is made when it is needed.
        let end = [", dynamic_rg_pruning=", ", pruning_predicate="].iter().filter_map(|hint| line.find(hint)).min();
        line[..end.unwrap_or(line.len())].to_owned() + "\n"
    };
    text.lines().map(without_hints).map(|line| without_filters(&line)).collect()
}

/// Runtime filters are decoded as dynamic ones, which do not say yet what they will be.
fn without_filters(line: &str) -> String {
    let mut rest = line;
    let mut shown = String::new();
    while let Some(at) = ["RuntimeFilter ", "DynamicFilter ["].iter().filter_map(|name| rest.find(name)).min() {
        let end = rest[at..].find(']').map_or(rest.len(), |end| at + end + 1);
        shown += &rest[..at];
        shown += "filter";
        rest = &rest[end..];
    }
    shown + rest
}

/// Rows as text, one line each.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("every type of the tests can be shown"))
            .collect();
        lines.extend(
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|")),
        );
    }
    lines
}
