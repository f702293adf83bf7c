//! One stage of a running query.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use onward_wire::{FunctionId, HostId, SegmentId, StageId};

use super::event::{AlternativeSpec, FunctionShape, Share, StageSpec};
use super::output::{Committed, StageOutput};
use super::task::{State, Task};

#[derive(Debug)]
pub(super) struct Stage {
    /// Of the functions that run it.
    pub(super) shape: FunctionShape,
    pub(super) inputs: Vec<u32>,
    /// Rows after which no more are wanted.
    pub(super) enough_rows: Option<u64>,
    /// Two runs of a task may give different rows.
    pub(super) is_indeterminate: bool,
    /// Every task of its consumers reads it whole.
    pub(super) is_broadcast: bool,
    pub(super) may_coalesce: bool,
    pub(super) splittable: Option<u32>,
    /// Until it is decided.
    pub(super) alternative: Option<AlternativeSpec>,
    /// It runs its other plan.
    pub(super) is_replaced: bool,
    /// Tasks of it read parts of partitions.
    pub(super) is_split: bool,
    /// It does not start before this stage is complete: it may be spared.
    pub(super) waits_for: Option<u32>,
    pub(super) filter_sources: Vec<u32>,
    /// Since when it could start.
    pub(super) ready_since_ms: Option<u64>,
    pub(super) consumers: Vec<u32>,
    pub(super) tasks: Vec<Task>,
    /// Tasks that wait; placed in this order.
    pub(super) pending: BTreeSet<u32>,
    pub(super) committed: usize,
    /// Functions that ran an attempt of it, the lost ones included.
    pub(super) used: BTreeSet<FunctionId>,
    /// Inline output that it holds or that its running attempts may return.
    pub(super) inline_bytes: u64,
    /// Of each input, the first tasks that its attempts know of, while those are not all of some input.
    pub(super) told: Option<Vec<usize>>,
    /// What its tasks that begin now read: all, fixed when the first of them began; or what is known, while `told` is set.
    pub(super) bound_inputs: Option<Arc<Vec<StageOutput>>>,
}

impl Stage {
    /// `shape` is for a stage that asks for no other.
    pub(super) fn new(id: StageId, spec: StageSpec, shape: FunctionShape, first_attempt: u32) -> Self {
        let task = |(partitions, task)| Task::new(id.task(task), partitions, first_attempt);
        let tasks: Vec<_> = spec.tasks.into_iter().zip(0..).map(task).collect();
        Self {
            shape: spec.shape.unwrap_or(shape),
            inputs: spec.inputs,
            enough_rows: spec.enough_rows,
            is_indeterminate: spec.is_indeterminate,
            is_broadcast: spec.is_broadcast,
            may_coalesce: spec.may_coalesce,
            splittable: spec.splittable,
            alternative: spec.alternative,
            is_replaced: false,
            is_split: false,
            waits_for: None,
            filter_sources: spec.filter_sources,
            ready_since_ms: None,
            consumers: Vec::new(),
            pending: (0..tasks.len() as u32).collect(),
            tasks,
            committed: 0,
            used: BTreeSet::new(),
            inline_bytes: 0,
            told: None,
            bound_inputs: None,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.committed == self.tasks.len()
    }

    /// It is not complete, and nobody wants more rows than those that are committed.
    pub(super) fn has_enough(&self) -> bool {
        let rows = |task: &Task| match &task.state {
            State::Committed { output: Some(output) } => output.rows,
            _ => 0,
        };
        let is_enough = |enough| self.tasks.iter().map(rows).sum::<u64>() >= enough;
        !self.is_complete() && self.enough_rows.is_some_and(is_enough)
    }

    /// No attempt of any of its tasks ever began.
    pub(super) fn is_new(&self) -> bool {
        self.tasks.iter().all(Task::is_new)
    }

    /// Other tasks in the place of those that it has, none of which has begun.
    pub(super) fn set_tasks(&mut self, id: StageId, tasks: Vec<(Vec<u32>, Option<Share>)>) {
        let first_attempt = self.tasks.first().map_or(0, Task::first_attempt);
        let task = |((partitions, share), task)| Task::new(id.task(task), partitions, first_attempt).reading(share);
        self.tasks = tasks.into_iter().zip(0..).map(task).collect();
        self.pending = (0..self.tasks.len() as u32).collect();
    }

    /// Tasks up to the first one that is not committed.
    pub(super) fn known(&self) -> usize {
        self.tasks.iter().take_while(|task| matches!(task.state, State::Committed { .. })).count()
    }

    /// The committed attempts, by task.
    pub(super) fn output(&self) -> Vec<Arc<Committed>> {
        self.output_of(0..self.tasks.len())
    }

    /// The committed attempts of some tasks, by task.
    pub(super) fn output_of(&self, tasks: Range<usize>) -> Vec<Arc<Committed>> {
        let committed = self.tasks[tasks].iter().filter_map(|task| match &task.state {
            State::Committed { output } => output.clone(),
            _ => None,
        });
        committed.collect()
    }

    /// Lets go of all committed output; returns its segments and the inline bytes that became free.
    pub(super) fn take_output(&mut self) -> (Vec<(HostId, SegmentId)>, u64) {
        let (mut segments, mut inline_bytes) = (Vec::new(), 0);
        for task in &mut self.tasks {
            if let State::Committed { output } = &mut task.state
                && let Some(output) = output.take()
            {
                segments.extend(output.segments());
                inline_bytes += output.inline.len() as u64;
            }
        }
        self.inline_bytes -= inline_bytes;
        (segments, inline_bytes)
    }
}
