//! Functions: who is alive, who is free, who may be started.

use std::collections::BTreeMap;

use onward_wire::{AttemptId, FunctionId};

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
    shape: FunctionShape,
    activity: Activity,
}

/// All functions that are alive or starting. Iteration is by id, so the oldest idle function is reused first and the
/// others age out.
#[derive(Debug)]
pub(super) struct Pool {
    functions: BTreeMap<FunctionId, Function>,
    max_functions: usize,
    next_id: u64,
    running_vcpus: u32,
}

impl Pool {
    pub(super) fn new(max_functions: usize) -> Self {
        Self { functions: BTreeMap::new(), max_functions: max_functions.max(1), next_id: 1, running_vcpus: 0 }
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

    pub(super) fn idle(&self, shape: FunctionShape) -> impl Iterator<Item = FunctionId> + '_ {
        self.activities()
            .filter(move |(_, s, activity)| *s == shape && matches!(activity, Activity::Idle { .. }))
            .map(|(id, ..)| id)
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

    /// Adds a function of `shape`. At the limit an idle function of another shape makes room (the second value). `None`
    /// when there is no room.
    pub(super) fn start(&mut self, shape: FunctionShape) -> Option<(FunctionId, Option<FunctionId>)> {
        let evicted = match self.functions.len() < self.max_functions {
            true => None,
            false => Some(self.longest_idle_except(shape)?),
        };
        if let Some(evicted) = evicted {
            self.functions.remove(&evicted);
        }
        let id = FunctionId(self.next_id);
        self.next_id += 1;
        self.functions.insert(id, Function { shape, activity: Activity::Starting });
        Some((id, evicted))
    }

    fn longest_idle_except(&self, shape: FunctionShape) -> Option<FunctionId> {
        self.activities()
            .filter(|(_, s, _)| *s != shape)
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
            self.running_vcpus += function.shape.vcpus;
        }
    }

    /// `function` runs `attempt` no more; nothing when it did not.
    pub(super) fn finish(&mut self, function: FunctionId, attempt: AttemptId, now_ms: u64) {
        let Some(function) = self.functions.get_mut(&function) else { return };
        if matches!(function.activity, Activity::Running { attempt: running, .. } if running == attempt) {
            function.activity = Activity::Idle { since_ms: now_ms };
            self.running_vcpus -= function.shape.vcpus;
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
        let function = self.functions.remove(&function)?;
        if matches!(function.activity, Activity::Running { .. }) {
            self.running_vcpus -= function.shape.vcpus;
        }
        Some(function.activity)
    }
}
