//! [`Session`]: one client's statements, from text to rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::ParamValues;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use onward_cache::scan::tags_of;
use onward_cache::{ExpectedVersions, UploadLog, VersionChecks};
use onward_executor::write::WriteExec;
use onward_planner::session::{OnwardOptions, PlanExtensions, onward_options, session_config};
use onward_planner::statement::ExplainMode;
use onward_planner::{
    PlanRequest, Planned, StageGraph, WorkerClass, choose_classes, explain, narrow_decimals, plan_query,
};
use onward_wire::config::ClassConfig;
use onward_wire::message::CacheUse;
use onward_wire::panics::caught;
use onward_wire::{QueryId, WireError};
use tokio::sync::watch;
use tokio::time::Instant as Deadline;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::again::or_again;
use crate::analyze::{self, Analysis, Started, Submitted};
use crate::api::{Execution, Prepared, QueryError, QueryProgress, Result, ResultStream, SessionOptions};
use crate::coordinator::Coordinator;
use crate::dispatch::{self, Dispatch};
use crate::engine::{Listing, LocatedResult, Outcome, guard, read_result, timed_out};
use crate::session::cache::{self, CacheOrder};
use crate::session::{PreparedStatement, SqlSession, Work};
use crate::system::QueryState;
use crate::versions::check_versions;
use crate::write::{Write, commit_after};

/// Attempts of a query that was planned again are numbered from here: no first plan has so many.
const PLANNED_AGAIN: u32 = 1_000_000;

/// Functions that a task outlives before its query is planned again: an attempt may begin late in a function's life.
const TASK_LIVES: u32 = 3;

/// And before it fails, when there is no other plan.
const LAST_LIVES: u32 = 8;

/// Times as many tasks with each plan whose tasks took too long, up to [`FINEST`]; what takes too long then cannot be cut.
const FINER: usize = 4;
const FINEST: usize = 64;

/// What a task scans in a millisecond, where it decodes everything. Cautious: a third of what a core does.
const SCAN_BYTES_PER_MS: u64 = 64 << 10;

/// One client's session: settings, temporary state. Cheap to share.
pub struct Session {
    coordinator: Arc<Coordinator>,
    sql: SqlSession,
    user: Arc<str>,
    /// The settings of a new session.
    defaults: Arc<BTreeMap<String, Option<String>>>,
}

/// A statement on its way.
#[derive(Clone)]
struct Run {
    listing: Arc<Listing>,
    /// Hears how far it is.
    progress: watch::Sender<QueryProgress>,
    deadline: Option<Deadline>,
    /// The number of the first attempt of each task.
    first_attempt: u32,
    /// An object that changed is worth another plan.
    if_stale: bool,
    /// Times as many tasks as usual.
    finer: usize,
    /// Functions that a task outlives before there is another plan, or none.
    task_lives: u32,
    /// Held as long as anybody may work for a write.
    worker: Option<TaskTrackerToken>,
}

impl Session {
    pub(crate) fn open(coordinator: Arc<Coordinator>, options: &SessionOptions) -> Result<Self> {
        let mut settings = OnwardOptions::default();
        settings.functions = coordinator.config.functions as usize;
        settings.statement_timeout_ms = coordinator.config.statement_timeout_ms;
        settings.cache = coordinator.config.cache;
        settings.direct_results = coordinator.config.direct_results;
        settings.queues = Some(coordinator.config.queues.keys().cloned().collect());
        settings.classes = Some(coordinator.config.classes.keys().cloned().collect());
        let config = session_config(coordinator.config.vcpu_count(), settings);
        let config = config.with_extension(Arc::new(PlanExtensions {
            codecs: onward_executor::function::extensions(),
            partition_wise: vec![WriteExec::NAME],
        }));
        let shared = Arc::clone(&coordinator.resources);
        let sql = SqlSession::open(shared, config, options.allowed_paths.as_deref())?;
        let sql = sql.with_prepared_limit(coordinator.config.max_prepared_statements as usize);
        let defaults = Arc::clone(coordinator.defaults.get_or_init(|| Arc::new(settings_of(sql.context()))));
        Ok(Self { coordinator, sql, user: Arc::clone(&options.user), defaults })
    }

    /// The DataFusion context: catalog, settings, function registry. For metadata; queries go through `execute`.
    pub fn context(&self) -> &SessionContext {
        self.sql.context()
    }

    /// Settings that are not those of a new session; `None`: no value.
    pub fn changed_settings(&self) -> BTreeMap<String, Option<String>> {
        let mut settings = settings_of(self.context());
        settings.retain(|name, value| self.defaults.get(name) != Some(value));
        settings
    }

    /// Gives settings the values that [`Self::changed_settings`] told; those that this version does not take, and why.
    pub fn restore_settings(&self, settings: &BTreeMap<String, Option<String>>) -> Vec<(String, String)> {
        let state = self.context().state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        let set = |(name, value): (&String, &Option<String>)| {
            let set = options.set(name, value.as_deref().unwrap_or_default());
            set.err().map(|error| (name.clone(), error.to_string()))
        };
        settings.iter().filter_map(set).collect()
    }

    /// The PREPARE statements whose statements it knows by name.
    pub fn named_statements(&self) -> Vec<String> {
        self.sql.named_statements()
    }

    /// Parses and plans one statement (parameters `$1`, `?`). It has no effect yet.
    pub async fn prepare(self: &Arc<Self>, sql: &str) -> Result<Prepared> {
        let statement = self.sql.prepare(sql).await?;
        Ok(Prepared {
            sql: sql.to_owned(),
            schema: Arc::clone(&statement.schema),
            parameters: Arc::clone(&statement.parameters),
            is_query: statement.is_query,
            statement,
        })
    }

    /// Runs one statement. Errors of planning come here, errors of running through the stream.
    ///
    /// Dropping the future, or the stream, cancels the statement; what it was doing then has no effect, except for a write
    /// that is committing already.
    pub async fn execute(self: &Arc<Self>, sql: &str) -> Result<Execution> {
        self.execute_until(sql, None).await
    }

    /// Runs one statement that ends at `deadline`, or at the session's statement timeout when that is earlier.
    pub async fn execute_until(self: &Arc<Self>, sql: &str, deadline: Option<Instant>) -> Result<Execution> {
        self.run(sql, None, None, deadline).await
    }

    /// Runs a prepared statement with values for its parameters, over the tables as they are now; `deadline` as in
    /// [`Self::execute_until`].
    pub async fn execute_prepared(
        self: &Arc<Self>,
        prepared: &Prepared,
        values: ParamValues,
        deadline: Option<Instant>,
    ) -> Result<Execution> {
        self.run(&prepared.sql, Some(&prepared.statement), Some(values), deadline).await
    }

    async fn run(
        self: &Arc<Self>,
        sql: &str,
        prepared: Option<&PreparedStatement>,
        values: Option<ParamValues>,
        deadline: Option<Instant>,
    ) -> Result<Execution> {
        let listing = self.list(sql)?;
        let timeout = self.timeout_ms().and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let deadline = timeout.into_iter().chain(deadline).min().map(Deadline::from_std);
        let (progress, watcher) = watch::channel(QueryProgress::default());
        let plan = async |values: Option<ParamValues>, progress| {
            let statement = match prepared {
                Some(prepared) => self.sql.plan_prepared(prepared).await?,
                None => self.sql.plan(sql).await?,
            };
            let (schema, is_query) = (Arc::clone(&statement.schema), statement.is_query);
            let work = self.sql.work(statement, values).await?;
            // EXPLAIN ANALYZE of a write gives rows, and is over without anyone fetching them.
            let is_query = is_query && !matches!(work, Work::AnalyzeWrite(_));
            // A parameter may have had no type before it had a value.
            let schema = match &work {
                Work::Query(plan) => Arc::clone(plan.schema().inner()),
                _ => schema,
            };
            let run = Run {
                listing: Arc::clone(&listing),
                progress,
                deadline,
                first_attempt: 0,
                if_stale: true,
                finer: 1,
                task_lives: TASK_LIVES,
                worker: None,
            };
            let (rows, located) = match work {
                Work::Query(plan) if self.options().direct_results => self.located(run, plan).await?,
                work => (self.rows(run, work).await?, None),
            };
            Ok::<_, QueryError>((schema, is_query, rows, located))
        };
        let rows = async {
            match plan(values.clone(), progress.clone()).await {
                // A file changed between its listing and the reading of its footer.
                Err(error) if error.error.is_stale => plan(values, progress).await,
                planned => {
                    drop(progress);
                    planned
                }
            }
        };
        // Planning reads footers and lists stores: it can be cancelled like the rest.
        let stopper = listing.stopper();
        let planned = tokio::select! {
            rows = caught(rows) => rows.unwrap_or_else(|panic| Err(panic.into())),
            () = stopper.stopped() => Err(stopper.reason().unwrap_or_else(timed_out).into()),
            () = reached(deadline) => {
                stopper.stop(timed_out());
                Err(timed_out().into())
            }
        };
        let query = listing.query();
        let (schema, is_query, rows, located) = planned.map_err(|mut error: QueryError| {
            listing.end(QueryState::of(&error.error));
            error.query = Some(query);
            error
        })?;
        // Rows that are there are not subject to the statement's time, but to their own.
        let deadline = deadline.filter(|_| located.is_none());
        Ok(Execution { query, schema, is_query, stream: guard(rows, listing, deadline), located, progress: watcher })
    }

    /// A new statement, listed as running.
    fn list(self: &Arc<Self>, sql: &str) -> Result<Arc<Listing>> {
        let (query, stopper) = self.coordinator.begin(sql, &self.user)?;
        let session = Arc::clone(self);
        let cleanup = Box::new(move || session.coordinator.end(query));
        Ok(Listing::new(query, stopper, Arc::clone(&self.coordinator.history), cleanup))
    }

    async fn rows(self: &Arc<Self>, run: Run, work: Work) -> Result<ResultStream> {
        match work {
            Work::Done(rows) => {
                // It has had its effect: from here on nothing says that it was cancelled, or that its client went away.
                run.listing.stopper().commit()?;
                run.listing.record(QueryState::Done);
                Ok(stream::iter(rows.batches.into_iter().map(Ok)).boxed())
            }
            Work::Query(plan) => {
                let rows = self.query(run, &plan).await?;
                Ok(keeping(plan, rows))
            }
            Work::Cache { order, plan } => self.cache(run, order, &plan).await,
            Work::Explain { mode: ExplainMode::Analyze, plan } => {
                let rows = self.analyze(run, &plan, None).await?;
                Ok(keeping(plan, rows))
            }
            Work::Explain { mode, plan } => self.explain(mode, &plan).await,
            Work::AnalyzeWrite(mut write) => {
                write.begin(run.query())?;
                let run = Run { worker: Some(write.worker()), ..run };
                let plan = write.plan().clone();
                self.analyze(run, &plan, Some(*write)).await
            }
            Work::Write(mut write) => {
                let listing = Arc::clone(&run.listing);
                write.begin(listing.query())?;
                let run = Run { worker: Some(write.worker()), ..run };
                let manifest = self.query(run, write.plan()).await?;
                let background = Arc::clone(self.coordinator.resources.stores().uploads());
                Ok(commit_after(*write, manifest, listing, background))
            }
        }
    }

    fn query<'a>(self: &'a Arc<Self>, run: Run, plan: &'a LogicalPlan) -> BoxFuture<'a, Result<ResultStream>> {
        let (session, plan_again, this) = (Arc::clone(self), plan.clone(), run.unheard());
        let again = move |error: &WireError| {
            let run = this.again(error)?;
            session.coordinator.resources.stores().checks().forget();
            Some(async move { session.query(run, &plan_again).await }.boxed())
        };
        async move { or_again(self.query_once(run, plan).await, Box::new(again)) }.boxed()
    }

    /// As [`Self::query`], but over when this returns, if hosts hold the rows: clients are told where.
    async fn located(
        self: &Arc<Self>,
        run: Run,
        plan: LogicalPlan,
    ) -> Result<(ResultStream, Option<Arc<LocatedResult>>)> {
        let Planned::Stages(mut graph) = self.planned(&plan, run.finer).await? else {
            return Ok((self.rows(run, Work::Query(plan)).await?, None));
        };
        let (query, listing, mut next) = (run.query(), Arc::clone(&run.listing), run);
        // Whoever sees an error of a second plan must not begin anew.
        let last = |mut error: QueryError| {
            error.error.is_stale = false;
            error
        };
        let (engine, outcome) = loop {
            let this = next.unheard();
            let submitted = self.submit(next, graph).await.map_err(last)?;
            let outcome = dispatch::outcome(query, submitted.outcome, &self.coordinator.history).await;
            let Some(again) = outcome.as_ref().err().and_then(|error| this.again(error)) else {
                break (submitted.engine, outcome.map_err(|error| WireError { is_stale: false, ..error }));
            };
            self.coordinator.resources.stores().checks().forget();
            let Planned::Stages(planned) = self.planned(&plan, again.finer).await.map_err(last)? else {
                return Ok((self.rows(again, Work::Query(plan)).await.map_err(last)?, None));
            };
            (next, graph) = (again, planned);
        };
        let Outcome { result, stats, .. } = outcome?;
        let located = LocatedResult::new(&engine, &self.coordinator.hosts, &result).map(Arc::new);
        if located.is_some() {
            listing.add_rows(stats.rows as usize);
            listing.record(QueryState::Done);
        }
        Ok((keeping(plan, read_result(&engine, result)), located))
    }

    async fn query_once(&self, run: Run, plan: &LogicalPlan) -> Result<ResultStream> {
        let query = run.query();
        match self.planned(plan, run.finer).await? {
            Planned::Coordinator { plan, .. } => Ok(self.local_rows(run, plan)?.1),
            Planned::Stages(graph) => {
                let submitted = self.submit(run, graph).await?;
                let history = Arc::clone(&self.coordinator.history);
                Ok(dispatch::stage_rows(submitted.engine, query, submitted.outcome, history))
            }
        }
    }

    /// CACHE TABLE, UNCACHE TABLE: gives one row when it is done.
    async fn cache(&self, run: Run, order: CacheOrder, plan: &LogicalPlan) -> Result<ResultStream> {
        let engine = self.coordinator.engine().await?;
        // However small the table is, it is a function that fills the cache; more would exchange the rows, which nobody wants.
        let request = PlanRequest { functions: Some(1), ..self.request() };
        let planned = self.plan_with(plan, &request).await?;
        let plans = match &planned {
            Planned::Coordinator { plan, .. } => vec![Arc::clone(plan)],
            Planned::Stages(graph) => graph.stages.iter().map(|stage| Arc::clone(&stage.plan)).collect(),
        };
        plans.iter().try_for_each(|plan| cache::check_whole(&order, plan))?;
        if let (Planned::Stages(graph), true) = (planned, order.columns.is_some()) {
            let query = run.query();
            let run = Run { task_lives: LAST_LIVES, ..run };
            let submitted = self.submit_with(run, graph, CacheUse::Fill).await?;
            dispatch::outcome(query, submitted.outcome, &self.coordinator.history).await?;
        }
        let row = cache::carry_out(&order, &plans, engine.host().columns())?;
        Ok(stream::iter([Ok(row)]).boxed())
    }

    /// Runs `plan` in this process, over cached columns where there are some. Gives it as it runs, too.
    fn local_rows(&self, run: Run, plan: Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, ResultStream)> {
        let query = run.query();
        let context = self.local_context(query, run.worker, &plan)?;
        let plan = match self.coordinator.scans() {
            Some(scans) if self.options().cache => scans.apply(plan)?,
            _ => plan,
        };
        let plan = narrow_decimals(plan)?;
        let rows = dispatch::local_rows(query, Arc::clone(&plan), context, Arc::clone(&self.coordinator.history))?;
        Ok((plan, rows))
    }

    /// What `plan` runs with in this process: objects are read in the versions it was made for. Every file that it writes
    /// holds `worker`.
    fn local_context(
        &self,
        query: QueryId,
        worker: Option<TaskTrackerToken>,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<TaskContext>> {
        let context = TaskContext::from(&*self.context().state_ref().read());
        let uploads = Arc::clone(self.coordinator.resources.stores().uploads());
        let log = UploadLog::new(move |path, upload| {
            let _held = &worker;
            uploads.note(query, path.clone(), upload.to_owned());
        });
        let config = context.session_config().clone().with_extension(Arc::new(log));
        let expected = Arc::new(ExpectedVersions::new(&tags_of(plan)?));
        let mut registry = self.sql.registry_expecting(expected);
        if !self.options().cache {
            registry = registry.reading_through(None);
        }
        let runtime = context.runtime_env();
        let runtime = RuntimeEnv { object_store_registry: registry, ..RuntimeEnv::clone(&runtime) };
        Ok(Arc::new(context.with_session_config(config).with_runtime(Arc::new(runtime))))
    }

    async fn planned(&self, plan: &LogicalPlan, finer: usize) -> Result<Planned> {
        self.plan_with(plan, &PlanRequest { finer, ..self.request() }).await
    }

    /// Plans with versions of all remote files that were asked for at once.
    async fn plan_with(&self, plan: &LogicalPlan, request: &PlanRequest) -> Result<Planned> {
        let state = self.context().state();
        let planning = async {
            check_versions(&state, plan).await?;
            let mut planned = plan_query(&state, plan, request).await?;
            if let Planned::Stages(graph) = &mut planned {
                choose_classes(graph, &self.classes(), &self.options().class)?;
            }
            Ok(planned)
        };
        VersionChecks::scope(planning).await
    }

    /// Worker classes that some host offers now, with what they cost.
    fn classes(&self) -> Vec<WorkerClass> {
        let (config, offered) = (&self.coordinator.config, self.coordinator.capacity().classes);
        let prices = self.coordinator.history.prices();
        let classes = config.classes.iter().zip(1..).filter(|(_, id)| offered.contains(id));
        let worker_class = |((name, class), id): ((&String, &ClassConfig), u16)| {
            let (vcpus, memory_bytes) = (class.vcpus.max(1), class.memory_bytes);
            let usd = match class.usd_per_hour {
                per_hour if per_hour > 0.0 => per_hour / 3_600.0,
                _ => prices.usd_per_second(memory_bytes, vcpus),
            };
            WorkerClass { name: name.clone(), id, vcpus, memory_bytes, nanousd_per_second: (usd * 1e9).round() as u64 }
        };
        classes.map(worker_class).collect()
    }

    async fn submit(&self, run: Run, graph: StageGraph) -> Result<Submitted> {
        let cache = if self.options().cache { CacheUse::On } else { CacheUse::Off };
        self.submit_with(run, graph, cache).await
    }

    async fn submit_with(&self, run: Run, graph: StageGraph, cache: CacheUse) -> Result<Submitted> {
        let coordinator = &self.coordinator;
        let query = run.query();
        let engine = coordinator.engine().await?;
        let mut stores = Vec::new();
        for stage in &graph.stages {
            stores.extend(coordinator.resources.stores_of(&stage.plan)?);
        }
        stores.dedup();
        let queue = self.options().queue;
        let dispatch = Dispatch {
            query,
            user: Arc::clone(&self.user),
            queue: queue.as_str().into(),
            config: &coordinator.config,
            capacity: coordinator.capacity(),
            graph: &graph,
            stores,
            extensions: &onward_executor::function::extensions(),
            timeout_ms: run.deadline.map(|deadline| {
                u64::try_from(deadline.saturating_duration_since(Deadline::now()).as_millis()).unwrap_or(u64::MAX)
            }),
            first_attempt: run.first_attempt,
            task_lives: run.task_lives,
            cache,
            progress: run.progress,
        };
        coordinator.history.open(query, |record| {
            record.functions = graph.sizing.functions as u64;
            record.queue = queue;
        });
        let outcome = dispatch::submit(&engine, dispatch).inspect_err(|_| coordinator.history.settle(query, |_| {}))?;
        if let Some(worker) = run.worker {
            let ended = engine.ended(query);
            tokio::spawn(async move {
                ended.await;
                drop(worker);
            });
        }
        Ok(Submitted { engine, graph, outcome })
    }

    async fn explain(&self, mode: ExplainMode, plan: &LogicalPlan) -> Result<ResultStream> {
        let planned = self.planned(plan, 1).await?;
        let (kind, text) = match mode {
            ExplainMode::Dot => ("dot", explain::dot(&planned)),
            ExplainMode::Text | ExplainMode::Analyze => ("stages", explain::text(&planned)),
        };
        Ok(stream::iter([analyze::row(kind, &text)]).boxed())
    }

    /// Runs like any statement, and shows what it took when its rows are there.
    async fn analyze(&self, run: Run, plan: &LogicalPlan, write: Option<Write>) -> Result<ResultStream> {
        let (listing, begun) = (Arc::clone(&run.listing), Instant::now());
        let background = Arc::clone(self.coordinator.resources.stores().uploads());
        let run = Run { task_lives: LAST_LIVES, ..run };
        let plan = match self.planned(plan, 1).await? {
            Planned::Coordinator { plan, reason } => {
                let (plan, rows) = self.local_rows(run, plan)?;
                Started::Local { plan, reason, rows }
            }
            Planned::Stages(graph) => Started::Stages(Box::new(self.submit(run, graph).await?)),
        };
        let analysis = Analysis { listing, begun, plan, write, background };
        Ok(analyze::rows(analysis, Arc::clone(&self.coordinator.history)))
    }

    /// The session's statement timeout (`SET onward.statement_timeout_ms`), in milliseconds; `None` = no limit.
    pub fn timeout_ms(&self) -> Option<u64> {
        let timeout_ms = self.options().statement_timeout_ms;
        (timeout_ms > 0).then_some(timeout_ms)
    }

    fn options(&self) -> OnwardOptions {
        // Not `state()`, which copies the function registry.
        onward_options(self.context().state_ref().read().config_options())
    }

    fn request(&self) -> PlanRequest {
        let config = &self.coordinator.config;
        let (options, capacity) = (self.options(), self.coordinator.capacity());
        // What the planner chooses fits; what a user asks for may not, and is refused with the reason.
        let most = match config.max_functions_per_query {
            0 => usize::MAX,
            most => most as usize,
        };
        PlanRequest {
            functions: (options.functions > 0).then_some(options.functions),
            vcpus: capacity.vcpus,
            hosts: capacity.hosts.min(most),
            bytes_per_host: config.bytes_per_host,
            bytes_per_function: config.bytes_per_function,
            tiny_query_bytes: config.tiny_query_bytes,
            max_functions: (config.max_functions as usize).min(most),
            skewed_bytes: config.skewed_partition_bytes,
            task_bytes: (config.function_lifetime_ms / 4).saturating_mul(SCAN_BYTES_PER_MS),
            finer: 1,
        }
    }
}

/// Rows of `plan`, which stays while they are read: its tables keep their files on disk.
fn keeping(plan: LogicalPlan, rows: ResultStream) -> ResultStream {
    stream::unfold((rows, plan), |(mut rows, plan)| async move { rows.next().await.map(|row| (row, (rows, plan))) })
        .boxed()
}

impl Run {
    fn query(&self) -> QueryId {
        self.listing.query()
    }

    /// The same, of whose progress nobody hears: that is over when the last one who tells it is gone.
    fn unheard(&self) -> Self {
        Self { progress: watch::channel(QueryProgress::default()).0, ..self.clone() }
    }

    /// How it runs once more, if `error` is worth another plan. Nobody follows the progress of that: the first one's end is said
    /// when it has ended.
    fn again(&self, error: &WireError) -> Option<Self> {
        let again = Self { first_attempt: self.first_attempt.checked_add(PLANNED_AGAIN)?, ..self.unheard() };
        if error.is_stale && self.if_stale {
            return Some(Self { if_stale: false, ..again });
        }
        let finer = self.finer.saturating_mul(FINER);
        let task_lives = if finer < FINEST { TASK_LIVES } else { LAST_LIVES };
        (error.is_too_long && finer <= FINEST).then_some(Self { finer, task_lives, ..again })
    }
}

/// Resolves at `deadline`, never without one.
async fn reached(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.coordinator.session_closed();
    }
}

fn settings_of(context: &SessionContext) -> BTreeMap<String, Option<String>> {
    let state = context.state();
    state.config_options().entries().into_iter().map(|entry| (entry.key, entry.value)).collect()
}
