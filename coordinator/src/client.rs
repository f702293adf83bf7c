//! [`Session`]: one client's statements, from text to rows.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as SqlStatement;
use futures::{StreamExt, stream};
use onward_planner::session::{OnwardOptions, onward_options, session_config, session_state_builder};
use onward_planner::statement::{ExplainMode, Statement, parse_with};
use onward_planner::{PlanRequest, Planned, StageGraph, plan_query};
use onward_wire::{ErrorKind, QueryId, WireError};
use tokio::sync::{oneshot, watch};

use crate::api::{Execution, Prepared, PreparedPlan, QueryProgress, Result, ResultStream, SessionOptions};
use crate::coordinator::Coordinator;
use crate::dispatch::{self, Dispatch};
use crate::engine::{Engine, Outcome, guard};
use crate::system::QueryState;

/// One client's session: settings, temporary state. Cheap to share.
pub struct Session {
    coordinator: Arc<Coordinator>,
    context: SessionContext,
}

/// Rows and their schema, before the guard is around them.
struct Rows {
    schema: SchemaRef,
    stream: ResultStream,
}

/// A statement on its way: its id, and who hears how far it is.
struct Run {
    query: QueryId,
    progress: watch::Sender<QueryProgress>,
}

/// A graph that functions work on.
struct Submitted {
    engine: Engine,
    graph: StageGraph,
    outcome: oneshot::Receiver<Result<Outcome, WireError>>,
}

impl Session {
    pub(crate) fn open(coordinator: Arc<Coordinator>, _options: SessionOptions) -> Result<Self> {
        let mut options = OnwardOptions::default();
        options.functions = coordinator.config.functions as usize;
        options.statement_timeout_ms = coordinator.config.statement_timeout_ms;
        let config = session_config(coordinator.config.vcpu_count(), options);
        let context = SessionContext::new_with_state(session_state_builder(config, Arc::default()).build());
        Ok(Self { coordinator, context })
    }

    /// The DataFusion context: catalog, settings, function registry. For metadata; queries go through `execute`.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Parses and plans one statement (parameters `$1`, `?`).
    pub async fn prepare(self: &Arc<Self>, sql: &str) -> Result<Prepared> {
        let state = self.context.state();
        let statements = parse_with(sql, &state.config_options().sql_parser)?;
        let [statement] = <[Statement; 1]>::try_from(statements).map_err(|statements| {
            let message = format!("one statement is run at a time; this text has {}", statements.len());
            WireError::new(ErrorKind::InvalidQuery, message)
        })?;
        let (plan, schema) = match statement {
            Statement::Explain { mode, statement } => {
                let plan = self.logical(*statement).await?;
                (PreparedPlan::Explain(mode, plan), explain_schema())
            }
            Statement::DataFusion(statement) => {
                let plan = self.logical(*statement).await?;
                let schema = Arc::clone(plan.schema().inner());
                (PreparedPlan::Statement(plan), schema)
            }
        };
        let parameters = plan.logical().get_parameter_types()?;
        let mut parameters: Vec<_> = parameters.into_iter().collect();
        // `$10` comes after `$9`.
        parameters.sort_by_key(|(name, _)| (name.len(), name.clone()));
        let parameters = parameters.into_iter().map(|(name, ty)| Field::new(name, ty.unwrap_or(DataType::Null), true));
        Ok(Prepared {
            sql: sql.to_owned(),
            schema,
            parameters: Arc::new(Schema::new(parameters.collect::<Vec<_>>())),
            is_query: plan.is_query(),
            plan,
        })
    }

    /// Runs one statement. Errors of planning come here, errors of running through the stream.
    pub async fn execute(self: &Arc<Self>, sql: &str) -> Result<Execution> {
        let prepared = self.prepare(sql).await?;
        self.run(prepared).await
    }

    /// Runs a prepared statement with values for its parameters.
    pub async fn execute_prepared(self: &Arc<Self>, prepared: &Prepared, values: ParamValues) -> Result<Execution> {
        let mut prepared = prepared.clone();
        prepared.plan = prepared.plan.with_values(values)?;
        self.run(prepared).await
    }

    async fn logical(&self, statement: SqlStatement) -> Result<LogicalPlan> {
        Ok(self.context.state().statement_to_plan(statement).await?)
    }

    async fn run(self: &Arc<Self>, prepared: Prepared) -> Result<Execution> {
        let (query, stopper) = self.coordinator.begin(&prepared.sql)?;
        let (progress, watcher) = watch::channel(QueryProgress::default());
        let is_query = prepared.is_query;
        // Planning reads footers and lists stores: it can be cancelled like the rest.
        let planned = tokio::select! {
            rows = self.rows(Run { query, progress }, prepared.plan) => rows,
            () = stopper.stopped() => Err(stopper.reason().into()),
        };
        let rows = planned.map_err(|mut error| {
            self.coordinator.history.end(query, QueryState::Failed(error.error.message.clone()));
            self.coordinator.end(query);
            error.query = Some(query);
            error
        })?;
        let session = Arc::clone(self);
        let cleanup = Box::new(move || session.coordinator.end(query));
        let history = Arc::clone(&self.coordinator.history);
        let stream = guard(rows.stream, query, stopper, self.timeout_ms(), history, cleanup);
        Ok(Execution { query, schema: rows.schema, is_query, stream, progress: watcher })
    }

    async fn rows(&self, run: Run, plan: PreparedPlan) -> Result<Rows> {
        match plan {
            PreparedPlan::Explain(mode, plan) => self.explain(run, mode, plan).await,
            PreparedPlan::Statement(plan) => self.statement(run, plan).await,
        }
    }

    async fn statement(&self, run: Run, plan: LogicalPlan) -> Result<Rows> {
        let is_definition = matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_));
        // EXECUTE gives the plan of the prepared statement; all others are done when this returns.
        let plan =
            if is_definition { self.context.execute_logical_plan(plan).await?.into_unoptimized_plan() } else { plan };
        let schema = Arc::clone(plan.schema().inner());
        if matches!(&plan, LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row) {
            return Ok(Rows { schema, stream: stream::empty().boxed() });
        }
        let stream = match plan_query(&self.context.state(), &plan, &self.request()).await? {
            Planned::Coordinator { plan, .. } => dispatch::local_rows(run.query, plan, self.context.task_ctx())?,
            Planned::Stages(graph) => {
                let query = run.query;
                let submitted = self.submit(run, graph).await?;
                let history = Arc::clone(&self.coordinator.history);
                dispatch::stage_rows(submitted.engine, query, submitted.outcome, history)
            }
        };
        Ok(Rows { schema, stream })
    }

    async fn submit(&self, run: Run, graph: StageGraph) -> Result<Submitted> {
        let coordinator = &self.coordinator;
        coordinator.history.update(run.query, |record| record.functions = graph.sizing.functions as u64);
        let engine = coordinator.engine().await?;
        let dispatch = Dispatch {
            query: run.query,
            config: &coordinator.config,
            graph: &graph,
            stores: Vec::new(),
            extensions: &[],
            timeout_ms: self.timeout_ms(),
            progress: run.progress,
        };
        let outcome = dispatch::submit(&engine, dispatch)?;
        Ok(Submitted { engine, graph, outcome })
    }

    async fn explain(&self, _run: Run, _mode: ExplainMode, _plan: LogicalPlan) -> Result<Rows> {
        Err(WireError::new(ErrorKind::Internal, "EXPLAIN is being wired").into())
    }

    fn timeout_ms(&self) -> Option<u64> {
        let timeout_ms = onward_options(self.context.state().config_options()).statement_timeout_ms;
        (timeout_ms > 0).then_some(timeout_ms)
    }

    fn request(&self) -> PlanRequest {
        let config = &self.coordinator.config;
        let options = onward_options(self.context.state().config_options());
        PlanRequest {
            functions: (options.functions > 0).then_some(options.functions),
            vcpus: config.vcpu_count(),
            bytes_per_function: config.bytes_per_function,
            tiny_query_bytes: config.tiny_query_bytes,
            max_functions: config.max_functions as usize,
        }
    }
}

fn explain_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("plan", DataType::Utf8, false)]))
}

impl Drop for Session {
    fn drop(&mut self) {
        self.coordinator.session_closed();
    }
}
