//! One stage of a running query.

use std::collections::BTreeSet;
use std::sync::Arc;

use onward_wire::{FunctionId, HostId, SegmentId, StageId};

use super::event::StageSpec;
use super::output::{Committed, StageOutput};
use super::task::{State, Task};

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) inputs: Vec<u32>,
    /// Rows after which no more are wanted.
    pub(super) enough_rows: Option<u64>,
    /// Two runs of a task may give different rows.
    pub(super) is_indeterminate: bool,
    pub(super) consumers: Vec<u32>,
    pub(super) tasks: Vec<Task>,
    /// Tasks that wait; placed in this order.
    pub(super) pending: BTreeSet<u32>,
    pub(super) committed: usize,
    /// Functions that ran an attempt of it, the lost ones included.
    pub(super) used: BTreeSet<FunctionId>,
    /// Inline output that it holds or that its running attempts may return.
    pub(super) inline_bytes: u64,
    /// What its tasks read; fixed when the first of them starts.
    pub(super) bound_inputs: Option<Arc<Vec<StageOutput>>>,
}

impl Stage {
    pub(super) fn new(id: StageId, spec: StageSpec, first_attempt: u32) -> Self {
        let task = |(partitions, task)| Task::new(id.task(task), partitions, first_attempt);
        let tasks: Vec<_> = spec.tasks.into_iter().zip(0..).map(task).collect();
        Self {
            inputs: spec.inputs,
            enough_rows: spec.enough_rows,
            is_indeterminate: spec.is_indeterminate,
            consumers: Vec::new(),
            pending: (0..tasks.len() as u32).collect(),
            tasks,
            committed: 0,
            used: BTreeSet::new(),
            inline_bytes: 0,
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

    /// Runs as fewer tasks, of at least `task_bytes` each, if it has `bytes` to read and no task has begun.
    pub(super) fn coalesce(&mut self, id: StageId, bytes: u64, task_bytes: u64) {
        let is_new = self.tasks.iter().all(Task::is_new);
        let count = usize::try_from(bytes.div_ceil(task_bytes.max(1))).unwrap_or(usize::MAX).max(1);
        if !is_new || count >= self.tasks.len() {
            return;
        }
        let old = std::mem::take(&mut self.tasks);
        let (all, first_attempt) = (old.len(), old[0].first_attempt());
        let mut partitions = vec![Vec::new(); count];
        for (at, task) in old.into_iter().enumerate() {
            partitions[at * count / all].extend(task.partitions);
        }
        let task = |(partitions, task)| Task::new(id.task(task), partitions, first_attempt);
        self.tasks = partitions.into_iter().zip(0..).map(task).collect();
        self.pending = (0..count as u32).collect();
    }

    /// The committed attempts of a complete stage, by task.
    pub(super) fn output(&self) -> Vec<Arc<Committed>> {
        let committed = self.tasks.iter().filter_map(|task| match &task.state {
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
