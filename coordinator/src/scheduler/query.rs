//! One running query: which tasks may run, what they read, what they wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onward_wire::exchange::InputAttempt;
use onward_wire::message::AttemptOutput;
use onward_wire::{AttemptId, ErrorKind, FunctionId, HostId, QueryId, SegmentId, StageId, WireError};

use super::early::Told;
use super::event::{Command, QuerySpec, QueryStats};
use super::limits::SchedulerLimits;
use super::output::{Committed, StageOutput};
use super::stage::Stage;
use super::task::{State, Task};

#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: QueryId,
    pub(super) user: Arc<str>,
    /// The queue whose place it has.
    pub(super) queue: Arc<str>,
    /// Functions it may use at once.
    pub(super) functions: usize,
    pub(super) deadline_ms: Option<u64>,
    /// See [`QuerySpec::task_bytes`].
    pub(super) task_bytes: u64,
    /// See [`QuerySpec::split_bytes`].
    pub(super) split_bytes: u64,
    /// See [`QuerySpec::task_lives`].
    task_lives: u32,
    /// See [`QuerySpec::starts_early`].
    pub(super) starts_early: bool,
    /// When it was last given a function, as a count of such events: the least recent one is served first.
    pub(super) turn: u64,
    pub(super) stages: Vec<Stage>,
    /// Functions that ran any of its attempts, the lost ones included.
    pub(super) used: BTreeSet<FunctionId>,
    /// Attempts that run and whose outcome it waits for.
    pub(super) running: usize,
    inline_bytes: u64,
    attempts: u64,
    exchange_bytes: u64,
}

/// Segments and where they lie.
pub(super) type Segments = Vec<(HostId, SegmentId)>;

/// What became of a prepared output.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was reported before.
    Known,
    /// Nobody reads it: another attempt won.
    Superseded(Segments),
    /// It counts. The task's other attempt, if one runs, must stop, and those whose rows nobody wants any more; these segments
    /// were read for the last time.
    Committed {
        cancel: Vec<(FunctionId, AttemptId)>,
        release: Segments,
        /// Stages that run their other plan now.
        replaced: Vec<u32>,
        /// The attempts that count, if the stage is complete now.
        completed: Option<Vec<AttemptId>>,
        /// What attempts that started early are told.
        told: Vec<Told>,
    },
}

impl Query {
    /// Errors with Internal when the stages are not in topological order.
    pub(super) fn new(spec: QuerySpec, deadline_ms: Option<u64>, turn: u64) -> Result<Self, WireError> {
        let mut stages: Vec<Stage> = Vec::with_capacity(spec.stages.len());
        for (stage, position) in spec.stages.into_iter().zip(0u32..) {
            let id = StageId::new(spec.query, position);
            for input in &stage.inputs {
                let Some(producer) = stages.get_mut(*input as usize) else {
                    let message = format!("stage {id} reads stage {input}, which does not come before it");
                    return Err(WireError::new(ErrorKind::Internal, message));
                };
                producer.consumers.push(position);
            }
            if let Some(alternative) = &stage.alternative
                && let Some(spared) = stages.get_mut(alternative.spares as usize)
            {
                spared.waits_for = Some(alternative.when);
            }
            stages.push(Stage::new(id, stage, spec.shape, spec.first_attempt));
        }
        if stages.is_empty() {
            return Err(WireError::new(ErrorKind::Internal, format!("query {} has no stages", spec.query)));
        }
        Ok(Self {
            id: spec.query,
            user: spec.user,
            queue: spec.queue,
            functions: spec.functions.max(1),
            deadline_ms,
            task_bytes: spec.task_bytes,
            split_bytes: spec.split_bytes,
            task_lives: spec.task_lives,
            starts_early: spec.starts_early,
            turn,
            stages,
            used: BTreeSet::new(),
            running: 0,
            inline_bytes: 0,
            attempts: 0,
            exchange_bytes: 0,
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.stages.iter().all(Stage::is_complete)
    }

    /// Stages with tasks that may start: all producers are complete.
    pub(super) fn could_start(&self) -> impl Iterator<Item = u32> + '_ {
        let is_ready = |stage: &Stage| {
            let mut needed = stage.inputs.iter().chain(&stage.waits_for);
            needed.all(|needed| self.stages[*needed as usize].is_complete())
        };
        (0..).zip(&self.stages).filter(move |(_, stage)| !stage.pending.is_empty() && is_ready(stage)).map(|(id, _)| id)
    }

    /// Notes since when stages could start.
    pub(super) fn note_ready(&mut self, now_ms: u64) {
        for id in self.could_start().collect::<Vec<_>>() {
            self.stages[id as usize].ready_since_ms.get_or_insert(now_ms);
        }
    }

    /// Until when a stage that could start waits for what it need not read; `None`: not at all.
    fn waits_until(&self, id: u32, most_ms: u64) -> Option<u64> {
        let stage = &self.stages[id as usize];
        let is_open = |source: &u32| !self.stages[*source as usize].is_complete();
        let since_ms = stage.ready_since_ms.filter(|_| stage.is_new() && stage.filter_sources.iter().any(is_open))?;
        Some(since_ms.saturating_add(most_ms))
    }

    /// Stages with tasks that are to start at `now_ms`.
    pub(super) fn ready_stages(&self, now_ms: u64, most_wait_ms: u64) -> impl Iterator<Item = u32> + '_ {
        self.could_start().filter(move |id| self.waits_until(*id, most_wait_ms).is_none_or(|until| until <= now_ms))
    }

    /// When the first stage has waited long enough.
    pub(super) fn next_start(&self, now_ms: u64, most_wait_ms: u64) -> Option<u64> {
        let waits = self.could_start().filter_map(move |id| self.waits_until(id, most_wait_ms));
        waits.filter(|until| *until > now_ms).min()
    }

    /// Starts an attempt of a pending task of a ready stage.
    pub(super) fn begin(&mut self, stage: u32, task: u32, function: FunctionId, limits: &SchedulerLimits) -> Command {
        let inputs = self.inputs(stage);
        let stage = &mut self.stages[stage as usize];
        let inline_bytes = limits
            .inline_attempt_bytes
            .min(limits.inline_exchange_bytes.saturating_sub(stage.inline_bytes))
            .min(limits.inline_query_bytes.saturating_sub(self.inline_bytes));
        stage.inline_bytes += inline_bytes;
        stage.pending.remove(&task);
        stage.used.insert(function);
        let task = &mut stage.tasks[task as usize];
        let attempt = task.id.attempt(task.begin(function, inline_bytes));
        self.used.insert(function);
        self.inline_bytes += inline_bytes;
        self.running += 1;
        self.attempts += 1;
        let (partitions, share) = (task.partitions.clone(), task.share);
        Command::RunAttempt { function, attempt, partitions, inputs, share, inline_bytes }
    }

    fn inputs(&mut self, stage: u32) -> Arc<Vec<StageOutput>> {
        match &self.stages[stage as usize].bound_inputs {
            Some(inputs) => Arc::clone(inputs),
            None => self.bind(stage),
        }
    }

    /// What attempts of the stage that begin from here on are told: all, or what is known of it (see [`super::early`]).
    pub(super) fn bind(&mut self, stage: u32) -> Arc<Vec<StageOutput>> {
        let consumer = &self.stages[stage as usize];
        let output = |(at, input): (usize, &u32)| {
            let producer = &self.stages[*input as usize];
            let known = consumer.told.as_ref().map_or(producer.tasks.len(), |told| told[at]);
            let is_open = consumer.told.is_some() && !producer.is_complete();
            StageOutput::new(*input, producer.output_of(0..known), is_open)
        };
        let inputs = Arc::new(consumer.inputs.iter().enumerate().map(output).collect());
        self.stages[stage as usize].bound_inputs = Some(Arc::clone(&inputs));
        inputs
    }

    /// Where the bytes lie that a ready stage reads. Inline output lies nowhere.
    pub(super) fn bytes_by_host(&self, stage: &Stage) -> BTreeMap<HostId, u64> {
        let mut bytes = BTreeMap::new();
        for task in stage.inputs.iter().flat_map(|input| &self.stages[*input as usize].tasks) {
            if let State::Committed { output: Some(output) } = &task.state
                && output.inline.is_empty()
            {
                let length = output.segments.iter().map(|segment| segment.length_bytes).sum::<u64>();
                *bytes.entry(output.host).or_default() += length;
            }
        }
        bytes
    }

    fn task(&mut self, attempt: AttemptId) -> Option<&mut Task> {
        self.stages.get_mut(attempt.task.stage.stage as usize)?.tasks.get_mut(attempt.task.task as usize)
    }

    /// An attempt's output is there. The first of a task wins.
    pub(super) fn prepared(
        &mut self,
        attempt: AttemptId,
        host: HostId,
        output: AttemptOutput,
        limits: &SchedulerLimits,
    ) -> Outcome {
        let superseded = Outcome::Superseded(output.segments.iter().map(|segment| (host, segment.id())).collect());
        let Some(task) = self.task(attempt) else { return superseded };
        if !task.report(attempt.attempt) {
            return Outcome::Known;
        }
        if task.is_void(attempt.attempt) {
            return superseded;
        }
        let (other, reserved) = match task.state {
            State::Committed { .. } => return superseded,
            State::Running { attempt: running, inline_bytes, .. } if running == attempt.attempt => (None, inline_bytes),
            State::Running { attempt: running, function, inline_bytes } => {
                (Some((function, task.id.attempt(running))), inline_bytes)
            }
            State::Pending => (None, 0),
        };
        let is_running = matches!(task.state, State::Running { .. });
        let inline_bytes = output.inline.len() as u64;
        let stage = &mut self.stages[attempt.task.stage.stage as usize];
        // The output of an attempt that was given up holds no reservation: it may not fit any more.
        let fits = stage.inline_bytes - reserved + inline_bytes <= limits.inline_exchange_bytes
            && self.inline_bytes - reserved + inline_bytes <= limits.inline_query_bytes;
        if inline_bytes > reserved && !fits {
            return superseded;
        }
        stage.inline_bytes = stage.inline_bytes - reserved + inline_bytes;
        self.inline_bytes = self.inline_bytes - reserved + inline_bytes;
        self.running -= usize::from(is_running);
        if attempt.task.stage.stage as usize + 1 < self.stages.len() {
            self.exchange_bytes += output.bytes();
        }
        let stage = &mut self.stages[attempt.task.stage.stage as usize];
        stage.pending.remove(&attempt.task.task);
        stage.committed += 1;
        let output = Some(Arc::new(Committed::new(attempt, host, output)));
        stage.tasks[attempt.task.task as usize].state = State::Committed { output };
        let id = attempt.task.stage.stage;
        let mut cancel: Vec<_> = other.into_iter().collect();
        if self.stages[id as usize].has_enough() {
            cancel.extend(self.end_stage(id));
        }
        let replaced = self.adapt_consumers(id);
        let stage = &self.stages[id as usize];
        let attempts = || stage.output().iter().map(|output| output.attempt).collect();
        let completed = stage.is_complete().then(attempts);
        let told = self.tell_consumers(id);
        let (stopped, release) = self.spare_unread(id);
        cancel.extend(stopped);
        Outcome::Committed { cancel, release, replaced, completed, told }
    }

    /// Ends a stage of which nobody wants more rows; its attempts that still run.
    pub(super) fn end_stage(&mut self, id: u32) -> Vec<(FunctionId, AttemptId)> {
        let stage = &mut self.stages[id as usize];
        let (mut running, mut reserved) = (Vec::new(), 0);
        for task in &mut stage.tasks {
            if let State::Running { attempt, function, inline_bytes } = task.state {
                running.push((function, task.id.attempt(attempt)));
                reserved += inline_bytes;
            }
            if !matches!(task.state, State::Committed { .. }) {
                task.state = State::Committed { output: None };
            }
        }
        stage.pending.clear();
        stage.committed = stage.tasks.len();
        stage.inline_bytes -= reserved;
        self.inline_bytes -= reserved;
        self.running -= running.len();
        running
    }

    /// When `consumer` is complete, lets go of the inputs that no other stage still reads.
    pub(super) fn release_read(&mut self, consumer: u32) -> Segments {
        let mut released = Vec::new();
        if !self.stages[consumer as usize].is_complete() {
            return released;
        }
        self.stages[consumer as usize].bound_inputs = None;
        self.stages[consumer as usize].told = None;
        for input in self.stages[consumer as usize].inputs.clone() {
            let consumers = &self.stages[input as usize].consumers;
            if consumers.iter().all(|consumer| self.stages[*consumer as usize].is_complete()) {
                let (segments, inline_bytes) = self.stages[input as usize].take_output();
                released.extend(segments);
                self.inline_bytes -= inline_bytes;
            }
        }
        released
    }

    /// An attempt ended without output. `Err` ends the query.
    pub(super) fn failed(&mut self, attempt: AttemptId, error: WireError, max_attempts: u32) -> Result<(), WireError> {
        let Some(task) = self.task(attempt) else { return Ok(()) };
        task.report(attempt.attempt);
        self.give_up(attempt, error, max_attempts)
    }

    /// The function of an attempt is gone; the attempt's output may still turn up. `Err` ends the query.
    pub(super) fn give_up(&mut self, attempt: AttemptId, error: WireError, max_attempts: u32) -> Result<(), WireError> {
        let task_lives = self.task_lives;
        let Some(task) = self.task(attempt) else { return Ok(()) };
        let State::Running { attempt: running, inline_bytes, .. } = task.state else { return Ok(()) };
        if running != attempt.attempt {
            return Ok(());
        }
        let retried = match error.is_too_long && task.outlived() == task_lives {
            true => {
                let why = format!(
                    "task {} takes longer than a function lives ({task_lives} were too old before it was done): raise \
                     function_lifetime_ms, or `SET onward.tasks` for smaller tasks",
                    task.id
                );
                Err(WireError { is_too_long: true, ..WireError::new(ErrorKind::ResourceExhausted, why) })
            }
            false => task.retry_after(error, max_attempts),
        };
        self.waits_again(attempt, inline_bytes);
        retried
    }

    /// A running attempt is stopped through no fault of its own; its task waits again.
    pub(super) fn put_back(&mut self, attempt: AttemptId) {
        let Some(task) = self.task(attempt) else { return };
        if let State::Running { attempt: running, inline_bytes, .. } = task.state
            && running == attempt.attempt
        {
            task.void(attempt.attempt);
            self.waits_again(attempt, inline_bytes);
        }
    }

    fn waits_again(&mut self, attempt: AttemptId, inline_bytes: u64) {
        let stage = &mut self.stages[attempt.task.stage.stage as usize];
        stage.inline_bytes -= inline_bytes;
        stage.pending.insert(attempt.task.task);
        self.inline_bytes -= inline_bytes;
        self.running -= 1;
    }

    /// Inline output of this size is not kept any more.
    pub(super) fn release_inline(&mut self, bytes: u64) {
        self.inline_bytes -= bytes;
    }

    pub(super) fn running_attempts(&self) -> Vec<(FunctionId, AttemptId)> {
        let tasks = self.stages.iter().flat_map(|stage| &stage.tasks);
        let running = tasks.filter_map(|task| match task.state {
            State::Running { attempt, function, .. } => Some((function, task.id.attempt(attempt))),
            _ => None,
        });
        running.collect()
    }

    /// The result, once the query is complete.
    pub(super) fn result(&self) -> Vec<InputAttempt> {
        let output = self.stages.last().map(Stage::output).unwrap_or_default();
        output.iter().map(|committed| committed.input(None)).collect()
    }

    /// Rows of the result, once the query is complete.
    pub(super) fn result_rows(&self) -> u64 {
        self.stages.last().into_iter().flat_map(Stage::output).map(|output| output.rows).sum()
    }

    /// Lets go of all committed output that is left: of all stages, and of the last one apart.
    pub(super) fn take_segments(&mut self) -> (Segments, Segments) {
        let result = self.stages.last_mut().map(|stage| stage.take_output().0).unwrap_or_default();
        let others = self.stages.iter_mut().flat_map(|stage| stage.take_output().0).collect();
        (others, result)
    }

    pub(super) fn stats(&self) -> QueryStats {
        QueryStats {
            tasks: self.stages.iter().map(|stage| stage.tasks.len() as u64).sum(),
            tasks_committed: self.stages.iter().map(|stage| stage.committed as u64).sum(),
            attempts: self.attempts,
            running: self.running as u64,
            functions_per_stage: self.stages.iter().map(|stage| stage.used.len() as u64).collect(),
            rows: 0,
            exchange_bytes: self.exchange_bytes,
        }
    }
}
