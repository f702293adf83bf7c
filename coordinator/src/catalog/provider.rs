//! What a session sees: DataFusion's catalog traits over [`Catalog`], plus files by their bare names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{Result, exec_err, internal_datafusion_err};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::TableType;
use onward_cache::StoreRegistry;
use parking_lot::RwLock;

use super::definition::{Definition, View};
use super::error::CatalogError;
use super::external::{infer_partitions, open_external, without};
use super::file_table::{FileTableSpec, list_names, no_files};
use super::formats::Format;
use super::location::Location;
use super::managed::open_managed;
use super::names::TableName;
use super::store::Catalog;
use super::table_files::Lease;
use super::view::{MAX_VIEW_DEPTH, open_view};

/// The catalog's name in SQL.
pub const CATALOG: &str = "onward";

/// The schema that unqualified names mean.
pub const DEFAULT_SCHEMA: &str = "public";

type SharedState = RwLock<SessionState>;
type Registered = BTreeMap<(String, String), Arc<dyn TableProvider>>;

/// A session's catalogs. Tables that are registered through DataFusion's API (embedding, tests) belong to the session
/// and are not kept.
#[derive(Clone)]
pub struct SessionCatalogs(Arc<Inner>);

struct Inner {
    catalog: Arc<Catalog>,
    stores: Arc<StoreRegistry>,
    /// Relative file names mean files below it.
    directory: PathBuf,
    /// The session's state, for its settings and formats. Set once, right after the state is built.
    state: OnceLock<Weak<SharedState>>,
    /// `(schema, table)` registered in this session.
    registered: Arc<RwLock<Registered>>,
    /// Views around this one.
    view_depth: usize,
}

impl fmt::Debug for SessionCatalogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The session state prints its catalogs: no way back.
        f.debug_struct("SessionCatalogs").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

impl SessionCatalogs {
    /// A view of `catalog` for one session. Call [`Self::bind`] before the first query.
    pub fn new(catalog: Arc<Catalog>, stores: Arc<StoreRegistry>, directory: PathBuf) -> Self {
        Self(Arc::new(Inner {
            catalog,
            stores,
            directory,
            state: OnceLock::new(),
            registered: Arc::default(),
            view_depth: 0,
        }))
    }

    /// Tells which session this is for.
    pub fn bind(&self, state: Weak<SharedState>) {
        // A second bind would be a second session, which makes its own catalogs.
        let _ = self.0.state.set(state);
    }

    /// Relative file names mean files below it.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The catalog behind it.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.0.catalog
    }

    fn state(&self) -> Result<SessionState> {
        let state = self.0.state.get().and_then(Weak::upgrade);
        let state = state.ok_or_else(|| internal_datafusion_err!("the session of this catalog has ended"))?;
        let state = state.read().clone();
        Ok(state)
    }

    /// A state in which names mean what they mean in `view`.
    fn state_for_view(&self, view: &View) -> Result<SessionState> {
        if self.0.view_depth >= MAX_VIEW_DEPTH {
            let error = format!("views are nested more than {MAX_VIEW_DEPTH} deep, or name themselves");
            return Err(CatalogError::Invalid(error).into());
        }
        let mut state = self.state()?;
        state.config_mut().options_mut().catalog.default_schema = view.default_schema.clone();
        let inner = Inner {
            catalog: self.0.catalog.clone(),
            stores: self.0.stores.clone(),
            directory: PathBuf::from(&view.directory),
            state: self.0.state.clone(),
            registered: self.0.registered.clone(),
            view_depth: self.0.view_depth + 1,
        };
        Ok(SessionStateBuilder::new_from_existing(state).with_catalog_list(Arc::new(Self(Arc::new(inner)))).build())
    }

    async fn open(&self, name: &TableName, definition: &Definition, lease: Lease) -> Result<Arc<dyn TableProvider>> {
        match definition {
            Definition::External(external) => {
                Ok(Arc::new(open_external(&self.state()?, &self.0.stores, name, external)?))
            }
            Definition::Managed(managed) => {
                open_managed(&self.state()?, &self.0.catalog.directory().tables(), managed, lease)
            }
            Definition::View(view) => match self.state_for_view(view) {
                Ok(state) => Ok(Box::pin(open_view(state, &self.0.catalog, name, view)).await),
                Err(error) => Err(error),
            },
        }
    }

    /// The file, directory, pattern or URL that `name` is, if it looks like one.
    async fn open_files(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if looks_like_files(name) {
            return self.open_location(name).await.map(Some);
        }
        // A directory may have the name of a new table: only one that can be read is meant.
        match !name.is_empty() && self.0.directory.join(name).is_dir() {
            true => Ok(self.open_location(name).await.ok()),
            false => Ok(None),
        }
    }

    async fn open_location(&self, name: &str) -> Result<Arc<dyn TableProvider>> {
        let named_format = Format::of_file(name);
        let location = Location::parse(name, &self.0.directory)?;
        let state = self.state()?;
        let names = match location.is_collection() {
            true => list_names(&state, &location).await?,
            false => vec![],
        };
        if location.is_collection() && names.is_empty() {
            return Err(no_files(&location).into());
        }
        let by_files = || names.iter().find_map(|name| Format::of_file(name.as_ref()));
        let Some((format, options)) = named_format.or_else(by_files) else {
            if location.local_path().is_some_and(|path| !path.exists()) {
                return Err(no_files(&location).into());
            }
            let error = format!(
                "the format of `{location}` cannot be told from its name: use CREATE EXTERNAL TABLE ... STORED AS ..."
            );
            return Err(CatalogError::Invalid(error).into());
        };
        let mut spec = FileTableSpec::new(vec![location], format, options);
        spec.find_extension(&state, true).await?;
        spec.partitioned_by = infer_partitions(&state, &spec).await?;
        let columns = without(&spec.infer_columns(&state).await?, &spec.partitioned_by);
        Ok(Arc::new(spec.build(&state, columns)?))
    }
}

/// A name that can only mean a file, a directory, a pattern or a URL.
pub fn looks_like_files(name: &str) -> bool {
    Format::of_file(name).is_some() || name.contains(['/', '*'])
}

impl CatalogProviderList for SessionCatalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(SessionCatalog(self.clone())) as Arc<dyn CatalogProvider>)
    }
}

/// The catalog `onward`.
#[derive(Debug)]
struct SessionCatalog(SessionCatalogs);

impl CatalogProvider for SessionCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.0.catalog.schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if let Some(system) = self.0.0.catalog.system_schema(name) {
            return Some(system);
        }
        let schema = SessionSchema { catalogs: self.0.clone(), name: name.to_owned() };
        self.0.0.catalog.has_schema(name).then(|| Arc::new(schema) as Arc<dyn SchemaProvider>)
    }
}

/// One schema of the catalog.
#[derive(Debug)]
struct SessionSchema {
    catalogs: SessionCatalogs,
    name: String,
}

impl SessionSchema {
    fn registered(&self, table: &str) -> Option<Arc<dyn TableProvider>> {
        self.catalogs.0.registered.read().get(&(self.name.clone(), table.to_owned())).cloned()
    }
}

#[async_trait]
impl SchemaProvider for SessionSchema {
    fn table_names(&self) -> Vec<String> {
        let mut names = self.catalogs.0.catalog.table_names(&self.name);
        let registered = self.catalogs.0.registered.read();
        names.extend(registered.keys().filter(|(schema, _)| *schema == self.name).map(|(_, table)| table.clone()));
        names.sort();
        names.dedup();
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.registered(name) {
            return Ok(Some(table));
        }
        let table = TableName::new(&self.name, name);
        if let Some((definition, lease)) = self.catalogs.0.catalog.open_table(&table) {
            return Ok(Some(self.catalogs.open(&table, &definition, lease).await?));
        }
        self.catalogs.open_files(name).await
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        if let Some(table) = self.registered(name) {
            return Ok(Some(table.table_type()));
        }
        let definition = self.catalogs.0.catalog.get(&TableName::new(&self.name, name));
        Ok(definition.map(|definition| match definition.as_ref() {
            Definition::View(_) => TableType::View,
            _ => TableType::Base,
        }))
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.table_exist(&name) {
            return exec_err!("table `{name}` exists already");
        }
        Ok(self.catalogs.0.registered.write().insert((self.name.clone(), name), table))
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.catalogs.0.registered.write().remove(&(self.name.clone(), name.to_owned())))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.registered(name).is_some() || self.catalogs.0.catalog.get(&TableName::new(&self.name, name)).is_some()
    }
}
