//! What the scheduler hears and what it asks for.

use std::sync::Arc;

use onward_wire::exchange::InputAttempt;
use onward_wire::message::AttemptOutput;
use onward_wire::{AttemptId, FunctionId, HostId, QueryId, SegmentId, WireError};

use super::output::StageOutput;

/// Functions of one shape are interchangeable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionShape {
    /// Threads of the function; at least 1.
    pub vcpus: u32,
    /// Limit of its operators' memory.
    pub memory_bytes: u64,
    /// The kind of host that it runs on; 0 is the default one.
    pub class: u16,
}

/// A query to run.
#[derive(Clone, Debug)]
pub struct QuerySpec {
    /// Not in use by another query.
    pub query: QueryId,
    /// Who asks; may be empty. Users share places and functions evenly.
    pub user: Arc<str>,
    /// The queue it waits in; empty: the default one.
    pub queue: Arc<str>,
    /// Functions it runs on at once, over all stages; at least 1.
    pub functions: usize,
    /// Shape of each of them, for stages that ask for no other.
    pub shape: FunctionShape,
    /// It fails with Cancelled this long after it was submitted, waiting included.
    pub timeout_ms: Option<u64>,
    /// Attempts of each task are numbered from here: a query that is planned again under its id gets numbers that its first
    /// plan never had, whose outcomes may still come.
    pub first_attempt: u32,
    /// A stage whose inputs turn out small runs as fewer tasks, each of at least this many bytes; 0: as many as planned.
    pub task_bytes: u64,
    /// A partition of more bytes, and of far more than the others, is read by several tasks, where a stage can do that; 0: never.
    pub split_bytes: u64,
    /// Stages start on a part of their inputs where functions are free.
    pub starts_early: bool,
    /// A task that outlives so many functions fails the query with an error that is worth smaller tasks
    /// ([`WireError::is_too_long`]); 0: it is tried as often as tasks are.
    pub task_lives: u32,
    /// In topological order; the last one's output is the result.
    pub stages: Vec<StageSpec>,
}

/// A stage of a [`QuerySpec`]. Its id is its position.
#[derive(Clone, Debug, Default)]
pub struct StageSpec {
    /// Stages it reads: earlier ones, without duplicates.
    pub inputs: Vec<u32>,
    /// The partitions each task runs. A stage without tasks has no rows and is complete at once.
    pub tasks: Vec<Vec<u32>>,
    /// Committed rows after which the tasks that are left need not run.
    pub enough_rows: Option<u64>,
    /// Two runs of a task may give different rows. Decides what re-runs when output is lost with a host.
    pub is_indeterminate: bool,
    /// Every task of its consumers reads it whole.
    pub is_broadcast: bool,
    /// It runs as fewer tasks when there is little to read.
    pub may_coalesce: bool,
    /// An input of which several tasks may each read a part of a partition, and that partition of the other inputs whole.
    pub splittable: Option<u32>,
    /// What it becomes when an input turns out small.
    pub alternative: Option<AlternativeSpec>,
    /// Stages whose output tells it which rows it need not read. It waits for them for a while.
    pub filter_sources: Vec<u32>,
    /// Shape of the functions that run it; `None`: the query's.
    pub shape: Option<FunctionShape>,
}

/// Another plan for a stage. Decided once, when its input `when` is complete; the input that it spares does not start before.
#[derive(Clone, Debug)]
pub struct AlternativeSpec {
    /// An input of the stage.
    pub when: u32,
    /// It is small when it has at most so many encoded bytes,
    pub most_bytes: u64,
    /// and so many rows.
    pub most_rows: u64,
    /// The other input, which is not run then.
    pub spares: u32,
    /// The stages that the other plan reads.
    pub inputs: Vec<u32>,
    /// Partitions of that plan, by task.
    pub tasks: Vec<Vec<u32>>,
}

/// A part of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The input stage.
    pub input: u32,
    /// Which part of its segments, from 0.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A query arrived.
    SubmitQuery(QuerySpec),
    /// A query shall end, because of the user, a closed connection or a drain. Ignored when it ended already.
    CancelQuery {
        /// Which.
        query: QueryId,
        /// What its client is told.
        reason: WireError,
    },
    /// The result of a finished query was fetched or dropped.
    ResultReleased {
        /// Which.
        query: QueryId,
    },
    /// A host joined: functions may be started on it.
    HostJoined {
        /// Its id, not used before.
        host: HostId,
        /// vCPUs of its functions that run at once.
        vcpus: u32,
        /// The most functions alive.
        max_functions: usize,
        /// Classes of functions that it offers; empty: all.
        classes: Vec<u16>,
    },
    /// A host wants to leave: it is given nothing new, and let go when nothing of it is needed ([`Command::LetHostGo`]).
    HostLeaves {
        /// Which.
        host: HostId,
    },
    /// A host is gone, with its functions and the output that lies there. Nothing more is heard of them.
    HostLost {
        /// Which.
        host: HostId,
        /// Why, for the user.
        reason: String,
    },
    /// A function said hello.
    FunctionReady {
        /// Which.
        function: FunctionId,
    },
    /// A function is gone: crashed, killed, or could not be started.
    FunctionLost {
        /// Which.
        function: FunctionId,
        /// Why, for the user.
        reason: String,
    },
    /// An attempt finished and the host verified its output.
    Prepared {
        /// Where it ran.
        function: FunctionId,
        /// Where its output lies.
        host: HostId,
        /// Which. Reported at most once.
        attempt: AttemptId,
        /// What it produced.
        output: AttemptOutput,
    },
    /// An attempt failed, or stopped because it was cancelled.
    AttemptFailed {
        /// Where it ran.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
        /// Why.
        error: WireError,
        /// The function is free. Where it is not, because an operator of the attempt has not yielded yet,
        /// `AttemptEnded` or `FunctionLost` follows.
        has_ended: bool,
    },
    /// Nothing in the function works any more for an attempt that failed before.
    AttemptEnded {
        /// Where it ran.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
    },
    /// Time passed: due at [`super::Scheduler::next_wakeup`].
    Tick,
}

/// What the shell must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start a function; the answer is `FunctionReady` or `FunctionLost`.
    StartFunction {
        /// Its id, not used before.
        function: FunctionId,
        /// Where.
        host: HostId,
        /// Its size.
        shape: FunctionShape,
    },
    /// End a function that runs nothing, or that did not answer a cancel, or whose lifetime is over: kill it when it does not leave.
    /// Nothing more is expected from it.
    StopFunction {
        /// Which.
        function: FunctionId,
    },
    /// Run an attempt on an idle function; the answer is `Prepared`, `AttemptFailed` or `FunctionLost`.
    RunAttempt {
        /// Where.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
        /// Partitions of the stage's plan.
        partitions: Vec<u32>,
        /// Committed attempts only, one entry per producer stage, ordered by task. All tasks of a stage share one list. Of what is
        /// open, the first ones: `MoreInputs` follows.
        inputs: Arc<Vec<StageOutput>>,
        /// It reads a part of one of them only.
        share: Option<Share>,
        /// Output up to this size may travel inline.
        inline_bytes: u64,
    },
    /// Tell an attempt what it reads after what it was told before.
    MoreInputs {
        /// Where it runs.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
        /// Partitions of the stage's plan that it runs.
        partitions: Vec<u32>,
        /// What follows, of some producer stages.
        inputs: Arc<Vec<StageOutput>>,
    },
    /// Stop an attempt; the answer is the same as to `RunAttempt`. The function takes nothing new before the attempt has
    /// ended, because one that does not end is stopped, with everything it runs.
    CancelAttempt {
        /// Where it runs.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
    },
    /// An attempt's output is now the task's output. Every other attempt of the task is void.
    AttemptCommitted {
        /// Which.
        attempt: AttemptId,
    },
    /// A stage runs its other plan, from its first attempt on.
    StageReplaced {
        /// Its query.
        query: QueryId,
        /// Which.
        stage: u32,
    },
    /// All tasks of a stage are committed, by these attempts. Said again when some ran again.
    StageCompleted {
        /// Its query.
        query: QueryId,
        /// Which.
        stage: u32,
        /// By task; of tasks that were spared, none.
        attempts: Vec<AttemptId>,
    },
    /// A host that wants to leave may: it runs nothing, and nobody needs what it holds.
    LetHostGo {
        /// Which.
        host: HostId,
    },
    /// Nobody will read these any more.
    ReleaseSegments(Vec<(HostId, SegmentId)>),
    /// All places are taken: the query waits.
    QueryQueued {
        /// Which.
        query: QueryId,
        /// Its place in the order in which the queries of its queue would start as things are, from 1.
        position: usize,
        /// Queries that wait in its queue.
        queued: usize,
    },
    /// A query that waits has another position.
    QueuePosition {
        /// Which.
        query: QueryId,
        /// As in `QueryQueued`.
        position: usize,
    },
    /// The query waits no longer.
    QueryStarted {
        /// Which.
        query: QueryId,
    },
    /// All rows are there. Its segments stay until `ResultReleased`.
    QueryDone {
        /// Which.
        query: QueryId,
        /// The committed attempts of the last stage, ordered by task.
        result: Vec<InputAttempt>,
        /// What it took.
        stats: QueryStats,
    },
    /// The query ended without a result.
    QueryFailed {
        /// Which.
        query: QueryId,
        /// What its client is told.
        error: WireError,
        /// What it took; empty when it never started.
        stats: QueryStats,
    },
}

/// What a query has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Tasks of all stages.
    pub tasks: u64,
    /// Tasks whose output is committed.
    pub tasks_committed: u64,
    /// Attempts started.
    pub attempts: u64,
    /// Attempts running now.
    pub running: u64,
    /// Distinct functions that ran attempts of each stage.
    pub functions_per_stage: Vec<u64>,
    /// Rows of the result; 0 until it is there.
    pub rows: u64,
    /// Encoded bytes that committed attempts of all stages but the last produced.
    pub exchange_bytes: u64,
}
