//! [`Statement`]: SQL text, planned, without any effect yet.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, Statement as PlanStatement};
use datafusion::sql::parser::Statement as Ast;
use onward_planner::statement::{ExplainMode, Statement as Parsed, parse_with};

use super::cache::CacheOrder;
use super::context::SqlSession;
use super::error::SessionError;
use super::{parameters, prepared};
use crate::catalog::missing;

/// One planned statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// DataFusion's plan; names are resolved, nothing is executed. Of an EXPLAIN of ours: what is explained.
    pub plan: LogicalPlan,
    /// How an EXPLAIN of ours shows it.
    pub explain: Option<ExplainMode>,
    /// Columns of its rows; `count` of writes; none of statements without rows.
    pub schema: SchemaRef,
    /// One field per parameter, `$1`, `$2`, ...; type Null where it could not be inferred.
    pub parameters: SchemaRef,
    /// It gives rows rather than a number of affected rows.
    pub is_query: bool,
    /// It is about the column cache: what `plan` is for.
    pub cache: Option<CacheOrder>,
    /// A PREPARE, as it was said.
    pub(super) prepare: Option<Ast>,
}

impl SqlSession {
    /// Parses and plans one statement. `?` parameters are numbered from left to right.
    ///
    /// # Errors
    /// Syntax (with position), unknown names, and files that are not there or cannot be read.
    pub async fn plan(&self, sql: &str) -> Result<Statement> {
        self.plan_parsed(self.parse(sql)?).await
    }

    /// Parses one statement.
    pub(super) fn parse(&self, sql: &str) -> Result<Parsed> {
        let options = self.context().state_ref().read().config_options().sql_parser.clone();
        let mut statements = parse_with(sql, &options)?;
        match (statements.pop(), statements.len()) {
            (Some(statement), 0) => Ok(statement),
            (None, _) => Err(SessionError::NoStatement.into()),
            (_, others) => Err(SessionError::ManyStatements(others + 1).into()),
        }
    }

    /// Plans one parsed statement.
    pub async fn plan_parsed(&self, statement: Parsed) -> Result<Statement> {
        let (explain, ast) = match statement {
            Parsed::Cache(statement) => return self.plan_cache(statement).await,
            Parsed::Explain { mode, statement } => (Some(mode), statement),
            Parsed::DataFusion(statement) => (None, statement),
        };
        let prepare = prepared::as_prepare(&ast);
        let mut plan = self.plan_ast(*ast).await?;
        if explain.is_none()
            && let LogicalPlan::Statement(PlanStatement::Execute(execute)) = &plan
        {
            plan = self.bind_prepared(execute).await?;
        }
        Ok(Statement { prepare, ..describe(plan, explain)? })
    }

    pub(super) async fn plan_ast(&self, mut statement: Ast) -> Result<LogicalPlan> {
        crate::write::adapt_copy(&mut statement)?;
        let state = self.context().state();
        let references = missing::references(&state, &statement);
        let planned = state.statement_to_plan(statement).await;
        planned.map_err(|error| missing::explain(&state, self.shared().catalog(), references, error))
    }
}

/// What a client needs to know about `plan`.
pub(super) fn describe(plan: LogicalPlan, explain: Option<ExplainMode>) -> Result<Statement> {
    let schema = match (explain, &plan) {
        (Some(_), _) => LogicalPlan::explain_schema(),
        (None, LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)) | LogicalPlan::Copy(_) | LogicalPlan::Dml(_)) => {
            count_schema()
        }
        (None, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_)) => Arc::new(Schema::empty()),
        (None, query) => Arc::new(query.schema().as_arrow().clone()),
    };
    let is_query = explain.is_some()
        || !matches!(
            plan,
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Dml(_) | LogicalPlan::Statement(_)
        );
    let parameters = match &plan {
        // Its parameters are those of EXECUTE.
        LogicalPlan::Statement(PlanStatement::Prepare(_)) => Arc::new(Schema::empty()),
        plan => parameters::infer(plan)?,
    };
    Ok(Statement { plan, explain, schema, parameters, is_query, cache: None, prepare: None })
}

/// The one column that writes give: rows written.
pub fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::UInt64, false)]))
}

/// The row that a write gives.
pub fn count_batch(rows: u64) -> RecordBatch {
    let column = Arc::new(UInt64Array::from(vec![rows]));
    RecordBatch::try_new(count_schema(), vec![column]).expect("the schema has this one column")
}
