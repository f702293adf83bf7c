//! Which task goes to which function.
//!
//! One pass considers every waiting task once, in turns: each query gets one placement, least recently served first.
//! A query's attempts at once never exceed the functions it was sized for, and the tasks of one stage go to distinct
//! functions for as long as that is possible:
//!
//! ```text
//!   1. an idle function that ran no task of this stage (any idle one, once enough distinct ones ran it), best on the
//!      task's own host; rather a new one where its host's vCPUs are taken and those of another are not
//!   2. a starting function that nobody else waits for
//!   3. the query has its functions: wait until one of them that ran no task of this stage is free
//!   4. start a function; at the limit, in the place of an idle one of another shape
//!   5. wait for a busy function that ran no task of this stage
//!   6. any idle function
//! ```
//!
//! Functions that are free then may take a task that lacks a part of its input: see [`super::early`].
//!
//! Nothing here can wait for ever: 2, 3 and 5 wait for a function whose start or attempt ends or is given up, and when
//! there is none, every idle function will do.

use std::collections::{BTreeMap, VecDeque};

use onward_wire::{FunctionId, HostId, QueryId};

use super::Scheduler;
use super::event::{Command, FunctionShape};
use super::query::Query;

/// What one pass has promised.
#[derive(Default)]
struct Pass {
    /// Starting functions that a task waits for.
    claimed: BTreeMap<FunctionShape, usize>,
    claimed_vcpus: u32,
}

/// One query's place in the pass.
struct Turn {
    query: QueryId,
    /// Stages to consider.
    stages: VecDeque<StageTurn>,
    /// Starting functions that its tasks wait for.
    claimed: usize,
}

#[derive(Clone, Copy)]
struct StageTurn {
    stage: u32,
    /// The first task that was not considered yet.
    next: u32,
    /// Starting functions that its tasks wait for.
    claimed: usize,
}

enum Placement {
    Run(FunctionId),
    /// It waits for the next function of this shape that is ready.
    Claim(FunctionShape),
}

impl Scheduler {
    /// Gives waiting tasks to functions, starting functions where that is worth it.
    pub(super) fn assign(&mut self) {
        let mut pass = Pass::default();
        self.running.values_mut().for_each(|query| query.note_ready(self.now_ms));
        let mut order: Vec<_> = self.running.values().map(|query| (query.turn, query.id)).collect();
        order.sort_unstable();
        let turn = |(_, query)| {
            let stages = self
                .running
                .get(&query)?
                .ready_stages(self.now_ms, self.limits.runtime_filter_wait_ms)
                .map(|stage| StageTurn { stage, next: 0, claimed: 0 })
                .collect();
            Some(Turn { query, stages, claimed: 0 })
        };
        let mut turns: VecDeque<Turn> = order.into_iter().filter_map(turn).collect();
        while let Some(mut turn) = turns.pop_front() {
            if self.serve(&mut turn, &mut pass) {
                turns.push_back(turn);
            }
        }
    }

    /// Gives functions that have nothing to do to stages that lack a part of their input only: see [`super::early`]. Functions are
    /// not started for that.
    pub(super) fn assign_early(&mut self) {
        if self.running.values().any(|query| query.could_start().next().is_some()) {
            return;
        }
        let mut order: Vec<_> = self.running.values().map(|query| (query.turn, query.id)).collect();
        order.sort_unstable();
        for (_, id) in order {
            while let Some((stage, task, function)) = self.place_early(id) {
                if let Some(query) = self.running.get_mut(&id) {
                    query.open_early(stage);
                }
                self.run(id, stage, task, function);
            }
        }
    }

    fn place_early(&self, id: QueryId) -> Option<(u32, u32, FunctionId)> {
        let query = self.running.get(&id)?;
        if query.running >= query.functions {
            return None;
        }
        let free = || self.pool.idle(query.shape).filter(|function| self.pool.has_vcpus_for(*function));
        free().next()?;
        query.early_starts().find_map(|(stage, task)| {
            let fresh = free().filter(|function| !query.stages[stage as usize].used.contains(function));
            Some((stage, task, self.pool.best(fresh, self.preferred_host(query, stage, task))?))
        })
    }

    /// Places one task of the query; false when nothing is left for it in this pass.
    fn serve(&mut self, turn: &mut Turn, pass: &mut Pass) -> bool {
        while let Some(stage) = turn.stages.front().copied() {
            let Some(query) = self.running.get(&turn.query) else { return false };
            if !self.may_run_more(query, turn, pass) {
                return false;
            }
            let task = query.stages[stage.stage as usize].pending.range(stage.next..).next().copied();
            let placed = task.and_then(|task| Some((task, self.place(turn.query, stage, task, pass)?)));
            let (Some((task, placement)), Some(front)) = (placed, turn.stages.front_mut()) else {
                turn.stages.pop_front();
                continue;
            };
            front.next = task + 1;
            match placement {
                Placement::Run(function) => self.run(turn.query, stage.stage, task, function),
                Placement::Claim(shape) => {
                    front.claimed += 1;
                    turn.claimed += 1;
                    pass.claimed_vcpus += shape.vcpus;
                    *pass.claimed.entry(shape).or_default() += 1;
                }
            }
            return true;
        }
        false
    }

    /// The query's own limit, and the machine's. A query that runs nothing may always start one attempt, so a long
    /// query never keeps a short one waiting.
    fn may_run_more(&self, query: &Query, turn: &Turn, pass: &Pass) -> bool {
        let at_once = query.running + turn.claimed;
        let vcpus = query.shape.vcpus;
        let limit = self.pool.total_vcpus().max(vcpus.saturating_mul(query.functions as u32));
        let used = self.pool.running_vcpus() + pass.claimed_vcpus;
        at_once == 0 || (at_once < query.functions && used.saturating_add(vcpus) <= limit)
    }

    /// Where the task goes; `None` when it, and so its stage, waits.
    fn place(&mut self, query: QueryId, turn: StageTurn, task: u32, pass: &Pass) -> Option<Placement> {
        let query = self.running.get(&query)?;
        let (shape, stage) = (query.shape, &query.stages[turn.stage as usize]);
        let (task_id, task) = (task, &stage.tasks[task as usize]);
        let distinct = query.functions.min(stage.tasks.len());
        let is_fresh = |function: &FunctionId| !stage.used.contains(function);
        let is_spread = task.is_retry() || stage.used.len() + turn.claimed >= distinct;
        let is_other = |function: &FunctionId| Some(*function) != task.last_function;

        let preferred = self.preferred_host(query, turn.stage, task_id);
        let has_unclaimed = self.pool.starting(shape) > pass.claimed.get(&shape).copied().unwrap_or(0);
        let fresh = self.pool.best(self.pool.idle(shape).filter(is_fresh), preferred);
        let others = || self.pool.best(self.pool.idle(shape).filter(|f| is_spread && is_other(f)), preferred);
        if let Some(function) = fresh.or_else(others) {
            let is_better = |host| self.pool.host_of(function) != Some(host) && self.pool.is_starting_on(shape, host);
            if has_unclaimed && preferred.is_some_and(is_better) {
                return Some(Placement::Claim(shape));
            }
            let is_crowded = self.pool.is_crowded(function, self.most_failed_starts());
            let goes_elsewhere = is_crowded && (has_unclaimed || self.start_function(shape, preferred));
            return Some(if goes_elsewhere { Placement::Claim(shape) } else { Placement::Run(function) });
        }
        if has_unclaimed {
            return Some(Placement::Claim(shape));
        }
        let has_all = query.used.iter().filter(|function| self.pool.contains(**function)).count() >= query.functions;
        let is_own = |attempt: onward_wire::AttemptId| attempt.query() == query.id;
        if has_all && self.pool.running(shape).any(|(function, attempt)| is_own(attempt) && is_fresh(&function)) {
            return None;
        }
        let waits_for_busy = !is_spread && self.pool.running(shape).any(|(function, _)| is_fresh(&function));
        let last_resort = self.pool.idle(shape).next();
        if self.start_function(shape, preferred) {
            return Some(Placement::Claim(shape));
        }
        last_resort.filter(|_| !waits_for_busy).map(Placement::Run)
    }

    fn start_function(&mut self, shape: FunctionShape, preferred: Option<HostId>) -> bool {
        if self.starts_fail() {
            return false;
        }
        let started = self.pool.start(shape, preferred, self.most_failed_starts());
        let Some((function, host, evicted)) = started else { return false };
        self.commands.extend(evicted.map(|function| Command::StopFunction { function }));
        self.commands.push(Command::StartFunction { function, host, shape });
        true
    }

    /// Where a task would best run. Tasks of scans go by turns, so that the same part of a table meets the same host, and its
    /// cached columns, again. A task that reads everything goes where most of it lies.
    fn preferred_host(&self, query: &Query, stage: u32, task: u32) -> Option<HostId> {
        let stage = &query.stages[stage as usize];
        if stage.inputs.is_empty() || !stage.may_coalesce {
            let hosts: Vec<HostId> = self.pool.hosts().collect();
            return hosts.get(task as usize % hosts.len().max(1)).copied();
        }
        match stage.tasks.len() {
            1 => query.bytes_by_host(stage).into_iter().max_by_key(|(_, bytes)| *bytes).map(|(host, _)| host),
            _ => None,
        }
    }

    fn run(&mut self, query: QueryId, stage: u32, task: u32, function: FunctionId) {
        let Some(query) = self.running.get_mut(&query) else { return };
        self.turn += 1;
        query.turn = self.turn;
        let command = query.begin(stage, task, function, &self.limits);
        if let Command::RunAttempt { attempt, .. } = &command {
            self.pool.run(function, *attempt);
        }
        self.commands.push(command);
    }
}
