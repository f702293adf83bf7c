//! [`Coordinator`]: what outlives sessions.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use datafusion::common::DataFusionError;
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use onward_cache::columns::LocalColumns;
use onward_cache::ranges::RangeOptions;
use onward_cache::scan::WarmScans;
use onward_executor::host::{self, HostOptions};
use onward_shuffle::flight::GrantKey;
use onward_state::Fenced;
use onward_wire::{Config, ErrorKind, FunctionId, QueryId, WireError};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::accounting::{Prices, QueryCost};
use crate::api::{CoordinatorOptions, QueryError, Result, SessionOptions};
use crate::catalog::{Catalog, DataDirectory};
use crate::client::Session;
use crate::cluster::{ClusterListener, ClusterOptions, ClusterServer};
use crate::engine::{Capacity, Engine, Stopper, Wanted};
use crate::hosts::Hosts;
use crate::scheduler::Demand;
use crate::session::{SharedResources, redact};
use crate::system::{self, History, HostTable, KeptHistory, QueryLog, QueryRecord};
use crate::term::{Term, leads_no_longer};

/// Who holds the cached columns that plans of this process read. Functions are numbered from 0.
const NO_FUNCTION: FunctionId = FunctionId(u64::MAX);

/// A file of few bytes may have columns of many: decoding them whole is for functions, which have a limit and die alone.
const MOST_GROUP_BYTES: u64 = 32 << 20;

/// Operators that an out-of-memory error names.
const TOP_CONSUMERS: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not 0");

/// A running coordinator with its embedded host. Dropping it ends all queries and functions; `shutdown` drains first.
pub struct Coordinator {
    pub(crate) config: Arc<Config>,
    pub(crate) history: Arc<History>,
    pub(crate) resources: Arc<SharedResources>,
    program: PathBuf,
    term: Term,
    state: Option<Fenced>,
    /// The settings of a new session, once there was one.
    pub(crate) defaults: OnceLock<Arc<BTreeMap<String, Option<String>>>>,
    /// Started by the first query that needs a function: `select 1` pays for no host.
    engine: OnceCell<Engine>,
    pub(crate) hosts: Arc<HostTable>,
    /// What all hosts together can do.
    capacity: watch::Sender<Capacity>,
    /// The listener that hosts join at, and who waits for its end.
    cluster: Mutex<Option<ClusterServer>>,
    /// Who keeps which hosts there are, for the next coordinator.
    membership: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Who starts hosts, if anybody.
    started: Mutex<Option<Hosts>>,
    /// The host's cached columns, once there is a host.
    cached: system::TierCell,
    /// Scans of this process, over those columns.
    scans: OnceLock<WarmScans>,
    running: Mutex<HashMap<QueryId, Stopper>>,
    /// Follows the number of running queries, for draining.
    running_count: watch::Sender<usize>,
    sessions: AtomicU32,
    is_closing: AtomicBool,
}

impl Coordinator {
    /// Starts coordinator and host. Errors when `data_dir` is served by another process.
    pub async fn start(options: CoordinatorOptions) -> Result<Arc<Self>> {
        let program = match options.function_program {
            Some(program) => program,
            None => std::env::current_exe().map_err(|error| {
                QueryError::from(WireError::new(
                    ErrorKind::Internal,
                    format!("cannot find the program that functions run: {error}; set function_program"),
                ))
            })?,
        };
        options.config.check()?;
        let config = Arc::new(options.config);
        let log = options.data_dir.as_deref().filter(|_| config.query_log_bytes > 0);
        let log = log.map(|directory| QueryLog::new(directory, config.query_log_bytes));
        let mut history = History::new(Prices::read(&config.price_file)?, log);
        if let Some(state) = &options.state {
            let kept = KeptHistory::open(state.clone(), options.term.epoch).await;
            let (kept, before) = kept.map_err(|error| WireError::new(ErrorKind::Unavailable, error))?;
            history = history.shared(kept, before);
        }
        let history = Arc::new(history);
        if let Some(state) = &options.state {
            system::keep_running(&history, state.clone());
        }
        let cached = system::TierCell::default();
        let scratch = config.spill_root();
        host::remove_leftovers(&config);
        let data_dir = options.data_dir.as_deref();
        let catalog = match options.state.clone() {
            None => DataDirectory::open(data_dir, &scratch).and_then(Catalog::open),
            Some(state) => match data_dir {
                Some(data_dir) => DataDirectory::open_shared(data_dir, &scratch),
                None => DataDirectory::open(None, &scratch),
            }
            .and_then(|directory| Catalog::open_shared(directory, state)),
        };
        let catalog = catalog.map_err(DataFusionError::from)?;
        // Queries that run here are tiny or cannot be sent; functions get half, segments a quarter.
        let memory = GreedyMemoryPool::new((config.memory_limit_bytes() / 4) as usize);
        let memory = TrackConsumersPool::new(memory, TOP_CONSUMERS);
        let ranges = (config.cache && config.cache_disk_bytes > 0).then(|| RangeOptions {
            directory: catalog.directory().ranges(),
            disk_bytes: config.cache_disk_bytes,
            memory_bytes: config.range_memory_limit_bytes(),
        });
        let resources = SharedResources::new(catalog, Some(Arc::new(memory)), &scratch, ranges)?;
        resources.stores().checks().keep_for(Duration::from_millis(config.cache_version_ttl_ms));
        let hosts = Arc::<HostTable>::default();
        let tables = system::schema(&history, &hosts, &cached, resources.ranges().cloned(), &options.term)?;
        resources.catalog().add_system_schema(system::SCHEMA, tables);
        Ok(Arc::new(Self {
            hosts,
            capacity: watch::Sender::new(Capacity::of(&config)),
            cluster: Mutex::default(),
            membership: Mutex::default(),
            started: Mutex::default(),
            config,
            history,
            resources,
            program,
            term: options.term,
            state: options.state,
            defaults: OnceLock::new(),
            engine: OnceCell::new(),
            cached,
            scans: OnceLock::new(),
            running: Mutex::default(),
            running_count: watch::Sender::new(0),
            sessions: AtomicU32::new(0),
            is_closing: AtomicBool::new(false),
        }))
    }

    /// Where several coordinators keep what they share; `None`: it is alone.
    pub fn state(&self) -> Option<&Fenced> {
        self.state.as_ref()
    }

    /// Opens a session; refused with ResourceExhausted past `max_sessions`.
    pub fn session(self: &Arc<Self>, options: SessionOptions) -> Result<Arc<Session>> {
        if self.sessions.fetch_add(1, Ordering::Relaxed) >= self.config.max_sessions {
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            let message = format!("{} sessions are open (max_sessions): close one", self.config.max_sessions);
            return Err(WireError::new(ErrorKind::ResourceExhausted, message).into());
        }
        Session::open(Arc::clone(self), &options).map(Arc::new)
    }

    /// Cancels a query. False: it is not running, or it is a write that commits, whose result is its answer. True: it
    /// will have no effect.
    pub fn cancel(&self, query: QueryId) -> bool {
        self.stop(query, WireError::new(ErrorKind::Cancelled, format!("query {query} was cancelled")))
    }

    /// Ends all queries, as another coordinator leads: each fails with a retryable error. `shutdown` does the rest.
    pub fn depose(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        let queries: Vec<QueryId> = self.running.lock().keys().copied().collect();
        for query in queries {
            self.stop(query, leads_no_longer());
        }
    }

    /// Resolves when the next coordinator would find all queries that are over in the history.
    pub async fn is_remembered(&self) {
        self.history.settled().await;
    }

    /// Waits up to `drain` for running queries, then ends them, all functions, and removes temporary files. Writes that
    /// commit are not ended but waited for.
    pub async fn shutdown(&self, drain: Duration) {
        self.is_closing.store(true, Ordering::Relaxed);
        let mut running = self.running_count.subscribe();
        // Past the drain time, or when the last sender is gone, what still runs is ended.
        let _ = tokio::time::timeout(drain, running.wait_for(|count| *count == 0)).await;
        let queries: Vec<QueryId> = self.running.lock().keys().copied().collect();
        for query in queries {
            self.stop(
                query,
                WireError::new(ErrorKind::Cancelled, format!("query {query} ended: the server shuts down")),
            );
        }
        // Hosts that leave with this coordinator are there for the next one.
        drop(self.membership.lock().take());
        let started = self.started.lock().take();
        if let Some(started) = started
            && !self.term.is_shared()
        {
            started.stop().await;
        }
        if let Some(engine) = self.engine.get() {
            engine.shut_down_members().await;
            engine.host().shutdown().await;
        }
        let cluster = self.cluster.lock().take();
        if let Some(cluster) = cluster {
            cluster.stop().await;
        }
        if let Some(ranges) = self.resources.ranges() {
            ranges.close().await;
        }
        // Commits come to their end, and what the ended queries staged and nobody will see is taken back; a store that does
        // not answer is not waited for.
        let limit = Duration::from_millis(self.config.drain_timeout_ms);
        if tokio::time::timeout(limit, self.resources.stores().uploads().settled()).await.is_err() {
            tracing::warn!(
                "writes could not be finished or taken back in drain_timeout_ms: the next start removes local files, a \
                 lifecycle rule of the bucket should abort uploads"
            );
        }
    }

    /// The engine, started on first use.
    pub(crate) async fn engine(&self) -> Result<Engine, WireError> {
        let options = HostOptions {
            config: Arc::clone(&self.config),
            program: self.program.clone(),
            uploads: Arc::clone(self.resources.stores().uploads()),
            stores: Arc::clone(self.resources.stores()),
            ranges: self.resources.ranges().cloned(),
            key: GrantKey::random()?,
        };
        let (capacity, history, term) = (self.capacity.clone(), Arc::clone(&self.history), self.term.clone());
        let start = async || Engine::start(options, &self.hosts, capacity, history, term);
        let engine = self.engine.get_or_try_init(start).await?;
        let _ = self.cached.set(Arc::clone(engine.host().columns()));
        Ok(engine.clone())
    }

    /// Starts what functions are forked from, so that the first query that wants some need not wait for it.
    ///
    /// # Errors
    /// As the first query would.
    pub async fn warm_up(&self) -> Result<()> {
        Ok(self.engine().await.map(drop)?)
    }

    /// What queries want of functions now, and how many hosts have joined.
    pub async fn demand(&self) -> (Demand, usize) {
        let wanted = match self.engine.get() {
            Some(engine) => engine.wanted().await.unwrap_or_default(),
            None => Wanted::default(),
        };
        (wanted.demand, wanted.joined.len())
    }

    /// What all hosts together can do now.
    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity.borrow().clone()
    }

    /// Lets other hosts join at an address, and serves what lies here to them; starts some when queries want them (`provider`).
    /// Gives the address with the real port.
    ///
    /// # Errors
    /// When the address is taken, or reachable by others without certificates, or what starts hosts is not set right.
    pub async fn serve_cluster(&self, options: ClusterOptions) -> Result<SocketAddr> {
        let listener = ClusterListener::bind(&self.config, options).await?;
        self.serve_cluster_on(&listener).await?;
        Ok(listener.address())
    }

    /// As [`Self::serve_cluster`], at an address that is bound already.
    ///
    /// # Errors
    /// When what starts hosts is not set right.
    pub async fn serve_cluster_on(&self, listener: &ClusterListener) -> Result<()> {
        let engine = self.engine().await?;
        let server = ClusterServer::start(&engine, listener)?;
        if let Some(state) = self.state.clone() {
            let wait = Duration::from_millis(self.config.host_silence_timeout_ms);
            let keeping = tokio::spawn(system::membership::keep(state, Arc::clone(&self.hosts), wait));
            *self.membership.lock() = Some(AbortOnDropHandle::new(keeping));
        }
        *self.started.lock() = Hosts::start(&engine, &self.config, listener.url(), &self.program)?;
        *self.cluster.lock() = Some(server);
        Ok(())
    }

    /// Scans over cached columns for plans that run in this process. `None` while there is no host: `select 1` starts none,
    /// and nothing is cached yet.
    pub(crate) fn scans(&self) -> Option<&WarmScans> {
        let columns = self.engine.get()?.host().columns();
        let scans = || {
            let columns = LocalColumns::new(Arc::clone(columns), NO_FUNCTION);
            WarmScans::new(columns, None).with_most_group_bytes(MOST_GROUP_BYTES)
        };
        Some(self.scans.get_or_init(scans))
    }

    /// Draws an id for a statement and remembers that it runs.
    pub(crate) fn begin(&self, sql: &str, user: &Arc<str>) -> Result<(QueryId, Stopper), WireError> {
        if self.is_closing.load(Ordering::Relaxed) {
            return Err(WireError::new(ErrorKind::Unavailable, "the server is shutting down"));
        }
        let stopper = Stopper::default();
        let mut running = self.running.lock();
        let query = loop {
            let query = QueryId::random();
            if !running.contains_key(&query) && !self.history.contains(query) {
                break query;
            }
        };
        running.insert(query, stopper.clone());
        self.running_count.send_replace(running.len());
        drop(running);
        let mut record = QueryRecord::new(query, &redact(sql));
        record.user = Arc::clone(user);
        self.history.begin(record);
        Ok((query, stopper))
    }

    /// What a query took and cost, so far or in all; `None` when it is forgotten.
    pub fn cost(&self, query: QueryId) -> Option<QueryCost> {
        self.history.cost(query)
    }

    /// The query is over: nothing is left to cancel.
    pub(crate) fn end(&self, query: QueryId) {
        let count = {
            let mut running = self.running.lock();
            running.remove(&query);
            running.len()
        };
        self.running_count.send_replace(count);
        if let Some(engine) = self.engine.get() {
            engine.cancel(query, WireError::new(ErrorKind::Cancelled, "the client dropped the query"));
            engine.release_result(query);
        }
    }

    pub(crate) fn session_closed(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    fn stop(&self, query: QueryId, reason: WireError) -> bool {
        let stopper = self.running.lock().get(&query).cloned();
        if !stopper.is_some_and(|stopper| stopper.stop(reason.clone())) {
            return false;
        }
        if let Some(engine) = self.engine.get() {
            engine.cancel(query, reason);
        }
        true
    }
}
