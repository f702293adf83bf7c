//! [`Session`]: one client's statements, from text to rows.

use std::sync::Arc;
use std::time::Instant;

use datafusion::common::ParamValues;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use onward_cache::UploadLog;
use onward_executor::write::WriteExec;
use onward_planner::session::{OnwardOptions, PlanExtensions, onward_options, session_config};
use onward_planner::statement::ExplainMode;
use onward_planner::{PlanRequest, Planned, StageGraph, explain, plan_query};
use onward_wire::QueryId;
use onward_wire::panics::caught;
use tokio::sync::watch;

use crate::analyze::{self, Analysis, Started, Submitted};
use crate::api::{Execution, Prepared, QueryError, QueryProgress, Result, ResultStream, SessionOptions};
use crate::coordinator::Coordinator;
use crate::dispatch::{self, Dispatch};
use crate::engine::guard;
use crate::session::{SqlSession, Statement, Work};
use crate::system::QueryState;
use crate::write::{Write, commit_after};

/// One client's session: settings, temporary state. Cheap to share.
pub struct Session {
    coordinator: Arc<Coordinator>,
    sql: SqlSession,
}

/// A statement on its way: its id, and who hears how far it is.
struct Run {
    query: QueryId,
    progress: watch::Sender<QueryProgress>,
}

impl Session {
    pub(crate) fn open(coordinator: Arc<Coordinator>, options: &SessionOptions) -> Result<Self> {
        let mut settings = OnwardOptions::default();
        settings.functions = coordinator.config.functions as usize;
        settings.statement_timeout_ms = coordinator.config.statement_timeout_ms;
        let config = session_config(coordinator.config.vcpu_count(), settings);
        let config = config.with_extension(Arc::new(PlanExtensions {
            codecs: onward_executor::function::extensions(),
            partition_wise: vec![WriteExec::NAME],
        }));
        let shared = Arc::clone(&coordinator.resources);
        let sql = SqlSession::open(shared, config, options.allowed_paths.as_deref())?;
        Ok(Self { coordinator, sql })
    }

    /// The DataFusion context: catalog, settings, function registry. For metadata; queries go through `execute`.
    pub fn context(&self) -> &SessionContext {
        self.sql.context()
    }

    /// Parses and plans one statement (parameters `$1`, `?`). It has no effect yet.
    pub async fn prepare(self: &Arc<Self>, sql: &str) -> Result<Prepared> {
        let statement = self.sql.plan(sql).await?;
        Ok(Prepared {
            sql: sql.to_owned(),
            schema: Arc::clone(&statement.schema),
            parameters: Arc::clone(&statement.parameters),
            is_query: statement.is_query,
            statement,
        })
    }

    /// Runs one statement. Errors of planning come here, errors of running through the stream.
    pub async fn execute(self: &Arc<Self>, sql: &str) -> Result<Execution> {
        self.run(sql, None, None).await
    }

    /// Runs a prepared statement with values for its parameters.
    pub async fn execute_prepared(self: &Arc<Self>, prepared: &Prepared, values: ParamValues) -> Result<Execution> {
        self.run(&prepared.sql, Some(prepared.statement.clone()), Some(values)).await
    }

    async fn run(
        self: &Arc<Self>,
        sql: &str,
        prepared: Option<Statement>,
        values: Option<ParamValues>,
    ) -> Result<Execution> {
        let (query, stopper) = self.coordinator.begin(sql)?;
        let (progress, watcher) = watch::channel(QueryProgress::default());
        let rows = async {
            let statement = match prepared {
                Some(statement) => statement,
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
            Ok((schema, is_query, self.rows(Run { query, progress }, work).await?))
        };
        // Planning reads footers and lists stores: it can be cancelled like the rest.
        let planned = tokio::select! {
            rows = caught(rows) => rows.unwrap_or_else(|panic| Err(panic.into())),
            () = stopper.stopped() => Err(stopper.reason().into()),
        };
        let (schema, is_query, rows) = planned.map_err(|mut error: QueryError| {
            self.coordinator.history.end(query, QueryState::Failed(error.error.message.clone()));
            self.coordinator.end(query);
            error.query = Some(query);
            error
        })?;
        let session = Arc::clone(self);
        let cleanup = Box::new(move || session.coordinator.end(query));
        let history = Arc::clone(&self.coordinator.history);
        let stream = guard(rows, query, stopper, self.timeout_ms(), history, cleanup);
        Ok(Execution { query, schema, is_query, stream, progress: watcher })
    }

    async fn rows(&self, run: Run, work: Work) -> Result<ResultStream> {
        match work {
            Work::Done(rows) => Ok(stream::iter(rows.batches.into_iter().map(Ok)).boxed()),
            Work::Query(plan) => self.query(run, &plan).await,
            Work::Explain { mode: ExplainMode::Analyze, plan } => self.analyze(run, &plan, None).await,
            Work::Explain { mode, plan } => self.explain(mode, &plan).await,
            Work::AnalyzeWrite(mut write) => {
                write.begin(run.query)?;
                let plan = write.plan().clone();
                self.analyze(run, &plan, Some(*write)).await
            }
            Work::Write(mut write) => {
                let query = run.query;
                write.begin(query)?;
                let manifest = self.query(run, write.plan()).await?;
                Ok(commit_after(*write, manifest, query))
            }
        }
    }

    async fn query(&self, run: Run, plan: &LogicalPlan) -> Result<ResultStream> {
        let query = run.query;
        match self.planned(plan).await? {
            Planned::Coordinator { plan, .. } => Ok(dispatch::local_rows(query, plan, self.local_context(query))?),
            Planned::Stages(graph) => {
                let submitted = self.submit(run, graph).await?;
                let history = Arc::clone(&self.coordinator.history);
                Ok(dispatch::stage_rows(submitted.engine, query, submitted.outcome, history))
            }
        }
    }

    /// What a plan runs with in this process.
    fn local_context(&self, query: QueryId) -> Arc<TaskContext> {
        let context = TaskContext::from(&*self.context().state_ref().read());
        let uploads = Arc::clone(self.coordinator.resources.stores().uploads());
        let log = UploadLog::new(move |path, upload| uploads.note(query, path.clone(), upload.to_owned()));
        let config = context.session_config().clone().with_extension(Arc::new(log));
        Arc::new(context.with_session_config(config))
    }

    async fn planned(&self, plan: &LogicalPlan) -> Result<Planned> {
        Ok(plan_query(&self.context().state(), plan, &self.request()).await?)
    }

    async fn submit(&self, run: Run, graph: StageGraph) -> Result<Submitted> {
        let coordinator = &self.coordinator;
        coordinator.history.update(run.query, |record| record.functions = graph.sizing.functions as u64);
        let engine = coordinator.engine().await?;
        let mut stores = Vec::new();
        for stage in &graph.stages {
            stores.extend(coordinator.resources.stores_of(&stage.plan)?);
        }
        stores.dedup();
        let dispatch = Dispatch {
            query: run.query,
            config: &coordinator.config,
            graph: &graph,
            stores,
            extensions: &onward_executor::function::extensions(),
            timeout_ms: self.timeout_ms(),
            progress: run.progress,
        };
        let outcome = dispatch::submit(&engine, dispatch)?;
        Ok(Submitted { engine, graph, outcome })
    }

    async fn explain(&self, mode: ExplainMode, plan: &LogicalPlan) -> Result<ResultStream> {
        let planned = self.planned(plan).await?;
        let (kind, text) = match mode {
            ExplainMode::Dot => ("dot", explain::dot(&planned)),
            ExplainMode::Text | ExplainMode::Analyze => ("stages", explain::text(&planned)),
        };
        Ok(stream::iter([analyze::row(kind, &text)]).boxed())
    }

    async fn analyze(&self, run: Run, plan: &LogicalPlan, write: Option<Write>) -> Result<ResultStream> {
        let (query, begun) = (run.query, Instant::now());
        let plan = match self.planned(plan).await? {
            Planned::Coordinator { plan, reason } => {
                let rows = dispatch::local_rows(query, Arc::clone(&plan), self.local_context(query))?;
                Started::Local { plan, reason, rows }
            }
            Planned::Stages(graph) => Started::Stages(self.submit(run, graph).await?),
        };
        Ok(analyze::rows(Analysis { query, begun, plan, write }, Arc::clone(&self.coordinator.history)))
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
        let options = self.options();
        PlanRequest {
            functions: (options.functions > 0).then_some(options.functions),
            vcpus: config.vcpu_count(),
            bytes_per_function: config.bytes_per_function,
            tiny_query_bytes: config.tiny_query_bytes,
            max_functions: config.max_functions as usize,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.coordinator.session_closed();
    }
}
