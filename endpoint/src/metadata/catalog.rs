//! Catalogs, schemas, tables and their kinds, as the session sees them.

use std::sync::Arc;

use arrow_flight::sql::metadata::GetTablesBuilder;
use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::SchemaProvider;
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;
use tonic::Status;

use super::failed;
use crate::client_types::client_schema;

/// Kinds of tables, in JDBC's words: tools filter by them.
const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
const TEMPORARY: &str = "LOCAL TEMPORARY";
const SYSTEM: &str = "SYSTEM TABLE";

/// Schemas whose tables describe the engine rather than hold data.
const SYSTEM_SCHEMAS: [&str; 2] = ["information_schema", "system"];

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
        for schema in context.catalog(&catalog).iter().flat_map(|catalog| catalog.schema_names()) {
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
        let Some(catalog) = context.catalog(&catalog_name) else { continue };
        for schema_name in catalog.schema_names() {
            if let Some(schema) = catalog.schema(&schema_name) {
                add_tables(&mut builder, &catalog_name, &schema_name, schema).await?;
            }
        }
    }
    builder.build().map_err(failed)
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
