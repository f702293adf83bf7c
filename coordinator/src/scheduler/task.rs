//! One task: its tries, and which of them counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use onward_wire::{ErrorKind, FunctionId, TaskId, WireError};

use super::event::Share;
use super::output::Committed;

/// Tries that end without counting as a failure (a function was told to leave) may be this many times `max_attempts`:
/// everything has a limit.
const UNCOUNTED_FACTOR: u32 = 8;

/// Where a task is.
#[derive(Debug)]
pub(super) enum State {
    /// Waits for its stage to be ready, or for a function.
    Pending,
    /// This attempt runs, and may return this much inline.
    Running { attempt: u32, function: FunctionId, inline_bytes: u64 },
    /// The task's output; `None` once it is not needed any more.
    Committed { output: Option<Arc<Committed>> },
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) partitions: Vec<u32>,
    /// It reads a part of an input only.
    pub(super) share: Option<Share>,
    pub(super) state: State,
    /// Where its last attempt ran: a retry prefers another function.
    pub(super) last_function: Option<FunctionId>,
    first_attempt: u32,
    attempts: u32,
    failures: u32,
    /// Functions whose life was over before it was done.
    lives: u32,
    /// Attempts whose outcome was reported. A lost attempt is not in it: its output may still turn up.
    reported: BTreeSet<u32>,
    /// Attempts whose inputs are not what counts any more: their output is none.
    void: BTreeSet<u32>,
}

impl Task {
    pub(super) fn new(id: TaskId, partitions: Vec<u32>, first_attempt: u32) -> Self {
        Self {
            id,
            partitions,
            share: None,
            state: State::Pending,
            last_function: None,
            first_attempt,
            attempts: 0,
            failures: 0,
            lives: 0,
            reported: BTreeSet::new(),
            void: BTreeSet::new(),
        }
    }

    /// It reads a part of an input only.
    pub(super) fn reading(self, share: Option<Share>) -> Self {
        Self { share, ..self }
    }

    /// No attempt of it ever began.
    pub(super) fn is_new(&self) -> bool {
        self.attempts == 0 && matches!(self.state, State::Pending)
    }

    pub(super) fn first_attempt(&self) -> u32 {
        self.first_attempt
    }

    pub(super) fn is_retry(&self) -> bool {
        self.attempts > 0
    }

    pub(super) fn begin(&mut self, function: FunctionId, inline_bytes: u64) -> u32 {
        let attempt = self.first_attempt + self.attempts;
        self.attempts += 1;
        self.last_function = Some(function);
        self.state = State::Running { attempt, function, inline_bytes };
        attempt
    }

    /// Notes that the outcome of `attempt` is known; false when it was known before, or the attempt never started.
    pub(super) fn report(&mut self, attempt: u32) -> bool {
        let begun = self.first_attempt..self.first_attempt + self.attempts;
        begun.contains(&attempt) && self.reported.insert(attempt)
    }

    /// The output of the running attempt, if it still comes, does not count: the task waits again.
    pub(super) fn void(&mut self, attempt: u32) {
        self.void.insert(attempt);
        self.state = State::Pending;
    }

    /// No attempt that began and was not heard of since counts any more, unless the task is committed.
    pub(super) fn void_unreported(&mut self) {
        if !matches!(self.state, State::Committed { .. }) {
            let begun = self.first_attempt..self.first_attempt + self.attempts;
            self.void.extend(begun.filter(|attempt| !self.reported.contains(attempt)));
        }
    }

    pub(super) fn is_void(&self, attempt: u32) -> bool {
        self.void.contains(&attempt)
    }

    /// Notes that one more function's life was over before it was done; of so many.
    pub(super) fn outlived(&mut self) -> u32 {
        self.lives += 1;
        self.lives
    }

    /// Notes that the running attempt ended in vain. `Err` is the query's error: `error` itself when trying again is
    /// pointless, or what happened over all tries.
    pub(super) fn retry_after(&mut self, error: WireError, max_attempts: u32) -> Result<(), WireError> {
        self.state = State::Pending;
        self.failures += u32::from(error.counts_as_failure);
        if !error.is_retryable {
            return Err(error);
        }
        let max_attempts = max_attempts.max(1);
        if self.failures >= max_attempts || self.attempts >= max_attempts.saturating_mul(UNCOUNTED_FACTOR) {
            let kind = ErrorKind::try_from(error.kind).unwrap_or(ErrorKind::Internal);
            let message = format!("task {} failed {} times (max_attempts), last: {error}", self.id, self.attempts);
            return Err(WireError::new(kind, message));
        }
        Ok(())
    }
}
