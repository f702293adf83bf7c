//! Which task goes to which function.
//!
//! One pass considers every waiting task once, in turns: each user gets one placement, least recently served first, for one of
//! that user's queries, least recently served first. So users share what becomes free evenly, however many queries they run.
//! A query's attempts at once never exceed the functions it was sized for, and the tasks of one stage go to distinct
//! functions for as long as that is possible:
//!
//! ```text
//!   1. an idle function that ran no task of this stage (any idle one, once enough distinct ones ran it), best on the
//!      task's own host; where its host's vCPUs are taken and those of another are not, rather one there, or a new one
//!   2. a starting function that nobody else waits for
//!   3. the query has its functions: wait until one of them that ran no task of this stage is free
//!   4. start a function; at the limit, in the place of an idle one of another shape (see [`super::autoscale`])
//!   5. wait for a busy function that ran no task of this stage
//!   6. any idle function
//! ```
//!
//! Functions that are free then may take a task that lacks a part of its input: see [`super::early`].
//!
//! Functions have the shape that the task's stage asks for; those of another shape are as good as none.
//!
//! Nothing here can wait for ever: 2, 3 and 5 wait for a function whose start or attempt ends or is given up, and when
//! there is none, every idle function will do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use onward_wire::{FunctionId, HostId, QueryId};

use super::Scheduler;
use super::autoscale::{Asker, Start};
use super::event::{Command, FunctionShape};
use super::query::Query;

/// What one pass has promised.
#[derive(Default)]
struct Pass {
    /// Starting functions that a task waits for.
    claimed: BTreeMap<FunctionShape, usize>,
    claimed_vcpus: u32,
    /// Users with queries that run.
    users: u32,
}

/// One user's place in the pass.
struct UserTurn {
    queries: VecDeque<Turn>,
    /// vCPUs of starting functions that the user's tasks wait for.
    claimed_vcpus: u32,
}

/// One query's place among those of its user.
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

/// What the limits say to one more attempt.
enum More {
    /// It may run.
    Yes,
    /// Not one of this shape.
    NotOfThis,
    /// The query has as many functions as it was sized for.
    No,
}

enum Placement {
    Run(FunctionId),
    /// It waits for the next function of this shape that is ready.
    Claim(FunctionShape),
}

impl Scheduler {
    /// Gives waiting tasks to functions, starting functions where that is worth it.
    pub(super) fn assign(&mut self) {
        self.autoscaler.next_try_ms = None;
        let mut pass = Pass { users: self.admission.active_users() as u32, ..Pass::default() };
        self.running.values_mut().for_each(|query| query.note_ready(self.now_ms));
        if self.pool.is_full() {
            return;
        }
        let mut users = self.turns();
        // Where all functions work and no host has room, nothing is placed whoever asks.
        while !self.pool.is_full()
            && let Some(mut user) = users.pop_front()
        {
            if self.serve_user(&mut user, &mut pass) {
                users.push_back(user);
            }
        }
    }

    /// Users and their queries in the order in which they are served.
    fn turns(&self) -> VecDeque<UserTurn> {
        let mut order: Vec<_> = self.running.values().map(|query| (query.turn, query.id)).collect();
        order.sort_unstable();
        let mut users: BTreeMap<&Arc<str>, VecDeque<Turn>> = BTreeMap::new();
        for query in order.into_iter().filter_map(|(_, query)| self.running.get(&query)) {
            let stages = query.ready_stages(self.now_ms, self.limits.runtime_filter_wait_ms);
            let stages: VecDeque<_> = stages.map(|stage| StageTurn { stage, next: 0, claimed: 0 }).collect();
            if !stages.is_empty() {
                users.entry(&query.user).or_default().push_back(Turn { query: query.id, stages, claimed: 0 });
            }
        }
        let served = |(user, queries): (&Arc<str>, _)| (self.admission.served(user), queries);
        let mut users: Vec<_> = users.into_iter().map(served).collect();
        users.sort_by_key(|(served, _)| *served);
        users.into_iter().map(|(_, queries)| UserTurn { queries, claimed_vcpus: 0 }).collect()
    }

    /// Places one task of the user's queries; false when nothing is left for them in this pass.
    fn serve_user(&mut self, user: &mut UserTurn, pass: &mut Pass) -> bool {
        while let Some(mut turn) = user.queries.pop_front() {
            if self.serve(&mut turn, &mut user.claimed_vcpus, pass) {
                user.queries.push_back(turn);
                return true;
            }
        }
        false
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
        query.early_starts().find_map(|(stage, task)| {
            let at = &query.stages[stage as usize];
            let is_wanted = |f: &FunctionId| self.pool.has_vcpus_for(*f) && !at.used.contains(f);
            Some((stage, task, self.pool.best(at.shape, self.preferred_host(query, stage, task), is_wanted)?))
        })
    }

    /// Places one task of the query; false when nothing is left for it in this pass.
    fn serve(&mut self, turn: &mut Turn, claimed_vcpus: &mut u32, pass: &mut Pass) -> bool {
        while let Some(stage) = turn.stages.front().copied() {
            let Some(query) = self.running.get(&turn.query) else { return false };
            let shape = query.stages[stage.stage as usize].shape;
            match self.may_run_more(query, shape, turn.claimed, *claimed_vcpus, pass) {
                More::Yes => {}
                More::No => return false,
                More::NotOfThis => {
                    turn.stages.pop_front();
                    continue;
                }
            }
            let task = query.stages[stage.stage as usize].pending.range(stage.next..).next().copied();
            let placed = task.and_then(|task| Some((task, self.place(turn, stage, task, pass)?)));
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
                    *claimed_vcpus += shape.vcpus;
                    *pass.claimed.entry(shape).or_default() += 1;
                }
            }
            return true;
        }
        false
    }

    /// The query's own limit, and the machines'. A query that runs nothing may always start one attempt, so a long query never
    /// keeps a short one waiting. The queries of a user may run on that user's share of the vCPUs, so one that runs many
    /// queries, each of which may start one attempt, leaves that much to others.
    fn may_run_more(
        &self,
        query: &Query,
        shape: FunctionShape,
        claimed: usize,
        claimed_vcpus: u32,
        pass: &Pass,
    ) -> More {
        let (at_once, vcpus) = (query.running + claimed, shape.vcpus);
        if at_once == 0 {
            return More::Yes;
        }
        if at_once >= query.functions {
            return More::No;
        }
        let all = self.pool.total_vcpus();
        let limit = all.max(vcpus.saturating_mul(query.functions as u32));
        let used = self.pool.running_vcpus() + pass.claimed_vcpus;
        let of_user = self.pool.running_vcpus_of(&query.user) + claimed_vcpus;
        let is_within = used.saturating_add(vcpus) <= limit
            || (pass.users > 1 && of_user.saturating_add(vcpus) <= all / pass.users);
        if is_within { More::Yes } else { More::NotOfThis }
    }

    /// Where the task goes; `None` when it, and so its stage, waits.
    fn place(&mut self, turn: &Turn, at: StageTurn, task: u32, pass: &Pass) -> Option<Placement> {
        let query = self.running.get(&turn.query)?;
        let (id, stage) = (query.id, &query.stages[at.stage as usize]);
        let (shape, task_id, task) = (stage.shape, task, &stage.tasks[task as usize]);
        let distinct = query.functions.min(stage.tasks.len());
        let is_fresh = |function: &FunctionId| !stage.used.contains(function);
        let is_spread = task.is_retry() || stage.used.len() + at.claimed >= distinct;
        let is_other = |function: &FunctionId| Some(*function) != task.last_function;
        let asker = Asker { user: Arc::clone(&query.user), runs_nothing: query.running + turn.claimed == 0 };

        let preferred = self.preferred_host(query, at.stage, task_id);
        let has_unclaimed = self.pool.starting(shape) > pass.claimed.get(&shape).copied().unwrap_or(0);
        let most_failed = self.most_failed_starts();
        let is_crowded = |function: &FunctionId| self.pool.is_crowded(*function, most_failed);
        let best = |preferred: Option<HostId>| {
            let fresh = self.pool.best(shape, preferred, is_fresh);
            fresh.or_else(|| self.pool.best(shape, preferred, is_other).filter(|_| is_spread))
        };
        let found = match best(preferred) {
            // One on the host that does the least, then.
            Some(crowded) if is_crowded(&crowded) => best(None).filter(|other| !is_crowded(other)).or(Some(crowded)),
            found => found,
        };
        if let Some(function) = found {
            let is_better = |host| self.pool.host_of(function) != Some(host) && self.pool.is_starting_on(shape, host);
            if has_unclaimed && preferred.is_some_and(is_better) {
                return Some(Placement::Claim(shape));
            }
            let is_crowded = is_crowded(&function);
            let starts = |this: &mut Self| this.start_function(shape, preferred, &asker) == Start::Started;
            let goes_elsewhere = is_crowded && (has_unclaimed || starts(self));
            return Some(if goes_elsewhere { Placement::Claim(shape) } else { Placement::Run(function) });
        }
        if has_unclaimed {
            return Some(Placement::Claim(shape));
        }
        let own = || query.used.iter().filter(|function| self.pool.is(**function, shape));
        let has_all = query.used.len() >= query.functions && own().count() >= query.functions;
        if has_all && own().any(|function| self.pool.runs_for(*function, id) && is_fresh(function)) {
            return None;
        }
        // Who has as many functions as a user may have gets none of others when these are free.
        let most = self.limits.max_functions_per_user;
        let is_at_limit = most > 0 && self.pool.owned_by(&query.user) >= most;
        let may_come = |function: FunctionId| {
            is_fresh(&function) && (!is_at_limit || self.pool.is_owned_by(function, &query.user))
        };
        let waits_for_busy = || !is_spread && self.pool.running(shape).any(may_come);
        let last_resort = self.pool.idle(shape).next().filter(|_| !waits_for_busy());
        match (self.start_function(shape, preferred, &asker), last_resort) {
            (Start::Started, _) => Some(Placement::Claim(shape)),
            (Start::NotNow(_), Some(function)) => Some(Placement::Run(function)),
            (Start::NotNow(at_ms), None) => {
                self.autoscaler.wait_until(at_ms);
                None
            }
        }
    }

    /// Where a task would best run. Tasks of scans go by turns, so that the same part of a table meets the same host, and its
    /// cached columns, again. A task that reads everything goes where most of it lies.
    fn preferred_host(&self, query: &Query, stage: u32, task: u32) -> Option<HostId> {
        let stage = &query.stages[stage as usize];
        if stage.inputs.is_empty() || !stage.may_coalesce {
            let hosts = self.pool.hosts(stage.shape.class);
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
        self.admission.serve(&query.user, self.turn);
        let user = Arc::clone(&query.user);
        let command = query.begin(stage, task, function, &self.limits);
        if let Command::RunAttempt { attempt, .. } = &command {
            self.pool.run(function, *attempt, &user);
        }
        self.commands.push(command);
    }
}
