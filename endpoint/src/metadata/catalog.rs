//! Catalogs, schemas, tables and their kinds, as the session sees them.

use std::sync::Arc;

use arrow_flight::sql::metadata::GetTablesBuilder;
use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::SchemaProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;
use onward_shuffle::flight::client_schema;
use tonic::Status;

use super::failed;

/// Kinds of tables, in JDBC's words: tools filter by them.
const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
const TEMPORARY: &str = "LOCAL TEMPORARY";
const SYSTEM: &str = "SYSTEM TABLE";

/// Schemas whose tables describe the engine rather than hold data.
const SYSTEM_SCHEMAS: [&str; 2] = [INFORMATION_SCHEMA, "system"];
const INFORMATION_SCHEMA: &str = "information_schema";

pub(super) fn catalogs(query: CommandGetCatalogs, context: &SessionContext) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for catalog in context.catalog_names() {
        builder.append(catalog);
    }
    builder.build().map_err(failed)
}

pub(super) fn schemas(query: CommandGetDbSchemas, context: &SessionContext) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for catalog in context.catalog_names() {
        for schema in schema_names(context, &catalog) {
            builder.append(&catalog, schema);
        }
    }
    builder.build().map_err(failed)
}

pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for kind in [TABLE, VIEW, TEMPORARY, SYSTEM] {
        builder.append(kind);
    }
    builder.build().map_err(failed)
}

pub(super) async fn tables(query: CommandGetTables, context: &SessionContext) -> Result<RecordBatch, Status> {
    let wanted = query.catalog.clone();
    let mut builder = query.into_builder();
    for catalog_name in context.catalog_names() {
        if wanted.as_ref().is_some_and(|wanted| *wanted != catalog_name) {
            continue;
        }
        for schema_name in schema_names(context, &catalog_name) {
            let reference = TableReference::full(catalog_name.as_str(), schema_name.as_str(), "");
            // The state, not the catalog: it is what knows `information_schema`.
            let schema = context.state().schema_for_ref(reference);
            if let Ok(schema) = schema {
                add_tables(&mut builder, &catalog_name, &schema_name, schema).await?;
            }
        }
    }
    builder.build().map_err(failed)
}

/// The schemas of a catalog, `information_schema` included: every catalog has it, but none lists it.
fn schema_names(context: &SessionContext, catalog: &str) -> Vec<String> {
    let mut names = context.catalog(catalog).map(|catalog| catalog.schema_names()).unwrap_or_default();
    let is_on = context.state().config_options().catalog.information_schema;
    if is_on && !names.iter().any(|name| name == INFORMATION_SCHEMA) {
        names.push(INFORMATION_SCHEMA.to_owned());
    }
    names
}

async fn add_tables(
    builder: &mut GetTablesBuilder,
    catalog_name: &str,
    schema_name: &str,
    schema: Arc<dyn SchemaProvider>,
) -> Result<(), Status> {
    let is_system = SYSTEM_SCHEMAS.contains(&schema_name);
    for name in schema.table_names() {
        // A table that was dropped since it was listed, or whose files are gone, must not hide the others.
        let table = match schema.table(&name).await {
            Ok(Some(table)) => table,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(table = %format_args!("{catalog_name}.{schema_name}.{name}"), %error, "cannot describe");
                builder.append(catalog_name, schema_name, &name, TABLE, &Schema::empty()).map_err(failed)?;
                continue;
            }
        };
        let kind = match table.table_type() {
            _ if is_system => SYSTEM,
            TableType::Base => TABLE,
            TableType::View => VIEW,
            TableType::Temporary => TEMPORARY,
        };
        let columns = client_schema(&table.schema());
        builder.append(catalog_name, schema_name, &name, kind, &columns).map_err(failed)?;
    }
    Ok(())
}
