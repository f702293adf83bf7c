//! Stages that start before all of their inputs are there.
//!
//! ```text
//!   no task waits, and a function is free    a stage starts whose missing input all runs, and whose tasks no size changes
//!   a task of that input is committed        running attempts are told what follows on what they know, in task order
//!   a task of that input waits again         they stop, and wait too: it may need their functions
//!   they want no more rows                   their output counts, and input that nobody reads is not made
//! ```
//!
//! An attempt hears of a task's output once those of all tasks before it are there: it reads the same rows in the same order
//! as one that starts when all is there.

use std::sync::Arc;

use onward_wire::{AttemptId, FunctionId};

use super::output::StageOutput;
use super::query::{Query, Segments};
use super::task::{State, Task};

/// More of its inputs, for an attempt that runs.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) function: FunctionId,
    pub(super) attempt: AttemptId,
    pub(super) partitions: Vec<u32>,
    pub(super) inputs: Arc<Vec<StageOutput>>,
}

impl Query {
    /// Stages that may start on a part of their input, and of each the task that would.
    pub(super) fn early_starts(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let stages = (0..).zip(&self.stages).filter(|(_, stage)| self.starts_early && !stage.pending.is_empty());
        let startable = stages.filter(|(id, _)| self.may_start_early(*id));
        // A task does it once: its tries are counted.
        startable.filter_map(|(id, stage)| {
            let task = stage.pending.iter().find(|task| stage.tasks[**task as usize].is_new())?;
            Some((id, *task))
        })
    }

    fn may_start_early(&self, id: u32) -> bool {
        let stage = &self.stages[id as usize];
        let is_complete = |id: &&u32| self.stages[**id as usize].is_complete();
        let mut missing = stage.inputs.iter().filter(|input| !is_complete(input)).peekable();
        let is_decided = stage.alternative.is_none() && stage.waits_for.iter().all(|id| is_complete(&id));
        let has_filters = stage.filter_sources.iter().all(|id| is_complete(&id));
        // A task that reads a part of an input picks it from all of its segments.
        missing.peek().is_some()
            && !stage.is_split
            && is_decided
            && has_filters
            && self.keeps_its_tasks(id)
            && missing.all(|input| {
                let input = &self.stages[*input as usize];
                // What all tasks read whole is fetched once, if all are told the same of it.
                let is_told_alike = !input.is_broadcast || stage.tasks.len() == 1;
                input.pending.is_empty() && input.known() > 0 && is_told_alike
            })
    }

    /// Whatever is still to come, no size of an input changes its tasks.
    fn keeps_its_tasks(&self, id: u32) -> bool {
        let stage = &self.stages[id as usize];
        let bytes = || {
            let committed = stage.inputs.iter().flat_map(|input| self.stages[*input as usize].output());
            committed.map(|output| output.bytes).sum::<u64>()
        };
        let may_split = self.split_bytes > 0 && stage.splittable.is_some();
        let may_shrink = self.task_bytes > 0 && stage.may_coalesce && stage.tasks.len() > 1;
        !stage.is_new()
            || (!may_split && (!may_shrink || bytes().div_ceil(self.task_bytes) >= stage.tasks.len() as u64))
    }

    /// The stage is about to start on what is there of its inputs.
    pub(super) fn open_early(&mut self, id: u32) {
        let stage = &self.stages[id as usize];
        if stage.told.is_none() {
            let known = |input: &u32| self.stages[*input as usize].known();
            let told = stage.inputs.iter().map(known).collect();
            self.stages[id as usize].told = Some(told);
            self.bind(id);
        }
    }

    /// A task of `producer` was committed: what the attempts that started before that are told.
    pub(super) fn tell_consumers(&mut self, producer: u32) -> Vec<Told> {
        let mut all = Vec::new();
        for consumer in self.stages[producer as usize].consumers.clone() {
            let stage = &self.stages[consumer as usize];
            let Some(mut told) = stage.told.clone() else { continue };
            let mut news = Vec::new();
            for (input, told) in stage.inputs.iter().zip(&mut told) {
                let (producer, before) = (&self.stages[*input as usize], *told);
                *told = producer.known();
                if *told > before {
                    let is_open = !producer.is_complete();
                    news.push(StageOutput::new(*input, producer.output_of(before..*told), is_open));
                }
            }
            if news.is_empty() {
                continue;
            }
            let is_open = stage.inputs.iter().any(|input| !self.stages[*input as usize].is_complete());
            let news = Arc::new(news);
            all.extend(stage.tasks.iter().filter_map(|task| match task.state {
                State::Running { attempt, function, .. } => Some(Told {
                    function,
                    attempt: task.id.attempt(attempt),
                    partitions: task.partitions.clone(),
                    inputs: Arc::clone(&news),
                }),
                _ => None,
            }));
            self.stages[consumer as usize].told = is_open.then_some(told);
            self.bind(consumer);
        }
        all
    }

    /// Stops attempts that wait for a task which waits for a function itself.
    pub(super) fn close_early(&mut self) -> Vec<(FunctionId, AttemptId)> {
        let mut stopped = Vec::new();
        for id in 0..self.stages.len() as u32 {
            let stage = &self.stages[id as usize];
            let waits = |input: &u32| !self.stages[*input as usize].pending.is_empty();
            if stage.told.is_some() && stage.inputs.iter().any(waits) {
                stopped.extend(self.rebind(id));
            }
        }
        stopped
    }

    /// A stage is complete: what is not made yet of its inputs, and read by no other, need not be. The attempts that stop.
    pub(super) fn spare_unread(&mut self, id: u32) -> (Vec<(FunctionId, AttemptId)>, Segments) {
        let (mut stopped, mut released) = (Vec::new(), Vec::new());
        let mut complete = vec![id];
        while let Some(id) = complete.pop() {
            if !self.stages[id as usize].is_complete() {
                continue;
            }
            for input in self.stages[id as usize].inputs.clone() {
                let consumers = &self.stages[input as usize].consumers;
                let is_read = consumers.iter().any(|consumer| !self.stages[*consumer as usize].is_complete());
                if !is_read && !self.stages[input as usize].is_complete() {
                    stopped.extend(self.end_stage(input));
                    complete.push(input);
                }
            }
            released.extend(self.release_read(id));
        }
        (stopped, released)
    }

    /// The stage's inputs are not what its running attempts were told: they stop, and start again when all are there.
    pub(super) fn rebind(&mut self, stage: u32) -> Vec<(FunctionId, AttemptId)> {
        let bound = &mut self.stages[stage as usize];
        bound.told = None;
        let mut running = Vec::new();
        if bound.bound_inputs.take().is_some() {
            running.extend(bound.tasks.iter().filter_map(|task| match task.state {
                State::Running { attempt, function, .. } => Some((function, task.id.attempt(attempt))),
                _ => None,
            }));
        }
        for (_, attempt) in &running {
            self.put_back(*attempt);
        }
        // What was told of the old inputs and given up may still turn up.
        self.stages[stage as usize].tasks.iter_mut().for_each(Task::void_unreported);
        running
    }
}

#[cfg(test)]
mod tests {
    use onward_wire::message::{AttemptOutput, PartitionStats, SegmentRef};
    use onward_wire::{HostId, QueryId};

    use super::*;
    use crate::scheduler::tests::{limits, query};

    /// What a task that reads a part of an input was told first would not say which part of the rest is its own.
    #[test]
    fn a_stage_whose_tasks_read_parts_waits_for_all_of_its_input_again() {
        let mut spec = query(1, 3, &[(&[], 1), (&[], 2), (&[0, 1], 2)]);
        (spec.split_bytes, spec.starts_early, spec.stages[2].splittable) = (60, true, Some(1));
        let mut query = Query::new(spec, None, 0).expect("a query");
        let stage = |stage| onward_wire::StageId::new(QueryId(1), stage);
        let output = |first| AttemptOutput {
            segments: (first..first + 3).map(|segment| SegmentRef { segment, length_bytes: 1, rows: 1 }).collect(),
            partitions: vec![PartitionStats { partition: 0, rows: 3, bytes: 100 }],
            ..AttemptOutput::default()
        };
        for (id, task, host) in [(0, 0, 0), (1, 0, 0), (1, 1, 1)] {
            query.begin(id, task, FunctionId(u64::from(task)), &limits());
            let attempt = stage(id).task(task).attempt(0);
            query.prepared(attempt, HostId(host), output(u64::from(id * 20 + task * 10)), &limits());
        }
        assert!(query.stages[2].is_split && query.stages[2].tasks.len() > 2);
        query.begin(2, 0, FunctionId(0), &limits());
        query.lose_host(HostId(1));
        query.begin(1, 1, FunctionId(1), &limits());
        // All that it lacks runs, and its other tasks never began.
        assert_eq!(query.early_starts().next(), None);
    }
}
