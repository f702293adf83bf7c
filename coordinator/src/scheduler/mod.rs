//! The scheduler: events in, commands out.
//!
//! ```text
//!    sessions --SubmitQuery, CancelQuery--> +-----------+ --QueryDone, QueryFailed--> sessions
//!                                           | Scheduler |
//!    host ---FunctionReady, Prepared, ...-> +-----------+ --StartFunction, RunAttempt, ReleaseSegments, ...--> host
//! ```
//!
//! It is a pure state machine: no clock, no I/O, no randomness. The shell passes the time in with every event and carries
//! out the commands in order. The same events give the same commands.
//!
//! Guarantees, whatever the order of events (`tests.rs` plays random ones):
//! - every query ends, as long as the host answers: with its result, or with one error;
//! - the first prepared output of a task is committed, and no other one unless it is lost with its host; inputs name committed
//!   attempts only;
//! - every segment that was reported is released once: when its last reader committed, when its query ended, when it
//!   was superseded; those of a result on [`Event::ResultReleased`];
//! - one attempt at a time per function, and none while an attempt that failed or was cancelled still runs on there: a
//!   function that is stopped because of that takes no other attempt with it;
//! - limits of [`SchedulerLimits`] hold.
//!
//! | file | subject |
//! | --- | --- |
//! | `event` | the door: what goes in and out |
//! | `admission` | which query runs, which waits, which never can |
//! | `limits` | what may be used |
//! | `query`, `stage`, `task` | what is to do, what is done, what was tried |
//! | `output` | what is kept of what was made |
//! | `early` | stages that start on a part of their inputs |
//! | `adapt` | what becomes of a stage when the sizes of its inputs are known |
//! | `recovery` | what runs again when a host is lost |
//! | `pool`, `free`, `hosts` | functions and hosts |
//! | `autoscale` | how many functions there are |
//! | `assign` | which task goes to which function |
//!
//! Committed output lives in the hosts, so a lost function loses only what it was running. A lost host loses the output that
//! lay there: see `recovery`.

mod adapt;
mod admission;
mod assign;
mod autoscale;
mod early;
mod event;
mod free;
mod hosts;
mod limits;
mod output;
mod pool;
mod query;
mod recovery;
mod stage;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use onward_wire::message::AttemptOutput;
use onward_wire::{AttemptId, ErrorKind, FunctionId, HostId, QueryId, SegmentId, WireError};

pub use autoscale::{Demand, EVICTION_IDLE_MS};
pub use event::{AlternativeSpec, Command, Event, FunctionShape, QuerySpec, QueryStats, Share, StageSpec};
pub use limits::{QueueLimits, SchedulerLimits};
pub use output::{Committed, PartitionSizes, StageOutput};

use admission::Admission;
use autoscale::Autoscaler;
use early::Told;
use hosts::Host;
use pool::{Activity, Pool};
use query::{Outcome, Query};
use recovery::Recovery;

/// Events that are worth one decision: who tells the scheduler takes in no more of them at once, so that none waits long for an answer.
pub const MOST_AT_ONCE: usize = 256;

/// What a statement past its timeout is told.
pub const TIMED_OUT: &str =
    "the statement took longer than its timeout (onward.statement_timeout_ms, or what its client asked for)";

/// See the [module](self).
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    now_ms: u64,
    pool: Pool,
    admission: Admission,
    autoscaler: Autoscaler,
    running: BTreeMap<QueryId, Query>,
    /// Segments of results that clients may still read.
    results: BTreeMap<QueryId, Vec<(HostId, SegmentId)>>,
    turn: u64,
    /// Why a function did not start, the last time.
    start_failure: String,
    commands: Vec<Command>,
}

impl Scheduler {
    /// A scheduler with the coordinator's own host, without functions or queries.
    pub fn new(limits: SchedulerLimits) -> Self {
        let mut pool = Pool::default();
        let own = Host::new(limits.total_vcpus, limits.max_functions, limits.classes.clone(), limits.is_reserve);
        pool.add_host(HostId::EMBEDDED, own);
        Self {
            pool,
            admission: Admission::new(&limits),
            autoscaler: Autoscaler::new(&limits),
            limits,
            now_ms: 0,
            running: BTreeMap::new(),
            results: BTreeMap::new(),
            turn: 0,
            start_failure: String::new(),
            commands: Vec::new(),
        }
    }

    /// Takes in what happened at `now_ms` (any clock that does not go back) and returns what to do, in order.
    pub fn handle(&mut self, now_ms: u64, event: Event) -> Vec<Command> {
        self.handle_all(now_ms, [event])
    }

    /// Takes in all that happened until `now_ms`, in order, and decides once: a decision looks at all that runs, an event at little.
    pub fn handle_all(&mut self, now_ms: u64, events: impl IntoIterator<Item = Event>) -> Vec<Command> {
        self.now_ms = self.now_ms.max(now_ms);
        self.autoscaler.refill(self.now_ms, &self.limits);
        events.into_iter().for_each(|event| self.take_in(event));
        self.decide();
        std::mem::take(&mut self.commands)
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::SubmitQuery(spec) => self.submit(spec),
            Event::CancelQuery { query, reason } => self.fail(query, reason),
            Event::ResultReleased { query } => {
                let segments = self.results.remove(&query).unwrap_or_default();
                self.release(segments);
            }
            Event::FunctionReady { function } => {
                if self.pool.ready(function, self.now_ms) {
                    self.autoscaler.start_succeeded();
                }
            }
            Event::FunctionLost { function, reason } => self.function_lost(function, reason),
            Event::HostJoined { host, vcpus, max_functions, classes } => {
                self.pool.add_host(host, Host::new(vcpus, max_functions, classes, false));
            }
            Event::HostLeaves { host } => self.pool.drain_host(host),
            Event::HostLost { host, reason } => self.host_lost(host, &reason),
            Event::Prepared { function, host, attempt, output } => self.prepared(function, host, attempt, output),
            Event::AttemptFailed { function, attempt, error, has_ended } => {
                self.attempt_failed(function, attempt, error, has_ended);
            }
            Event::AttemptEnded { function, attempt } => self.pool.finish(function, attempt, self.now_ms),
            Event::Tick => {}
        }
    }

    fn decide(&mut self) {
        self.time_out_queries();
        self.end_lifetimes();
        self.stop_deaf();
        // One that starts may find that its hosts are gone, and leaves its place to the next.
        loop {
            self.fail_without_functions();
            if !self.start_waiting() {
                break;
            }
        }
        self.close_early();
        self.assign();
        self.assign_early();
        self.stop_idle();
        self.keep_warm();
        self.let_hosts_go();
        let news = self.admission.announce();
        self.commands.extend(news);
    }

    /// When the next [`Event::Tick`] is due; `None` when there is nothing to wait for.
    pub fn next_wakeup(&self) -> Option<u64> {
        let deadlines = self.running.values().filter_map(|query| query.deadline_ms);
        let deaf = self.pool.first_ending().map(|(since_ms, _)| since_ms.saturating_add(self.limits.cancel_grace_ms));
        let idle = self.next_idle().map(|(due_ms, _)| due_ms);
        let wait_ms = self.limits.runtime_filter_wait_ms;
        let starts = self.running.values().filter_map(|query| query.next_start(self.now_ms, wait_ms));
        let ages = self.lifetime_ms().and_then(|lifetime_ms| self.pool.next_age(lifetime_ms));
        let others = [self.admission.next_due(), deaf, idle, ages, self.autoscaler.next_try_ms, self.next_warm()];
        deadlines.chain(starts).chain(others.into_iter().flatten()).min()
    }

    /// What a running query has used so far; `None` when it waits, ended, or is unknown.
    pub fn stats(&self, query: QueryId) -> Option<QueryStats> {
        self.running.get(&query).map(Query::stats)
    }

    /// Functions alive or starting.
    pub fn functions(&self) -> usize {
        self.pool.len()
    }

    /// It was started for no query, and ran nothing.
    pub fn is_spare(&self, function: FunctionId) -> bool {
        self.pool.contains(function) && self.pool.owner_of(function).is_none()
    }

    /// Functions alive or starting on `host`.
    pub fn functions_on(&self, host: HostId) -> usize {
        self.pool.functions_on(host)
    }

    /// Queries that run, and queries that wait.
    pub fn queries(&self) -> (usize, usize) {
        (self.running.len(), self.admission.queued())
    }

    /// Runs a query that has its place.
    fn start_query(&mut self, spec: QuerySpec, deadline: Option<u64>) {
        let (id, queue, user) = (spec.query, Arc::clone(&spec.queue), Arc::clone(&spec.user));
        self.pool.forgive();
        self.turn += 1;
        self.commands.push(Command::QueryStarted { query: id });
        match Query::new(spec, deadline, self.turn) {
            Ok(query) => {
                self.running.insert(id, query);
                self.finish_if_complete(id);
            }
            Err(error) => {
                self.admission.end(&queue, &user);
                self.commands.push(Command::QueryFailed { query: id, error, stats: QueryStats::default() });
            }
        }
    }

    fn prepared(&mut self, function: FunctionId, host: HostId, attempt: AttemptId, output: AttemptOutput) {
        self.pool.finish(function, attempt, self.now_ms);
        let Some(query) = self.running.get_mut(&attempt.query()) else {
            return self.release(output.segments.iter().map(|segment| (host, segment.id())).collect());
        };
        match query.prepared(attempt, host, output, &self.limits) {
            Outcome::Known => {}
            Outcome::Superseded(segments) => self.release(segments),
            Outcome::Committed { cancel, release, completed, replaced, told } => {
                self.commands.push(Command::AttemptCommitted { attempt });
                let query = attempt.query();
                self.commands.extend(replaced.into_iter().map(|stage| Command::StageReplaced { query, stage }));
                if let Some(attempts) = completed {
                    let (query, stage) = (attempt.query(), attempt.task.stage.stage);
                    self.commands.push(Command::StageCompleted { query, stage, attempts });
                }
                for Told { function, attempt, partitions, inputs } in told {
                    self.commands.push(Command::MoreInputs { function, attempt, partitions, inputs });
                }
                for (function, attempt) in cancel {
                    self.cancel(function, attempt);
                }
                self.release(release);
                self.finish_if_complete(attempt.query());
            }
        }
    }

    fn attempt_failed(&mut self, function: FunctionId, attempt: AttemptId, error: WireError, has_ended: bool) {
        match has_ended {
            true => self.pool.finish(function, attempt, self.now_ms),
            false => self.pool.end(function, attempt, self.now_ms),
        }
        if let Some(query) = self.running.get_mut(&attempt.query())
            && let Err(error) = query.failed(attempt, error, self.limits.max_attempts)
        {
            self.fail(attempt.query(), error);
        }
    }

    fn function_lost(&mut self, function: FunctionId, reason: String) {
        let host = self.pool.host_of(function);
        match self.pool.remove(function) {
            Some(Activity::Starting) => {
                host.into_iter().for_each(|host| self.pool.start_failed(host));
                self.autoscaler.start_failed(self.now_ms);
                self.start_failure = reason;
            }
            Some(Activity::Running { attempt, .. }) => self.give_up(function, attempt, &reason, false),
            Some(Activity::Idle { .. }) | None => {}
        }
    }

    /// What the function ran is lost with it.
    fn give_up(&mut self, function: FunctionId, attempt: AttemptId, reason: &str, is_old: bool) {
        let error = WireError::new(ErrorKind::Unavailable, format!("function {function} was lost: {reason}"));
        let error = WireError { counts_as_failure: !is_old, is_too_long: is_old, ..error };
        if let Some(query) = self.running.get_mut(&attempt.query())
            && let Err(error) = query.give_up(attempt, error, self.limits.max_attempts)
        {
            self.fail(attempt.query(), error);
        }
    }

    /// Its functions are gone, and the output that lay there: who made output that is still needed runs again.
    fn host_lost(&mut self, host: HostId, reason: &str) {
        let functions = self.pool.remove_host(host);
        for segments in self.results.values_mut() {
            segments.retain(|(holder, _)| *holder != host);
        }
        let queries: Vec<QueryId> = self.running.keys().copied().collect();
        for id in queries {
            let Some(query) = self.running.get_mut(&id) else { continue };
            let Recovery { cancelled, released } = query.lose_host(host);
            for (function, attempt) in cancelled {
                self.cancel(function, attempt);
            }
            self.release(released);
        }
        for (function, activity) in functions {
            if let Activity::Running { attempt, .. } = activity {
                self.give_up(function, attempt, &format!("its host {host} is gone: {reason}"), false);
            }
        }
    }

    /// No function of `class` is started on any host any more until one succeeds or a new query tries.
    fn starts_fail(&self, class: u16) -> bool {
        self.pool.starts_fail(class, self.most_failed_starts())
    }

    /// Starts that fail in a row before a host is left out.
    fn most_failed_starts(&self) -> u32 {
        self.limits.max_attempts.max(1)
    }

    /// Queries that could only wait for functions that do not start, or that no host offers any more.
    fn fail_without_functions(&mut self) {
        let lacks = |query: &Query| {
            let stages = query.could_start().map(|stage| query.stages[stage as usize].shape);
            let lacking = |shape: &FunctionShape| !self.pool.has(*shape) && self.is_out_of_reach(shape.class);
            stages.into_iter().find(lacking).map(|shape| (query.id, shape.class))
        };
        for (query, class) in self.running.values().filter_map(lacks).collect::<Vec<_>>() {
            let message = match self.pool.most_vcpus(class) {
                Some(_) => format!(
                    "functions do not start ({} tries in a row), last: {}",
                    self.pool.failed_starts(class),
                    self.start_failure
                ),
                None => format!("no host offers functions of class {class} any more"),
            };
            self.fail(query, WireError::new(ErrorKind::Unavailable, message));
        }
    }

    fn is_out_of_reach(&self, class: u16) -> bool {
        self.starts_fail(class) || self.pool.most_vcpus(class).is_none()
    }

    fn finish_if_complete(&mut self, id: QueryId) {
        if !self.running.get(&id).is_some_and(Query::is_complete) {
            return;
        }
        let Some(mut query) = self.running.remove(&id) else { return };
        let (result, stats) = (query.result(), QueryStats { rows: query.result_rows(), ..query.stats() });
        let (others, segments) = query.take_segments();
        self.release(others);
        if !segments.is_empty() {
            self.results.insert(id, segments);
        }
        self.admission.end(&query.queue, &query.user);
        self.commands.push(Command::QueryDone { query: id, result, stats });
    }

    /// Ends a query that waits or runs; nothing when it does neither.
    fn fail(&mut self, id: QueryId, error: WireError) {
        if let Some(mut query) = self.running.remove(&id) {
            let stats = query.stats();
            for (function, attempt) in query.running_attempts() {
                self.cancel(function, attempt);
            }
            let (mut segments, result) = query.take_segments();
            segments.extend(result);
            self.release(segments);
            self.admission.end(&query.queue, &query.user);
            self.commands.push(Command::QueryFailed { query: id, error, stats });
        } else if self.admission.remove(id) {
            self.commands.push(Command::QueryFailed { query: id, error, stats: QueryStats::default() });
        }
    }

    /// Stops attempts that wait for tasks which may need their functions.
    fn close_early(&mut self) {
        let stopped: Vec<_> = self.running.values_mut().flat_map(Query::close_early).collect();
        for (function, attempt) in stopped {
            self.cancel(function, attempt);
        }
    }

    fn time_out_queries(&mut self) {
        let is_due = |query: &&Query| query.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= self.now_ms);
        let mut due = self.admission.timed_out(self.now_ms);
        due.extend(self.running.values().filter(is_due).map(|query| query.id));
        for query in due {
            self.fail(query, WireError::new(ErrorKind::Cancelled, TIMED_OUT));
        }
        for (query, error) in self.admission.overdue(self.now_ms) {
            self.fail(query, error);
        }
    }

    /// Of functions; `None`: there is no limit.
    fn lifetime_ms(&self) -> Option<u64> {
        Some(self.limits.function_lifetime_ms).filter(|lifetime_ms| *lifetime_ms > 0)
    }

    /// Functions that take no task any more leave when they have nothing to do. What those run that are too old runs again elsewhere.
    fn end_lifetimes(&mut self) {
        for (function, activity) in self.pool.age(self.now_ms, self.lifetime_ms()) {
            self.stop(function);
            if let Activity::Running { attempt, .. } = activity {
                self.give_up(function, attempt, "its lifetime was over (function_lifetime_ms)", true);
            }
        }
    }

    /// Hosts that want to leave may, once they run nothing and hold no output that somebody reads or may read.
    fn let_hosts_go(&mut self) {
        let empty = self.pool.draining().filter(|(_, functions)| *functions == 0).map(|(host, _)| host);
        for host in empty.collect::<Vec<_>>() {
            let holds_results = self.results.values().flatten().any(|(holder, _)| *holder == host);
            if !holds_results && !self.running.values().any(|query| query.holds_output_on(host)) {
                self.pool.let_go(host);
                self.commands.push(Command::LetHostGo { host });
            }
        }
    }

    /// Stops functions whose attempt does not end.
    fn stop_deaf(&mut self) {
        let (now_ms, grace_ms) = (self.now_ms, self.limits.cancel_grace_ms);
        let is_due = |since_ms: u64| since_ms.saturating_add(grace_ms) <= now_ms;
        while let Some((_, function)) = self.pool.first_ending().filter(|(since_ms, _)| is_due(*since_ms)) {
            self.stop(function);
        }
    }

    fn cancel(&mut self, function: FunctionId, attempt: AttemptId) {
        if !self.pool.contains(function) {
            // It went with its host.
            return;
        }
        self.pool.end(function, attempt, self.now_ms);
        self.commands.push(Command::CancelAttempt { function, attempt });
    }

    fn release(&mut self, segments: Vec<(HostId, SegmentId)>) {
        if !segments.is_empty() {
            self.commands.push(Command::ReleaseSegments(segments));
        }
    }
}
