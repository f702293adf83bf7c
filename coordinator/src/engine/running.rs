//! What the shell knows of a query while it runs, and the scheduler need not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use onward_planner::explain::StageRun;
use onward_shuffle::flight::GrantKey;
use onward_wire::message::{DefineStage, Progress, StoreRequests};
use onward_wire::{AttemptId, FunctionId, HostId, StageId, WireError};
use tokio::sync::{oneshot, watch};

use super::filters::Filters;
use super::inputs::Granting;
use super::outcome::{CacheRead, Outcome};
use super::{Reads, Replacement, Submission};
use crate::accounting::Account;
use crate::api::QueryProgress;
use crate::scheduler::{FunctionShape, QuerySpec, QueryStats};

/// A query that runs.
pub(super) struct Query {
    pub(super) stages: Vec<DefineStage>,
    reads: Reads,
    pub(super) alternatives: Vec<Option<Replacement>>,
    /// Stages that run their other plan.
    pub(super) replaced: BTreeMap<u32, Replacement>,
    pub(super) filters: Filters,
    /// Which functions know which of its stages. A stage is sent to a function once.
    pub(super) defined: HashSet<(FunctionId, u32)>,
    /// Hosts, but the coordinator's own, that ran an attempt of it.
    pub(super) hosts: BTreeSet<HostId>,
    pub(super) metrics: Vec<StageRun>,
    pub(super) requests: StoreRequests,
    pub(super) cache: CacheRead,
    pub(super) account: Account,
    /// Of the functions that run each stage.
    shapes: Vec<FunctionShape>,
    /// How far attempts are, and where they run.
    pub(super) running: HashMap<AttemptId, (FunctionId, Progress)>,
    pub(super) reply: oneshot::Sender<Result<Outcome, WireError>>,
    /// Whoever waits for its end: dropped with it.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    progress: watch::Sender<QueryProgress>,
}

impl Query {
    /// A query that was submitted, and what of it is the scheduler's business.
    pub(super) fn new(submission: Submission, reply: oneshot::Sender<Result<Outcome, WireError>>) -> (QuerySpec, Self) {
        let Submission { spec, stages, filters, alternatives, reads, prices, progress } = submission;
        let query = Self {
            filters: Filters::new(filters, &stages),
            metrics: vec![StageRun::default(); stages.len()],
            stages,
            reads,
            alternatives,
            replaced: BTreeMap::new(),
            defined: HashSet::new(),
            hosts: BTreeSet::new(),
            requests: StoreRequests::default(),
            cache: CacheRead::default(),
            account: Account::new(prices),
            shapes: spec.stages.iter().map(|stage| stage.shape.unwrap_or(spec.shape)).collect(),
            running: HashMap::new(),
            reply,
            waiting: Vec::new(),
            progress,
        };
        (spec, query)
    }

    /// An attempt of it begins, in a function that ran nothing before, or not.
    pub(super) fn begin(&mut self, attempt: AttemptId, function: FunctionId, is_cold: bool) {
        let shape = self.shapes.get(attempt.task.stage.stage as usize).copied().unwrap_or_default();
        self.account.begin(attempt, function, shape, is_cold);
    }

    /// A stage of it reads or writes a remote store.
    pub(super) fn is_remote(&self) -> bool {
        self.stages.iter().flat_map(|stage| &stage.stores).any(|store| !store.url.starts_with("file:"))
    }

    /// What the inputs of one of its stages are told with.
    pub(super) fn granting<'a>(&'a self, stage: StageId, key: &'a GrantKey, lifetime_ms: u64) -> Granting<'a> {
        let replaced = self.replaced.get(&stage.stage);
        Granting {
            stages: &self.stages,
            reads: replaced.map_or(&self.reads, |replaced| &replaced.reads),
            broadcast: replaced.map(|replaced| replaced.broadcast),
            key,
            lifetime_ms,
        }
    }

    /// Tells whoever watches that it waits, at this place of so many; `None`: of as many as before.
    pub(super) fn publish_position(&self, position: usize, queued: Option<usize>) {
        self.progress.send_modify(|progress| {
            progress.position = position as u64;
            progress.queued = queued.map_or(progress.queued, |queued| queued as u64).max(progress.position);
        });
    }

    /// Tells whoever watches how far it is.
    pub(super) fn publish_progress(&self, stats: &QueryStats) {
        let mut progress = QueryProgress {
            tasks: stats.tasks,
            tasks_done: stats.tasks_committed,
            functions: stats.running,
            rows: self.metrics.iter().map(|metrics| metrics.rows).sum(),
            bytes: self.metrics.iter().map(|metrics| metrics.bytes).sum(),
            ..QueryProgress::default()
        };
        for (_, running) in self.running.values() {
            progress.rows += running.rows;
            progress.bytes += running.bytes;
        }
        self.progress.send_replace(progress);
    }
}

/// A query that is over, but for functions on other hosts that may still work for it.
#[derive(Default)]
pub(super) struct Ending {
    /// Requests that are not answered yet.
    pub(super) open: usize,
    /// Dropped with it.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}
