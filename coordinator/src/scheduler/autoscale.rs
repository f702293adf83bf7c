//! How many functions there are: when more are started, and which stay.
//!
//! ```text
//!   a task waits           -> a function is started for it, where all of these allow it:
//!                             the host's and the user's number of functions, the rate of starts, starts that do not fail
//!   no task waits          -> functions of the warm shape are started up to `warm_functions`
//!   a function is idle     -> it is stopped after `function_idle_timeout_ms`, unless it is one of the warm ones
//!   all places are taken   -> an idle function of another shape makes room
//! ```
//!
//! The rate is a token bucket, as that of AWS Lambda: `function_start_burst` starts at once, and
//! `function_starts_per_second` from then on.
//!
//! Invariant: a function makes room only when it was idle for [`EVICTION_IDLE_MS`], or when the task's query runs nothing
//! and no function of the shape that it needs is there. So a pool that is full and shared by queries of several shapes keeps
//! some functions of each: past one start for each query that finds none of its shape, a place changes its shape at most once in
//! `EVICTION_IDLE_MS`.
//!
//! Nothing waits here for ever. What waits for a token or an idle function has its time in
//! [`Scheduler::next_wakeup`]. A user at the limit has as many functions: one of them works or starts, and the event of its end
//! comes; or it is idle, and runs the task, or makes room. Functions that are idle are given to any user.

use std::collections::BTreeMap;
use std::sync::Arc;

use onward_wire::{FunctionId, HostId};

use super::Scheduler;
use super::event::{Command, FunctionShape};
use super::limits::SchedulerLimits;

/// A function that was idle for this long makes room for one of another shape, though there is another way on.
pub const EVICTION_IDLE_MS: u64 = 100;

/// The first wait before warm functions are started again after a start failed; it doubles with each failure in a row.
const WARM_RETRY_MS: u64 = 1_000;

/// So many times.
const MOST_DOUBLINGS: u32 = 6;

/// A start costs so many units of credit; a unit is what one start a second gives in a millisecond.
const START: u64 = 1_000;

/// What is wanted of functions and what is there, for metrics and for whoever scales hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Queries that run.
    pub running_queries: usize,
    /// Queries that wait for a place.
    pub queued_queries: usize,
    /// Tasks that could start and wait for a function.
    pub waiting_tasks: usize,
    /// Functions alive or starting.
    pub functions: usize,
    /// Of these, those that have nothing to do.
    pub idle_functions: usize,
    /// Functions that would all have work now, within the limits of queries and users, if hosts had room for them; at least
    /// `warm_functions`.
    pub wanted_functions: usize,
}

/// Whether a function was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Started,
    /// Not now; at this time the answer may be another one, though nothing happens until then.
    NotNow(Option<u64>),
}

/// For whom a function is started.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) user: Arc<str>,
    /// Its query has nothing that runs or starts.
    pub(super) runs_nothing: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Autoscaler {
    /// In units of 1 / [`START`] of a start.
    credit: u64,
    refilled_ms: u64,
    /// When a task that waits may be worth another try.
    pub(super) next_try_ms: Option<u64>,
    /// Starts that failed in a row, on whatever host.
    failures: u32,
    warm_again_ms: u64,
}

impl Autoscaler {
    pub(super) fn new(limits: &SchedulerLimits) -> Self {
        let credit = full(limits);
        Self { credit, refilled_ms: 0, next_try_ms: None, failures: 0, warm_again_ms: 0 }
    }

    /// Time passed.
    pub(super) fn refill(&mut self, now_ms: u64, limits: &SchedulerLimits) {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        let more = elapsed_ms.saturating_mul(limits.function_starts_per_second);
        (self.credit, self.refilled_ms) = (self.credit.saturating_add(more).min(full(limits)), now_ms);
    }

    /// When a function may be started; `None`: now.
    fn token_at(&self, limits: &SchedulerLimits) -> Option<u64> {
        if limits.function_starts_per_second == 0 || self.credit >= START {
            return None;
        }
        Some(self.refilled_ms.saturating_add((START - self.credit).div_ceil(limits.function_starts_per_second)))
    }

    fn take(&mut self) {
        self.credit = self.credit.saturating_sub(START);
    }

    /// A task waits until then, if nothing happens before.
    pub(super) fn wait_until(&mut self, at_ms: Option<u64>) {
        self.next_try_ms = self.next_try_ms.into_iter().chain(at_ms).min();
    }

    pub(super) fn start_failed(&mut self, now_ms: u64) {
        let wait_ms = WARM_RETRY_MS << self.failures.min(MOST_DOUBLINGS);
        self.failures += 1;
        self.warm_again_ms = now_ms.saturating_add(wait_ms);
    }

    pub(super) fn start_succeeded(&mut self) {
        self.failures = 0;
    }
}

/// The most credit.
fn full(limits: &SchedulerLimits) -> u64 {
    limits.function_start_burst.max(1).saturating_mul(START)
}

impl Scheduler {
    /// What is wanted of functions now.
    pub fn demand(&self) -> Demand {
        let mut of_users: BTreeMap<&str, usize> = BTreeMap::new();
        let mut waiting_tasks = 0;
        for query in self.running.values() {
            let ready = query.ready_stages(self.now_ms, self.limits.runtime_filter_wait_ms);
            let tasks: usize = ready.map(|stage| query.stages[stage as usize].pending.len()).sum();
            waiting_tasks += tasks;
            *of_users.entry(&query.user).or_default() +=
                (query.running + tasks).min(query.functions.max(query.running));
        }
        let most = self.limits.max_functions_per_user;
        let within = |wanted: usize| if most == 0 { wanted } else { wanted.min(most) };
        let wanted = of_users.into_values().map(within).sum::<usize>();
        Demand {
            running_queries: self.running.len(),
            queued_queries: self.admission.queued(),
            waiting_tasks,
            functions: self.pool.len(),
            idle_functions: self.pool.idle_functions(),
            wanted_functions: wanted.max(self.limits.warm_functions),
        }
    }

    /// Starts a function for a task.
    pub(super) fn start_function(&mut self, shape: FunctionShape, preferred: Option<HostId>, asker: &Asker) -> Start {
        if self.pool.is_full() || self.starts_fail(shape.class) {
            return Start::NotNow(None);
        }
        if let Some(at_ms) = self.autoscaler.token_at(&self.limits) {
            return Start::NotNow(Some(at_ms));
        }
        let is_only_way = asker.runs_nothing && self.pool.young(shape) == 0;
        let idle_ms = if is_only_way { 0 } else { EVICTION_IDLE_MS };
        let is_free = |since_ms: u64| since_ms.saturating_add(idle_ms) <= self.now_ms;
        let later = |since_ms: Option<u64>| {
            Start::NotNow(
                since_ms.map(|since_ms| since_ms.saturating_add(idle_ms)).filter(|at_ms| *at_ms > self.now_ms),
            )
        };
        let most = self.limits.max_functions_per_user;
        let owned = self.pool.owned_by(&asker.user);
        let surplus = if most > 0 { (owned + 1).saturating_sub(most) } else { 0 };
        let mut leaving = Vec::new();
        for (since_ms, own) in self.pool.idle_of(&asker.user, shape).take(surplus) {
            if !is_free(since_ms) {
                return later(Some(since_ms));
            }
            leaving.push(own);
        }
        if leaving.len() < surplus {
            return Start::NotNow(None);
        }
        let most_failed = self.most_failed_starts();
        if !self.pool.has_room(shape.class, most_failed, &leaving) {
            match self.pool.longest_idle_except(shape, most_failed, &leaving) {
                Some((since_ms, other)) if is_free(since_ms) => leaving.push(other),
                other => return later(other.map(|(since_ms, _)| since_ms)),
            }
        }
        leaving.into_iter().for_each(|function| self.stop(function));
        match self.start_on(shape, preferred, Some(Arc::clone(&asker.user))) {
            true => Start::Started,
            false => Start::NotNow(None),
        }
    }

    fn start_on(&mut self, shape: FunctionShape, preferred: Option<HostId>, owner: Option<Arc<str>>) -> bool {
        let started = self.pool.start(shape, preferred, self.most_failed_starts(), owner);
        let Some((function, host)) = started else { return false };
        self.autoscaler.take();
        self.commands.push(Command::StartFunction { function, host, shape });
        true
    }

    pub(super) fn stop(&mut self, function: FunctionId) {
        self.pool.remove(function);
        self.commands.push(Command::StopFunction { function });
    }

    /// Warm functions that are missing and that there is room for.
    fn missing_warm(&self) -> usize {
        let shape = self.limits.warm_shape;
        let missing = self.limits.warm_functions.saturating_sub(self.pool.young(shape));
        if missing > 0 && self.pool.has_room(shape.class, u32::MAX, &[]) { missing } else { 0 }
    }

    /// Starts the warm functions that are missing. A host where starts fail is tried again after a while.
    pub(super) fn keep_warm(&mut self) {
        if self.missing_warm() == 0 || self.now_ms < self.autoscaler.warm_again_ms {
            return;
        }
        let shape = self.limits.warm_shape;
        if !self.pool.has_room(shape.class, self.most_failed_starts(), &[]) {
            self.pool.forgive();
        }
        for _ in 0..self.missing_warm() {
            if self.autoscaler.token_at(&self.limits).is_some() || !self.start_on(shape, None, None) {
                return;
            }
        }
    }

    /// When [`Self::keep_warm`] has something to do.
    pub(super) fn next_warm(&self) -> Option<u64> {
        let token_at = self.autoscaler.token_at(&self.limits).unwrap_or(self.now_ms);
        (self.missing_warm() > 0).then(|| token_at.max(self.autoscaler.warm_again_ms).max(self.now_ms))
    }

    /// Functions of this shape that are kept whether they have something to do or not.
    fn kept(&self, shape: FunctionShape) -> usize {
        if shape == self.limits.warm_shape { self.limits.warm_functions } else { 0 }
    }

    /// Stops functions that had nothing to do for too long.
    pub(super) fn stop_idle(&mut self) {
        while let Some((due_ms, function)) = self.next_idle() {
            if due_ms > self.now_ms {
                return;
            }
            self.stop(function);
        }
    }

    /// The next function that leaves because it has nothing to do, and when.
    pub(super) fn next_idle(&self) -> Option<(u64, FunctionId)> {
        let spare = self.pool.longest_idle().filter(|(shape, ..)| self.pool.young(*shape) > self.kept(*shape));
        let due = |since_ms: u64| since_ms.saturating_add(self.limits.function_idle_timeout_ms);
        spare.map(|(_, since_ms, function)| (due(since_ms), function)).min()
    }
}
