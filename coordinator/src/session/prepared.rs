//! Prepared statements: kept as they were said, and planned anew for each execution.
//!
//! A plan names the columns, the views and the files that tables had when it was made. Until the statement is executed a table may
//! get rows, be replaced or dropped. What is kept is the parsed statement, and what its client was told about it; a client that
//! was told something else by now gets an error, not rows that it cannot read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::{ParamValues, Result, exec_err, internal_err, not_impl_err, plan_err};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Execute, Expr, LogicalPlan, Prepare, Statement as PlanStatement};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::parser::Statement as Ast;
use datafusion::sql::sqlparser::ast::Statement as SqlAst;
use onward_planner::statement::Statement as Parsed;
use onward_wire::Config;
use parking_lot::Mutex;

use super::context::SqlSession;
use super::error::SessionError;
use super::statement::Statement;

/// A statement that clients execute by a handle, as often as they like.
#[derive(Clone, Debug)]
pub struct PreparedStatement {
    parsed: Parsed,
    /// As [`Statement::schema`].
    pub schema: SchemaRef,
    /// As [`Statement::parameters`].
    pub parameters: SchemaRef,
    /// As [`Statement::is_query`].
    pub is_query: bool,
}

/// Statements of PREPARE, by name.
#[derive(Debug)]
pub(super) struct NamedStatements {
    limit: usize,
    by_name: Mutex<HashMap<String, Named>>,
}

#[derive(Clone, Debug)]
struct Named {
    /// The whole PREPARE.
    statement: Ast,
    /// Columns when it was prepared.
    columns: Arc<Schema>,
}

impl Default for NamedStatements {
    fn default() -> Self {
        Self { limit: Config::default().max_prepared_statements as usize, by_name: Mutex::default() }
    }
}

impl SqlSession {
    /// The session may PREPARE this many statements.
    pub fn with_prepared_limit(mut self, limit: usize) -> Self {
        self.prepared.limit = limit;
        self
    }

    /// The PREPARE statements that it remembers, in the order of their names.
    pub fn named_statements(&self) -> Vec<String> {
        let by_name = self.prepared.by_name.lock();
        let mut named: Vec<_> = by_name.iter().collect();
        named.sort_by_key(|(name, _)| *name);
        named.into_iter().map(|(_, named)| named.statement.to_string()).collect()
    }

    /// Parses one statement, and plans it for what is to be known about it.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub async fn prepare(&self, sql: &str) -> Result<PreparedStatement> {
        let parsed = self.parse(sql)?;
        let Statement { schema, parameters, is_query, .. } = self.plan_parsed(parsed.clone()).await?;
        Ok(PreparedStatement { parsed, schema, parameters, is_query })
    }

    /// Plans a prepared statement over the tables as they are now.
    ///
    /// # Errors
    /// As [`Self::plan`], and when its columns or parameters are not those its client knows.
    pub async fn plan_prepared(&self, prepared: &PreparedStatement) -> Result<Statement> {
        let statement = self.plan_parsed(prepared.parsed.clone()).await?;
        check_same("columns", &prepared.schema, &statement.schema)?;
        check_same("parameters", &prepared.parameters, &statement.parameters)?;
        Ok(statement)
    }

    /// PREPARE, whose plan is `prepare`.
    pub(super) fn keep(&self, prepare: &Prepare, statement: Ast) -> Result<()> {
        let Prepare { name, fields, input } = prepare;
        if let LogicalPlan::Statement(PlanStatement::Prepare(_) | PlanStatement::Execute(_)) = input.as_ref() {
            let statement = "PREPARE of PREPARE or EXECUTE".to_owned();
            return Err(SessionError::Unsupported { statement, advice: "prepare what it executes" }.into());
        }
        let parameters = input.get_parameter_names()?.len();
        if !fields.is_empty() && parameters != fields.len() {
            return plan_err!("Prepare specifies {} data types but query has {parameters} parameters", fields.len());
        }
        let mut kept = self.prepared.by_name.lock();
        let count = kept.len();
        match kept.entry(name.clone()) {
            Entry::Occupied(_) => exec_err!("Prepared statement '{name}' already exists"),
            Entry::Vacant(_) if count >= self.prepared.limit => Err(SessionError::ManyPrepared(count).into()),
            Entry::Vacant(entry) => {
                entry.insert(Named { statement, columns: Arc::clone(input.schema().inner()) });
                Ok(())
            }
        }
    }

    /// DEALLOCATE.
    pub(super) fn forget(&self, name: &str) -> Result<()> {
        match self.prepared.by_name.lock().remove(name) {
            Some(_) => Ok(()),
            None => not_prepared(name),
        }
    }

    /// EXECUTE: the plan of the statement, with values for its parameters.
    pub(super) async fn bind_prepared(&self, execute: &Execute) -> Result<LogicalPlan> {
        let Execute { name, parameters } = execute;
        let kept = self.prepared.by_name.lock().get(name).cloned();
        let Some(Named { statement, columns }) = kept else { return not_prepared(name) };
        let LogicalPlan::Statement(PlanStatement::Prepare(prepare)) = self.plan_ast(statement).await? else {
            return internal_err!("PREPARE is planned as something else");
        };
        check_same("columns", &columns, prepare.input.schema().inner())?;
        let mut values = self.literals(parameters, &prepare)?;
        if !prepare.fields.is_empty() {
            if values.len() != prepare.fields.len() {
                return exec_err!(
                    "Prepared statement '{name}' expects {} parameters, but {} provided",
                    prepare.fields.len(),
                    values.len()
                );
            }
            let typed = values.iter().zip(&prepare.fields);
            values = typed.map(|(value, field)| value.cast_storage_to(field.data_type())).collect::<Result<_>>()?;
        }
        Arc::unwrap_or_clone(prepare.input).replace_params_with_values(&ParamValues::List(values))
    }

    /// The values of EXECUTE's parameters, which may be expressions of constants.
    fn literals(&self, parameters: &[Expr], prepare: &Prepare) -> Result<Vec<ScalarAndMetadata>> {
        let options = Arc::clone(self.context().state_ref().read().config_options());
        let schema = Arc::clone(prepare.input.schema());
        let context =
            SimplifyContext::builder().with_schema(schema).with_config_options(options).with_current_time().build();
        let simplifier = ExprSimplifier::new(context);
        let literal = |expr: &Expr| match simplifier.simplify(expr.clone())? {
            Expr::Literal(value, metadata) => Ok(ScalarAndMetadata::new(value, metadata)),
            other => not_impl_err!("Unsupported parameter type: {other}"),
        };
        parameters.iter().map(literal).collect()
    }
}

/// The statement to keep of a PREPARE.
pub(super) fn as_prepare(statement: &Ast) -> Option<Ast> {
    let is_prepare =
        matches!(statement, Ast::Statement(statement) if matches!(statement.as_ref(), SqlAst::Prepare { .. }));
    is_prepare.then(|| statement.clone())
}

fn not_prepared<T>(name: &str) -> Result<T> {
    exec_err!("Prepared statement '{name}' does not exist")
}

/// Errors when a client that knows `told` would misread `now`.
fn check_same(what: &'static str, told: &Schema, now: &Schema) -> Result<()> {
    let names = |schema: &Schema| {
        let fields = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        fields.collect::<Vec<_>>().join(", ")
    };
    let (told, now) = (names(told), names(now));
    if told == now {
        return Ok(());
    }
    Err(SessionError::Changed { what, told, now }.into())
}
