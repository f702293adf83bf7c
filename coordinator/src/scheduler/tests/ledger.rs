//! What the world knows of starts, owners, places and positions, and the rules about these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onward_wire::{FunctionId, HostId, QueryId};

use crate::scheduler::{FunctionShape, SchedulerLimits};

/// Queue and user.
type Place = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub struct Ledger {
    /// When functions were started, in order.
    pub starts: Vec<u64>,
    /// The user whom a function was started for, or whose task it ran last.
    owners: BTreeMap<FunctionId, Arc<str>>,
    /// Since when functions have nothing to do.
    pub idle_since: BTreeMap<FunctionId, u64>,
    /// Classes that hosts offer; empty: all.
    pub classes: BTreeMap<HostId, Vec<u16>>,
    /// A host that is used while no other one offers what is wanted.
    pub reserve: Option<HostId>,
    /// Hosts that want to leave, and whether they may.
    pub leaving: BTreeMap<HostId, bool>,
    /// Queries that run.
    running: BTreeMap<QueryId, Place>,
    /// Queries that wait: queue and position.
    waiting: BTreeMap<QueryId, (Arc<str>, usize)>,
}

impl Ledger {
    /// One more function may be started at `now_ms`, whatever window of time one looks at.
    pub fn has_token(&self, now_ms: u64, limits: &SchedulerLimits) -> bool {
        let (rate, burst) = (limits.function_starts_per_second, limits.function_start_burst * 1_000);
        let in_window = |(count, at): (u64, &u64)| (count + 1) * 1_000 <= burst + rate * (now_ms - at);
        rate == 0 || (1..).zip(self.starts.iter().rev()).all(in_window)
    }

    pub fn owned_by(&self, user: &str) -> usize {
        self.owners.values().filter(|owner| &***owner == user).count()
    }

    pub fn owns(&self, user: &str, function: FunctionId) -> bool {
        self.owners.get(&function).is_some_and(|owner| &**owner == user)
    }

    /// Functions of the class are started there, and take tasks.
    pub fn offers(&self, host: HostId, class: u16) -> bool {
        let has_class = |host: &HostId, classes: &Vec<u16>| {
            !self.leaving.contains_key(host) && (classes.is_empty() || classes.contains(&class))
        };
        let is_spared = |host| {
            let mut others = self.classes.iter().filter(|(other, _)| **other != host);
            self.reserve == Some(host) && others.any(|(other, classes)| has_class(other, classes))
        };
        self.classes.get(&host).is_some_and(|classes| has_class(&host, classes)) && !is_spared(host)
    }

    pub fn start(
        &mut self,
        (function, host, shape): (FunctionId, HostId, FunctionShape),
        owner: Option<Arc<str>>,
        now_ms: u64,
        limits: &SchedulerLimits,
    ) {
        assert!(self.has_token(now_ms, limits), "too many starts: {:?} and at {now_ms}", self.starts);
        assert!(self.offers(host, shape.class), "{host} does not offer class {}", shape.class);
        self.starts.push(now_ms);
        if let Some(owner) = owner {
            let most = limits.max_functions_per_user;
            assert!(
                most == 0 || self.owned_by(&owner) < most,
                "{owner:?} has {most} functions: {function} {:?} {shape:?}",
                self.owners
            );
            self.owners.insert(function, owner);
        }
    }

    pub fn run(&mut self, function: FunctionId, user: &Arc<str>) {
        self.owners.insert(function, Arc::clone(user));
        self.idle_since.remove(&function);
    }

    pub fn remove(&mut self, function: FunctionId) {
        self.owners.remove(&function);
        self.idle_since.remove(&function);
    }

    /// Users with queries that run.
    pub fn users(&self) -> usize {
        self.running.values().map(|(_, user)| user).collect::<BTreeSet<_>>().len()
    }

    pub fn wait(&mut self, query: QueryId, queue: &Arc<str>, position: usize) {
        assert!(!self.waiting.contains_key(&query), "{query} begins to wait once");
        self.waiting.insert(query, (Arc::clone(queue), position));
    }

    pub fn position(&mut self, query: QueryId, position: usize) {
        let known = &mut self.waiting.get_mut(&query).expect("it waits").1;
        assert_ne!(*known, position, "only what is new is told");
        *known = position;
    }

    pub fn begin(&mut self, query: QueryId, queue: &Arc<str>, user: &Arc<str>, limits: &SchedulerLimits) {
        self.waiting.remove(&query);
        self.running.insert(query, (Arc::clone(queue), Arc::clone(user)));
        let count = |is: &dyn Fn(&Place) -> bool| self.running.values().filter(|at| is(at)).count();
        let most = limits.queues.get(&**queue).map_or(usize::MAX, |limits| limits.max_running);
        assert!(count(&|(other, _)| other == queue) <= most, "too many queries run in {queue:?}");
        let most = limits.max_running_queries_per_user;
        assert!(most == 0 || count(&|(_, other)| other == user) <= most, "too many queries of {user:?} run");
    }

    pub fn end(&mut self, query: QueryId) {
        self.running.remove(&query);
        self.waiting.remove(&query);
    }

    /// Positions of every queue count from 1.
    pub fn check_positions(&self) {
        let mut positions: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (queue, position) in self.waiting.values() {
            assert!(positions.entry(queue).or_default().insert(*position), "{:?}", self.waiting);
        }
        for positions in positions.values() {
            assert_eq!(positions.last(), Some(&positions.len()), "{:?}", self.waiting);
        }
    }
}
