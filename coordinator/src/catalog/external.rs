//! CREATE EXTERNAL TABLE: from the statement to a definition, and from a definition to a table.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, Result, ToDFSchema};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use onward_cache::StoreRegistry;
use onward_wire::message::StoreSpec;
use url::Url;

use super::definition::{External, StoredSchema, StoredSort};
use super::error::CatalogError;
use super::file_table::{FileTable, FileTableSpec};
use super::formats::{Format, FormatOptions};
use super::json::{read_constraints, read_expr, store_constraints, store_expr};
use super::location::{Location, without_password};
use super::names::TableName;

/// Turns the statement into a definition: locations made absolute (relative to `directory`), columns inferred where
/// none are declared.
pub async fn define_external(
    state: &SessionState,
    stores: &StoreRegistry,
    statement: &CreateExternalTable,
    directory: &Path,
) -> Result<External> {
    if statement.unbounded {
        return Err(CatalogError::Invalid("unbounded tables (streams) are not supported".to_owned()).into());
    }
    let format = Format::by_name(&statement.file_type)?;
    let (options, store_options) = FormatOptions::split(&statement.options);
    let mut locations = Vec::new();
    for text in &statement.locations {
        let location = Location::parse(text, directory)?;
        if locations.contains(&location) {
            return Err(CatalogError::Invalid(format!("location `{location}` is named twice")).into());
        }
        locations.push(location);
    }
    check_one_store(&locations)?;
    let first = locations.first().ok_or_else(|| CatalogError::Invalid("LOCATION is missing".to_owned()))?;
    stores.register(&StoreSpec { url: first.url().to_string(), options: store_options.clone() })?;
    // `x.csv.gz` says its compression, `x.tsv` its delimiter; the statement's options win.
    let implied = Format::of_file(&first.file_name()).filter(|(implied, _)| *implied == format);
    let options = options.or(implied.map(|(_, options)| options).unwrap_or_default());

    let declared = statement.schema.inner();
    let mut spec = FileTableSpec::new(locations, format, options);
    spec.find_extension(state, declared.fields().is_empty()).await?;
    spec.partitioned_by = partition_columns(&statement.table_partition_cols, declared)?;
    if !spec.partitioned_by.fields().is_empty() && spec.locations.iter().any(|location| !location.is_collection()) {
        let error = "PARTITIONED BY needs a directory: end LOCATION with a slash";
        return Err(CatalogError::Invalid(error.to_owned()).into());
    }
    let columns = match declared.fields().is_empty() {
        true => {
            if spec.partitioned_by.fields().is_empty() {
                spec.partitioned_by = infer_partitions(state, &spec).await?;
            }
            without(&spec.infer_columns(state).await?, &spec.partitioned_by)
        }
        false => without(declared, &spec.partitioned_by),
    };
    let sorted_by = statement.order_exprs.iter().map(|keys| keys.iter().map(StoredSort::new).collect::<Result<_>>());
    let sorted_by = sorted_by.collect::<Result<Vec<Vec<_>>>>()?;
    let all = table_columns(&columns, &spec.partitioned_by)?;
    for column in statement.order_exprs.iter().flatten().flat_map(|key| key.expr.column_refs()) {
        if !all.has_column(column) {
            return Err(CatalogError::Invalid(format!("WITH ORDER names `{column}`, which is not a column")).into());
        }
    }
    let defaults = statement.column_defaults.iter().map(|(name, expr)| Ok((name.clone(), store_expr(expr)?)));
    Ok(External {
        locations: spec.locations.iter().map(Location::to_stored).collect(),
        format,
        options: spec.options,
        store_options: store_options.into(),
        extension: spec.extension,
        columns: StoredSchema(columns),
        partitioned_by: StoredSchema(spec.partitioned_by),
        sorted_by,
        constraints: store_constraints(&statement.constraints),
        defaults: defaults.collect::<Result<_>>()?,
    })
}

/// The table a definition describes. No file is looked at.
pub fn open_external(
    state: &SessionState,
    stores: &StoreRegistry,
    name: &TableName,
    external: &External,
) -> Result<FileTable> {
    let locations = external.locations.iter().map(|text| Location::read(text));
    let locations = locations.collect::<Result<Vec<_>>>()?;
    if let Some(first) = locations.first() {
        let options = external.store_options.to_wire();
        if !options.is_empty() {
            stores.register(&StoreSpec { url: first.url().to_string(), options })?;
        }
    }
    let mut spec = FileTableSpec::new(locations, external.format, external.options.clone());
    spec.extension = external.extension.clone();
    spec.partitioned_by = external.partitioned_by.0.clone();
    spec.constraints = read_constraints(&external.constraints);
    if !external.sorted_by.is_empty() {
        let schema = table_columns(&external.columns.0, &spec.partitioned_by)?;
        let keys = external.sorted_by.iter().map(|keys| keys.iter().map(|key| key.read(state, &schema)).collect());
        spec.sorted_by = keys.collect::<Result<_>>()?;
    }
    let defaults = external.defaults.iter().map(|(column, sql)| Ok((column.clone(), read_expr(state, sql)?)));
    spec.defaults = defaults.collect::<Result<HashMap<_, _>>>()?;
    spec.definition = Some(definition_sql(name, external));
    spec.build(state, external.columns.0.clone())
}

/// The statement that would create the table again. Values of store options are credentials and are not shown.
fn definition_sql(name: &TableName, external: &External) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut sql = format!("CREATE EXTERNAL TABLE {name} STORED AS {}", external.format.extension().to_uppercase());
    if !external.partitioned_by.0.fields().is_empty() {
        let columns: Vec<_> = external.partitioned_by.0.fields().iter().map(|field| field.name().as_str()).collect();
        sql.push_str(&format!(" PARTITIONED BY ({})", columns.join(", ")));
    }
    let shown = |stored: &str| match Url::parse(stored) {
        Ok(url) if url.password().is_some() => without_password(&url).to_string(),
        _ => stored.to_owned(),
    };
    let locations: Vec<_> = external.locations.iter().map(|location| quoted(&shown(location))).collect();
    match locations.as_slice() {
        [one] => sql.push_str(&format!(" LOCATION {one}")),
        many => sql.push_str(&format!(" LOCATION ({})", many.join(", "))),
    }
    let shown = external.options.iter().map(|(key, value)| format!("{} {}", quoted(key), quoted(value)));
    let hidden = external.store_options.names().map(|key| format!("{} '***'", quoted(key)));
    let options: Vec<_> = shown.chain(hidden).collect();
    if !options.is_empty() {
        sql.push_str(&format!(" OPTIONS ({})", options.join(", ")));
    }
    sql
}

/// DataFusion scans all locations of a table with the first one's store.
fn check_one_store(locations: &[Location]) -> Result<()> {
    let key = |location: &Location| onward_cache::store_key(location.url());
    let mut rest = locations.iter().skip(1);
    match rest.find(|location| key(location) != key(&locations[0])) {
        Some(other) => {
            let error = format!(
                "`{}` and `{other}` are in different stores: create two tables and UNION ALL them",
                locations[0]
            );
            Err(CatalogError::Invalid(error).into())
        }
        None => Ok(()),
    }
}

/// The type that values of undeclared Hive partition columns have.
fn partition_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8))
}

fn partition_columns(names: &[String], declared: &SchemaRef) -> Result<SchemaRef> {
    let field = |name: &String| match declared.fields().is_empty() {
        true => Ok(Field::new(name, partition_type(), false)),
        false => declared.field_with_name(name).cloned().map_err(|_| {
            CatalogError::Invalid(format!("PARTITIONED BY names `{name}`, which is not among the declared columns"))
        }),
    };
    Ok(Arc::new(Schema::new(names.iter().map(field).collect::<Result<Vec<_>, _>>()?)))
}

/// Partition columns that the directories of the first location tell (`year=2024/`).
pub(super) async fn infer_partitions(state: &SessionState, spec: &FileTableSpec) -> Result<SchemaRef> {
    let Some(location) = spec.locations.first().filter(|location| location.is_collection()) else {
        return Ok(Arc::new(Schema::empty()));
    };
    let url = location.listing_url()?;
    let mut found: Option<Vec<String>> = None;
    for name in super::file_table::list_names(state, location).await? {
        let Some(parts) = url.strip_prefix(&name) else { continue };
        let mut names: Vec<String> = parts.filter_map(|part| Some(part.split_once('=')?.0.to_owned())).collect();
        // The file's own name is no directory.
        if name.filename().is_some_and(|file| file.contains('=')) {
            names.pop();
        }
        match &found {
            None => found = Some(names),
            Some(first) if *first != names => {
                let error = format!(
                    "the directories of `{location}` do not agree on partition columns: ({}) and ({}); declare PARTITIONED BY",
                    first.join(", "),
                    names.join(", ")
                );
                return Err(CatalogError::Invalid(error).into());
            }
            Some(_) => {}
        }
    }
    let fields = found.unwrap_or_default().into_iter().map(|name| Field::new(name, partition_type(), false));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

fn table_columns(columns: &SchemaRef, partitioned_by: &SchemaRef) -> Result<DFSchema> {
    let all = columns.fields().iter().chain(partitioned_by.fields()).cloned().collect::<Vec<_>>();
    Schema::new(all).to_dfschema()
}

/// `columns` without those that are in the directories' names.
pub(super) fn without(columns: &SchemaRef, partitioned_by: &SchemaRef) -> SchemaRef {
    if partitioned_by.fields().is_empty() {
        return columns.clone();
    }
    let keep = columns.fields().iter().filter(|field| partitioned_by.field_with_name(field.name()).is_err());
    Arc::new(Schema::new_with_metadata(keep.cloned().collect::<Vec<_>>(), columns.metadata().clone()))
}
