//! What runs again when a host is lost.
//!
//! ```text
//!   a task whose output lay there, and is still needed      runs again
//!     what it read was let go meanwhile                     those producers run again, and so on
//!     it may give other rows this time (indeterminate)      consumers that finished run again, and so on; those, too, whose
//!                                                           tasks read parts of its partitions
//!   a consumer that runs and was told to read the lost      is stopped and starts again with a new list of inputs
//! ```

use std::collections::BTreeSet;

use onward_wire::{AttemptId, FunctionId, HostId, SegmentId};

use super::query::Query;
use super::task::State;

/// Output that somebody may still read lies on `host`.
fn lies_on(host: HostId, state: &State) -> bool {
    let State::Committed { output: Some(output) } = state else { return false };
    output.host == host && !output.segments.is_empty()
}

/// What the loss of a host costs a query.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Attempts that read what is lost.
    pub(super) cancelled: Vec<(FunctionId, AttemptId)>,
    /// Output that nobody will read, because its task runs again.
    pub(super) released: Vec<(HostId, SegmentId)>,
}

impl Query {
    /// Output of it that is still needed lies on `host`.
    pub(super) fn holds_output_on(&self, host: HostId) -> bool {
        self.stages.iter().flat_map(|stage| &stage.tasks).any(|task| lies_on(host, &task.state))
    }

    /// The output that lay on `host` is gone.
    pub(super) fn lose_host(&mut self, host: HostId) -> Recovery {
        let mut recovery = Recovery::default();
        let mut again: Vec<(u32, u32)> = Vec::new();
        for (stage, tasks) in (0..).zip(self.stages.iter().map(|stage| &stage.tasks)) {
            let lost = (0..).zip(tasks).filter(|(_, task)| lies_on(host, &task.state));
            again.extend(lost.map(|(task, _)| (stage, task)));
        }
        let mut rebound = BTreeSet::new();
        while let Some((stage, task)) = again.pop() {
            if !self.undo(stage, task, host, &mut recovery) {
                continue;
            }
            // What it reads must be there again.
            for input in self.stages[stage as usize].inputs.clone() {
                let is_gone = |state: &State| matches!(state, State::Committed { output: None });
                let tasks = (0..).zip(&self.stages[input as usize].tasks);
                again.extend(tasks.filter(|(_, task)| is_gone(&task.state)).map(|(task, _)| (input, task)));
            }
            if self.stages[stage as usize].enough_rows.is_some() {
                // What was not needed because of its rows may be needed now.
                let is_spared = |state: &State| matches!(state, State::Committed { output: None });
                let tasks = (0..).zip(&self.stages[stage as usize].tasks);
                again.extend(tasks.filter(|(_, task)| is_spared(&task.state)).map(|(task, _)| (stage, task)));
            }
            let is_indeterminate = self.stages[stage as usize].is_indeterminate;
            for consumer in self.stages[stage as usize].consumers.clone() {
                rebound.insert(consumer);
                // The segments of another run are others, and so are their parts.
                let is_split =
                    self.stages[consumer as usize].is_split && self.stages[consumer as usize].splittable == Some(stage);
                if is_indeterminate || is_split {
                    let tasks = (0..).zip(&self.stages[consumer as usize].tasks);
                    let is_done = |state: &State| matches!(state, State::Committed { .. });
                    again.extend(tasks.filter(|(_, task)| is_done(&task.state)).map(|(task, _)| (consumer, task)));
                }
            }
        }
        for stage in rebound {
            recovery.cancelled.extend(self.rebind(stage));
        }
        recovery
    }

    /// A committed task is to run again; false when it was not committed, or did before.
    fn undo(&mut self, stage: u32, task: u32, lost: HostId, recovery: &mut Recovery) -> bool {
        let stage = &mut self.stages[stage as usize];
        let state = &mut stage.tasks[task as usize].state;
        if !matches!(state, State::Committed { .. }) {
            return false;
        }
        let State::Committed { output } = std::mem::replace(state, State::Pending) else { return false };
        stage.pending.insert(task);
        stage.committed -= 1;
        if let Some(output) = output {
            let inline_bytes = output.inline.len() as u64;
            stage.inline_bytes -= inline_bytes;
            recovery.released.extend(output.segments().filter(|(host, _)| *host != lost));
            self.release_inline(inline_bytes);
        }
        true
    }
}
