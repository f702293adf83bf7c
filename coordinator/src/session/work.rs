//! [`Work`]: what the engine has to do for a statement.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{ParamValues, Result};
use datafusion::logical_expr::{DdlStatement, LogicalPlan, Statement as PlanStatement};
use onward_planner::statement::ExplainMode;

use super::cache::CacheOrder;
use super::context::SqlSession;
use super::error::SessionError;
use super::statement::{Statement, count_batch, count_schema};
use super::{parameters, settings};
use crate::write::{Write, is_declaration};

/// What is left to do for a statement.
#[derive(Debug)]
pub enum Work {
    /// Nothing: SET, DDL, PREPARE took effect when this value was made. No rows, usually.
    Done(LocalRows),
    /// Compute the rows of this plan (`onward_planner::plan_query`).
    Query(LogicalPlan),
    /// Show how this plan would run, or run it and show how it did. A write that is not run is planned as what functions
    /// would run; its target is not touched.
    Explain {
        /// How.
        mode: ExplainMode,
        /// What.
        plan: LogicalPlan,
    },
    /// Read the columns of this plan, or none, and do with them what the order says.
    Cache {
        /// What.
        order: CacheOrder,
        /// Reads the columns.
        plan: LogicalPlan,
    },
    /// Begin, run the plan, add its rows, commit: see [`Write`].
    Write(Box<Write>),
    /// The same, and show how it ran: EXPLAIN ANALYZE of a write writes, as in PostgreSQL.
    AnalyzeWrite(Box<Write>),
}

/// Rows that are there already.
#[derive(Clone, Debug)]
pub struct LocalRows {
    /// Columns.
    pub schema: SchemaRef,
    /// Rows.
    pub batches: Vec<RecordBatch>,
}

impl LocalRows {
    /// No columns, no rows.
    pub fn none() -> Self {
        Self { schema: SchemaRef::new(datafusion::arrow::datatypes::Schema::empty()), batches: vec![] }
    }
}

impl SqlSession {
    /// Does what a statement does in the coordinator, and says what is left. `values` are those of its parameters.
    ///
    /// Local statements have taken effect when this returns; a [`Work::Write`] has touched nothing yet.
    pub async fn work(&self, statement: Statement, values: Option<ParamValues>) -> Result<Work> {
        if let (LogicalPlan::Statement(PlanStatement::Prepare(prepare)), Some(ast)) =
            (&statement.plan, statement.prepare)
        {
            return self.keep(prepare, ast).map(|()| Work::Done(LocalRows::none()));
        }
        let plan = parameters::bind(statement.plan, values)?;
        if let Some(order) = statement.cache {
            return Ok(Work::Cache { order, plan });
        }
        match statement.explain {
            Some(mode) => self.explain(mode, plan).await,
            None => self.work_of(plan).await,
        }
    }

    async fn work_of(&self, plan: LogicalPlan) -> Result<Work> {
        match plan {
            LogicalPlan::Copy(copy) => Ok(Work::Write(Box::new(self.copy(copy).await?))),
            LogicalPlan::Dml(dml) => Ok(Work::Write(Box::new(self.insert(dml).await?))),
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) => match self.create_table(create).await? {
                Some(write) => Ok(Work::Write(Box::new(write))),
                None => Ok(Work::Done(LocalRows { schema: count_schema(), batches: vec![count_batch(0)] })),
            },
            LogicalPlan::Ddl(ddl) => self.ddl(ddl).await.map(|()| Work::Done(LocalRows::none())),
            LogicalPlan::Statement(PlanStatement::Execute(execute)) => {
                let plan = self.bind_prepared(&execute).await?;
                Box::pin(self.work_of(plan)).await
            }
            LogicalPlan::Statement(PlanStatement::Deallocate(deallocate)) => {
                self.forget(&deallocate.name).map(|()| Work::Done(LocalRows::none()))
            }
            LogicalPlan::Statement(PlanStatement::TransactionStart(_) | PlanStatement::TransactionEnd(_)) => {
                let statement = "a transaction".to_owned();
                let advice = "every statement commits by itself";
                Err(SessionError::Unsupported { statement, advice }.into())
            }
            LogicalPlan::Statement(local) => {
                settings::check(&local)?;
                self.context().execute_logical_plan(LogicalPlan::Statement(local)).await?;
                Ok(Work::Done(LocalRows::none()))
            }
            query => Ok(Work::Query(query)),
        }
    }

    async fn explain(&self, mode: ExplainMode, plan: LogicalPlan) -> Result<Work> {
        let write = match plan {
            LogicalPlan::Copy(copy) => Some(self.copy(copy).await?),
            LogicalPlan::Dml(dml) => Some(self.insert(dml).await?),
            // Without rows it would take effect here.
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) if !is_declaration(&create) => {
                self.create_table(create).await?
            }
            LogicalPlan::Statement(PlanStatement::Execute(execute)) => {
                let plan = self.bind_prepared(&execute).await?;
                return Box::pin(self.explain(mode, plan)).await;
            }
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                let statement = "EXPLAIN of a statement without a plan".to_owned();
                return Err(SessionError::Unsupported { statement, advice: "explain a query or a write" }.into());
            }
            query => return Ok(Work::Explain { mode, plan: query }),
        };
        match write {
            Some(write) if mode == ExplainMode::Analyze => Ok(Work::AnalyzeWrite(Box::new(write))),
            Some(write) => Ok(Work::Explain { mode, plan: write.plan().clone() }),
            None => Ok(Work::Done(LocalRows::none())),
        }
    }
}
