//! Views: planned anew for every query, so that they never show an old table.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, internal_err};
use datafusion::config::Dialect;
use datafusion::datasource::ViewTable;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{CreateView, DdlStatement, Expr, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use onward_wire::WireError;

use super::definition::{StoredSchema, View};
use super::error::CatalogError;
use super::missing;
use super::names::TableName;
use super::store::Catalog;

/// Views that a view's query may go through. A cycle (made with OR REPLACE) ends here.
pub const MAX_VIEW_DEPTH: usize = 32;

/// Turns CREATE VIEW into a definition.
pub fn define_view(state: &SessionState, statement: &CreateView, directory: &Path) -> Result<View> {
    let schema = statement.input.schema();
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = schema.fields().iter().find(|field| !seen.insert(field.name())) {
        let error = format!("column `{}` occurs twice in the view: give it an alias", twice.name());
        return Err(CatalogError::Invalid(error).into());
    }
    if !statement.input.get_parameter_names()?.is_empty() {
        return Err(CatalogError::Invalid("a view cannot have parameters".to_owned()).into());
    }
    let Some(sql) = statement.definition.clone() else {
        return internal_err!("CREATE VIEW without its text");
    };
    let options = state.config_options();
    Ok(View {
        sql,
        dialect: options.sql_parser.dialect.to_string(),
        default_schema: options.catalog.default_schema.clone(),
        directory: directory.display().to_string(),
        columns: StoredSchema(Arc::new(schema.as_arrow().clone())),
    })
}

/// Plans a view in `state`, whose catalogs resolve names as its definition says. A view that cannot be planned (a table
/// was dropped) is a table that fails when it is read: listings of the catalog still work.
pub async fn open_view(
    state: SessionState,
    catalog: &Catalog,
    name: &TableName,
    view: &View,
) -> Arc<dyn TableProvider> {
    match plan_view(&state, catalog, view).await {
        Ok(plan) => Arc::new(ViewTable::new(plan, Some(view.sql.clone()))),
        Err(error) => {
            let mut reason = onward_planner::error::classify(&error);
            reason.message = format!("view `{name}` cannot be read: {}", reason.message);
            Arc::new(BrokenView { columns: view.columns.0.clone(), sql: view.sql.clone(), reason })
        }
    }
}

async fn plan_view(state: &SessionState, catalog: &Catalog, view: &View) -> Result<LogicalPlan> {
    let dialect: Dialect = view.dialect.parse()?;
    let statement = state.sql_to_statement(&view.sql, &dialect)?;
    let references = missing::references(state, &statement);
    let planned = state.statement_to_plan(statement).await;
    match planned.map_err(|error| missing::explain(state, catalog, references, error))? {
        LogicalPlan::Ddl(DdlStatement::CreateView(view)) => {
            // Types are coerced as the view's own query says, not as the query around it would.
            state.analyzer().execute_and_check(Arc::unwrap_or_clone(view.input), state.config_options(), |_, _| {})
        }
        _ => internal_err!("a view's definition is not a CREATE VIEW"),
    }
}

/// A view whose query cannot be planned.
#[derive(Debug)]
struct BrokenView {
    columns: SchemaRef,
    sql: String,
    reason: WireError,
}

#[async_trait]
impl TableProvider for BrokenView {
    fn schema(&self) -> SchemaRef {
        self.columns.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.sql)
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::External(Box::new(self.reason.clone())))
    }
}
