//! The task that owns the scheduler.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use onward_executor::host::{Host, HostEvent};
use onward_planner::explain::StageRun;
use onward_wire::message::{AttemptDone, DefineStage, InputAttempt, Progress, RunAttempt, StoreRequests};
use onward_wire::{AttemptId, FunctionId, QueryId, StageId, WireError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Request, Submission};
use crate::api::QueryProgress;
use crate::scheduler::{Command, Event, QueryStats, Scheduler, SchedulerLimits};

/// A query that ended well.
#[derive(Debug)]
pub struct Outcome {
    /// Committed attempts of the last stage, by task.
    pub result: Vec<InputAttempt>,
    /// What it took.
    pub stats: QueryStats,
    /// Merged metrics, one entry per stage.
    pub stages: Vec<StageRun>,
    /// Requests to object stores, of all attempts.
    pub requests: StoreRequests,
}

/// The shell's part of a query: what the scheduler need not know.
struct Query {
    stages: Vec<DefineStage>,
    metrics: Vec<StageRun>,
    requests: StoreRequests,
    running: HashMap<AttemptId, Progress>,
    reply: oneshot::Sender<Result<Outcome, WireError>>,
    /// Whoever waits for its end: dropped with it.
    waiting: Vec<oneshot::Sender<()>>,
    progress: watch::Sender<QueryProgress>,
}

pub(super) struct Driver {
    scheduler: Scheduler,
    host: Arc<Host>,
    started: Instant,
    queries: HashMap<QueryId, Query>,
    /// Stages each function knows. A stage is sent once per function.
    defined: HashMap<FunctionId, HashSet<StageId>>,
}

impl Driver {
    pub(super) fn new(limits: SchedulerLimits, host: Arc<Host>) -> Self {
        let (scheduler, started) = (Scheduler::new(limits), Instant::now());
        Self { scheduler, host, started, queries: HashMap::new(), defined: HashMap::new() }
    }

    /// Runs until the last [`super::Engine`] handle is gone.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
        mut events: mpsc::UnboundedReceiver<HostEvent>,
    ) {
        loop {
            let wakeup = self.scheduler.next_wakeup().map(|at_ms| self.started + Duration::from_millis(at_ms));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.on_request(request),
                    None => return,
                },
                Some(event) = events.recv() => self.on_host_event(event),
                () = sleep_until(wakeup) => self.handle(Event::Tick),
            }
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Submit(submission, reply) => {
                let Submission { spec, stages, progress } = *submission;
                let metrics = vec![StageRun::default(); stages.len()];
                let (requests, running) = (StoreRequests::default(), HashMap::new());
                let waiting = Vec::new();
                let query = Query { stages, metrics, requests, running, reply, waiting, progress };
                self.queries.insert(spec.query, query);
                self.handle(Event::SubmitQuery(spec));
            }
            Request::Cancel(query, reason) => self.handle(Event::CancelQuery { query, reason }),
            Request::AwaitEnd(query, waiting) => {
                if let Some(query) = self.queries.get_mut(&query) {
                    query.waiting.push(waiting);
                }
            }
            Request::ReleaseResult(query) => self.handle(Event::ResultReleased { query }),
        }
    }

    fn on_host_event(&mut self, event: HostEvent) {
        match event {
            HostEvent::FunctionReady { function, pid } => {
                tracing::debug!(%function, pid, "function is ready");
                self.handle(Event::FunctionReady { function });
            }
            HostEvent::FunctionLost { function, reason } => {
                tracing::info!(%function, reason, "function was lost");
                self.defined.remove(&function);
                self.handle(Event::FunctionLost { function, reason });
            }
            HostEvent::Progress { progress, .. } => {
                let attempt = AttemptId::from(progress.attempt);
                if let Some(query) = self.queries.get_mut(&attempt.query()) {
                    query.running.insert(attempt, progress);
                    self.publish_progress(attempt.query());
                }
            }
            HostEvent::Prepared { function, done } => self.on_prepared(function, done),
            HostEvent::AttemptFailed { function, attempt, error, has_ended } => {
                tracing::debug!(%attempt, %function, %error, "attempt failed");
                if let Some(query) = self.queries.get_mut(&attempt.query()) {
                    query.running.remove(&attempt);
                }
                self.handle(Event::AttemptFailed { function, attempt, error, has_ended });
            }
            HostEvent::AttemptEnded { function, attempt } => self.handle(Event::AttemptEnded { function, attempt }),
        }
    }

    fn on_prepared(&mut self, function: FunctionId, done: AttemptDone) {
        let attempt = AttemptId::from(done.attempt);
        if let Some(query) = self.queries.get_mut(&attempt.query()) {
            query.running.remove(&attempt);
            if let Some(metrics) = query.metrics.get_mut(attempt.task.stage.stage as usize) {
                metrics.add(&done);
            }
            query.requests.table += done.requests.table;
            query.requests.table_bytes += done.requests.table_bytes;
            query.requests.write += done.requests.write;
            query.requests.intermediate += done.requests.intermediate;
        }
        self.handle(Event::Prepared { function, attempt, output: done.output });
        self.publish_progress(attempt.query());
    }

    fn handle(&mut self, event: Event) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        for command in self.scheduler.handle(now_ms, event) {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::StartFunction { function, shape } => {
                self.host.start_function(function, shape.vcpus as usize, shape.memory_bytes);
            }
            Command::StopFunction { function } => {
                self.defined.remove(&function);
                self.host.stop_function(function);
            }
            Command::RunAttempt { function, attempt, partitions, inputs, inline_bytes } => {
                let stage = attempt.task.stage;
                let Some(query) = self.queries.get(&stage.query) else { return };
                if self.defined.entry(function).or_default().insert(stage) {
                    self.host.define_stage(function, query.stages[stage.stage as usize].clone());
                }
                let inputs = Arc::unwrap_or_clone(inputs);
                let run = RunAttempt { attempt: attempt.into(), partitions, inputs, inline_bytes };
                self.host.run_attempt(function, run);
                self.publish_progress(stage.query);
            }
            Command::CancelAttempt { function, attempt } => self.host.cancel_attempt(function, attempt),
            Command::AttemptCommitted { attempt } => tracing::trace!(%attempt, "committed"),
            Command::ReleaseSegments(segments) => self.host.remove_segments(&segments),
            Command::QueryQueued { query } => tracing::info!(%query, "query waits: all places are taken"),
            Command::QueryStarted { query } => tracing::debug!(%query, "query starts"),
            Command::QueryDone { query, result, stats } => {
                self.publish_progress(query);
                let Some(done) = self.forget(query) else { return };
                let outcome = Outcome { result, stats, stages: done.metrics, requests: done.requests };
                if done.reply.send(Ok(outcome)).is_err() {
                    // The client is gone: nobody will release the result.
                    self.handle(Event::ResultReleased { query });
                }
            }
            Command::QueryFailed { query, error, .. } => {
                if let Some(failed) = self.forget(query) {
                    // Nobody listens when the client cancelled.
                    let _ = failed.reply.send(Err(error));
                }
            }
        }
    }

    fn forget(&mut self, query: QueryId) -> Option<Query> {
        for stages in self.defined.values_mut() {
            stages.retain(|stage| stage.query != query);
        }
        self.host.forget_query(query);
        self.queries.remove(&query)
    }

    fn publish_progress(&self, id: QueryId) {
        let (Some(query), Some(stats)) = (self.queries.get(&id), self.scheduler.stats(id)) else { return };
        let mut progress = QueryProgress {
            tasks: stats.tasks,
            tasks_done: stats.tasks_committed,
            functions: stats.running,
            rows: query.metrics.iter().map(|metrics| metrics.rows).sum(),
            bytes: query.metrics.iter().map(|metrics| metrics.bytes).sum(),
        };
        for running in query.running.values() {
            progress.rows += running.rows;
            progress.bytes += running.bytes;
        }
        query.progress.send_replace(progress);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
