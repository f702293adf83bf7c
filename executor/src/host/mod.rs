//! The host: owns this machine's segment store and its function processes.
//!
//! ```text
//!   coordinator --commands--> Host --socket--> function process        one supervisor task per function:
//!        ^                     |                                         launch, handshake, serve its requests,
//!        +----- HostEvent -----+                                         and in the end kill, wait, take back
//! ```
//!
//! Commands never wait; what comes of them arrives as a [`HostEvent`]. Guarantees:
//!
//! - A function's files and leases are taken back only after its process was reaped: no mapping outlives its lease.
//! - [`HostEvent::FunctionLost`] is the last event of a function, whatever ended it, and comes exactly once.
//! - [`HostEvent::Prepared`] means that every segment of the attempt was verified; until [`Host::remove_segments`] they stay.
//! - After [`Host::shutdown`] no function process, directory or file of this host is left.

mod columns;
mod connection;
mod coordinators;
mod data_plane;
mod fetches;
mod files;
mod function;
mod handshake;
mod held;
mod launch;
mod member;
mod neighbours;
mod ranges;
mod resident;
mod supervise;
mod watchdog;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use onward_cache::columns::ColumnTier;
use onward_cache::ranges::RangeTier;
use onward_cache::{OpenUploads, StoreRegistry};
use onward_planner::error::classify;
use onward_segment::{MappedSegment, ScratchDir, SegmentStore, StoreOptions};
use onward_shuffle::flight::GrantKey;
use onward_wire::exchange::{FetchSegments, MoreInputs, StageInputs};
use onward_wire::filters::RuntimeFilters;
use onward_wire::message::{
    AttemptDone, CancelAttempt, DefineStage, ForgetQuery, Progress, RunAttempt, SegmentRef, Shutdown, ToFunction,
};
use onward_wire::{AttemptId, Config, ErrorKind, FunctionId, HostId, QueryId, SegmentId, StageId, WireError};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::data_plane::{DataPlane, Exchange, MemberStream, serve_exchange};
use self::files::Access;
use self::function::Function;
use self::held::Held;
use self::launch::Launcher;
pub use self::member::{Member, MemberOptions};
use self::neighbours::Neighbours;
use crate::sandbox;
use crate::socket::SocketError;

/// Directories of hosts.
const DIRECTORY_PREFIX: &str = "onward-host-";

/// How to start a host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Limits and directories.
    pub config: Arc<Config>,
    /// What functions are forked from runs `PROGRAM zygote`: see [`crate::zygote`].
    pub program: PathBuf,
    /// Where functions' uploads to object stores are noted.
    pub uploads: Arc<OpenUploads>,
    /// Stores that functions read and write through this host.
    pub stores: Arc<StoreRegistry>,
    /// Bytes of remote objects that are kept; `None`: none are.
    pub ranges: Option<Arc<RangeTier>>,
    /// What grants to read its segments are signed with.
    pub key: GrantKey,
}

/// What happened on the host. Events of one function are in order.
#[derive(Debug)]
pub enum HostEvent {
    /// The function said hello and takes work.
    FunctionReady {
        /// Which.
        function: FunctionId,
        /// Its process.
        pid: u32,
    },
    /// The function's process is gone and everything it held was taken back. Its last event.
    FunctionLost {
        /// Which.
        function: FunctionId,
        /// Why, for people.
        reason: String,
    },
    /// An attempt runs.
    Progress {
        /// Where.
        function: FunctionId,
        /// How far.
        progress: Progress,
    },
    /// An attempt finished and its segments are verified: the coordinator may commit it.
    Prepared {
        /// Where.
        function: FunctionId,
        /// What it made.
        done: AttemptDone,
    },
    /// An attempt ended without output; its segments are discarded.
    AttemptFailed {
        /// Where.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
        /// Why.
        error: WireError,
        /// Nothing in the function works for it any more. Where something does, an operator that has not yielded yet,
        /// [`HostEvent::AttemptEnded`] follows.
        has_ended: bool,
    },
    /// Nothing in the function works any more for an attempt that was answered before.
    AttemptEnded {
        /// Where.
        function: FunctionId,
        /// Which.
        attempt: AttemptId,
    },
}

/// Why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The private directory could not be made.
    #[error("{path}: {source}; set spill_dir to a directory that can be written", path = path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The launching thread could not be started.
    #[error("cannot start the thread that launches functions: {0}")]
    Launcher(io::Error),
    /// The segment store could not be made.
    #[error(transparent)]
    Segments(#[from] onward_segment::SegmentError),
    /// What it needs to talk to other hosts is not right.
    #[error("{0}")]
    Cluster(WireError),
}

/// A running host. Dropping it kills its functions; [`Host::shutdown`] also waits for them.
pub struct Host {
    shared: Arc<Shared>,
}

/// What supervisors and the host share.
struct Shared {
    config: Arc<Config>,
    uploads: Arc<OpenUploads>,
    stores: Arc<StoreRegistry>,
    store: Arc<SegmentStore>,
    held: Arc<Held>,
    neighbours: Arc<Neighbours>,
    data_plane: DataPlane,
    columns: Arc<ColumnTier>,
    ranges: Option<Arc<RangeTier>>,
    functions: Mutex<HashMap<FunctionId, Arc<Function>>>,
    /// Told when an attempt ended or a function is gone.
    ended: Arc<Notify>,
    launcher: Launcher,
    supervisors: TaskTracker,
    runtime: tokio::runtime::Handle,
    /// No function is started any more.
    closed: CancellationToken,
    /// Holds the spills of functions.
    directory: ScratchDir,
    /// Last: the end of the events says that everything above is gone.
    events: mpsc::UnboundedSender<HostEvent>,
}

/// Removes what hosts of crashed processes left. [`Host::start`] does that too, but a process may wait long for its first
/// function, and what was left takes memory.
pub fn remove_leftovers(config: &Config) {
    ScratchDir::remove_leftovers(&config.spill_root(), DIRECTORY_PREFIX, |_| true);
    SegmentStore::remove_leftovers(config);
}

impl Host {
    /// Starts a host on the current tokio runtime. Events go to `events`, a queue the coordinator drains; its length is
    /// bounded by what functions may send: an attempt's end, and progress at most every 100 ms.
    pub fn start(options: HostOptions, events: mpsc::UnboundedSender<HostEvent>) -> Result<Arc<Self>, HostError> {
        raise_descriptor_limit();
        let HostOptions { config, program, uploads, stores, ranges, key } = options;
        let runtime = tokio::runtime::Handle::current();
        let root = config.spill_root();
        let directory = ScratchDir::create(&root, DIRECTORY_PREFIX);
        let directory = directory.map_err(|source| HostError::Directory { path: root, source })?;
        let store = SegmentStore::open(StoreOptions::from_config(&config))?;
        let held = Arc::new(Held::new(Arc::clone(&store)));
        let neighbours =
            Neighbours::new(&config, Arc::clone(&store), Arc::clone(&held), key).map_err(HostError::Cluster)?;
        let neighbours = Arc::new(neighbours);
        let data_plane = DataPlane::new(Arc::clone(&held), Arc::clone(&neighbours), config.max_message_bytes);
        // Bounded by what evicts: a column for every one that is published.
        let (evicted, evictions) = mpsc::unbounded_channel();
        let columns = SegmentStore::open(StoreOptions::for_columns(&config))?;
        let columns = ColumnTier::new(columns, Box::new(move |segments| drop(evicted.send(segments.to_vec()))));
        for missing in sandbox::missing() {
            tracing::warn!("functions are not fully confined on this machine: {missing}");
        }
        let launcher = Launcher::start(program, runtime.clone()).map_err(HostError::Launcher)?;
        let shared = Shared {
            config,
            uploads,
            stores,
            store,
            held,
            neighbours,
            data_plane,
            columns: Arc::new(columns),
            ranges,
            functions: Mutex::default(),
            ended: Arc::default(),
            launcher,
            supervisors: TaskTracker::new(),
            runtime,
            closed: CancellationToken::new(),
            directory,
            events,
        };
        let shared = Arc::new(shared);
        shared.runtime.spawn(columns::report_evictions(Arc::downgrade(&shared), evictions));
        shared.runtime.spawn(warm_up(Arc::downgrade(&shared)));
        Ok(Arc::new(Self { shared }))
    }

    /// The segment store, for reading results in this process.
    pub fn store(&self) -> &Arc<SegmentStore> {
        &self.shared.store
    }

    /// The cached columns.
    pub fn columns(&self) -> &Arc<ColumnTier> {
        &self.shared.columns
    }

    /// Starts a function: [`HostEvent::FunctionReady`] follows, or [`HostEvent::FunctionLost`].
    ///
    /// `id` must be new; `memory_bytes` limits its operators.
    pub fn start_function(&self, id: FunctionId, vcpus: usize, memory_bytes: u64) {
        let function = Arc::new(Function::new(id, vcpus, memory_bytes));
        let mut functions = self.shared.functions.lock();
        if self.shared.closed.is_cancelled() {
            drop(functions);
            self.shared.emit(HostEvent::FunctionLost { function: id, reason: "the host shuts down".to_owned() });
            return;
        }
        functions.insert(id, Arc::clone(&function));
        drop(functions);
        let supervisor = supervise::supervise(Arc::clone(&self.shared), function);
        self.shared.supervisors.spawn_on(supervisor, &self.shared.runtime);
    }

    /// Tells a function to leave; it is killed when it has not left a second later.
    pub fn stop_function(&self, id: FunctionId) {
        if let Some(function) = self.function(id) {
            function.leave();
        }
    }

    /// Kills a function at once: what it runs is lost.
    pub fn kill_function(&self, id: FunctionId, reason: impl Into<String>) {
        if let Some(function) = self.function(id) {
            function.kill(reason.into());
        }
    }

    /// Sends a stage to a function, before the first attempt of it. Its stores stay here, and their credentials.
    pub fn define_stage(&self, function: FunctionId, mut stage: DefineStage) {
        let id = StageId::new(QueryId(stage.query), stage.stage);
        let Some(function) = self.function(function) else { return };
        let specs = std::mem::take(&mut stage.stores);
        // The coordinator's own host has the coordinator's stores, with the options they have by now.
        let is_embedded = self.shared.neighbours.id() == HostId::EMBEDDED;
        let mut missing = specs.iter().filter(|_| !is_embedded);
        let registered = missing.try_for_each(|spec| self.shared.stores.register(spec));
        let registered = registered.map_err(|error| classify(&error.into()));
        function.allow(id, Access::of(&stage));
        if let Err(error) = registered.and_then(|()| send(&function, stage)) {
            // The attempt that needs the stage says so: a command has no answer of its own.
            function.set_undefined(id, error);
        }
    }

    /// Runs an attempt. [`HostEvent::Prepared`] or [`HostEvent::AttemptFailed`] follows, or the function is lost.
    pub fn run_attempt(&self, id: FunctionId, attempt: RunAttempt) {
        let Some(function) = self.function(id) else { return };
        let attempt_id = AttemptId::from(attempt.attempt);
        function.begin(attempt_id, self.readable(&attempt.inputs));
        let stage = attempt_id.task.stage;
        let result = function.undefined(stage).map_or_else(|| send(&function, attempt), Err);
        if let Err(error) = result
            && function.answer(attempt_id)
        {
            // It never reached the function.
            function.end(attempt_id);
            self.shared.emit(HostEvent::AttemptFailed { function: id, attempt: attempt_id, error, has_ended: true });
        }
    }

    /// Tells an attempt what more it reads. One that has ended reads no more.
    pub fn more_inputs(&self, id: FunctionId, more: MoreInputs) {
        let Some(function) = self.function(id) else { return };
        let attempt = AttemptId::from(more.attempt);
        function.may_read_more(attempt, self.readable(&more.inputs));
        if let Err(error) = send(&function, more)
            && function.answer(attempt)
        {
            // It would wait for ever. A function that is lost reports itself.
            let _ = send(&function, CancelAttempt { attempt: attempt.into() });
            self.shared.emit(HostEvent::AttemptFailed { function: id, attempt, error, has_ended: false });
        }
    }

    /// Segments of this host among `inputs`.
    fn readable(&self, inputs: &[StageInputs]) -> HashSet<SegmentId> {
        let here = self.shared.neighbours.id();
        let attempts = inputs.iter().flat_map(|inputs| &inputs.attempts).filter(|input| input.host() == here);
        attempts.flat_map(|input| &input.output.segments).map(|segment| segment.id()).collect()
    }

    /// Stops an attempt: [`HostEvent::AttemptFailed`] of kind Cancelled follows, or [`HostEvent::Prepared`] when it was
    /// faster. [`HostEvent::AttemptEnded`] says when an operator that does not yield has stopped.
    pub fn cancel_attempt(&self, function: FunctionId, attempt: AttemptId) {
        if let Some(function) = self.function(function) {
            // Lost functions report themselves.
            let _ = send(&function, CancelAttempt { attempt: attempt.into() });
        }
    }

    /// Tells an attempt what its scans need not look at. One that has ended, or will not begin, needs no filter.
    pub fn add_filters(&self, function: FunctionId, filters: RuntimeFilters) {
        if let Some(function) = self.function(function) {
            // Lost functions report themselves.
            let _ = send(&function, filters);
        }
    }

    /// Drops the query's stages in all functions, and its segments but for those that are still to be read. Its attempts must
    /// have ended.
    pub fn forget_query(&self, query: QueryId, kept: &[SegmentId]) {
        let mut left = self.shared.held.of_query(query);
        left.retain(|segment| !kept.contains(segment));
        self.remove_segments(&left);
        let functions: Vec<_> = self.shared.functions.lock().values().cloned().collect();
        for function in functions {
            if function.forget(query) {
                let _ = send(&function, ForgetQuery { query: query.0, kept: vec![] });
            }
        }
        self.shared.neighbours.forget(query);
    }

    /// Resolves when no function works for `query` any more: every attempt that was sent has ended, or its process was
    /// reaped. Nothing is staged or uploaded for the query from then on, if no attempt of it is sent later.
    pub fn query_ended(&self, query: QueryId) -> impl Future<Output = ()> + Send + use<> {
        // Not the host: who waits must not keep its functions alive.
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                let ended = shared.ended.notified();
                if !shared.functions.lock().values().any(|function| function.works_for(query)) {
                    return;
                }
                ended.await;
            }
        }
    }

    /// Gives committed or prepared segments back. Mappings that functions or results still hold stay readable.
    pub fn remove_segments(&self, segments: &[SegmentId]) {
        self.shared.held.forget(segments);
        for segment in segments {
            self.shared.store.remove(*segment);
        }
    }

    /// Commits a segment that this process wrote into the host's store, as output of `stage`.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn commit(&self, segment: &SegmentRef, stage: StageId) -> Result<(), WireError> {
        self.shared.store.commit(segment)?;
        self.shared.held.note(segment.id(), stage);
        Ok(())
    }

    /// Serves its segments to other hosts.
    pub fn data_plane(&self) -> &DataPlane {
        &self.shared.data_plane
    }

    /// Other hosts are there now, or elsewhere, or are gone.
    pub fn change_peers(
        &self,
        joined: impl IntoIterator<Item = (HostId, String)>,
        gone: impl IntoIterator<Item = HostId>,
    ) {
        self.shared.neighbours.change_peers(joined, gone);
    }

    /// What another host has, mapped in this process.
    ///
    /// # Errors
    /// Unavailable when the host or its segments are gone; ResourceExhausted without room.
    pub async fn fetch(&self, asked: &FetchSegments) -> Result<Arc<MappedSegment>, WireError> {
        let brought = self.shared.neighbours.fetch(asked).await?;
        let mapped = self.shared.store.map(brought.segment.id());
        if !brought.is_shared {
            self.shared.store.remove(brought.segment.id());
        }
        Ok(mapped?)
    }

    /// Kills all functions, waits until they are reaped, and removes all segments. Cached columns stay.
    pub async fn reset(&self) {
        for function in self.functions() {
            self.kill_function(function, "the host left its coordinator");
        }
        loop {
            let ended = self.shared.ended.notified();
            if self.shared.functions.lock().is_empty() {
                break;
            }
            ended.await;
        }
        self.shared.neighbours.forget_all();
        self.remove_segments(&self.shared.held.segments());
    }

    /// Functions whose processes exist or are being started.
    pub fn functions(&self) -> Vec<FunctionId> {
        self.shared.functions.lock().keys().copied().collect()
    }

    /// Ends all functions and waits until they are reaped and everything they held is taken back. Then the zygote ends, too.
    pub async fn shutdown(&self) {
        let functions: Vec<_> = {
            let functions = self.shared.functions.lock();
            self.shared.closed.cancel();
            functions.values().cloned().collect()
        };
        for function in functions {
            function.leave();
        }
        self.shared.supervisors.close();
        self.shared.supervisors.wait().await;
        self.shared.launcher.end().await;
    }

    fn function(&self, id: FunctionId) -> Option<Arc<Function>> {
        self.shared.functions.lock().get(&id).cloned()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("functions", &self.functions()).finish_non_exhaustive()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let functions = self.shared.functions.lock();
        self.shared.closed.cancel();
        for function in functions.values() {
            function.kill("the host was dropped".to_owned());
        }
    }
}

impl Shared {
    fn emit(&self, event: HostEvent) {
        // Nobody listens any more when the coordinator is being dropped.
        let _ = self.events.send(event);
    }
}

/// Starts the zygote, so that the first function is forked at once.
async fn warm_up(host: Weak<Shared>) {
    if let Some(host) = host.upgrade() {
        host.launcher.warm_up().await;
    }
}

/// Sends a command. A function that does not read is killed; one that is gone reports itself as lost.
fn send(function: &Function, message: impl Into<ToFunction>) -> Result<(), WireError> {
    let Some(sender) = function.sender() else { return Ok(()) };
    match sender.try_send(message, vec![]) {
        Ok(()) | Err(SocketError::Closed) => Ok(()),
        Err(error @ SocketError::TooLarge { .. }) => Err(WireError::new(ErrorKind::ResourceExhausted, error)),
        Err(error) => {
            function.kill(error.to_string());
            Ok(())
        }
    }
}

/// Tells a function to finish.
fn send_shutdown(function: &Function) {
    // An error means that it is gone already.
    let _ = send(function, Shutdown {});
}

/// Descriptors in flight count against this limit, and its soft default is small (1,024).
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
