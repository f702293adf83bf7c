//! Functions and hosts: who is alive, who is free, who may be started where.

use std::collections::BTreeMap;

use onward_wire::{AttemptId, FunctionId, HostId};

use super::event::FunctionShape;

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It was asked for and has not said hello.
    Starting,
    /// Nothing, since then.
    Idle { since_ms: u64 },
    /// It runs one attempt; `ending_ms` is set when that was told to stop, or has failed and not stopped yet.
    Running { attempt: AttemptId, ending_ms: Option<u64> },
}

#[derive(Debug)]
struct Function {
    host: HostId,
    shape: FunctionShape,
    activity: Activity,
    /// When it said hello.
    ready_ms: u64,
    /// It takes no task any more.
    is_old: bool,
}

/// The age from which on a function takes no task: the last quarter of its life.
fn old_after(lifetime_ms: u64) -> u64 {
    lifetime_ms - lifetime_ms / 4
}

/// A host that functions run on.
#[derive(Debug)]
struct Host {
    vcpus: u32,
    max_functions: usize,
    /// Used while there is no other.
    is_reserve: bool,
    functions: usize,
    running_vcpus: u32,
    /// Starts that failed in a row.
    failed_starts: u32,
}

impl Host {
    /// One more function may be started here, where fewer than `most_failed` starts in a row failed.
    fn has_room(&self, most_failed: u32) -> bool {
        self.failed_starts < most_failed && self.functions < self.max_functions
    }
}

/// All functions that are alive or starting. Iteration is by id, so the oldest idle function is reused first and the
/// others age out.
#[derive(Debug, Default)]
pub(super) struct Pool {
    hosts: BTreeMap<HostId, Host>,
    functions: BTreeMap<FunctionId, Function>,
    last_id: u64,
    running_vcpus: u32,
}

impl Pool {
    /// A host joined.
    pub(super) fn add_host(&mut self, host: HostId, vcpus: u32, max_functions: usize, is_reserve: bool) {
        let max_functions = max_functions.max(1);
        self.hosts
            .insert(host, Host { vcpus, max_functions, is_reserve, functions: 0, running_vcpus: 0, failed_starts: 0 });
    }

    /// A host is gone; its functions, and what they did.
    pub(super) fn remove_host(&mut self, host: HostId) -> Vec<(FunctionId, Activity)> {
        let there: Vec<_> =
            self.functions.iter().filter(|(_, function)| function.host == host).map(|(id, _)| *id).collect();
        let lost = there.into_iter().filter_map(|function| Some((function, self.remove(function)?))).collect();
        self.hosts.remove(&host);
        lost
    }

    /// A function did not start on `host`.
    pub(super) fn start_failed(&mut self, host: HostId) {
        if let Some(host) = self.hosts.get_mut(&host) {
            host.failed_starts += 1;
        }
    }

    /// Starts are tried again everywhere.
    pub(super) fn forgive(&mut self) {
        self.hosts.values_mut().for_each(|host| host.failed_starts = 0);
    }

    /// Starts that failed in a row on the host where the fewest did.
    pub(super) fn failed_starts(&self) -> u32 {
        self.usable().map(|(_, host)| host.failed_starts).min().unwrap_or(0)
    }

    /// Hosts that functions are placed on, by id.
    pub(super) fn hosts(&self) -> impl Iterator<Item = HostId> + '_ {
        self.usable().map(|(id, _)| id)
    }

    fn usable(&self) -> impl Iterator<Item = (HostId, &Host)> + '_ {
        let has_others = self.hosts.values().any(|host| !host.is_reserve);
        self.hosts.iter().filter(move |(_, host)| !(host.is_reserve && has_others)).map(|(id, host)| (*id, host))
    }

    /// vCPUs of all hosts.
    pub(super) fn total_vcpus(&self) -> u32 {
        self.usable().fold(0, |sum, (_, host)| sum.saturating_add(host.vcpus))
    }

    /// vCPUs of the functions that run an attempt on a host.
    fn running_vcpus_on(&self, host: HostId) -> u32 {
        self.hosts.get(&host).map_or(0, |host| host.running_vcpus)
    }

    pub(super) fn host_of(&self, function: FunctionId) -> Option<HostId> {
        self.functions.get(&function).map(|function| function.host)
    }

    pub(super) fn contains(&self, function: FunctionId) -> bool {
        self.functions.contains_key(&function)
    }

    /// vCPUs of the functions that run an attempt.
    pub(super) fn running_vcpus(&self) -> u32 {
        self.running_vcpus
    }

    pub(super) fn activities(&self) -> impl Iterator<Item = (FunctionId, FunctionShape, Activity)> + '_ {
        self.functions.iter().map(|(id, function)| (*id, function.shape, function.activity))
    }

    /// Functions of this shape, in any state.
    pub(super) fn has(&self, shape: FunctionShape) -> bool {
        self.functions.values().any(|function| function.shape == shape)
    }

    /// Those that may take a task.
    pub(super) fn idle(&self, shape: FunctionShape) -> impl Iterator<Item = FunctionId> + '_ {
        let is_free = move |function: &Function| {
            function.shape == shape && !function.is_old && matches!(function.activity, Activity::Idle { .. })
        };
        self.functions.iter().filter(move |(_, function)| is_free(function)).map(|(id, _)| *id)
    }

    /// Notes which functions take no more tasks because of their age. Those that are to go now: they do nothing, or are past
    /// `lifetime_ms`.
    pub(super) fn age(&mut self, now_ms: u64, lifetime_ms: u64) -> Vec<(FunctionId, Activity)> {
        let mut over = Vec::new();
        for (id, function) in &mut self.functions {
            if function.activity == Activity::Starting {
                continue;
            }
            let age_ms = now_ms - function.ready_ms;
            function.is_old |= age_ms >= old_after(lifetime_ms);
            let is_idle = matches!(function.activity, Activity::Idle { .. });
            if function.is_old && is_idle || age_ms >= lifetime_ms {
                over.push((*id, function.activity));
            }
        }
        over
    }

    /// When [`Pool::age`] has something to say next.
    pub(super) fn next_age(&self, lifetime_ms: u64) -> Option<u64> {
        let known = self.functions.values().filter(|function| function.activity != Activity::Starting);
        let due = |function: &Function| if function.is_old { lifetime_ms } else { old_after(lifetime_ms) };
        known.map(|function| function.ready_ms.saturating_add(due(function))).min()
    }

    /// The best of some functions: on the host that is preferred, else on the one that does the least, else the oldest.
    pub(super) fn best(
        &self,
        functions: impl Iterator<Item = FunctionId>,
        preferred: Option<HostId>,
    ) -> Option<FunctionId> {
        functions.min_by_key(|function| {
            let host = self.host_of(*function);
            (host != preferred, host.map(|host| self.running_vcpus_on(host)), *function)
        })
    }

    /// `function` would have to share its host's vCPUs, and another host has some to spare and room for a function.
    pub(super) fn is_crowded(&self, function: FunctionId, most_failed: u32) -> bool {
        let Some(Function { host, shape, .. }) = self.functions.get(&function) else { return false };
        let has_vcpus = |host: &Host| host.running_vcpus.saturating_add(shape.vcpus) <= host.vcpus;
        let is_full = self.hosts.get(host).is_some_and(|host| !has_vcpus(host));
        is_full && self.usable().any(|(_, host)| has_vcpus(host) && host.has_room(most_failed))
    }

    /// Its host and all hosts together have vCPUs for what `function` would run.
    pub(super) fn has_vcpus_for(&self, function: FunctionId) -> bool {
        let Some(Function { host, shape, .. }) = self.functions.get(&function) else { return false };
        let is_within = |running: u32, vcpus: u32| running.saturating_add(shape.vcpus) <= vcpus;
        self.hosts.get(host).is_some_and(|host| is_within(host.running_vcpus, host.vcpus))
            && is_within(self.running_vcpus, self.total_vcpus())
    }

    pub(super) fn running(&self, shape: FunctionShape) -> impl Iterator<Item = (FunctionId, AttemptId)> + '_ {
        self.activities().filter(move |(_, s, _)| *s == shape).filter_map(|(id, _, activity)| match activity {
            Activity::Running { attempt, .. } => Some((id, attempt)),
            _ => None,
        })
    }

    pub(super) fn starting(&self, shape: FunctionShape) -> usize {
        self.activities().filter(|(_, s, activity)| *s == shape && *activity == Activity::Starting).count()
    }

    /// A function of this shape starts on `host`.
    pub(super) fn is_starting_on(&self, shape: FunctionShape, host: HostId) -> bool {
        let is_wanted = |f: &Function| f.shape == shape && f.host == host && f.activity == Activity::Starting;
        self.functions.values().any(is_wanted)
    }

    /// Adds a function of `shape`, on the host that is preferred if there is room, else on the one that does the least. At
    /// the limits an idle function of another shape makes room (the last value). `None` when there is no room.
    pub(super) fn start(
        &mut self,
        shape: FunctionShape,
        preferred: Option<HostId>,
        most_failed: u32,
    ) -> Option<(FunctionId, HostId, Option<FunctionId>)> {
        let with_room = self.usable().filter(|(_, host)| host.has_room(most_failed));
        let is_full =
            |id: HostId| self.starting_or_running_vcpus(id).saturating_add(shape.vcpus) > self.hosts[&id].vcpus;
        let best = with_room.map(|(id, host)| {
            (is_full(id), Some(id) != preferred, self.starting_or_running_vcpus(id), host.functions, id)
        });
        let (host, evicted) = match best.min() {
            Some((.., host)) => (host, None),
            None => {
                let evicted = self.longest_idle_except(shape, most_failed)?;
                (self.host_of(evicted)?, Some(evicted))
            }
        };
        if let Some(evicted) = evicted {
            self.remove(evicted);
        }
        self.last_id += 1;
        let id = FunctionId(self.last_id);
        self.functions.insert(id, Function { host, shape, activity: Activity::Starting, ready_ms: 0, is_old: false });
        if let Some(host) = self.hosts.get_mut(&host) {
            host.functions += 1;
        }
        Some((id, host, evicted))
    }

    fn starting_or_running_vcpus(&self, host: HostId) -> u32 {
        let is_busy = |f: &&Function| f.host == host && !matches!(f.activity, Activity::Idle { .. });
        self.functions.values().filter(is_busy).map(|function| function.shape.vcpus).sum()
    }

    fn longest_idle_except(&self, shape: FunctionShape, most_failed: u32) -> Option<FunctionId> {
        let starts = |function: FunctionId| {
            let host = self.host_of(function).and_then(|host| self.hosts.get(&host));
            host.is_some_and(|host| host.failed_starts < most_failed)
        };
        self.activities()
            .filter(|(id, s, _)| *s != shape && starts(*id))
            .filter_map(|(id, _, activity)| match activity {
                Activity::Idle { since_ms } => Some((since_ms, id)),
                _ => None,
            })
            .min()
            .map(|(_, id)| id)
    }

    /// A starting function said hello; false when it is not one.
    pub(super) fn ready(&mut self, function: FunctionId, now_ms: u64) -> bool {
        match self.functions.get_mut(&function) {
            Some(function) if function.activity == Activity::Starting => {
                function.activity = Activity::Idle { since_ms: now_ms };
                function.ready_ms = now_ms;
                if let Some(host) = self.hosts.get_mut(&function.host) {
                    host.failed_starts = 0;
                }
                true
            }
            _ => false,
        }
    }

    /// An idle function runs `attempt`.
    pub(super) fn run(&mut self, function: FunctionId, attempt: AttemptId) {
        if let Some(function) = self.functions.get_mut(&function) {
            debug_assert!(matches!(function.activity, Activity::Idle { .. }), "one attempt at a time");
            function.activity = Activity::Running { attempt, ending_ms: None };
            let (host, vcpus) = (function.host, function.shape.vcpus);
            self.running_vcpus += vcpus;
            if let Some(host) = self.hosts.get_mut(&host) {
                host.running_vcpus += vcpus;
            }
        }
    }

    fn runs_no_more(&mut self, host: HostId, shape: FunctionShape) {
        self.running_vcpus -= shape.vcpus;
        if let Some(host) = self.hosts.get_mut(&host) {
            host.running_vcpus -= shape.vcpus;
        }
    }

    /// `function` runs `attempt` no more; nothing when it did not.
    pub(super) fn finish(&mut self, function: FunctionId, attempt: AttemptId, now_ms: u64) {
        let Some(function) = self.functions.get_mut(&function) else { return };
        if matches!(function.activity, Activity::Running { attempt: running, .. } if running == attempt) {
            function.activity = Activity::Idle { since_ms: now_ms };
            let (host, shape) = (function.host, function.shape);
            self.runs_no_more(host, shape);
        }
    }

    /// `attempt` shall end, or has failed, and runs on in `function`; nothing when it does not.
    pub(super) fn end(&mut self, function: FunctionId, attempt: AttemptId, now_ms: u64) {
        if let Some(Function { activity: Activity::Running { attempt: running, ending_ms }, .. }) =
            self.functions.get_mut(&function)
            && *running == attempt
        {
            ending_ms.get_or_insert(now_ms);
        }
    }

    /// The function is gone; what it did, `None` when it was unknown.
    pub(super) fn remove(&mut self, function: FunctionId) -> Option<Activity> {
        let Function { host, shape, activity, .. } = self.functions.remove(&function)?;
        if matches!(activity, Activity::Running { .. }) {
            self.runs_no_more(host, shape);
        }
        if let Some(host) = self.hosts.get_mut(&host) {
            host.functions -= 1;
        }
        Some(activity)
    }
}
