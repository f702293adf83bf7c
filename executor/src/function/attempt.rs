//! One attempt, from its message to its output.

use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;
use onward_cache::UploadLog;
use onward_cache::ranges::RangeClient;
use onward_cache::scan::WarmScans;
use onward_planner::RuntimeFilterPlaces;
use onward_planner::error::classify;
use onward_shuffle::{AttemptWriter, InputFeed, Lane, OutputMapping, SegmentSource, WriterOptions, filter_expr};
use onward_wire::exchange::StageInputs;
use onward_wire::filters::KeySketch;
use onward_wire::message::{AttemptDone, AttemptOutput, Metric, OperatorMetrics, Progress, RunAttempt};
use onward_wire::{AttemptId, ErrorKind, WireError, panics};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::columns::Columns;
use super::environment::{AttemptContext, Environment, Reads};
use super::files::HostStores;
use super::link::Link;
use super::metrics;
use super::segments::{AttemptSink, AttemptSource, Segments};
use super::stage::{AttemptPlan, Stage};
use super::work;

/// What all attempts of a process share.
pub(super) struct Shared {
    pub(super) link: Arc<Link>,
    pub(super) segments: Arc<Segments>,
    pub(super) columns: Arc<Columns>,
    /// Remote objects through the host's range tier, where it has one, and past it.
    pub(super) tier: Option<Arc<dyn RangeClient>>,
    pub(super) direct: Arc<dyn RangeClient>,
    pub(super) scans: WarmScans,
    pub(super) environment: Environment,
    pub(super) flush_bytes: u64,
}

/// An attempt while anything works for it: whoever does holds it (see [`super::work`]).
pub(super) struct Attempt {
    id: AttemptId,
    started: Instant,
    writer: OnceLock<Weak<AttemptWriter>>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// What it reads of other stages.
    inputs: Vec<Arc<InputFeed>>,
    /// Rows and bytes.
    reported: Mutex<(u64, u64)>,
    filters: Mutex<Filters>,
    /// Called when nothing works for it any more.
    end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// Runtime filters that it was told of, and where they go once its plan is there.
#[derive(Default)]
struct Filters {
    told: Vec<KeySketch>,
    places: Option<RuntimeFilterPlaces>,
}

/// A finished attempt: its message, and the files that are still this process's until the message is sent.
pub(super) struct Finished {
    pub(super) done: AttemptDone,
    pub(super) sink: Arc<AttemptSink>,
}

impl Attempt {
    /// `end` is called when the last one who works for it is gone.
    pub(super) fn new(id: AttemptId, inputs: Vec<StageInputs>, end: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            id,
            started: Instant::now(),
            writer: OnceLock::new(),
            tasks: Mutex::default(),
            inputs: inputs.into_iter().map(InputFeed::new).collect(),
            reported: Mutex::default(),
            filters: Mutex::default(),
            end: Mutex::new(Some(Box::new(end))),
        })
    }

    /// Its scans and operators may use these from now on.
    pub(super) fn add_filters(&self, filters: Vec<KeySketch>) {
        let mut state = self.filters.lock();
        match &state.places {
            Some(places) => self.place(places, &filters),
            None => state.told.extend(filters),
        }
    }

    /// It reads these, too.
    pub(super) fn add_inputs(&self, more: Vec<StageInputs>) {
        for more in more {
            if let Some(feed) = self.inputs.iter().find(|feed| feed.stage() == more.stage) {
                feed.add(more);
            }
        }
    }

    fn use_filters(&self, places: RuntimeFilterPlaces) {
        let mut state = self.filters.lock();
        let told = std::mem::take(&mut state.told);
        self.place(&places, &told);
        state.places = Some(places);
    }

    /// Without a filter the rows are the same.
    fn place(&self, places: &RuntimeFilterPlaces, filters: &[KeySketch]) {
        for sketch in filters {
            if let Err(error) = places.set(sketch.filter, |keys, types| filter_expr(sketch, keys, types)) {
                tracing::warn!(attempt = %self.id, filter = sketch.filter, %error, "a runtime filter cannot be used");
            }
        }
    }

    /// Stops a task of this attempt together with it.
    pub(super) fn add_task(&self, task: AbortHandle) {
        self.tasks.lock().push(task);
    }

    /// Stops it: what runs is dropped when it next yields, what does not run is dropped at once.
    pub(super) fn abort(&self) {
        self.tasks.lock().iter().for_each(AbortHandle::abort);
    }

    /// How far it is.
    pub(super) fn progress(&self) -> Progress {
        let mut reported = self.reported.lock();
        if let Some(writer) = self.writer.get().and_then(Weak::upgrade) {
            *reported = (writer.rows(), writer.bytes());
        }
        let (rows, bytes) = *reported;
        Progress { attempt: self.id.into(), rows, bytes, elapsed_us: self.elapsed_us() }
    }

    /// Runs the attempt. A panic anywhere in it is its error.
    pub(super) async fn run(
        self: &Arc<Self>,
        shared: &Shared,
        stage: &Stage,
        request: RunAttempt,
    ) -> Result<Finished, WireError> {
        guarded(self.id, self.run_unguarded(shared, stage, request)).await
    }

    async fn run_unguarded(self: &Arc<Self>, shared: &Shared, stage: &Stage, request: RunAttempt) -> Result<Finished> {
        let RunAttempt { partitions, inline_bytes, filters, .. } = request;
        self.add_filters(filters);
        let decoder = stage.decoder(&shared.environment)?;
        let config = decoder.config.clone();
        let batch_rows = config.batch_size();
        let tier = shared.tier.clone().filter(|_| stage.uses_cache());
        let reads = Reads {
            expected: stage.expected(),
            ranges: tier.unwrap_or_else(|| Arc::clone(&shared.direct)),
            stores: HostStores::new(Arc::clone(&shared.link), self.id),
        };
        let AttemptContext { task, memory, stores } =
            shared.environment.attempt(self.id, config, self.upload_log(), reads);
        let source = AttemptSource::new(Arc::clone(&shared.segments), self.id) as Arc<dyn SegmentSource>;
        let AttemptPlan { planned, runs, mapping, places } =
            stage.plan(&task, &decoder.functions, &partitions, &self.inputs, &source, &shared.scans)?;
        self.use_filters(places);

        let count = runs.output_partitioning().partition_count();
        if count != partitions.len() {
            return internal_err!("{}: the plan has {count} partitions, the task {}", self.id, partitions.len());
        }

        let sink = AttemptSink::new(Arc::clone(&shared.link), self.id);
        let is_repartitioned = matches!(mapping, OutputMapping::Hash { .. } | OutputMapping::RoundRobin { .. });
        let options = WriterOptions { flush_bytes: shared.flush_bytes, inline_bytes, batch_rows };
        let sketches = stage.sketches();
        let writer = AttemptWriter::sketching(runs.schema(), mapping, Arc::clone(&sink) as _, options, sketches);
        // The attempt's table must not keep the writer alive: its end is what releases files.
        let _ = self.writer.set(Arc::downgrade(&writer));
        let lanes = partitions.iter().map(|partition| writer.lane(*partition)).collect();
        self.run_partitions(&runs, &task, lanes).await?;
        let output = writer.finish().await?;
        shared.columns.report_uses();
        let operators = measure(&planned, &runs, is_repartitioned.then_some(&output));
        let done = AttemptDone {
            attempt: self.id.into(),
            output,
            sketches: writer.take_sketches(),
            requests: stores.counters().snapshot(),
            elapsed_us: self.elapsed_us(),
            peak_memory_bytes: memory.inner().max_reserved() as u64,
            spilled_bytes: metrics::spilled_bytes(&operators),
            operators,
        };
        Ok(Finished { done, sink })
    }

    /// The host knows of uploads by itself; every file that is being written holds the log, and so this attempt.
    fn upload_log(self: &Arc<Self>) -> UploadLog {
        let attempt = Arc::clone(self);
        UploadLog::new(move |path, upload| tracing::debug!(attempt = %attempt.id, %path, upload, "an upload was begun"))
    }

    /// Runs all partitions at once; the first error stops the others.
    async fn run_partitions(
        self: &Arc<Self>,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
        lanes: Vec<Lane>,
    ) -> Result<()> {
        if lanes.len() == 1 {
            for lane in lanes {
                run_partition(Arc::clone(plan), 0, Arc::clone(context), lane).await?;
            }
            return Ok(());
        }
        let mut tasks = JoinSet::new();
        for (partition, lane) in lanes.into_iter().enumerate() {
            let run = run_partition(Arc::clone(plan), partition, Arc::clone(context), lane);
            self.add_task(tasks.spawn(work::of(Arc::clone(self), run)));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| self.task_error(error))??;
        }
        Ok(())
    }

    fn task_error(&self, error: JoinError) -> DataFusionError {
        let error = match error.try_into_panic() {
            Ok(panic) => panics::error(panic.as_ref()),
            Err(_) => cancelled(self.id),
        };
        DataFusionError::External(Box::new(error))
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(end) = self.end.get_mut().take() {
            end();
        }
    }
}

/// Runs one partition.
async fn run_partition(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    mut lane: Lane,
) -> Result<()> {
    let mut batches = plan.execute(partition, context)?;
    while let Some(batch) = batches.next().await {
        lane.write(batch?).await?;
    }
    drop(batches);
    lane.finish().await
}

/// The operators' metrics in the order of the stage's plan. The repartitioning at the root of an exchange is the
/// writer's work: its rows are those of the output, `repartitioned`.
fn measure(
    planned: &Arc<dyn ExecutionPlan>,
    runs: &Arc<dyn ExecutionPlan>,
    repartitioned: Option<&AttemptOutput>,
) -> Vec<OperatorMetrics> {
    let children = planned.children();
    let (Some(output), [child]) = (repartitioned, children.as_slice()) else {
        return metrics::collect(planned, runs);
    };
    let rows = Metric { name: "output_rows".to_owned(), value: output.rows() };
    let mut operators = vec![OperatorMetrics { values: vec![rows] }];
    operators.extend(metrics::collect(child, runs));
    operators
}

/// Classifies the error of an attempt, panics included.
async fn guarded<T>(attempt: AttemptId, run: impl Future<Output = Result<T>>) -> Result<T, WireError> {
    match panics::caught(run).await {
        Ok(result) => result.map_err(|error| classify(&error)),
        Err(panic) => Err(WireError { message: format!("{attempt}: {}", panic.message), ..panic }),
    }
}

/// What a cancelled attempt answers.
pub(super) fn cancelled(attempt: AttemptId) -> WireError {
    let error = WireError::new(ErrorKind::Cancelled, format!("{attempt} was cancelled"));
    WireError { counts_as_failure: false, ..error }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use datafusion::physical_plan::projection::ProjectionExec;
    use onward_shuffle::{SegmentSink, WritableSegment};
    use onward_wire::{QueryId, StageId};

    use super::*;

    #[derive(Debug)]
    struct NoFiles;

    #[async_trait]
    impl SegmentSink for NoFiles {
        async fn open(&self, _: u64) -> Result<WritableSegment, WireError> {
            Err(WireError::new(ErrorKind::Internal, "no files here"))
        }
    }

    /// A plan of `partitions` partitions whose expressions panic when they are evaluated.
    fn panicking(partitions: usize) -> Arc<dyn ExecutionPlan> {
        use datafusion::arrow::datatypes::{DataType, Field, Schema};
        use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
        use datafusion::physical_expr::ScalarFunctionExpr;
        use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;

        let evaluate = |_: &[ColumnarValue]| -> Result<ColumnarValue> { panic!("the operator broke") };
        let udf = create_udf("breaks", vec![], DataType::Int32, Volatility::Volatile, Arc::new(evaluate));
        let expr = ScalarFunctionExpr::try_new(
            Arc::new(udf),
            vec![],
            &Schema::empty(),
            Arc::new(datafusion::config::ConfigOptions::default()),
        );
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
        let rows = Arc::new(PlaceholderRowExec::new(schema).with_partitions(partitions));
        Arc::new(ProjectionExec::try_new(vec![(Arc::new(expr.unwrap()) as _, "a".to_owned())], rows).unwrap())
    }

    /// A panic in a task, alone or among others, is that attempt's error and nobody else's.
    #[tokio::test]
    async fn a_panic_is_the_attempts_error() {
        for partitions in [1, 3] {
            let id = StageId::new(QueryId(1), 0).task(0).attempt(0);
            let (attempt, plan) = (Attempt::new(id, Vec::new(), || ()), panicking(partitions));
            let options = WriterOptions { flush_bytes: 1 << 20, inline_bytes: 1 << 20, batch_rows: 8192 };
            let writer = AttemptWriter::new(plan.schema(), OutputMapping::Preserve, Arc::new(NoFiles), options);
            let lanes = (0..partitions as u32).map(|partition| writer.lane(partition)).collect();
            let context = Arc::default();
            let run = attempt.run_partitions(&plan, &context, lanes);
            let error = guarded(id, run).await.unwrap_err();
            assert_eq!((error.kind(), error.is_retryable), (ErrorKind::Internal, false));
            assert!(error.message.contains("the operator broke"), "{error}");
        }
    }
}
