//! [`Session`]: one client's statements.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use onward_planner::error::classify;
use onward_planner::session::{OnwardOptions, onward_options, session_config, session_state_builder};
use onward_planner::{PlanRequest, Planned, plan_query};
use onward_wire::{QueryId, WireError};
use tokio::sync::watch;

use crate::api::{Execution, Prepared, QueryProgress, Result, ResultStream, SessionOptions};
use crate::coordinator::Coordinator;
use crate::dispatch::{self, Dispatch};
use crate::engine::guard;

/// One client's session: settings, temporary state. Cheap to share.
pub struct Session {
    coordinator: Arc<Coordinator>,
    context: SessionContext,
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
        let plan = self.context.state().create_logical_plan(sql).await?;
        let types = plan.get_parameter_types()?;
        let mut names: Vec<_> = types.into_iter().collect();
        names.sort_by_key(|(name, _)| (name.len(), name.clone()));
        let parameters = names.into_iter().map(|(name, ty)| Field::new(name, ty.unwrap_or(DataType::Null), true));
        Ok(Prepared {
            sql: sql.to_owned(),
            schema: Arc::clone(plan.schema().inner()),
            parameters: Arc::new(Schema::new(parameters.collect::<Vec<_>>())),
            is_query: !matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_)),
            plan,
        })
    }

    /// Runs one statement. Errors of planning come here, errors of running through the stream.
    pub async fn execute(self: &Arc<Self>, sql: &str) -> Result<Execution> {
        let prepared = self.prepare(sql).await?;
        self.run(&prepared.sql, prepared.plan, prepared.is_query).await
    }

    /// Runs a prepared statement with values for its parameters.
    pub async fn execute_prepared(self: &Arc<Self>, prepared: &Prepared, values: ParamValues) -> Result<Execution> {
        let plan = prepared.plan.clone().with_param_values(values)?;
        self.run(&prepared.sql, plan, prepared.is_query).await
    }

    async fn run(self: &Arc<Self>, sql: &str, plan: LogicalPlan, is_query: bool) -> Result<Execution> {
        let (query, stopper) = self.coordinator.begin(sql)?;
        let (sender, progress) = watch::channel(QueryProgress::default());
        let rows = self.rows(query, &plan, sender).await.map_err(|error| {
            self.coordinator.history.end(query, crate::system::QueryState::Failed(error.message.clone()));
            self.coordinator.end(query);
            error
        });
        let session = Arc::clone(self);
        let cleanup = Box::new(move || session.coordinator.end(query));
        let stream = guard(rows?, query, stopper, Arc::clone(&self.coordinator.history), cleanup);
        Ok(Execution { query, schema: Arc::clone(plan.schema().inner()), is_query, stream, progress })
    }

    async fn rows(
        &self,
        query: QueryId,
        plan: &LogicalPlan,
        progress: watch::Sender<QueryProgress>,
    ) -> Result<ResultStream, WireError> {
        let state = self.context.state();
        let planned = match plan {
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                let frame = self.context.execute_logical_plan(plan.clone()).await.map_err(|error| classify(&error))?;
                let plan = frame.create_physical_plan().await.map_err(|error| classify(&error))?;
                Planned::Coordinator { plan, reason: String::new() }
            }
            plan => plan_query(&state, plan, &self.request()).await.map_err(|error| classify(&error))?,
        };
        match planned {
            Planned::Coordinator { plan, .. } => dispatch::local_rows(query, plan, state.task_ctx()),
            Planned::Stages(graph) => {
                let coordinator = &self.coordinator;
                coordinator.history.update(query, |record| record.functions = graph.sizing.functions as u64);
                let engine = coordinator.engine().await?;
                let dispatch = Dispatch {
                    query,
                    config: &coordinator.config,
                    graph: &graph,
                    stores: Vec::new(),
                    extensions: &[],
                    timeout_ms: None,
                    progress,
                };
                let pending = dispatch::submit(&engine, dispatch)?;
                Ok(dispatch::stage_rows(engine, query, pending, Arc::clone(&coordinator.history)))
            }
        }
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

impl Drop for Session {
    fn drop(&mut self) {
        self.coordinator.session_closed();
    }
}
