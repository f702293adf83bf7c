//! Functions: who is alive, who is free, who may be started where.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onward_wire::{AttemptId, FunctionId, HostId, QueryId};

use super::event::FunctionShape;
use super::hosts::{Host, Hosts};

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

#[derive(Clone, Debug)]
struct Function {
    host: HostId,
    shape: FunctionShape,
    activity: Activity,
    /// When it said hello.
    ready_ms: u64,
    /// It takes no task any more.
    is_old: bool,
    /// The user it was started for, or whose task it ran last; none for one that is kept warm and ran nothing.
    owner: Option<Arc<str>>,
}

/// The age from which on a function takes no task: the last quarter of its life.
fn old_after(lifetime_ms: u64) -> u64 {
    lifetime_ms - lifetime_ms / 4
}

/// Functions of one shape, by what they do.
#[derive(Debug, Default)]
struct ShapeIndex {
    starting: BTreeSet<FunctionId>,
    /// Those that take tasks.
    free: BTreeMap<HostId, BTreeSet<FunctionId>>,
    idle: BTreeSet<(u64, FunctionId)>,
    running: BTreeSet<FunctionId>,
    /// Those that are not old.
    young: usize,
}

/// What a user has of functions.
#[derive(Debug, Default)]
struct Owned {
    functions: usize,
    running_vcpus: u32,
    idle: BTreeSet<(u64, FunctionId)>,
}

/// All functions that are alive or starting. Iteration is by id, so the oldest idle function is reused first and the
/// others age out.
#[derive(Debug, Default)]
pub(super) struct Pool {
    hosts: Hosts,
    functions: BTreeMap<FunctionId, Function>,
    last_id: u64,
    running_vcpus: u32,
    idle: usize,
    // The rest can be told from `functions`, and is here so that no question has to look at all of them.
    shapes: BTreeMap<FunctionShape, ShapeIndex>,
    owners: BTreeMap<Arc<str>, Owned>,
    /// By when they said hello.
    young: BTreeSet<(u64, FunctionId)>,
    old: BTreeSet<(u64, FunctionId)>,
    ending: BTreeSet<(u64, FunctionId)>,
}

impl Pool {
    /// A host joined.
    pub(super) fn add_host(&mut self, id: HostId, host: Host) {
        self.hosts.insert(id, host);
    }

    /// A host is gone; its functions, and what they did.
    pub(super) fn remove_host(&mut self, host: HostId) -> Vec<(FunctionId, Activity)> {
        let there: Vec<_> = self.on(host).collect();
        let lost = there.into_iter().filter_map(|function| Some((function, self.remove(function)?))).collect();
        self.hosts.remove(host);
        lost
    }

    /// Nothing new is given to a host. What its functions run may end.
    pub(super) fn drain_host(&mut self, host: HostId) {
        self.hosts.drain(host);
        for function in self.on(host).collect::<Vec<_>>() {
            self.change(function, |function| function.is_old = true);
        }
    }

    /// A host without functions, of whose output nothing is needed, is let go.
    pub(super) fn let_go(&mut self, host: HostId) {
        self.hosts.let_go(host);
    }

    /// Hosts that are given nothing new and were not let go, and how many functions they have.
    pub(super) fn draining(&self) -> impl Iterator<Item = (HostId, usize)> + '_ {
        self.hosts.draining().map(|(id, host)| (id, host.functions))
    }

    /// Functions on `host` that have nothing to do.
    pub(super) fn idle_on(&self, host: HostId) -> impl Iterator<Item = FunctionId> + '_ {
        let is_idle = |function: &FunctionId| matches!(self.functions[function].activity, Activity::Idle { .. });
        self.on(host).filter(is_idle)
    }

    /// Functions on `host`, in any state.
    pub(super) fn functions_on(&self, host: HostId) -> usize {
        self.hosts.get(host).map_or(0, |host| host.functions)
    }

    fn on(&self, host: HostId) -> impl Iterator<Item = FunctionId> + '_ {
        self.functions.iter().filter(move |(_, function)| function.host == host).map(|(id, _)| *id)
    }

    /// A function did not start on `host`.
    pub(super) fn start_failed(&mut self, host: HostId) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.failed_starts += 1;
        }
    }

    /// Starts are tried again everywhere.
    pub(super) fn forgive(&mut self) {
        self.hosts.forgive();
    }

    /// Starts that failed in a row on the host where the fewest did, of those that offer `class`.
    pub(super) fn failed_starts(&self, class: u16) -> u32 {
        self.hosts.usable(class).map(|(_, host)| host.failed_starts).min().unwrap_or(0)
    }

    /// Hosts that functions of `class` are placed on, by id.
    pub(super) fn hosts(&self, class: u16) -> impl Iterator<Item = HostId> + '_ {
        self.hosts.usable(class).map(|(id, _)| id)
    }

    /// vCPUs of the largest host that offers `class`; `None` when none does.
    pub(super) fn most_vcpus(&self, class: u16) -> Option<u32> {
        self.hosts.usable(class).map(|(_, host)| host.vcpus).max()
    }

    /// vCPUs of all hosts.
    pub(super) fn total_vcpus(&self) -> u32 {
        self.hosts.total_vcpus()
    }

    /// No host has room, and nothing is idle that could make room.
    pub(super) fn is_full(&self) -> bool {
        self.idle == 0 && self.functions.len() >= self.hosts.capacity()
    }

    /// Functions alive or starting.
    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }

    /// Those that have nothing to do.
    pub(super) fn idle_functions(&self) -> usize {
        self.idle
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

    /// vCPUs of the functions that run an attempt of `user`.
    pub(super) fn running_vcpus_of(&self, user: &str) -> u32 {
        self.owners.get(user).map_or(0, |owned| owned.running_vcpus)
    }

    /// Functions of `user`, in any state.
    pub(super) fn owned_by(&self, user: &str) -> usize {
        self.owners.get(user).map_or(0, |owned| owned.functions)
    }

    /// For whom a function was started, or whose task it ran last.
    pub(super) fn owner_of(&self, function: FunctionId) -> Option<Arc<str>> {
        self.functions.get(&function)?.owner.clone()
    }

    pub(super) fn is_owned_by(&self, function: FunctionId, user: &str) -> bool {
        self.functions.get(&function).is_some_and(|function| function.owner.as_deref() == Some(user))
    }

    /// Idle functions of `user` that have another shape, the one that is idle the longest first, and since when.
    pub(super) fn idle_of(&self, user: &str, except: FunctionShape) -> impl Iterator<Item = (u64, FunctionId)> + '_ {
        let is_other = move |(_, id): &(u64, FunctionId)| !self.is(*id, except);
        self.owners.get(user).into_iter().flat_map(|owned| owned.idle.iter().copied()).filter(is_other)
    }

    fn shape(&self, shape: FunctionShape) -> Option<&ShapeIndex> {
        self.shapes.get(&shape)
    }

    /// Functions of this shape are there, in any state.
    pub(super) fn has(&self, shape: FunctionShape) -> bool {
        self.shapes.contains_key(&shape)
    }

    /// Functions of this shape that start, or may take tasks.
    pub(super) fn young(&self, shape: FunctionShape) -> usize {
        self.shape(shape).map_or(0, |index| index.young)
    }

    /// `function` is there and has this shape.
    pub(super) fn is(&self, function: FunctionId, shape: FunctionShape) -> bool {
        self.functions.get(&function).is_some_and(|function| function.shape == shape)
    }

    /// Those that may take a task, by host.
    pub(super) fn idle(&self, shape: FunctionShape) -> impl Iterator<Item = FunctionId> + '_ {
        self.shape(shape).into_iter().flat_map(|index| index.free.values().flatten().copied())
    }

    /// Of each shape the function that is idle the longest, and since when.
    pub(super) fn longest_idle(&self) -> impl Iterator<Item = (FunctionShape, u64, FunctionId)> + '_ {
        self.shapes.iter().filter_map(|(shape, index)| {
            let (since_ms, function) = *index.idle.first()?;
            Some((*shape, since_ms, function))
        })
    }

    /// The function that was told to stop its attempt, or should have, the longest ago.
    pub(super) fn first_ending(&self) -> Option<(u64, FunctionId)> {
        self.ending.first().copied()
    }

    /// Notes which functions take no more tasks because of their age. Those that are to go now: they do nothing, or are past
    /// `lifetime_ms`.
    pub(super) fn age(&mut self, now_ms: u64, lifetime_ms: u64) -> Vec<(FunctionId, Activity)> {
        let is_past = |ready_ms: u64, age_ms: u64| ready_ms.saturating_add(age_ms) <= now_ms;
        while let Some((_, id)) = self.young.first().copied().filter(|(at, _)| is_past(*at, old_after(lifetime_ms))) {
            self.change(id, |function| function.is_old = true);
        }
        let old = self.old.iter().filter_map(|(ready_ms, id)| {
            let activity = self.functions.get(id)?.activity;
            let is_over = matches!(activity, Activity::Idle { .. }) || is_past(*ready_ms, lifetime_ms);
            is_over.then_some((*id, activity))
        });
        old.collect()
    }

    /// When [`Pool::age`] has something to say next.
    pub(super) fn next_age(&self, lifetime_ms: u64) -> Option<u64> {
        let young = self.young.first().map(|(ready_ms, _)| ready_ms.saturating_add(old_after(lifetime_ms)));
        let old = self.old.first().map(|(ready_ms, _)| ready_ms.saturating_add(lifetime_ms));
        young.into_iter().chain(old).min()
    }

    /// The best of the free functions of `shape` that `is_wanted`: on the host that is preferred, else on the one that does
    /// the least, else the oldest.
    pub(super) fn best(
        &self,
        shape: FunctionShape,
        preferred: Option<HostId>,
        is_wanted: impl Fn(&FunctionId) -> bool,
    ) -> Option<FunctionId> {
        let hosts = self.shape(shape)?.free.iter().filter_map(|(host, free)| {
            let function = free.iter().find(|function| is_wanted(function))?;
            Some((Some(*host) != preferred, self.hosts.get(*host).map(|host| host.running_vcpus), *function))
        });
        hosts.min().map(|(.., function)| function)
    }

    /// `function` would have to share its host's vCPUs, and another host has some to spare and room for a function.
    pub(super) fn is_crowded(&self, function: FunctionId, most_failed: u32) -> bool {
        let Some(Function { host, shape, .. }) = self.functions.get(&function) else { return false };
        let is_full = self.hosts.get(*host).is_some_and(|host| !host.has_vcpus(*shape));
        is_full && self.hosts.usable(shape.class).any(|(_, host)| host.has_vcpus(*shape) && host.has_room(most_failed))
    }

    /// Its host and all hosts together have vCPUs for what `function` would run.
    pub(super) fn has_vcpus_for(&self, function: FunctionId) -> bool {
        let Some(Function { host, shape, .. }) = self.functions.get(&function) else { return false };
        self.hosts.get(*host).is_some_and(|host| host.has_vcpus(*shape))
            && self.running_vcpus.saturating_add(shape.vcpus) <= self.total_vcpus()
    }

    /// Functions of this shape that run an attempt.
    pub(super) fn running(&self, shape: FunctionShape) -> impl Iterator<Item = FunctionId> + '_ {
        self.shape(shape).into_iter().flat_map(|index| index.running.iter().copied())
    }

    /// `function` runs an attempt of `query`.
    pub(super) fn runs_for(&self, function: FunctionId, query: QueryId) -> bool {
        let activity = self.functions.get(&function).map(|function| function.activity);
        matches!(activity, Some(Activity::Running { attempt, .. }) if attempt.query() == query)
    }

    pub(super) fn starting(&self, shape: FunctionShape) -> usize {
        self.shape(shape).map_or(0, |index| index.starting.len())
    }

    /// A function of this shape starts on `host`.
    pub(super) fn is_starting_on(&self, shape: FunctionShape, host: HostId) -> bool {
        let starting = self.shape(shape).into_iter().flat_map(|index| &index.starting);
        starting.into_iter().any(|function| self.host_of(*function) == Some(host))
    }

    /// There is room for a function of `class`, once those that are `leaving` have left.
    pub(super) fn has_room(&self, class: u16, most_failed: u32, leaving: &[FunctionId]) -> bool {
        let left = leaving.iter().filter_map(|function| self.host_of(*function));
        let mut left = left.filter(|host| self.hosts.is_usable(*host, class));
        let starts = |host: HostId| self.hosts.get(host).is_some_and(|host| host.failed_starts < most_failed);
        left.any(starts) || self.hosts.usable(class).any(|(_, host)| host.has_room(most_failed))
    }

    /// Adds a function of `shape`, on the host that is preferred if there is room, else on the one that does the least. `None`
    /// when there is no room.
    pub(super) fn start(
        &mut self,
        shape: FunctionShape,
        preferred: Option<HostId>,
        most_failed: u32,
        owner: Option<Arc<str>>,
    ) -> Option<(FunctionId, HostId)> {
        let with_room = self.hosts.usable(shape.class).filter(|(_, host)| host.has_room(most_failed));
        let best = with_room.map(|(id, host)| {
            let is_full = host.busy_vcpus().saturating_add(shape.vcpus) > host.vcpus;
            (is_full, Some(id) != preferred, host.busy_vcpus(), host.functions, id)
        });
        let (.., host) = best.min()?;
        self.last_id += 1;
        let id = FunctionId(self.last_id);
        let function = Function { host, shape, activity: Activity::Starting, ready_ms: 0, is_old: false, owner };
        if let Some(host) = self.hosts.get_mut(host) {
            host.functions += 1;
        }
        self.index(id, &function);
        self.functions.insert(id, function);
        Some((id, host))
    }

    /// Of the functions with another shape than this, on hosts where one of this shape may start, the one that is idle the
    /// longest, and since when.
    pub(super) fn longest_idle_except(
        &self,
        shape: FunctionShape,
        most_failed: u32,
        except: &[FunctionId],
    ) -> Option<(u64, FunctionId)> {
        let may_start = |function: FunctionId| {
            let host = self.host_of(function).filter(|host| self.hosts.is_usable(*host, shape.class));
            host.and_then(|host| self.hosts.get(host)).is_some_and(|host| host.failed_starts < most_failed)
        };
        let others = self.shapes.iter().filter(|(other, _)| **other != shape);
        let wanted = |(_, index): (_, &ShapeIndex)| {
            index.idle.iter().find(|(_, id)| !except.contains(id) && may_start(*id)).copied()
        };
        others.filter_map(wanted).min()
    }

    /// A starting function said hello; false when it is not one.
    pub(super) fn ready(&mut self, function: FunctionId, now_ms: u64) -> bool {
        let Some(known) = self.functions.get(&function) else { return false };
        if known.activity != Activity::Starting {
            return false;
        }
        if let Some(host) = self.hosts.get_mut(known.host) {
            host.failed_starts = 0;
        }
        self.change(function, |function| {
            (function.activity, function.ready_ms) = (Activity::Idle { since_ms: now_ms }, now_ms);
        });
        true
    }

    /// An idle function runs `attempt` for `user`.
    pub(super) fn run(&mut self, function: FunctionId, attempt: AttemptId, user: &Arc<str>) {
        self.change(function, |function| {
            debug_assert!(matches!(function.activity, Activity::Idle { .. }), "one attempt at a time");
            function.activity = Activity::Running { attempt, ending_ms: None };
            function.owner = Some(Arc::clone(user));
        });
    }

    /// `function` runs `attempt` no more; nothing when it did not.
    pub(super) fn finish(&mut self, function: FunctionId, attempt: AttemptId, now_ms: u64) {
        self.change(function, |function| {
            if matches!(function.activity, Activity::Running { attempt: running, .. } if running == attempt) {
                function.activity = Activity::Idle { since_ms: now_ms };
            }
        });
    }

    /// `attempt` shall end, or has failed, and runs on in `function`; nothing when it does not.
    pub(super) fn end(&mut self, function: FunctionId, attempt: AttemptId, now_ms: u64) {
        self.change(function, |function| {
            if let Activity::Running { attempt: running, ending_ms } = &mut function.activity
                && *running == attempt
            {
                ending_ms.get_or_insert(now_ms);
            }
        });
    }

    /// The function is gone; what it did, `None` when it was unknown.
    pub(super) fn remove(&mut self, function: FunctionId) -> Option<Activity> {
        let removed = self.functions.remove(&function)?;
        self.forget(function, &removed);
        if let Some(host) = self.hosts.get_mut(removed.host) {
            host.functions -= 1;
        }
        Some(removed.activity)
    }

    fn change(&mut self, id: FunctionId, change: impl FnOnce(&mut Function)) {
        let Some(mut function) = self.functions.remove(&id) else { return };
        self.forget(id, &function);
        change(&mut function);
        self.index(id, &function);
        self.functions.insert(id, function);
    }

    fn index(&mut self, id: FunctionId, function: &Function) {
        let Function { host, shape, activity, ready_ms, is_old, owner } = function;
        let index = self.shapes.entry(*shape).or_default();
        index.young += usize::from(!is_old);
        let mut owned = owner.as_ref().map(|owner| self.owners.entry(Arc::clone(owner)).or_default());
        if let Some(owned) = &mut owned {
            owned.functions += 1;
        }
        match activity {
            Activity::Starting => {
                index.starting.insert(id);
            }
            Activity::Idle { since_ms } => {
                index.idle.insert((*since_ms, id));
                if !is_old {
                    index.free.entry(*host).or_default().insert(id);
                }
                if let Some(owned) = owned {
                    owned.idle.insert((*since_ms, id));
                }
                self.idle += 1;
            }
            Activity::Running { ending_ms, .. } => {
                index.running.insert(id);
                self.running_vcpus += shape.vcpus;
                if let Some(owned) = owned {
                    owned.running_vcpus += shape.vcpus;
                }
                self.ending.extend(ending_ms.map(|ending_ms| (ending_ms, id)));
            }
        }
        if *activity != Activity::Starting {
            if *is_old { &mut self.old } else { &mut self.young }.insert((*ready_ms, id));
        }
        if let Some(host) = self.hosts.get_mut(*host) {
            match activity {
                Activity::Starting => host.starting_vcpus += shape.vcpus,
                Activity::Idle { .. } => {}
                Activity::Running { .. } => host.running_vcpus += shape.vcpus,
            }
        }
    }

    /// Takes back what [`Self::index`] noted.
    fn forget(&mut self, id: FunctionId, function: &Function) {
        let Function { host, shape, activity, ready_ms, is_old, owner } = function;
        if let Some(index) = self.shapes.get_mut(shape) {
            index.young -= usize::from(!is_old);
            index.starting.remove(&id);
            index.running.remove(&id);
            if let Activity::Idle { since_ms } = activity {
                index.idle.remove(&(*since_ms, id));
            }
            if let Some(free) = index.free.get_mut(host)
                && free.remove(&id)
                && free.is_empty()
            {
                index.free.remove(host);
            }
            if index.starting.len() + index.running.len() + index.idle.len() == 0 {
                self.shapes.remove(shape);
            }
        }
        let vcpus = if matches!(activity, Activity::Running { .. }) { shape.vcpus } else { 0 };
        if let Some(owner) = owner
            && let Some(owned) = self.owners.get_mut(owner)
        {
            owned.functions -= 1;
            owned.running_vcpus -= vcpus;
            if let Activity::Idle { since_ms } = activity {
                owned.idle.remove(&(*since_ms, id));
            }
            if owned.functions == 0 {
                self.owners.remove(owner);
            }
        }
        self.running_vcpus -= vcpus;
        self.idle -= usize::from(matches!(activity, Activity::Idle { .. }));
        if let Activity::Running { ending_ms: Some(ending_ms), .. } = activity {
            self.ending.remove(&(*ending_ms, id));
        }
        if *is_old { &mut self.old } else { &mut self.young }.remove(&(*ready_ms, id));
        if let Some(host) = self.hosts.get_mut(*host) {
            host.running_vcpus -= vcpus;
            host.starting_vcpus -= if *activity == Activity::Starting { shape.vcpus } else { 0 };
        }
    }
}
