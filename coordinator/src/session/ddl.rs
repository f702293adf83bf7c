//! CREATE and DROP: statements about the catalog.

use datafusion::common::Result;
use datafusion::common::TableReference;
use datafusion::logical_expr::{CreateExternalTable, CreateView, DdlStatement, LogicalPlan};

use super::context::SqlSession;
use super::error::SessionError;
use crate::catalog::definition::Definition;
use crate::catalog::{CatalogError, Location, OnExists, TableName, define_external, define_view};

impl SqlSession {
    /// Executes a statement about the catalog. CREATE TABLE is a write, not this.
    pub(super) async fn ddl(&self, statement: DdlStatement) -> Result<()> {
        let catalog = self.shared().catalog();
        match statement {
            DdlStatement::CreateExternalTable(create) => self.create_external(&create).await,
            DdlStatement::CreateView(create) => self.create_view(&create),
            DdlStatement::CreateCatalogSchema(create) => {
                let name = create.schema_name.strip_prefix("onward.").unwrap_or(&create.schema_name);
                catalog.create_schema(name, create.if_not_exists)?;
                Ok(())
            }
            DdlStatement::DropTable(drop) => {
                let name = self.name(&drop.name)?;
                if self.deregister(&drop.name)? {
                    return Ok(());
                }
                catalog.drop_table(&name, "table", drop.if_exists)?;
                Ok(())
            }
            DdlStatement::DropView(drop) => {
                catalog.drop_table(&self.name(&drop.name)?, "view", drop.if_exists)?;
                Ok(())
            }
            DdlStatement::DropCatalogSchema(drop) => {
                catalog.drop_schema(drop.name.schema_name(), drop.if_exists, drop.cascade)?;
                Ok(())
            }
            DdlStatement::CreateCatalog(_) => unsupported("CREATE DATABASE", "use CREATE SCHEMA"),
            DdlStatement::CreateIndex(_) => unsupported("CREATE INDEX", "files are pruned by their own statistics"),
            other @ (DdlStatement::CreateFunction(_) | DdlStatement::DropFunction(_)) => {
                self.context().execute_logical_plan(LogicalPlan::Ddl(other)).await?;
                Ok(())
            }
            DdlStatement::CreateMemoryTable(_) => {
                datafusion::common::internal_err!("CREATE TABLE is executed as a write")
            }
        }
    }

    /// The name a statement means in this session.
    pub(crate) fn name(&self, reference: &TableReference) -> Result<TableName> {
        let state = self.context().state();
        let catalog = &state.config_options().catalog;
        TableName::resolve(reference, &catalog.default_catalog, &catalog.default_schema)
    }

    /// Removes a table that was registered in this session only. False: there is none.
    fn deregister(&self, reference: &TableReference) -> Result<bool> {
        let schema = self.context().state().schema_for_ref(reference.clone());
        match schema {
            Ok(schema) => Ok(schema.deregister_table(reference.table())?.is_some()),
            Err(_) => Ok(false),
        }
    }

    async fn create_external(&self, create: &CreateExternalTable) -> Result<()> {
        if create.temporary {
            return temporary_table();
        }
        let name = self.name(&create.name)?;
        let on_exists = self.on_exists(create.if_not_exists, create.or_replace)?;
        // Before files are looked at: reading them can take long.
        match self.shared().catalog().get(&name) {
            Some(_) if on_exists == OnExists::Keep => return Ok(()),
            Some(old) if on_exists == OnExists::Fail => {
                return Err(CatalogError::Exists { what: old.what(), name: name.to_string() }.into());
            }
            _ => {}
        }
        for text in &create.locations {
            if let Some(path) = Location::parse(text, self.directory())?.local_path() {
                self.check_path(&path)?;
                self.check_not_ours(&path)?;
            }
        }
        let state = self.context().state();
        let external = define_external(&state, self.shared().stores(), create, self.directory()).await?;
        self.shared().catalog().create(&name, Definition::External(external), on_exists)?;
        Ok(())
    }

    fn create_view(&self, create: &CreateView) -> Result<()> {
        if create.temporary {
            return unsupported("CREATE TEMPORARY VIEW", "create a view and drop it, or use WITH");
        }
        let name = self.name(&create.name)?;
        let view = define_view(&self.context().state(), create, self.directory())?;
        let on_exists = self.on_exists(false, create.or_replace)?;
        self.shared().catalog().create(&name, Definition::View(view), on_exists)?;
        Ok(())
    }

    /// What CREATE does when the name is taken.
    pub(crate) fn on_exists(&self, if_not_exists: bool, or_replace: bool) -> Result<OnExists> {
        match (if_not_exists, or_replace) {
            (true, true) => {
                let error = "IF NOT EXISTS and OR REPLACE exclude each other".to_owned();
                Err(CatalogError::Invalid(error).into())
            }
            (true, false) => Ok(OnExists::Keep),
            (false, true) => Ok(OnExists::Replace),
            (false, false) => Ok(OnExists::Fail),
        }
    }
}

fn unsupported<T>(statement: &str, advice: &'static str) -> Result<T> {
    Err(SessionError::Unsupported { statement: statement.to_owned(), advice }.into())
}

/// The error of CREATE TEMPORARY TABLE.
pub(crate) fn temporary_table<T>() -> Result<T> {
    unsupported("CREATE TEMPORARY TABLE", "create a table and drop it")
}
