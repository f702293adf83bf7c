//! [`WriteExec`]: runs a write.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_err, internal_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use onward_cache::UploadLog;
use onward_cache::paths::store_path_of_url;

use super::manifest::{manifest_batch, manifest_schema};
use super::sink::build_sink;
use super::staging::{StagingRegistry, StagingStore};
use super::target::WriteTarget;

/// Writes each partition of its input to staged files, and gives one batch per partition: their manifest.
#[derive(Clone, Debug)]
pub struct WriteExec {
    input: Arc<dyn ExecutionPlan>,
    target: Arc<WriteTarget>,
    /// The order the rows of a single file keep.
    ordering: Option<LexOrdering>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteExec {
    /// Its name in plans.
    pub const NAME: &'static str = "WriteExec";

    /// Writes `input` to `target`. The order that `input` has now is kept through optimization and cutting, for a file
    /// that one task writes.
    pub fn new(input: Arc<dyn ExecutionPlan>, target: Arc<WriteTarget>) -> Self {
        let ordering = input.output_ordering().cloned().filter(|_| target.is_single_file);
        Self::with_ordering(input, target, ordering)
    }

    pub(super) fn with_ordering(
        input: Arc<dyn ExecutionPlan>,
        target: Arc<WriteTarget>,
        ordering: Option<LexOrdering>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(manifest_schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, target, ordering, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    pub(super) fn ordering(&self) -> &Option<LexOrdering> {
        &self.ordering
    }

    /// Where it writes to.
    pub fn target(&self) -> &Arc<WriteTarget> {
        &self.target
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WriteExec: {} as {}", self.target.display(), self.target.format)?;
        if !self.target.partition_by.is_empty() {
            write!(f, ", partitioned by ({})", self.target.partition_by.join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![match self.target.is_single_file {
            true => Distribution::SinglePartition,
            false => Distribution::UnspecifiedDistribution,
        }]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.ordering.clone().map(OrderingRequirements::from)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    /// More partitions would only mean more and smaller files.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for key in self.ordering.iter().flatten() {
            recursion = recursion.visit_sibling(|| f(&key.expr))?;
        }
        Ok(recursion)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("a write has one input");
        };
        Ok(Arc::new(Self::with_ordering(input, self.target.clone(), self.ordering.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context.clone())?;
        let rows = MetricBuilder::new(&self.metrics).counter("rows_written", partition);
        let bytes = MetricBuilder::new(&self.metrics).counter("bytes_written", partition);
        let target = self.target.clone();
        let manifest = async move {
            let batch = write(target, input, partition, context).await?;
            rows.add(batch.rows as usize);
            bytes.add(batch.bytes as usize);
            Ok(batch.manifest)
        };
        let stream = futures::stream::once(manifest).boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(manifest_schema(), stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Written {
    manifest: RecordBatch,
    rows: u64,
    bytes: u64,
}

async fn write(
    target: Arc<WriteTarget>,
    input: SendableRecordBatchStream,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<Written> {
    let schema = input.schema();
    let plan = build_sink(&target, schema.clone(), &context).await?;
    let Some(exec) = plan.downcast_ref::<DataSinkExec>() else {
        return internal_err!("a sink that is none");
    };
    let runtime = context.runtime_env();
    let store = runtime.object_store(target.table_url()?.object_store())?;
    let staging = target.staging_url()?.map(|url| store_path_of_url(&url)).transpose()?;
    let task = context.task_id().unwrap_or_default();
    let attempt = format!("{}-{partition}", staged_name(&task));
    let name = format!("{}-{partition:03}", task_name(&task));
    let log = context.session_config().get_extension::<UploadLog>();
    let store = Arc::new(StagingStore::new(store, target.clone(), staging, attempt, name, log));
    let runtime =
        RuntimeEnv { object_store_registry: Arc::new(StagingRegistry(store.clone())), ..RuntimeEnv::clone(&runtime) };
    let mut config = context.session_config().clone();
    // One file per partition, however many cores: the query's own partitions are the parallelism.
    config.options_mut().set("datafusion.execution.minimum_parallel_output_files", "1")?;
    // Sinks evaluate no expressions: they need no functions.
    let sink_context = TaskContext::new(
        context.task_id(),
        context.session_id(),
        config,
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        HashMap::new(),
        Arc::new(runtime),
    );
    let input = match target.writes_empty_file && partition == 0 && target.partition_by.is_empty() {
        true => at_least_one_batch(input),
        false => input,
    };
    let input = refuse_nulls(input, &target)?;
    let rows = exec.sink().write_all(input, &Arc::new(sink_context)).await;
    // Some writers replace the store's error by "error while finalizing": the store remembers.
    let failure = |error| store.failure().map_or(error, |failure| DataFusionError::External(Box::new(failure)));
    let rows = rows.map_err(failure)?;
    let mut files = store.files();
    if let Some(first) = files.first_mut() {
        first.rows = rows;
    }
    let bytes = files.iter().map(|file| file.bytes).sum();
    Ok(Written { manifest: manifest_batch(&files)?, rows, bytes })
}

/// Ends with an error at the first NULL in a NOT NULL column, or in a partition column: the directory of a partition has no
/// name for NULL, and DataFusion's writer would take whatever value lies under it.
fn refuse_nulls(input: SendableRecordBatchStream, target: &Arc<WriteTarget>) -> Result<SendableRecordBatchStream> {
    if target.not_null.is_empty() && target.partition_by.is_empty() {
        return Ok(input);
    }
    let schema = input.schema();
    let columns = target.not_null.iter().chain(&target.partition_by);
    let columns = columns.map(|name| Ok((name.clone(), schema.index_of(name)?))).collect::<Result<Vec<_>>>()?;
    let target = Arc::clone(target);
    let checked = input.map(move |batch| {
        let batch = batch?;
        match columns.iter().find(|(_, column)| batch.column(*column).logical_null_count() > 0) {
            Some((name, _)) if target.partition_by.contains(name) => exec_err!(
                "NULL in `{name}`, by which `{}` is partitioned: leave such rows out, or write coalesce({name}, ...)",
                target.display()
            ),
            Some((name, _)) => exec_err!("NULL in column `{name}` of `{}`, which is NOT NULL", target.display()),
            None => Ok(batch),
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, checked)))
}

/// A stream that gives an empty batch when it would give none.
fn at_least_one_batch(input: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let schema = input.schema();
    let empty = RecordBatch::new_empty(schema.clone());
    let stream = futures::stream::try_unfold((input, Some(empty)), |(mut input, empty)| async move {
        match (input.try_next().await?, empty) {
            (Some(batch), _) => Ok(Some((batch, (input, None)))),
            (None, Some(empty)) => Ok(Some((empty, (input, None)))),
            (None, None) => Ok(None),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// A file name for an attempt: `q-7f3a-s2-t5-1` of `q-7f3a/s2/t5#1`.
fn staged_name(task: &str) -> String {
    if task.is_empty() { "local".to_owned() } else { task.replace(['/', '#'], "-") }
}

/// What all attempts of a task have in common, so that names sort by task: `00005` of `q-7f3a/s2/t5#1`.
fn task_name(task: &str) -> String {
    let number = task.rsplit_once("/t").and_then(|(_, rest)| rest.split('#').next());
    match number.and_then(|number| number.parse::<u32>().ok()) {
        Some(number) => format!("{number:05}"),
        None => "00000".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_attempt_are_its_own_and_names_of_a_task_are_not() {
        let attempt =
            |attempt| onward_wire::StageId::new(onward_wire::QueryId(0x7f3a), 2).task(5).attempt(attempt).to_string();
        assert_ne!(staged_name(&attempt(0)), staged_name(&attempt(1)));
        assert_eq!(staged_name(&attempt(1)), "q-7f3a-s2-t5-1");
        assert_eq!((task_name(&attempt(0)), task_name(&attempt(1))), ("00005".to_owned(), "00005".to_owned()));
    }
}
