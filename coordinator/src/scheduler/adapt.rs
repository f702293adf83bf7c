//! What becomes of stages that have not begun, now that the sizes of their inputs are known.
//!
//! ```text
//!   one input is complete    it is small, and another plan was made for that     the stage runs it, and its other input is spared
//!   all are complete         there is little to read                             fewer tasks
//!                            one partition is far larger than the others         several tasks read it, each a part
//! ```
//!
//! Nothing is changed of what an attempt was told before.

use onward_wire::StageId;

use super::event::Share;
use super::query::Query;

/// A partition is split that is this many times larger than the median.
const SKEW: u64 = 4;

/// The most tasks that read parts of one partition.
const MOST_PARTS: u64 = 64;

impl Query {
    /// `producer` may be complete now. The stages that run their other plan from here on.
    pub(super) fn adapt_consumers(&mut self, producer: u32) -> Vec<u32> {
        let mut replaced = Vec::new();
        if !self.stages[producer as usize].is_complete() {
            return replaced;
        }
        for consumer in self.stages[producer as usize].consumers.clone() {
            if self.replace(consumer, producer) {
                replaced.push(consumer);
            }
            let inputs = &self.stages[consumer as usize].inputs;
            let is_ready = inputs.iter().all(|input| self.stages[*input as usize].is_complete());
            if is_ready && self.stages[consumer as usize].is_new() && !self.coalesce(consumer) {
                self.split(consumer);
            }
        }
        replaced
    }

    /// Puts the other plan of `stage` in place if `input`, which is complete, is small.
    fn replace(&mut self, stage: u32, input: u32) -> bool {
        if self.stages[stage as usize].alternative.as_ref().is_none_or(|alternative| alternative.when != input) {
            return false;
        }
        let Some(alternative) = self.stages[stage as usize].alternative.take() else { return false };
        let output = self.stages[input as usize].output();
        let (bytes, rows) =
            output.iter().fold((0, 0), |(bytes, rows), output| (bytes + output.bytes, rows + output.rows));
        let spared = &self.stages[alternative.spares as usize];
        // Its plan is in the other one as it was planned.
        let replaced = &self.stages[stage as usize];
        let is_untouched = spared.is_new() && !spared.is_replaced && replaced.is_new() && !replaced.is_complete();
        if bytes > alternative.most_bytes || rows > alternative.most_rows || !is_untouched {
            return false;
        }
        for of_spared in spared.inputs.clone() {
            let consumers = &mut self.stages[of_spared as usize].consumers;
            consumers.retain(|consumer| *consumer != alternative.spares);
            consumers.push(stage);
        }
        let spared = &mut self.stages[alternative.spares as usize];
        spared.set_tasks(StageId::new(self.id, alternative.spares), Vec::new());
        spared.inputs.clear();
        spared.alternative = None;
        spared.consumers.retain(|consumer| *consumer != stage);
        let id = StageId::new(self.id, stage);
        let replaced = &mut self.stages[stage as usize];
        replaced.inputs = alternative.inputs;
        replaced.is_replaced = true;
        // It reads tables, or what others made of them.
        replaced.may_coalesce = false;
        replaced.splittable = None;
        replaced.set_tasks(id, alternative.tasks.into_iter().map(|partitions| (partitions, None)).collect());
        true
    }

    /// Fewer tasks, of at least `task_bytes` each.
    fn coalesce(&mut self, id: u32) -> bool {
        let stage = &self.stages[id as usize];
        if self.task_bytes == 0 || !stage.may_coalesce {
            return false;
        }
        let inputs = stage.inputs.iter().flat_map(|input| self.stages[*input as usize].output());
        let bytes: u64 = inputs.map(|output| output.bytes).sum();
        let count = usize::try_from(bytes.div_ceil(self.task_bytes)).unwrap_or(usize::MAX).max(1);
        let all = stage.tasks.len();
        if count >= all {
            return false;
        }
        let mut partitions = vec![(Vec::new(), None); count];
        for (at, task) in stage.tasks.iter().enumerate() {
            partitions[at * count / all].0.extend_from_slice(&task.partitions);
        }
        self.stages[id as usize].set_tasks(StageId::new(self.id, id), partitions);
        true
    }

    /// Several tasks for each partition that is far larger than the others.
    fn split(&mut self, id: u32) {
        let stage = &self.stages[id as usize];
        let Some(input) = stage.splittable.filter(|_| self.split_bytes > 0 && !stage.is_split) else { return };
        let output = self.stages[input as usize].output();
        let size = |partition: u32| output.iter().filter_map(|output| output.sizes.get(partition)).sum::<u64>();
        let units = |partition: u32| {
            let having = output.iter().filter(|output| output.sizes.get(partition).is_some());
            having.map(|output| output.segments.len().max(1) as u64).sum::<u64>()
        };
        let mut sizes: Vec<u64> = stage.tasks.iter().flat_map(|task| &task.partitions).map(|p| size(*p)).collect();
        sizes.sort_unstable();
        let median = sizes.get(sizes.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let most = self.split_bytes.max(median * SKEW);
        let parts = |partition: u32| size(partition).div_ceil(most.max(1)).min(units(partition)).min(MOST_PARTS);
        let (mut tasks, mut is_split) = (Vec::new(), false);
        for task in &stage.tasks {
            let (large, rest): (Vec<u32>, Vec<u32>) =
                task.partitions.iter().partition(|partition| parts(**partition) > 1);
            is_split |= !large.is_empty();
            if !rest.is_empty() {
                tasks.push((rest, None));
            }
            for partition in large {
                let parts = parts(partition) as u32;
                tasks.extend((0..parts).map(|part| (vec![partition], Some(Share { input, part, parts }))));
            }
        }
        if is_split {
            let stage = &mut self.stages[id as usize];
            stage.is_split = true;
            stage.set_tasks(StageId::new(self.id, id), tasks);
        }
    }
}
