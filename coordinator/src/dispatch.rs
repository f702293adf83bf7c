//! From a planned query to rows: in this process, or on functions.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use onward_cache::scan::tags_of;
use onward_planner::error::classify;
use onward_planner::{KeySource, StageGraph};
use onward_wire::filters::SketchSpec;
use onward_wire::message::{CacheUse, DefineStage, KeyValue, OutputKind, OutputSpec, StoreSpec};
use onward_wire::{Config, ErrorKind, QueryId, WireError};
use tokio::sync::{oneshot, watch};

use crate::api::{QueryError, QueryProgress, ResultStream};
use crate::engine::{CacheRead, Capacity, Engine, Outcome, Replacement, Submission, read_result};
use crate::scheduler::{AlternativeSpec, FunctionShape, QuerySpec, StageSpec};
use crate::system::History;
use crate::threads;
use crate::write::written_url;

/// What functions need besides the graph.
pub(crate) struct Dispatch<'a> {
    pub(crate) query: QueryId,
    /// See [`QuerySpec::user`].
    pub(crate) user: Arc<str>,
    /// See [`QuerySpec::queue`].
    pub(crate) queue: Arc<str>,
    pub(crate) config: &'a Config,
    pub(crate) capacity: Capacity,
    pub(crate) graph: &'a StageGraph,
    /// Stores of the tables the plan reads and of what it writes.
    pub(crate) stores: Vec<StoreSpec>,
    /// Encode nodes of other crates.
    pub(crate) extensions: &'a [Arc<dyn PhysicalExtensionCodec>],
    pub(crate) timeout_ms: Option<u64>,
    /// See [`QuerySpec::first_attempt`].
    pub(crate) first_attempt: u32,
    /// See [`QuerySpec::task_lives`].
    pub(crate) task_lives: u32,
    /// Scans read the column cache.
    pub(crate) cache: CacheUse,
    pub(crate) progress: watch::Sender<QueryProgress>,
}

/// Submits a graph to the engine. The outcome comes when all result rows are committed.
pub(crate) fn submit(
    engine: &Engine,
    dispatch: Dispatch<'_>,
) -> Result<oneshot::Receiver<Result<Outcome, WireError>>, WireError> {
    let Dispatch { query, user, queue, config, capacity, graph, stores, extensions, timeout_ms, first_attempt, .. } =
        dispatch;
    let (cache, progress, task_lives) = (dispatch.cache, dispatch.progress, dispatch.task_lives);
    let settings = graph.settings.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() });
    let settings: Vec<KeyValue> = settings.collect();
    let define = |stage: &onward_planner::Stage| -> Result<DefineStage, WireError> {
        Ok(DefineStage {
            query: query.0,
            stage: stage.id,
            plan: stage.encode(extensions).map_err(|error| classify(&error))?,
            settings: settings.clone(),
            stores: stores.clone(),
            output: OutputSpec { kind: stage.output as i32, partitions: stage.output_partitions as u32 },
            objects: tags_of(&stage.plan).map_err(|error| classify(&error))?,
            cache: cache as i32,
            writes: written_url(&stage.plan),
            sketches: stage.key_sources.iter().map(|source| sketch_spec(source, config)).collect(),
        })
    };
    let stages = graph.stages.iter().map(define).collect::<Result<Vec<_>, _>>()?;
    let replacement = |(stage, define): (&onward_planner::Stage, &DefineStage)| {
        let alternative = stage.alternative.as_ref()?;
        let define = DefineStage {
            plan: alternative.encoded.clone()?,
            objects: tags_of(&alternative.plan).ok()?,
            ..define.clone()
        };
        let plan = Arc::clone(&alternative.plan);
        let (filters, broadcast) = (alternative.filters.clone(), alternative.when);
        let reads = Box::new(move |_, partitions: &[u32]| onward_planner::reads(&plan, partitions));
        Some(Replacement { stage: define, filters, broadcast, reads })
    };
    let alternatives: Vec<_> = graph.stages.iter().zip(&stages).map(replacement).collect();
    let functions = graph.sizing.functions;
    let spec = QuerySpec {
        query,
        user,
        queue,
        functions,
        shape: FunctionShape {
            vcpus: graph.sizing.threads as u32,
            memory_bytes: capacity.function_memory_bytes(config, functions),
            class: 0,
        },
        timeout_ms,
        first_attempt,
        task_bytes: if graph.sizing.is_forced { 0 } else { config.bytes_per_task },
        split_bytes: config.skewed_partition_bytes,
        starts_early: config.early_start,
        task_lives,
        stages: graph
            .stages
            .iter()
            .zip(&alternatives)
            .map(|(stage, other)| stage_spec(graph, stage, other.is_some()))
            .collect(),
    };
    let plans: Vec<_> = graph.stages.iter().map(|stage| Arc::clone(&stage.plan)).collect();
    let reads =
        Box::new(move |stage: u32, partitions: &[u32]| onward_planner::reads(&plans[stage as usize], partitions));
    let filters = graph.stages.iter().map(|stage| stage.filters.clone()).collect();
    let classes = graph.stages.iter().filter_map(|stage| stage.class.as_ref());
    let prices = classes.map(|choice| (choice.class.id, choice.class.nanousd_per_second)).collect();
    Ok(engine.submit(Submission { spec, stages, filters, alternatives, reads, prices, progress }))
}

fn sketch_spec(source: &KeySource, config: &Config) -> SketchSpec {
    SketchSpec { filter: source.filter, columns: source.columns.clone(), most_bytes: config.runtime_filter_bytes }
}

fn stage_spec(graph: &StageGraph, stage: &onward_planner::Stage, has_alternative: bool) -> StageSpec {
    let sources = graph.stages.iter().flat_map(|stage| &stage.key_sources);
    let sources = sources.filter(|source| stage.filters.contains(&source.filter)).map(|source| source.stage);
    StageSpec {
        filter_sources: sources.collect(),
        inputs: stage.inputs.clone(),
        tasks: stage.tasks.clone(),
        enough_rows: stage.enough_rows,
        is_indeterminate: stage.is_indeterminate,
        is_broadcast: stage.output == OutputKind::Single,
        may_coalesce: !stage.reads_tables,
        splittable: stage.splittable,
        shape: stage.class.as_ref().map(|choice| FunctionShape {
            vcpus: choice.class.vcpus,
            memory_bytes: choice.class.memory_bytes,
            class: choice.class.id,
        }),
        alternative: stage.alternative.as_ref().filter(|_| has_alternative).map(|alternative| AlternativeSpec {
            when: alternative.when,
            most_bytes: alternative.most_bytes,
            most_rows: alternative.most_rows,
            spares: alternative.spares,
            inputs: alternative.inputs.clone(),
            tasks: alternative.tasks.clone(),
        }),
    }
}

/// Waits for the outcome and writes what the query took into `history`.
pub(crate) async fn outcome(
    query: QueryId,
    outcome: oneshot::Receiver<Result<Outcome, WireError>>,
    history: &History,
) -> Result<Outcome, WireError> {
    let gone = |_| Err(WireError::new(ErrorKind::Unavailable, "the coordinator shut down while the query ran"));
    let outcome = outcome.await.unwrap_or_else(gone)?;
    history.update(query, |record| {
        record.functions_per_stage.clone_from(&outcome.stats.functions_per_stage);
        record.tasks = outcome.stats.tasks;
        record.attempts = outcome.stats.attempts;
        record.spilled_bytes = outcome.stages.iter().map(|stage| stage.spilled_bytes).sum();
    });
    Ok(outcome)
}

/// The rows of a submitted query.
pub(crate) fn stage_rows(
    engine: Engine,
    query: QueryId,
    pending: oneshot::Receiver<Result<Outcome, WireError>>,
    history: Arc<History>,
) -> ResultStream {
    let rows = async move {
        match outcome(query, pending, &history).await {
            Ok(outcome) => read_result(&engine, outcome.result),
            Err(error) => stream::iter([Err(QueryError { error, query: Some(query) })]).boxed(),
        }
    };
    Box::pin(rows.into_stream().flatten())
}

/// Runs a plan in this process, and writes what it read into `history` when its rows are there.
pub(crate) fn local_rows(
    query: QueryId,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    history: Arc<History>,
) -> Result<ResultStream, WireError> {
    let rows = threads::rows(Arc::clone(&plan), context)?;
    let rows = rows.map_err(move |error| QueryError { error: classify(&error), query: Some(query) });
    let end = stream::once(async move {
        let read = CacheRead::of(&plan);
        history.update(query, |record| {
            record.cache_hit_bytes = read.hit_bytes;
            record.cache_miss_bytes = read.miss_bytes;
        });
    });
    Ok(rows.chain(end.filter_map(async |()| None)).boxed())
}
