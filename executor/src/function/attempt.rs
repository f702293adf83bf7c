//! One attempt, from its message to its output.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt};
use onward_planner::error::classify;
use onward_shuffle::{AttemptWriter, Lane, SegmentSource, WriterOptions};
use onward_wire::message::{AttemptDone, AttemptOutput, Metric, OperatorMetrics, Progress, RunAttempt};
use onward_wire::{AttemptId, ErrorKind, WireError};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::environment::{AttemptContext, Environment};
use super::link::Link;
use super::metrics;
use super::segments::{AttemptSink, Segments};
use super::stage::{AttemptPlan, Stage};

/// What all attempts of a process share.
pub(super) struct Shared {
    pub(super) link: Arc<Link>,
    pub(super) segments: Arc<Segments>,
    pub(super) environment: Environment,
    pub(super) flush_bytes: u64,
}

/// An attempt while it runs.
pub(super) struct Attempt {
    id: AttemptId,
    started: Instant,
    writer: OnceLock<Weak<AttemptWriter>>,
    tasks: Mutex<Vec<AbortHandle>>,
    reported: Mutex<(u64, u64)>,
}

/// A finished attempt: its message, and the files that are still this process's until the message is sent.
pub(super) struct Finished {
    pub(super) done: AttemptDone,
    pub(super) sink: Arc<AttemptSink>,
}

impl Attempt {
    pub(super) fn new(id: AttemptId) -> Arc<Self> {
        Arc::new(Self {
            id,
            started: Instant::now(),
            writer: OnceLock::new(),
            tasks: Mutex::default(),
            reported: Mutex::default(),
        })
    }

    /// Stops a task of this attempt together with it.
    pub(super) fn add_task(&self, task: AbortHandle) {
        self.tasks.lock().push(task);
    }

    /// Stops it: what runs is dropped when it next yields, what does not run is dropped at once.
    pub(super) fn abort(&self) {
        self.tasks.lock().iter().for_each(AbortHandle::abort);
    }

    /// How far it is, if that changed since it was asked last.
    pub(super) fn progress(&self) -> Option<Progress> {
        let writer = self.writer.get()?.upgrade()?;
        let now = (writer.rows(), writer.bytes());
        let mut reported = self.reported.lock();
        if *reported == now {
            return None;
        }
        *reported = now;
        let (rows, bytes) = now;
        Some(Progress { attempt: self.id.into(), rows, bytes, elapsed_us: self.elapsed_us() })
    }

    /// Runs the attempt. A panic anywhere in it is its error.
    pub(super) async fn run(
        self: &Arc<Self>,
        shared: &Shared,
        stage: &Stage,
        request: RunAttempt,
    ) -> Result<Finished, WireError> {
        let run = AssertUnwindSafe(self.run_unprotected(shared, stage, request)).catch_unwind();
        match run.await {
            Ok(result) => result.map_err(|error| classify(&error)),
            Err(panic) => Err(panicked(self.id, panic.as_ref())),
        }
    }

    async fn run_unprotected(
        self: &Arc<Self>,
        shared: &Shared,
        stage: &Stage,
        request: RunAttempt,
    ) -> Result<Finished> {
        let RunAttempt { partitions, inputs, inline_bytes, .. } = request;
        let config = stage.config(&shared.environment)?;
        let batch_rows = config.batch_size();
        let AttemptContext { task, memory, stores } = shared.environment.attempt(self.id, config);
        let source = Arc::clone(&shared.segments) as Arc<dyn SegmentSource>;
        let AttemptPlan { planned, runs, mapping } = stage.plan(&task, &partitions, inputs, &source)?;

        let sink = AttemptSink::new(Arc::clone(&shared.link), self.id);
        let options = WriterOptions { flush_bytes: shared.flush_bytes, inline_bytes, batch_rows };
        let writer = AttemptWriter::new(runs.schema(), mapping, Arc::clone(&sink) as _, options);
        // The attempt's table must not keep the writer alive: its end is what releases files.
        let _ = self.writer.set(Arc::downgrade(&writer));
        let lanes = partitions.iter().map(|partition| writer.lane(*partition)).collect();
        self.run_partitions(&runs, &task, lanes).await?;
        let output = writer.finish().await?;
        let operators = measure(&planned, &runs, &output);
        let done = AttemptDone {
            attempt: self.id.into(),
            output,
            requests: stores.counters().snapshot(),
            elapsed_us: self.elapsed_us(),
            peak_memory_bytes: memory.inner().max_reserved() as u64,
            spilled_bytes: metrics::spilled_bytes(&operators),
            operators,
        };
        Ok(Finished { done, sink })
    }

    /// Runs all partitions at once; the first error stops the others.
    async fn run_partitions(
        &self,
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
            self.add_task(tasks.spawn(run));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| self.task_error(error))??;
        }
        Ok(())
    }

    fn task_error(&self, error: JoinError) -> DataFusionError {
        let error = match error.try_into_panic() {
            Ok(panic) => panicked(self.id, panic.as_ref()),
            Err(_) => cancelled(self.id),
        };
        DataFusionError::External(Box::new(error))
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

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

/// The operators' metrics in the order of the stage's plan. The repartitioning at the root of a hash exchange is the
/// writer's work: its rows are the output's.
fn measure(
    planned: &Arc<dyn ExecutionPlan>,
    runs: &Arc<dyn ExecutionPlan>,
    output: &AttemptOutput,
) -> Vec<OperatorMetrics> {
    let children = planned.children();
    match children.as_slice() {
        [child] if planned.name() != runs.name() => {
            let rows = Metric { name: "output_rows".to_owned(), value: output.rows() };
            let mut operators = vec![OperatorMetrics { values: vec![rows] }];
            operators.extend(metrics::collect(child, runs));
            operators
        }
        _ => metrics::collect(planned, runs),
    }
}

fn panicked(attempt: AttemptId, panic: &(dyn Any + Send)) -> WireError {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    WireError::new(ErrorKind::Internal, format!("{attempt} panicked: {message}"))
}

/// What a cancelled attempt answers.
pub(super) fn cancelled(attempt: AttemptId) -> WireError {
    let error = WireError::new(ErrorKind::Cancelled, format!("{attempt} was cancelled"));
    WireError { counts_as_failure: false, ..error }
}
