//! Functions: who is alive, who is free, who may be started where.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onward_wire::{AttemptId, FunctionId, HostId, QueryId};

use super::event::FunctionShape;
use super::free::Free;
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

impl Function {
    /// Whether it takes no task any more, and since when it lives; `None` until it said hello.
    fn age(&self) -> Option<(bool, u64)> {
        (self.activity != Activity::Starting).then_some((self.is_old, self.ready_ms))
    }
}

/// The age from which on a function takes no task: the last quarter of its life.
fn old_after(lifetime_ms: u64) -> u64 {
    lifetime_ms - lifetime_ms / 4
}

/// Functions of one shape, by what they do.
#[derive(Debug, Default)]
struct ShapeIndex {
    functions: usize,
    starting: usize,
    /// How many of those start on a host.
    starting_on: BTreeMap<HostId, usize>,
    /// Those that take tasks.
    free: Free,
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
    /// A host joined. Functions on those that are kept in reserve for want of it take no task any more.
    pub(super) fn add_host(&mut self, id: HostId, host: Host) {
        self.hosts.insert(id, host);
        let is_spared = |function: &Function| !self.hosts.is_usable(function.host, function.shape.class);
        let spared = self.functions.iter().filter(|(_, function)| is_spared(function)).map(|(id, _)| *id);
        for function in spared.collect::<Vec<_>>() {
            self.change(function, |function| function.is_old = true);
        }
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

    /// Functions on `host`, in any state.
    pub(super) fn functions_on(&self, host: HostId) -> usize {
        self.hosts.get(host).map_or(0, |host| host.functions)
    }

    fn on(&self, host: HostId) -> impl Iterator<Item = FunctionId> + '_ {
        self.functions.iter().filter(move |(_, function)| function.host == host).map(|(id, _)| *id)
    }

    /// A function did not start on `host`.
    pub(super) fn start_failed(&mut self, host: HostId) {
        self.hosts.change(host, |host| host.failed_starts += 1);
    }

    /// Starts are tried again everywhere.
    pub(super) fn forgive(&mut self) {
        self.hosts.forgive();
    }

    /// On every host that offers `class` so many starts failed in a row.
    pub(super) fn starts_fail(&self, class: u16, most_failed: u32) -> bool {
        let mut hosts = self.hosts.usable(class).peekable();
        hosts.peek().is_some() && hosts.all(|(_, host)| host.failed_starts >= most_failed)
    }

    /// Starts that failed in a row on the host where the fewest did, of those that offer `class`.
    pub(super) fn failed_starts(&self, class: u16) -> u32 {
        self.hosts.usable(class).map(|(_, host)| host.failed_starts).min().unwrap_or(0)
    }

    /// Hosts that functions of `class` are placed on, by id.
    pub(super) fn hosts(&self, class: u16) -> &[HostId] {
        self.hosts.usable_ids(class)
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
        self.shape(shape).into_iter().flat_map(|index| index.free.iter())
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

    /// Notes which functions take no more tasks because of their age; `None`: they live for ever. Of all that take none, those that are
    /// to go now: they do nothing, or are past `lifetime_ms`.
    pub(super) fn age(&mut self, now_ms: u64, lifetime_ms: Option<u64>) -> Vec<(FunctionId, Activity)> {
        let is_past =
            |ready_ms: u64, age_ms: Option<u64>| age_ms.is_some_and(|age_ms| ready_ms.saturating_add(age_ms) <= now_ms);
        let old_ms = lifetime_ms.map(old_after);
        while let Some((_, id)) = self.young.first().copied().filter(|(ready_ms, _)| is_past(*ready_ms, old_ms)) {
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

    /// The best of the free functions of `shape` that `is_wanted`: see [`Free::best`].
    pub(super) fn best(
        &self,
        shape: FunctionShape,
        preferred: Option<HostId>,
        is_wanted: impl Fn(&FunctionId) -> bool,
    ) -> Option<FunctionId> {
        self.shape(shape)?.free.best(preferred, is_wanted)
    }

    /// `function` would have to share its host's vCPUs, and another host has some to spare and room for a function.
    pub(super) fn is_crowded(&self, function: FunctionId, most_failed: u32) -> bool {
        let Some(Function { host, shape, .. }) = self.functions.get(&function) else { return false };
        let is_full = self.hosts.get(*host).is_some_and(|host| !host.has_vcpus(*shape));
        is_full && self.hosts.with_room(shape.class, most_failed).any(|(_, host)| host.has_vcpus(*shape))
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
        self.shape(shape).map_or(0, |index| index.starting)
    }

    /// A function of this shape starts on `host`.
    pub(super) fn is_starting_on(&self, shape: FunctionShape, host: HostId) -> bool {
        self.shape(shape).is_some_and(|index| index.starting_on.contains_key(&host))
    }

    /// There is room for a function of `class`, once those that are `leaving` have left.
    pub(super) fn has_room(&self, class: u16, most_failed: u32, leaving: &[FunctionId]) -> bool {
        let left = leaving.iter().filter_map(|function| self.host_of(*function));
        let mut left = left.filter(|host| self.hosts.is_usable(*host, class));
        let starts = |host: HostId| self.hosts.get(host).is_some_and(|host| host.failed_starts < most_failed);
        left.any(starts) || self.hosts.with_room(class, most_failed).next().is_some()
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
        let host = self.best_host(shape, preferred, most_failed)?;
        self.last_id += 1;
        let id = FunctionId(self.last_id);
        let function = Function { host, shape, activity: Activity::Starting, ready_ms: 0, is_old: false, owner };
        self.hosts.change(host, |host| host.functions += 1);
        self.index(id, &function);
        self.functions.insert(id, function);
        Some((id, host))
    }

    /// The host for one more function: one that has vCPUs for it, or at least room.
    fn best_host(&self, shape: FunctionShape, preferred: Option<HostId>, most_failed: u32) -> Option<HostId> {
        let with_room = || self.hosts.with_room(shape.class, most_failed);
        let is_spare = |host: &Host| host.busy_vcpus().saturating_add(shape.vcpus) <= host.vcpus;
        let preferred = preferred.filter(|id| self.hosts.is_usable(*id, shape.class)).and_then(|id| {
            let host = self.hosts.get(id).filter(|host| host.has_room(most_failed))?;
            Some((id, host))
        });
        let spare =
            preferred.filter(|(_, host)| is_spare(host)).or_else(|| with_room().find(|(_, host)| is_spare(host)));
        spare.or(preferred).or_else(|| with_room().next()).map(|(id, _)| id)
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
        let host = known.host;
        self.hosts.change(host, |host| host.failed_starts = 0);
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
        self.hosts.change(removed.host, |host| host.functions -= 1);
        Some(removed.activity)
    }

    fn change(&mut self, id: FunctionId, change: impl FnOnce(&mut Function)) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let before = function.clone();
        change(function);
        let after = function.clone();
        if before.age() != after.age() {
            self.forget_age(id, &before);
            self.index_age(id, &after);
        }
        if before.owner != after.owner || before.activity != after.activity || before.is_old != after.is_old {
            self.forget_activity(id, &before);
            self.index_activity(id, &after);
        }
    }

    fn index(&mut self, id: FunctionId, function: &Function) {
        self.index_age(id, function);
        self.index_activity(id, function);
    }

    /// Takes back what [`Self::index`] noted.
    fn forget(&mut self, id: FunctionId, function: &Function) {
        self.forget_age(id, function);
        self.forget_activity(id, function);
    }

    fn index_age(&mut self, id: FunctionId, function: &Function) {
        match function.age() {
            Some((true, ready_ms)) => self.old.insert((ready_ms, id)),
            Some((false, ready_ms)) => self.young.insert((ready_ms, id)),
            None => false,
        };
    }

    fn forget_age(&mut self, id: FunctionId, function: &Function) {
        match function.age() {
            Some((true, ready_ms)) => self.old.remove(&(ready_ms, id)),
            Some((false, ready_ms)) => self.young.remove(&(ready_ms, id)),
            None => false,
        };
    }

    fn index_activity(&mut self, id: FunctionId, function: &Function) {
        let Function { host, shape, activity, is_old, owner, .. } = function;
        let index = self.shapes.entry(*shape).or_default();
        index.functions += 1;
        index.young += usize::from(!is_old);
        let mut owned = owner.as_ref().map(|owner| self.owners.entry(Arc::clone(owner)).or_default());
        if let Some(owned) = &mut owned {
            owned.functions += 1;
        }
        match activity {
            Activity::Starting => {
                index.starting += 1;
                *index.starting_on.entry(*host).or_default() += 1;
                self.load(*host, |host| host.starting_vcpus += shape.vcpus);
            }
            Activity::Idle { since_ms } => {
                index.idle.insert((*since_ms, id));
                if !is_old {
                    let running_vcpus = self.hosts.get(*host).map_or(0, |host| host.running_vcpus);
                    index.free.insert(*host, running_vcpus, id);
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
                self.load(*host, |host| host.running_vcpus += shape.vcpus);
            }
        }
    }

    fn forget_activity(&mut self, id: FunctionId, function: &Function) {
        let Function { host, shape, activity, is_old, owner, .. } = function;
        if let Some(index) = self.shapes.get_mut(shape) {
            index.functions -= 1;
            index.young -= usize::from(!is_old);
            match activity {
                Activity::Starting => {
                    index.starting -= 1;
                    if let Some(starting) = index.starting_on.get_mut(host) {
                        *starting -= 1;
                        if *starting == 0 {
                            index.starting_on.remove(host);
                        }
                    }
                }
                Activity::Idle { since_ms } => {
                    index.idle.remove(&(*since_ms, id));
                    index.free.remove(*host, id);
                }
                Activity::Running { .. } => {
                    index.running.remove(&id);
                }
            }
            if index.functions == 0 {
                self.shapes.remove(shape);
            }
        }
        if let Some(owner) = owner
            && let Some(owned) = self.owners.get_mut(owner)
        {
            owned.functions -= 1;
            match activity {
                Activity::Starting => {}
                Activity::Idle { since_ms } => {
                    owned.idle.remove(&(*since_ms, id));
                }
                Activity::Running { .. } => owned.running_vcpus -= shape.vcpus,
            }
            if owned.functions == 0 {
                self.owners.remove(owner);
            }
        }
        match activity {
            Activity::Starting => self.load(*host, |host| host.starting_vcpus -= shape.vcpus),
            Activity::Idle { .. } => self.idle -= 1,
            Activity::Running { ending_ms, .. } => {
                self.running_vcpus -= shape.vcpus;
                if let Some(ending_ms) = ending_ms {
                    self.ending.remove(&(*ending_ms, id));
                }
                self.load(*host, |host| host.running_vcpus -= shape.vcpus);
            }
        }
    }

    /// What a host does changes.
    fn load(&mut self, id: HostId, change: impl FnOnce(&mut Host)) {
        let Some(host) = self.hosts.change(id, change) else { return };
        for index in self.shapes.values_mut() {
            index.free.set_load(id, host.running_vcpus);
        }
    }
}
