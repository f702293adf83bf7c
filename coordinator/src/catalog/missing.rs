//! Names that mean nothing: DataFusion says which, we say that it is not there and what may have been meant.

use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::Statement as Ast;
use datafusion::sql::sqlparser::ast::Statement as SqlAst;
use onward_planner::error::classify;
use onward_wire::ErrorKind;

use super::error::CatalogError;
use super::formats::Format;
use super::names::TableName;
use super::provider::{CATALOG, looks_like_files};
use super::store::Catalog;

/// The tables a statement reads, as far as the text tells. Not those that it creates.
pub fn references(state: &SessionState, statement: &Ast) -> Vec<TableReference> {
    let created = match statement {
        Ast::Statement(statement) => match statement.as_ref() {
            SqlAst::CreateTable(create) => Some(create.name.to_string()),
            SqlAst::CreateView(create) => Some(create.name.to_string()),
            SqlAst::Drop { .. } => return vec![],
            _ => None,
        },
        Ast::CreateExternalTable(_) => return vec![],
        _ => None,
    };
    let references = state.resolve_table_references(statement).unwrap_or_default();
    let created = created.map(TableReference::from);
    references.into_iter().filter(|reference| Some(reference) != created.as_ref()).collect()
}

/// The planning error, or the better one for the first of `references` that is not there.
pub fn explain(
    state: &SessionState,
    catalog: &Catalog,
    references: Vec<TableReference>,
    error: DataFusionError,
) -> DataFusionError {
    if classify(&error).kind() != ErrorKind::InvalidQuery {
        return error;
    }
    let options = &state.config_options().catalog;
    for reference in references {
        let is_qualified = reference.schema().is_some();
        let resolved = reference.resolve(&options.default_catalog, &options.default_schema);
        let name = TableName::new(resolved.schema.as_ref(), resolved.table.as_ref());
        if state.table_functions().contains_key(&name.table.to_lowercase()) || looks_like_files(&name.table) {
            continue;
        }
        match state.schema_for_ref(resolved.clone()) {
            Ok(schema) if schema.table_exist(&name.table) => {}
            Ok(_) => return catalog.missing("table", &name).into(),
            // `from lineitem.parquet` without quotes is a table of a schema.
            Err(_) if is_qualified && Format::of_file(&name.to_string()).is_some() => {
                let hint = format!("; a file name is written in quotes: '{name}'");
                return CatalogError::Missing { what: "table", name: name.to_string(), hint }.into();
            }
            Err(_) if resolved.catalog.as_ref() == CATALOG => return catalog.missing_schema(&name.schema).into(),
            Err(_) => {}
        }
    }
    error
}
