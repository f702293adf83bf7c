//! CREATE TABLE, with and without AS.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::Result;
use datafusion::logical_expr::{CreateMemoryTable, LogicalPlan};
use onward_executor::write::WriteNode;

use super::pending::{Then, Write};
use super::place::Place;
use crate::catalog::definition::{Definition, Managed, StoredSchema};
use crate::catalog::{
    CatalogError, Format, FormatOptions, Location, OnExists, random_name, store_constraints, store_expr,
};
use crate::session::SqlSession;

/// The only part of a table that was just created.
const FIRST_PART: &str = "p-0";

impl SqlSession {
    /// CREATE TABLE as a write. `None`: it took effect at once, because no rows were given (or IF NOT EXISTS found it).
    pub(crate) async fn create_table(&self, create: CreateMemoryTable) -> Result<Option<Write>> {
        if create.temporary {
            return crate::session::ddl::temporary_table();
        }
        let name = self.name(&create.name)?;
        let on_exists = self.on_exists(create.if_not_exists, create.or_replace)?;
        let catalog = self.shared().catalog();
        match catalog.get(&name) {
            Some(_) if on_exists == OnExists::Keep => return Ok(None),
            Some(old) if on_exists == OnExists::Fail => {
                return Err(CatalogError::Exists { what: old.what(), name: name.to_string() }.into());
            }
            _ => {}
        }
        let is_declared = is_declaration(&create);
        let state = self.context().state();
        // Types are known only after coercion (`UNION` of INT and BIGINT).
        let input = state.analyzer().execute_and_check(
            Arc::unwrap_or_clone(create.input),
            state.config_options(),
            |_, _| {},
        )?;
        let columns = columns(input.schema().as_arrow(), is_declared)?;
        let defaults = create.column_defaults.iter().map(|(column, expr)| Ok((column.clone(), store_expr(expr)?)));
        let directory = format!("{}-{}", file_name(&name.table), random_name());
        let mut managed = Managed {
            directory,
            parts: vec![],
            columns: StoredSchema(Arc::new(columns)),
            constraints: store_constraints(&create.constraints),
            defaults: defaults.collect::<Result<_>>()?,
        };
        if is_declared {
            catalog.create(&name, Definition::Managed(managed), on_exists)?;
            return Ok(None);
        }
        let place = self.part_place(&managed, FIRST_PART)?;
        let target = place.target(Format::Parquet, &FormatOptions::default())?;
        managed.parts.push(FIRST_PART.to_owned());
        let plan = WriteNode::plan(input, target)?;
        let then = Then::Create { name, definition: Box::new(Definition::Managed(managed)), on_exists };
        Ok(Some(Write::new(plan, place, self.shared(), then)))
    }

    /// A directory for a part of a managed table.
    pub(super) fn part_place(&self, managed: &Managed, part: &str) -> Result<Place> {
        let path = self.shared().catalog().directory().tables().join(&managed.directory).join(part);
        Place::new(&Location::directory(&path)?, false)
    }
}

/// CREATE TABLE with columns and without rows: there is nothing to run.
pub fn is_declaration(create: &CreateMemoryTable) -> bool {
    matches!(create.input.as_ref(), LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row)
}

/// Columns of the table: as declared, or those of the query, all nullable (a query's columns say what this result holds,
/// not what later rows may).
fn columns(schema: &Schema, is_declared: bool) -> Result<Schema> {
    let mut names = std::collections::HashSet::new();
    if let Some(twice) = schema.fields().iter().find(|field| !names.insert(field.name())) {
        let error = format!("column `{}` occurs twice in the new table: give it an alias", twice.name());
        return Err(CatalogError::Invalid(error).into());
    }
    if schema.fields().is_empty() {
        return Err(CatalogError::Invalid("a table needs a column".to_owned()).into());
    }
    if is_declared {
        return Ok(schema.clone());
    }
    let fields = schema.fields().iter().map(|field| Field::clone(field).with_nullable(true));
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

/// The table's name as part of a directory name, for people who look into the data directory.
fn file_name(table: &str) -> String {
    table.chars().take(40).map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}
