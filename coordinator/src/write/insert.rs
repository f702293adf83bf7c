//! INSERT INTO and INSERT OVERWRITE.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, LogicalPlanBuilder, WriteOp};
use onward_executor::write::WriteNode;
use onward_wire::message::StoreSpec;

use super::pending::{Then, Write};
use super::place::Place;
use crate::catalog::definition::{Definition, External, Managed, StoredSort};
use crate::catalog::{CatalogError, Format, FormatOptions, Location, TableName, random_name};
use crate::session::{SessionError, SqlSession};

impl SqlSession {
    /// INSERT as a write.
    pub(crate) async fn insert(&self, statement: DmlStatement) -> Result<Write> {
        let operation = match &statement.op {
            WriteOp::Insert(operation @ (InsertOp::Append | InsertOp::Overwrite)) => *operation,
            other => {
                let statement = other.to_string();
                let advice = "write the rows you want with CREATE OR REPLACE TABLE ... AS SELECT";
                return Err(SessionError::Unsupported { statement, advice }.into());
            }
        };
        let name = self.name(&statement.table_name)?;
        let input = statement.input.as_ref().clone();
        let columns = statement.target.schema();
        match self.shared().catalog().get(&name).as_deref() {
            Some(Definition::Managed(managed)) => self.insert_managed(name, managed, operation, input, &columns),
            Some(Definition::External(external)) if operation == InsertOp::Append => {
                self.insert_external(&name, external, input, &columns)
            }
            Some(Definition::External(_)) => {
                let statement = "INSERT OVERWRITE of an external table".to_owned();
                Err(SessionError::Unsupported { statement, advice: "COPY to another directory" }.into())
            }
            Some(Definition::View(_)) => {
                Err(CatalogError::Invalid(format!("`{name}` is a view: insert into its table")).into())
            }
            None => {
                let table = &statement.table_name;
                let error =
                    format!("`{table}` is no table of the catalog: CREATE TABLE or CREATE EXTERNAL TABLE first");
                Err(CatalogError::Invalid(error).into())
            }
        }
    }

    fn insert_managed(
        &self,
        name: TableName,
        managed: &Managed,
        operation: InsertOp,
        input: LogicalPlan,
        columns: &SchemaRef,
    ) -> Result<Write> {
        let part = format!("p-{}", random_name());
        let place = self.part_place(managed, &part)?;
        let mut target = place.target(Format::Parquet, &FormatOptions::default())?;
        target.not_null = not_null(columns);
        let plan = WriteNode::plan(input, target)?;
        let is_overwrite = operation == InsertOp::Overwrite;
        let then = Then::AddPart { name, directory: managed.directory.clone(), part, is_overwrite };
        Ok(Write::new(plan, place, self.shared(), then))
    }

    fn insert_external(
        &self,
        name: &TableName,
        external: &External,
        input: LogicalPlan,
        columns: &SchemaRef,
    ) -> Result<Write> {
        let location = match external.locations.as_slice() {
            [one] => Location::read(one)?,
            _ => return Err(not_one_directory(name, "it has several locations")),
        };
        if location.pattern().is_some() {
            return Err(not_one_directory(name, "its location is a pattern"));
        }
        if !location.is_collection() {
            return Err(not_one_directory(name, "its location is a single file"));
        }
        let place = Place::new(&location, false)?;
        self.check_place(&place)?;
        let options = external.store_options.to_wire();
        if !options.is_empty() {
            self.shared().stores().register(&StoreSpec { url: place.url.to_string(), options })?;
        }
        let mut target = place.target(external.format, &external.options)?;
        if !external.extension.is_empty() {
            target.extension = external.extension.trim_start_matches('.').to_owned();
        }
        target.partition_by = external.partitioned_by.0.fields().iter().map(|field| field.name().clone()).collect();
        target.not_null = not_null(columns);
        let input = self.in_declared_order(input, &external.sorted_by)?;
        Ok(Write::new(WriteNode::plan(input, target)?, place, self.shared(), Then::Nothing))
    }

    /// Files of a table WITH ORDER have that order.
    fn in_declared_order(&self, input: LogicalPlan, orders: &[Vec<StoredSort>]) -> Result<LogicalPlan> {
        let Some(order) = orders.first() else { return Ok(input) };
        let state = self.context().state();
        let schema = DFSchema::try_from(Arc::new(input.schema().as_arrow().clone()))?;
        let keys = order.iter().map(|key| key.read(&state, &schema)).collect::<Result<Vec<_>>>()?;
        LogicalPlanBuilder::from(input).sort(keys)?.build()
    }
}

fn not_null(columns: &SchemaRef) -> Vec<String> {
    let columns = columns.fields().iter().filter(|field| !field.is_nullable());
    columns.map(|field| field.name().clone()).collect()
}

fn not_one_directory(name: &TableName, why: &str) -> datafusion::error::DataFusionError {
    CatalogError::Invalid(format!(
        "cannot insert into `{name}`: {why}; INSERT INTO adds files to a table over one directory"
    ))
    .into()
}
